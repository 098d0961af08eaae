"""Which format a file is of: by its head, or by the first line that only one format has."""

from __future__ import annotations

import re
from collections import deque

from lldwatch.errors import InputError
from lldwatch.importers.format import Format
from lldwatch.importers.known import FORMATS, names
from lldwatch.importers.source import Line, Source
from lldwatch.importers.tally import Tally, one_line

_KEPT_LINES = 20_000
_SHORT = 250
"""Characters."""

_LINES = [(fmt.sign, fmt.line.search, fmt) for fmt in FORMATS if fmt.line is not None]


def recognise(source: Source, tally: Tally) -> tuple[Format, str]:
    """The format, and why: in words that follow "because".

    A log whose head says nothing is read up to the first line that does; `source.lines` goes on with what stands
    before it: the short lines at least, such as progress bars.

    Raises:
        InputError: no format fits.
    """
    for fmt in FORMATS:
        if why := fmt.recognise(source):
            return fmt, why
    if source.is_text:
        before: deque[Line] = deque(maxlen=_KEPT_LINES)
        for line in source.lines(tally):
            if len(line.text) <= _SHORT:
                before.append(line)
            found = _format_of(line.text)
            if found is not None:
                for kept in reversed([*before, line] if len(line.text) > _SHORT else before):
                    source.unread(kept)
                return found, f'line {line.number} reads "{one_line(line.text.strip()[:60])}"'
    raise InputError(
        f"{source.name} {_what_it_is(source)}: name its format, one of {', '.join(names())} "
        "(json, csv and parquet take names of any program: --map reward=THEIRS)"
    )


def _format_of(text: str) -> Format | None:
    for sign, search, fmt in _LINES:
        if sign in text and search(text):
            return fmt
    return None


def _what_it_is(source: Source) -> str:
    if not source.is_text:
        return "is binary, of no format that is known"
    if re.match(r"\s*(<!doctype html|<html)", source.opening, re.IGNORECASE):
        return "is a web page without a table of metrics (an error page, perhaps)"
    return "has nothing in it that a known trainer or logger writes"
