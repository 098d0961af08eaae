"""`lldwatch watch` tells people: of a run that another process writes, of a log that is printed, of one that stalls."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alert_server import SECRET, hook, wait_until
from test_alert_live import ILL, WELL, steps_of_a_spiral
from told import Told

from lldwatch import Monitor, Observation
from lldwatch.follow import Follower
from lldwatch.recorder import Recorder
from lldwatch.run import Run
from lldwatch.schema import RunInfo

WATCH = [sys.executable, "-W", "error", "-m", "lldwatch", "watch"]


@contextmanager
def watching(*arguments: str, url: str = "", **more: Any) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "LLDWATCH_WEBHOOK": url}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    with subprocess.Popen([*WATCH, *arguments], text=True, env=environment, **pipes) as watcher:
        try:
            yield watcher
        finally:
            watcher.kill()


def noting(out: Path) -> str:
    """A program that adds each alert to a file, a line each."""
    file = out.with_name("note.py")
    file.write_text(f"import sys\nopen({str(out)!r}, 'a').write(sys.stdin.read())\n")
    return f"{sys.executable} {file}"


def noted(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def test_a_run_that_another_process_writes_is_told_of_on_all_ways(run_dir: Path, tmp_path: Path) -> None:
    out, steps = tmp_path / "told", steps_of_a_spiral()
    with hook() as server, Monitor(run_dir) as monitor:
        for values in steps[:51]:
            monitor.step(**values)
        monitor._recorder.flush()
        arguments = (str(run_dir), "--bell", "--command", noting(out), "--webhook", "slack")
        with watching(*arguments, url=server.url) as watcher:
            assert watcher.stdout is not None
            lines = [watcher.stdout.readline() for _ in range(52)]
            assert "STAGNATION." in lines[-1]
            for values in steps[51:]:
                monitor.step(**values)
                monitor._recorder.flush()
            monitor.close()
            rest, err = watcher.communicate(timeout=60)
        texts = [request["text"].partition("\n")[0] for request in server.requests]
    told = [line.strip() for line in [*lines, *rest.splitlines()] if "ALERT" in line]
    assert [line.split()[1] for line in told] == ["DECAY", "COLLAPSE"], "what had begun before is no news"
    assert all(line.endswith("\a") for line in told)
    assert [(alert["stage"], alert["step"]) for alert in noted(out)] == [("decay", 52), ("collapse", 94)]
    assert [text.split()[1] for text in texts] == ["DECAY", "COLLAPSE"]
    assert err == ""
    assert SECRET not in rest


def test_a_printed_log_is_told_of(tmp_path: Path) -> None:
    out = tmp_path / "told"
    with watching("--import", "json", "-", "--command", noting(out), stdin=subprocess.PIPE) as watcher:
        rows = [json.dumps({"step": step, **values}) for step, values in enumerate(steps_of_a_spiral(), 1)]
        said, err = watcher.communicate("\n".join(rows) + "\n", timeout=60)
    assert (watcher.returncode, err) == (0, "")
    stages = [alert["stage"] for alert in noted(out)]
    assert stages[-1] == "collapse"
    assert said.count("  ALERT ") == len(stages)
    assert "\a" not in said, "a pipe does not ring"


def test_a_terminal_rings_by_itself_and_not_if_it_is_told_not_to(run_dir: Path) -> None:
    for arguments, rings in (([], True), (["--no-bell"], False)):
        run = run_dir.with_name(f"rings-{rings}")
        Recorder(run, RunInfo()).close()
        end, terminal = pty.openpty()
        recorder = Recorder(run, RunInfo(), resume=True)
        with watching(str(run), *arguments, stdout=terminal) as watcher:
            os.close(terminal)
            seen = b""
            while b"HEALTHY" not in seen:
                seen += os.read(end, 1000)
            for step in range(1, 4):
                recorder.record(Observation(step=step, loss=float("nan") if step == 3 else 1.0))
            recorder.flush()
            while b"ALERT loss is nan at step 3" not in seen:
                seen += os.read(end, 1000)
            recorder.close()
            assert watcher.wait(60) == 0
        os.close(end)
        assert (b"\a" in seen) == rings


def test_a_run_that_was_killed_stalls_by_the_times_of_its_files(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "told"
    recorder = Recorder(run_dir, RunInfo())
    for step in (1, 2, 3):
        recorder.record(Observation(step=step, time=1000.0 + step, loss=1.0))
    recorder.flush()
    for file in (run_dir / "steps").iterdir():
        os.utime(file, (time.time() - 3 * 3600,) * 2)
    with watching(str(run_dir), "--command", noting(out)) as watcher:
        wait_until(lambda: noted(out))
        recorder.record(Observation(step=4, time=1004.0, loss=1.0))  # it lives after all
        recorder.flush()
        assert watcher.stdout is not None
        while not (line := watcher.stdout.readline()).startswith("step      4"):
            assert line
        time.sleep(1.5)
    recorder.close()
    (alert,) = noted(out)
    assert (alert["kind"], alert["step"], alert["limit"]) == ("stalled", 3, 600.0)
    assert alert["title"] == "no step for 180 minutes (counts from 10 on): last seen at step 3"


def test_a_run_that_has_ended_does_not_stall_and_tells_nothing(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "told"
    with Monitor(run_dir) as monitor:
        for values in steps_of_a_spiral():
            monitor.step(**values)
    for file in (run_dir / "steps").iterdir():
        os.utime(file, (0, 0))
    with watching(str(run_dir), "--command", noting(out), "--bell") as watcher:
        said, err = watcher.communicate(timeout=60)
    assert (err, noted(out)) == ("", [])
    assert "ALERT" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--webhook", "slack"], "LLDWATCH_WEBHOOK is not set"),
        (["--webhook", "teams"], "invalid choice: 'teams'"),
        (["--command", "no-such-program"], "no-such-program is not a program that can be found"),
        (["--command", ""], "command is empty"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_watched(run_dir: Path, arguments: list[str], words: str) -> None:
    Recorder(run_dir, RunInfo()).close()
    with watching(str(run_dir), *arguments) as watcher:
        said, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, said) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_mistake_does_not_end_the_training_whose_output_is_followed() -> None:
    with watching("--import", "json", "-", "--webhook", "slack", stdin=subprocess.PIPE) as watcher:
        said, err = watcher.communicate("a line of the training\n" * 100_000, timeout=60)
    assert (watcher.returncode, said) == (2, "")
    assert "so that the training goes on" in err


def test_a_channel_that_fails_is_said_and_the_watching_goes_on(run_dir: Path) -> None:
    with Monitor(run_dir) as monitor:
        monitor.step(loss=1.0)
        monitor._recorder.flush()
        with watching(str(run_dir), "--command", "false") as watcher:
            assert watcher.stdout is not None
            assert watcher.stdout.readline().startswith("step")
            assert "HEALTHY" in watcher.stdout.readline()
            monitor.step(loss=float("nan"))
            monitor.close()
            said, err = watcher.communicate(timeout=60)
    assert watcher.returncode == 0
    assert "ALERT loss is nan at step 2" in said
    assert err == "lldwatch: alert: loss is nan at step 2 -> command false: failed: it ended with status 1\n"


def test_a_follower_tells_what_the_last_update_brought_also_after_going_back(run_dir: Path) -> None:
    with Monitor(run_dir, detector=Told()) as monitor:
        follower = Follower(Run(run_dir), Told(), alerting=True)
        told = []
        for step, values in [(1, WELL), (2, ILL), (3, ILL), (2, WELL), (3, WELL), (4, ILL)]:
            monitor.step(step, **values)
            monitor._recorder.flush()
            follower.update()
            told += [(alert.step, alert.run) for alert in follower.alerts]
    assert told == [(2, "run"), (4, "run")]
    assert Follower(Run(run_dir)).onsets is None
