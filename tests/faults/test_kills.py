from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kills import Killed, kill_at_random, look, preempt
from trainings import Trainings, steps_of

from lldwatch import Run


def test_kill_9_at_random_moments_loses_the_step_in_flight_at_most(trainings: Trainings, tmp_path: Path) -> None:
    killed = kill_at_random(trainings, tmp_path, 12, (0.0, 0.002, 0.02), time.time_ns())
    assert all(lost <= waiting + 1 for lost, waiting in zip(killed.lost, killed.waiting, strict=True))
    assert len(killed.lost) > 5  # most had begun


def test_sigterm_without_a_handler_ends_the_training_and_loses_nothing_that_was_written(
    trainings: Trainings, tmp_path: Path
) -> None:
    training = trainings.start(tmp_path / "run", delay=0.02)
    training.reach(12)
    training.kill(15)
    training.wait(2)
    killed = Killed()
    look(training, [], killed)
    assert killed.lost[0] <= killed.waiting[0] + 1
    assert not Run(tmp_path / "run").ended  # as after any other death


@pytest.mark.parametrize("way", ["exit", "stop"])
def test_sigterm_that_the_training_answers_ends_the_run_in_order(
    trainings: Trainings, tmp_path: Path, way: str
) -> None:
    training = trainings.start(tmp_path / "run", delay=0.02, on_sigterm=way)
    training.reach(12)
    assert preempt(training, 2.0) < 2.0
    run = Run(tmp_path / "run")
    assert run.ended
    assert steps_of(tmp_path / "run")[-1] >= training.said[-1].step
    words = "SystemExit" if way == "exit" else "the training closed the run"
    assert words in run.events()["detail"].to_pylist()[-1]


def test_a_training_that_saves_when_it_is_preempted_is_flushed_before_it_is_killed(
    trainings: Trainings, tmp_path: Path
) -> None:
    """Its own handler holds the main thread for longer than the grace time."""
    training = trainings.start(tmp_path / "run", delay=0.02, on_sigterm="save", steps_per_part=100)
    training.reach(12)
    assert preempt(training, 2.0) < 2.0
    last = training.said[-1].step
    assert steps_of(tmp_path / "run")[: last + 1] == list(range(1, last + 1))
    again = trainings.start(tmp_path / "run")
    again.reach(last + 3)
    assert again.said[0].step == last + 1


def test_after_an_older_checkpoint_the_newer_attempt_wins_and_the_older_stays_readable(
    trainings: Trainings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = trainings.start(run, delay=0.01)
    first.reach(23)
    while steps_of(run)[-1] < 23:
        assert first.lives
    first.kill()
    second = trainings.start(run, first=11, steps=4)
    second.wait()
    read = Run(run)
    assert [observation.step for observation in read.observations()] == list(range(1, 15))
    assert read.info.attempt == 1
    assert read.info.resumed_from == 10
    older = pq.read_table(sorted((run / "steps").glob("r00000-a000-*.parquet")))
    newer = pq.read_table(sorted((run / "steps").glob("r00000-a001-*.parquet")))
    assert older["step"].to_pylist()[:23] == list(range(1, 24))
    assert newer["step"].to_pylist() == [11, 12, 13, 14]
    assert [row["kind"] for row in read.events().to_pylist()] == ["start", "resume", "finish"]
