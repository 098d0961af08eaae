"""Commands on logs that other tools wrote, through real processes and pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lldwatch.cli import main
from lldwatch.run import Run

FOREIGN = Path(__file__).parent.parent / "sample_logs" / "foreign"
SAMPLES = sorted(path for path in FOREIGN.iterdir() if path.is_dir())


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_every_sample_is_imported_with_reason_and_account(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "auto", str(sample), "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"]
    for run in told["runs"]:
        assert run["why"]
        assert run["steps"] == len(Run(run["run"]).observations())
        assert {"reward", "grad_norm", "loss"} & set(run["measured"])
    assert not [note for note in told["notes"] if "a fault of lldwatch" in note]


def test_diagnose_takes_a_foreign_log_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(FOREIGN / "trl-reuse" / "trainer_state.json"), "--fail-on", "stagnation"]) == 3
    said = capsys.readouterr()
    assert "read as trl-state, because it is named trainer_state.json" in said.err
    assert said.out.startswith(f"{FOREIGN / 'trl-reuse' / 'trainer_state.json'}: 60 of 60 steps, TRL")
    assert said.out.splitlines()[-1].startswith("STAGNATION.")


def test_diagnose_in_json_is_one_object_for_one_run_and_a_list_for_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, factor in (("a", 1.0), ("b", 0.5)):
        rows = [{"step": s, "reward": factor * (s % 7)} for s in range(1, 20)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    assert main(["diagnose", str(tmp_path / "a"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 19
    assert main(["diagnose", str(tmp_path), "--json"]) == 0
    assert [run["steps"] for run in json.loads(capsys.readouterr().out)["runs"]] == [19, 19]


def test_report_and_compare_take_foreign_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = str(FOREIGN / "trl-reuse"), str(FOREIGN / "trl-old")
    for ending, begins in ((".html", "<!doctype html>"), (".md", "# "), (".json", "{")):
        out = tmp_path / f"report{ending}"
        assert main(["report", one, "--out", str(out)]) == 0
        assert out.read_text().lower().startswith(begins)
    assert main(["report", one, "--out", "-", "--as", "markdown"]) == 0
    assert main(["compare", one, other]) == 0
    assert "A and B differ by no more than noise" in capsys.readouterr().out
    assert main(["compare", one]) == 2


@pytest.mark.parametrize("command", [["report"], ["compare", str(FOREIGN / "trl-old")]])
def test_the_log_that_is_read_is_never_overwritten(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "trainer_state.json"
    shutil.copy(FOREIGN / "trl-reuse" / "trainer_state.json", log)
    before = log.read_bytes()
    assert main([*command, str(log), "--out", str(log)]) == 2
    assert "is what is to be read, and would be overwritten" in capsys.readouterr().err
    assert log.read_bytes() == before


def test_watch_shows_each_step_of_a_pipe_while_it_is_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lldwatch", "watch", "--import", "auto", "-", "--out", str(tmp_path / "kept")]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stdin is not None
    assert watch.stdout is not None
    watch.stdin.write("loading the model ...\n" * 50)
    shown = []
    for step in range(1, 4):
        watch.stdin.write(f"{{'loss': 0.1, 'grad_norm': 1.5, 'reward': {step / 4}, 'entropy': 0.5}}\n")
        watch.stdin.flush()
        while step > 1 and (not shown or f"step {step - 1:>6}" not in shown[-1]):  # the bar after a row tells its step
            shown.append(watch.stdout.readline())
            assert shown[-1]
    out, err = watch.communicate(timeout=60)
    assert (watch.returncode, err) == (0, "")
    assert "standard input: trl-console, because line 51 reads" in out
    kept = Run(tmp_path / "kept")
    assert [(o.step, o.reward) for o in kept.observations()] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert kept.ended


def test_watch_of_a_pipe_with_nothing_in_it_says_so() -> None:
    command = [sys.executable, "-m", "lldwatch", "watch", "--import", "auto", "-"]
    done = subprocess.run(command, input="hello\n" * 10, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "standard input has nothing in it that a known trainer or logger writes" in line


def test_a_training_goes_on_when_it_is_not_watched(tmp_path: Path) -> None:
    """A pipe that nobody reads would end it."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("of somebody")
    command = [sys.executable, "-m", "lldwatch", "watch", "--import", "auto", "-", "--out", str(tmp_path / "kept")]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stdin is not None
    assert watch.stderr is not None
    watch.stdin.write("loading the model ...\n")
    watch.stdin.flush()
    assert "so that the training goes on" in watch.stderr.readline()
    watch.stdin.write("a line of the training\n" * 100_000)
    _, err = watch.communicate(timeout=60)
    assert watch.returncode == 2
    assert "is there already" in err


def test_nothing_that_a_log_holds_moves_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"step": s, "reward": s % 7, "\x1b]0;title\x07": 1} for s in range(1, 30)]
    log = tmp_path / "a\x1b[31m.json"
    log.write_text(json.dumps({"one\x1b[2J": rows, "other\x9b2J": [row | {"reward": row["step"]} for row in rows]}))
    assert main(["diagnose", str(log)]) == 0
    assert main(["import", "auto", str(log), "--out", str(tmp_path / "out")]) == 0
    assert main(["report", str(log)]) == 2
    said = capsys.readouterr()
    assert not {c for c in said.out + said.err if not c.isprintable() and c != "\n"}


def test_a_terminal_that_lacks_a_sign_gets_another_one() -> None:
    command = [sys.executable, "-m", "lldwatch", "compare", "sample_logs/collapse", "sample_logs/healthy"]
    told = subprocess.run(
        command, cwd=FOREIGN.parent.parent, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True
    )
    assert (told.returncode, told.stderr) == (0, b"")


def test_closed_standard_input_is_said() -> None:
    command = f"{sys.executable} -m lldwatch diagnose - <&-"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (2, "lldwatch: standard input is closed: there is nothing to import\n")


def test_a_long_log_through_a_pipe_loses_no_step(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lldwatch", "watch", "--import", "verl-console", "-", "--out", str(tmp_path / "r")]
    log = "".join(
        f"(TaskRunner pid=1) step:{s} - critic/score/mean:0.5 - actor/grad_norm:1.0\n" for s in range(1, 6001)
    )
    begun = time.monotonic()
    done = subprocess.run(command, input=log, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, (done.stderr, time.monotonic() - begun)
    assert [o.step for o in Run(tmp_path / "r").observations()] == list(range(1, 6001))
