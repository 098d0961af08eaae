"""One log of each format to begin with, and what is done with a damaged one: it is recognised and read to its end."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import test_nemo_train_data
import test_prime_rl_tokens
from mutations import LARGEST
from row_files import jsonl, parquet

from lldwatch.errors import LldwatchError
from lldwatch.importers.find import Found, rows_of
from lldwatch.importers.format import Format, RowsFormat
from lldwatch.importers.job import Options, steps_of
from lldwatch.importers.known import FORMATS, ROWS_FORMATS
from lldwatch.importers.recognise import recognise
from lldwatch.importers.rows import with_rows
from lldwatch.importers.source import Source
from lldwatch.importers.steps import Step
from lldwatch.importers.tally import Tally

SAMPLES = Path(__file__).parents[2] / "sample_logs/foreign"
ALL: tuple[Format | RowsFormat, ...] = (*FORMATS, *ROWS_FORMATS)
FAULT = "a fault of lldwatch"
_MOST_SEEDS = 4
_SIZES = (4 * 1024, 16 * 1024, LARGEST)


class Seed(NamedTuple):
    """A log: its path below a folder, and what is in it."""

    name: str
    data: bytes


class FaultError(Exception):
    """A reader met something that it did not foresee."""


@cache
def seeds() -> dict[str, list[Seed]]:
    """Format -> logs that it reads: pieces of the samples, and small ones that are made here."""
    found: dict[str, list[Seed]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as made:
        _make(Path(made))
        for root in (Path(made), SAMPLES):
            for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".py"):
                fmt = _format_of(path)
                if fmt is not None and len(found[fmt.name]) < _MOST_SEEDS:
                    name = path.relative_to(root).as_posix()
                    found[fmt.name] += [Seed(name, data) for data in _shortest(fmt, name, path.read_bytes())]
    return dict(found)


CSV = "step,reward,actor/entropy,loss\n1,0.5,1.25,nan\n2,0.75,1.0,-1e-3\n3,,0.5,0.25\n"
TYPED = """{"type": "train", "grpo_step": 1, "optimizer_step": 2, "token_entropy": 0.68, "reward": 0.5, "loss": NaN}
{"type": "train", "grpo_step": 2, "optimizer_step": 4, "token_entropy": 0.5, "reward": null, "loss": 1e-3}
{"type": "eval", "grpo_step": 2, "accuracy": 0.25}
"""
TABLE = """<table border="1" class="dataframe"><thead><tr style="text-align: left;"><th>Step</th><th>Training Loss</th>
<th>reward</th><th>reward_std</th><th>completions / mean_length</th><th>kl</th></tr></thead><tbody>
<tr><td>1</td><td>0.010000</td><td>0.625000</td><td>0.250000</td><td>12.500000</td><td>No Log</td></tr>
<tr><td>2</td><td>nan</td><td>0.750000</td><td>0.125000</td><td>11.000000</td><td>0.001000</td></tr></tbody></table>
"""


def _make(root: Path) -> None:
    (root / "metrics.csv").write_text(CSV)
    (root / "train_log.jsonl").write_text(TYPED)
    (root / "table.html").write_text(f"<html><body>{TABLE}</body></html>")
    cell = {"cell_type": "code", "outputs": [{"output_type": "display_data", "data": {"text/html": [TABLE]}}]}
    (root / "run.ipynb").write_text(json.dumps({"nbformat": 4, "cells": [{"cell_type": "markdown"}, cell]}))
    pq.write_table(
        pa.table({"step": [1, 2, 3], "reward": [0.5, None, 1.0], "loss": [0.1, 0.2, 0.3]}), root / "m.parquet"
    )
    jsonl(root / "train_data_step3.jsonl", test_nemo_train_data.rows_of(4))
    test_prime_rl_tokens.export(root, test_prime_rl_tokens.samples(3))
    parquet(root, 7)
    jsonl(root / "5.jsonl", [{"input": "a", "output": "b", "score": 1.0, "step": 5, "acc": True}] * 3)
    row = {"step": ["2"] * 2, "prompt": ["p"] * 2, "completion": ["a", "b"], "R": [1.0, 0.0], "advantages": [1.0, -1.0]}
    jsonl(root / "completions.jsonl", [row, {**row, "step": ["3"] * 2}])


def _format_of(path: Path) -> Format | RowsFormat | None:
    """Found by its name and head alone, or by its first telling line."""
    try:
        rows = rows_of(path, Tally())
        if rows is not None:
            return rows.format
        return recognise(Source(path), Tally())[0]
    except LldwatchError:
        return None


def _shortest(fmt: Format | RowsFormat, name: str, data: bytes) -> list[bytes]:
    """A part of a log that gives a step, of whole lines: short logs are read quickly."""
    heads = [data[: (data.find(b"\n", size) + 1 or size)] if len(data) > size else data for size in _SIZES]
    tail = data[data.find(b"\n", max(len(data) - _SIZES[0], 0)) + 1 :]
    for piece in (heads[0], tail, *heads[1:]):
        with memory_folder() as folder, suppress(LldwatchError):
            if feed(fmt, put(folder, Seed(name, piece))) and len(piece) < LARGEST:
                return [piece]
    return []


def put(folder: Path, seed: Seed) -> Path:
    """Write the log below a folder."""
    path = folder / seed.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(seed.data)
    return path


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory where the machine has one."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


def feed(fmt: Format | RowsFormat, path: Path) -> int:
    """Recognise and read a file; the number of steps.

    Raises:
        LldwatchError: it is of no use, which is foreseen.
        FaultError: a reader broke down.
    """
    tally = Tally()
    steps = _rows(path, tally) if isinstance(fmt, RowsFormat) else _metrics(fmt, path, tally)
    _check(tally)
    return steps


def _rows(path: Path, tally: Tally) -> int:
    found = rows_of(path, tally)
    if found is None:
        return 0
    places = {step: [part] for step, part in found.steps.items()}
    item = Found("x", [path], None, found.why, places, found.format)
    return sum(1 for _ in with_rows(iter(()), item, tally))


def _metrics(fmt: Format, path: Path, tally: Tally) -> int:
    with suppress(LldwatchError):  # if it is no longer recognised, it is read as if the user had named the format
        recognise(Source(path), tally)
    source = Source(path)
    fmt.about(source)
    steps: list[Step] = list(steps_of(fmt, fmt.read(source, tally), Options(), tally))
    return len(steps)


def _check(tally: Tally) -> None:
    faults = [note for note in tally.notes if FAULT in note]
    if faults:
        raise FaultError(faults[0])
    assert json.dumps(tally.as_dict())
    assert all(line.isprintable() for line in (*tally.notes, *tally.reasons))
