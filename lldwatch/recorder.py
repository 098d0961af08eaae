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
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from lldwatch.batches import one_row, rows_batch
from lldwatch.columns import RowTable
from lldwatch.directory import holds, open_directory, take_again, take_lock
from lldwatch.errors import RunError, RunExistsError
from lldwatch.schema import TABLES, Event, Observation, RunInfo
from lldwatch.segments import INFO_FILE, list_segments, remove_torn, seal_live
from lldwatch.stores.upload import uploader
from lldwatch.unsealed import ORDER, Unsealed

log = logging.getLogger("lldwatch")

_Item = tuple[Observation | Event, Sequence[RowTable]]
_CLOSE_SECONDS = 60.0
_MOST_ROWS = 1_000_000
"""That wait for a slow disk, some 100 MB; and twice as many that a failing one did not take."""

_OPEN: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder:
    """Writes one run directory. One process writes a rank of a run: a second one is refused.

    Args:
        path: the run directory; made if it is not there. Or a URL in an object store, `s3://bucket/run`: the run is
            then written to a local folder first (see `lldwatch.stores.staging`) and sent from there
            (`lldwatch.stores.upload`).
        info: what `run.json` says of the run; on ranks above 0 the `info` of rank 0's recorder.
        resume: go on writing a run that is there (as a new attempt) instead of refusing it.
        rank: of this process in a distributed training. Rank 0 looks after the directory, `run.json` and the steps, and
            must be there first; the others write their own rows and events.
        steps_per_part: seal a part after this many steps,
        seconds_per_part: or after this many seconds; the first parts sooner (2 s, 4 s, ...).
        queue_steps: steps that may wait for a slow disk before further ones are dropped (and counted); fewer if they
            have more than a million rows.

    Raises:
        RunExistsError: a run is there and `resume` is off, or another process is writing it.
        SchemaTooNewError: the run to be resumed was written by a newer lldwatch.
        RunError: the directory cannot be made or written, or the object store not be reached.

    Attributes:
        path: the directory that is written, on this machine.
        dropped_steps: so far, because the disk was too slow or failed, or the directory is another run's now.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: RunInfo,
        *,
        resume: bool = False,
        rank: int = 0,
        steps_per_part: int = 100,
        seconds_per_part: float = 30.0,
        queue_steps: int = 1000,
    ) -> None:
        self._upload = uploader(path, resume, rank)
        self.path, self.rank = Path(path) if self._upload is None else self._upload.folder, rank
        self.dropped_steps = 0
        self._steps_per_part, self._seconds_per_part, self._queue_steps = steps_per_part, seconds_per_part, queue_steps
        self._rows_each = self._dropped_said = 0
        self._warned, self._closed, self._taken = False, "", False
        self._steps_sealed, self._sealed_at = 0, time.monotonic()
        previous = open_directory(self.path, resume) if rank == 0 else None
        self._lock = take_lock(self.path, rank)
        self.info = replace(info, started=info.started or _now())
        if previous:
            attempt = 1 + max(previous.attempt, self._last_attempt())
            self.info = replace(self.info, attempt=attempt, started=previous.started or self.info.started)
        if previous or rank:
            self._seal_leftovers()
        self.attempt, self._recorded = self.info.attempt, False
        self._unsealed = Unsealed(self.path, rank, self.attempt, self._check)
        self.write_info()
        self._queue: queue.SimpleQueue[_Item | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lldwatch-recorder", daemon=True)
        self._thread.start()
        if self._upload is not None:
            self._upload.start(self.attempt)
        _OPEN.add(self)
        atexit.register(self.close)

    def record(self, observation: Observation, rows: Sequence[RowTable] = ()) -> None:
        """Keep one step and its rows, of any tables. Returns at once; the rows must not be changed afterwards.

        Ranks above 0 keep the rows alone: the step is the whole run's, and rank 0 writes it.
        """
        if self._closed or self._taken or self._is_full():
            self.dropped_steps += 1
            why = self._closed or ("the directory is another run's" if self._taken else "the disk is too slow")
            self._warn(f"{why}: step {observation.step} and perhaps later ones are not recorded")
            return
        self._recorded = True
        self._queue.put((observation, rows))

    def event(self, step: int, kind: str, detail: str) -> None:
        """Keep something that happened."""
        if self._closed:
            return
        if self._queue.qsize() >= 2 * self._queue_steps:
            self._warn(
                f"the disk is too slow: an event of step {step} ({kind}) and perhaps later ones are not recorded"
            )
        else:
            self._queue.put((Event(step=step, time=time.time(), kind=kind, detail=detail), ()))

    def soon(self, function: Callable[[], None]) -> None:
        """Call it in the background, after what was recorded so far has been written; not while the disk is slow."""
        if not (self._closed or self._is_full()):
            self._queue.put(function)

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

    def new_attempt(self, resumed_from: int, attempt: int | None = None) -> int:
        """The training goes on from a step: what follows is a new attempt, and replaces what it repeats.

        A recorder that has recorded nothing yet since it resumed a run is in a new attempt already.

        Args:
            resumed_from: the last step that stays.
            attempt: its number, on ranks above 0 what rank 0's recorder returned.

        Returns:
            The number of the attempt.
        """
        attempt = self.attempt + self._recorded if attempt is None else attempt
        changes, self.attempt, self._recorded = attempt != self.attempt, attempt, False

        def begin() -> None:
            if changes:
                self._seal(last=True)
                self.info = replace(self.info, attempt=attempt)
                self._unsealed.begin_attempt(attempt)
            self.info = replace(self.info, resumed_from=resumed_from)
            self.write_info()

        self._queue.put(begin)
        return attempt

    def close(self) -> None:
        """Write everything, seal the last part, and note the end in `run.json`. A second call does nothing."""
        if self._closed:
            return
        self._closed = "the run is closed"
        atexit.unregister(self.close)
        self._queue.put(None)
        self._thread.join(timeout=_CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("lldwatch: %s could not be written within %.0f s: the rest is lost", self.path, _CLOSE_SECONDS)
            return  # writing run.json would hang as well
        if not self._taken:
            self.info = replace(self.info, ended=_now())
            self.write_info()
        if self._upload is not None:
            self._upload.close()
        self._let_go()

    def write_info(self) -> None:
        """Write `run.json`, whole or not at all; rank 0 does it for all."""
        if self.rank:
            return
        hidden = self.path / f".{INFO_FILE}.tmp"
        with self._failing_disk():
            self._check()
            with open(hidden, "w") as file:
                file.write(self.info.to_json())
                file.flush()
                os.fsync(file.fileno())  # else a power cut can leave an empty file, and the run is not resumed
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
        self._say_dropped(last=True)
        self._seal(last=True)

    def _say_dropped(self, *, last: bool = False) -> None:
        """In the run's events: when it begins, when it has doubled, and at the end."""
        if self.dropped_steps > (self._dropped_said if last else 2 * self._dropped_said):
            self._dropped_said = self.dropped_steps
            words = (
                f"{self.dropped_steps} steps were not recorded: the disk was too slow or failed, or a warning says why"
            )
            self._write(Event(step=-1, time=time.time(), kind="dropped", detail=words), ())

    def _write(self, row: Observation | Event, rows: Sequence[RowTable]) -> None:
        is_step = isinstance(row, Observation)
        if self._taken:
            self.dropped_steps += is_step
            return
        written: dict[str, pa.RecordBatch | None] = {}
        for name in {table.TABLE for table in rows}:
            written[name] = rows_batch(name, row.step, [table for table in rows if name == table.TABLE])
        if not (is_step and self.rank):
            written[row.TABLE] = one_row(row)
        batches = [(table, batch) for table in ORDER if (batch := written.get(table)) is not None]
        if is_step:
            self._rows_each = sum(batch.num_rows for _, batch in batches)
        with self._failing_disk():
            self._unsealed.add(batches, is_step)

    def _seal_if_due(self) -> None:
        """Steps that wait come first: what is not yet live is lost in a crash."""
        waiting, steps = 1 if self._queue.empty() else 2, self._unsealed.steps
        period = min(self._seconds_per_part, 2.0 * (self._unsealed.number + 1))  # a young run is soon readable
        old = time.monotonic() - self._sealed_at >= waiting * period and self._unsealed
        enough = steps >= min(self._steps_sealed // 10, self._steps_per_part)  # slow steps: no part for each
        many = steps >= waiting * self._steps_per_part or self._unsealed.rows >= waiting * _MOST_ROWS // 4
        if (old and enough) or many:
            self._say_dropped()
            self._seal()

    def _seal(self, *, last: bool = False) -> None:
        """Turn the live segments into parts. What cannot be written is kept for the next try, within bounds."""
        self._sealed_at, unsealed = time.monotonic(), self._unsealed
        with self._failing_disk():
            self._find_directory()
            if not self._taken:
                steps = unsealed.steps
                unsealed.seal()
                self._steps_sealed += steps
        kept = unsealed.steps >= 4 * self._steps_per_part or unsealed.rows >= 2 * _MOST_ROWS
        if kept or (last and unsealed) or self._taken:
            self.dropped_steps += unsealed.forget()

    def _check(self) -> None:
        if not holds(self._lock, self.path, self.rank):
            raise RunError("the directory was removed")

    def _find_directory(self) -> None:
        """Go on in a new directory if it was removed; but not where another training is now."""
        if self._taken or holds(self._lock, self.path, self.rank):
            return
        self._unsealed.lost_live()
        try:
            lock = take_again(self.path, self.rank, self.info)
        except RunExistsError as error:
            self._taken = True
            log.warning("lldwatch: %s: no further step is recorded", error)
            return
        self._let_go()
        self._lock = lock
        words = f"{self.path} was removed while it was written: what comes now is in a new one, what was there is gone"
        log.warning("lldwatch: %s", words)
        self.write_info()
        self._write(Event(step=-1, time=time.time(), kind="error", detail=words), ())

    def _last_attempt(self) -> int:
        """Of the files that stand there: `run.json` may be older, if the disk failed."""
        return max((s.attempt for table in TABLES for s in list_segments(self.path / table)[0]), default=0)

    def _seal_leftovers(self) -> None:
        """Live segments that a killed attempt left become parts, so that any Parquet tool reads them; half parts go.

        Rank 0 looks after those of all ranks, since there may be fewer of them now; the others after their own, which
        may stand on a disk of theirs.
        """
        for table in TABLES:
            if self.rank == 0:
                remove_torn(self.path / table)
            for segment in list_segments(self.path / table)[0]:
                if self.rank == 0 or (segment.rank == self.rank and segment.attempt < self.info.attempt):
                    with self._failing_disk():
                        seal_live(segment, self.path / table)

    @contextlib.contextmanager
    def _failing_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # pyarrow wraps some errors of the system, and an error of ours ends no training
            ours = not isinstance(error, OSError | RunError)
            self._warn(f"{self.path} cannot be written ({error}): training goes on, recording is tried again", ours)

    def _warn(self, message: str, exc_info: bool = False) -> None:
        if not self._warned:
            self._warned = True
            log.warning("lldwatch: %s (said once)", message, exc_info=exc_info)

    def _is_full(self) -> bool:
        waiting = self._queue.qsize()
        return waiting >= self._queue_steps or waiting * self._rows_each >= _MOST_ROWS

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _forked(self) -> None:
        self._closed = "this process was forked from the one that records"
        atexit.unregister(self.close)
        self._let_go()


def _after_fork() -> None:
    """A forked worker must neither write nor end the run, nor hold it when the training was killed and is resumed."""
    for recorder in list(_OPEN):
        recorder._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
