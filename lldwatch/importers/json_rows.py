"""The rows in a JSON text of any shape: rows that follow each other, a list of them, lists within an object, columns.

Of a list one element at a time is held, whatever its length; an object that holds the rows is held whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lldwatch.errors import InputError
from lldwatch.importers.metric_rows import telling
from lldwatch.importers.tally import Tally

LARGEST_OBJECT = 128 * 1024**2
"""Characters of one object with all rows in it."""

_DEEPEST = 5
_GENERAL = re.compile(
    r"(?:^|/)(?:\w*history|steps|logs?|\w*metrics|rows|records|data|results|train\w*|entries|columns)$"
)
_OF_EVALUATION = re.compile(r"(?:^|[/_])(?:eval\w*|val|valid|validation|test)(?:[/_]|$)", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s,]*")
_decode = json.JSONDecoder().raw_decode


class Row(NamedTuple):
    """One row and where it stands; `run` is the name of its list, if that names a run."""

    where: str
    values: Mapping[str, Any]
    run: str = ""


def rows_in(text: str, tally: Tally) -> Iterator[Row]:
    """All rows of a text. Where it breaks off or is no JSON the reading ends, and is counted.

    Args:
        text: one or more JSON values.
        tally: counts what cannot be read.

    Raises:
        InputError: one object is larger than can be held.
    """
    place, number = _next(text, 0), 0
    in_list = text.startswith("[", place)
    place = _next(text, place + 1) if in_list else place
    if not in_list and len(text) > LARGEST_OBJECT:
        most = LARGEST_OBJECT // 1024**2
        raise InputError(f"the JSON is one object of more than {most} MiB: export it as a list, or as lines")
    while place < len(text) and not (in_list and text[place] == "]"):
        number += 1
        try:
            value, place = _decode(text, place)
        except (ValueError, RecursionError) as error:
            tally.drop(f"the rest of the text, which breaks off or is no JSON ({error})", f"entry {number}")
            return
        place = _next(text, place)
        alone = number == 1 and not in_list and place == len(text)
        yield from rows_of(value, f"entry {number}", tally, alone=alone)


def rows_of(value: Any, where: str, tally: Tally, *, alone: bool = False) -> Iterator[Row]:
    """The rows that a JSON value is, or holds.

    Args:
        value: as JSON gave it.
        where: its place.
        tally: counts what is no row.
        alone: there is no other value: what it holds are the rows, even if nothing in them is known.
    """
    if not isinstance(value, dict):
        tally.drop("JSON value that is no object", where)
        return
    row = flat(value)
    lists = [] if telling(row) else list(_lists(value, "", 0))
    chosen = {i for i, (_, rows) in enumerate(lists) if any(telling(flat(one)) for one in rows[:20])}
    if not chosen and alone and lists:
        chosen = {max(range(len(lists)), key=lambda i: len(lists[i][1]))}
    if not chosen:
        yield Row(where, row)
        return
    for i, (path, rows) in enumerate(lists):
        if i not in chosen:
            tally.drop("list without a metric of a training", path)
        elif len(chosen) > 1 and _OF_EVALUATION.search(path):
            tally.drop("list of an evaluation", path)
        else:
            run = path if len(chosen) > 1 and not _GENERAL.search(path) else ""
            yield from (Row(f"{path} {number}", flat(one), run) for number, one in enumerate(rows, 1))


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by names: objects within the row become names with "/"."""
    found: dict[str, Any] = {}
    waiting = [("", values)]
    while waiting:
        before, inner = waiting.pop()
        for key, value in inner.items():
            if isinstance(value, dict):
                waiting.append((f"{before}{key}/", value))
            else:
                found[before + key] = value
    return found


def _next(text: str, place: int) -> int:
    return _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing as well


class _Columns(Sequence[dict[str, Any]]):
    """Equally long lists as rows, each made when it is asked for."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError
        return {name: values[index] for name, values in self._columns.items()}


def _lists(values: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, Sequence[dict[str, Any]]]]:
    """All lists of rows within an object, by the keys that lead to them."""
    columns: dict[int, dict[str, list[Any]]] = {}
    for key, value in values.items():
        inner = f"{path}/{key}" if path else key
        if isinstance(value, dict) and depth < _DEEPEST:
            yield from _lists(value, inner, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield inner, [one for one in value if isinstance(one, dict)]
        elif isinstance(value, list) and len(value) > 1:
            columns.setdefault(len(value), {})[key] = value
    for equally_long in columns.values():
        yield path or "columns", _Columns(equally_long)
