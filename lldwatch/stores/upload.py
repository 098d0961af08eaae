"""Send a run to an object store while it is recorded, without the training ever waiting for it.

The recorder writes a local folder as ever; a thread of its own looks every few seconds for sealed parts that the store
lacks. The local files are the queue: a lost connection costs no memory and no step, what a killed process left is sent
when the run is resumed (or by `lldwatch upload`), and what was sent before is not sent again.

Order: the rows of a step before the part that holds the step, `run.json` last. Each rank sends its own parts, rank 0
`run.json` and what earlier attempts left. A local part is deleted once it is in the store; but for the steps, which are
read again when the training goes back, and go with the folder when all has been sent at the end.

Rejected: uploading from the recorder's thread (a store that hangs would fill its queue); uploading live segments (a
store has no appending).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from pathlib import Path

from lldwatch.directory import take_lock
from lldwatch.errors import RunError, RunExistsError, RunNotFoundError
from lldwatch.schema import TABLES, RunInfo
from lldwatch.segments import INFO_FILE, Segment, list_segments
from lldwatch.stores.sending import Part, Sending, parts_of, seal_all
from lldwatch.stores.staging import bring_down, staging_folder
from lldwatch.stores.store import Store, is_url

log = logging.getLogger("lldwatch")

_POLL_SECONDS, _MOST_SECONDS, _CLOSE_SECONDS = 5.0, 60.0, 30.0
"""Between two looks at the folder; at most between two tries while the store is away; for what is left at the end."""


class Uploader:
    """Sends the parts of one rank as they are sealed. An error of the store never reaches the training.

    Args:
        url: of the run.
        rank: of this process.

    Attributes:
        folder: the local folder of the run.
    """

    def __init__(self, url: str, rank: int) -> None:
        self.url, self.rank, self.folder = url, rank, staging_folder(url)
        self._sending: Sending | None = None
        self._attempt = 0
        self._away = False
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="lldwatch-upload", daemon=True)

    def start(self, attempt: int) -> None:
        """Begin to send.

        Args:
            attempt: of the run; what earlier ones left is sent as well.
        """
        self._attempt = attempt
        if self.rank == 0:
            print(f"lldwatch: {self.url} is written to {self.folder} first, and uploaded from there", file=sys.stderr)
        self._thread.start()

    def close(self) -> None:
        """Send what is left, for at most 30 s; then say what was not sent, and how it can be."""
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            return
        self._given_up.set()
        left: list[Part] = []
        with contextlib.suppress(OSError):
            left = parts_of(self.folder, self._is_mine)
            left = left if self._sending is None else self._sending.lacking(left)
        log.warning(
            "lldwatch: %d parts%s of %s could not be uploaded within %.0f s and are kept: send them with "
            "`lldwatch upload %s '%s'`, or go on with resume=True on this machine",
            len(left), " and run.json" if self.rank == 0 else "", self.url, _CLOSE_SECONDS, self.folder, self.url,
        )  # fmt: skip

    def _run(self) -> None:
        failed = 0
        while not self._given_up.is_set():
            closing = self._closing.is_set()  # before the folder is looked at: all is there by then
            try:
                self._send(closing)
                failed = 0
                if closing:
                    return
            except Exception as error:  # whatever it is, the files are there, and the training must go on
                self._say_away(error)
                failed += 1
            pause = min(2.0 ** min(failed - 1, 10), _MOST_SECONDS) if failed else _POLL_SECONDS
            if closing:
                self._given_up.wait(min(pause, 1.0))  # time is short
            else:
                self._closing.wait(pause)

    def _send(self, closing: bool) -> None:
        if self._sending is None:
            self._sending = Sending(Store(self.url), self.folder, self._is_mine, info=self.rank == 0, keep=False)
        if closing:
            seal_all(self.folder, self._is_mine)  # what the recorder could not
        for _ in self._sending.send():
            if self._given_up.is_set():
                return
        if self._away:
            self._away = False
            log.warning("lldwatch: %s is reachable again, and all that was recorded so far is there", self.url)
        if closing:
            self._sending.delete_sent(self.rank)

    def _is_mine(self, segment: Segment) -> bool:
        """Rank 0 looks after what earlier attempts left, since there may be fewer ranks now."""
        return segment.rank == self.rank or (self.rank == 0 and segment.attempt < self._attempt)

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            ours = not isinstance(error, RunError | OSError)
            words = "lldwatch: %s: the training goes on, parts are kept in %s, and uploading is tried again"
            log.warning(words, error, self.folder, exc_info=ours)


def uploader(run_dir: str | os.PathLike[str], resume: bool, rank: int) -> Uploader | None:
    """Make ready to record into a store; None if the run directory is a local one.

    Raises:
        RunExistsError: a run is there and `resume` is off.
        RunError: the store cannot be reached.
    """
    if not is_url(run_dir):
        return None
    made = Uploader(run_dir, rank)
    if rank == 0:
        bring_down(Store(run_dir), made.folder, resume)
    return made


def upload_run(folder: str | os.PathLike[str], url: str) -> list[str]:
    """Send a local run to a store: one that could not be sent while it was recorded, or any other.

    What a killed process left is sealed first. The local files stay.

    Args:
        folder: the run directory.
        url: of the run in the store; if it holds a part of this run already, the rest is added.

    Returns:
        The names of the files that were sent; empty when all of them were there.

    Raises:
        RunNotFoundError: there is no local run.
        RunExistsError: the local run is being written, or another run is at the URL.
        RunError: the store cannot be reached.
    """
    folder = Path(folder)
    segments = [segment for table in TABLES for segment in list_segments(folder / table)[0]]
    if not (segments or (folder / INFO_FILE).is_file()):
        raise RunNotFoundError(f"{folder} is not a run: it has neither {INFO_FILE} nor parts")
    locks = [take_lock(folder, rank) for rank in sorted({0, *(segment.rank for segment in segments)})]
    try:
        store = Store(url)
        info = _is_newer(store, folder)
        seal_all(folder, lambda segment: True)
        return list(Sending(store, folder, lambda segment: True, info=info, keep=True).send())
    finally:
        for lock in locks:
            if lock is not None:
                os.close(lock)


def _is_newer(store: Store, folder: Path) -> bool:
    """Whether the local `run.json` is to be sent: the run may have been resumed elsewhere since."""
    try:
        here = RunInfo.from_json((folder / INFO_FILE).read_text())
    except FileNotFoundError:  # of a rank that wrote to a disk of its own
        return False
    try:
        there = RunInfo.from_json(store.read(INFO_FILE).decode())
    except (FileNotFoundError, ValueError):
        return True
    if there.started != here.started:
        raise RunExistsError(f"{store.url} holds another run, begun {there.started}: choose another URL")
    return here.attempt >= there.attempt
