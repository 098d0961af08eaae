"""Who may write a run directory: it must be empty or a run that is to be resumed, and nobody else may be writing it."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from pathlib import Path

from lldwatch.errors import RunError, RunExistsError, SchemaTooNewError
from lldwatch.schema import SCHEMA_VERSION, TABLES, Observation, RunInfo
from lldwatch.segments import INFO_FILE, list_segments

try:
    import fcntl
except ImportError:  # Windows has no flock: two writers on one run are then not told apart
    fcntl = None  # type: ignore[assignment]


_OTHER_RANK = " (or, if another rank of this training writes it, give each of them ranks=lldwatch.ranks.Ranks())"


def open_directory(path: Path, resume: bool) -> RunInfo | None:
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
        raise RunExistsError(
            f"{path} holds a run already: choose another directory, or resume=True to go on with it{_OTHER_RANK}"
        )
    try:
        previous = RunInfo.from_json((path / INFO_FILE).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path / INFO_FILE} cannot be read ({error}): repair it to resume") from error
    if previous.schema_version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            f"{path} has schema version {previous.schema_version}, this lldwatch writes {SCHEMA_VERSION}: update it"
        )
    return previous


def take_lock(path: Path, rank: int) -> int | None:
    """A file descriptor, held open as long as the rank's files are written."""
    if fcntl is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = os.open(_lock_file(path, rank), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error}): choose another directory") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise RunExistsError(
            f"{path} is being written by another process: choose another directory{_OTHER_RANK}"
        ) from None
    except OSError:  # a file system without locks
        pass
    with contextlib.suppress(OSError):  # a full disk: then the directory is taken for ours as long as it is there
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} of {socket.gethostname()}, {uuid.uuid4()}\n".encode(), 0)
    return file


def holds(lock: int | None, path: Path, rank: int) -> bool:
    """Whether the directory is the one that was locked; it may have been removed, and made anew by another training.

    Told by what stands in the file: some file systems give the same file another inode number each time.

    Raises:
        OSError: the disk does not answer.
    """
    if lock is None:
        return True
    try:
        return _lock_file(path, rank).read_bytes() == os.pread(lock, 1000, 0)
    except (FileNotFoundError, NotADirectoryError):
        return False


def take_again(path: Path, rank: int, info: RunInfo) -> int | None:
    """Lock a directory that was removed while it was written, and perhaps made anew since.

    Args:
        path: of the directory; made if it is not there.
        rank: of this process.
        info: of the run that was written there.

    Raises:
        RunExistsError: another training writes it now, or has written it.
        RunError: it cannot be made.
    """
    lock = take_lock(path, rank)
    try:
        there = RunInfo.from_json((path / INFO_FILE).read_text())
        is_ours = there.started == info.started and there.attempt <= info.attempt
    except FileNotFoundError:
        is_ours = not any((path / table).is_dir() for table in TABLES) or rank > 0
    except (OSError, ValueError, TypeError):
        is_ours = False
    if is_ours:
        return lock
    if lock is not None:
        os.close(lock)
    raise RunExistsError(f"{path} was removed, and another run stands there now")


def _lock_file(path: Path, rank: int) -> Path:
    return path / (f".lock-r{rank:05d}" if rank else ".lock")
