"""Incremental, robust estimates over a series: what was normal, how far noise strays, and what the last steps say.

Everything here is deterministic and folds one value at a time: a live run and its post-mortem agree bit for bit.

Rejected: a rolling baseline (it follows a slow decay and never sees it); mean and standard deviation as the baseline
(one spike in the warm-up hides everything after it); limits from formulas for independent noise (on autocorrelated
series they raise an alarm in most runs); blocks of the warm-up strung together as they are (what fits into 10 to 20
steps cannot hold an autocorrelation of 0.95).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Floats = npt.NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation -> standard deviation of a normal distribution."""

LEAST = 1e-9
"""Least spread, of the magnitude of the median: a warm-up of equal values must not make an infinite signal."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far noise alone strays from the warm-up, in spreads of the warm-up; see `bootstrap`."""

    rise: float
    fall: float
    drawdown: float


class Normal:
    """What was normal in the run's own warm-up, and how far noise of that kind strays from it.

    Learnt from the first `sizes[0]` finite values, then frozen; learnt again when `sizes[1]`, `sizes[2]` ... values
    have come, each time from all of them, unless the series looks ill by then (`add(..., learn=False)`).

    Args:
        sizes: numbers of values, rising.
        window: the median of as many values is held against the limits.
        confirm: a limit must be passed on so many steps in a row.
        false_alarms_per_1000_steps: of each limit, see `bootstrap`.
        of_medians: False: the mean of the window.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        window: int,
        confirm: int,
        false_alarms_per_1000_steps: float,
        of_medians: bool = True,
    ) -> None:
        self._sizes, self._of_medians = sizes, of_medians
        self._window, self._confirm, self._rate = window, confirm, false_alarms_per_1000_steps
        self._values: list[float] = []
        self.learning = True
        """It is not frozen for good yet."""
        self.ready = False
        """Enough values were seen to judge by."""
        self.center = math.nan
        """Median of the warm-up."""
        self.spread = math.inf
        """See `spread_of`."""
        self.autocorrelation = math.nan
        """Of neighbouring steps, corrected for the shortness of the warm-up."""
        self.limits = Limits(math.inf, math.inf, math.inf)

    @property
    def missing(self) -> int:
        """Values that are still to come before it can be judged by."""
        return max(self._sizes[0] - len(self._values), 0)

    def add(self, value: float, *, learn: bool = True) -> bool:
        """Take in the next finite value; it teaches nothing once the last size was reached or `learn` was False.

        Returns:
            Whether it has just been learnt anew what is normal.
        """
        if not self.learning:
            return False
        if self.ready and not learn:
            self.learning = False
            return False
        self._values.append(value)
        if len(self._values) not in self._sizes:
            return False
        self._freeze()
        self.learning = len(self._values) < self._sizes[-1]
        return True

    def _freeze(self) -> None:
        values = np.array(self._values)
        self.ready = True
        self.center = float(np.median(values))
        least = LEAST * abs(self.center) or LEAST
        self.spread = max(float(spread_of(values)), least)
        self.autocorrelation = autocorrelation(values)
        self.limits = bootstrap(values, self._window, self._confirm, self._rate, self._of_medians)


def spread_of(values: Floats) -> npt.NDArray[np.float64]:
    """Robust standard deviation along the first axis: 1.4826 * median absolute deviation.

    Where more than half of the values are equal, that is 0; then the plain standard deviation.
    """
    spread = MAD_TO_SIGMA * np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    return np.asarray(np.where(spread > 1e-12, spread, values.std(axis=0)))


def around_trend(values: Floats) -> Floats:
    """What is left of a series, (n,), around its straight line of least squares."""
    time = np.arange(len(values)) - (len(values) - 1) / 2
    rest = values - values.mean() - time * float(time @ values) / float(time @ time)
    return np.where(np.abs(rest) > 1e-12 * np.abs(values).max(), rest, 0.0)  # rounding errors are no series


def autocorrelation(values: Floats, trend: bool = False) -> float:
    """Correlation of neighbouring values, (n,), corrected for a short series and cut to 0 .. 0.95.

    The plain estimate r of n values is too small by about (1 + 4 r) / n, or (2 + 4 r) / n if a trend was taken out of
    them (`trend`), so that r is solved for.

    Reference: Kendall, Biometrika 41 (1954); Marriott and Pope, Biometrika 41 (1954).
    """
    count = len(values)
    if count < 6 or np.ptp(values) == 0.0:  # the mean of equal values is not always equal to them
        return 0.0
    rest = values - values.mean()
    plain = float(rest[1:] @ rest[:-1]) / float(rest @ rest)
    return min(max((count * plain + 1 + trend) / (count - 4), 0.0), 0.95)


def bootstrap(
    values: Floats,
    window: int,
    confirm: int,
    false_alarms_per_1000_steps: float,
    of_medians: bool = True,
    paths: int = 64,
    steps: int = 200,
) -> Limits:
    """Limits that noise like that of the warm-up passes no more often than the stated rate.

    An autoregressive (sieve) bootstrap of the whole procedure: the residuals of the warm-up around its median, less
    `autocorrelation` times their predecessor, are drawn again, coloured again, and made into `paths` series of a
    warm-up and `steps` steps; each is judged by its own warm-up as the run is. A limit is the quantile of the largest
    value that holds on `confirm` steps in a row at which exp(-rate * steps / 1000) of the paths stay below it. The
    draws are the same each time.

    Args:
        values: the warm-up, (n,), at least 3.
        window: values whose median is held against the limit.
        confirm: steps in a row.
        false_alarms_per_1000_steps: of each of the limits.
        of_medians: False: their mean.
        paths: series drawn.
        steps: length of each after its warm-up.

    Reference: Buehlmann, Bernoulli 3 (1997), sieve bootstrap.
    """
    phi, rest = autocorrelation(values), values - np.median(values)
    residuals = rest[1:] - phi * rest[:-1]
    residuals -= np.median(residuals)
    lead = min(int(3 / (1 - phi)), 60)
    rows = lead + len(values) + steps
    series = residuals[_draws(len(residuals), 60 + len(values) + steps, paths)[:rows]]
    for now in range(1, rows if phi else 0):
        series[now] += phi * series[now - 1]
    series = series[lead:]
    warm_up = series[: len(values)]
    center = np.median(warm_up, axis=0)
    spread = np.maximum(spread_of(warm_up), LEAST)
    judged = ((series - center) / spread)[len(values) - window + 1 :]
    levels = _sliding_median(judged, window) if of_medians else sliding_window_view(judged, window, 0).mean(axis=-1)
    drawdown = np.maximum.accumulate(levels, axis=0) - levels
    lasting = np.array([_lasting(series, confirm) for series in (levels, -levels, drawdown)])
    keep = math.exp(-false_alarms_per_1000_steps * steps / 1000)
    return Limits(*(max(float(limit), 1.0) for limit in np.quantile(lasting, keep, axis=1)))


@lru_cache(maxsize=8)
def _draws(below: int, rows: int, paths: int) -> npt.NDArray[np.int64]:
    """Whole numbers from 0, (rows, paths); those of fewer rows are the first ones."""
    # RandomState, whose stream of numbers is frozen for good: limits must not change with numpy
    draws = np.random.RandomState(0).randint(below, size=(rows, paths), dtype=np.int64)
    draws.flags.writeable = False
    return draws


def _sliding_median(series: Floats, window: int) -> Floats:
    """Upper median of every `window` rows on end, column by column: by whole rows, an order faster than by windows."""
    rows = [series[first : len(series) - window + 1 + first] for first in range(window)]
    for last in range(window - 1, window // 2 - 1, -1):  # the largest of the rest comes to the place `last`
        for place in range(last):
            low, high = rows[place], rows[place + 1]
            rows[place], rows[place + 1] = np.minimum(low, high), np.maximum(low, high)
    return rows[window // 2]


def _lasting(series: Floats, confirm: int) -> Floats:
    """Largest value that each column holds on `confirm` rows in a row."""
    least = series[: len(series) - confirm + 1]
    for first in range(1, confirm):
        least = np.minimum(least, series[first : len(series) - confirm + 1 + first])
    return np.asarray(least.max(axis=0))


class Window:
    """The last values of a series.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def add(self, value: float) -> None:
        """Take the newest value in, let the oldest go."""
        self._values.append(value)

    @property
    def mean(self) -> float:
        """Mean of the values kept; NaN when there is none."""
        return fmean(self._values) if self._values else math.nan


