"""One signal over a run, thinned for a picture without losing what a single step did, and where the stages lie.

What was not measured has no point; what was measured as NaN or infinite has one, and every step of the way keeps it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from lldwatch.diagnosis import Stage, Verdict
from lldwatch.schema import Observation
from lldwatch.signals import SIGNALS, Signal

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

GAP = 5
"""A hole of more than so many usual distances between measured steps is a hole in the line."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One signal at the steps where it was measured; arrays of shape (points,).

    Attributes:
        few: indices of the points that keep the picture of a long line, see `thin`; None: nobody has looked for them.
        odd: indices of the points that have no place on an axis; None: as well.
    """

    steps: npt.NDArray[np.int64]
    values: Floats
    few: Indices | None = None
    odd: Indices | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, indices: Indices) -> Series:
        """Only these points."""
        return Series(self.steps[indices], self.values[indices])


NOTHING = Series(np.zeros(0, np.int64), np.zeros(0))
"""A signal that was not measured."""


@dataclass(frozen=True, slots=True)
class Band:
    """Steps in a row with the same stage; `begin` and `end` lie half a step outside of the first and the last."""

    stage: Stage
    begin: float
    end: float


def measured(observations: Sequence[Observation], signal: Signal) -> Series:
    """The steps at which a signal was measured."""
    return series_of(having(observations, *signal.requires), signal.compute)


def having(observations: Sequence[Observation], *columns: str) -> Sequence[Observation]:
    """The steps at which all of these columns were measured."""
    seen = observations
    for name in columns:
        values = map(attrgetter(name), seen)  # a run may have 100,000 steps: no Python call for each of them
        seen = [observation for observation, number in zip(seen, values, strict=True) if number is not None]
    return seen


def series_of(seen: Sequence[Observation], compute: Callable[[Observation], float]) -> Series:
    """What is computed of each step."""
    steps, values = map(attrgetter("step"), seen), map(compute, seen)
    return Series(np.fromiter(steps, np.int64, len(seen)), np.fromiter(values, np.float64, len(seen)))


def all_measured(observations: Sequence[Observation]) -> dict[str, Series]:
    """Key in SIGNALS -> the signal over the run, of those that were measured at least once."""
    found = {name: measured(observations, signal) for name, signal in SIGNALS.items()}
    return {name: series for name, series in found.items() if len(series)}


def thin(values: Floats, limit: int) -> Indices:
    """Indices of at most `limit` points that keep the picture.

    The points are cut into equal stretches; of each the smallest and the largest value stay, and the first that is not
    finite: neither a spike nor a NaN of a single step is lost. The first and the last point stay.

    Args:
        values: (points,).
        limit: at least 5.
    """
    count = len(values)
    if count <= limit:
        return np.arange(count)
    width = math.ceil(count / ((limit - 2) // 3))
    rows = math.ceil(count / width)
    stretches = np.full((rows, width), np.nan)
    stretches.flat[:count] = values
    keep = extremes(stretches, ~np.isfinite(stretches))
    keep[[0, count - 1]] = True
    return np.flatnonzero(keep[:count])


def extremes(blocks: Floats, odd: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which points of each block are its smallest and its largest, and which is the first without a place on the axis.

    Args:
        blocks: (blocks, points of each).
        odd: those without a place, of any shape.
    """
    broken = odd.reshape(blocks.shape)
    keep, rows = np.zeros_like(broken), np.arange(len(blocks))
    keep[rows, np.where(broken, np.inf, blocks).argmin(axis=1)] = True
    keep[rows, np.where(broken, -np.inf, blocks).argmax(axis=1)] = True
    keep[rows, broken.argmax(axis=1)] = True
    return keep.reshape(-1)


def pieces(series: Series) -> Indices:
    """For each point the number of the unbroken line it belongs to: a hole or a value that is not finite breaks one."""
    distances = np.diff(series.steps)
    usual = float(np.median(distances)) if len(distances) else 1.0
    breaks = np.zeros(len(series), dtype=np.intp)
    breaks[1:] = distances > GAP * usual
    return np.cumsum(breaks + ~np.isfinite(series.values))


def middles(series: Series, count: int) -> Series:
    """Medians of the finite values of at most `count` equal stretches: where a long, noisy line really runs."""
    finite = series.at(np.flatnonzero(np.isfinite(series.values)))
    parts = [part for part in np.array_split(np.arange(len(finite)), count) if len(part)]
    steps = [int(np.median(finite.steps[part])) for part in parts]
    return Series(np.array(steps, np.int64), np.array([np.median(finite.values[part]) for part in parts]))


def stages_of(verdicts: Sequence[Verdict]) -> Series:
    """The stage of each step as a number."""
    steps, stages = map(attrgetter("step"), verdicts), map(attrgetter("stage"), verdicts)
    return Series(np.fromiter(steps, np.int64, len(verdicts)), np.fromiter(stages, np.float64, len(verdicts)))


def bands(stages: Series) -> list[Band]:
    """Where the stage was not HEALTHY, from that of each step."""
    begins = np.flatnonzero(np.diff(stages.values, prepend=Stage.HEALTHY)).tolist()
    steps = stages.steps
    found = []
    for begin, end in itertools.pairwise([*begins, len(stages)]):
        stage = Stage(int(stages.values[begin]))
        if stage is not Stage.HEALTHY:
            after = int(steps[end]) if end < len(stages) else int(steps[-1]) + 1
            found.append(Band(stage, int(steps[begin]) - 0.5, after - 0.5))
    return found


def summary(series: Series) -> Mapping[str, Any]:
    """A signal in a few numbers: how often and when it was measured, its ends and extremes, what was not finite.

    Args:
        series: of at least one point.

    Returns:
        JSON's types. `first` and `last` are the means of the first and the last ten finite values; `first`, `last`,
        `least` and `largest` are None if there is none.
    """
    finite = series.values[np.isfinite(series.values)]
    none = not len(finite)
    return {
        "steps": len(series),
        "first_step": int(series.steps[0]),
        "last_step": int(series.steps[-1]),
        "first": None if none else float(finite[:10].mean()),
        "last": None if none else float(finite[-10:].mean()),
        "least": None if none else float(finite.min()),
        "largest": None if none else float(finite.max()),
        "not_finite": len(series) - len(finite),
    }
