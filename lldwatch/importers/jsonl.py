"""JSON of any program: one object a line, a list of objects, objects that hold such a list, or one list a metric."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.json_rows import Row, rows_in, rows_of
from lldwatch.importers.metric_rows import are_of_steps, entry_of, in_words, oldest_first, telling
from lldwatch.importers.names import step_of
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

_LOOK_AT_ROWS = 200
_WHOLE = 4096
"""A head with fewer bytes than this is all there is, or the start of a stream."""

_OBJECT = re.compile(r"\s*\{")
_DOCUMENT = re.compile(r'\s*(?:\[\s*\{|\{\s*")')
_SIGN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|[{}\[\],]', re.DOTALL)
_LINE = re.compile(
    r'^\s*\{(?=.*"(?:\w+[_/])?step"\s*:)'
    r'(?=.*"(?:\w+/)*(?:mean_|avg_)?(?:reward|grad_norm|kl|entropy)(?:_mean|/mean)?"\s*:)'
    r'(?!.*"(?:prompt|completion|response|action|observation|messages)"\s*:).*\}\s*$'
)


def _is_lines(source: Source) -> bool:
    """One object a line: not a document that must be held whole. A stream that has just begun may have half a line."""
    if source.in_lines or not _DOCUMENT.match(source.opening):
        return True
    first, newline, rest = source.opening.lstrip().partition("\n")
    if not newline and source.path is None and len(source.head) < _WHOLE:
        return first.startswith("{")
    return _is_object(first) and (not rest.strip() or rest.lstrip().startswith("{"))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _recognise(source: Source) -> str | None:
    opening = source.opening.lstrip()
    if not (source.is_text and opening.startswith(("{", "["))):
        return None
    if source.path is not None and source.path.name == "wandb-summary.json":
        return None
    rows = _rows_of_lines(opening) if _is_lines(source) else _rows_of_half(source, opening)
    seen = [row.values for row in islice(rows, _LOOK_AT_ROWS)]
    one_will_do = source.path is None
    for values in seen if are_of_steps(seen) else ():
        names = telling(values)
        if names and (one_will_do or step_of(values) is not None):
            return f"it is JSON, in rows that have {in_words(names)}"
        one_will_do = one_will_do or bool(names)  # one row alone, without a step, is a summary
    return None


def _rows_of_lines(opening: str) -> Iterator[Row]:
    for line in opening.splitlines():
        try:
            yield from rows_of(json.loads(line), "", Tally())
        except (ValueError, RecursionError):
            continue


def _rows_of_half(source: Source, opening: str) -> Iterator[Row]:
    """Rows of a document of which only the head is there: what stands open at its end is closed."""
    yield from rows_in(opening if len(source.head) < _WHOLE else _closed(opening), Tally())


def _closed(text: str) -> str:
    """JSON that was cut off, up to its last whole value, with all brackets closed."""
    open_brackets: list[str] = []
    kept, brackets_kept = 0, ""
    for found in _SIGN.finditer(text):
        sign = found[0]
        if sign in "}],":
            kept, brackets_kept = found.start(), "".join(reversed(open_brackets))
        if sign in "{[":
            open_brackets.append("}" if sign == "{" else "]")
        elif sign in "}]" and open_brackets:
            open_brackets.pop()
    return text[:kept] + brackets_kept


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    rows = _lines(source, tally) if _is_lines(source) else rows_in(source.document(tally), tally)
    entries = _entries(rows, source.step_column, tally)
    return entries if source.path is None else oldest_first(entries, tally, source.step_column)


def _lines(source: Source, tally: Tally) -> Iterator[Row]:
    alone = "\n" not in source.opening.strip()
    for number, line in source.lines(tally):
        if not _OBJECT.match(line):
            tally.drop("line that is no object of JSON", f"line {number}")
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            tally.drop("line that breaks off, or is no JSON", f"line {number}")
            continue
        if any(isinstance(inner, list | dict) for inner in value.values()):
            yield from rows_of(value, f"line {number}", tally, alone=alone)
        else:
            yield Row(f"line {number}", value)


def _entries(rows: Iterator[Row], step_column: str | None, tally: Tally) -> Iterator[Entry]:
    for where, values, run in rows:
        entry = entry_of(values, step_column, where, tally)
        if entry is not None:
            yield entry._replace(run=run)


FORMAT = Format(
    name="json",
    title="JSON of any program: lines, a list of rows, or a list a metric",
    metrics={},
    recognise=_recognise,
    line=_LINE,
    sign='"',
    read=_read,
)
