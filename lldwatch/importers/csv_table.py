"""A table in text with a row a step: CSV, TSV, with semicolons, with blanks, or as Markdown; the head names columns.

Several tables may follow each other in a file, each with its head, or with the head of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from lldwatch.importers.csv_cells import Head, head_of, is_head, is_number, names_of, whole_lines
from lldwatch.importers.format import Entry, Format
from lldwatch.importers.metric_rows import (
    are_of_steps,
    counts,
    entry_of,
    in_words,
    is_transcript,
    knows,
    oldest_first,
    telling,
)
from lldwatch.importers.source import Line, Source
from lldwatch.importers.tally import Tally

_HEAD_WITHIN = 60
_ENOUGH = 3


def _recognise(source: Source) -> str | None:
    if not source.is_text:
        return None
    lines = [Line(number, text) for number, text in enumerate(source.opening.splitlines()[:_HEAD_WITHIN], 1) if text]
    head = head_of(lines)
    if head is None:
        return None
    rows, known = list(_rows_below(head, lines)), sum(map(knows, head.names))
    sparse = known >= _ENOUGH and not is_transcript(head.names)  # the first rows may hold none of them
    if not (sparse or any(map(telling, rows))) or not are_of_steps(rows):
        return None
    return f"line {head.line} is the head of a table with {in_words(filter(knows, head.names))}"


def _rows_below(head: Head, lines: list[Line]) -> Iterator[dict[str, str]]:
    for line in lines:
        cells = head.style.cells(line.text)
        if line.number > head.line and len(cells) == len(head.names):
            yield dict(zip(head.names, cells, strict=True))


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    entries = _entries(source, tally)
    return entries if source.path is None else oldest_first(entries, tally, source.step_column)


def _entries(source: Source, tally: Tally) -> Iterator[Entry]:
    lines = source.lines(tally)
    first = list(islice(lines, _HEAD_WITHIN if source.path else 1))
    head = head_of(first) or head_of(first, any_names=True)
    if head is None and source.path is None:  # a stream: its head comes first, and its rows as they come
        first += islice(lines, 2)
        head = head_of(first) or head_of(first, any_names=True)
    if head is None:
        tally.note(f"{source.name} has no head that names the columns of a table")
        return
    for line in first:
        if line.number < head.line:
            tally.drop("line above the head of the table", f"line {line.number}")
    rest = (line for line in chain(first, lines) if line.number > head.line)
    yield from _rows(head, rest, source.step_column, tally)


def _rows(head: Head, lines: Iterator[Line], step_column: str | None, tally: Tally) -> Iterator[Entry]:
    names, style = _unique(head.names, tally), head.style
    for number, text in whole_lines(lines):
        cells = style.cells(text)
        where = f"line {number}"
        if not cells:
            continue
        if not any(map(is_number, cells)):
            if is_head(cells):
                names = _unique(names_of(cells), tally)
                tally.note(f"{where}: another head, another table begins")
            else:
                tally.drop("row without numbers (units, or a remark)", where)
            continue
        if len(cells) != len(names):
            cells = _fitted(cells, len(names))
            if not cells:
                tally.drop("row with more or fewer cells than the head", where)
                continue
        entry = entry_of(dict(zip(names, cells, strict=True)), step_column, where, tally)
        if entry is not None:
            yield entry


def _fitted(cells: list[str], width: int) -> list[str]:
    """Cells beyond the head are left out if they are blank; a row that does not fit says nothing of which is which."""
    return cells[:width] if len(cells) > width and not any(cell.strip() for cell in cells[width:]) else []


def _unique(names: list[str], tally: Tally) -> list[str]:
    """The names; one that comes again is changed, so that the first column of it holds."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen and counts(name):
            tally.note(f"column {name} stands there twice: the first one is used")
            names[index] = f"{name} (column {index + 1})"
        seen.add(name)
    return names


FORMAT = Format(
    name="csv",
    title="table in text with a row a step: CSV, TSV, semicolons, blanks, Markdown",
    metrics={},
    recognise=_recognise,
    read=_read,
)
