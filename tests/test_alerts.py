"""What is told, and when: without threads, clocks or anybody who is told."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import spiral
from watched import HEALTHY, watched

from lldwatch import Alert, CollapseDetector, Observation, Run, Stage
from lldwatch.alerts import FIRST_STALL_S, RECOVERED, STALL_S, Onset, Onsets, alerts_of, name_of
from lldwatch.diagnosis import Diagnosis, Family, Verdict

SAMPLES = Path(__file__).parent.parent / "sample_logs"
H, S, D, C = Stage.HEALTHY, Stage.STAGNATION, Stage.DECAY, Stage.COLLAPSE


def told(stages: list[Stage], chances: list[float] | None = None, **columns: list[Any]) -> list[tuple[int, str, Stage]]:
    """Step, kind and stage of each onset of a made-up course."""
    onsets, found = Onsets(), []
    for step, stage in enumerate(stages, 1):
        chance = chances[step - 1] if chances else (0.9 if stage >= D else 0.1)
        own = {name: values[step - 1] for name, values in columns.items()}
        verdict = Verdict(step, stage, Family.LLD_SPIRAL if stage else None, chance)
        begun = onsets.update(Observation(step=step, **own), verdict)
        found += [(onset.step or 0, onset.kind, onset.stage) for onset in begun]
    return found


def test_each_stage_is_told_once_when_it_begins() -> None:
    assert told([H, H, S, S, D, D, D, C, C, C]) == [(3, "stage", S), (5, "stage", D), (8, "stage", C)]


def test_a_stage_that_is_left_out_is_not_told() -> None:
    assert told([H, C, C]) == [(2, "stage", C)]


def test_a_better_stage_is_no_news_nor_is_going_back_to_the_worse_one() -> None:
    assert told([D, C, D, C, D, D, C]) == [(1, "stage", D), (2, "stage", C)]
    assert told([D, C] + [D] * 3 * RECOVERED + [C]) == [(1, "stage", D), (2, "stage", C)], "it has not healed"


def test_a_new_onset_after_a_recovery_is_new() -> None:
    assert told([D] + [H] * RECOVERED + [D]) == [(1, "stage", D), (RECOVERED + 2, "stage", D)]
    assert told([D] + [S] * RECOVERED + [D]) == [(1, "stage", D), (RECOVERED + 2, "stage", D)]
    assert told([C] + [H] * RECOVERED + [D]) == [(1, "stage", C), (RECOVERED + 2, "stage", D)]


@pytest.mark.parametrize("stage", [S, D, C])
def test_a_run_that_flickers_is_told_once(stage: Stage) -> None:
    assert told([stage, H] * 100) == [(1, "stage", stage)]
    assert told([stage] + [H] * (RECOVERED - 1) + [stage]) == [(1, "stage", stage)]


def test_a_predicted_collapse_is_told_once_and_not_where_the_stage_says_it() -> None:
    assert told([H] * 4, [0.1, 0.6, 0.4, 0.6]) == [(2, "predicted", H)]
    assert told([H, H, D, C], [0.1, 0.6, 0.9, 0.9]) == [(2, "predicted", H), (3, "stage", D), (4, "stage", C)]
    assert told([D, D], [0.9, 0.9]) == [(1, "stage", D)]
    assert told([H] * (RECOVERED + 2), [0.6] + [0.1] * RECOVERED + [0.6])[1:] == [(RECOVERED + 2, "predicted", H)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_broken_loss_is_told_at_once_and_a_gradient_norm_is_not(value: float) -> None:
    assert told([H] * 4, loss=[1.0, value, value, 1.0]) == [(2, "not_finite", H)]
    assert told([H] * 4, grad_norm=[1.0, value, value, 1.0]) == []


def test_llds_is_told_when_it_changes_not_how_it_began() -> None:
    coefficients = [0.0, 0.0, 0.5, 1.0, 0.5, 0.0]
    assert [found[:2] for found in told([H] * 6, llds_coefficient=coefficients)] == [(3, "llds"), (6, "llds")]
    assert told([H] * 3, llds_coefficient=[1.0, 1.0, 1.0]) == []
    assert told([H] * 3, llds_coefficient=[None, None, None]) == []


@given(st.lists(st.sampled_from([H, S, D, C]), max_size=60), st.integers(0, 60))
def test_nothing_is_told_twice_whatever_the_course_and_wherever_it_is_cut(stages: list[Stage], cut: int) -> None:
    """Folding the past and going on tells what one process would have told."""
    whole = told(stages)
    assert [step for step, _, _ in whole] == sorted({step for step, kind, _ in whole if kind == "stage"})
    assert [one for one in whole if one[0] <= cut] == told(stages[:cut])
    for (before, _, one), (after, _, other) in itertools.pairwise(whole):
        calm = sum(stage <= S for stage in stages[before : after - 1])
        assert other > one or calm >= RECOVERED


def test_a_recorded_collapse_is_told_with_what_one_needs_to_act() -> None:
    decay, collapse = alerts_of(Run(SAMPLES / "collapse").observations(), "search")
    assert (decay.kind, decay.step, decay.stage, decay.family) == ("stage", 14, D, Family.LLD_SPIRAL)
    assert (collapse.step, collapse.stage, collapse.run) == (32, C, "search")
    evidence = {item.signal: item for item in decay.evidence}
    assert evidence["post_update_zero_advantage"].since == 11
    limit = evidence["post_update_zero_advantage"].limit
    assert limit is not None
    assert evidence["post_update_zero_advantage"].value < limit
    assert {check.status for check in decay.checks} <= {"warning", "critical"}
    assert "fewer optimizer updates" in decay.advice[0]
    for words in ("search: DECAY at step 14, LLD death spiral", "since step 11", "What to do:\n1. make fewer"):
        assert words in str(decay)


def test_the_correction_of_a_recorded_run_is_told_and_a_healthy_one_tells_nothing() -> None:
    corrected = alerts_of(Run(SAMPLES / "collapse-with-llds").observations(), "x")
    assert [(alert.kind, alert.title.partition(" at")[0]) for alert in corrected] == [
        ("stage", "DECAY"),
        ("llds", "LLDS on (coefficient 1.33)"),
        ("llds", "LLDS off"),
    ]
    assert alerts_of(Run(SAMPLES / "healthy").observations(), "x") == []


def test_live_and_afterwards_the_same_is_told() -> None:
    noise = random.Random(3)
    steps = [Observation(step=step, **spiral(step, noise)) for step in range(1, 121)]
    detector, onsets, live = CollapseDetector(), Onsets(), []
    for step in steps:
        verdict = detector.fold(step)
        live += [onset.alert(detector.diagnosis, "x") for onset in onsets.update(step, verdict)]
    assert [alert.stage for alert in live] == [S, D, C]
    assert repr(live) == repr(alerts_of(steps, "x"))


def test_healthy_trainings_that_look_ill_tell_little() -> None:
    counts = {name: len(alerts_of(watched(name, 1).run.observations, name)) for name in HEALTHY}
    assert counts["healthy"] == counts["flat"] == counts["spikes"] == 0
    assert sum(counts.values()) <= 2 * len(counts)


def test_json_holds_no_number_that_json_does_not_know() -> None:
    onsets = Onsets()
    (onset,) = onsets.update(Observation(step=3, loss=math.nan), Verdict(3, H, None, None))
    found = onset.alert(Diagnosis(step=3), "run\x1b[2J")
    told_of = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told_of["value"] == "nan"
    assert told_of["title"] == "loss is nan at step 3"
    assert "\x1b" not in found.run + str(found)


# a stall


def stepping(seconds: list[float]) -> Onsets:
    onsets = Onsets()
    for step, at in enumerate(seconds, 1):
        onsets.update(Observation(step=step, time=at), Verdict(step, H, None, None))
    return onsets


def test_a_stall_counts_from_ten_minutes_or_ten_median_steps() -> None:
    assert stepping([0.0, 1.0, 2.0, 3.0]).stall_after_s == STALL_S
    assert stepping([0.0, 300.0, 600.0, 900.0, 10_000.0]).stall_after_s == 3000.0, "one checkpoint is no step"
    assert stepping([]).stall_after_s == stepping([5.0]).stall_after_s == FIRST_STALL_S


def test_a_stall_is_told_once_and_again_after_a_step() -> None:
    onsets = stepping([0.0, 1.0, 2.0])
    assert onsets.stalled(STALL_S - 1) is None
    first = onsets.stalled(STALL_S + 30)
    assert first is not None
    assert (first.kind, first.step, first.value, first.limit) == ("stalled", 3, STALL_S + 30, STALL_S)
    title = first.alert(Diagnosis(step=3), "x").title
    assert title == "no step for 10 minutes (counts from 10 on): last seen at step 3"
    assert onsets.stalled(2 * STALL_S) is None
    onsets.update(Observation(step=4, time=3.0), Verdict(4, H, None, None))
    assert onsets.stalled(STALL_S + 1) is not None


def test_a_run_that_never_makes_a_step_stalls_too() -> None:
    onset = Onsets().stalled(FIRST_STALL_S + 1)
    assert isinstance(onset, Onset)
    assert onset.alert(Diagnosis(), "x").title.endswith("last seen before the first step")


def test_steps_that_do_not_say_when_they_were_have_the_time_at_which_they_came() -> None:
    onsets = Onsets()
    for step, at in enumerate([0.0, 0.0, 200.0, 400.0], 1):  # two at once when the reading began
        onsets.update(Observation(step=step), Verdict(step, H, None, None), at)
    assert onsets.stall_after_s == 2000.0


# names


@pytest.mark.parametrize(
    ("run_dir", "name"),
    [("runs/search", "search"), ("/a/b/", "b"), ("s3://key@bucket/runs/x?secret_key=1/2", "x"), (Path("a/b"), "b")],
)
def test_a_run_is_called_by_the_last_part_of_its_path(run_dir: str | Path, name: str) -> None:
    assert name_of(run_dir) == name


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_of(".") == os.path.basename(tmp_path)


def test_an_alert_cannot_be_changed() -> None:
    (alert, _) = alerts_of(Run(SAMPLES / "collapse").observations(), "x")
    with pytest.raises(AttributeError):
        alert.run = "y"  # type: ignore[misc]
    assert isinstance(alert, Alert)
