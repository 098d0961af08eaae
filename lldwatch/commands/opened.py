"""What a command was given to look at: a run of lldwatch, or a log of another tool, imported for the moment."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lldwatch.errors import InputError, RunNotFoundError
from lldwatch.follow import Follower
from lldwatch.importers.job import STDIN, Options, import_logs
from lldwatch.importers.result import Imported
from lldwatch.importers.tally import Tally, one_line
from lldwatch.run import Run, is_run


@contextmanager
def opened(source: str, options: Options) -> Iterator[list[tuple[str, Follower]]]:
    """The runs that a source holds: what to call each, and a follower that has read it.

    Args:
        source: a run directory, or anything that can be imported.
        options: how to import it.

    Raises:
        InputError: nothing in it can be read.
        RunNotFoundError: there is nothing.
    """
    if "://" in source or is_run(Path(source)):
        yield [(source, _read(Run(source), source))]
        return
    if source != STDIN and not Path(source).exists():
        raise RunNotFoundError(f"{source} does not exist: give a run directory, or the log of another tool")
    with tempfile.TemporaryDirectory(prefix="lldwatch-") as folder:
        runs, tally = import_logs(source, Path(folder, "run"), options)
        for line in _account(runs, tally):
            sys.stderr.write(f"lldwatch: {one_line(line)}\n")
        names = [one_line(run.source if len(runs) == 1 else f"{run.source} [{run.name}]") for run in runs]
        yield [(name, _read(Run(run.path), name)) for name, run in zip(names, runs, strict=True) if run.path]


def _account(runs: Sequence[Imported], tally: Tally) -> Iterator[str]:
    """What was read, and what is worth knowing of it: what files share is said once."""
    lines: dict[str, None] = {}
    for run in runs:
        lost = sum(count for count, _ in run.tally.dropped.values())
        words = f", {lost} rows or numbers left out (lldwatch import says why)" if lost else ""
        lines[f"{run.source} read as {run.format}, because {run.why}{words}"] = None
        lines.update(dict.fromkeys(f"{run.source}: {note}" for note in run.tally.notes))
    yield from (*lines, *tally.notes)


def _read(run: Run, name: str) -> Follower:
    follower = Follower(run)
    follower.update()
    if not follower.observations:
        why = "; ".join(run.problems) or "nothing was recorded yet"
        raise InputError(f"{name} has no readable steps: {why}")
    return follower
