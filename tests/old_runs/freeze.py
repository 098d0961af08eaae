"""Keeps a small run of the schema as it is now: `python tests/old_runs/freeze.py`, before the version is raised.

Every column of every table has a value, so that one that is lost or read as another type is noticed later.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from lldwatch import Observation, RunInfo, __version__
from lldwatch.columns import RowTable
from lldwatch.recorder import Recorder
from lldwatch.schema import SCHEMA_VERSION, TABLES, columns_of

STEPS, ROWS = 6, 3


def value(dtype: str, place: int) -> Any:
    """Exact in every dtype; negative, since log-probs may be no other."""
    if dtype == "string":
        return f"word {place}"
    return place % 2 == 0 if dtype == "bool" else -place if dtype.startswith("int") else -place / 4


def rows_of(table: type[RowTable], step: int) -> RowTable:
    """A table's rows of a step."""
    columns = [(name, item.metadata["dtype"]) for name, item in columns_of(table.TABLE).items() if name != "step"]
    return table(**{name: [value(dtype, step + row) for row in range(ROWS)] for name, dtype in columns})


def observation(step: int) -> Observation:
    """A step with every column."""
    columns = {name: value(item.metadata["dtype"], step) for name, item in columns_of("steps").items()}
    return Observation(**{**columns, "step": step})


def main() -> None:
    """Write it over what is there."""
    path = Path(__file__).parent / f"schema{SCHEMA_VERSION}"
    shutil.rmtree(path, ignore_errors=True)
    info = RunInfo(lldwatch_version=__version__, trainer="frozen", planned_steps=STEPS)
    with contextlib.closing(Recorder(path, info)) as recorder:
        recorder.event(-1, "start", "frozen")
        for step in range(1, STEPS + 1):
            kinds = [table for table in TABLES.values() if issubclass(table, RowTable)]
            recorder.record(observation(step), [rows_of(kind, step) for kind in kinds])
    print(path)


if __name__ == "__main__":
    main()
