from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from trainings import Trainings

from lldwatch import Observation, Run, diagnose
from lldwatch.follow import Follower


def test_a_clock_that_goes_back_changes_no_step_and_no_diagnosis(trainings: Trainings, tmp_path: Path) -> None:
    """The clock is simulated: a machine's own is not the tests' to set."""
    runs = [
        trainings.start(tmp_path / "steady", steps=60, delay=0.002),
        trainings.start(tmp_path / "back", steps=60, delay=0.002, clock_back_at=31),
    ]
    follower = Follower(Run(wait(runs[1].run)))
    for training in runs:
        training.wait()
    follower.update()
    steady, back = (Run(training.run).observations() for training in runs)
    times = [observation.time or 0.0 for observation in back]
    assert times[30] < times[29] - 3000
    assert [observation.step for observation in back] == list(range(1, 61))
    assert timeless(back) == timeless(steady)
    assert repr(diagnose(back)) == repr(diagnose(steady))
    assert [observation.step for observation in follower.observations] == list(range(1, 61))


def timeless(observations: list[Observation]) -> list[Observation]:
    return [replace(observation, time=None, probe_seconds=None) for observation in observations]


def wait(run: Path) -> Path:
    while not (run / "run.json").exists():
        time.sleep(0.01)
    return run
