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


class Cusum:
    """Adds up how far a standardised series stays above what noise would do, and speaks at a calibrated limit.

    S = max(0, S + z - allowance), z clipped to +-`clip` so that no single step can decide. It speaks from S >= limit
    until S is back at 0; S is kept below twice the limit, so that a recovery is seen.

    Args:
        limit: see `cusum_limit`.
        allowance: in standard deviations; half the shift that is looked for.
        clip: in standard deviations.

    Reference: Page, Biometrika 41 (1954); the onset is the step after the last S = 0.
    """

    def __init__(self, limit: float, allowance: float = 0.5, clip: float = 3.0) -> None:
        self.limit = limit
        self.allowance = allowance
        self._clip = clip
        self._start: int | None = None
        self.total = 0.0
        """S, in standard deviations."""
        self.since: int | None = None
        """Estimated onset; None while it does not speak."""

    def add(self, z: float, step: int) -> None:
        """Take in one standardised value, > 0 where it is bad."""
        total = self.total + min(max(z, -self._clip), self._clip) - self.allowance
        self.total = min(max(total, 0.0), 2 * self.limit)
        if self.total == 0.0:
            self._start = self.since = None
            return
        self._start = step if self._start is None else self._start
        if self.total >= self.limit:
            self.since = self._start


def cusum_limit(false_alarms_per_1000_steps: float, allowance: float = 0.5) -> float:
    """The limit at which independent normal noise raises so many alarms in 1,000 steps.

    Solves (exp(b) - b - 1) / (2 allowance^2) = 1000 / rate for b = 2 allowance (limit + 1.166).

    Reference: Siegmund, Sequential Analysis (1985), Sec. II.4: the mean run length with corrected boundaries.
    """
    wanted = 1000 / false_alarms_per_1000_steps * 2 * allowance**2
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.expm1(middle) - middle < wanted else (low, middle)
    return max(low / (2 * allowance) - 1.166, 0.0)


def _autocorrelation(values: list[float]) -> float:
    mean = fmean(values)
    total = sum((value - mean) ** 2 for value in values)
    if total == 0.0 or len(values) < 3:
        return 0.0
    return sum((a - mean) * (b - mean) for a, b in pairwise(values)) / total
