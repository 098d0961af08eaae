"""The numbers behind the figures, beside those of `lldwatch.series`: smoothed, around a zoom, and at the axis' edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from lldwatch.schema import Observation
from lldwatch.series import Indices, Series, having, series_of, thin

Array = npt.NDArray[np.float64]

Span = tuple[float, float]
"""The first and the last step of a stretch."""

MAX_POINTS = 2000
WINDOW = 5


@dataclass(frozen=True, slots=True)
class Mark:
    """A value that has no place on the axis, shown at the edge of the panel; `text` says what it was."""

    step: int
    height: float
    text: str
    top: bool


def column(observations: Sequence[Observation], name: str) -> Series:
    """The steps at which a column of `Observation` was measured that is no signal of its own."""
    return series_of(having(observations, name), attrgetter(name))


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


def noise_floor(observations: Sequence[Observation]) -> Series:
    """The largest A/A noise so far: what the detector takes for no change."""
    floor = column(observations, "noise_floor")
    return Series(floor.steps, np.maximum.accumulate(np.nan_to_num(floor.values, nan=0.0, posinf=0.0)))


def standard_error(observations: Sequence[Observation]) -> tuple[Series, Series]:
    """Lower and upper edge of +-1 standard error around the likelihood change of earlier correct responses."""
    seen = having(observations, "cross_update_change", "cross_update_error")
    changes, errors = column(seen, "cross_update_change"), column(seen, "cross_update_error").values
    finite = np.isfinite(changes.values) & np.isfinite(errors)
    steps, middle, spread = changes.steps[finite], changes.values[finite], errors[finite]
    return Series(steps, middle - spread), Series(steps, middle + spread)
