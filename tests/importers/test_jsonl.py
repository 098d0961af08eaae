from __future__ import annotations

import gzip
import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from imports import column, imported, one, rounded

from lldwatch.errors import InputError
from lldwatch.importers import json_rows, metric_rows
from lldwatch.importers.jsonl import FORMAT
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

ROWS: list[dict[str, Any]] = [{"step": s, "reward": s / 4, "loss": -s / 8, "grad_norm": 0.5} for s in range(1, 6)]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_one_object_a_line(tmp_path: Path) -> None:
    run = one(lines(tmp_path / "metrics.jsonl", ROWS))
    assert run.format == "json"
    assert run.why == "it is JSON, in rows that have reward, loss and grad_norm"
    assert column(run, "step") == [1, 2, 3, 4, 5]
    assert column(run, "reward") == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert column(run, "loss") == [-0.125, -0.25, -0.375, -0.5, -0.625]
    assert (run.tally.rows, run.tally.dropped, run.tally.notes) == (5, {}, [])


@pytest.mark.parametrize(
    "document",
    [
        ROWS,
        {"steps": ROWS},
        {"config": {"lr": 1e-6}, "history": ROWS, "best": {"reward": 1.25}},
        {"run": {"name": "a", "log": {"history": ROWS}}},
        {name: [row[name] for row in ROWS] for name in ROWS[0]},
        {"args": {"n": 8}, "metrics": {name: [row[name] for row in ROWS] for name in ROWS[0]}},
    ],
    ids=["list", "steps", "history", "deep", "columns", "columns-inside"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_documents_of_any_shape(tmp_path: Path, document: Any, indent: int | None) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(document, indent=indent))
    run = one(path)
    assert (run.format, column(run, "step")) == ("json", [1, 2, 3, 4, 5])
    assert column(run, "reward") == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_columns_without_a_step_are_counted_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text('{"reward": [0.5, 1.0, NaN], "loss": [0.1, null, Infinity], "seed": 3}')
    run = one(path)
    assert column(run, "step") == [1, 2, 3]
    assert column(run, "reward")[:2] == [0.5, 1.0]
    assert math.isnan(column(run, "reward")[2])
    assert column(run, "loss")[1:] == [None, math.inf]
    assert run.tally.notes == ["no column says the step: rows are counted, from 1 (--step-column names it)"]


def test_typed_rows_of_a_course(tmp_path: Path) -> None:
    rows = [
        {"type": "config", "lr": 1e-5, "reward": 9.0},
        '{"type":"train","grpo_step":1,"optimizer_step":2,"token_entropy":0.75,"clip_fraction":null,"loss":NaN}',
        {"type": "eval", "grpo_step": 1, "reward": 9.0, "token_entropy": 9.0},
        '{"type":"train","grpo_step":2,"optimizer_step":4,"token_entropy":"0.5","clip_fraction":0.25,"loss":-Infinity}',
        {"type": "val", "grpo_step": 2, "reward": 9.0},
    ]
    run = one(lines(tmp_path / "log.jsonl", rows))
    assert column(run, "step") == [1, 2]
    assert column(run, "entropy") == [0.75, 0.5]
    assert column(run, "clip_fraction") == [None, 0.25]
    assert math.isnan(column(run, "loss")[0])
    assert column(run, "loss")[1] == -math.inf
    assert column(run, "reward") == [None, None]
    assert run.tally.dropped == {
        "row whose type is config": (1, "line 1"),
        "row whose type is eval": (1, "line 3"),
        "row whose type is val": (1, "line 5"),
    }


def test_objects_within_a_row_become_names(tmp_path: Path) -> None:
    rows = [{"step": s, "train": {"reward": 0.5, "kl": s / 2}, "rewards": [1, 2], "text": "x"} for s in (1, 2)]
    run = one(lines(tmp_path / "log.jsonl", rows))
    assert (column(run, "reward"), column(run, "kl")) == ([0.5, 0.5], [0.5, 1.0])


def test_names_of_own_loops_and_what_stays_unnamed(tmp_path: Path) -> None:
    row = {"step": 1, "mean_reward": 0.5, "Grad Norm": 2.0, "approx_kl": 0.1, "accuracy": 0.5, "total_reward": 8}
    run = one(lines(tmp_path / "log.jsonl", [row]))
    assert (column(run, "reward"), column(run, "grad_norm"), column(run, "kl")) == ([0.5], [2.0], [None])
    assert list(run.tally.unmapped) == ["approx_kl", "accuracy", "total_reward"]


def test_lists_that_are_runs_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    other = [{**row, "reward": 1 - row["step"] / 50} for row in ROWS]
    path.write_text(json.dumps({"grpo": ROWS, "ppo": other, "eval": ROWS, "samples": [{"text": "a"}]}))
    runs, _, _ = imported(path)
    assert [run.name for run in runs] == ["grpo", "ppo"]
    assert column(runs[1], "reward")[0] == pytest.approx(0.98)
    assert runs[0].tally.dropped == {
        "list of an evaluation": (1, "eval"),
        "list without a metric of a training": (1, "samples"),
    }


def test_newest_first_is_turned_round(tmp_path: Path) -> None:
    run = one(lines(tmp_path / "log.jsonl", ROWS[::-1]))
    assert column(run, "step") == [1, 2, 3, 4, 5]
    assert run.tally.notes == ["the newest row stands on top: the table was turned round"]


def test_too_many_rows_with_the_newest_first_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_rows, "_MOST_TURNED", 20)
    rows = [{"step": s, "reward": s / 4} for s in range(30, 0, -1)]
    run = one(lines(tmp_path / "log.jsonl", rows))
    assert column(run, "step") == list(range(11, 31))
    assert run.tally.dropped == {
        "row of a table with the newest on top, beyond 20 rows: sort it by step": (10, "line 21")
    }


