"""What a format is: the table of its names, how it is recognised, and how its entries are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally
from lldwatch.schema import Responses


class Entry(NamedTuple):
    """One row of metrics as it stands in a foreign log; several of the same step are put together.

    Attributes:
        step: as the trainer counted it; None if the log does not say.
        values: their name -> value, of any type; what is no number is counted and left out.
        where: the place, for messages ("line 7").
        run: its name, if a source holds several runs side by side.
        time: Unix time in s, if the log says.
    """

    step: int | None
    values: Mapping[str, Any]
    where: str
    run: str = ""
    time: float | None = None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format, whole: nothing else needs to be known of it.

    Attributes:
        name: as on the command line.
        title: in words, with the tool that writes it.
        trainer: who trained, for `run.json`; "" if the format does not tell.
        metrics: their name -> field of `lldwatch.schema.Observation`. Where several names of one entry stand for the
            same field, the one that comes first in the table holds.
        recognise: why this source is of this format, in words that follow "because"; None if it is not. Sees only
            `path`, `head` and `opening` of the source, and reads nothing.
        line: finds a line that only this format has, in logs whose head does not give them away; None for others.
        sign: stands in each line that `line` finds, so that others need not be searched.
        read: the entries, in the order of the file. Never raises for what a file may hold: it counts it in the tally.
        about: fields of `RunInfo` (`config`, `planned_steps`, `trainer`) that the source tells.
        derive: more fields of `Observation`, from the numbers of a step by their names.
        whole_steps: each entry is a whole step, so that a live stream need not wait for the next one.
        read_together: the same for all files of a folder, where these are parts of the same steps; else one by one.
        whole_folder: all such files of a folder are one run (event files).
        extra: the package that must be installed to read it.
    """

    name: str
    title: str
    metrics: Mapping[str, str]
    read: Callable[[Source, Tally], Iterator[Entry]]
    trainer: str = ""
    recognise: Callable[[Source], str | None] = lambda source: None
    line: re.Pattern[str] | None = None
    sign: str = ""
    about: Callable[[Source], dict[str, Any]] = field(default=lambda source: {})
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    whole_steps: bool = False
    read_together: Callable[[Sequence[Source], Tally], Iterator[Entry]] | None = None
    whole_folder: bool = False
    extra: str | None = None


class Part(NamedTuple):
    """Where rows of a step stand: in a file, from a byte on, so many lines (None: to the end)."""

    path: Path
    start: int = 0
    lines: int | None = None


class Rows(NamedTuple):
    """The rows of one step.

    Attributes:
        responses: without `uid`, which the import counts through the run.
        values: fields of `Observation` that the rows tell beyond what `lldwatch.rollup.summarise` makes of them.
        marks: what tells each response from the others, where a trainer writes a batch that it uses again once more.
    """

    responses: Responses
    values: Mapping[str, float] = {}
    marks: Sequence[bytes] | None = None


@dataclass(frozen=True, kw_only=True)
class RowsFormat:
    """A format that holds one row for each response or token, in files of one step each or in one for all steps.

    Attributes:
        name: as on the command line.
        title: in words, with the tool that writes it.
        trainer: who trained.
        path: finds such files by the end of their path, and the step by the group "step"; several files of a step are
            its ranks. What stands before the match is the folder that all steps are in.
        aside: finds files of the same kind that hold the responses of an evaluation: these are left out, and noted.
        recognise: why this file is of this format, in words that follow "because"; None if it is not.
        steps: step -> where in the file its rows stand, for files whose path names no step.
        read: takes where the rows of all steps stand, and gives what reads those of one. Neither raises for what a
            file may hold: it counts it in the tally.
    """

    name: str
    title: str
    path: re.Pattern[str]
    recognise: Callable[[Path], str | None]
    read: Callable[[Mapping[int, Sequence[Part]], Tally], Callable[[int], Rows]]
    steps: Callable[[Path, Tally], Mapping[int, Part]] | None = None
    aside: re.Pattern[str] | None = None
    trainer: str = ""
