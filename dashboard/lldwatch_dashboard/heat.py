"""Counting responses by step and change: the scale, the buckets, and counts that are kept of a whole run.

The change is drawn on a symmetric logarithmic scale, `asinh(change / UNIT)`: a displacement of 0.01 and a collapse of
-4 nats a token stand on one axis. Buckets are of equal size on that scale.

Rejected: keeping counts part by part (a run of many small parts then takes as much memory as its responses).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lldwatch_dashboard.changes import PANELS, Changes

Array = npt.NDArray[Any]

UNIT = 0.01
"""Nats per token below which the scale is linear."""

LARGEST = 1e4
STEP_BUCKETS = 1024
CHANGE_BUCKETS = 1024
_HIGH = math.asinh(LARGEST / UNIT)
_SIZE = 2 * _HIGH / CHANGE_BUCKETS

NOT_FINITE = ("NaN", "+inf", "\N{MINUS SIGN}inf")


def scaled(change: Array) -> Array:
    """From nats per token to the place on the axis."""
    return np.asarray(np.arcsinh(np.asarray(change, np.float64) / UNIT))


def place_of(change: float) -> float:
    """The same for a single change; an infinite one has an infinite place."""
    return math.asinh(change / UNIT) if math.isfinite(change) else change


def unscaled(place: float) -> float:
    """From the place on the axis to nats per token."""
    return UNIT * math.sinh(max(-_HIGH, min(_HIGH, place)))


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """Counts of responses.

    Attributes:
        counts: (panels, changes, steps) int64.
        steps: (steps + 1,) edges, half a step outside of the steps they hold.
        places: (changes + 1,) edges on the scale.
        broken: (panels, 3, steps) int64: NaN, +inf and -inf, as in NOT_FINITE.
    """

    counts: npt.NDArray[np.int64]
    steps: npt.NDArray[np.float64]
    places: npt.NDArray[np.float64]
    broken: npt.NDArray[np.int64]


def edges_of_steps(low: int, high: int, most: int) -> npt.NDArray[np.float64]:
    """Edges of at most `most` buckets of whole steps, from half a step below the first to above the last."""
    width = max(1, -(-(high - low + 1) // most))
    count = -(-(high - low + 1) // width)
    return np.asarray(low - 0.5 + width * np.arange(count + 1), np.float64)


def heat_of(changes: Changes, steps: Array, places: Array) -> Heat:
    """Count responses in buckets; those outside of the edges are left out.

    Args:
        changes: the responses.
        steps: edges of equal distance.
        places: edges of equal distance, on the scale.
    """
    size = (len(PANELS), len(places) - 1, len(steps) - 1)
    column = _bucket(changes.step.astype(np.float64), steps)
    finite = np.isfinite(changes.change)
    row = _bucket(np.where(finite, scaled(np.where(finite, changes.change, 0.0)), np.nan), places)
    inside = (column >= 0) & (row >= 0)
    panel = changes.panel.astype(np.int64)
    cells = (panel[inside] * size[1] + row[inside]) * size[2] + column[inside]
    counts = np.bincount(cells, minlength=math.prod(size)).reshape(size)
    odd = ~finite & (column >= 0)
    cells = (panel[odd] * 3 + which(changes.change[odd])) * size[2] + column[odd]
    broken = np.bincount(cells, minlength=size[0] * 3 * size[2]).reshape(size[0], 3, size[2])
    return Heat(counts.astype(np.int64), np.asarray(steps), np.asarray(places), broken.astype(np.int64))


def which(change: Array) -> Array:
    """Index in NOT_FINITE of what is not finite."""
    return np.where(np.isnan(change), 0, np.where(change > 0, 1, 2))


def _bucket(values: Array, edges: Array) -> Array:
    """Index of the bucket; -1 outside of them. The last edge belongs to the last bucket."""
    width, count = (edges[-1] - edges[0]) / (len(edges) - 1), len(edges) - 1
    inside = (values >= edges[0]) & (values <= edges[-1])
    found = np.floor((np.where(inside, values, edges[0]) - edges[0]) / width).astype(np.int64)
    return np.where(inside, np.minimum(found, count - 1), -1)


class Counts:
    """Counts of a whole run, of which any number of responses can be added, in bounded memory.

    Steps are counted in buckets of a power of two, which grow with the run: at most STEP_BUCKETS of them.

    Attributes:
        responses: number of them.
        unmeasured: rows that had no change.
    """

    def __init__(self) -> None:
        self.responses = self.unmeasured = 0
        self._first, self._width = 0, 1  # the first bucket begins at step first * width
        self._counts = np.zeros((len(PANELS), CHANGE_BUCKETS, STEP_BUCKETS), np.uint32)
        self._broken = np.zeros((len(PANELS), 3, STEP_BUCKETS), np.uint32)
        self._low, self._high = math.inf, -math.inf

    def copy(self) -> Counts:
        """The same counts, to which others can be added."""
        other = Counts()
        other.__dict__.update(self.__dict__)
        other._counts, other._broken = self._counts.copy(), self._broken.copy()
        return other

    def add(self, changes: Changes) -> None:
        """Count these responses, too."""
        self.unmeasured += changes.unmeasured
        if not len(changes):
            return
        low, high = int(changes.step.min()), int(changes.step.max())
        self._make_room(min(low, self._low), max(high, self._high))
        self.responses += len(changes)
        column = changes.step // self._width - self._first
        finite = np.isfinite(changes.change)
        place = scaled(np.where(finite, changes.change, 0.0))
        row = np.clip(np.floor((place + _HIGH) / _SIZE), 0, CHANGE_BUCKETS - 1).astype(np.int64)
        cell = (changes.panel * np.int64(CHANGE_BUCKETS) + row) * STEP_BUCKETS + column
        _count(self._counts, cell[finite])
        odd = ~finite
        _count(
            self._broken, (changes.panel[odd] * np.int64(3) + which(changes.change[odd])) * STEP_BUCKETS + column[odd]
        )

    def _make_room(self, low: float, high: float) -> None:
        first, width = self._first, self._width
        low, high = int(low), int(high)
        if not math.isfinite(self._low):
            first = low // width
        while low // width < first or high // width >= first + STEP_BUCKETS:
            if high // width - low // width < STEP_BUCKETS:
                first = low // width
            else:
                width *= 2
                first = low // width
        self._low, self._high = low, high
        if (first, width) != (self._first, self._width):
            old = (self._first + np.arange(STEP_BUCKETS)) * self._width // width - first
            self._first, self._width = first, width
            self._counts, self._broken = (_moved(part, old) for part in (self._counts, self._broken))

    def heat(self, steps: tuple[int, int], places: tuple[float, float], most: tuple[int, int]) -> Heat:
        """The counts of a window, as fine as they are but in no more than so many buckets.

        Args:
            steps: the first and the last step.
            places: lower and upper end, on the scale.
            most: buckets of steps, and of changes.
        """
        left, right = (int(np.clip(step // self._width - self._first, 0, STEP_BUCKETS - 1)) for step in steps)
        bottom, top = map(_row, places)
        every = -(-(right - left + 1) // most[0])
        each = -(-(top - bottom + 1) // most[1])
        window = self._counts[:, bottom : top + 1, left : right + 1]
        broken = _sums(self._broken[:, :, left : right + 1], every, 2)
        counts = _sums(_sums(window, every, 2), each, 1)
        edges = (self._first + left + every * np.arange(counts.shape[2] + 1)) * self._width - 0.5
        heights = -_HIGH + _SIZE * (bottom + each * np.arange(counts.shape[1] + 1))
        return Heat(counts, edges, heights, broken)

    def stretches(
        self, places: tuple[float, float], panel: int | None, *, broken: bool = False
    ) -> list[tuple[int, int]]:
        """First and last step of each stretch of steps that holds responses between two places on the scale.

        Args:
            places: lower and upper end.
            panel: one of PANELS; None: any.
            broken: look for changes that are not finite instead.
        """
        if broken:
            some = self._broken.any(axis=(0, 1))
        else:
            bottom, top = map(_row, places)
            counts = (
                self._counts[:, bottom : top + 1]
                if panel is None
                else self._counts[panel : panel + 1, bottom : top + 1]
            )
            some = counts.any(axis=(0, 1))
        borders = np.flatnonzero(np.diff(np.concatenate([[0], some.astype(np.int8), [0]])))
        ends = (self._first + borders) * self._width
        return [(int(low), int(high) - 1) for low, high in zip(ends[::2], ends[1::2], strict=True)]

    def extent(self) -> tuple[float, float] | None:
        """Lower and upper end of the finite changes, on the scale; None if there are none."""
        rows = np.flatnonzero(self._counts.any(axis=(0, 2)))
        return (-_HIGH + _SIZE * int(rows[0]), -_HIGH + _SIZE * (int(rows[-1]) + 1)) if len(rows) else None


def _row(place: float) -> int:
    return int(np.clip((np.clip(place, -_HIGH, _HIGH) + _HIGH) // _SIZE, 0, CHANGE_BUCKETS - 1))


def _count(counts: Array, cells: Array) -> None:
    """Add one to each cell, as often as it is named."""
    found, times = np.unique(cells, return_counts=True)
    counts.reshape(-1)[found] += times.astype(counts.dtype)


def _moved(counts: Array, where: Array) -> Array:
    """The last axis in other buckets; those that would lie outside were empty."""
    moved = np.zeros_like(counts)
    inside = (where >= 0) & (where < STEP_BUCKETS)
    for place in np.unique(where[inside]):
        moved[..., place] = counts[..., inside & (where == place)].sum(axis=-1)
    return moved


def _sums(counts: Array, width: int, axis: int) -> npt.NDArray[np.int64]:
    starts = np.arange(0, counts.shape[axis], width)
    return np.asarray(np.add.reduceat(counts, starts, axis=axis, dtype=np.int64))
