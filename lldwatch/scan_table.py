"""What a scan has found, one line a run, for a terminal, or as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TextIO

from lldwatch.scan import Engine, Scanned, scan
from lldwatch.scan_cache import ScanCache
from lldwatch.stores.store import is_url


def show_scan(
    root: str | os.PathLike[str],
    out: TextIO,
    *,
    as_json: bool = False,
    engine: Engine = "local",
    jobs: int | None = None,
    use_cache: bool = True,
) -> None:
    """Scan, and write what was found; how far it is goes to standard error, if that is a terminal.

    Args:
        root: folder, or URL in an object store.
        out: where the lines go.
        as_json: one JSON object instead of lines.
        engine: see `lldwatch.scan.scan`.
        jobs: processes; None: one for each core.
        use_cache: do not read runs that have not changed since an earlier scan.

    Raises:
        RunNotFoundError: there is no such folder, or no run in it.
        RunError: the object store cannot be reached.
        InputError: Ray is not installed.
    """
    with _progress() as progress:
        cache = ScanCache() if use_cache else None
        found = scan(root, engine=engine, jobs=jobs, cache=cache, progress=progress)
    if as_json:
        runs = [one.as_dict() for one in found]
        print(json.dumps({"root": str(root), "runs": runs}, indent=2), file=out)
    else:
        print("\n".join(as_table(found, root)), file=out)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, where tqdm is installed; else nothing."""
    if not sys.stderr.isatty() or find_spec("tqdm") is None:
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="run", desc="scan", leave=False, file=sys.stderr) as bar:

        def show(done: int, runs: int) -> None:
            bar.total = runs
            bar.update(done - bar.n)

        yield show


def as_table(found: Sequence[Scanned], root: str | os.PathLike[str], now: float | None = None) -> list[str]:
    """One line a run, for a terminal.

    Args:
        found: the records, in their order.
        root: what was scanned: paths are shown relative to it.
        now: Unix time in s; None: the clock's.
    """
    now = time.time() if now is None else now
    head = ("run", "stage", "family", "onset", "warned", "risk", "steps", "last step", "state", "missing")
    rows = [_row(one, str(root), now) for one in found if one.error is None]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    unread = [f"{_name(one.run, str(root))}: {one.error}" for one in found if one.error is not None]
    return [line.rstrip() for line in (lines if rows else [])] + unread


def _row(one: Scanned, root: str, now: float) -> tuple[str, ...]:
    risk = "-" if one.collapse_probability is None else f"{one.collapse_probability:.0%}"
    onset, warned = ("-" if step is None else str(step) for step in (one.onset, one.first_warning))
    missing = ", ".join(one.missing[:3]) + (f" and {len(one.missing) - 3} more" if len(one.missing) > 3 else "")
    state = "ended" if one.ended else "open"
    if one.problems:
        state += f", {len(one.problems)} files unread"
    age = "-" if one.last_time is None else _age(now - one.last_time)
    name, stage = _name(one.run, root), one.stage or "-"
    return (name, stage, one.family or "-", onset, warned, risk, str(one.steps), age, state, missing or "-")


def _name(run: str, root: str) -> str:
    """Relative to what was scanned."""
    if is_url(run):
        root, run = root.partition("?")[0].rstrip("/"), run.partition("?")[0]
    else:
        root = os.path.abspath(root)
    return run.removeprefix(root).lstrip("/") or run


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
