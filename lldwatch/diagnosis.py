"""What the detector says: the words and records that reports, dashboard and command line show.

A diagnosis is recomputed from the observations whenever it is wanted; it is never written into a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Literal, NamedTuple

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
        """Lower case, as in JSON, on the command line and in style sheets: a contract, not a word to polish."""
        return self.name.lower()

    @property
    def meaning(self) -> str:
        """A sentence for somebody who hears of it for the first time."""
        return _MEANINGS[self]

    @property
    def sign(self) -> str:
        """One character, beside the colour."""
        return "✓◔▲✖"[self]


_MEANINGS = {
    Stage.HEALTHY: "Nothing points to a collapse.",
    Stage.STAGNATION: "Correct answers of earlier batches become less likely; nothing else has moved yet.",
    Stage.DECAY: "The loss of likelihood is borne out by a second sign: a collapse is to be expected.",
    Stage.COLLAPSE: "The reward is lost and stays lost, or the arithmetic broke.",
}


class Family(StrEnum):
    """Which kind of collapse it is: the cure differs."""

    LLD_SPIRAL = "lld_spiral"
    """Correct responses are displaced; arXiv:2512.04220."""
    OFF_POLICY_OVERUSE = "off_policy_overuse"
    """The same because each rollout batch is used too often: many tokens are outside the clip range from the start."""
    SHARPENING = "sharpening"
    """The entropy is gone: the policy is certain of one answer, and its groups are all right or all wrong."""
    FORMAT_LOSS = "format_loss"
    """Responses lose their format, or do not stop any more."""
    MISMATCH = "mismatch"
    """Rollout engine and trainer disagree about the same weights."""
    NUMERICAL = "numerical"
    """NaN or infinite loss, gradient norm or log-probs."""
    GRADIENT_STARVATION = "gradient_starvation"
    """Nearly all groups are all right or all wrong, so that nothing is learnt."""
    OPTIMISER_BLOW_UP = "optimiser_blow_up"
    """The gradient norm exploded before anything else: updates are too large."""

    @property
    def label(self) -> str:
        """In words."""
        return _TITLES[self]


_TITLES = {
    Family.LLD_SPIRAL: "LLD death spiral",
    Family.OFF_POLICY_OVERUSE: "off-policy overuse",
    Family.SHARPENING: "sharpening",
    Family.FORMAT_LOSS: "loss of format",
    Family.MISMATCH: "rollout-trainer mismatch",
    Family.NUMERICAL: "numerical",
    Family.GRADIENT_STARVATION: "gradient starvation",
    Family.OPTIMISER_BLOW_UP: "optimiser blow-up",
}

Confidence = Literal["low", "medium", "high"]
"""How much a verdict can rest on: high with re-scored responses, medium with scalars only, low with few of them."""


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
class Episode:
    """Something that was wrong and has healed: a dip, not a collapse.

    `stage` is the worst it came to, `until` the step at which it was known to be over.
    """

    stage: Stage
    family: Family | None
    onset: int
    known: int
    until: int


class Verdict(NamedTuple):
    """The numbers of a diagnosis, without its words: one a step is kept of a run."""

    step: int
    stage: Stage
    family: Family | None
    collapse_probability: float | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the run looks like as of one step.

    Attributes:
        step: the step it speaks of; None before the first.
        stage: how far the run is.
        family: which kind of collapse; None when healthy or not known.
        confidence: how much the verdict can rest on.
        onsets: stage -> the step at which it is estimated to have begun.
        known: stage -> the step at which a live user could know it.
        first_warning: first step at which a live user was warned that a collapse is coming; stays after a recovery.
        collapse_probability: of a sustained collapse within `horizon` steps; None before anything can be judged.
        horizon: in steps: a quarter of those so far, at least 20.
        steps_to_collapse: (10 %, median, 90 %) of the steps to it; None where it is less likely than not.
        episodes: what was wrong before and has healed.
        evidence: what the stage rests on.
        checks: everything that was asked, the passed and the skipped too.
        advice: what to do, what helped most first.
    """

    step: int | None = None
    stage: Stage = Stage.HEALTHY
    family: Family | None = None
    confidence: Confidence = "low"
    onsets: Mapping[Stage, int] = field(default_factory=dict)
    known: Mapping[Stage, int] = field(default_factory=dict)
    first_warning: int | None = None
    collapse_probability: float | None = None
    horizon: int | None = None
    steps_to_collapse: tuple[int, int, int] | None = None
    episodes: tuple[Episode, ...] = ()
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
            "confidence": self.confidence,
            "onsets": {stage.label: self.onsets.get(stage) for stage in stages},
            "known": {stage.label: self.known.get(stage) for stage in stages},
            "first_warning": self.first_warning,
            "collapse_probability": self.collapse_probability,
            "horizon": self.horizon,
            "steps_to_collapse": list(self.steps_to_collapse) if self.steps_to_collapse else None,
            "episodes": [
                {
                    "stage": episode.stage.label,
                    "family": episode.family.value if episode.family else None,
                    "onset": episode.onset,
                    "known": episode.known,
                    "until": episode.until,
                }
                for episode in self.episodes
            ],
            "evidence": [
                {name: _json_number(getattr(item, name)) for name in Evidence.__slots__} for item in self.evidence
            ],
            "checks": [{name: getattr(check, name) for name in Check.__slots__} for check in self.checks],
            "advice": list(self.advice),
        }


def _json_number(value: Any) -> Any:
    """JSON knows no NaN; a reader must still see it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
