"""The runs below a folder, and each with all its steps while somebody looks at it (see `glances` for the list).

A run is read again only when its files have changed, and only what is new in it. A run that cannot be read is an
answer like any other: its reason stands in `Summary.error`, and the others are not touched by it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from lldwatch.diagnosis import Diagnosis
from lldwatch.errors import LldwatchError, RunNotFoundError
from lldwatch.follow import Follower
from lldwatch.portions import Portions, Steps
from lldwatch.postmortem import events_of
from lldwatch.run import Run, is_run, list_runs
from lldwatch.schema import Event, Observation, RunInfo
from lldwatch.series import Series
from lldwatch_dashboard.lines import Lines

log = logging.getLogger("lldwatch.dashboard")

PAUSE_S = 0.5
"""Between two portions of a long run: all parts of a page ask at once, and are told the same."""
_versions = itertools.count(time.time_ns() // 1000)
"""A page may be older than this process: its versions must not come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the list and the header say of a run; in the list, `info` and `last` hold only what stands there.

    Attributes:
        name: path of the run relative to the root, with `/`; `.` is the root itself.
        info: its `run.json`.
        last: the last step; None before the first.
        diagnosis: as of the last step.
        pace: median seconds between the last steps; None if unknown.
        ending: how the training ended, in words; None while it has not.
        problems: files that could not be read.
        error: why the run cannot be read at all.
        read: False while nobody has had the time to look into it.
        behind: some of its steps have not been judged yet; `diagnosis` says up to which it speaks.
    """

    name: str
    info: RunInfo = field(default_factory=RunInfo)
    last: Observation | None = None
    diagnosis: Diagnosis = field(default_factory=Diagnosis)
    pace: float | None = None
    ending: str | None = None
    problems: tuple[str, ...] = ()
    error: str | None = None
    read: bool = True
    behind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run as it stood at one moment: it never changes.

    Attributes:
        version: another one whenever something has changed.
        summary: of the run.
        observations: its steps.
        events: see `lldwatch.postmortem.events_of`.
        signals: see `lldwatch_dashboard.lines.Lines`.
    """

    version: int
    summary: Summary
    observations: Sequence[Observation] = ()
    events: Sequence[Mapping[str, Any]] = ()
    signals: Mapping[str, Series] = field(default_factory=dict)


class Feed:
    """Follows the runs below a folder. Safe to use from many threads.

    Args:
        root: the folder; it may come into being later.
        kept: runs whose steps are kept in memory; the one not asked for longest is let go.
        rescan_s: look for new runs at most every so many seconds.
    """

    def __init__(self, root: str | os.PathLike[str], *, kept: int = 32, rescan_s: float = 2.0) -> None:
        self.root = Path(root).resolve()
        self._kept, self._rescan_s = kept, rescan_s
        self._lock = threading.Lock()
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._names: list[str] = []
        self._scanned_at, self._scan_took_s = -math.inf, 0.0

    def names(self) -> list[str]:
        """The names of all runs, sorted; at most a twentieth of the time is spent on looking for them."""
        with self._lock:
            began = time.monotonic()
            if began - self._scanned_at >= self._rescan_s * max(1.0, self._scan_took_s / 0.1):
                paths = list_runs(self.root) if self.root.is_dir() else []
                self._names = [path.relative_to(self.root).as_posix() for path in paths]
                self._scanned_at = time.monotonic()
                self._scan_took_s = self._scanned_at - began
            return list(self._names)

    def read_ahead(self, name: str, then: Callable[[Snapshot], object] = id) -> threading.Thread:
        """Begin to read a run that will be asked for in a moment; the thread ends when that is done.

        Args:
            name: of the run; if there is none, nothing happens.
            then: what else will be asked for.
        """

        def read() -> None:
            with contextlib.suppress(RunNotFoundError):
                then(self.snapshot(name))

        thread = threading.Thread(target=read, name="lldwatch-ahead", daemon=True)
        thread.start()
        return thread

    def snapshot(self, name: str) -> Snapshot:
        """The run as it stands now.

        Raises:
            RunNotFoundError: there is no such run below the root.
        """
        path = self.locate(name)
        with self._lock:
            tail = self._tails.setdefault(name, _Tail(name, path))
            self._tails.move_to_end(name)
            while len(self._tails) > self._kept:
                self._tails.popitem(last=False)
        return tail.update()

    def locate(self, name: str) -> Path:
        """The directory of a run; nothing outside the root is ever looked at.

        Raises:
            RunNotFoundError: there is no such run below the root.
        """
        try:
            path = (self.root / name).resolve()
            inside = path.is_relative_to(self.root) and ".." not in Path(name).parts and not Path(name).is_absolute()
            if inside and is_run(path):
                return path
        except (OSError, ValueError):  # a name too long, or with a null byte
            pass
        with self._lock:
            self._tails.pop(name, None)
        raise RunNotFoundError(f"there is no run {name!r} below {self.root}")


