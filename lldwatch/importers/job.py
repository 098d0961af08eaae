"""The import itself: from a file, a folder or standard input to run directories."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from lldwatch.errors import InputError, RunExistsError
from lldwatch.importers.find import Found, find, rows_of
from lldwatch.importers.format import Entry, Format, RowsFormat
from lldwatch.importers.known import FORMATS, by_name
from lldwatch.importers.names import lookup
from lldwatch.importers.progress import progress_of
from lldwatch.importers.recognise import recognise
from lldwatch.importers.result import Imported, account_of
from lldwatch.importers.rows import with_rows
from lldwatch.importers.same import leave_out_doubles
from lldwatch.importers.source import Source
from lldwatch.importers.steps import Step, Steps
from lldwatch.importers.tally import Tally
from lldwatch.importers.trainers import TABLES
from lldwatch.importers.write import RunWriter
from lldwatch.schema import RunInfo

__all__ = ["Options", "import_logs"]

STDIN = "-"
_NUMBERED = re.compile(r"(?:run|table)[- ]\d+(?:-\d+)?")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user says about the source.

    Attributes:
        format: its name, or "auto".
        own: our field -> their name.
        step_column: what the step is called, in formats that have columns.
        progress: show a progress bar on standard error, if that is a terminal.
    """

    format: str = "auto"
    own: Mapping[str, str] = field(default_factory=dict)
    step_column: str | None = None
    progress: bool = True


def import_logs(src: str | Path, out: Path, options: Options | None = None) -> tuple[list[Imported], Tally]:
    """Import all that a source holds.

    Args:
        src: a file, a folder, or "-" for standard input.
        out: the run directory; if there are several runs, the folder that gets one for each.
        options: what the user says about the source.

    Returns:
        One record a run, in the order of the source; and what is to be said of the source as a whole.

    Raises:
        InputError: nothing could be read.
        RunExistsError: `out` is there already, and not empty.
    """
    options, tally = options or Options(), Tally()
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".lldwatch-import-", dir=out.parent) as scratch:
        imported = _import_all(_what(str(src), options, tally), Path(scratch), options, tally)
        usable = leave_out_doubles([run for run in imported if run.steps], tally)
        if not usable:
            reasons = [*tally.notes, *tally.reasons, *(line for run in imported for line in _reasons(run))]
            raise InputError(f"{src} holds no usable step: {'; '.join(reasons[:3]) or _nothing(options)}")
        for run in imported:
            if not run.steps:
                tally.note(f"{run.source} ({run.format}) holds no usable step: {'; '.join(_reasons(run)[:2])}")
        _put_in_place(usable, out)
    return usable, tally


