"""The signals of a run that grows, as arrays: each step is looked at once, however often the run is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from lldwatch.schema import Observation
from lldwatch.series import Series, having, series_of
from lldwatch_dashboard.panels import READINGS

NOISE, LOW, HIGH = "noise_floor", "standard_error_low", "standard_error_high"
"""Beside the signals: what is drawn as shades behind the headline."""

_CHANGE = ("cross_update_change", "cross_update_error")
_MEASURED: Mapping[str, tuple[tuple[str, ...], Callable[[Any], float]]] = {
    **{name: (signal.requires, signal.compute) for name, signal in READINGS.items()},
    NOISE: ((NOISE,), attrgetter(NOISE)),
    LOW: (_CHANGE, lambda seen: seen.cross_update_change - seen.cross_update_error),
    HIGH: (_CHANGE, lambda seen: seen.cross_update_change + seen.cross_update_error),
}


class Lines:
    """All that can be drawn of one run. Not for several threads at once; what it has given never changes."""

    def __init__(self) -> None:
        self._seen: Sequence[Observation] = ()
        self._lines = {name: _Line() for name in _MEASURED}

    def of(self, observations: Sequence[Observation]) -> Mapping[str, Series]:
        """Key in READINGS, or `NOISE`, `LOW`, `HIGH` -> where it was measured.

        Args:
            observations: of the run; if they do not begin with those of the last time, all are looked at again.
        """
        known = len(self._seen)
        if known and not (known <= len(observations) and observations[known - 1] is self._seen[-1]):
            known, self._lines = 0, {name: _Line() for name in _MEASURED}
        new, self._seen = observations[known:], observations
        for name, (columns, compute) in _MEASURED.items():
            self._lines[name].add(series_of(having(new, *columns), compute))
        return {name: line.series for name, line in self._lines.items()}


class _Line:
    """A series that grows at its end; its arrays have room for as much again, so that little is copied."""

    def __init__(self) -> None:
        self._steps, self._values = np.zeros(64, np.int64), np.zeros(64)
        self._count = 0

    @property
    def series(self) -> Series:
        """All of it so far."""
        return Series(self._steps[: self._count], self._values[: self._count])

    def add(self, more: Series) -> None:
        """At its end."""
        count = self._count + len(more)
        if count > len(self._steps):
            room = np.zeros(2 * count - self._count)
            self._steps = np.concatenate([self._steps[: self._count], room.astype(np.int64)])
            self._values = np.concatenate([self._values[: self._count], room])
        self._steps[self._count : count], self._values[self._count : count] = more.steps, more.values
        self._count = count


def lines_of(observations: Sequence[Observation]) -> Mapping[str, Series]:
    """The same of a run that is drawn once."""
    return Lines().of(observations)
