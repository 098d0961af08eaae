"""The numbers behind the figures, beside those of `lldwatch.series`: smoothed, around a zoom, and at the axis' edge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lldwatch.series import Indices, Series, thin

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


def running_mean(values: Array, window: int = WINDOW, at: Indices | None = None) -> Array:
    """Mean of the last `window` values; those that are not finite are left out, NaN where none is left.

    Args:
        values: (points,).
        window: so many, at least 1.
        at: only there; None: everywhere.
    """
    ends = np.arange(len(values)) if at is None else at
    places = np.arange(min(window, len(values)))[:, None]
    places = ends - places  # (window, ends): numpy adds long rows sooner than short ones
    taken = values[np.maximum(places, 0)]
    there = (places >= 0) & np.isfinite(taken)
    sums, counts = np.where(there, taken, 0.0).sum(axis=0), there.sum(axis=0)
    means: Array = np.divide(sums, counts, out=np.full(len(ends), np.nan), where=counts > 0)
    return means


def within(series: Series, span: Span | None) -> Series:
    """The points between two steps, both included; None: all of them."""
    if span is None:
        return series
    low, high = np.searchsorted(series.steps, span[0], "left"), np.searchsorted(series.steps, span[1], "right")
    return Series(series.steps[low:high], series.values[low:high])


def thin_around(series: Series, span: Span | None, limit: int = MAX_POINTS) -> Indices:
    """As `thin`, with most of the points between two steps: what a reader who has zoomed in looks at.

    Nobody has zoomed, and the line's few points are known: those.

    A quarter of them is left for what lies outside, so that a reader who moves on does not fall into nothing.
    """
    if span is None:
        return thin(series.values, limit) if series.few is None else series.few
    low, high = np.searchsorted(series.steps, span[0], "left"), np.searchsorted(series.steps, span[1], "right")
    parts = [(np.intp(0), low, limit // 8), (low, high, limit - 2 * (limit // 8)), (high, len(series), limit // 8)]
    kept: Indices = np.concatenate([thin(series.values[first:last], share) + first for first, last, share in parts])
    return kept


def stale(count: int) -> int:
    """So many of the oldest points are left out; seldom more than the last time, so that few are sent anew."""
    half = MAX_POINTS // 2
    return max(-(-count // half) - 2, 0) * half


def usual(series: Series) -> Series:
    """The points whose values lie between the 1st and the 99th of a hundred."""
    finite = series.values[np.isfinite(series.values)]
    if not len(finite):
        return series
    low, high = np.percentile(finite, [1, 99])
    return series.at(np.flatnonzero((series.values >= low) & (series.values <= high)))


def odd(values: Array, *, log: bool) -> npt.NDArray[np.bool_]:
    """Which values have no place on the axis."""
    broken: npt.NDArray[np.bool_] = ~np.isfinite(values)
    return broken | (values <= 0) if log else broken


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
    there = series.at(np.flatnonzero(odd(series.values, log=log)))
    marks = []
    for step, number in zip(there.steps.tolist(), there.values.tolist(), strict=True):
        bottom = number <= 0  # no NaN is
        text = "NaN" if math.isnan(number) else f"{number:g}" if math.isfinite(number) else f"{number:+}"
        marks.append(Mark(step, low if bottom else high, text, not bottom))
    return marks
