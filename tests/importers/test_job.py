from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lldwatch.errors import InputError, RunExistsError
from lldwatch.follow import Follower
from lldwatch.importers import job
from lldwatch.importers.job import Options, import_logs
from lldwatch.run import Run, list_runs


def state(path: Path, steps: int = 30, *, seed: int = 0, cut: int | None = None, **more: Any) -> Path:
    """A trainer_state.json with a reward that wanders."""
    random = np.random.default_rng(seed)
    history = [
        {"step": s, "reward": float(random.normal(0.5, 0.1)), "grad_norm": 1.0, "epoch": s / 100, **more}
        for s in range(1, steps + 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"global_step": steps, "max_steps": 100, "log_history": history})[:cut])
    return path


def rewards(run: Path) -> list[float]:
    return Run(run).steps()["reward"].to_pylist()


def test_one_log_becomes_one_run_with_what_it_says(tmp_path: Path) -> None:
    source = state(tmp_path / "trainer_state.json")
    [run], tally = import_logs(source, tmp_path / "out")
    assert run.path == tmp_path / "out"
    assert (run.format, run.why, run.steps, run.first, run.last) == (
        "trl-state", "it is named trainer_state.json", 30, 1, 30
    )  # fmt: skip
    assert run.measured == {"reward", "grad_norm"}
    assert list(run.tally.unmapped) == ["epoch"]
    info = Run(run.path).info
    assert (info.trainer, info.planned_steps, info.config["imported_from"]) == ("TRL", 100, str(source))
    assert info.ended is not None
    wanted = [row["reward"] for row in json.loads(source.read_text())["log_history"]]
    assert np.allclose(rewards(run.path), wanted, atol=1e-7)
    [event] = Run(run.path).events().to_pylist()
    assert (event["kind"], event["step"]) == ("import", -1)
    assert not tally.dropped
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_folder_gives_a_run_for_each_log_and_the_last_of_several_checkpoints(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        for steps in (10, 20, 9):
            state(tmp_path / "in" / name / f"checkpoint-{steps}" / "trainer_state.json", steps, seed=seed)
    (tmp_path / "in" / "notes.txt").write_text("nothing here\n")
    runs, tally = import_logs(tmp_path / "in", tmp_path / "out")
    assert [(run.path, run.steps) for run in runs] == [(tmp_path / "out" / "one", 20), (tmp_path / "out" / "two", 20)]
    assert list_runs(tmp_path / "out") == [tmp_path / "out" / "one", tmp_path / "out" / "two"]
    assert any("of several checkpoints the last one is read, checkpoint-20" in note for note in tally.notes)


def test_what_was_saved_at_the_end_holds_before_checkpoints(tmp_path: Path) -> None:
    state(tmp_path / "in" / "checkpoint-20" / "trainer_state.json", 20)
    state(tmp_path / "in" / "trainer_state.json", 25)
    [run], _ = import_logs(tmp_path / "in", tmp_path / "out")
    assert run.steps == 25


def test_the_same_run_in_two_logs_becomes_one_run(tmp_path: Path) -> None:
    state(tmp_path / "in" / "a" / "trainer_state.json", 30, entropy=0.5)
    state(tmp_path / "in" / "b" / "trainer_state.json", 28)
    state(tmp_path / "in" / "c" / "trainer_state.json", 30, seed=5)
    runs, tally = import_logs(tmp_path / "in", tmp_path / "out")
    assert [run.name for run in runs] == ["a", "c"]
    assert "is the same run as" in tally.notes[0]
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "c"]


def test_a_file_that_breaks_off_gives_what_stands_before_and_says_so(tmp_path: Path) -> None:
    [run], _ = import_logs(state(tmp_path / "trainer_state.json", 30, cut=1500), tmp_path / "out")
    assert 5 < run.steps < 30
    assert "breaks off" in run.tally.reasons[0]


def test_a_resumed_training_is_read_as_attempts_of_one_run(tmp_path: Path) -> None:
    rows = [
        {"step": s, "reward": s + 100.0 * attempt}
        for attempt, span in ((0, range(1, 9)), (1, range(6, 12)))
        for s in span
    ]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": rows}))
    [run], _ = import_logs(path, tmp_path / "out")
    assert run.path is not None
    follower = Follower(Run(run.path))
    follower.update()
    assert [o.step for o in follower.observations] == list(range(1, 12))
    assert [o.reward for o in follower.observations] == [1, 2, 3, 4, 5, *range(106, 112)]
    assert rewards(run.path) == [1, 2, 3, 4, 5, *range(106, 112)]


def test_several_runs_in_one_file_stand_beside_each_other(tmp_path: Path) -> None:
    rows = [{"step": s, "reward": s * run} for run in (1.0, 2.0) for s in range(1, 7)]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": rows}))
    runs, _ = import_logs(path, tmp_path / "out")
    assert [(run.path, run.steps) for run in runs] == [
        (tmp_path / "out" / "trainer_state", 6),
        (tmp_path / "out" / "trainer_state-run-2", 6),
    ]