class Confirmed:
    """A condition that counts only after it has held for several steps, and until it has failed for several.

    Args:
        after: consecutive steps on which it must hold.
        until: consecutive steps on which it must fail to be given up.
    """

    def __init__(self, after: int, until: int) -> None:
        self._after, self._until = after, until
        self._held, self._failed = 0, 0
        self._first, self._last = 0, 0
        self.since: int | None = None
        """The first step on which the confirmed condition held; None while it is not confirmed."""
        self.past: tuple[int, int] | None = None
        """First and last step of the last time that it was confirmed and given up again."""
        self.active = False
        """It is confirmed, or about to be; while it is not, there is no need to say that it does not hold."""

    def update(self, holds: bool, step: int) -> bool:
        """Take one step in; True while the condition is confirmed."""
        if holds:
            self._first = step if self._held == 0 else self._first
            self._last = step
            self._held, self._failed = self._held + 1, 0
            if self._held >= self._after and self.since is None:
                self.since = self._first
        else:
            self._held, self._failed = 0, self._failed + 1
            if self._failed >= self._until and self.since is not None:
                self.past = (self.since, self._last)
                self.since = None
        self.active = holds or self.since is not None
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
        self.past: tuple[int, int] | None = None
        """Onset and last step of the last finding that has healed."""

    def add(self, z: float, step: int) -> None:
        """Take in one standardised value, > 0 where it is bad."""
        total = self.total + min(max(z, -self._clip), self._clip) - self.allowance
        self.total = min(max(total, 0.0), 2 * self.limit)
        if self.total == 0.0:
            if self.since is not None:
                self.past = (self.since, step)
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