def test_a_step_given_twice_and_a_run_that_was_appended(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[-1], "reward": 7.0}, *({**row, "reward": 2.0 * row["step"]} for row in ROWS)]
    runs, _, _ = imported(lines(tmp_path / "log.jsonl", rows))
    assert [run.steps for run in runs] == [5, 5]
    assert column(runs[0], "reward")[-1] == 7.0
    assert runs[0].tally.dropped == {"reward given again for the same step: the last one holds": (1, "line 6")}
    assert any("another run begins" in note for note in runs[0].tally.notes)


def test_lines_that_are_no_row(tmp_path: Path) -> None:
    rows = [
        *ROWS[:2],
        "Traceback (most recent call last):",
        "[1, 2]",
        json.dumps(ROWS[2])[:-9],
        '{"a":' * 5000,
        ROWS[3],
    ]
    run = one(lines(tmp_path / "log.jsonl", rows))
    assert column(run, "step") == [1, 2, 4]
    assert run.tally.dropped == {
        "line that is no object of JSON": (2, "line 3"),
        "line that breaks off, or is no JSON": (2, "line 5"),
    }


def test_a_document_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(ROWS, indent=1)[:-60])
    run = one(path)
    assert column(run, "step") == [1, 2, 3, 4]
    assert [(why[:52], place) for why, (_, place) in run.tally.dropped.items()] == [
        ("the rest of the text, which breaks off or is no JSON", "entry 5")
    ]


def test_a_value_of_another_type_is_counted(tmp_path: Path) -> None:
    run = one(lines(tmp_path / "log.jsonl", [*ROWS[:2], {"step": 3, "reward": {"a": 1}, "kl": "high", "loss": [1]}]))
    assert column(run, "step") == [1, 2]
    assert run.tally.dropped["kl that is not a number"] == (1, "line 3")


def test_percent_is_no_share(tmp_path: Path) -> None:
    run = one(lines(tmp_path / "log.jsonl", [{"step": s, "reward": 0.5, "train_accuracy": 40.0} for s in (1, 2)]))
    assert column(run, "correct_share") == [None, None]
    assert run.tally.dropped == {"train_accuracy that is no share, which is 0 to 1": (2, "line 1")}


