"""The demo as a newcomer runs it: a real training in a real process, from an empty cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lldwatch import Run


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "LLDWATCH_CACHE": str(tmp_path_factory.mktemp("cache"))}


def lldwatch(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lldwatch", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize(("scenario", "stages"), [("collapse", {"collapse", "decay"}), ("healthy", {"healthy"})])
def test_the_demo_ends_with_the_right_verdict(
    tmp_path: Path, environment: dict[str, str], scenario: str, stages: set[str]
) -> None:
    demo = lldwatch(tmp_path, environment, "demo", "--no-dashboard", "--scenario", scenario)
    assert demo.returncode == 0, demo.stderr
    run = tmp_path / "runs" / f"demo-{scenario}"
    diagnosis = json.loads(lldwatch(tmp_path, environment, "diagnose", str(run), "--json").stdout)
    assert diagnosis["steps"] == 80
    assert diagnosis["stage"] in stages
    assert diagnosis["stage"].upper() in demo.stdout.splitlines()[-1]
    assert (diagnosis["first_warning"] is None) == (scenario == "healthy")
    assert diagnosis["ended"] is not None
    assert Run(run).responses().num_rows == 80 * 60 * (4 if scenario == "collapse" else 1)


def test_the_demo_with_auto_switches_llds_on_when_a_collapse_is_predicted(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    demo = lldwatch(tmp_path, environment, "demo", "--no-dashboard", "--scenario", "auto", "--steps", "32")
    assert demo.returncode == 0, demo.stderr
    run = Run(tmp_path / "runs" / "demo-auto")
    applied = [step.llds_coefficient for step in run.observations()]
    (first, *_) = changed = [step for step in range(2, 33) if applied[step - 1] != applied[step - 2]]
    assert applied[: first - 1] == [0] * (first - 1)
    assert applied[-1] == 4
    said = [line for line in demo.stdout.splitlines() if line.startswith("LLDS coefficient ")]
    assert [int(line.split()[-2]) for line in said] == changed
    diagnosis = json.loads(lldwatch(tmp_path, environment, "diagnose", str(run.path), "--json").stdout)
    assert diagnosis["first_warning"] == first - 1


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_live_dashboard_is_served_while_it_trains_and_ends_with_it(
    tmp_path: Path, environment: dict[str, str], how: signal.Signals, status: int
) -> None:
    port = free_port()
    command = [sys.executable, "-u", "-m", "lldwatch", "demo", "--steps", "3", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert f"http://127.0.0.1:{port}/run/demo-collapse" in demo.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/run/demo-collapse", timeout=10) as page:
            assert page.status == 200
        for line in demo.stdout:
            if "until Ctrl-C" in line:
                break
        demo.send_signal(how)
        assert demo.wait(timeout=20) == status
    for _ in range(100):
        if not answers(port):
            break
        time.sleep(0.1)
    assert not answers(port)


def test_a_taken_port_is_said_in_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = lldwatch(tmp_path, environment, "demo", "--steps", "2", "--port", str(port))
    assert demo.returncode == 2
    assert demo.stderr.splitlines() == [
        f"lldwatch: port {port} is taken: choose another with --port, or --no-dashboard"
    ]


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2):
            return True
    except OSError:
        return False


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