def check_free(out: Path) -> None:
    """Raises RunExistsError where a run cannot be written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunExistsError(f"{out} is there already: choose another --out, or remove it")


def _import_all(what: list[Found], scratch: Path, options: Options, tally: Tally) -> list[Imported]:
    """Of several logs, one that cannot be imported does not keep the others from it."""
    imported: list[Imported] = []
    for number, found in enumerate(what):
        try:
            imported += _import_one(found, scratch / str(number), options)
        except InputError as error:
            if len(what) == 1:
                raise
            tally.note(f"{found.source}: left out: {error}")
    return imported


def _nothing(options: Options) -> str:
    return "it has no metrics" if options.format == "auto" else f"nothing in it is {options.format}: try auto"


def _reasons(run: Imported) -> list[str]:
    return [*run.tally.notes, *run.tally.reasons]


def _what(src: str, options: Options, tally: Tally) -> list[Found]:
    path, chosen = Path(src), None if options.format == "auto" else by_name(options.format)
    if src == STDIN:
        return [Found("run", [], chosen if isinstance(chosen, Format) else None, "you said so")]
    if path.is_dir():
        found = [item for item in find(path, tally) if chosen in (None, item.format, item.rows_format)]
        if not found:
            raise InputError(f"{path} holds nothing of the format {options.format}: try auto")
        return found
    if not path.exists():
        raise InputError(f"{path} does not exist: give a log, a folder, or - for standard input")
    if not path.is_file():
        raise InputError(f"{path} can be read only once: pipe it in, and give - (zcat log.gz | lldwatch diagnose -)")
    rows = None if isinstance(chosen, Format) else rows_of(path, tally)
    if rows is not None and chosen in (None, rows.format):
        steps = {step: [part] for step, part in rows.steps.items()}
        return [Found(path.stem, [path], None, rows.why, steps, rows.format)]
    if isinstance(chosen, RowsFormat):
        raise InputError(f"{path} is not of the format {chosen.name}: its name must end as {chosen.path.pattern}")
    return [Found(path.stem, [path], chosen, "you said so")]


def _import_one(found: Found, scratch: Path, options: Options) -> list[Imported]:
    """The runs of one log; one without steps where there are none, which tells why."""
    tally = Tally()
    paths: list[Path | None] = list(found.paths) or [None]
    only_rows = found.rows_format is not None and found.format is None
    sources = [] if only_rows else [Source(path) for path in paths]
    fmt, why = found.format, found.why
    if sources and fmt is None:
        fmt, why = recognise(sources[0], tally)
    about = _about(fmt, found, sources)
    steps = guarded(_steps(fmt, sources, options, tally), tally)
    writers: dict[str, RunWriter] = {}
    for step, tables in with_rows(steps, found, tally):
        if step.run not in writers:
            writers[step.run] = RunWriter(scratch / str(len(writers)), about)
        writers[step.run].add(step.observation, tables, step.attempt)
    name = getattr(fmt or found.rows_format, "name", "")
    made = []
    for run, writer in writers.items():
        record = Imported(writer.path, _name_of(run, found), found.source, name, why, tally=tally)
        record.take(writer.written)
        record.tables = writer.tables
        writer.close(account_of(record))
        made.append(record)
    return made or [Imported(None, found.name, found.source, name, why, tally=tally)]


def _name_of(run: str, found: Found) -> str:
    """The name that the source gives; of runs that are only numbered, with that of the source, as others have such."""
    return f"{found.name}-{run}" if _NUMBERED.fullmatch(run) else run or found.name


def _steps(fmt: Format | None, sources: list[Source], options: Options, tally: Tally) -> Iterator[Step]:
    if fmt is None:
        return iter(())
    for source in sources:
        source.step_column = options.step_column
    if fmt.read_together is not None and len(sources) > 1:
        return steps_of(fmt, fmt.read_together(sources, tally), options, tally)
    entries = chain.from_iterable(_entries(fmt, source, options, tally) for source in sources)
    return steps_of(fmt, entries, options, tally)


def _entries(fmt: Format, source: Source, options: Options, tally: Tally) -> Iterator[Entry]:
    with progress_of(source, options.progress):
        yield from fmt.read(source, tally)


def steps_of(
    fmt: Format, entries: Iterable[Entry], options: Options, tally: Tally, *, at_once: bool = False
) -> Iterator[Step]:
    """Entries of a format as observations, by its own names and then by those of the others."""
    tables = [fmt.metrics, *(other.metrics for other in FORMATS if other is not fmt), *TABLES]
    steps = Steps(lookup(tables, options.own), tally, fmt.derive, at_once, options.own, options.step_column)
    return steps.of(entries)


def guarded(steps: Iterator[Step], tally: Tally) -> Iterator[Step]:
    """What a reader did not foresee ends the reading, not the import: what stands before is used."""
    try:
        yield from steps
    except (InputError, MemoryError):
        raise
    except Exception as error:  # told in the account of the import, as a fault of ours
        tally.fault(error)


def _about(fmt: Format | None, found: Found, sources: list[Source]) -> RunInfo:
    """What the source says of the run as a whole."""
    from lldwatch import __version__

    told: dict[str, Any] = fmt.about(sources[0]) if fmt and sources else {}
    config = {"imported_from": found.source, "format": getattr(fmt or found.rows_format, "name", "")}
    trainer = told.get("trainer") or getattr(fmt or found.rows_format, "trainer", "") or "unknown trainer"
    ended = max((path.stat().st_mtime for path in found.paths), default=None)
    return RunInfo(
        lldwatch_version=__version__,
        trainer=trainer,
        config={**config, **told.get("config", {})},
        planned_steps=told.get("planned_steps"),
        ended=None if ended is None else datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
    )


def _put_in_place(runs: list[Imported], out: Path) -> None:
    """One run becomes `out` itself, several stand in it, each under its name."""
    if out.exists():
        out.rmdir()
    if len(runs) > 1:
        out.mkdir()
    taken: set[str] = set()
    for run in runs:
        assert run.path is not None
        place = out if len(runs) == 1 else out / _free_name(run, taken)
        place.parent.mkdir(parents=True, exist_ok=True)
        run.path = run.path.rename(place)


def _free_name(run: Imported, taken: set[str]) -> str:
    """A folder name made of the run's name; nothing in it leads out of the folder."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in run.name)[:80].strip(".-") or "run"
    name, number = kept, 2
    while name.lower() in taken:
        name, number = f"{kept}-{number}", number + 1
    taken.add(name.lower())
    return name
