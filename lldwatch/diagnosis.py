"""What the detector says: the words and records that reports, dashboard and command line show.

A diagnosis is recomputed from the observations whenever it is wanted; it is never written into a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Literal

Status = Literal["ok", "warning", "critical", "skipped"]


class Stage(IntEnum):
    """How far the run is on the way of the death spiral (the phases of arXiv:2512.04220, Sec. 4)."""

    HEALTHY = 0
    """Nothing points to a collapse."""
    STAGNATION = 1
    """Correct responses of earlier batches lose likelihood; nothing else has moved yet."""
    DECAY = 2
    """The loss of likelihood is borne out by a second sign: a collapse is to be expected."""
    COLLAPSE = 3
    """The reward is lost and stays lost, or the arithmetic broke."""

    @property
    def label(self) -> str:
        """Lower case, as in JSON and on the command line."""
        return self.name.lower()


class Family(StrEnum):
    """Which kind of collapse it is: the cure differs."""

    LLD_SPIRAL = "lld_spiral"
    """Correct responses are displaced; arXiv:2512.04220."""
    NUMERICAL = "numerical"
    """NaN or infinite loss, gradient norm or log-probs."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured finding: `value` of a signal against its `baseline` and the `limit` it passed, `since` a step."""

    signal: str
    value: float
    baseline: float | None
    limit: float | None
    since: int
    reference: str


@dataclass(frozen=True, slots=True)
class Check:
    """One question that was asked of the run, and what came of it; a skipped one names the column it lacks."""

    name: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the run looks like as of one step.

    Attributes:
        step: the step it speaks of; None before the first.
        stage: how far the run is.
        family: which kind of collapse; None when healthy or not known.
        onsets: stage -> the step at which it is estimated to have begun.
        known: stage -> the step at which a live user could know it.
        first_warning: first step at which a live user was warned that a collapse is coming; stays after a recovery.
        collapse_probability: None: this version makes no calibrated forecast.
        evidence: what the stage rests on.
        checks: everything that was asked, the passed and the skipped too.
        advice: what to do, what helped most first.
    """

    step: int | None = None
    stage: Stage = Stage.HEALTHY
    family: Family | None = None
    onsets: Mapping[Stage, int] = field(default_factory=dict)
    known: Mapping[Stage, int] = field(default_factory=dict)
    first_warning: int | None = None
    collapse_probability: float | None = None
    evidence: tuple[Evidence, ...] = ()
    checks: tuple[Check, ...] = ()
    advice: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis in JSON's types. What is not known is None; a value that is not finite becomes its name."""
        stages = [stage for stage in Stage if stage is not Stage.HEALTHY]
        return {
            "step": self.step,
            "stage": self.stage.label,
            "family": self.family.value if self.family else None,
            "onsets": {stage.label: self.onsets.get(stage) for stage in stages},
            "known": {stage.label: self.known.get(stage) for stage in stages},
            "first_warning": self.first_warning,
            "collapse_probability": self.collapse_probability,
            "evidence": [
                {name: _json_number(getattr(item, name)) for name in Evidence.__slots__} for item in self.evidence
            ],
            "checks": [{name: getattr(check, name) for name in Check.__slots__} for check in self.checks],
            "advice": list(self.advice),
        }


def _json_number(value: Any) -> Any:
    """JSON knows no NaN; a reader must still see it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
