"""What the web page of W&B exports: one CSV a panel, with a column a run, and its minimum and maximum beside it.

Several panels in one folder are of the same runs, and are put together by step.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lldwatch.importers.csv_cells import whole_lines
from lldwatch.importers.format import Entry, Format
from lldwatch.importers.metric_rows import counts
from lldwatch.importers.names import STEPS, step_of
from lldwatch.importers.numbers import number
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

MOST_CELLS = 5_000_000
"""Cells that are held; a panel has up to ten thousand rows, so no export comes near."""

_BOUND = re.compile(r"__(?:MIN|MAX)$")
_SEPARATOR = " - "

Held = dict[str, dict[int, dict[str, float]]]
"""Run -> step -> name -> number."""


class _Column(NamedTuple):
    """Where a number of a run stands."""

    place: int
    run: str
    tag: str


def _recognise(source: Source) -> str | None:
    if not source.is_text:
        return None
    head = _cells(source.opening.lstrip("\ufeff").partition("\n")[0])
    names = {cell.removesuffix("__MAX") for cell in head if cell.endswith("__MAX")}
    panels = [cell for cell in head if cell in names and _SEPARATOR in cell]
    return f'its columns are named as W&B exports them, "{panels[0][:60]}"' if panels else None


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r")]), [])
    except csv.Error:
        return []


def _columns(head: Sequence[str]) -> list[_Column]:
    """The columns of runs; those of a minimum or maximum are left out, since a mean is asked for."""
    return [_Column(i, *_parted(cell)) for i, cell in enumerate(head) if i and not _BOUND.search(cell)]


def _parted(cell: str) -> tuple[str, str]:
    """Run and tag of "run - tag": both may hold the sign, the tag is what has a name that is known, or no sign."""
    places = [match.start() for match in re.finditer(_SEPARATOR, cell)]
    if not places:
        return "", cell
    known = [place for place in places if counts(cell[place + len(_SEPARATOR) :])]
    place = (known or places)[-1]
    return cell[:place], cell[place + len(_SEPARATOR) :]


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    return _together([source], tally)


def _together(sources: Sequence[Source], tally: Tally) -> Iterator[Entry]:
    held: Held = {}
    cells = sum(_take(source, held, tally) for source in sources)
    if cells >= MOST_CELLS:
        tally.note(f"more than {MOST_CELLS:,} cells: what stands after these was left out")
    for run, steps in held.items():
        for step in sorted(steps):
            yield Entry(step, steps[step], f"step {step}", run, steps[step].get("_timestamp"))


def _take(source: Source, held: Held, tally: Tally) -> int:
    """Add one panel; how many cells it had."""
    lines = whole_lines(source.lines(tally))
    first = next(lines, None)
    if first is None:
        return 0
    head = _cells(first.text.lstrip("\ufeff"))
    columns, count = _columns(head), 0
    for line, text in lines:
        cells = _cells(text)
        if len(cells) != len(head):
            tally.drop("row with more or fewer cells than the head", f"{source.name} line {line}")
            continue
        for run, values in _by_run(cells, columns).items():
            step = _step(head[0], cells[0], values, source.step_column)
            if step is None:
                tally.drop(f"row without a step ({head[0]} is none)", f"{source.name} line {line}")
            elif count < MOST_CELLS:
                _put(held.setdefault(run, {}).setdefault(step, {}), values, tally, f"{source.name} line {line}")
                count += len(values)
    return count


def _by_run(cells: Sequence[str], columns: Sequence[_Column]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for place, run, tag in columns:
        if cells[place].strip():
            found.setdefault(run, {})[tag] = cells[place]
    return found


def _step(axis: str, cell: str, values: Mapping[str, str], chosen: str | None) -> int | None:
    """The step is the axis, unless that is a time: then it is what the run logged beside it."""
    if axis == chosen or (chosen is None and (axis in STEPS or axis.endswith("step"))):
        return step_of({axis: cell}, axis)
    return step_of(values, chosen)


def _put(row: dict[str, float], values: Mapping[str, str], tally: Tally, where: str) -> None:
    for tag, cell in values.items():
        try:
            given = number(cell)
        except ValueError:
            tally.drop(f"{tag} that is not a number", where)
            continue
        if given is None:
            continue
        if tag in row and row[tag] != given and given == given:
            tally.drop(f"{tag} given again for the same step: the last one holds", where)
        row[tag] = given


FORMAT = Format(
    name="wandb-csv",
    title="CSV that the web page of W&B exports, one a panel",
    metrics={},
    recognise=_recognise,
    read=_read,
    read_together=_together,
    whole_folder=True,
)
