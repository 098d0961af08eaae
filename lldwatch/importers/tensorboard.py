"""TensorBoard's event files: all of a folder are one run, as a training that was resumed writes several.

Scalars in either encoding are read, other summaries counted. Values of one step may be spread over the file, or over
files that are written side by side: they are put together up to a step of a tag that goes back.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from lldwatch.importers.event_file import Scalar, is_event_file, scalars_of, started
from lldwatch.importers.format import Entry, Format
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

MOST_HELD = 8_000_000
"""Scalars that are held at once, in 28 bytes each; of a longer file the earlier steps are given before the end."""


def _recognise(source: Source) -> str | None:
    return "it starts as event files of TensorBoard do" if is_event_file(source.head) else None


class _Held:
    """Scalars in the order in which they came."""

    def __init__(self) -> None:
        self.tags: dict[str, int] = {}
        self._last: dict[int, int] = {}
        self._steps, self._tags, self._values, self._times = array("q"), array("i"), array("d"), array("d")

    def __len__(self) -> int:
        return len(self._steps)

    def goes_back(self, scalar: Scalar) -> bool:
        """Its tag was logged for a later step."""
        return scalar.step < self._last.get(self.tags.get(scalar.tag, -1), scalar.step)

    def add(self, scalar: Scalar) -> None:
        tag = self.tags.setdefault(scalar.tag, len(self.tags))
        self._last[tag] = scalar.step
        self._steps.append(scalar.step)
        self._tags.append(tag)
        self._values.append(scalar.value)
        self._times.append(scalar.time)

    def take(self, tally: Tally, before: int | None = None) -> Iterator[Entry]:
        """All steps, in their order, or those before one; they are held no longer."""
        steps = np.frombuffer(self._steps, np.int64)
        order = np.argsort(steps, kind="stable")
        first_kept = len(order) if before is None else int(np.searchsorted(steps[order], before))
        tags, values, times, names = self._tags, self._values, self._times, list(self.tags)
        kept = sorted(order[first_kept:].tolist())
        for step, group in groupby(order[:first_kept], key=lambda place: int(steps[place])):
            row: dict[str, float] = {}
            for place in group:
                name = names[tags[place]]
                if name in row and row[name] != values[place] and values[place] == values[place]:
                    tally.drop(f"{name} given again for the same step: the last one holds", f"step {step}")
                row[name] = values[place]
            yield Entry(step, row, f"step {step}", time=times[place])
        self._steps = array("q", (int(steps[place]) for place in kept))
        self._tags = array("i", (tags[place] for place in kept))
        self._values = array("d", (values[place] for place in kept))
        self._times = array("d", (times[place] for place in kept))
        if before is None:
            self._last.clear()


def _together(sources: Sequence[Source], tally: Tally) -> Iterator[Entry]:
    held = _Held()
    for source in sorted(sources, key=lambda one: started(one.head)):
        for scalar in scalars_of(source, tally):
            if held.goes_back(scalar):
                yield from held.take(tally)
            elif len(held) >= MOST_HELD:
                yield from held.take(tally, before=scalar.step)
            held.add(scalar)
    yield from held.take(tally)


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    return _together([source], tally)


FORMAT = Format(
    name="tensorboard",
    title="event files of TensorBoard",
    metrics={},
    recognise=_recognise,
    read=_read,
    read_together=_together,
    whole_folder=True,
)
