"""What can be imported below a folder: metrics, and the rows of responses that lie beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lldwatch.errors import InputError
from lldwatch.importers.format import Format, Part, RowsFormat
from lldwatch.importers.known import FORMATS, ROWS_FORMATS
from lldwatch.importers.recognise import recognise
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally
from lldwatch.run import is_run

MOST_FILES = 20_000
_CHECKPOINT = re.compile(r"^(?:checkpoint|global_step)[-_]?(\d+)$")
_PROGRAMS = (".py", ".sh", ".md", ".so", ".pyc", ".whl", ".lock", ".yaml", ".yml", ".toml", ".cfg", ".tar", ".zip")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".model", ".npy", ".npz", ".pkl")
_NO_LOGS = {*_PROGRAMS, *_WEIGHTS, ".png", ".jpg", ".pdf", ".svg"}


@dataclass
class Found:
    """One thing to import.

    Attributes:
        name: what its run is called: the path below the folder that was searched.
        paths: its files, one unless the format takes a whole folder.
        format: None where there are only rows.
        why: the format was recognised, in words that follow "because".
        rows: step -> where rows of responses stand that belong to it.
        rows_format: of these.
    """

    name: str
    paths: list[Path]
    format: Format | None
    why: str
    rows: dict[int, list[Part]] = field(default_factory=dict)
    rows_format: RowsFormat | None = None

    @property
    def source(self) -> str:
        """The files, as messages name them."""
        if not self.paths:
            return "standard input"
        return str(self.paths[0]) + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")


def find(root: Path, tally: Tally) -> list[Found]:
    """All that is below a folder: of several checkpoints the last, of files of rows the folder as a whole.

    Raises:
        InputError: there is nothing that is recognised.
    """
    metrics: dict[str, Found] = {}
    rows: dict[tuple[str, Path], Found] = {}
    for path in _files(root, tally):
        if not _is_rows(path, rows, tally):
            _add_metrics(root, path, metrics, tally)
    found = list(metrics.values())
    for stranger in rows.values():
        _attach(root, stranger, found, tally)
    if not found:
        left_out = f" ({'; '.join(tally.reasons[:2])})" if tally.dropped else ""
        raise InputError(
            f"{root} is not a run, and holds no log of another tool that is recognised{left_out}: "
            "give the run or the log itself"
        )
    return sorted(found, key=lambda item: item.name)


class RowsFile(NamedTuple):
    """A file of rows: its format and why, the folder that all steps are in, and where those of each step stand."""

    format: RowsFormat
    why: str
    folder: Path
    steps: dict[int, Part]


def rows_of(path: Path, tally: Tally) -> RowsFile | None:
    """What a file of rows holds; None if it is none. One of an evaluation holds no step."""
    text = Path(os.path.abspath(path)).as_posix()
    for fmt in ROWS_FORMATS:
        match, aside = fmt.path.search(text), fmt.aside is not None and fmt.aside.search(text)
        if not (match or aside) or not (why := fmt.recognise(path)):
            continue
        if aside or not match:
            tally.drop("file of responses of an evaluation, not of the training", str(path))
            return RowsFile(fmt, why, path.parent, {})
        folder = Path(text[: match.start()] or "/")
        if fmt.steps is not None:
            return RowsFile(fmt, why, folder, dict(fmt.steps(path, tally)))
        if len(match["step"]) < 16:
            return RowsFile(fmt, why, folder, {int(match["step"]): Part(path)})
    return None


def _is_rows(path: Path, rows: dict[tuple[str, Path], Found], tally: Tally) -> bool:
    found = rows_of(path, tally)
    if found is None:
        return False
    fmt, why, folder, steps = found
    if steps:
        item = rows.setdefault((fmt.name, folder), Found(folder.name, [folder], None, why, rows_format=fmt))
        for step, part in steps.items():
            item.rows.setdefault(step, []).append(part)
    return True


def _files(root: Path, tally: Tally) -> Iterator[Path]:
    """Regular files, in a settled order; runs of lldwatch, hidden folders and links to folders are not entered."""
    count = 0
    for folder, subfolders, files in os.walk(root):
        if is_run(Path(folder)):
            tally.note(f"{folder} is a run of lldwatch already: left out")
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "node_modules")
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith(".") or path.suffix in _NO_LOGS or not path.is_file():
                continue
            count += 1
            if count > MOST_FILES:
                tally.note(f"{root} holds more than {MOST_FILES:,} files: those after {path} were not looked at")
                return
            yield path


def _add_metrics(root: Path, path: Path, metrics: dict[str, Found], tally: Tally) -> None:
    """Keep what is recognised; of the same file in several checkpoints the last one."""
    found = _look_at(path, tally)
    if found is None:
        return
    fmt, why = found
    inside = path.relative_to(root)
    steps = [int(match[1]) for part in inside.parts[:-1] if (match := _CHECKPOINT.match(part))]
    parts = [part for part in inside.parts if not _CHECKPOINT.match(part)]
    key = "/".join(parts[:-1] if fmt.whole_folder else parts)
    before = metrics.get(f"{fmt.name} {key}")
    if before is not None and fmt.whole_folder:
        before.paths.append(path)
        return
    if before is not None:
        newest = max(before.paths[0], path, key=lambda file: _age(root, file))
        tally.note(f"{key}: of several checkpoints the last one is read, {newest.parent.name}")
        if newest != path:
            return
    name = "/".join(parts[:-1]) or (root.resolve().name if steps or fmt.whole_folder else path.stem)
    metrics[f"{fmt.name} {key}"] = Found(name or path.stem, [path], fmt, why)


def _age(root: Path, file: Path) -> int:
    """The checkpoint's number; what lies outside of checkpoints was saved at the end."""
    numbers = [int(match[1]) for part in file.relative_to(root).parts if (match := _CHECKPOINT.match(part))]
    return max(numbers, default=2**63)


