"""Rows of any table with any values, written and read again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from strategies import histories

from lldwatch import Observation, Run
from lldwatch.columns import RowTable
from lldwatch.recorder import Recorder
from lldwatch.schema import TABLES, RunInfo, columns_of

ROW_TABLES = [table for table in TABLES.values() if issubclass(table, RowTable)]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=12),  # half characters: see test_recorder
    "float32": st.floats(width=32) | st.sampled_from([float("nan"), float("inf"), -0.0]),
    "float64": st.floats(),
    **{f"int{bits}": st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64)},
}


@st.composite
def row_tables(draw: st.DrawFn) -> RowTable:
    """Some rows of one of the tables, with some of its columns."""
    table: Any = draw(st.sampled_from(ROW_TABLES))
    length, columns = draw(st.integers(0, 9)), {}
    for name, column in columns_of(table.TABLE).items():
        dtype = column.metadata["dtype"]
        if name != "step" and draw(st.booleans()):
            values = draw(st.lists(VALUES[dtype], min_size=length, max_size=length))
            columns[name] = np.array(values, dtype=None if dtype == "string" and values else _dtype(dtype))
    made: RowTable = table(**columns)
    return made


def _dtype(name: str) -> Any:
    return "U1" if name == "string" else name


@st.composite
def runs(draw: st.DrawFn) -> list[tuple[Observation, list[RowTable]]]:
    """Steps, each with rows of some tables."""
    return [(step, draw(st.lists(row_tables(), max_size=4))) for step in draw(histories())]


def round_trip(steps: list[tuple[Observation, list[RowTable]]], steps_per_part: int, killed: bool) -> None:
    """What is written is what is read, from the parts and from the live segments.

    Raises:
        AssertionError: it is not.
    """
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "run", RunInfo(), steps_per_part=steps_per_part)
        for observation, tables in steps:
            recorder.record(observation, tables)
            if steps_per_part % 2:
                recorder.flush()
        recorder.flush()
        if not killed:
            recorder.close()
        run = Run(Path(folder) / "run")
        assert repr(run.observations()) == repr([observation for observation, _ in steps])
        for table in ROW_TABLES:
            _compare(run, table, steps)
        assert run.problems == []
        assert recorder.dropped_steps == 0
        recorder.close()


def _compare(run: Run, table: Any, steps: list[tuple[Observation, list[RowTable]]]) -> None:
    expected = []
    for observation, tables in steps:
        for rows in tables:
            if isinstance(rows, table):
                given = {name: None if column is None else column.tolist() for name, column in rows.columns().items()}
                expected += [
                    {"step": observation.step, **{name: None if v is None else v[row] for name, v in given.items()}}
                    for row in range(len(rows))
                ]
    assert repr(getattr(run, table.TABLE)().to_pylist()) == repr(expected)
