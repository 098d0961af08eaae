"""The numbers of a comparison: runs on one axis, laid upon each other by step, by onset, or by share of the run.

A run without an onset has no place of its own on an axis of onsets: its 0 is the median onset of the others, the same
moment of the training, and the page says so. Without any onset the runs lie by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from lldwatch.diagnosis import Diagnosis
from lldwatch.reports.compare_report import letter
from lldwatch.series import Series, thin
from lldwatch_dashboard.choice import Align
from lldwatch_dashboard.feed import Snapshot
from lldwatch_dashboard.series import running_mean

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lane:
    """One run of a comparison that could be read.

    Attributes:
        place: its letter and its looks follow from it.
        name: of the run.
        first: number of its first step.
        last: number of its last step.
        length: steps from the first to where its share is 1: to the last, or, while it runs, to the last planned one.
        onset: see `onset_of`.
        signals: key in SIGNALS -> where it was measured.
    """

    place: int
    name: str
    first: int
    last: int
    length: int
    onset: int | None
    signals: dict[str, Series]

    @property
    def letter(self) -> str:
        """What it is called in tables and at the end of its lines."""
        return letter(self.place)


@dataclass(frozen=True, slots=True)
class Alignment:
    """From steps to places on the axis.

    Attributes:
        align: what the runs lie by, which need not be what was asked for.
        shift: for each lane, the step at 0.
        scale: for each lane, steps that are 1 on the axis.
        guessed: places of lanes without an onset, on an axis of onsets.
        note: what a reader has to know; mostly empty.
    """

    align: Align
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    guessed: frozenset[int] = frozenset()
    note: str = ""

    def x(self, place: int, steps: npt.ArrayLike) -> Floats:
        """Where these steps of a lane lie."""
        return (np.asarray(steps, np.float64) - self.shift[place]) / self.scale[place]


def lane_of(place: int, snapshot: Snapshot, signals: Sequence[str]) -> Lane:
    """A run as it is drawn.

    Args:
        place: among those that could be read.
        snapshot: of the run.
        signals: keys in SIGNALS.
    """
    seen, summary = snapshot.observations, snapshot.summary
    first, last = (seen[0].step, seen[-1].step) if seen else (0, 0)
    end = max(last, summary.info.planned_steps or 0) if summary.info.ended is None else last
    measured = snapshot.signals
    found = {name: measured[name] for name in signals if len(measured[name])}
    onset, _ = onset_of(summary.diagnosis)
    return Lane(place, summary.name, first, last, max(end - first, 1), onset, found)


def onset_of(diagnosis: Diagnosis) -> tuple[int | None, bool]:
    """Step at which the first stage beyond healthy began, and whether the run has recovered from it; None: never."""
    if diagnosis.onsets:
        return min(diagnosis.onsets.values()), False
    return min((dip.onset for dip in diagnosis.episodes), default=None), True


def aligned(lanes: Sequence[Lane], align: Align) -> Alignment:
    """How the lanes lie upon each other."""
    count = len(lanes)
    if align == "share":
        return Alignment("share", tuple(lane.first for lane in lanes), tuple(lane.length for lane in lanes))
    onsets = [lane.onset for lane in lanes if lane.onset is not None]
    if align == "step" or not onsets:
        note = "No run has an onset: they lie by step." if align == "onset" and lanes else ""
        return Alignment("step", (0.0,) * count, (1.0,) * count, note=note)
    middle = median(onsets)
    guessed = frozenset(lane.place for lane in lanes if lane.onset is None)
    letters = ", ".join(lane.letter for lane in lanes if lane.place in guessed)
    has = "has" if len(guessed) == 1 else "have"
    whose = "the onset of the other" if len(onsets) == 1 else "the median onset of the others"
    note = f"{letters} {has} no onset: 0 is step {middle:g}, {whose}." if guessed else ""
    shift = tuple(float(middle if lane.onset is None else lane.onset) for lane in lanes)
    return Alignment("onset", shift, (1.0,) * count, guessed, note)


def lines(series: Series, smooth: int, limit: int) -> tuple[Series, Series]:
    """Every measured step, and the mean of the last `smooth` ones, both at the same steps and thinned for a screen."""
    keep = thin(series.values, max(limit, 5))
    mean = series if smooth == 1 else Series(series.steps, running_mean(series.values, smooth))
    return series.at(keep), mean.at(keep)


def last_finite(series: Series) -> tuple[int, float] | None:
    """Step and value of the last point that has a place on an axis."""
    finite = np.flatnonzero(np.isfinite(series.values))
    return (int(series.steps[finite[-1]]), float(series.values[finite[-1]])) if len(finite) else None


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights at least `gap` apart, within 0 and 1 if there is room, in the order that they had.

    Args:
        heights: shares of a panel's height.
        gap: what a label takes, as such a share.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    gap = min(gap, 1.0 / max(len(heights) - 1, 1))
    placed = [min(max(heights[index], 0.0), 1.0) for index in order]
    for place in range(1, len(placed)):
        placed[place] = max(placed[place], placed[place - 1] + gap)
    ceiling = 1.0
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], ceiling)
        ceiling = placed[place] - gap
    found = [0.0] * len(heights)
    for index, height in zip(order, placed, strict=True):
        found[index] = height
    return found
