"""A long run is shown at once, and judged little by little: the detector takes 10 s for 100,000 steps.

What waits to be judged stays as it was read: 100,000 steps as one object each take a second to make.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, overload

import numpy as np
import pyarrow as pa

from lldwatch.batches import arrow_array
from lldwatch.parts import as_numpy
from lldwatch.run import Run
from lldwatch.schema import Observation, arrow_schema, observations_of

PORTION = 5000
"""Steps that are judged between two looks at the page: half a second's."""
FIRST = 100
"""Steps of a longer run that are judged before it is shown at all."""


class Portions(Run):
    """A run that gives its new steps in portions.

    Attributes:
        waiting: steps that have been read, and not been given yet, in the order of writing.
        went_back: what the last `poll` read makes steps again that were read before.
    """

    waiting: pa.Table | None = None
    went_back = False
    _last: int | None = None
    _begun = False

    def poll(self) -> list[Observation]:
        """The next portion of the steps that are new."""
        new = self.poll_tables()
        self.went_back = False
        if new:
            steps = np.concatenate([as_numpy(table["step"]) for table in new])
            self.went_back = self._last is not None and bool(steps.min() <= self._last)
            self._last = int(steps[-1])
        tables = [*([] if self.waiting is None else [self.waiting]), *new]
        if not tables:
            return []
        table = pa.concat_tables(tables)
        portion = table.slice(0, PORTION if self._begun or len(table) <= PORTION else FIRST)
        self._begun = True
        self.waiting = table.slice(len(portion)) if len(portion) < len(table) else None
        return observations_of(portion)


class Steps(Sequence[Observation]):
    """All steps of a run as they stand at one moment, rising: those that have been judged, and those that wait.

    Args:
        seen: those that have been judged; a list that may grow, what it holds does not change.
        waiting: rows of `Observation` in the order of writing; a step that comes again takes the place of all from
            there on.

    Attributes:
        judged: so many of them come from there.
        waiting: the others.
    """

    def __init__(self, seen: Sequence[Observation], waiting: pa.Table | None = None) -> None:
        self._seen, self.judged = seen, len(seen)
        self.waiting = pa.Table.from_batches([], arrow_schema(Observation.TABLE)) if waiting is None else waiting
        if len(self.waiting):
            steps = as_numpy(self.waiting["step"])
            least_after = np.minimum.accumulate(steps[::-1])[::-1]
            self.judged = bisect_left(seen, int(least_after[0]), key=attrgetter("step"))
            if (replaced := steps[:-1] >= least_after[1:]).any():
                self.waiting = self.waiting.filter(arrow_array(~np.append(replaced, False), pa.bool_(), len(steps)))

    def __len__(self) -> int:
        return self.judged + len(self.waiting)

    @overload
    def __getitem__(self, index: int) -> Observation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Observation]: ...
    def __getitem__(self, index: int | slice) -> Observation | Sequence[Observation]:
        if isinstance(index, int):
            place = range(len(self))[index]
            return self._seen[place] if place < self.judged else self._made(place, place + 1)[0]
        start, stop, step = index.indices(len(self))
        if step != 1:
            return list(self)[index]
        return [*self._seen[start : min(stop, self.judged)], *self._made(max(start, self.judged), stop)]

    def __iter__(self) -> Iterator[Observation]:
        yield from islice(self._seen, self.judged)
        yield from self._made(self.judged, len(self))

    def columns(self, names: Iterable[str], first: int) -> dict[str, np.ma.MaskedArray[Any, Any]]:
        """Columns of the steps from the first-th on, all of which wait; masked where nothing was measured."""
        rows = self.waiting.slice(first - self.judged)
        return {name: np.ma.masked_array(as_numpy(rows[name])) for name in names}

    def _made(self, start: int, stop: int) -> list[Observation]:
        return observations_of(self.waiting.slice(start - self.judged, stop - start)) if start < stop else []
