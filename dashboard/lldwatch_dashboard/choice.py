"""Which runs are compared, and how: it stands in the address, so that a link shows the same again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lldwatch.signals import SIGNALS
from lldwatch_dashboard.view import query, search_of

Align = Literal["step", "onset", "share"]

ALIGNED: dict[Align, str] = {
    "step": "step",
    "onset": "onset",
    "share": "share of the run",
}
"""What the runs are laid upon each other by, in words."""
SMOOTHING = (1, 5, 20)
"""Means of so many measured steps; 1: none."""
MOST = 12
PANELS = (
    "reward",
    "cross_update_change",
    "log_prob_correct",
    "entropy",
    "grad_norm",
    "response_length",
    "kl",
    "clip_fraction",
    "llds_coefficient",
)
"""Shown, as far as one of the runs has measured them, unless the address names others."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A comparison as somebody asks for it.

    Attributes:
        runs: their names, each once; the others are held against the first.
        align: what the runs are laid upon each other by.
        signals: keys in SIGNALS, in their order there; empty: those of PANELS.
        smooth: one of SMOOTHING.
    """

    runs: tuple[str, ...] = ()
    align: Align = "step"
    signals: tuple[str, ...] = ()
    smooth: int = 5

    @classmethod
    def of(cls, search: str | None) -> Choice:
        """What a query string says; what it says wrongly is left out."""
        given = query(search)
        align = given.get("align", [""])[-1]
        smooth = given.get("smooth", [""])[-1]
        return cls(
            runs=tuple(dict.fromkeys(given.get("run", []))),
            align=next((each for each in ALIGNED if each == align), "step"),
            signals=tuple(name for name in SIGNALS if name in given.get("signal", [])),
            smooth=int(smooth) if smooth in map(str, SMOOTHING) else 5,
        )

    @property
    def search(self) -> str:
        """The query string; what is shown anyway is left out."""
        parts = {"run": list(self.runs), "signal": list(self.signals)}
        if self.align != "step":
            parts["align"] = [self.align]
        if self.smooth != 5:
            parts["smooth"] = [str(self.smooth)]
        return search_of(parts)

    @property
    def href(self) -> str:
        """The address of the page that shows it."""
        return f"/compare{self.search}"

    def without(self, run: str) -> Choice:
        """One run less."""
        return replace(self, runs=tuple(name for name in self.runs if name != run))

    def first(self, run: str) -> Choice:
        """The others are held against this one."""
        return replace(self, runs=(run, *self.without(run).runs))
