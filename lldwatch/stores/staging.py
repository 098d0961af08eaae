"""Where a run that goes to an object store is written first, and how one that is there already comes back.

A store has no half-written files to append to, and is away at times. So the recorder writes a local folder as ever, and
`lldwatch.stores.upload` sends what is sealed. What a resumed training needs of its past (`run.json` and the steps) is
brought down before the recorder looks.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from dataclasses import replace
from pathlib import Path

from lldwatch.errors import RunError, RunExistsError
from lldwatch.schema import Observation, RunInfo
from lldwatch.segments import INFO_FILE, segment_of
from lldwatch.stores.mirror import download
from lldwatch.stores.store import Entry, Store, is_url


def staging_folder(url: str) -> Path:
    """The local folder of a run at a URL: below `LLDWATCH_STAGING`, else below the user's cache folder."""
    own, cache = os.environ.get("LLDWATCH_STAGING"), os.environ.get("XDG_CACHE_HOME")
    root = Path(own) if own else Path(cache or Path.home() / ".cache") / "lldwatch" / "staging"
    address = url.partition("?")[0].rstrip("/")
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", address.rpartition("@")[2])[-60:].strip("-.")
    return root.absolute() / f"{words}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:8]}"


def local_folder(run_dir: str | os.PathLike[str]) -> Path:
    """Where a run is written on this machine: the run directory itself, unless that is a URL."""
    return staging_folder(run_dir) if is_url(run_dir) else Path(run_dir)


def bring_down(store: Store, folder: Path, resume: bool) -> None:
    """Make a local folder look to the recorder as the run in the store: rank 0 does it, before it opens the folder.

    Args:
        store: of the run.
        folder: of this machine; what a killed process left there stays.
        resume: the run may be there already.

    Raises:
        RunExistsError: a run is there, and `resume` is off.
        RunError: the store cannot be reached.
    """
    there = store.files()
    steps = {name: entry for name, entry in there.items() if name.startswith(f"{Observation.TABLE}/")}
    if steps and not resume:
        raise RunExistsError(f"{store.url} holds a run already: choose another URL, or resume=True to go on with it")
    if resume and there:
        wanted = [name for name, entry in sorted(steps.items()) if _size(folder / name) != entry.size]
        deque(download(store, wanted, folder), maxlen=0)
        _bring_info(store, there, folder)


def _bring_info(store: Store, there: dict[str, Entry], folder: Path) -> None:
    """The newer `run.json` of the two, with an attempt that no part in the store is beyond.

    It goes up last, so that the parts of a killed attempt may be there without it: a new attempt of the same number
    would write over them.
    """
    texts = {store.at(INFO_FILE): store.read(INFO_FILE).decode()} if INFO_FILE in there else {}
    if (folder / INFO_FILE).is_file():
        texts[str(folder / INFO_FILE)] = (folder / INFO_FILE).read_text()
    infos = [RunInfo(), *(_info(text, where) for where, text in texts.items())]
    newest = max(enumerate(infos), key=lambda numbered: (numbered[1].attempt, numbered[0]))[1]
    segments = [segment for name in there if (segment := segment_of(name)) is not None]
    attempt = max([newest.attempt, *(segment.attempt for segment in segments)])
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / f".{INFO_FILE}.tmp"
    hidden.write_text(replace(newest, attempt=attempt).to_json())
    os.replace(hidden, folder / INFO_FILE)


def _info(text: str, where: str) -> RunInfo:
    try:
        return RunInfo.from_json(text)
    except (ValueError, TypeError) as error:
        raise RunError(f"{where} cannot be read ({error}): repair it to resume") from error


def _size(path: Path) -> int:
    """In bytes; -1 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
