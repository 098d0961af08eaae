"""What of a local run has been sent to an object store, and sending the rest, in the order that a reader needs.

The rows of a step go before the part that holds the step, `run.json` last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lldwatch.schema import TABLES, Observation
from lldwatch.segments import INFO_FILE, Segment, list_segments, seal_live
from lldwatch.stores.store import Store

_STEPS_FIRST = (Observation.TABLE, *(table for table in TABLES if table != Observation.TABLE))

Mine = Callable[[Segment], bool]


class Part(NamedTuple):
    """A sealed part; sorts in the order of sending."""

    segment: Segment
    is_steps: bool
    name: str
    path: Path
    size: int


class Sending:
    """What of a local folder has been sent to a store.

    Args:
        store: of the run.
        folder: where the run is written.
        mine: which segments are to be sent.
        info: `run.json` as well.
        keep: the local parts stay when they have been sent.

    Raises:
        RunError: the store cannot be reached.
    """

    def __init__(self, store: Store, folder: Path, mine: Mine, *, info: bool, keep: bool) -> None:
        self._store, self._folder, self._mine, self._info, self._keep = store, folder, mine, info, keep
        self._sent = {name: entry.size for name, entry in store.files().items()}
        self._sent_info: bytes | None = None

    def lacking(self, parts: Sequence[Part]) -> list[Part]:
        """Those that the store lacks, or has as they were before: of a part that the disk did not take at once."""
        return [part for part in parts if self._sent.get(part.name) != part.size]

    def send(self) -> Iterator[str]:
        """Send what the store lacks; gives the name of each file once it is there.

        Raises:
            RunError: the store cannot be reached.
        """
        # read before the parts are looked for: an end that it tells of must not be seen before the last part
        info = self._read(self._folder / INFO_FILE) if self._info else None
        for part in self.lacking(parts_of(self._folder, self._mine)):
            if (data := self._read(part.path)) is not None:
                self._store.write(part.name, data)
                self._sent[part.name] = len(data)
                if not (self._keep or part.is_steps):
                    part.path.unlink(missing_ok=True)
                yield part.name
        if info is not None and info != self._sent_info:
            self._store.write(INFO_FILE, info)
            self._sent_info = info
            yield INFO_FILE

    def delete_sent(self, rank: int) -> None:
        """Delete the local files that are in the store, and the folder once nothing else is in it."""
        with contextlib.suppress(OSError):  # what stays does no harm
            parts = parts_of(self._folder, self._mine)
            lacking = self.lacking(parts)
            for part in parts:
                if part not in lacking:
                    part.path.unlink(missing_ok=True)
            (self._folder / (f".lock-r{rank:05d}" if rank else ".lock")).unlink(missing_ok=True)
            if not any(list_segments(self._folder / table)[0] for table in TABLES):  # the last rank that is here
                for file in (INFO_FILE, "control.json"):
                    (self._folder / file).unlink(missing_ok=True)
        for table in (*TABLES, "."):
            with contextlib.suppress(OSError):
                (self._folder / table).rmdir()

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:  # another rank has sent and deleted it
            return None


def seal_all(folder: Path, mine: Mine) -> None:
    """Live segments that nobody writes any more become parts."""
    for table in TABLES:
        for segment in filter(mine, list_segments(folder / table)[0]):
            seal_live(segment, folder / table)


def parts_of(folder: Path, mine: Mine) -> list[Part]:
    """All sealed parts, in the order in which they are sent."""
    found = []
    # steps are looked for first: rows that belong to a steps part that is there are there as well
    for table in _STEPS_FIRST:
        for segment in filter(mine, list_segments(folder / table)[0]):
            path = segment.part(folder / table)
            with contextlib.suppress(FileNotFoundError):  # still live, or another rank has sent and deleted it
                size = path.stat().st_size
                found.append(Part(segment, table == Observation.TABLE, f"{table}/{path.name}", path, size))
    return sorted(found)
