"""Cells of a table in text: which sign parts them, and which line is its head.

Rejected: `csv.Sniffer`, which guesses letters as delimiters and takes the first line for the head.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from lldwatch.importers.metric_rows import knows, tidy
from lldwatch.importers.names import STEPS
from lldwatch.importers.numbers import number
from lldwatch.importers.source import Line

_MOST_LINES_OF_A_CELL = 1000
_DECIMAL_COMMA = re.compile(r"^\s*[-+]?\d+,\d+(?:[eE][-+]?\d+)?\s*$")
_RULE = re.compile(r"^[\s|+:=\-]*$")


class Style(NamedTuple):
    """How the cells of a table are parted: by "," ";" TAB or "|", or by blanks where `delimiter` is " "."""

    delimiter: str

    def cells(self, line: str) -> list[str]:
        """The cells of a line; none of an empty line, a comment or a rule."""
        if _RULE.match(line):
            return []
        if self.delimiter == " ":
            return line.split()
        if self.delimiter == "|":
            return [cell.strip() for cell in line.strip().strip("|").split("|")]
        try:
            cells = next(csv.reader([line], delimiter=self.delimiter, skipinitialspace=True))
        except (csv.Error, StopIteration):
            return line.split(self.delimiter)
        if self.delimiter == ";":
            return [cell.replace(",", ".") if _DECIMAL_COMMA.match(cell) else cell for cell in cells]
        return cells


_STYLES = tuple(Style(sign) for sign in (",", "\t", ";", "|", " "))


class Head(NamedTuple):
    """The names of a table's columns, the line they stand in, and how cells are parted."""

    names: list[str]
    line: int
    style: Style


def head_of(lines: Sequence[Line], any_names: bool = False) -> Head | None:
    """The head of a table within its first lines: the line with the most names that tell of a training.

    Args:
        lines: the first ones.
        any_names: take a line of words above a line with numbers, even if no name is known.
    """
    best: tuple[int, int, Head] | None = None
    for index, line in enumerate(lines):
        for style in _STYLES:
            names = names_of(style.cells(line.text))
            known = sum(map(knows, names))
            if len(names) < 2 or (not known and not any_names) or not _has_row(lines[index + 1 :], style, len(names)):
                continue
            if best is None or (known, len(names)) > best[:2]:
                best = known, len(names), Head(names, line.number, style)
    return best and best[2]


def names_of(cells: Sequence[str]) -> list[str]:
    """The cells as names; none if they are no head: in a head nothing is a number."""
    names = [tidy(cell) for cell in cells]
    return names if any(names) and not any(is_number(name) for name in names) else []


def is_head(cells: Sequence[str]) -> bool:
    """Another head, within a table: a run was appended."""
    names = names_of(cells)
    return len(names) > 1 and any(map(knows, names)) and (names[0] in STEPS or sum(map(knows, names)) > 1)


def is_number(cell: str) -> bool:
    """Not blank, and a number."""
    try:
        return number(cell) is not None
    except ValueError:
        return False


def whole_lines(lines: Iterable[Line]) -> Iterator[Line]:
    """Lines whose quotes are closed: a quoted cell may hold line ends."""
    held: list[Line] = []
    quotes = 0
    for line in lines:
        held.append(line)
        quotes += line.text.count('"')
        if quotes % 2 == 0:
            yield held[0] if len(held) == 1 else Line(held[0].number, "\n".join(one.text for one in held))
        elif len(held) < _MOST_LINES_OF_A_CELL:
            continue
        else:
            yield from held  # a lone quote, not a cell
        held, quotes = [], 0
    yield from held


def _has_row(lines: Sequence[Line], style: Style, width: int) -> bool:
    """One of the next three lines has as many cells, and a number among them; blanks part many a sentence."""
    for line in lines[:3]:
        cells = style.cells(line.text)
        numbers = sum(map(is_number, cells))
        if len(cells) == width and numbers and (style.delimiter != " " or numbers >= width - 1 >= 1):
            return True
    return False
