"""Trainings that are killed, and what is left of their runs. Used by the tests and by `benchmarks/chaos.py`."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from child_training import ROWS
from trainings import Training, Trainings, steps_of

from lldwatch import Run


@dataclass
class Killed:
    """What came of it.

    Attributes:
        lost: of each kill, steps that the training had closed and that do not stand.
        waiting: of each kill, what had not been written when the last step was closed.
        seconds: that it took to read all steps after each kill.
    """

    lost: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def kill_at_random(
    trainings: Trainings, folder: Path, kills: int, delays: Sequence[float], seed: int = 0, *, each: int = 10
) -> Killed:
    """Kill -9 at so many random moments: while it starts, writes, seals, or resumes a run that was killed before.

    Every file must be readable then, the steps without a gap, and the next process must go on with the next number.

    Args:
        trainings: starts them.
        folder: for the runs.
        kills: how many.
        delays: seconds of work in a step, of which one is chosen each time.
        seed: of the choice.
        each: kills of one run.
    """
    choose, killed = random.Random(seed), Killed()
    for number in range(kills):
        run = folder / f"run{number // each}"
        before = steps_of(run)
        training = trainings.start(run, delay=choose.choice(delays), steps_per_part=choose.choice((2, 5)))
        if choose.random() < 0.7:
            training.reach(len(before) + choose.randint(1, 25))
        time.sleep(choose.random() * (0.01 if training.said else 0.4))
        training.kill()
        look(training, before, killed)
    return killed


def look(training: Training, before: list[int], killed: Killed) -> None:
    """What is left of a killed training, against what it said."""
    said, began = training.said, time.perf_counter()
    steps = steps_of(training.run)
    killed.seconds.append(time.perf_counter() - began)
    assert steps == list(range(1, len(steps) + 1))
    assert steps[: len(before)] == before
    if said:
        assert said[0].step == len(before) + 1
        killed.lost.append(max(0, said[-1].step - len(steps)))
        killed.waiting.append(said[-1].waiting)
    if not steps:
        return
    run = Run(training.run)
    responses = run.responses()
    assert responses["step"].to_pylist() == [step for step in steps for _ in range(ROWS)]
    assert responses["log_prob"].to_pylist() == [-float(step) for step in steps for _ in range(ROWS)]
    assert run.problems == []
    for part in training.run.glob("*/*.parquet"):
        pq.read_table(part)


def preempt(training: Training, grace_s: float) -> float:
    """As Slurm does: SIGTERM, and SIGKILL after a grace time.

    Returns:
        Seconds after the SIGTERM until each step that it has said so far stands in the files.
    """
    training.kill(signal.SIGTERM)
    began = time.monotonic()
    while steps_of(training.run)[-1:] < [training.said[-1].step]:
        assert time.monotonic() < began + grace_s, "not flushed within the grace time"
    seconds = time.monotonic() - began
    while training.lives and time.monotonic() < began + grace_s:
        time.sleep(0.01)
    training.kill()
    return seconds
