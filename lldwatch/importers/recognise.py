"""Which format a file is of: by its head, or by the first line that only one format has."""

from __future__ import annotations

import re

from lldwatch.errors import InputError
from lldwatch.importers.format import Format
from lldwatch.importers.known import FORMATS, names
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

_WITH_LINES = [fmt for fmt in FORMATS if fmt.line is not None]
_ANY = re.compile("|".join(f"(?:{f.line.pattern})" for f in _WITH_LINES if f.line) or r"(?!)")


def recognise(source: Source, tally: Tally) -> tuple[Format, str]:
    """The format, and why: in words that follow "because".

    A log whose head says nothing is read up to the first line that does; `source.lines` goes on with that line.

    Raises:
        InputError: no format fits.
    """
    for fmt in FORMATS:
        if why := fmt.recognise(source):
            return fmt, why
    if source.is_text:
        for line in source.lines(tally):
            if _ANY.search(line.text):
                source.unread(line)
                fmt = next(f for f in _WITH_LINES if f.line and f.line.search(line.text))
                return fmt, f'line {line.number} reads "{line.text.strip()[:60]}"'
    raise InputError(f"{source.name} {_what_it_is(source)}: name its format, one of {', '.join(names())}")


def _what_it_is(source: Source) -> str:
    if not source.is_text:
        return "is binary, of no format that is known"
    if re.match(r"\s*(<!doctype html|<html)", source.opening, re.IGNORECASE):
        return "is a web page without a table of metrics (an error page, perhaps)"
    return "has nothing in it that a known trainer or logger writes"
