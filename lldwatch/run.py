"""Read a run directory, finished or still being written, local, from any process.

Files that cannot be read are named in `Run.problems` and left out; everything else is used.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lldwatch.errors import RunNotFoundError, SchemaTooNewError
from lldwatch.schema import SCHEMA_VERSION, TABLES, Observation, RunInfo, arrow_schema, observations_of
from lldwatch.segments import INFO_FILE, Segment, list_segments, read_segment


class Run:
    """One run directory.

    Args:
        path: the directory that a `Recorder` wrote, or is writing.

    Attributes:
        path: the directory.
        info: what `run.json` says; read again by `poll`.
        problems: one line for each file that could not be read, and why.

    Raises:
        RunNotFoundError: there is no run there.
        SchemaTooNewError: it was written by a newer lldwatch.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.problems: list[str] = []
        self.info = RunInfo()
        self._polled: dict[Segment, int] = {}  # rows given so far; -1: sealed, and given whole
        if not self.path.is_dir():
            what = "is a file, not a run directory" if self.path.exists() else "does not exist"
            raise RunNotFoundError(f"{self.path} {what}: give the directory that you gave to Monitor")
        if not is_run(self.path):
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
        for observation in self._new_rows({}):
            while rows and rows[-1].step >= observation.step:
                rows.pop()
            rows.append(observation)
        return rows

    def poll(self) -> list[Observation]:
        """The steps that have come since the last call, in the order of writing.

        After a resume the step number goes back: what was given for that step and later ones is then replaced
        (`lldwatch.follow.Follower` does that for you).
        """
        self._read_info()
        return list(self._new_rows(self._polled))

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

    def _new_rows(self, seen: dict[Segment, int]) -> Iterator[Observation]:
        whole = {segment for segment, rows in seen.items() if rows == -1}
        unread: list[Segment] = []
        for segment, sealed, table in self._read(Observation.TABLE, whole):
            if table is None:
                unread.append(segment)
                continue
            new = table.slice(seen.get(segment, 0))
            seen[segment] = -1 if sealed else len(table)
            if len(new):  # given after these, the steps of an unread segment would look like a training that went back
                seen.update(dict.fromkeys(unread, -1))
            yield from observations_of(new)

    def _table(self, name: str, *, all_attempts: bool = False) -> pa.Table:
        """A table without the rows that a later attempt replaced, and without rows of a step not yet complete."""
        ends = {} if all_attempts else self._attempt_ends()
        parts = []
        for segment, _, table in self._read(name):
            if table is not None:
                own = table if all_attempts else table.filter(pc.less(table["step"], ends.get(segment.attempt, 0)))
                parts.append(own)
        return pa.concat_tables([arrow_schema(name).empty_table(), *parts])

    def _attempt_ends(self) -> dict[int, int]:
        """Attempt -> first step that is not its own any more: where a later attempt began, or past its last step."""
        spans: dict[int, tuple[int, int]] = {}
        for segment, _, table in self._read(Observation.TABLE):
            if table is not None and len(table):
                low, high = pc.min_max(table["step"]).as_py().values()
                before = spans.get(segment.attempt, (low, high))
                spans[segment.attempt] = (min(low, before[0]), max(high, before[1]))
        starts = [(attempt, low) for attempt, (low, _) in spans.items()]
        return {
            attempt: min([high + 1, *(low for later, low in starts if later > attempt)])
            for attempt, (_, high) in spans.items()
        }

    def _read(self, name: str, skip: Collection[Segment] = ()) -> Iterator[tuple[Segment, bool, pa.Table | None]]:
        """Segment, whether it was sealed before it was read, and its rows; None if it cannot be read."""
        folder = self.path / name
        segments, foreign = list_segments(folder)
        for stranger in foreign:
            self._problem(f"{name}/{stranger} is not a file of lldwatch: left out")
        for segment in segments:
            if segment in skip:
                continue
            sealed = segment.part(folder).exists()
            try:
                table = read_segment(segment, folder)
            except (OSError, ValueError, pa.ArrowException) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self._problem(f"{name}/{segment.name}.parquet cannot be read ({reason}): left out, with its rows")
                table = None
            yield segment, sealed, table

    def _read_info(self) -> None:
        try:
            self.info = RunInfo.from_json((self.path / INFO_FILE).read_text())
        except FileNotFoundError:
            self._problem(f"{INFO_FILE} is missing: trainer, configuration and end of the run are unknown")
        except (OSError, ValueError, TypeError) as error:
            self._problem(f"{INFO_FILE} cannot be read ({error}): trainer, configuration and end are unknown")
        if self.info.schema_version > SCHEMA_VERSION:
            raise SchemaTooNewError(
                f"{self.path} has schema version {self.info.schema_version}, this lldwatch reads up to "
                f"{SCHEMA_VERSION}: update lldwatch (the run was written by {self.info.lldwatch_version})"
            )

    def _problem(self, line: str) -> None:
        if line not in self.problems:
            self.problems.append(line)


def is_run(path: Path) -> bool:
    """A directory that holds `run.json` or a table of steps."""
    return (path / INFO_FILE).is_file() or (path / Observation.TABLE).is_dir()


def list_runs(root: str | os.PathLike[str]) -> list[Path]:
    """All run directories at or below a folder, sorted by path; runs are not looked for inside runs.

    Raises:
        RunNotFoundError: the folder does not exist.
    """
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
