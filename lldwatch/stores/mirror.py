"""Runs in an object store, as local files.

A sealed part never changes. So a run is read through a `Mirror`: a temporary folder into which what is lacking is
downloaded, table by table, as it is asked for; the rest of lldwatch reads local files, whatever the URL was.

Rejected: reading Parquet through the store's file system (each column is a request of its own, and poll would read
everything again); a mirror that outlives the process (nobody would know when to delete it; what a later scan needs is
kept by `lldwatch.scan_cache`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lldwatch.errors import RunNotFoundError
from lldwatch.schema import TABLES, Observation
from lldwatch.segments import INFO_FILE
from lldwatch.stores.store import Entry, Store


class Mirror:
    """A local copy of a run in a store, table by table; deleted with this object, or when the process ends.

    Args:
        url: of the run.

    Attributes:
        path: the folder.

    Raises:
        RunNotFoundError: there is no run.
        RunError: the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self._have: dict[str, dict[str, Entry]] = {}
        self.path = Path(tempfile.mkdtemp(prefix="lldwatch-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        if not (self.sync(INFO_FILE) or self.sync(Observation.TABLE)):
            raise RunNotFoundError(f"{url} is not a run: it has no {INFO_FILE} and no {Observation.TABLE}/")

    def sync(self, name: str) -> bool:
        """Download what is new of a table, or `run.json`.

        Returns:
            Whether it is there.

        Raises:
            RunError: the store cannot be reached; what is there stays as it was.
        """
        if name == INFO_FILE:
            return fetched(self._store, name, self.path / name)
        there, have = self._store.files(name), self._have.setdefault(name, {})
        (self.path / name).mkdir(exist_ok=True)
        for gone in have.keys() - there.keys():
            (self.path / gone).unlink(missing_ok=True)
            del have[gone]
        # the oldest first: should the connection break, it is the last steps that are missing
        wanted = [file for file, entry in sorted(there.items()) if have.get(file) != entry]
        for name in download(self._store, wanted, self.path):
            have[name] = there[name]
        return bool(there)


def fetched(store: Store, name: str, path: Path) -> bool:
    """Download one file, whole or not at all.

    Returns:
        Whether it is there.

    Raises:
        RunError: the store cannot be reached.
    """
    try:
        data = store.read(name)
    except FileNotFoundError:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_bytes(data)
    os.replace(hidden, path)
    return True


def download(store: Store, names: Sequence[str], folder: Path) -> Iterator[str]:
    """Download files below a folder, several at once; gives the name of each that was there, in their order.

    Raises:
        RunError: the store cannot be reached.
    """
    with ThreadPoolExecutor(8) as pool:
        came = pool.map(lambda name: fetched(store, name, folder / name), names)
        yield from (name for name, is_there in zip(names, came, strict=True) if is_there)


def runs_in(store: Store) -> dict[str, dict[str, Entry]]:
    """Name of each run in a store -> its `run.json` and the parts of its steps; not looked for inside runs.

    Raises:
        RunError: the store cannot be reached.
    """
    runs: dict[str, dict[str, Entry]] = {}
    for name, entry in store.files().items():
        *folders, file = name.split("/")
        is_part = bool(folders) and folders[-1] == Observation.TABLE
        if is_part or file == INFO_FILE:
            run = "/".join(folders[:-1] if is_part else folders)
            runs.setdefault(run, {})[name] = entry

    def nested(run: str) -> bool:
        above = run.split("/")
        hidden = any(folder.startswith(".") or folder in TABLES for folder in above)
        return hidden or any("/".join(above[:depth]) in runs for depth in range(len(above) if run else 0))

    return {run: runs[run] for run in sorted(runs) if not nested(run)}
