"""What a format is: the table of its names, how it is recognised, and how its entries are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lldwatch.columns import RowTable
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally


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
        read: the entries, in the order of the file. Never raises for what a file may hold: it counts it in the tally.
        about: fields of `RunInfo` (`config`, `planned_steps`, `trainer`) that the source tells.
        derive: more fields of `Observation`, from the numbers of a step by their names.
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
    about: Callable[[Source], dict[str, Any]] = field(default=lambda source: {})
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    whole_folder: bool = False
    extra: str | None = None


@dataclass(frozen=True, kw_only=True)
class RowsFormat:
    """A format that holds one row for each response or token, in files of one step each.

    Attributes:
        name: as on the command line.
        title: in words, with the tool that writes it.
        trainer: who trained.
        path: finds the step (group "step") in the end of a file's path; several files of a step are its ranks.
        recognise: why this file is of this format, in words that follow "because"; None if it is not.
        read: the tables of the step, from its files; `uid` counts on from the given number. Never raises for what a
            file may hold: it counts it in the tally.
    """

    name: str
    title: str
    path: re.Pattern[str]
    recognise: Callable[[Path], str | None]
    read: Callable[[Sequence[Path], int, Tally], Sequence[RowTable]]
    trainer: str = ""
