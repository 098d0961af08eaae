"""When LLDS is switched on, how strong it is, and when it is let go again: off, on, or by the detector's prediction.

Pure and deterministic: it folds verdicts, so that all ranks, and a training that is resumed, come to the same decision.
What was decided is recorded as events and in the column `llds_coefficient`; nothing here touches the training.

Rejected: a strength that follows the forecast (it would feed back on what it changes); switching off at the first
healthy step (the evidence goes because the correction works).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol

from lldwatch.diagnosis import Family, Stage, Verdict
from lldwatch.errors import InputError
from lldwatch.forecast import ALARM

__all__ = ["Correct"]

Mode = Literal["off", "on", "auto"]
MODES = ("off", "on", "auto")

INDICATED = frozenset({Family.LLD_SPIRAL, Family.OFF_POLICY_OVERUSE})
"""Where correct responses are displaced. Never for sharpening (it holds what is likely already), mismatch, broken
arithmetic, starvation and the others: arXiv:2512.04220 has no claim there, and for the first it does harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correct:
    """How LLDS is to be used.

    Attributes:
        mode: "off"; "on" from the first step; "auto": from the detector's warning until its evidence is gone.
        strength: the coefficient when it is fully on. The paper has 0.2; in the miniature, where it comes late, 1 holds
            and 4 rescues (benchmarks/llds.py).
        ramp: steps from 0 to full strength, and back.
        release: steps in a row without evidence after which it is let go.
        calm: probability of a collapse below which a step counts as such.
        engagements: times that it is switched on at most; a run that needs it more often needs other settings.
        dry_run: decide and record what would be done, and do nothing.

    Raises:
        InputError: a value is out of its range.
    """

    mode: Mode = "off"
    strength: float = 1.0
    ramp: int = 3
    release: int = 50
    calm: float = 0.25
    engagements: int = 3
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"llds={self.mode!r}: expected one of {', '.join(MODES)}")
        if not (_is_number(self.strength) and 0 <= self.strength < math.inf):
            raise InputError(f"strength={self.strength!r}: expected a coefficient of at least 0")
        for name in ("ramp", "release", "engagements"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name}={value!r}: expected a whole number from 1")
        if not (_is_number(self.calm) and 0 < self.calm <= 1):
            raise InputError(f"calm={self.calm!r}: expected a probability above 0")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class Decision(NamedTuple):
    """For the next step.

    Attributes:
        coefficient: of LLDS, to be applied; always 0 in a dry run.
        fewer_updates: the loop is asked to make fewer updates on each rollout batch.
        said: what has changed, in words, for an event; None: nothing has.
    """

    coefficient: float = 0.0
    fewer_updates: bool = False
    said: str | None = None


class Intervention:
    """Folds verdicts into decisions.

    Args:
        settings: how LLDS is to be used.

    Attributes:
        decision: as of the last step: it holds for the next one.
    """

    def __init__(self, settings: Correct) -> None:
        self.settings = settings
        self._engaged = self._begun = False
        self._ramped = self._calm = self._count = 0
        first = settings.strength if settings.mode == "on" and not settings.dry_run else 0.0
        self.decision = Decision(first)

    def fresh(self) -> Intervention:
        """With the same settings, before the first step."""
        return Intervention(self.settings)

    def update(self, verdict: Verdict) -> Decision:
        """Take one step in.

        Args:
            verdict: as of the step that has just ended.

        Returns:
            What holds for the next step.
        """
        if self.settings.mode != "auto":
            first = self.settings.mode == "on" and not self._begun
            said = f"on from the first step: coefficient {self.settings.strength:.3g}" if first else None
            self.decision, self._begun = self.decision._replace(said=self._meant(said)), True
            return self.decision
        why = self._switch(verdict)
        before, ramp = self._ramped, self.settings.ramp
        self._ramped = min(before + 1, ramp) if self._engaged else max(before - 1, 0)
        now, then = (self.settings.strength * (part / ramp) for part in (self._ramped, before))
        change = f"coefficient {then:.3g} -> {now:.3g}" if now != then else None
        said = self._meant("; ".join(filter(None, (why, change))))
        applied = not self.settings.dry_run
        self.decision = Decision(now if applied else 0.0, self._engaged and applied, said)
        return self.decision

    def _meant(self, said: str | None) -> str | None:
        return f"would have: {said} (dry run)" if said and self.settings.dry_run else said or None

    def _switch(self, verdict: Verdict) -> str | None:
        """On or off; the reason in words where it changes."""
        wrong = verdict.stage >= Stage.DECAY or (verdict.collapse_probability or 0.0) >= ALARM
        indicated = verdict.family in INDICATED
        kind = verdict.family.label if verdict.family else "no kind that is known"
        if not self._engaged:
            if not (wrong and indicated):
                return None
            self._count += 1
            if self._count > self.settings.engagements:
                spent = self._count == self.settings.engagements + 1
                return f"not engaged: {self.settings.engagements} times was the most" if spent else None
            self._engaged, self._calm = True, 0
            times = f"{self._count} of at most {self.settings.engagements}"
            return f"engaged ({times}) up to {self.settings.strength:g}: {verdict.stage.label}, {kind}"
        if wrong and not indicated:
            self._engaged = False
            return f"released: it is not for {kind}"
        quiet = verdict.stage <= Stage.STAGNATION and (verdict.collapse_probability or 0.0) < self.settings.calm
        self._calm = self._calm + 1 if quiet else 0
        if self._calm < self.settings.release:
            return None
        self._engaged = False
        return f"released after {self._calm} steps without evidence"


class Term(Protocol):
    """What `lldwatch.llds.llds_loss` returns, as far as a monitor is concerned: tensors with one element."""

    @property
    def loss(self) -> Any:
        """The term before its coefficient."""

    @property
    def moved_tokens(self) -> Any:
        """Tokens that are not where they were; 0: the term cannot act."""


_INERT_STEPS = 3
_INERT = (
    "LLDS has no effect in this configuration: the old log-probs are the current ones. Make more than one update on "
    "each rollout batch, or hold on to older log-probs: lldwatch.references.Replay or LaggedPolicy"
)


class Effect:
    """Whether LLDS could act at all, step by step."""

    def __init__(self) -> None:
        self._moved, self._inert = list[Any](), 0

    def saw(self, term: Term) -> None:
        """Of one update; its tensors are looked at when the step ends."""
        self._moved.append(term.moved_tokens)

    def end_step(self, *, switched_on: bool) -> str | None:
        """What to say, once it could not act for some steps on end.

        Args:
            switched_on: LLDS was meant to act in the step.
        """
        moved, self._moved = [bool(tokens) for tokens in self._moved], []
        self._inert = 0 if any(moved) else self._inert + bool(moved and switched_on)
        return _INERT if self._inert == _INERT_STEPS else None
