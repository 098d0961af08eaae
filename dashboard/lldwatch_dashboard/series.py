"""The numbers behind the figures: what was measured, thinned for a screen, and where the stages lie.

What was not measured has no point; what was measured as NaN or infinite has one, and every step of the way keeps it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from lldwatch.diagnosis import Stage, Verdict
from lldwatch.schema import Observation
from lldwatch.signals import Signal

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

Span = tuple[float, float]
"""The first and the last step of a stretch."""

MAX_POINTS = 2000
WINDOW = 5


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One signal at the steps where it was measured; arrays of shape (points,)."""

    steps: npt.NDArray[np.int64]
    values: Array

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, indices: Indices) -> Series:
        """Only these points."""
        return Series(self.steps[indices], self.values[indices])


@dataclass(frozen=True, slots=True)
class Mark:
    """A value that has no place on the axis, shown at the edge of the panel; `text` says what it was."""

    step: int
    height: float
    text: str
    top: bool


@dataclass(frozen=True, slots=True)
class Band:
    """Steps in a row with the same stage; `begin` and `end` lie half a step outside of the first and the last."""

    stage: Stage
    begin: float
    end: float


def measured(observations: Sequence[Observation], signal: Signal) -> Series:
    """The steps at which a signal was measured."""
    seen = observations
    for name in signal.requires:
        seen = _with(seen, name)
    return _series(seen, signal.compute)


def column(observations: Sequence[Observation], name: str) -> Series:
    """The same for a column of `Observation` that is no signal of its own."""
    return _series(_with(observations, name), attrgetter(name))


def _with(observations: Sequence[Observation], name: str) -> list[Observation]:
    values = map(attrgetter(name), observations)  # a run may have 100,000 steps: no Python call for each of them
    return [seen for seen, number in zip(observations, values, strict=True) if number is not None]


def _series(seen: Sequence[Observation], compute: Callable[[Observation], float]) -> Series:
    steps, values = map(attrgetter("step"), seen), map(compute, seen)
    return Series(np.fromiter(steps, np.int64, len(seen)), np.fromiter(values, np.float64, len(seen)))


def running_mean(values: Array, window: int = WINDOW) -> Array:
    """Mean of the last `window` values; those that are not finite are left out, NaN where none is left."""
    finite = np.isfinite(values)
    front = np.zeros(window - 1)
    sums = _windows(np.concatenate([front, np.where(finite, values, 0.0)]), window)
    counts = _windows(np.concatenate([front, finite.astype(np.float64)]), window)
    means: Array = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _windows(padded: Array, window: int) -> Array:
    if len(padded) < window:
        return np.zeros(0)
    sums: Array = np.lib.stride_tricks.sliding_window_view(padded, window).sum(axis=1)
    return sums


def thin(values: Array, limit: int = MAX_POINTS) -> Indices:
    """Indices of at most `limit` points that keep the picture.

    The points are cut into equal stretches; of each the smallest and the largest value stay, and the first that is not
    finite: neither a spike nor a NaN of a single step is lost. The first and the last point stay.
    """
    count = len(values)
    if count <= limit:
        return np.arange(count)
    width = math.ceil(count / ((limit - 2) // 3))
    rows = math.ceil(count / width)
    stretches = np.full((rows, width), np.nan)
    stretches.flat[:count] = values
    finite = np.isfinite(stretches)
    lowest = np.where(finite, stretches, np.inf).argmin(axis=1)
    highest = np.where(finite, stretches, -np.inf).argmax(axis=1)
    broken = (~finite).argmax(axis=1)
    corners = np.arange(rows)[:, None] * width + np.stack([lowest, highest, broken], axis=1)
    keep = np.unique(np.concatenate([corners.ravel(), [0, count - 1]]))
    return keep[keep < count]


def within(series: Series, span: Span | None) -> Series:
    """The points between two steps, both included; None: all of them."""
    if span is None:
        return series
    low, high = np.searchsorted(series.steps, span[0], "left"), np.searchsorted(series.steps, span[1], "right")
    return Series(series.steps[low:high], series.values[low:high])


def thin_around(series: Series, span: Span | None, limit: int = MAX_POINTS) -> Indices:
    """As `thin`, with most of the points between two steps: what a reader who has zoomed in looks at.

    A quarter of them is left for what lies outside, so that a reader who moves on does not fall into nothing.
    """
    if span is None:
        return thin(series.values, limit)
    low, high = np.searchsorted(series.steps, span[0], "left"), np.searchsorted(series.steps, span[1], "right")
    parts = [(np.intp(0), low, limit // 8), (low, high, limit - 2 * (limit // 8)), (high, len(series), limit // 8)]
    kept: Indices = np.concatenate([thin(series.values[first:last], share) + first for first, last, share in parts])
    return kept


def usual(series: Series) -> Series:
    """The points whose values lie between the 1st and the 99th of a hundred."""
    finite = series.values[np.isfinite(series.values)]
    if not len(finite):
        return series
    low, high = np.percentile(finite, [1, 99])
    return series.at(np.flatnonzero((series.values >= low) & (series.values <= high)))


def edge_marks(series: Series, *, log: bool, seen: Series | None = None) -> list[Mark]:
    """What cannot be drawn on the axis: NaN and infinite values at the top; on a log axis 0 and less at the bottom.

    Args:
        series: whose marks are wanted.
        log: the axis is logarithmic.
        seen: the points that the axis has room for, if not all.
    """
    shown = series if seen is None else seen
    finite = shown.values[np.isfinite(shown.values)]
    drawn = finite[finite > 0] if log else finite
    low, high = (float(drawn.min()), float(drawn.max())) if len(drawn) else (1.0, 1.0)
    low, high = (low / 1.5, high * 1.5) if log else (low, high)
    marks = []
    for step, number in zip(series.steps.tolist(), series.values.tolist(), strict=True):
        if not math.isfinite(number):
            bottom = number == -math.inf
            text = "NaN" if math.isnan(number) else f"{number:+}"
            marks.append(Mark(step, low if bottom else high, text, not bottom))
        elif log and number <= 0:
            marks.append(Mark(step, low, f"{number:g}", False))
    return marks


def bands(verdicts: Sequence[Verdict]) -> list[Band]:
    """Where the stage was not HEALTHY, from the verdict of each step."""
    found = []
    at = [(verdict.step, verdict.stage) for verdict in verdicts]
    groups = [(stage, [step for step, _ in group]) for stage, group in itertools.groupby(at, key=lambda pair: pair[1])]
    for (stage, steps), after in itertools.zip_longest(groups, groups[1:]):
        if stage is not Stage.HEALTHY:
            found.append(Band(stage, steps[0] - 0.5, (after[1][0] if after else steps[-1] + 1) - 0.5))
    return found


def noise_floor(observations: Sequence[Observation]) -> Series:
    """The largest A/A noise so far: what the detector takes for no change."""
    floor = column(observations, "noise_floor")
    return Series(floor.steps, np.maximum.accumulate(np.nan_to_num(floor.values, nan=0.0, posinf=0.0)))


def standard_error(observations: Sequence[Observation]) -> tuple[Series, Series]:
    """Lower and upper edge of +-1 standard error around the likelihood change of earlier correct responses."""
    seen = _with(_with(observations, "cross_update_change"), "cross_update_error")
    changes, errors = column(seen, "cross_update_change"), column(seen, "cross_update_error").values
    finite = np.isfinite(changes.values) & np.isfinite(errors)
    steps, middle, spread = changes.steps[finite], changes.values[finite], errors[finite]
    return Series(steps, middle - spread), Series(steps, middle + spread)
