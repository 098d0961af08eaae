"""What was recorded since the last part: in memory, and in live segments as far as the disk took it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lldwatch.schema import TABLES, Observation, arrow_schema
from lldwatch.segments import Segment, write_part

ORDER = (*(table for table in TABLES if table != Observation.TABLE), Observation.TABLE)
"""The order of writing: a step that stands is whole."""


class Unsealed:
    """The open segment of each table of one rank.

    Args:
        path: the run directory.
        rank: of this process.
        attempt: of the run.
        check: raises an OSError or RunError if nothing may be written there any more.

    Attributes:
        steps: that are not sealed.
        rows: of all tables that are not.
    """

    def __init__(self, path: Path, rank: int, attempt: int, check: Callable[[], None]) -> None:
        self._path, self._rank, self._attempt, self._check = path, rank, attempt, check
        self._number = 0
        self._batches: dict[str, list[pa.RecordBatch]] = {table: [] for table in TABLES}
        self._live: dict[str, tuple[pa.OSFile, Any]] = {}
        self._live_works, self._live_steps, self.steps, self.rows = True, 0, 0, 0

    def __bool__(self) -> bool:
        return any(self._batches.values())

    @property
    def number(self) -> int:
        """Of the open segment."""
        return self._number

    def add(self, batches: Sequence[tuple[str, pa.RecordBatch]], is_step: bool) -> None:
        """Keep the batches of a step, or of an event; what the disk does not take stays in memory.

        Raises:
            OSError: the disk did not take it (or an error of pyarrow's); until the next part it is not asked again.
            RunError: as `check` does.
        """
        for table, batch in batches:
            self._batches[table].append(batch)
            self.rows += batch.num_rows
        self.steps += is_step
        if self._live_works:
            self._live_works = False
            before = {table: self._live[table][0].tell() if table in self._live else 0 for table, _ in batches}
            try:
                for table, batch in batches:
                    self._append_live(table, batch)
            except Exception:
                self._cut_live(before)
                raise
            self._live_works = True
            self._live_steps += is_step

    def seal(self) -> None:
        """Turn all of it into parts. What cannot be written is kept for the next try.

        Raises:
            OSError: the disk did not take it; or an error of pyarrow's.
        """
        parts = []
        try:
            for table in ORDER:
                if self._batches[table]:
                    folder = self._path / table
                    folder.mkdir(exist_ok=True)
                    write_part(pa.Table.from_batches(self._batches[table]), self._segment().part(folder))
                    parts.append(self._segment().part(folder))
        except Exception:
            for part in parts:  # it would hide what is still added to the live segment
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
            raise
        self._next(keep_live=False)

    def forget(self) -> int:
        """Begin anew without it. The live segments stay, and are read.

        Returns:
            How many steps were lost.
        """
        lost = self.steps - self._live_steps
        self._next(keep_live=True)
        return lost

    def lost_live(self) -> None:
        """The live segments were removed from under it: what is in memory is all that there is."""
        self._close_live()
        self._live_works, self._live_steps = False, 0

    def begin_attempt(self, attempt: int) -> None:
        """What follows belongs to another attempt; nothing may be unsealed."""
        self._attempt, self._number = attempt, 0

    def _append_live(self, table: str, batch: pa.RecordBatch) -> None:
        if table not in self._live:
            self._check()
            folder = self._path / table
            folder.mkdir(exist_ok=True)
            file = pa.OSFile(str(self._segment().live(folder)), "wb")
            self._live[table] = (file, pa.ipc.new_stream(file, arrow_schema(table)))
        self._live[table][1].write_batch(batch)

    def _cut_live(self, sizes: Mapping[str, int]) -> None:
        """Rows of a step that the disk took in part must not stand there without it."""
        for table, size in sizes.items():
            with contextlib.suppress(OSError):
                os.truncate(self._segment().live(self._path / table), size)

    def _next(self, keep_live: bool) -> None:
        self._close_live()
        if not keep_live:
            for table in TABLES:
                with contextlib.suppress(OSError):  # a live segment that stays beside its part does no harm
                    self._segment().live(self._path / table).unlink(missing_ok=True)
        for batches in self._batches.values():
            batches.clear()
        self._number += 1
        self._live_works, self._live_steps, self.steps, self.rows = True, 0, 0, 0

    def _close_live(self) -> None:
        for file, _ in self._live.values():
            with contextlib.suppress(OSError):
                file.close()
        self._live.clear()

    def _segment(self) -> Segment:
        return Segment(self._attempt, self._rank, self._number)
