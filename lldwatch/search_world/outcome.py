"""What became of a run, judged from its rewards alone, and afterwards.

Why it exists: a detector can only be scored against a label that knows nothing of the detector. This label looks at the
whole curve, so it may not be used while a run is going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 10
FINAL = 15


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        start: mean reward of the first five steps.
        peak: largest mean reward of WINDOW steps on end.
        final: mean reward of the last FINAL steps.
        collapse_step: step (from 1) of a sustained collapse; None = there was none.
    """

    start: float
    peak: float
    final: float
    collapse_step: int | None


def judge(rewards: Sequence[float]) -> Outcome:
    """Judges a finished run.

    A collapse is sustained if the mean reward of the last WINDOW steps stays below half of its running peak until the
    end of the run; it is dated to the first step from which that holds.

    Args:
        rewards: mean reward of each step, at least WINDOW of them.
    """
    if len(rewards) < WINDOW:
        raise ValueError(f"got {len(rewards)} steps, expected at least {WINDOW}: train longer to judge a run")
    means = np.convolve(rewards, np.full(WINDOW, 1 / WINDOW), mode="valid")
    # Rewards are fractions of a batch, exact halves do occur: rounding must not decide about them.
    low = means < 0.5 * np.maximum.accumulate(means) - 1e-9
    sustained = int(np.argmin(low[::-1])) if not low.all() else len(low)
    return Outcome(
        start=float(np.mean(rewards[:5])),
        peak=float(means.max()),
        final=float(np.mean(rewards[-FINAL:])),
        collapse_step=len(rewards) - sustained + 1 if sustained else None,
    )
