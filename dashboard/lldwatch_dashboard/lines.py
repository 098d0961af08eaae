"""The signals of a run that grows, as arrays: each step is looked at once, however often the run is drawn.

Of a long line it is also known which points a picture needs: the extremes of every block of steps, and what has no
place on its axis. That depends on the line alone, not on how it grew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import numpy as np

from lldwatch.diagnosis import Verdict
from lldwatch.portions import Steps
from lldwatch.schema import Observation
from lldwatch.series import Series, extremes, having, series_of, stages_of, thin
from lldwatch_dashboard import series as numbers
from lldwatch_dashboard.panels import PANELS, READINGS
from lldwatch_dashboard.series import MAX_POINTS

STEP, TIME, UPDATES, STAGE = "step", "time", "updates", "stage"
"""Beside the signals: every step, when it was closed, how many updates it made, and its stage, once it is judged."""
NOISE, LOW, HIGH = "noise_floor", "standard_error_low", "standard_error_high"
"""What is drawn as shades behind the headline: the largest A/A noise so far, and one standard error to either side."""
TAIL = 200
"""Points at most of the end of a long line, whose block is not full."""

_CHANGE = ("cross_update_change", "cross_update_error")
_MEASURED: Mapping[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    **{name: (signal.requires, signal.compute) for name, signal in READINGS.items()},
    **{name: ((name,), attrgetter(name)) for name in (STEP, TIME, UPDATES, NOISE)},
    LOW: (_CHANGE, lambda seen: seen.cross_update_change - seen.cross_update_error),
    HIGH: (_CHANGE, lambda seen: seen.cross_update_change + seen.cross_update_error),
}
_COLUMNS = frozenset(column for columns, _ in _MEASURED.values() for column in columns)
_LOG = frozenset(name for panel in PANELS if panel.log for name in panel.signals)


class Lines:
    """All that can be drawn of one run. Not for several threads at once; what it has given never changes."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._known, self._judged = 0, 0
        self._last: Observation | None = None  # that was judged
        self._verdict: Verdict | None = None
        self._lines = {name: _Line(name) for name in (*_MEASURED, STAGE)}

    def of(self, run: Sequence[Observation], verdicts: Sequence[Verdict] = ()) -> Mapping[str, Series]:
        """Key in READINGS, or one of the names above -> where it was measured.

        Args:
            run: its steps; if they do not begin with those of the last time, all are looked at again.
            verdicts: of the first steps, or of all.
        """
        steps = run if isinstance(run, Steps) else Steps(run)
        if self._known > len(steps) or (self._judged and steps[self._judged - 1] is not self._last):
            self._begin()
        if new := steps[self._known : steps.judged]:
            for name, (columns, compute) in _MEASURED.items():
                self._lines[name].add(series_of(having(new, *columns), compute))
        if max(self._known, steps.judged) < len(steps):
            self._take(steps.columns(_COLUMNS, max(self._known, steps.judged)))
        self._known, self._judged = len(steps), steps.judged
        self._last = steps[steps.judged - 1] if steps.judged else None
        self._judge(verdicts)
        return {name: line.series for name, line in self._lines.items()}

    def _judge(self, verdicts: Sequence[Verdict]) -> None:
        known = len(self._lines[STAGE].series)
        if known > len(verdicts) or (known and verdicts[known - 1] is not self._verdict):
            known, self._lines[STAGE] = 0, _Line(STAGE)
        if len(verdicts) > known:
            self._lines[STAGE].add(stages_of(verdicts[known:]))
            self._verdict = verdicts[-1]

    def _take(self, arrays: Mapping[str, np.ma.MaskedArray[Any, Any]]) -> None:
        """What has not been made into observations."""
        for name, (columns, compute) in _MEASURED.items():
            there = ~np.any([np.ma.getmaskarray(arrays[column]) for column in columns], axis=0)
            if there.any():
                seen = SimpleNamespace(**{column: arrays[column].data[there].astype(np.float64) for column in columns})
                self._lines[name].add(Series(arrays[STEP].data[there].astype(np.int64), compute(seen)))


class _Line:
    """A series that grows at its end; its arrays have room for as much again, so that little is copied."""

    def __init__(self, name: str) -> None:
        self._log, self._rising, self._finite = name in _LOG, name == NOISE, name in (LOW, HIGH)
        self._steps, self._values = np.zeros(64, np.int64), np.zeros(64)
        self._count = 0
        self._odd = np.zeros(0, np.intp)
        self._few, self._block, self._seen = np.zeros(0, np.intp), 1, 0

    @property
    def series(self) -> Series:
        """All of it so far."""
        count, few = self._count, None
        if count > MAX_POINTS:
            few = np.concatenate([self._few, self._seen + thin(self._values[self._seen : count], TAIL)])
        return Series(self._steps[:count], self._values[:count], few, self._odd)

    def add(self, more: Series) -> None:
        """At its end."""
        if self._finite:
            more = more.at(np.flatnonzero(np.isfinite(more.values)))
        first, count = self._count, self._count + len(more)
        if count > len(self._steps):
            room = np.zeros(count)
            self._steps = np.concatenate([self._steps[:first], room.astype(np.int64)])
            self._values = np.concatenate([self._values[:first], room])
        values = self._values[first:count]
        self._steps[first:count], values[:] = more.steps, more.values
        if self._rising and len(more):
            before = self._values[first - 1] if first else 0.0
            values[:] = np.maximum(np.maximum.accumulate(np.nan_to_num(values, nan=0.0, posinf=0.0)), before)
        if (odd := numbers.odd(values, log=self._log)).any():
            self._odd = np.concatenate([self._odd, np.flatnonzero(odd) + first])
        self._count = count
        self._look()

    def _look(self) -> None:
        """For the points that keep the picture, in the blocks that are full and have a point after them.

        Blocks are as long as a power of two: when they become too many, they are looked at once more.
        """
        while 3 * self._count > (MAX_POINTS - TAIL) * self._block:
            self._block *= 2
            self._few, self._seen = np.zeros(0, np.intp), 0
        end = max(self._count - 1, 0) // self._block * self._block
        if self._count <= MAX_POINTS or end == self._seen:
            return
        values = self._values[self._seen : end]
        keep = extremes(values.reshape(-1, self._block), numbers.odd(values, log=self._log))
        keep[0] |= self._seen == 0
        self._few = np.concatenate([self._few, np.flatnonzero(keep) + self._seen])
        self._seen = end


def lines_of(run: Sequence[Observation], verdicts: Sequence[Verdict] = ()) -> Mapping[str, Series]:
    """The same of a run that is drawn once."""
    return Lines().of(run, verdicts)