def _look_at(path: Path, tally: Tally) -> tuple[Format, str] | None:
    try:
        source = Source(path)
    except InputError:
        if os.access(path, os.R_OK):
            return None  # empty, as many files of a training are
        tally.drop("file that may not be read", str(path))
        return None
    try:
        return recognise(source, Tally())
    except InputError:
        tally.drop("file of no format that is known", str(path))
        return None


def _attach(root: Path, rows: Found, found: list[Found], tally: Tally) -> None:
    """Rows belong to the metrics that lie nearest: of one run logged several times, to the most telling of them."""
    folder, top = rows.paths[0], Path(os.path.abspath(root))
    for above in (folder, *folder.parents):
        near = [item for item in found if item.format is not None and _is_below(above, item)]
        best = min((_rank(item) for item in near), default=None)
        chosen = [item for item in near if _rank(item) == best]
        if len(chosen) == 1 and not chosen[0].rows:
            chosen[0].rows, chosen[0].rows_format = rows.rows, rows.rows_format
            return
        if near:
            tally.note(f"{folder}: it is not clear which log these responses belong to, they become a run of their own")
        if near or above == top:
            break
    rows.name = folder.relative_to(top).as_posix() if folder.is_relative_to(top) and folder != top else folder.name
    found.append(rows)


def _rank(item: Found) -> tuple[int, bool]:
    """A trainer's own file comes before what it printed, which is rounded; where both are of one format as well."""
    return FORMATS.index(item.format) if item.format in FORMATS else len(FORMATS), is_printed(item.paths[0])


def is_printed(path: Path) -> bool:
    """A console log, by its name."""
    return path.suffix not in (".json", ".jsonl", ".csv", ".parquet")


def _is_below(folder: Path, item: Found) -> bool:
    return any(folder in Path(os.path.abspath(path)).parents for path in item.paths)
