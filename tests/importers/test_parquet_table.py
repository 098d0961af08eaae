from __future__ import annotations

import datetime
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imports import column, imported, one

from lldwatch.errors import InputError
from lldwatch.importers import parquet_table

STEPS = list(range(1, 6))
REWARDS = [step / 4 for step in STEPS]


def parquet(path: Path, more: dict[str, object] | None = None, **options: object) -> Path:
    pq.write_table(pa.table({"step": STEPS, "reward": REWARDS, **(more or {})}), path, **options)
    return path


def test_a_row_a_step(tmp_path: Path) -> None:
    more = {"kl": [0.0, None, math.nan, math.inf, -1.0], "grad_norm": np.array([1, 2, 3, 4, 5], np.float16)}
    run = one(parquet(tmp_path / "log.parquet", more, row_group_size=2))
    assert (run.format, run.why) == ("parquet", "it is Parquet with the columns reward, kl and grad_norm")
    assert (column(run, "step"), column(run, "reward")) == (STEPS, REWARDS)
    kl = column(run, "kl")
    assert kl[:2] + kl[3:] == [0.0, None, math.inf, -1.0]
    assert math.isnan(kl[2])
    assert column(run, "grad_norm") == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_types_of_columns(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    more = {
        "train/entropy": pa.array(["0.5", "nan", "No Log", "x", None]),
        "loss": pa.array([0, 1, 0, 1, 0], pa.decimal128(5, 2)),
        "kl": pa.array(["0.5"] * 5).dictionary_encode(),
        "metrics": [{"grad_norm": 2.5, "inner": {"clip_frac": 0.25}}] * 5,
        "timestamp": [day + datetime.timedelta(seconds=step) for step in STEPS],
        "ids": [[1, 2]] * 5,
        "note": ["words"] * 5,
        "mode": ["train"] * 5,
    }
    run = one(parquet(tmp_path / "log.parquet", more))
    assert column(run, "entropy")[0] == 0.5
    assert column(run, "entropy")[2:] == [None, None, None]
    assert column(run, "loss") == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert column(run, "kl") == [0.5] * 5
    assert column(run, "grad_norm") == [2.5] * 5
    assert column(run, "clip_fraction") == [None] * 5  # a name within a name is another name
    assert column(run, "time") == [day.timestamp() + step for step in STEPS]
    assert run.tally.dropped == {"train/entropy that is not a number": (1, "row 4")}


def test_rows_of_an_evaluation(tmp_path: Path) -> None:
    run = one(parquet(tmp_path / "log.parquet", {"split": ["train", "train", "train", "eval", "eval"]}))
    assert column(run, "step") == [1, 2, 3]
    assert run.tally.dropped == {"row whose split is eval": (2, "row 4")}


def test_the_column_of_the_step_is_the_users_choice(tmp_path: Path) -> None:
    path = parquet(tmp_path / "log.parquet", {"batch": [10, 20, 30, 40, 50]})
    assert column(one(path, step_column="batch"), "step") == [10, 20, 30, 40, 50]


def test_newest_first_is_turned_round(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"step": STEPS[::-1], "reward": REWARDS[::-1]}), path)
    assert column(one(path), "reward") == REWARDS


def test_a_column_chunk_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_table, "LARGEST_CHUNK", 2 * 1024**2)
    path = tmp_path / "bomb.parquet"
    zeros = pa.array([0.0]).take(pa.array([0] * 400_000))
    table = pa.table({"step": range(400_000), "reward": zeros, "unused": [[1]] * 400_000})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=400_000)
    with pytest.raises(InputError, match=r"column step becomes 3 MiB at once, more than 2: write it in smaller row gr"):
        imported(path)
    pq.write_table(table.slice(0, 3000), path, row_group_size=1000)
    assert one(path).steps == 3000


def test_more_rows_than_any_training_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_table, "MOST_ROWS", 3)
    with pytest.raises(InputError, match="has 5 rows, more than 3: one a step is expected"):
        imported(parquet(tmp_path / "log.parquet"))


def test_a_long_text_that_repeats_is_not_made_again_for_each_row(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    words = pa.array(["x" * 1_000_000]).take(pa.array([0] * 5)).dictionary_encode().cast(pa.string())
    pq.write_table(pa.table({"step": STEPS, "reward": REWARDS, "entropy": words}), path)
    run = one(path)
    assert run.tally.dropped == {"entropy that is not a number": (5, "row 1")}


@pytest.mark.parametrize("cut", [200, -1, -8])
def test_a_file_without_its_end(tmp_path: Path, cut: int) -> None:
    path = parquet(tmp_path / "log.parquet")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="is binary, of no format that is known"):
        imported(path)
    with pytest.raises(InputError, match="is no Parquet file, or its end is missing"):
        imported(path, format="parquet")


def test_a_damaged_page_ends_the_reading(tmp_path: Path) -> None:
    path = parquet(tmp_path / "log.parquet", row_group_size=1, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    about = pq.ParquetFile(path).metadata.row_group(3).column(1)
    place, size = about.data_page_offset, about.total_compressed_size
    data[place : place + size] = b"\xff" * size
    path.write_bytes(bytes(data))
    run = one(path)
    assert column(run, "reward") == REWARDS[: run.steps]
    assert run.steps < 5
    assert any(why.startswith("rest of the file, which is damaged") for why in run.tally.dropped)


def test_tables_of_something_else_are_refused(tmp_path: Path) -> None:
    for name, table in {
        "words": {"name": ["Ada"], "age": [36]},
        "responses": {"step": [1], "prompt": ["a"], "completion": ["b"], "reward": [0.5]},
    }.items():
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        with pytest.raises(InputError, match="is binary, of no format that is known"):
            imported(tmp_path / f"{name}.parquet")
