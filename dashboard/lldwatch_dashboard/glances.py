"""What the list says of each run, kept up to date in the background while somebody looks at it.

The steps of 1,000 runs take a minute to fold: the list stands at once with what is known, and fills. Runs that grow
come first, then those in sight and the newest ones; what a finished run said is kept on disk (`lldwatch.scan_cache`). A
few runs are read in a thread; with many of them processes are started (`readers`). When nobody looks any more, all of
it ends.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lldwatch.checks import Settings
from lldwatch.errors import RunNotFoundError
from lldwatch.glance import Glance, Reader
from lldwatch.scan_cache import ScanCache, cache_folder, stamp
from lldwatch.schema import Observation
from lldwatch_dashboard.feed import Feed, Summary
from lldwatch_dashboard.listed import Listed, Look, summary_of
from lldwatch_dashboard.readers import ReaderProcess

ROUND_S = 1.0
"""As often as the pages ask."""
IDLE_S = 15.0
ALONE = 8
"""So many runs are read sooner than a process has started."""
SAVE_EVERY = 200
LARGE = 4_000_000
"""Bytes of steps: of some 40,000 steps."""
QUIET_S = 600.0
"""A run without a step for so long is remembered although nobody has closed it."""


class Answers(Protocol):
    """Whoever can say what a run looks like."""

    def glance(self, path: str) -> Glance:
        """One run as it stands now."""

    def close(self) -> None:
        """No more is asked."""


@dataclass(slots=True)
class _Known:
    """What was read of a run, and the state of its files before that."""

    stamp: str
    quick: tuple[int, ...] | None
    listed: Listed
    reader: int


@dataclass(frozen=True, slots=True)
class _Due:
    name: str
    stamp: str
    changed_ns: int
    reader: int | None
    large: bool


class Glances:
    """Rows for the list. Safe to use from many threads.

    Args:
        feed: knows the runs.
        processes: started at most when there is much to read; 0: none. None: one a core, at most four.
    """

    def __init__(self, feed: Feed, processes: int | None = None) -> None:
        self._feed = feed
        self._processes = min(4, os.cpu_count() or 1) if processes is None else processes
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._names: list[str] | None = None
        self._thread: threading.Thread | None = None
        self._asked_at = 0.0
        self._in_sight: frozenset[str] = frozenset()
        self._first_round = threading.Event()
        self._readers: list[Answers] = [Reader()]
        self._kept: ScanCache | None = None
        self._to_keep: dict[str, tuple[str, Glance]] = {}

    def look(self, wait_s: float = 0.3) -> Look:
        """All runs as they are known now; what has changed is read in the background.

        Args:
            wait_s: the first time, wait so long: a few runs have been read by then.
        """
        with self._lock:
            self._asked_at = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lldwatch-glances", daemon=True)
                self._thread.start()
        names = self._feed.names() if self._names is None else self._names
        if len(names) <= ALONE:
            self._first_round.wait(wait_s)
        known = [self._known.get(name) for name in names]
        rows = [
            Listed(Summary(name=name, read=False), None) if found is None else found.listed
            for name, found in zip(names, known, strict=True)
        ]
        return Look(tuple(rows), sum(found is not None for found in known))

    def prefer(self, names: Iterable[str]) -> None:
        """These are in sight of whoever asked last: they are read before the other new ones."""
        self._in_sight = frozenset(names)

    def _work(self) -> None:
        """Rounds until nobody has asked for a while."""
        while True:
            began = time.monotonic()
            left = self.round()
            with self._lock:
                if time.monotonic() - self._asked_at > IDLE_S:
                    for reader in self._readers:
                        reader.close()
                    self._readers, self._thread = [Reader()], None
                    return
            if not left:
                time.sleep(max(ROUND_S - (time.monotonic() - began), 0.05))

    def round(self) -> int:
        """Look which runs have changed, and read for a second; gives how many are left."""
        due = self._due()
        self._take_kept(due)
        due = [each for each in due if self._stamp_of(each.name) != each.stamp]
        self._start_processes(due)
        left = self._read(due)
        self._keep(all_read=not left)
        self._first_round.set()
        return left

    def _due(self) -> list[_Due]:
        """Runs whose files have changed since they were read: those read before, then those in sight, then the newest.

        Large ones are last: the others are read in the time that one of them takes.
        """
        names, due = [], []
        for name in self._feed.names():
            path, known = self._feed.root / name, self._known.get(name)
            if known is not None and known.quick is not None and known.quick == _quick_state(path):
                names.append(name)
                continue
            files = _files(path)
            if not files:  # deleted since the folder was looked through
                continue
            names.append(name)
            seen = stamp(files)
            if known is None or known.stamp != seen:
                newest, large = max(changed for _, changed in files.values()), sum(size for size, _ in files.values())
                due.append(_Due(name, seen, newest, None if known is None else known.reader, large > LARGE))
        self._names = names
        for gone in self._known.keys() - set(names):
            self._known.pop(gone, None)
        return sorted(due, key=self._urgency)

    def _urgency(self, due: _Due) -> tuple[bool, bool, bool, int]:
        return due.reader is None, due.large, due.name not in self._in_sight, -due.changed_ns

    def _stamp_of(self, name: str) -> str | None:
        known = self._known.get(name)
        return None if known is None else known.stamp

    def _start_processes(self, due: Sequence[_Due]) -> None:
        """Once there is more to read than a thread should; what the thread followed is then read anew."""
        if len(due) <= ALONE or not self._processes or not isinstance(self._readers[0], Reader):
            return
        try:
            self._readers = [ReaderProcess() for _ in range(min(self._processes, len(due)))]
        except OSError:  # none to be had: the thread goes on alone
            self._processes = 0

    def _read(self, due: Sequence[_Due]) -> int:
        """Let all readers work for a round; a run that grows stays with the reader that follows it."""
        end, count = time.monotonic() + ROUND_S, len(self._readers)
        fresh = iter([each for each in due if each.reader is None])
        own: list[list[_Due]] = [[] for _ in range(count)]
        for each in due:
            if each.reader is not None:
                own[each.reader % count].append(each)
        lock, done = threading.Lock(), []

        def to_do(place: int) -> Iterator[_Due]:
            yield from own[place]
            while True:
                with lock:
                    each = next(fresh, None)
                if each is None:
                    return
                yield each

        def work(place: int) -> None:
            for each in to_do(place):
                done.append(each.name)
                self._read_one(each, place)
                if time.monotonic() > end:
                    return

        others = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(1, count)]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()
        return len(due) - len(done)

    def _read_one(self, each: _Due, place: int) -> None:
        try:
            path = self._feed.locate(each.name)
        except RunNotFoundError:
            return
        quick = _quick_state(path)
        found = self._readers[place].glance(str(path))
        if not _files(path):
            return
        quiet = found.ended is not None or time.time() - (found.last_time or 0.0) > QUIET_S
        if quiet and found.error is None:
            self._to_keep[each.name] = (each.stamp, found)
        self._set(each.name, each.stamp, found, place, quick)

    def _set(self, name: str, seen: str, found: Glance, place: int, quick: tuple[int, ...] | None) -> None:
        listed = Listed(summary_of(name, found), found)
        self._known[name] = _Known(seen, quick if found.ended is not None else None, listed, place)

    def _take_kept(self, due: Sequence[_Due]) -> None:
        """What an earlier dashboard has read already."""
        if self._kept is not None:
            return
        root = hashlib.sha256(os.fsencode(self._feed.root)).hexdigest()[:16]
        self._kept = ScanCache(cache_folder() / f"list-{root}.json")
        stamps = {each.name: each.stamp for each in due}
        for name, found in self._kept.known(stamps, Settings()).items():
            try:
                glance = Glance.from_dict(found)
            except (TypeError, KeyError, ValueError):  # of another version
                continue
            self._set(name, stamps[name], glance, 0, _quick_state(self._feed.root / name))

    def _keep(self, *, all_read: bool) -> None:
        if self._kept is None or not self._to_keep or (len(self._to_keep) < SAVE_EVERY and not all_read):
            return
        stamps = {name: seen for name, (seen, _) in self._to_keep.items()}
        self._kept.keep({name: found.as_dict() for name, (_, found) in self._to_keep.items()}, stamps, Settings())
        self._to_keep = {}


def _files(path: Path) -> dict[str, tuple[int, int]]:
    """Name -> size and time of change (which moves with permissions too) of `run.json` and all of the steps."""
    files = {}
    for folder in (path, path / Observation.TABLE):
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    state = entry.stat()
                    if folder is not path or not entry.is_dir():
                        files[f"{folder.name}/{entry.name}"] = (state.st_size, state.st_ctime_ns)
        except FileNotFoundError:
            continue
        except OSError as error:
            files[folder.name] = (-(error.errno or 1), 0)
    return files


def _quick_state(path: Path) -> tuple[int, ...] | None:
    """Enough of a run that was closed: whoever goes on with it writes run.json, and a new file among the steps."""
    try:
        folder, info, steps = os.stat(path), os.stat(path / "run.json"), os.stat(path / Observation.TABLE)
    except OSError:
        return None
    return folder.st_ctime_ns, info.st_ctime_ns, info.st_size, steps.st_ctime_ns
