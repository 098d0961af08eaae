"""Incremental, robust estimates over a series: what was normal, and what the last few steps say.

Everything here is deterministic and folds one value at a time: a live run and its post-mortem agree bit for bit.

Rejected: a rolling baseline (it follows a slow decay and never sees it); mean and standard deviation as the baseline
(one spike in the warm-up hides everything after it).
"""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from statistics import fmean, median

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation -> standard deviation of a normal distribution."""


class Baseline:
    """What was normal during the warm-up: median and spread of the first values, then frozen.

    The spread is 1.4826 * MAD, widened by sqrt((1 + phi) / (1 - phi)) for a lag-1 autocorrelation phi > 0, because
    neighbouring steps that move together say less than their number.

    Args:
        size: number of finite values to learn from.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: list[float] = []
        self.median = math.nan
        self.spread = math.nan
        self.autocorrelation = math.nan

    @property
    def ready(self) -> bool:
        """Enough values were seen; the baseline does not change any more."""
        return len(self._values) == self._size

    @property
    def missing(self) -> int:
        """Values that are still to come."""
        return self._size - len(self._values)

    @property
    def so_far(self) -> float:
        """Median of the values seen so far; NaN when there is none."""
        if self.ready:
            return self.median
        return median(self._values) if self._values else math.nan

    def add(self, value: float) -> None:
        """Learn from a value, as long as the baseline is not frozen. NaN and infinities teach nothing."""
        if self.ready or not math.isfinite(value):
            return
        self._values.append(value)
        if self.ready:
            self.median = median(self._values)
            self.autocorrelation = _autocorrelation(self._values)
            phi = min(max(self.autocorrelation, 0.0), 0.9)
            mad = median(abs(value - self.median) for value in self._values)
            self.spread = MAD_TO_SIGMA * mad * math.sqrt((1 + phi) / (1 - phi))


class Window:
    """The last values of a series.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._size = size

    def add(self, value: float) -> None:
        """Take the newest value in, let the oldest go."""
        self._values.append(value)

    @property
    def full(self) -> bool:
        """As many values are there as are kept."""
        return len(self._values) == self._size

    @property
    def mean(self) -> float:
        """Mean of the values kept; NaN when there is none."""
        return fmean(self._values) if self._values else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean from the scatter of the values; NaN below two values."""
        count = len(self._values)
        if count < 2:
            return math.nan
        mean = fmean(self._values)
        return math.sqrt(sum((value - mean) ** 2 for value in self._values) / (count - 1) / count)


class Confirmed:
    """A condition that counts only after it has held for several steps, and until it has failed for several.

    Args:
        after: consecutive steps on which it must hold.
        until: consecutive steps on which it must fail to be given up.
    """

    def __init__(self, after: int, until: int) -> None:
        self._after, self._until = after, until
        self._held, self._failed = 0, 0
        self._first = 0
        self.since: int | None = None
        """The first step on which the confirmed condition held; None while it is not confirmed."""

    def update(self, holds: bool, step: int) -> bool:
        """Take one step in; True while the condition is confirmed."""
        if holds:
            self._first = step if self._held == 0 else self._first
            self._held, self._failed = self._held + 1, 0
            if self._held >= self._after and self.since is None:
                self.since = self._first
        else:
            self._held, self._failed = 0, self._failed + 1
            if self._failed >= self._until:
                self.since = None
        return self.since is not None


def _autocorrelation(values: list[float]) -> float:
    mean = fmean(values)
    total = sum((value - mean) ** 2 for value in values)
    if total == 0.0 or len(values) < 3:
        return 0.0
    return sum((a - mean) * (b - mean) for a, b in pairwise(values)) / total
