"""What lldwatch says of a step, as ordinary metrics: for the logger that a training has already.

A few numbers, not all: whoever looks at W&B or TensorBoard shall see that something is wrong and where to read on.
"""

from __future__ import annotations

from lldwatch.diagnosis import Diagnosis
from lldwatch.schema import Observation

PREFIX = "lldwatch/"

FORWARDED = (
    "cross_update_change",
    "post_update_zero_advantage",
    "log_prob_correct",
    "gap",
    "low_confidence_share",
    "zero_advantage_share",
    "llds_coefficient",
    "llds_loss",
    "probe_seconds",
)
"""Fields of `Observation` that are passed on where they are known."""


def metrics_of(observation: Observation | None, diagnosis: Diagnosis) -> dict[str, float]:
    """Name -> number, as any logger takes it; nothing before the first step has ended.

    ``lldwatch/stage`` is 0 healthy, 1 stagnation, 2 decay, 3 collapse; ``lldwatch/collapse_probability`` is what
    `Diagnosis` says; the others are fields of `Observation`.
    """
    if observation is None:
        return {}
    known = {"stage": float(diagnosis.stage), "collapse_probability": diagnosis.collapse_probability}
    known |= {name: getattr(observation, name) for name in FORWARDED}
    return {f"{PREFIX}{name}": float(value) for name, value in known.items() if value is not None}
