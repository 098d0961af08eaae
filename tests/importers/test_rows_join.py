from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from row_files import column, imported, jsonl, parquet, state

from lldwatch import Run
from lldwatch.importers import find
from lldwatch.importers.format import Rows, RowsFormat
from lldwatch.importers.job import import_logs
from lldwatch.schema import Responses


def files(folder: Path, *steps: int) -> None:
    for step in steps:
        parquet(folder, step, completion=[f"{step}{letter}" for letter in "abcd"])


def test_steps_of_rows_alone_stand_between_those_of_the_log(tmp_path: Path) -> None:
    state(tmp_path / "out", [{"step": step, "reward": 0.1 * step, "loss": 1.0} for step in (2, 4, 6)])
    files(tmp_path / "out", 1, 2, 3, 4, 8)
    run, account = imported(tmp_path / "out", tmp_path)
    assert [row.step for row in run.observations()] == [1, 2, 3, 4, 6, 8]
    assert [row.loss for row in run.observations()] == [None, 1.0, None, 1.0, 1.0, None]
    assert [row.responses for row in run.observations()] == [4, 4, 4, 4, None, 4]
    assert sorted(set(column(run, "step"))) == [1, 2, 3, 4, 8]
    assert column(run, "uid") == list(range(20))
    assert account.steps == 6


def test_a_training_that_was_resumed_keeps_the_rows_of_its_last_attempt(tmp_path: Path) -> None:
    rows = [{"step": step, "reward": step / 10} for step in (1, 2, 3, 4, 5, 3, 4, 5, 7)]
    state(tmp_path / "out", rows)
    files(tmp_path / "out", 1, 2, 3, 4, 5, 6, 7, 9)
    run, _ = imported(tmp_path / "out", tmp_path)
    assert [row.step for row in run.observations()] == [1, 2, 3, 4, 5, 6, 7, 9]
    assert column(run, "step") == [step for step in (1, 2, 3, 4, 5, 6, 7, 9) for _ in range(4)]
    assert run.info.attempt == 1
    assert run.info.resumed_from == 2


def test_each_run_of_a_folder_has_its_own_rows(tmp_path: Path) -> None:
    for name, steps in (("a", (1, 2)), ("b", (1, 2, 3))):
        history = [{"step": step, "reward": float(step), "loss": float(len(steps))} for step in steps]
        state(tmp_path / "out" / name / "checkpoint-3", history)
        files(tmp_path / "out" / name, *steps)
    runs, _ = import_logs(tmp_path / "out", tmp_path / "imported")
    assert {run.name: run.tables for run in runs} == {"a": {"responses": 8}, "b": {"responses": 12}}


def test_of_one_run_logged_twice_the_one_with_the_rows_stays(tmp_path: Path) -> None:
    history = [{"step": step, "reward": 0.1 * step, "loss": 1.0, "kl": 0.5} for step in range(1, 9)]
    state(tmp_path / "out/checkpoint-8", history)
    (tmp_path / "out/console.log").write_text("".join(f"{row}\n" for row in history))
    files(tmp_path / "out", 1, 2)
    run, account = imported(tmp_path / "out", tmp_path)
    assert account.tables == {"responses": 8}
    assert [row.loss for row in run.observations()] == [1.0] * 8


def test_rows_that_could_belong_to_two_logs_are_a_run_of_their_own(tmp_path: Path) -> None:
    for name in "ab":
        state(tmp_path / "out" / name, [{"step": 1, "reward": 0.625, "loss": float(ord(name))}])
    files(tmp_path / "out", 1, 2, 3, 4, 5, 6)
    runs, tally = import_logs(tmp_path / "out", tmp_path / "imported")
    assert {run.name: len(run.tables) for run in runs} == {"a": 0, "b": 0, "completions": 1}
    assert any("not clear" in note for note in tally.notes)


def test_two_runs_in_one_log_have_the_rows_both(tmp_path: Path) -> None:
    state(tmp_path / "out", [{"step": step, "reward": float(step)} for step in (1, 2, 1, 2)])
    files(tmp_path / "out", 1, 2)
    runs, _ = import_logs(tmp_path / "out", tmp_path / "imported")
    assert [run.tables for run in runs] == [{"responses": 8}] * 2
    assert any("several runs" in note for note in runs[0].tally.notes)


def test_a_log_without_a_usable_step_leaves_the_rows(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/trainer_state.json").write_text('{"global_step": 3, "log_history": [')
    files(tmp_path / "out", 1, 2)
    run, _ = imported(tmp_path / "out", tmp_path)
    assert [row.step for row in run.observations()] == [1, 2]


def test_what_a_reader_did_not_foresee_costs_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_step(step: int) -> Rows:
        if step == 2:
            raise ZeroDivisionError("by zero")
        return Rows(Responses(reward=[float(step)]), {"rollout_kl": 0.25})

    fmt = RowsFormat(
        name="odd",
        title="",
        path=re.compile(r"odd(?P<step>\d+)$"),
        recognise=lambda path: "it is odd",
        read=lambda places, tally: of_step,
    )
    monkeypatch.setattr(find, "ROWS_FORMATS", (fmt,))
    for step in (1, 2, 3):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / f"out/odd{step}").write_text("x")
    runs, _ = import_logs(tmp_path / "out", tmp_path / "imported")
    assert [row.step for row in Run(runs[0].path or "").observations()] == [1, 3]
    assert [row.rollout_kl for row in Run(runs[0].path or "").observations()] == [0.25, 0.25]
    assert any("fault of lldwatch" in note and "by zero" in note for note in runs[0].tally.notes)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(tmp_path / "logs/exp/train_data_step1.jsonl", [{"rewards": [1.0]}])
    monkeypatch.chdir(tmp_path / "logs")
    for number, src in enumerate(("exp", "exp/train_data_step1.jsonl", ".")):
        run, _ = imported(Path(src), tmp_path / str(number))
        assert column(run, "reward") == [1.0]
    monkeypatch.chdir(tmp_path / "logs/exp")
    run, account = imported(Path("train_data_step1.jsonl"), tmp_path / "last")
    assert column(run, "reward") == [1.0]
    assert account.name == "train_data_step1"


def test_the_account_names_rows_and_what_was_left_out(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "train_data_step1.jsonl", [{"rewards": [1.0]}, "broken"])
    run, account = imported(path, tmp_path)
    told: dict[str, Any] = json.loads(json.dumps(account.as_dict()))
    assert told["tables"] == {"responses": 1}
    assert told["dropped"][0]["count"] == 1
    assert run.info.trainer == "NeMo-RL"
