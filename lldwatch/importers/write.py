"""A run directory made of observations that come from somewhere else: whole parts, written as they fill up.

Rejected: the `Recorder`, which drops what comes faster than its disk takes it: right for a training, wrong here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from lldwatch.batches import one_row, rows_batch
from lldwatch.columns import RowTable
from lldwatch.schema import Event, Observation, RunInfo, arrow_schema
from lldwatch.segments import INFO_FILE, Segment, write_part

_STEPS_PER_PART = 5000
_ROWS_PER_PART = 200_000


class Written:
    """Which steps a run has. What a resumed training made again counts once.

    Attributes:
        measured: fields of `Observation` that had a value at least once.
    """

    def __init__(self) -> None:
        self.measured: set[str] = set()
        self._steps = array("q")
        self._attempt = 0

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def ends(self) -> tuple[int | None, int | None]:
        """The first and the last step; None if there is none."""
        return (self._steps[0], self._steps[-1]) if self._steps else (None, None)

    def add(self, observation: Observation, attempt: int) -> None:
        """Another step; those of earlier attempts that stand at it or behind it are replaced."""
        if attempt != self._attempt:
            del self._steps[bisect_left(self._steps, observation.step) :]
            self._attempt = attempt
        self._steps.append(observation.step)
        self.measured.update(name for name, value in observation.as_dict().items() if value is not None)


class RunWriter:
    """Writes one run.

    Args:
        path: its directory; made if it is not there.
        info: what `run.json` says; start and end are taken from the steps where these have a time.

    Attributes:
        written: the steps so far.
        tables: rows so far, by table.
    """

    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path, self.info = path, info
        self.written = Written()
        self.tables: dict[str, int] = {}
        self._observations: list[Observation] = []
        self._rows: dict[str, list[pa.RecordBatch]] = {}
        self._number = self._rows_waiting = 0
        path.mkdir(parents=True, exist_ok=True)

    def add(self, observation: Observation, tables: Sequence[RowTable] = (), attempt: int = 0) -> None:
        """Keep a step, and rows of other tables that belong to it."""
        if attempt != self.info.attempt:
            self._flush()
            self.info = replace(self.info, attempt=attempt, resumed_from=observation.step - 1)
            self._number = 0
        self.written.add(observation, attempt)
        self._date(observation)
        self._observations.append(observation)
        for name in {table.TABLE for table in tables}:
            batch = rows_batch(name, observation.step, [table for table in tables if name == table.TABLE])
            if batch is not None:
                self._rows.setdefault(name, []).append(batch)
                self.tables[name] = self.tables.get(name, 0) + batch.num_rows
                self._rows_waiting += batch.num_rows
        if len(self._observations) >= _STEPS_PER_PART or self._rows_waiting >= _ROWS_PER_PART:
            self._flush()

    def close(self, words: str) -> None:
        """Write what is left, and an event that says where the run comes from."""
        self._flush()
        self._write("events", pa.Table.from_batches([one_row(Event(step=-1, kind="import", detail=words))]))
        (self.path / INFO_FILE).write_text(self.info.to_json(), encoding="utf-8", errors="replace")

    def _date(self, observation: Observation) -> None:
        when = _iso(observation.time)
        if when is not None:
            self.info = replace(self.info, started=self.info.started or when, ended=when)

    def _flush(self) -> None:
        for name, batches in self._rows.items():
            if batches:
                self._write(name, pa.Table.from_batches(batches))
        if self._observations:  # last: a step that stands is whole
            self._write(Observation.TABLE, _table(self._observations))
        self._observations, self._rows, self._rows_waiting = [], {}, 0
        self._number += 1

    def _write(self, name: str, table: pa.Table) -> None:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        write_part(table, Segment(self.info.attempt, 0, self._number).part(folder))


def _table(observations: Sequence[Observation]) -> pa.Table:
    columns = {item.name: [getattr(row, item.name) for row in observations] for item in fields(Observation)}
    return pa.Table.from_pydict(columns, schema=arrow_schema(Observation.TABLE))


def _iso(time: float | None) -> str | None:
    try:
        return None if time is None else datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