class _Tail:
    """One run that is being followed."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path = name, path
        self._lock = threading.Lock()
        self._following: tuple[Follower, Portions] | None = None
        self._identity: object = None
        self._seen: object = None
        self._read_at = 0.0
        self._snapshot: Snapshot | None = None
        self._lines = Lines()
        self._events: tuple[object, tuple[Mapping[str, Any], ...]] = (None, ())

    def update(self) -> Snapshot:
        """Read what is new."""
        with self._lock:
            # taken before the reading: what is written meanwhile changes it, and is read at the next call
            print_ = _prints(self._path), _prints(self._path / Observation.TABLE)
            behind = self._snapshot is not None and self._snapshot.summary.behind
            go_on = behind and time.monotonic() - self._read_at >= PAUSE_S
            if self._snapshot is None or print_ != self._seen or go_on:
                self._seen = print_
                self._snapshot = self._read()
                self._read_at = time.monotonic()
            return self._snapshot

    def _read(self) -> Snapshot:
        try:
            follower, run = self._follow()
            observations, events = Steps(follower.observations, run.waiting), self._told(run)
            if run.went_back:
                self._lines = Lines()
            summary = Summary(
                name=self._name,
                info=run.info,
                last=observations[-1] if observations else None,
                diagnosis=follower.diagnosis,
                pace=_pace(observations[-20:]),
                ending=_ending(events) if run.ended else None,
                problems=tuple(run.problems),
                behind=run.waiting is not None,
            )
            return Snapshot(
                version=next(_versions),
                summary=summary,
                observations=observations,
                events=events,
                signals=self._lines.of(observations, follower.verdicts),
            )
        except Exception as error:  # whatever is wrong with one run, the others must still be shown
            if not isinstance(error, LldwatchError):
                log.warning("%s cannot be read", self._path, exc_info=True)
            self._following = None
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return Snapshot(version=next(_versions), summary=Summary(name=self._name, error=reason))

    def _told(self, run: Run) -> tuple[Mapping[str, Any], ...]:
        """The events; they are read when there is another one."""
        print_ = _prints(self._path / Event.TABLE)
        if print_ != self._events[0]:
            self._events = print_, tuple(events_of(run))
        return self._events[1]

    def _follow(self) -> tuple[Follower, Portions]:
        """The follower with all steps; a new one if another run has taken the place of the one it followed."""
        if self._following is not None and self._identity == _inode(self._path):
            follower, run = self._following
            started = run.info.started
            follower.update()
            if run.info.started == started:
                return self._following
        self._identity = _inode(self._path)
        run = Portions(self._path)
        self._following = Follower(run), run
        self._lines = Lines()
        self._following[0].update()
        return self._following


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _prints(folder: Path) -> object:
    """Changes whenever a file of a folder does; the change time moves with permissions too."""
    try:
        with os.scandir(folder) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if not entry.is_dir()]
    except OSError as error:
        return error.errno
    return sorted((name, status.st_ino, status.st_size, status.st_ctime_ns) for name, status in files)


def _pace(observations: Sequence[Observation]) -> float | None:
    times = [observation.time for observation in observations if observation.time is not None]
    return median(after - before for before, after in itertools.pairwise(times)) if len(times) > 1 else None


def _ending(events: Sequence[Mapping[str, Any]]) -> str | None:
    """What the last `finish` event says."""
    details = [event["detail"] for event in events if event["kind"] == "finish"]
    return details[-1] if details else None
