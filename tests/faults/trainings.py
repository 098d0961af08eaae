"""Trainings in processes of their own, for faults to happen to. A simulation: nothing learns.

`Trainings` starts `python trainings.py`, which imports lldwatch once and then forks a training for each order: two
hundred that are killed cost seconds instead of minutes. What `SLOW` and `CLOCK` name is simulated, in the child, by
replacing a function of the standard library or of lldwatch; everything else is the real thing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from child_training import ROWS, responses

import lldwatch.course
import lldwatch.segments
from lldwatch import Monitor, Run
from lldwatch.errors import RunNotFoundError
from lldwatch.recorder import Recorder
from lldwatch.unsealed import Unsealed

CAPABILITIES = 0x20080522
"""Version of the kernel's structures."""


class Said(NamedTuple):
    """What a training said when a step of it was closed."""

    step: int
    waiting: int
    """Items that had not been written yet."""
    ms: float
    """How long `observe` and `step` took together."""
    dropped: int


@dataclass
class Training:
    """One that was started."""

    pid: int
    run: Path
    file: Path

    @property
    def said(self) -> list[Said]:
        """All that it said so far."""
        text = self.file.read_text() if self.file.exists() else ""
        lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [Said(int(step), int(waiting), float(ms), int(dropped)) for step, waiting, ms, dropped in lines]

    @property
    def lives(self) -> bool:
        """It has not ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def reach(self, step: int, seconds: float = 60.0) -> None:
        """Wait until it has said a step."""
        end = time.monotonic() + seconds
        while not (said := self.said) or said[-1].step < step:
            assert self.lives, f"ended at {said[-1:]}"
            assert time.monotonic() < end, f"still at {said[-1:]}"
            time.sleep(0.01)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; a killed one has ended when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.wait(30)

    def wait(self, seconds: float = 60.0) -> None:
        """Until it has ended."""
        end = time.monotonic() + seconds
        while self.lives:
            assert time.monotonic() < end, "it does not end"
            time.sleep(0.005)


class Trainings:
    """Forks trainings, and leaves none behind.

    Args:
        quiet: what they warn of is not shown.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
        )
        self._number = itertools.count()
        self._started: list[Training] = []

    def start(self, run: Path, **options: Any) -> Training:
        """Start a training; for the options see `train`."""
        said = run.with_name(f"{run.name}.said{next(self._number)}")
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({"run": str(run), "said": str(said), **options}) + "\n")
        self._server.stdin.flush()
        self._started.append(Training(int(self._server.stdout.readline()), run, said))
        return self._started[-1]

    def close(self) -> None:
        """End all that still run."""
        for training in self._started:
            training.kill()
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()


def steps_of(run: Path) -> list[int]:
    """The steps that stand; none if the run was not yet begun."""
    with contextlib.suppress(RunNotFoundError):
        return [observation.step for observation in Run(run).observations()]
    return []


# in the server and in the trainings


def serve() -> None:
    """Fork a training for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            train(**json.loads(line))
            return
        print(child, flush=True)


def train(
    run: str,
    said: str,
    *,
    steps: int = 100_000,
    first: int | None = None,
    delay: float = 0.0,
    rows: int = ROWS,
    steps_per_part: int = 5,
    queue_steps: int = 1000,
    on_sigterm: str = "",
    slow: tuple[float, float] | None = None,
    clock_back_at: int | None = None,
    bound: bool = False,
) -> None:
    """One training; always resumed where there is a run.

    Args:
        run: its directory.
        said: the file in which it says each step.
        steps: how many it makes.
        first: the number that its first step is given, as after an older checkpoint.
        delay: seconds of work in a step.
        rows: responses of a step.
        steps_per_part: of the recorder.
        queue_steps: of the recorder.
        on_sigterm: its own handler: "exit" raises SystemExit, "stop" ends the loop, "save" works for a minute.
        slow: seconds that each write and each fsync take. Simulated.
        clock_back_at: the wall clock goes back by an hour before this step. Simulated.
        bound: permissions bind it, even if root started it.
    """
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    if bound:
        obey_permissions()
    lldwatch.course.Recorder = functools.partial(  # type: ignore[misc]
        Recorder, steps_per_part=steps_per_part, queue_steps=queue_steps
    )
    stop = handle(on_sigterm, out)
    if slow:
        slow_down(*slow)
    with Monitor(run, resume=True) as monitor:
        for index in range(steps):
            number = (monitor.diagnosis.step or monitor._course.last_step or 0) + 1
            number = first if index == 0 and first is not None else number
            if number == clock_back_at:
                time.time = functools.partial(_an_hour_ago, time.time)
            made = responses(number)
            began = time.perf_counter()
            monitor.observe(made)
            monitor.step(number, grad_norm=1.0, loss=1.0 / number)
            ms = 1000 * (time.perf_counter() - began)
            waiting = monitor._recorder._queue.qsize()
            os.write(out, f"{number} {waiting} {ms:.3f} {monitor.dropped_steps}\n".encode())
            time.sleep(delay)
            if stop:
                break


def obey_permissions() -> None:
    """Give up what lets root read and write everything; for an ordinary user nothing changes."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for index in (0, 1):  # effective, permitted
        sets[index] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0


def _an_hour_ago(clock: Callable[[], float]) -> float:
    return clock() - 3600.0


def handle(way: str, out: int) -> list[int]:
    """The training's own handler of SIGTERM; what it returns is filled when the loop shall end."""
    stop: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if way == "exit":
            raise SystemExit(1)
        if way == "save":
            time.sleep(60)
        stop.append(number)

    if way:
        signal.signal(signal.SIGTERM, handler)
    return stop


def slow_down(write_s: float, fsync_s: float) -> None:
    """A disk on which each write and each fsync takes so long."""
    add, fsync = Unsealed.add, os.fsync

    def slow_add(unsealed: Unsealed, *batches: Any) -> None:
        time.sleep(write_s)
        add(unsealed, *batches)

    def slow_fsync(file: int) -> None:
        time.sleep(fsync_s)
        fsync(file)

    Unsealed.add = slow_add  # type: ignore[method-assign]
    lldwatch.segments.os.fsync = slow_fsync  # type: ignore[attr-defined]


if __name__ == "__main__":
    serve()