def test_the_column_of_the_step_is_the_users_choice(tmp_path: Path) -> None:
    rows = [{"step": 7, "batch": b, "reward": 0.5} for b in range(3)]
    assert column(one(lines(tmp_path / "log.jsonl", rows), step_column="batch"), "step") == [0, 1, 2]


def test_names_that_only_the_user_knows(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"log": [{"n": 1, "r": 0.5}, {"n": 2, "r": 0.75}]}))
    with pytest.raises(InputError, match="has nothing in it that a known trainer or logger writes"):
        imported(path)
    run = one(path, format="json", own={"reward": "r"}, step_column="n")
    assert (column(run, "step"), column(run, "reward")) == ([1, 2], [0.5, 0.75])


def test_the_time_of_a_row(tmp_path: Path) -> None:
    rows = [{"step": 1, "reward": 1, "timestamp": "2026-01-01T00:00:01Z"}, {"step": 2, "reward": 1, "time": 12.5}]
    rows += [{"step": 3, "reward": 1, "_timestamp": 1767225603.5}, {"step": 4, "reward": 1, "ts": 1767225604000}]
    run = one(lines(tmp_path / "log.jsonl", rows))
    assert column(run, "time") == [1767225601.0, None, 1767225603.5, 1767225604.0]


def test_compressed_and_in_utf_16(tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "wide.jsonl").write_text(text, encoding="utf-16")
    for name in ("log.jsonl.gz", "wide.jsonl"):
        assert column(one(tmp_path / name), "reward") == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_a_first_line_that_is_longer_than_the_head(tmp_path: Path) -> None:
    rows = [{"step": 1, "reward": 0.5, "note": "x" * 100_000}, *ROWS[1:]]
    assert column(one(lines(tmp_path / "log.jsonl", rows)), "step") == [1, 2, 3, 4, 5]


def test_rows_behind_a_long_head_of_something_else(tmp_path: Path) -> None:
    path = lines(tmp_path / "log.txt", ["starting up, please wait"] * 5000 + ROWS)
    run = one(path)
    assert run.why.startswith('line 5001 reads "{"step": 1, "reward": 0.25')
    assert column(run, "step") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "document",
    [
        {"name": "lldwatch", "version": "1.0", "loss": 3},
        [{"id": 1, "reward": 0.5}, {"id": 2, "reward": 1.0}],
        [{"prompt": "a", "completion": "b", "reward": 0.5, "step": 1}],
        {"steps": [{"step": 1, "action": "left", "reward": 0.5, "done": False}]},
        {"mean_reward": 0.5, "mean_kl": 0.1},
        [{"step": 1, "loss": 0.5, "learning_rate": 1e-5}],
        [1, 2, 3],
        "reward",
    ],
    ids=["package", "scores", "responses", "moves", "summary", "sft", "numbers", "text"],
)
def test_other_json_is_refused(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="name its format, one of"):
        imported(path)


def test_the_summary_of_wandb_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "wandb-summary.json"
    path.write_text(json.dumps({"train/reward": 0.5, "train/kl": 0.1, "_step": 30, "_wandb": {"runtime": 3}}))
    with pytest.raises(InputError):
        imported(path)


def test_an_object_too_large_to_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "LARGEST_OBJECT", 200)
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"history": ROWS * 5}, indent=1))
    with pytest.raises(InputError, match="export it as a list, or as lines"):
        imported(path)


def test_a_stream_gives_each_row_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BufferedReader(io.BytesIO("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    source = Source(None)
    assert FORMAT.recognise(source)
    assert [entry.step for entry in FORMAT.read(source, Tally())] == [1, 2, 3, 4, 5]


def test_rounded_as_it_stands(tmp_path: Path) -> None:
    run = one(lines(tmp_path / "log.jsonl", [{"step": 0, "reward": 0.123456, "kl": 1e-07, "entropy": -0.0}]))
    assert (rounded(run, "reward"), rounded(run, "kl"), column(run, "step")) == ([0.123456], [1e-07], [0])
