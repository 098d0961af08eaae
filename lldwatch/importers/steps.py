"""From entries to observations: entries of one step are put together, and runs that follow each other are told apart.

A step number that goes back to where the run began is another run; one that goes back less far is a training that was
resumed from a checkpoint, and what it repeats replaces what stood there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

from lldwatch.importers.format import Entry
from lldwatch.importers.names import STEPS, Lookup
from lldwatch.importers.numbers import number
from lldwatch.importers.tally import Tally
from lldwatch.schema import Observation, columns_of

_TOLD_RETURNS = 5
"""Of so many it is said where they are; of more, how many there were."""

MOST_RETURNS = 200
"""Times that a step number may go back within a source; rows that do so after that are in no order, and left out."""

_SHARES = {name for name, item in columns_of("steps").items() if item.metadata["unit"] == "share"}
_WHOLE = {name for name, item in columns_of("steps").items() if item.metadata["dtype"] == "int32"}
_ROUNDING = 1e-3
_PLACES = {*STEPS, "_timestamp", "timestamp", "_runtime"}
"""What says where a row stands, and so was used."""

Derive = Callable[[Mapping[str, float]], Mapping[str, float]]


class Step(NamedTuple):
    """One observation of one run; `attempt` counts how often the training was resumed before it."""

    run: str
    attempt: int
    observation: Observation


@dataclass
class _Course:
    """Where one run stands."""

    name: str
    part: int = 1
    attempt: int = 0
    first: int | None = None
    step: int | None = None
    numbered: bool = False
    time: float | None = None
    fields: dict[str, tuple[int, float]] = field(default_factory=dict)
    theirs: dict[str, float] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The name; what follows a first run in the same file is numbered."""
        return self.name if self.part == 1 else f"{self.name or 'run'}-{self.part}"


def _is_no_measure(key: str, ours: str, given: float, values: Mapping[str, Any]) -> str | None:
    """Why a number that goes by a name of ours is none of ours."""
    if ours in _SHARES and (given < -_ROUNDING or given > 1 + _ROUNDING):
        return "that is no share, which is 0 to 1"
    if key == "train_loss" and "train_runtime" in values:
        return "that is the mean of the whole training"
    return None


class Steps:
    """Puts entries together, in bounded memory: one open step a run.

    Args:
        lookup: what their names stand for.
        tally: counts what is left out.
        derive: more fields from their numbers.
        at_once: give each entry at once, for a live stream whose entries are whole steps; what repeats a step that was
            given is left out.
        own: the user's names that `lookup` knows: those that no row has are noted.
        step_column: what the user says the step is called.
    """

    def __init__(
        self,
        lookup: Lookup,
        tally: Tally,
        derive: Derive | None = None,
        at_once: bool = False,
        own: Mapping[str, str] | None = None,
        step_column: str | None = None,
    ) -> None:
        self._lookup, self._tally, self._derive, self._at_once = lookup, tally, derive, at_once
        self._courses: dict[str, _Course] = {}
        self._returns = 0
        self._unmet = dict(own or {})
        self._places = {*_PLACES, step_column}

    def of(self, entries: Iterable[Entry]) -> Iterator[Step]:
        """The observations, in the order of the entries."""
        for entry in entries:
            fields = self._fields(entry)
            if fields is None:
                continue
            course = self._courses.setdefault(entry.run, _Course(entry.run))
            if entry.step is None and course.numbered:
                self._tally.drop("row without a step among rows that have one", entry.where)
                continue
            course.numbered = entry.step is not None
            step = (0 if course.step is None else course.step) + 1 if entry.step is None else entry.step
            if course.step is not None and step < course.step and self._returns >= MOST_RETURNS:
                self._tally.drop("step that goes back, after many that did: the rows are in no order", entry.where)
                continue
            if course.step is not None and step != course.step:
                yield from self._close(course)
                self._follow(course, step, entry.where)
            elif self._at_once and course.step == step and not course.fields:
                self._tally.drop("step given again", entry.where)
                continue
            self._take(course, step, fields, entry)
            if self._at_once:
                yield from self._close(course)
        for course in self._courses.values():
            yield from self._close(course)
        self._sum_up()

    def _sum_up(self) -> None:
        """What can be said only now that all was read."""
        if self._returns > _TOLD_RETURNS:
            self._tally.note(f"the step goes back {self._returns} times in all: are the rows in no order?")
        for ours, theirs in self._unmet.items():
            close = get_close_matches(theirs, self._tally.unmapped, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            self._tally.note(f"--map {ours}={theirs}: no row has {theirs}{hint}, so that {ours} is missing")

    def _fields(self, entry: Entry) -> tuple[dict[str, tuple[int, float]], dict[str, float]] | None:
        """(preference, number) by our names, and all numbers by theirs; None if there is nothing for us."""
        fields: dict[str, tuple[int, float]] = {}
        theirs: dict[str, float] = {}
        strangers = []
        for key, value in entry.values.items():
            found = self._lookup(key)
            if found is not None and self._unmet:
                self._unmet.pop(found[1], None)
            try:
                given = number(value)
            except ValueError:
                if found is not None:
                    self._tally.drop(f"{key} that is not a number", entry.where)
                continue
            if found is None:
                if key not in self._places:
                    strangers.append(key)
            elif given is not None and (why := _is_no_measure(key, found[1], given, entry.values)):
                self._tally.drop(f"{key} {why}", entry.where)
                continue
            if given is not None:
                theirs[key] = given
                if found is not None and found[0] <= fields.get(found[1], found)[0]:
                    fields[found[1]] = (found[0], given)
        self._tally.no_counterpart(strangers)
        if not fields and not (self._derive and theirs):  # two rows of a step may hold together what one lacks
            self._tally.drop("row without anything that lldwatch measures", entry.where)
            return None
        self._tally.rows += 1
        return fields, theirs

    def _take(self, course: _Course, step: int, fields: tuple[dict[str, Any], dict[str, float]], entry: Entry) -> None:
        course.step = step
        course.first = step if course.first is None else course.first
        course.time = course.time if entry.time is None else entry.time
        for ours, (preference, value) in fields[0].items():
            before = course.fields.get(ours)
            if before is not None and before[0] == preference and before[1] != value and value == value:
                self._tally.drop(f"{ours} given again for the same step: the last one holds", entry.where)
            if before is None or preference <= before[0]:
                course.fields[ours] = (preference, value)
        course.theirs.update(fields[1])

    def _follow(self, course: _Course, step: int, where: str) -> None:
        """The next step: is it still the same run?"""
        assert course.step is not None
        assert course.first is not None
        if step > course.step:
            return
        self._returns += 1
        if step <= max(course.first, 1):
            course.part, course.attempt, course.first = course.part + 1, 0, step
            words = "another run begins"
        else:
            course.attempt += 1
            words = "resumed from a checkpoint, what is repeated replaces what stood there"
        if self._returns <= _TOLD_RETURNS:
            self._tally.note(f"{where}: the step goes back from {course.step} to {step}: {words}")

    def _close(self, course: _Course) -> Iterator[Step]:
        if course.step is None or not (course.fields or course.theirs):
            return
        values: dict[str, Any] = dict(self._derive(course.theirs)) if self._derive else {}
        values.update({ours: value for ours, (_, value) in course.fields.items()})
        for name in _WHOLE & values.keys():
            values[name] = int(values[name]) if abs(values[name]) < 2**31 else None
        if values:
            yield Step(course.run, course.attempt, Observation(step=course.step, time=course.time, **values))
        else:
            self._tally.drop("step without anything that lldwatch measures", f"step {course.step}")
        course.fields, course.theirs, course.time = {}, {}, None
