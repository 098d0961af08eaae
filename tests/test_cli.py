from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import healthy, spiral
from told import Told

from lldwatch import SIGNALS, Monitor, Run, course, demo
from lldwatch.diagnosis import Verdict
from lldwatch.intervention import Correct
from lldwatch.recorder import Recorder
from lldwatch.schema import SCHEMA_VERSION, Observation, RunInfo
from lldwatch.search_world.policy import Policy
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
    assert list(found["known"]) == list(found["onsets"])
    for onset, known in zip(found["onsets"].values(), found["known"].values(), strict=True):
        assert onset is known is None or onset <= known
    assert found["onsets"]["decay"] < found["onsets"]["collapse"]
    assert found["first_warning"] < found["known"]["collapse"]
    assert found["confidence"] == "high"
    assert 0.5 < found["collapse_probability"] <= 1.0
    assert found["horizon"] == 30
    assert found["steps_to_collapse"] == sorted(found["steps_to_collapse"])
    assert found["episodes"] == []
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
        (["diagnose", "file"], "file has nothing in it that a known trainer or logger writes"),
        (["diagnose", "newer"], "update lldwatch"),
        (["diagnose", "no_steps"], "nothing was recorded yet"),
        (["diagnose", "all_torn"], "cannot be read"),
        (["diagnose"], "SRC"),
        (["diagnose", "newer", "--map", "reward"], "give it as ours=theirs"),
        (["diagnose", "no_steps", "--verbose"], "--verbose"),
        (["diagnose", "no_steps", "--fail-on", "panic"], "panic"),
        (["diagnose", "no_steps", "another"], "another"),
        (["watch", "missing"], "missing does not exist"),
        (["watch", "empty"], "is not a run"),
        (["watch", "newer"], "update lldwatch"),
        (["watch", "-"], "say how to read it"),
        (["watch", "no_steps", "--import", "auto"], "tail -n +1 -f no_steps | lldwatch watch --import auto -"),
        (["import", "auto", "missing", "--out", "new"], "missing does not exist"),
        (["import", "auto", "file", "--out", "new"], "file has nothing in it that a known trainer or logger writes"),
        (["import", "auto", "newer", "--out", "empty/.."], "is there already: choose another --out"),
        (["import", "auto", "file"], "--out"),
        (["import", "trl2", "file", "--out", "new"], "trl2"),
        (["dashboard", "missing"], "missing is not a folder"),
        (["dashboard", "s3://bucket/runs"], "s3://bucket/runs: the dashboard shows runs on this machine's disk"),
        (["dashboard", "empty", "--port", "99999"], "99999"),
        (["demo", "--steps", "0"], "'0' is not a whole number above 0"),
        (["demo", "--steps", "x"], "'x' is not a whole number above 0"),
        (["demo", "--port", "abc"], "'abc' is not a port"),
        (["demo", "--scenario", "rescue"], "'rescue' (choose from"),
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


# the demo, with a policy that knows nothing


class IllFromStep2(Told):
    """Sees a death spiral from step 2 on."""

    def fresh(self) -> IllFromStep2:
        return IllFromStep2(self.settings)

    def fold(self, observation: Observation) -> Verdict:
        return super().fold(replace(observation, loss=float(observation.step >= 2)))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_base_policy", lambda: Policy(72, 66, seed=0))
    for name, (scenario, llds) in demo.SCENES.items():
        small = replace(scenario, epochs=1, mini_batches=1, prompts=1, responses=2)
        monkeypatch.setitem(demo.SCENES, name, (small, llds))


def coefficients_of(said: str) -> list[str]:
    return [line for line in said.splitlines() if "coefficient" in line and line.startswith("LLDS")]


def test_every_scenario_of_the_demo_is_a_choice_and_the_help_names_it() -> None:
    said = " ".join(lldwatch("demo", "--help").stdout.split())
    assert f"{{{','.join(demo.SCENES)}}}" in said


@pytest.mark.parametrize("scenario", ["healthy", "collapse"])
def test_the_demo_of_a_plain_training_corrects_nothing(
    untrained: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str
) -> None:
    demo.run_demo(scenario, 0, 2, tmp_path / "run", None)
    assert coefficients_of(capsys.readouterr().out) == []
    assert [step.llds_coefficient for step in Run(tmp_path / "run").observations()] == [None, None]


def test_the_demo_with_llds_says_that_it_is_on_from_the_start(
    untrained: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.run_demo("llds", 0, 2, tmp_path / "run", None)
    strength = demo.SCENES["llds"][1].strength
    assert coefficients_of(capsys.readouterr().out) == [f"LLDS coefficient 0 -> {strength:g} from step 1 on"]
    assert [step.llds_coefficient for step in Run(tmp_path / "run").observations()] == [strength] * 2


def test_the_demo_with_auto_says_each_change_of_the_coefficient_in_a_line(
    untrained: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, llds = demo.SCENES["auto"]
    assert llds.mode == "auto"
    monkeypatch.setitem(demo.SCENES, "auto", (scenario, Correct(mode="auto", strength=1.0, ramp=2)))
    monkeypatch.setattr(course, "CollapseDetector", IllFromStep2)
    demo.run_demo("auto", 0, 4, tmp_path / "run", None)
    assert coefficients_of(capsys.readouterr().out) == [
        "LLDS coefficient 0 -> 0.5 from step 3 on",
        "LLDS coefficient 0.5 -> 1 from step 4 on",
    ]
    assert [step.llds_coefficient for step in Run(tmp_path / "run").observations()] == [0, 0, 0.5, 1]


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
    risks = [int(line.split()[-2].removesuffix("%")) for line in shown]
    assert risks[20] < 10 < 90 < risks[-1]
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
