from __future__ import annotations

import functools
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import observations
from watched import watched

import lldwatch.course
from lldwatch import CollapseDetector, Diagnosis, Monitor, Run, diagnose
from lldwatch.checks import Settings
from lldwatch.diagnosis import Verdict
from lldwatch.follow import Follower
from lldwatch.recorder import Recorder
from lldwatch.schema import Observation, RunInfo

QUICK = Settings(warmup=2, window=1, reward_window=2, confirm=1, release=2)
"""Limits that even a few made-up steps pass, so that there is something to compare."""


def verdict_of(diagnosis: Diagnosis) -> Verdict:
    assert diagnosis.step is not None
    return Verdict(diagnosis.step, diagnosis.stage, diagnosis.family, diagnosis.collapse_probability)


def numbers() -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 0.1, 0.5, 1.0, -0.3, -2.0, 50.0, math.nan, math.inf])


@st.composite
def lively(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a step that make the detector speak now and then."""
    if draw(st.integers(0, 4)) == 0:
        anything = draw(observations(st.just(1))).as_dict()
        return {name: value for name, value in anything.items() if name not in ("step", "time") and value is not None}
    names = ("loss", "grad_norm", "reward", "entropy", "log_prob_correct", "cross_update_change", "cross_update_error")
    return {name: draw(numbers()) for name in names if draw(st.booleans())}


@given(data=st.data(), steps_per_part=st.integers(1, 4), tight=st.booleans())
@settings(max_examples=40)
def test_live_after_the_fact_and_followed_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, steps_per_part: int, tight: bool
) -> None:
    """Any steps, gaps and goings back; any size of the parts; a follower that looks at any moment."""
    path, detector = tmp_path_factory.mktemp("run"), CollapseDetector(QUICK if tight else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lldwatch.course, "Recorder", functools.partial(Recorder, steps_per_part=steps_per_part))
        monitor, step = Monitor(path, detector=detector), 0
    follower, live = Follower(Run(path), detector), {}
    for _ in range(data.draw(st.integers(1, 12))):
        back = data.draw(st.integers(0, 9)) == 0
        step = max(step + (-data.draw(st.integers(0, 3)) if back else data.draw(st.integers(1, 3))), 1)
        diagnosis = monitor.step(step, **data.draw(lively()))
        live = {number: said for number, said in live.items() if number < step} | {step: diagnosis}
        if data.draw(st.booleans()):
            follower.update()
    monitor.close()
    follower.update()
    recorded = Run(path).observations()
    assert [observation.step for observation in recorded] == list(live)
    assert [verdict_of(diagnosis) for diagnosis in live.values()] == follower.verdicts
    again = diagnose(recorded, detector.fresh())
    assert [diagnosis.as_dict() for diagnosis in again] == [diagnosis.as_dict() for diagnosis in live.values()]
    assert repr(follower.observations) == repr(recorded)
    assert follower.diagnosis.as_dict() == monitor.diagnosis.as_dict()


@pytest.mark.parametrize("scenario", ["lld_spiral", "dip_and_recover", "numerical", "restart"])
def test_a_whole_run_is_followed_in_any_parts_and_after_a_resume_as_it_was_seen_at_once(
    run_dir: Path, scenario: str
) -> None:
    seen, rng = watched(scenario, 1), random.Random(scenario)
    rows = {row.step: row for row in seen.run.observations}
    Recorder(run_dir, RunInfo()).close()  # killed before its first step
    follower, attempts, step, last = Follower(Run(run_dir)), 1, 1, max(rows)
    while step <= last:
        recorder = Recorder(run_dir, RunInfo(), steps_per_part=rng.randint(1, 30), resume=True)
        attempts, until = attempts + 1, min(step + rng.randint(20, 90), last)
        for number in range(step, until + 1):
            recorder.record(rows[number])
            if rng.random() < 0.1:
                recorder.flush()
                follower.update()
        recorder.close()
        step = last + 1 if until == last else max(until - rng.randint(-1, 30), 1)  # an earlier checkpoint
    follower.update()
    assert attempts > 3
    assert repr(follower.observations) == repr(seen.run.observations)  # NaN differs from itself, its name does not
    assert follower.verdicts == seen.verdicts
    assert follower.diagnosis.as_dict() == seen.diagnosis.as_dict()


def write(path: Path, steps: range, *, resume: bool = False) -> None:
    recorder = Recorder(path, RunInfo(), resume=resume)
    for step in steps:
        recorder.record(Observation(step=step, loss=float(step)))
    recorder.close()


def test_update_says_from_where_on_something_is_new(run_dir: Path) -> None:
    write(run_dir, range(1, 6))
    follower = Follower(Run(run_dir))
    assert follower.diagnosis.step is None
    assert follower.update() == 0
    assert follower.update() == 5
    write(run_dir, range(6, 9), resume=True)
    assert follower.update() == 5
    assert len(follower.observations) == len(follower.verdicts) == 8
    write(run_dir, range(3, 5), resume=True)
    assert follower.update() == 2
    assert [observation.step for observation in follower.observations] == [1, 2, 3, 4]
    assert [verdict.step for verdict in follower.verdicts] == [1, 2, 3, 4]
    assert follower.update() == 4


def test_a_detector_that_was_used_elsewhere_lends_only_its_settings(run_dir: Path) -> None:
    write(run_dir, range(1, 4))
    used = CollapseDetector(QUICK)
    used.update(Observation(step=77, loss=math.nan))
    follower = Follower(Run(run_dir), used)
    follower.update()
    alone = diagnose(follower.observations, CollapseDetector(QUICK))
    assert follower.verdicts == [verdict_of(diagnosis) for diagnosis in alone]
    assert follower.diagnosis.as_dict() == alone[-1].as_dict()
    assert used.diagnosis.step == 77
