"""How a run is looked at: it stands in the address, so that a link shows the same again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lldwatch_dashboard.ruler import ALONGS, Along
from lldwatch_dashboard.series import WINDOW, Span
from lldwatch_dashboard.view import query, search_of

SMOOTHEST = 100


@dataclass(frozen=True, slots=True)
class RunView:
    """A view of a run's panels.

    Attributes:
        along: what is measured along the x axis.
        smooth: the thick line is the mean of so many measured steps; 1: there is none.
        clip: the y axes leave out what lies outside of the 1st to the 99th of a hundred values.
        span: first and last step that are shown; `all`: the whole run; None: as the page thinks best.
    """

    along: Along = "step"
    smooth: int = WINDOW
    clip: bool = False
    span: Span | Literal["all"] | None = None

    @classmethod
    def of(cls, search: str | None) -> RunView:
        """What a query string says; what it says wrongly is left out."""
        given = {key: values[-1] for key, values in query(search).items()}
        along, smooth = given.get("x", ""), given.get("mean", "")
        whole = smooth.isascii() and smooth.isdigit() and len(smooth) < 5
        return cls(
            along=along if along in ALONGS else "step",
            smooth=min(max(int(smooth), 1), SMOOTHEST) if whole else WINDOW,
            clip=given.get("y") == "usual",
            span="all" if given.get("steps") == "all" else _span(given.get("steps", "")),
        )

    @property
    def search(self) -> str:
        """The query string; what is shown anyway is left out."""
        parts: dict[str, str] = {}
        if self.along != "step":
            parts["x"] = self.along
        if self.smooth != WINDOW:
            parts["mean"] = str(self.smooth)
        if self.clip:
            parts["y"] = "usual"
        if self.span is not None:
            parts["steps"] = "all" if self.span == "all" else "~".join(f"{end:.10g}" for end in self.span)
        return search_of({key: [text] for key, text in parts.items()})

    @property
    def between(self) -> Span | None:
        """The first and the last step; None: all of them."""
        return None if self.span == "all" else self.span


def _span(text: str) -> Span | None:
    """`10~20.5`: two steps, the first one less."""
    try:
        low, high = (float(end) for end in text.split("~"))
    except ValueError:
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None
