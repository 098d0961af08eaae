"""Rows of metrics in files that any program may have written: which names tell that they are of a training.

Shared by the formats that are no trainer's own: JSON, CSV, Parquet, and the exports of W&B and of notebooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice, pairwise
from typing import Any

from lldwatch.importers.format import Entry
from lldwatch.importers.names import STEPS, lookup, step_of
from lldwatch.importers.numbers import number, number_in, whole
from lldwatch.importers.tally import Tally
from lldwatch.importers.trainers import TABLES
from lldwatch.inputs import SCALARS

_KNOWN = lookup(TABLES)
_OF_ANY = {"loss", "learning_rate"}
_TELLING = set(SCALARS) - _OF_ANY - {"actions", "responses", "gap", "updates", "updates_per_batch", "probe_seconds"}
_TRANSCRIPT = {
    "action",
    "actions",
    "observation",
    "obs",
    "done",
    "terminated",
    "prompt",
    "completion",
    "response",
    "messages",
    "question",
    "answer",
    "ground_truth",
    "thought",
    "tool_calls",
    "prediction",
    "generation",
    "text",
    "output",
}
TYPES = ("type", "kind", "event", "split", "phase", "mode", "stage")
"""Names whose text says what a row is of."""

_NO_TRAINING = re.compile(
    r"(?:eval\w*|val|valid|validation|test\w*|dev|config\w*|meta|metadata|h?params?|args|header|summary|final|init\w*|"
    r"start\w*|begin|end|finish\w*|checkpoint\w*|save\w*|samples?|examples?|system|env|info|warn\w*|error|baseline)\b",
    re.IGNORECASE,
)
TIMES = ("_timestamp", "timestamp", "wall_time", "Wall time", "time", "ts", "datetime", "created_at")
"""What the time of a row is called."""

_EARLIEST, _LATEST = 1e9, 1e10
_LOOK_AT = 12
_MOST_OF_A_STEP = 8
_MOST_TURNED = 100_000
"""Rows of a table with the newest first that are held to be turned round."""


def telling(values: Mapping[str, Any]) -> list[str]:
    """Names of a row that show it to be of a training by reinforcement; none if it is no such row.

    One is enough beside a step. Without a step it takes a second one, such as the loss, and a third one in a row that
    holds a transcript: a table of responses, or of moves of an agent, has a reward as well.
    """
    names: dict[str, str] = {}
    for key, value in values.items():
        found = _KNOWN(key)
        if found is not None and found[1] in _TELLING | _OF_ANY and _is_number(value):
            names.setdefault(found[1], key)
    least = 3 if is_transcript(values) else 2 if step_of(values) is None else 1
    return list(names.values()) if len(names) >= least and names.keys() & _TELLING else []


def is_transcript(names: Iterable[str]) -> bool:
    """They are of what a model or an agent did, not of how it was trained."""
    return any(name.lower() in _TRANSCRIPT for name in names)


def are_of_steps(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Rows that tell are of steps, not of the responses of a step: of these there are many with the same step."""
    steps = [step for row in rows if (step := step_of(row)) is not None and telling(row)]
    return len(steps) <= _MOST_OF_A_STEP * len(set(steps))


def knows(name: str) -> bool:
    """A name alone, as it stands in the head of a table, tells of such a training."""
    found = _KNOWN(name)
    return found is not None and found[1] in _TELLING


def counts(name: str) -> bool:
    """A trainer has this name for something that lldwatch measures."""
    return _KNOWN(name) is not None


def in_words(names: Iterable[str]) -> str:
    """Some names, for a message: "reward, kl and grad_norm"."""
    *first, last = list(islice(names, 4))
    return f"{', '.join(first)} and {last}" if first else last


def tidy(name: str) -> str:
    """A name as notebooks and spreadsheets show it, without what they put around it."""
    return re.sub(r"\s*/\s*", "/", name.strip().strip("\ufeff#*").strip())


def entry_of(values: Mapping[str, Any], step_column: str | None, where: str, tally: Tally) -> Entry | None:
    """A row as an entry; None, and counted, if it says of itself that it is of something else than training."""
    for key in TYPES:
        kind = values.get(key)
        if isinstance(kind, str) and _NO_TRAINING.match(kind):
            tally.drop(f"row whose {key} is {kind[:40]}", where)
            return None
    step = step_of(values, step_column)
    if step is None and _is_below_zero(values, step_column):
        tally.drop("row of a step below 0", where)
        return None
    return Entry(step, values, where, time=time_of(values))


def _is_below_zero(values: Mapping[str, Any], step_column: str | None) -> bool:
    names = STEPS if step_column is None else (step_column,)
    return any((number_in(values, name) or 0.0) < 0 for name in names if name in values)


def time_of(values: Mapping[str, Any]) -> float | None:
    """Unix time in s of a row; None if it has none."""
    return next((time for name in TIMES if name in values and (time := _time(values[name])) is not None), None)


def oldest_first(entries: Iterator[Entry], tally: Tally, step_column: str | None = None) -> Iterator[Entry]:
    """The entries of a table, turned round if it has its newest row on top; says so where it has no steps.

    Args:
        entries: of the table.
        tally: is told.
        step_column: the user's choice, by which the steps were looked for.
    """
    head = list(islice(entries, _LOOK_AT))
    steps = [entry.step for entry in head if entry.step is not None]
    if head and not steps:
        if step_column is None:
            tally.note("no column says the step: rows are counted, from 1 (--step-column names it)")
        else:
            tally.note(f"--step-column {step_column}: no row has a step of that name, so that rows are counted, from 1")
    falling = len(steps) >= 3 and steps[0] > steps[-1] and all(a >= b for a, b in pairwise(steps))
    if not falling:
        yield from chain(head, entries)
        return
    held = [*head, *islice(entries, _MOST_TURNED - len(head))]
    tally.note("the newest row stands on top: the table was turned round")
    yield from reversed(held)
    for entry in entries:
        tally.drop(f"row of a table with the newest on top, beyond {_MOST_TURNED:,} rows: sort it by step", entry.where)


def _is_number(value: Any) -> bool:
    try:
        return number(value) is not None
    except ValueError:
        return False


def _time(value: Any) -> float | None:
    if isinstance(value, str) and whole(value) is None:
        try:
            given = datetime.fromisoformat(value.strip())
        except ValueError:
            given = None
        if given is not None:
            return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    try:
        seconds = number(value)
    except ValueError:
        return None
    if seconds is not None and _EARLIEST * 1000 < seconds < _LATEST * 1000:
        seconds /= 1000
    return seconds if seconds is not None and _EARLIEST < seconds < _LATEST else None
