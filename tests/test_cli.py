from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up import healthy, spiral

from lldwatch import SIGNALS, Monitor, Run
from lldwatch.recorder import Recorder
from lldwatch.schema import SCHEMA_VERSION, Observation, RunInfo
from lldwatch.segments import Segment

TRAINING = Path(__file__).with_name("child_training.py")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""A pipe is buffered, as it is for a user."""


def lldwatch(*arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "lldwatch", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == expect, done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `spiral` and `healthy`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, made_up in (("spiral", spiral), ("healthy", healthy)):
        noise = random.Random(0)
        with Monitor(folder / name, trainer="made up") as monitor:
            for step in range(1, 121):
                monitor.step(**made_up(step, noise))
    return folder


def test_diagnose_says_stage_evidence_checks_and_what_to_do(runs: Path) -> None:
    lines = lldwatch("diagnose", runs / "spiral").stdout.splitlines()
    assert lines[0].startswith(f"{runs / 'spiral'}: 120 steps, made up, ended ")
    for head in ("Evidence", "Checks", "What to do"):
        assert head in lines
    assert any("cross_update_change" in line for line in lines)
    assert lines[-1].startswith("COLLAPSE. The run has collapsed")
    assert "First warning: step " in lines[-1]


def test_diagnose_of_a_healthy_run_ends_with_the_all_clear(runs: Path) -> None:
    said = lldwatch("diagnose", runs / "healthy").stdout
    assert "What to do" not in said
    assert said.splitlines()[-1] == "HEALTHY. Nothing points to a collapse."


def test_diagnose_as_json_keeps_its_contract(runs: Path) -> None:
    found: dict[str, Any] = json.loads(lldwatch("diagnose", runs / "spiral", "--json").stdout)
    assert found["run"] == str(runs / "spiral")
    assert found["steps"] == found["step"] == 120
    assert (found["stage"], found["family"]) == ("collapse", "lld_spiral")
    assert list(found["onsets"]) == ["stagnation", "decay", "collapse"]
    assert all(isinstance(step, int) for step in found["onsets"].values())
    assert found["first_warning"] < found["known"]["collapse"]
    assert found["collapse_probability"] is None
    assert found["evidence"]
    for evidence in found["evidence"]:
        assert set(evidence) == {"signal", "value", "baseline", "limit", "since", "reference"}
    assert found["checks"]
    for check in found["checks"]:
        assert set(check) == {"name", "status", "reason"}
    assert all(isinstance(line, str) for line in found["advice"])
    assert found["advice"]
    assert found["problems"] == []


def test_json_says_none_for_what_is_not_known_and_never_nan(tmp_path: Path) -> None:
    with Monitor(tmp_path / "run") as monitor:
        for _ in range(5):
            monitor.step(loss=float("nan"))
    said = lldwatch("diagnose", tmp_path / "run", "--json").stdout

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(said, parse_constant=refuse)
    assert found["onsets"] == {"stagnation": None, "decay": None, "collapse": 1}
    assert found["family"] == "numerical"
    assert found["evidence"][0]["value"] == "nan"


@pytest.mark.parametrize(
    ("run", "limit", "status"),
    [("spiral", "stagnation", 3), ("spiral", "collapse", 3), ("healthy", "stagnation", 0)],
)
def test_fail_on_turns_a_stage_into_an_exit_status(runs: Path, run: str, limit: str, status: int) -> None:
    assert lldwatch("diagnose", runs / run, "--fail-on", limit, expect=status).stdout.startswith(str(runs / run))


def test_damaged_files_are_named_and_the_rest_is_diagnosed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", RunInfo(), steps_per_part=2)
    for step in range(1, 7):
        recorder.record(Observation(step=step, loss=1.0))
    recorder.close()
    torn = Segment(0, 0, 1).part(tmp_path / "run" / "steps")
    torn.write_bytes(b"PAR1")
    done = lldwatch("diagnose", tmp_path / "run")
    assert "Files that could not be used" in done.stdout
    assert torn.name in done.stdout
    assert "4 steps" in done.stdout
    (problem,) = json.loads(lldwatch("diagnose", tmp_path / "run", "--json").stdout)["problems"]
    assert torn.name in problem


@pytest.fixture
def mistakes(tmp_path: Path) -> Path:
    """A folder of things that are no runs, or cannot be used."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "run.json").write_text(RunInfo(schema_version=SCHEMA_VERSION + 1).to_json())
    Recorder(tmp_path / "no_steps", RunInfo()).close()
    recorder = Recorder(tmp_path / "all_torn", RunInfo())
    recorder.record(Observation(step=1))
    recorder.close()
    Segment(0, 0, 0).part(tmp_path / "all_torn" / "steps").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["diagnose", "missing"], "missing does not exist"),
        (["diagnose", "empty"], "is not a run"),
        (["diagnose", "file"], "is a file"),
        (["diagnose", "newer"], "update lldwatch"),
        (["diagnose", "no_steps"], "nothing was recorded yet"),
        (["diagnose", "all_torn"], "cannot be read"),
        (["diagnose"], "RUN"),
        (["diagnose", "no_steps", "--verbose"], "--verbose"),
        (["diagnose", "no_steps", "--fail-on", "panic"], "panic"),
        (["diagnose", "no_steps", "another"], "another"),
        (["watch", "missing"], "missing does not exist"),
        (["watch", "empty"], "is not a run"),
        (["watch", "newer"], "update lldwatch"),
        (["dashboard", "missing"], "missing is not a folder"),
        (["dashboard", "empty", "--port", "99999"], "99999"),
        (["demo", "--steps", "0"], "'0' is not a whole number above 0"),
        (["demo", "--steps", "x"], "'x' is not a whole number above 0"),
        (["demo", "--port", "abc"], "'abc' is not a port"),
        (["demo", "--no-dashboard", "--out", "file/run"], "file"),
        (["demo", "--no-dashboard", "--out", "empty"], "empty is there already: give --out a new folder"),
        (["heal", "no_steps"], "heal"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_on_standard_error(mistakes: Path, arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lldwatch", *arguments], capture_output=True, text=True, cwd=mistakes, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("lldwatch: ")
    assert words in line


def test_signals_explains_every_signal() -> None:
    said = lldwatch("signals").stdout
    for name, about in SIGNALS.items():
        assert f"{name} " in said or f"{name}:" in said
        assert about.meaning in said
        assert about.reference in said


def test_help_names_every_command() -> None:
    said = lldwatch("--help").stdout
    for command in ("demo", "diagnose", "watch", "dashboard", "signals"):
        assert command in said


@pytest.mark.parametrize("command", ["signals", "diagnose", "watch"])
def test_a_reader_that_stops_early_gets_no_complaint(runs: Path, command: str) -> None:
    arguments = [command] if command == "signals" else [command, str(runs / "spiral")]
    with subprocess.Popen(
        [sys.executable, "-m", "lldwatch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""


def test_watch_of_a_finished_run_shows_its_steps_and_ends(runs: Path) -> None:
    lines = lldwatch("watch", runs / "spiral").stdout.splitlines()
    shown = [line for line in lines if line.startswith("step ")]
    assert [int(line.split()[1]) for line in shown] == list(range(1, 121))
    assert shown[0].split()[-1] == "healthy"
    assert shown[-1].split()[-1] == "collapse"
    assert lines[-1].startswith("the run ended at ")


@contextlib.contextmanager
def watching(run: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "lldwatch", "watch", str(run)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as watcher:
        try:
            yield watcher
        finally:
            watcher.kill()


def test_watch_shows_steps_while_another_process_writes_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = subprocess.Popen(
        [sys.executable, str(TRAINING), str(run), "--steps", "150", "--delay", "0.01"], stdout=subprocess.PIPE
    )
    with training:
        assert training.stdout is not None
        training.stdout.readline()  # the first step was made
        with watching(run) as watcher:
            assert watcher.stdout is not None
            first = watcher.stdout.readline()
            assert first.startswith("step      1 ")
            rest = watcher.stdout.readlines()
            assert watcher.wait(60) == 0
    shown = [int(line.split()[1]) for line in [first, *rest] if line.startswith("step ")]
    assert shown == list(range(1, 151))
    assert rest[-1].startswith("the run ended at ")


def test_watch_shows_each_step_before_the_next_and_ends_quietly_when_interrupted(run_dir: Path) -> None:
    with Monitor(run_dir) as monitor:
        monitor.step(loss=1.0)
        monitor._recorder.flush()
        with watching(run_dir) as watcher:
            assert watcher.stdout is not None
            assert watcher.stderr is not None
            assert watcher.stdout.readline().startswith("step      1 ")
            assert "HEALTHY" in watcher.stdout.readline()
            monitor.step(loss=1.0)
            assert watcher.stdout.readline().startswith("step      2 ")  # though the verdict is the same
            os.kill(watcher.pid, signal.SIGINT)
            assert watcher.wait(60) == 130
            assert watcher.stderr.read() == ""
    assert Run(run_dir).ended
