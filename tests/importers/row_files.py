"""Makes files of rows as the trainers write them, and imports them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lldwatch import Run
from lldwatch.importers.job import Options, import_logs
from lldwatch.importers.result import Imported

Row = dict[str, Any]

COMPLETIONS: Row = {
    "prompt": ["1+1=", "1+1=", "2+2=", "2+2="],
    "completion": ["2", "3", "4", "5"],
    "right": [1.0, 0.0, 1.0, 0.0],
    "short": [0.5, 0.0, 0.0, 0.0],
    "advantage": [0.7, -0.7, 0.7, -0.7],
}


def parquet(folder: Path, step: int, **columns: Any) -> Path:
    """A file of TRL; a column given as None is not there."""
    table = {"step": [step] * 4, **COMPLETIONS, **columns}
    table = {name: values for name, values in table.items() if values is not None}
    table["step"] = [step] * len(table["prompt"])
    path = folder / "completions" / f"completions_{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def state(folder: Path, rows: list[Row]) -> Path:
    """TRL's trainer_state.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"global_step": len(rows), "log_history": rows}))
    return path


def imported(src: Path, tmp_path: Path, fmt: str = "auto") -> tuple[Run, Imported]:
    """The only run."""
    runs, tally = import_logs(src, tmp_path / "imported", Options(format=fmt))
    assert len(runs) == 1, [run.source for run in runs]
    assert runs[0].path is not None
    runs[0].tally.notes += tally.notes
    runs[0].tally.dropped |= tally.dropped
    assert not [note for note in runs[0].tally.notes if "fault of lldwatch" in note]
    return Run(runs[0].path), runs[0]


def column(run: Run, name: str, step: int | None = None) -> list[Any]:
    """Of the responses, in the order of the run."""
    rows = run.responses().to_pylist()
    return [row[name] for row in rows if step is None or row["step"] == step]