def test_steps_that_a_resumed_training_made_again_count_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"step": s, "reward": 0.5}) + "\n" for s in (*range(1, 30), *range(20, 40))))
    [run], _ = import_logs(path, tmp_path / "out")
    assert (run.steps, run.first, run.last) == (39, 1, 39)


def test_rows_that_call_their_step_global_step_are_no_trainer_state(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"global_step": s, "reward": 0.5}) + "\n" for s in range(1, 30)))
    [run], _ = import_logs(path, tmp_path / "out")
    assert (run.format, run.steps, run.last) == ("json", 29, 29)


def test_rows_of_steps_below_0_are_counted_and_become_no_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"step": s, "reward": 0.5}) + "\n" for s in range(-3, 10)))
    [run], _ = import_logs(path, tmp_path / "out")
    assert (run.steps, run.first, run.tally.reasons) == (10, 0, ["3 x row of a step below 0 (first: line 1)"])


def test_names_of_the_user_that_no_row_has_are_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"step": s, "reward": 0.5, "my_kl": 0.1}) + "\n" for s in range(1, 30)))
    options = Options(format="json", own={"kl": "mykl", "reward": "reward"}, step_column="round")
    [run], _ = import_logs(path, tmp_path / "out", options)
    assert run.tally.notes == [
        "--step-column round: no row has a step of that name, so that rows are counted, from 1",
        "--map kl=mykl: no row has mykl (did you mean my_kl?), so that kl is missing",
    ]


def test_the_column_of_the_step_was_used(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"it": it, "reward": 0.5, "other": 1}) + "\n" for it in range(7, 10)))
    [run], _ = import_logs(path, tmp_path / "out", Options(format="json", step_column="it"))
    assert (run.first, list(run.tally.unmapped)) == (7, ["other"])


def test_a_pipe_with_a_name_is_not_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="can be read only once"):
        import_logs(tmp_path / "pipe", tmp_path / "out")


def test_many_steps_are_written_in_several_parts(tmp_path: Path) -> None:
    [run], _ = import_logs(state(tmp_path / "trainer_state.json", 12_000), tmp_path / "out")
    assert run.path is not None
    assert len(os.listdir(run.path / "steps")) == 3
    assert [o.step for o in Run(run.path).observations()] == list(range(1, 12_001))


def test_the_users_names_are_used(tmp_path: Path) -> None:
    source = state(tmp_path / "trainer_state.json", 30, accuracy=0.25)
    [run], _ = import_logs(source, tmp_path / "out", Options(own={"correct_share": "accuracy"}))
    assert run.path is not None
    assert set(Run(run.path).steps()["correct_share"].to_pylist()) == {0.25}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source = state(tmp_path / "trainer_state.json")
    (tmp_path / "out").mkdir()
    import_logs(source, tmp_path / "out")
    with pytest.raises(RunExistsError, match="is there already: choose another --out"):
        import_logs(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("trainer_state.json", b"", "is empty"),
        ("trainer_state.json", b"<!doctype html><html><body>404", "is a web page without a table of metrics"),
        ("log.txt", b"hello\nworld\n", "has nothing in it that a known trainer or logger writes"),
        ("model.dat", bytes(range(256)) * 40, "is binary, of no format that is known"),
        ("trainer_state.json", b'{"global_step": 1, "log_history": []}', "holds no usable step: it has no metrics"),
        ("trainer_state.json", b'{"log_history": [' + b"[" * 100_000, "holds no usable step"),
        (
            "trainer_state.json",
            b'{"log_history": [{"step": 1, "epoch": 2}]}',
            "without anything that lldwatch measures",
        ),
        ("trainer_state.json", b'{"log_history": [3, "x", null]}', "entry of log_history that is no object"),
    ],
)
def test_what_holds_nothing_is_refused_in_one_line(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        import_logs(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == [name]


def test_a_folder_without_logs_and_a_path_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "dangling.log").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a run, and holds no log of another tool"):
        import_logs(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="does not exist: give a log, a folder, or - for standard input"):
        import_logs(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="is not a format: give auto or one of"):
        import_logs(tmp_path / "in", tmp_path / "out", Options(format="trl2"))


def test_names_of_runs_lead_out_of_no_folder() -> None:
    taken: set[str] = set()
    runs = [job.Imported(None, name, "", "", "") for name in ("../../etc", "a/b", "A/b", "..", "x" * 300, "é ü")]
    assert [job._free_name(run, taken) for run in runs] == ["etc", "a-b", "A-b-2", "run", "x" * 80, "é-ü"]


def test_a_fault_of_a_reader_ends_the_reading_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = state(tmp_path / "trainer_state.json")
    steps_of = job.steps_of

    def broken(*args: Any, **kwargs: Any) -> Any:
        for number, step in enumerate(steps_of(*args, **kwargs)):
            if number == 10:
                raise KeyError("surprise")
            yield step

    monkeypatch.setattr(job, "steps_of", broken)
    [run], _ = import_logs(source, tmp_path / "out")
    assert run.steps == 10
    assert "reading ended early: KeyError" in run.tally.notes[0]
