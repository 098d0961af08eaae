"""Read a run directory, finished or still being written, local or in an object store, from any process.

Files that cannot be read are named in `Run.problems` and left out; everything else is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc

from lldwatch.columns import Array
from lldwatch.errors import RunError, RunNotFoundError, SchemaTooNewError
from lldwatch.parts import Part, Span, attempt_ends, read_columns, span_of
from lldwatch.schema import SCHEMA_VERSION, TABLES, Event, Observation, RunInfo, arrow_schema, observations_of
from lldwatch.segments import INFO_FILE, Known, Segment, list_segments, read_segment
from lldwatch.stores.mirror import Mirror, runs_in
from lldwatch.stores.store import Store, is_url


class Run:
    """One run directory.

    Args:
        path: the directory that a `Recorder` wrote, or is writing; or its URL in an object store,
            `s3://bucket/prefix/run` (see `lldwatch.stores.store`).

    Attributes:
        path: the directory, or the URL.
        info: what `run.json` says; read again by `poll`.
        problems: one line for each file that could not be read, and why.

    Raises:
        RunNotFoundError: there is no run there.
        SchemaTooNewError: it was written by a newer lldwatch.
        RunError: the object store cannot be reached.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._mirror = Mirror(path) if is_url(path) else None
        self.path = path if is_url(path) else Path(path)
        self._folder = Path(path) if self._mirror is None else self._mirror.path
        self.problems: list[str] = []
        self._lost = ""
        self.info = RunInfo()
        self._polled: dict[Segment, Known | None] = {}  # given so far; None: sealed, and given whole
        self._spans: dict[tuple[str, Segment], Span] = {}  # of sealed segments, which never change
        if not self._folder.is_dir():
            what = "is a file, not a run directory" if self._folder.exists() else "does not exist"
            raise RunNotFoundError(f"{self.path} {what}: give the directory that you gave to Monitor")
        if not is_run(self._folder):
            raise RunNotFoundError(
                f"{self.path} is not a run: it has no {INFO_FILE} and no steps/. Give the run directory itself"
            )
        self._read_info()

    @property
    def ended(self) -> bool:
        """The training closed the run (False: it is running, or was killed)."""
        return self.info.ended is not None

    def observations(self) -> list[Observation]:
        """All steps in order; where a resumed run repeats steps, those of its last attempt."""
        rows: list[Observation] = []
        for table in self._new_tables({}):
            for observation in observations_of(table):
                while rows and rows[-1].step >= observation.step:
                    rows.pop()
                rows.append(observation)
        return rows

    def poll(self) -> list[Observation]:
        """The steps that have come since the last call, in the order of writing.

        After a resume the step number goes back: what was given for that step and later ones is then replaced
        (`lldwatch.follow.Follower` does that for you).
        """
        return [observation for table in self.poll_tables() for observation in observations_of(table)]

    def poll_tables(self) -> list[pa.Table]:
        """What `poll` gives, as it was read: tables of `lldwatch.schema.Observation` with at least one row each."""
        self._read_info()
        return list(self._new_tables(self._polled))

    def steps(self) -> pa.Table:
        """One row per step: the columns of `lldwatch.schema.Observation`."""
        return self._table("steps")

    def responses(self) -> pa.Table:
        """One row per response and update: the columns of `lldwatch.schema.Responses`, and `step`.

        Rows of all ranks; those of a rank stand together.
        """
        return self._table("responses")

    def probes(self) -> pa.Table:
        """One row per re-scored response: the columns of `lldwatch.schema.Probes`, and `step`."""
        return self._table("probes")

    def actions(self) -> pa.Table:
        """One row per action of a re-scored response: the columns of `lldwatch.schema.Actions`, and `step`."""
        return self._table("actions")

    def positions(self) -> pa.Table:
        """Confidence by the place in an action: the columns of `lldwatch.schema.Positions`, and `step`.

        Each rank has rows of its own: add them up by step and place.
        """
        return self._table("positions")

    def tokens(self) -> pa.Table:
        """Token by token, of a sample of re-scored responses: the columns of `lldwatch.schema.Tokens`, and `step`."""
        return self._table("tokens")

    def gradients(self) -> pa.Table:
        """Gradient norms of the parts of the model: the columns of `lldwatch.schema.Gradients`, and `step`."""
        return self._table("gradients")

    def events(self) -> pa.Table:
        """One row per event, of all attempts: the columns of `lldwatch.schema.Event`."""
        return self._table("events", all_attempts=True)

    def parts(self, table: str) -> list[Part]:
        """What a table is stored in, in the order of writing, with the steps of each part; its rows are not read."""
        pieces = list(self._pieces(table))
        if table == Event.TABLE:  # of all attempts
            return pieces
        ends = attempt_ends((piece.segment.attempt, piece.low, piece.high) for piece in self._pieces(Observation.TABLE))
        return [part for piece in pieces if (part := piece.until(ends.get(piece.segment.attempt, piece.low)))]

    def scan(
        self,
        table: str,
        columns: Sequence[str],
        *,
        steps: tuple[int | None, int | None] = (None, None),
        where: Mapping[str, Any] | None = None,
        parts: Sequence[Part] | None = None,
    ) -> Iterator[dict[str, Array]]:
        """Some columns of a table, batch by batch: for tables that do not fit into memory.

        As in the tables that are read whole, rows that a later attempt replaced are left out.

        Args:
            table: as in `lldwatch.schema.TABLES`.
            columns: names of columns.
            steps: the first and the last step; None: as far as there are any. Other parts are not read.
            where: column -> the value that it must have, or a list of values of which it must have one.
            parts: of what `parts(table)` gave; None: all of them.

        Yields:
            Column name -> values, shape (rows,); a masked array where some are missing, words as objects.
        """
        low, high = -sys.maxsize if steps[0] is None else steps[0], sys.maxsize if steps[1] is None else steps[1]
        for part in self.parts(table) if parts is None else parts:
            within = (max(low, part.low), min(high, part.high))
            if within[0] <= within[1]:
                try:
                    yield from read_columns(part.segment, self._folder / table, columns, within, where or {})
                except (OSError, ValueError, pa.ArrowException) as error:
                    self._unreadable(table, part.segment, error)

    def _new_tables(self, seen: dict[Segment, Known | None]) -> Iterator[pa.Table]:
        unread: list[Segment] = []
        for segment, sealed, new in self._read(Observation.TABLE, seen):
            if new is None:
                unread.append(segment)
                continue
            if sealed:
                seen[segment] = None
            if len(new):  # given after these, the steps of an unread segment would look like a training that went back
                seen.update(dict.fromkeys(unread, None))
                yield new

    def _table(self, name: str, *, all_attempts: bool = False) -> pa.Table:
        """A table without the rows that a later attempt replaced, and without rows of a step not yet complete."""
        ends = {} if all_attempts else self._attempt_ends()
        parts = []
        for segment, _, table in self._read(name):
            if table is not None:
                own = table if all_attempts else table.filter(pc.less(table["step"], ends.get(segment.attempt, 0)))
                parts.append(own)
        nothing = pa.Table.from_batches([], arrow_schema(name))  # empty_table() would import pandas
        return pa.concat_tables([nothing, *parts])

    def _attempt_ends(self) -> dict[int, int]:
        """Attempt -> first step that is not its own any more."""
        read = ((segment, table) for segment, _, table in self._read(Observation.TABLE) if table is not None)
        spans = ((segment.attempt, pc.min_max(table["step"]).as_py()) for segment, table in read if len(table))
        return attempt_ends((attempt, span["min"], span["max"]) for attempt, span in spans)

    def _pieces(self, name: str) -> Iterator[Part]:
        """The segments of a table that have rows, and can be read."""
        self._sync(name)
        folder = self._folder / name
        for segment in list_segments(folder)[0]:
            sealed = segment.part(folder).exists()
            span = self._spans.get((name, segment))
            if span is None:
                try:
                    span = span_of(segment, folder)
                except (OSError, ValueError, pa.ArrowException) as error:
                    self._unreadable(name, segment, error)
                    continue
                if sealed:
                    self._spans[name, segment] = span
            if span.rows:
                yield Part(segment, sealed, *span)

    def _read(
        self, name: str, seen: dict[Segment, Known | None] | None = None
    ) -> Iterator[tuple[Segment, bool, pa.Table | None]]:
        """Segment, whether it was sealed before it was read, and its rows; None if it cannot be read.

        What has been seen of a segment is left out, and brought up to date; None: all of it.
        """
        self._sync(name)
        folder = self._folder / name
        segments, foreign = list_segments(folder)
        for stranger in foreign:
            self._problem(f"{name}/{stranger} is not a file of lldwatch: left out")
        for segment in segments:
            known = Known() if seen is None else seen.setdefault(segment, Known())
            if known is None:
                continue
            sealed = segment.part(folder).exists()
            try:
                table = read_segment(segment, folder, known)
            except (OSError, ValueError, pa.ArrowException) as error:
                self._unreadable(name, segment, error)
                table = None
            yield segment, sealed, table

    def _sync(self, name: str) -> None:
        """Bring down what is new; while the store cannot be reached, what came before is read."""
        if self._mirror is None:
            return
        try:
            self._mirror.sync(name)
        except RunError as error:
            self._lost = self._lost or f"{error}: what was read before is shown"  # each request says it in other words
            self._problem(self._lost)
        else:
            if self._lost in self.problems:
                self.problems.remove(self._lost)
            self._lost = ""

    def _read_info(self) -> None:
        self._sync(INFO_FILE)
        try:
            self.info = RunInfo.from_json((self._folder / INFO_FILE).read_text())
        except FileNotFoundError:
            self._problem(f"{INFO_FILE} is missing: trainer, configuration and end of the run are unknown")
        except (OSError, ValueError, TypeError) as error:
            self._problem(f"{INFO_FILE} cannot be read ({error}): trainer, configuration and end are unknown")
        if self.info.schema_version > SCHEMA_VERSION:
            raise SchemaTooNewError(
                f"{self.path} has schema version {self.info.schema_version}, this lldwatch reads up to "
                f"{SCHEMA_VERSION}: update lldwatch (the run was written by {self.info.lldwatch_version})"
            )

    def _unreadable(self, name: str, segment: Segment, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        self._problem(f"{name}/{segment.name}.parquet cannot be read ({reason}): left out, with its rows")

    def _problem(self, line: str) -> None:
        if line not in self.problems:
            self.problems.append(line)


def is_run(path: Path) -> bool:
    """A directory that holds `run.json` or a table of steps."""
    return (path / INFO_FILE).is_file() or (path / Observation.TABLE).is_dir()


@overload
def list_runs(root: os.PathLike[str]) -> list[Path]: ...
@overload
def list_runs(root: str) -> list[Path] | list[str]: ...
def list_runs(root: str | os.PathLike[str]) -> list[Path] | list[str]:
    """All run directories at or below a folder, sorted by path; runs are not looked for inside runs.

    Args:
        root: the folder; or a URL, `s3://bucket/prefix`: then the runs are URLs as well.

    Raises:
        RunNotFoundError: the folder does not exist.
        RunError: the object store cannot be reached.
    """
    if is_url(root):
        store = Store(root)
        return [store.at(name) for name in runs_in(store)]
    root = Path(root)
    if not root.is_dir():
        raise RunNotFoundError(f"{root} does not exist: give the folder that holds your runs")
    found = []
    for folder, subfolders, _ in os.walk(root):
        if is_run(Path(folder)):
            found.append(Path(folder))
            subfolders.clear()
        else:
            subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in TABLES]
    return sorted(found)
