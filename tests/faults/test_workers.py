"""Processes that come out of a training: a data loader's workers, a script that is run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trainings import steps_of

from lldwatch import Monitor, Responses, Run

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

SPAWNING = """
import multiprocessing, sys
from lldwatch import Monitor, RunExistsError
try:
    monitor = Monitor(sys.argv[1], resume=True)   # no "if __name__": a spawned worker runs it again
except RunExistsError as error:
    print("refused:", error, flush=True)
    sys.exit(0)
if multiprocessing.current_process().name == "MainProcess":
    worker = multiprocessing.get_context("spawn").Process(target=print, args=("worker",))
    monitor.step(loss=1.0)
    worker.start()
    worker.join()
    monitor.step(loss=2.0)
    monitor.close()
"""


def forked(work: Callable[[], object]) -> int:
    """Do it in a forked process that then leaves Python as any other; its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_forked_worker_neither_writes_nor_ends_the_run(run_dir: Path) -> None:
    monitor = Monitor(run_dir)
    for step in range(1, 6):
        monitor.observe(Responses(tokens=[step]))
        monitor.step(loss=float(step))
    monitor._recorder.flush()
    before = files(run_dir)

    def work() -> None:
        began = time.monotonic()
        monitor.observe(Responses(tokens=[99]))
        monitor.step(loss=99.0)
        monitor.event("note", "from the worker")
        monitor._recorder.flush()  # nobody would answer
        monitor.close()
        assert time.monotonic() - began < 5
        assert monitor.dropped_steps == 1

    assert forked(work) == 0
    assert files(run_dir) == before
    monitor.step(loss=6.0)
    monitor.close()
    run = Run(run_dir)
    assert [observation.loss for observation in run.observations()] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert run.responses()["tokens"].to_pylist() == [1, 2, 3, 4, 5]
    assert [row["kind"] for row in run.events().to_pylist()] == ["start", "finish"]
    assert monitor.dropped_steps == 0


def test_a_worker_that_outlives_a_killed_training_does_not_hold_its_run(run_dir: Path) -> None:
    script = """
import os, sys, time
from lldwatch import Monitor
monitor = Monitor(sys.argv[1])
monitor.step(loss=1.0)
monitor._recorder.flush()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(120)
    os._exit(0)
time.sleep(120)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(run_dir)], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        worker = int(training.stdout.readline())
        training.kill()
        training.wait(20)
        try:
            with Monitor(run_dir, resume=True) as monitor:
                monitor.step(loss=2.0)
        finally:
            os.kill(worker, signal.SIGKILL)
    assert steps_of(run_dir) == [1, 2]


def test_a_second_fork_and_a_closed_run_close_no_file_of_somebody_else(run_dir: Path) -> None:
    """The number of the lock's file may be another file's by then."""
    monitor = Monitor(run_dir)
    monitor.close()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]

    def work() -> None:
        for number in others:
            os.fstat(number)
        assert forked(lambda: [os.fstat(number) for number in others]) == 0

    try:
        assert forked(work) == 0
    finally:
        for number in others:
            os.close(number)


def test_a_spawned_worker_that_runs_the_script_again_is_refused(run_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SPAWNING)
    done = subprocess.run([sys.executable, str(script), str(run_dir)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:")
    assert "is being written by another process" in done.stdout
    run = Run(run_dir)
    assert steps_of(run_dir) == [1, 2]
    assert (run.ended, run.info.attempt) == (True, 0)


def test_the_workers_of_a_data_loader(run_dir: Path) -> None:
    """Real ones: the data set holds the monitor, and each worker calls it."""
    torch = pytest.importorskip("torch")

    class Prompts(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
        def __init__(self, monitor: Monitor) -> None:
            self.monitor = monitor

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            if torch.utils.data.get_worker_info() is not None:
                self.monitor.step(loss=-1.0)
                self.monitor.close()
            return index

    with Monitor(run_dir) as monitor:
        loader = torch.utils.data.DataLoader(Prompts(monitor), num_workers=2, multiprocessing_context="fork")
        for _ in loader:
            monitor.step(loss=1.0)
    assert [observation.loss for observation in Run(run_dir).observations()] == [1.0] * 8
    assert Run(run_dir).ended
