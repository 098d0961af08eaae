from __future__ import annotations

import math

import numpy as np
import pytest

from lldwatch import SIGNALS, Observation, Stage
from lldwatch.diagnosis import Verdict
from lldwatch.series import Band, Series, bands, measured, stages_of, thin
from lldwatch_dashboard.lines import HIGH, LOW, NOISE, Lines, lines_of
from lldwatch_dashboard.panels import READINGS
from lldwatch_dashboard.series import MAX_POINTS, Mark, edge_marks, running_mean

NAN, INF = math.nan, math.inf


def series(*values: float) -> Series:
    return Series(np.arange(1, len(values) + 1), np.array(values, float))


def test_what_was_not_measured_has_no_point_and_a_measured_nan_has_one() -> None:
    rewards = [0.5, None, NAN, 0.25]
    seen = measured([Observation(step=step, reward=reward) for step, reward in enumerate(rewards)], SIGNALS["reward"])
    assert seen.steps.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(seen.values, [0.5, NAN, 0.25])


def test_running_mean_leaves_out_what_is_not_finite() -> None:
    np.testing.assert_allclose(running_mean(np.array([1.0, 3.0, NAN, INF, 5.0, 7.0]), 3), [1, 2, 2, 3, 5, 6])
    np.testing.assert_array_equal(running_mean(np.array([NAN, 2.0]), 2), [NAN, 2.0])
    assert len(running_mean(np.zeros(0))) == 0
    values = np.array([1.0, 3.0, NAN, INF, 5.0, 7.0])
    np.testing.assert_array_equal(running_mean(values, 3, np.array([0, 4])), running_mean(values, 3)[[0, 4]])


def test_a_huge_value_does_not_spoil_the_means_after_it() -> None:
    assert running_mean(np.array([1e30, *[0.25] * 9]))[-1] == 0.25


@pytest.mark.parametrize("count", [2001, 2002, 3999, 100_000, 123_457])
@pytest.mark.parametrize("limit", [60, MAX_POINTS])
def test_thinning_keeps_a_spike_and_a_nan_of_one_step(count: int, limit: int) -> None:
    random = np.random.default_rng(count)
    values = random.normal(size=count)
    high, low, broken = random.choice(count, 3, replace=False)
    values[high], values[low], values[broken] = 50.0, -50.0, NAN
    kept = thin(values, limit)
    assert len(kept) <= limit
    assert {high, low, broken, 0, count - 1} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


def test_thinning_leaves_short_series_alone_and_stands_nan_everywhere() -> None:
    assert thin(np.arange(7.0), MAX_POINTS).tolist() == list(range(7))
    assert len(thin(np.full(10_000, NAN), MAX_POINTS)) <= MAX_POINTS
    assert thin(np.zeros(0), MAX_POINTS).tolist() == []


def test_zeros_on_a_log_axis_are_marked_at_the_bottom_and_nan_at_the_top() -> None:
    assert edge_marks(series(3.0, 0.0, 12.0, NAN, INF), log=True) == [
        Mark(2, 2.0, "0", False),
        Mark(4, 18.0, "NaN", True),
        Mark(5, 18.0, "+inf", True),
    ]


def test_zero_is_an_ordinary_value_on_a_linear_axis() -> None:
    assert edge_marks(series(3.0, 0.0, -INF, NAN), log=False) == [
        Mark(3, 0.0, "-inf", False),
        Mark(4, 3.0, "NaN", True),
    ]


def test_marks_have_a_place_even_where_nothing_can_be_drawn() -> None:
    assert [mark.text for mark in edge_marks(series(0.0, NAN), log=True)] == ["0", "NaN"]


def test_bands_follow_the_stage_of_each_step() -> None:
    stages = {1: 0, 2: 0, 3: 1, 4: 1, 7: 2, 8: 0, 9: 3}
    verdicts = [Verdict(step, Stage(stage), None, None) for step, stage in stages.items()]
    assert bands(stages_of(verdicts)) == [
        Band(Stage.STAGNATION, 2.5, 6.5),
        Band(Stage.DECAY, 6.5, 7.5),
        Band(Stage.COLLAPSE, 8.5, 9.5),
    ]
    assert bands(stages_of([])) == []


def test_the_noise_floor_is_the_largest_so_far() -> None:
    floors = [0.001, None, 0.003, 0.002]
    lines = lines_of([Observation(step=step, noise_floor=floor) for step, floor in enumerate(floors)])
    np.testing.assert_allclose(lines[NOISE].values, [0.001, 0.003, 0.003])


def test_the_error_band_has_no_point_where_either_number_is_missing() -> None:
    rows = [(-0.02, 0.002), (NAN, 0.002), (-0.03, None), (None, 0.002), (0.01, 0.001)]
    seen = [Observation(step=i, cross_update_change=c, cross_update_error=e) for i, (c, e) in enumerate(rows)]
    lines = lines_of(seen)
    lower, upper = lines[LOW], lines[HIGH]
    assert lower.steps.tolist() == upper.steps.tolist() == [0, 4]
    np.testing.assert_allclose(lower.values, [-0.022, 0.009], rtol=1e-5)
    np.testing.assert_allclose(upper.values, [-0.018, 0.011], rtol=1e-5)


def test_lines_that_grow_are_those_of_the_whole_run() -> None:
    noise = np.random.default_rng(0)
    whole = tuple(
        Observation(step=step, reward=noise.normal() if step % 3 else None, entropy=NAN if step == 50 else 1.0)
        for step in range(1, 200)
    )
    again = (*whole[:120], Observation(step=121, reward=9.0))  # a resumed training
    lines = Lines()
    for run in (whole[:0], whole[:1], whole[:130], whole, again):
        found = lines.of(run)
        for name, signal in READINGS.items():
            expected = measured(run, signal)
            np.testing.assert_array_equal(found[name].steps, expected.steps)
            np.testing.assert_array_equal(found[name].values, expected.values)


def test_lines_that_were_given_do_not_change() -> None:
    lines, run = Lines(), tuple(Observation(step=step, reward=float(step)) for step in range(300))
    before = lines.of(run[:3])["reward"]
    lines.of(run)
    lines.of((Observation(step=0, reward=7.0), Observation(step=1, reward=7.0)))
    assert before.values.tolist() == [0, 1, 2]
