"""What the tests of the formats share: import a file, and look at the numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lldwatch.importers.job import Options, import_logs
from lldwatch.importers.result import Imported
from lldwatch.importers.tally import Tally
from lldwatch.run import Run

FOREIGN = Path(__file__).resolve().parents[2] / "sample_logs" / "foreign"


def imported(source: Path, **options: Any) -> tuple[list[Imported], Tally, Path]:
    """All runs of a source, in a folder beside it."""
    out = Path(tempfile.mkdtemp(prefix="out-", dir=source.parent)) / "out"
    runs, tally = import_logs(source, out, Options(progress=False, **options))
    return runs, tally, out


def one(source: Path, **options: Any) -> Imported:
    """The only run of a source."""
    [run], _, _ = imported(source, **options)
    return run


def column(run: Imported, name: str) -> list[Any]:
    """A column of the steps of a run, float32 as it is kept."""
    assert run.path is not None
    return list(Run(run.path).steps()[name].to_pylist())


def rounded(run: Imported, name: str) -> list[Any]:
    """The same with six digits, which a float32 has."""
    return [None if value is None else float(f"{value:.6g}") for value in column(run, name)]
