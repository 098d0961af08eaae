"""Write what was observed, without ever making the training wait.

`record` puts the step into a bounded queue and returns; one background thread turns it into Arrow, appends it to the
live segment and now and then seals the segment into a Parquet part (see `segments`). A disk that fails is said once,
what could not be kept is counted, and the training goes on.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lldwatch.errors import RunError, RunExistsError, SchemaTooNewError
from lldwatch.schema import (
    SCHEMA_VERSION,
    TABLES,
    Array,
    Event,
    Observation,
    Probes,
    Responses,
    RowTable,
    RunInfo,
    arrow_schema,
)
from lldwatch.segments import INFO_FILE, Segment, list_segments, read_segment, write_part

try:
    import fcntl
except ImportError:  # Windows has no flock: two writers on one run are then not told apart
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("lldwatch")

_Item = tuple[Observation | Event, Sequence[Responses], Sequence[Probes]]
_CLOSE_SECONDS = 60.0
_ORDER = ("events", "responses", "probes", "steps")  # steps last: a step that stands there is complete


class Recorder:
    """Writes one run directory. One process writes a run: a second one is refused.

    Args:
        path: the run directory; made if it is not there.
        info: what `run.json` says of the run.
        resume: go on writing a run that is there (as a new attempt) instead of refusing it.
        steps_per_part: seal a part after this many steps,
        seconds_per_part: or after this many seconds; the first parts sooner (2 s, 4 s, ...).
        queue_steps: steps that may wait for a slow disk before further ones are dropped (and counted).

    Raises:
        RunExistsError: a run is there and `resume` is off, or another process is writing it.
        SchemaTooNewError: the run to be resumed was written by a newer lldwatch.
        RunError: the directory cannot be made or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: RunInfo,
        *,
        resume: bool = False,
        steps_per_part: int = 100,
        seconds_per_part: float = 30.0,
        queue_steps: int = 1000,
    ) -> None:
        self.path = Path(path)
        self.dropped_steps = 0
        self._steps_per_part, self._seconds_per_part, self._queue_steps = steps_per_part, seconds_per_part, queue_steps
        self._batches: dict[str, list[pa.RecordBatch]] = {table: [] for table in TABLES}
        self._live: dict[str, tuple[pa.OSFile, Any]] = {}
        self._live_works, self._live_steps = True, 0
        self._warned, self._closed, self._process = False, False, os.getpid()
        self._number, self._steps_sealed, self._sealed_at = 0, 0, time.monotonic()
        previous = _open_directory(self.path, resume)
        self._lock = _take_lock(self.path)
        self.info = replace(info, started=info.started or _now())
        if previous:
            attempt = 1 + max(previous.attempt, self._last_attempt())
            self.info = replace(self.info, attempt=attempt, started=previous.started or self.info.started)
            self._seal_leftovers()
        self.write_info()
        self._queue: queue.SimpleQueue[_Item | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lldwatch-recorder", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def record(
        self, observation: Observation, responses: Sequence[Responses] = (), probes: Sequence[Probes] = ()
    ) -> None:
        """Keep one step and its rows. Returns at once; the rows must not be changed afterwards."""
        if self._closed or self._queue.qsize() >= self._queue_steps:
            self.dropped_steps += 1
            why = "the run is closed" if self._closed else "the disk is too slow"
            self._warn(f"{why}: step {observation.step} and perhaps later ones are not recorded")
            return
        self._queue.put((observation, responses, probes))

    def event(self, step: int, kind: str, detail: str) -> None:
        """Keep something that happened."""
        self._queue.put((Event(step=step, time=time.time(), kind=kind, detail=detail), (), ()))

    def flush(self, timeout: float = 10.0) -> None:
        """Wait until all that was recorded so far is in the files."""
        if self._closed:
            return
        done = threading.Event()

        def end() -> None:
            self._seal_if_due()
            done.set()

        self._queue.put(end)
        done.wait(timeout)

    def new_attempt(self, resumed_from: int) -> None:
        """The training goes on from a step: what follows is a new attempt, and replaces what it repeats.

        A recorder that has just resumed a run is in a new attempt already.
        """

        def begin() -> None:
            if self._number or self._batches["steps"]:
                self._seal(last=True)
                self.info = replace(self.info, attempt=self.info.attempt + 1)
                self._number = 0
            self.info = replace(self.info, resumed_from=resumed_from)
            self.write_info()

        self._queue.put(begin)

    def close(self) -> None:
        """Write everything, seal the last part, and note the end in `run.json`. A second call does nothing."""
        if self._closed or os.getpid() != self._process:  # a forked worker must not end the run of its parent
            return
        self._closed = True
        atexit.unregister(self.close)
        self._queue.put(None)
        self._thread.join(timeout=_CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("lldwatch: %s could not be written within %.0f s: the rest is lost", self.path, _CLOSE_SECONDS)
            return  # writing run.json would hang as well
        self.info = replace(self.info, ended=_now())
        self.write_info()
        if self._lock is not None:
            os.close(self._lock)

    def write_info(self) -> None:
        """Write `run.json`, whole or not at all."""
        hidden = self.path / f".{INFO_FILE}.tmp"
        with self._failing_disk():
            hidden.write_text(self.info.to_json())
            os.replace(hidden, self.path / INFO_FILE)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            try:
                if item is None:
                    self._end()
                elif callable(item):
                    item()
                else:
                    self._write(*item)
                if item is not None:
                    self._seal_if_due()
            except Exception:  # an error of ours must neither end the thread nor the training
                self.dropped_steps += isinstance(item, tuple) and isinstance(item[0], Observation)
                self._warn("a step could not be recorded", exc_info=True)
            if item is None:
                return

    def _end(self) -> None:
        if self.dropped_steps:
            words = f"{self.dropped_steps} steps were not recorded: the disk was too slow or failed"
            self._write(Event(step=-1, time=time.time(), kind="dropped", detail=words), (), ())
        self._seal(last=True)

    def _write(self, row: Observation | Event, responses: Sequence[Responses], probes: Sequence[Probes]) -> None:
        rows = {"responses": _rows_batch("responses", row.step, responses)}
        rows["probes"] = _rows_batch("probes", row.step, probes)
        rows[row.TABLE] = _one_row(row)
        batches = [(table, batch) for table in _ORDER if (batch := rows.get(table)) is not None]
        for table, batch in batches:
            self._batches[table].append(batch)
        for table, batch in batches:
            self._append_live(table, batch)

    def _seal_if_due(self) -> None:
        """Steps that wait come first: what is not yet live is lost in a crash."""
        waiting, steps = 1 if self._queue.empty() else 2, len(self._batches["steps"])
        period = min(self._seconds_per_part, 2.0 * (self._number + 1))  # a young run is soon readable as Parquet
        old = time.monotonic() - self._sealed_at >= waiting * period and any(self._batches.values())
        enough = steps >= min(self._steps_sealed // 10, self._steps_per_part)  # slow steps: no part for each
        if (old and enough) or steps >= waiting * self._steps_per_part:
            self._seal()

    def _append_live(self, table: str, batch: pa.RecordBatch) -> None:
        if not self._live_works:
            return
        with self._failing_disk():
            self._live_works = False
            if table not in self._live:
                folder = self.path / table
                folder.mkdir(exist_ok=True)
                file = pa.OSFile(str(self._segment().live(folder)), "wb")
                self._live[table] = (file, pa.ipc.new_stream(file, arrow_schema(table)))
            self._live[table][1].write_batch(batch)
            self._live_works = True
            self._live_steps += table == "steps"

    def _seal(self, *, last: bool = False) -> None:
        """Turn the live segments into parts. What cannot be written is kept for the next try, within bounds."""
        self._sealed_at = time.monotonic()
        with self._failing_disk():
            for table in _ORDER:
                if self._batches[table]:
                    folder = self.path / table
                    folder.mkdir(exist_ok=True)
                    write_part(pa.Table.from_batches(self._batches[table]), self._segment().part(folder))
            self._steps_sealed += len(self._batches["steps"])
            self._next_segment(keep_live=False)
        kept = len(self._batches["steps"])
        if kept >= 4 * self._steps_per_part or (last and any(self._batches.values())):
            self.dropped_steps += kept - self._live_steps  # the live segment stays, and is read
            self._next_segment(keep_live=True)

    def _next_segment(self, keep_live: bool) -> None:
        for table in TABLES:
            with contextlib.suppress(OSError):  # a live segment that stays beside its part does no harm
                if table in self._live:
                    self._live[table][0].close()
                if not keep_live:
                    self._segment().live(self.path / table).unlink(missing_ok=True)
        self._live.clear()
        for batches in self._batches.values():
            batches.clear()
        self._number, self._live_works, self._live_steps = self._number + 1, True, 0

    def _last_attempt(self) -> int:
        """Of the files that stand there: `run.json` may be older, if the disk failed."""
        return max((s.attempt for table in TABLES for s in list_segments(self.path / table)[0]), default=0)

    def _seal_leftovers(self) -> None:
        """Live segments that a killed attempt left become parts, so that any Parquet tool reads them."""
        for table in TABLES:
            folder = self.path / table
            for segment in list_segments(folder)[0]:
                if segment.live(folder).exists():
                    with self._failing_disk():
                        write_part(read_segment(segment, folder), segment.part(folder))
                        segment.live(folder).unlink()

    def _segment(self) -> Segment:
        return Segment(self.info.attempt, 0, self._number)

    @contextlib.contextmanager
    def _failing_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # pyarrow wraps some errors of the system, and an error of ours ends no training
            ours = not isinstance(error, OSError)
            self._warn(f"{self.path} cannot be written ({error}): training goes on, recording is tried again", ours)

    def _warn(self, message: str, exc_info: bool = False) -> None:
        if not self._warned:
            self._warned = True
            log.warning("lldwatch: %s (said once)", message, exc_info=exc_info)


def _open_directory(path: Path, resume: bool) -> RunInfo | None:
    """Make the directory; the previous attempt's info when a run is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        entries = [entry for entry in os.listdir(path) if not entry.startswith(".")]
    except OSError as error:
        raise RunError(f"{path} cannot be used as a run directory ({error}): choose another") from error
    if not entries:
        return None
    if INFO_FILE not in entries:
        raise RunExistsError(f"{path} holds files that are not a run ({entries[0]}, ...): choose an empty directory")
    if not resume and any(list_segments(path / Observation.TABLE)[0]):
        raise RunExistsError(f"{path} holds a run already: choose another directory, or resume=True to go on with it")
    try:
        previous = RunInfo.from_json((path / INFO_FILE).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path / INFO_FILE} cannot be read ({error}): repair it to resume") from error
    if previous.schema_version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            f"{path} has schema version {previous.schema_version}, this lldwatch writes {SCHEMA_VERSION}: update it"
        )
    return previous


def _take_lock(path: Path) -> int | None:
    """A file descriptor, held open as long as the run is written."""
    if fcntl is None:
        return None
    try:
        file = os.open(path / ".lock", os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error}): choose another directory") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise RunExistsError(f"{path} is being written by another process: choose another directory") from None
    except OSError:  # a file system without locks
        pass
    return file


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one_row(row: Observation | Event) -> pa.RecordBatch:
    schema = arrow_schema(row.TABLE)
    arrays = []
    for column in schema:
        value = getattr(row, column.name)
        arrays.append(_arrow_array(None if value is None else np.array([value]), column.type, 1))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _rows_batch(table: str, step: int, parts: Sequence[RowTable]) -> pa.RecordBatch | None:
    """One batch of all rows of a step; a column that a part lacks is null there."""
    schema = arrow_schema(table)
    batches = []
    for part in parts:
        if len(part):
            columns = {**part.columns(), "step": np.full(len(part), step, np.int64)}
            arrays = [_arrow_array(columns[field.name], field.type, len(part)) for field in schema]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    if not batches:
        return None
    return pa.concat_batches(batches) if len(batches) > 1 else batches[0]


def _arrow_array(values: Array | None, dtype: pa.DataType, length: int) -> pa.Array:
    """From numpy to Arrow by its buffers: `pa.array` would import pandas, 1.4 s with the GIL held."""
    if values is None:
        return pa.nulls(length, dtype)
    if pa.types.is_string(dtype):
        words = [str(word).encode(errors="replace") for word in values]  # a file name may hold half a character
        offsets = np.cumsum([0, *map(len, words)], dtype=np.int32)
        return pa.Array.from_buffers(dtype, length, [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(words))])
    if pa.types.is_boolean(dtype):
        return pa.Array.from_buffers(dtype, length, [None, pa.py_buffer(np.packbits(values, bitorder="little"))])
    data = np.ascontiguousarray(values, dtype=dtype.to_pandas_dtype())
    return pa.Array.from_buffers(dtype, length, [None, pa.py_buffer(data)])
