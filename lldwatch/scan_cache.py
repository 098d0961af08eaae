"""What earlier scans have found, so that a run that has not changed is not read again.

One JSON file in the user's cache folder, never in a run: conclusions are recomputed, not recorded. An answer counts
only for the same files (names, sizes, times of writing), the same settings and the same lldwatch, down to its sources.
A cache that is damaged or cannot be written is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lldwatch.checks import Settings

log = logging.getLogger("lldwatch")

_MOST = 20_000
"""Runs that are remembered: some 10 MB. Those that no scan has asked for longest go first."""


def cache_folder() -> Path:
    """`$LLDWATCH_CACHE`, else lldwatch's own below the user's cache folder."""
    own = os.environ.get("LLDWATCH_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lldwatch"


def stamp(files: Mapping[str, tuple[int, int]]) -> str:
    """A short text that changes with the files.

    Args:
        files: name -> size in bytes, and time of writing in ns.
    """
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:32]


class ScanCache:
    """What is known of runs, by path or URL.

    Args:
        path: the file; None: `scan.json` in the cache folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / "scan.json"
        self._entries = self._load()

    def known(self, stamps: Mapping[str, str], settings: Settings) -> dict[str, dict[str, Any]]:
        """Run -> what was found, of those that have not changed.

        Args:
            stamps: run -> its stamp now.
            settings: of the detector.
        """
        basis = _basis(settings)
        wanted = {run: f"{basis} {seen}" for run, seen in stamps.items()}
        return {run: found for run, key in wanted.items() if (found := self._get(run, key)) is not None}

    def keep(self, found: Mapping[str, dict[str, Any]], stamps: Mapping[str, str], settings: Settings) -> None:
        """Add what was found, and write the file. The stamps are those from before the runs were read."""
        basis = _basis(settings)
        for run in stamps:
            entry = (f"{basis} {stamps[run]}", found[run]) if run in found else self._entries.get(run)
            if entry is not None:  # what was asked for last stands last
                self._entries.pop(run, None)
                self._entries[run] = entry
        if found:
            self._write({run: self._entries[run] for run in list(self._entries)[-_MOST:]})

    def _get(self, run: str, key: str) -> dict[str, Any] | None:
        entry = self._entries.get(run)
        return entry[1] if entry and entry[0] == key else None

    def _load(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Nothing if the file is not exactly what was written: its first line says what the second one must be."""
        try:
            digest, _, text = self.path.read_text().partition("\n")
            if digest != hashlib.sha256(text.encode()).hexdigest():
                return {}
            return {run: (key, found) for run, (key, found) in json.loads(text).items()}
        except (OSError, ValueError):
            return {}

    def _write(self, entries: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        hidden = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")  # two scans at once: the last one stands
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(entries, separators=(",", ":"))
            hidden.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
            os.replace(hidden, self.path)
        except OSError as error:
            log.warning("lldwatch: %s cannot be written (%s): the next scan reads all runs again", self.path, error)


def _basis(settings: Settings) -> str:
    """What an answer rests on besides the run's files."""
    return hashlib.sha256(f"{settings!r} {_sources()}".encode()).hexdigest()[:16]


@cache
def _sources() -> str:
    """State of the sources: a detector that was edited in place must not answer with what it said before."""
    from lldwatch import __version__

    states = [(path.name, path.stat()) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return f"{__version__} {[(name, state.st_size, state.st_mtime_ns) for name, state in states]}"
