from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from lldwatch.simulated.training import autoregressive
from lldwatch.trends import (
    LEAST,
    MAD_TO_SIGMA,
    Confirmed,
    Cusum,
    Floats,
    Limits,
    Normal,
    Window,
    around_trend,
    autocorrelation,
    bootstrap,
    cusum_limit,
    spread_of,
)

numbers = st.floats(-1e6, 1e6)
recorded = st.floats(width=32, allow_nan=False, allow_infinity=False)
"""Whatever finite number a column can hold."""


def normal_of(values: list[float], sizes: tuple[int, ...], learn: bool = True) -> Normal:
    normal = Normal(sizes, window=5, confirm=3, false_alarms_per_1000_steps=1.0)
    for value in values:
        normal.add(value, learn=learn)
    return normal


@given(st.lists(recorded, max_size=24))
def test_what_is_normal_is_learnt_at_each_size_and_frozen_after_the_last(values: list[float]) -> None:
    normal = normal_of(values, (6, 12))
    assert normal.missing == max(6 - len(values), 0)
    assert normal.ready == (len(values) >= 6)
    assert normal.learning == (len(values) < 12)
    if not normal.ready:
        assert math.isnan(normal.center)
        assert normal.limits == Limits(math.inf, math.inf, math.inf)
        return
    learnt = np.array(values[: 12 if len(values) >= 12 else 6])
    assert normal.center == float(np.median(learnt))
    assert normal.spread == max(float(spread_of(learnt)), LEAST * abs(normal.center) or LEAST)
    assert normal.autocorrelation == autocorrelation(learnt)
    assert normal.limits == bootstrap(learnt, 5, 3, 1.0)


@given(st.lists(recorded, min_size=6, max_size=12))
@settings(max_examples=50)
def test_what_is_normal_is_finite_whatever_was_recorded(values: list[float]) -> None:
    normal = normal_of(values, (len(values),))
    limits = normal.limits
    assert all(math.isfinite(number) for number in (normal.center, normal.spread, limits.rise, limits.fall))
    assert 0.0 <= normal.autocorrelation <= 0.95
    assert normal.spread > 0.0
    assert min(limits.rise, limits.fall, limits.drawdown) >= 1.0


def test_what_looks_ill_is_not_learnt_once_there_is_something_to_judge_by() -> None:
    normal = normal_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (6, 12), learn=False)
    assert normal.ready, "the first warm-up is all there is"
    for value in (100.0,) * 6:
        assert not normal.add(value, learn=False)
    assert not normal.learning
    for value in (100.0,) * 12:
        assert not normal.add(value), "not learnt later either"
    assert normal.center == 3.5


def test_it_says_when_it_has_learnt_anew() -> None:
    normal = Normal((3, 5), window=2, confirm=1, false_alarms_per_1000_steps=1.0)
    assert [normal.add(float(value)) for value in range(8)] == [False, False, True, False, True, False, False, False]


def test_a_spike_in_the_warm_up_hides_nothing() -> None:
    normal = normal_of([1.0, 1.1, 0.9, 1.0, 1e9, 1.1, 0.9, 1.0, 1.0], (9,))
    assert normal.center == 1.0
    assert normal.spread < 0.5


def test_equal_values_have_a_spread_and_finite_limits() -> None:
    for value, spread in ((0.0, LEAST), (-7.0, 7.0 * LEAST), (1e30, 1e30 * LEAST)):
        normal = normal_of([value] * 10, (10,))
        assert normal.spread == pytest.approx(spread)
        assert normal.limits == Limits(1.0, 1.0, 1.0)


@given(st.lists(numbers, min_size=1, max_size=15))
def test_the_spread_is_that_of_the_median_deviation_unless_more_than_half_are_equal(values: list[float]) -> None:
    deviation = MAD_TO_SIGMA * np.median(np.abs(np.array(values) - np.median(values)))
    assert spread_of(np.array(values)) == pytest.approx(deviation if deviation > 1e-12 else np.std(values))
    equal = [3.0] * (len(values) + 1)
    assert spread_of(np.array(equal + values)) == pytest.approx(np.std(equal + values))


def test_spreads_of_many_series_are_those_of_each() -> None:
    series = np.random.default_rng(0).normal(size=(9, 4))
    series[:6, 2] = 0.5
    np.testing.assert_array_equal(spread_of(series), [spread_of(column) for column in series.T])


def plain(values: Floats) -> float:
    rest = values - values.mean()
    return float(np.dot(rest[1:], rest[:-1]) / np.dot(rest, rest))


@given(st.lists(numbers, min_size=6, max_size=20).filter(lambda values: np.ptp(values) > 1e-3))
def test_the_autocorrelation_is_that_of_neighbours_and_corrected(values: list[float]) -> None:
    count = len(values)
    corrected = (count * plain(np.array(values)) + 1) / (count - 4)
    assert autocorrelation(np.array(values)) == pytest.approx(min(max(corrected, 0.0), 0.95), abs=1e-6)


@pytest.mark.parametrize("phi", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("count", [10, 20])
def test_the_corrected_autocorrelation_is_nearer_to_the_true_one(phi: float, count: int) -> None:
    series = [autoregressive(np.random.default_rng(seed), count, phi) for seed in range(300)]
    error = abs(np.mean([autocorrelation(values) for values in series]) - phi)
    assert error < 0.6 * abs(np.mean([plain(values) for values in series]) - phi)


@given(st.lists(st.floats(-10.0, 10.0), min_size=6, max_size=20), st.floats(-5.0, 5.0), st.floats(-5.0, 5.0))
def test_around_its_trend_a_series_has_neither_level_nor_slope(values: list[float], level: float, slope: float) -> None:
    time = np.arange(float(len(values)))
    rest = around_trend(np.array(values))
    assert np.polyfit(time, rest, 1) == pytest.approx([0.0, 0.0], abs=1e-9)
    np.testing.assert_allclose(around_trend(np.array(values) + level + slope * time), rest, atol=1e-9)


@pytest.mark.parametrize("slope", [0.0, 0.1, -3.0])
def test_a_straight_line_leaves_nothing_that_could_be_autocorrelated(slope: float) -> None:
    line = 0.3 + slope * np.arange(10.0)
    np.testing.assert_array_equal(around_trend(line), np.zeros(10))
    assert autocorrelation(around_trend(line), trend=True) == 0.0


def test_a_trend_is_no_autocorrelation_once_it_is_taken_out() -> None:
    series = [autoregressive(np.random.default_rng(seed), 10, 0.3) + np.arange(10.0) for seed in range(300)]
    assert np.mean([autocorrelation(values) for values in series]) > 0.9
    taken_out = np.mean([autocorrelation(around_trend(values), trend=True) for values in series])
    assert taken_out == pytest.approx(0.3, abs=0.1)


def test_too_few_or_equal_values_have_no_autocorrelation() -> None:
    assert autocorrelation(np.arange(5.0)) == 0.0
    assert autocorrelation(np.full(20, 0.3)) == 0.0
    assert autocorrelation(np.arange(20.0) % 2) == 0.0
    assert autocorrelation(np.arange(20.0)) > 0.9


STEPS, WARM_UP = 700, 20


def share_past_the_limits(phi: float, rate: float, *, shuffled: bool = False, runs: int = 80) -> Floats:
    """Share of noise series that pass the rise, fall and drawdown limits of their own warm-up."""
    passed = np.zeros(3)
    for seed in range(runs):
        rng = np.random.default_rng([seed, round(100 * phi)])
        series = autoregressive(rng, WARM_UP + STEPS, phi)
        normal = Normal((WARM_UP,), window=5, confirm=3, false_alarms_per_1000_steps=rate)
        for value in rng.permutation(series[:WARM_UP]) if shuffled else series[:WARM_UP]:
            normal.add(float(value))
        level = np.median(sliding_window_view((series - normal.center) / normal.spread, 5), axis=-1)[WARM_UP - 4 :]
        drawdown = np.maximum.accumulate(level) - level
        limits = (normal.limits.rise, normal.limits.fall, normal.limits.drawdown)
        passed += [longest(of >= limit) >= 3 for of, limit in zip((level, -level, drawdown), limits, strict=True)]
    return passed / runs


def longest(holds: np.ndarray) -> int:
    """Steps in a row on which it holds, at most."""
    most = now = 0
    for one in holds:
        now = now + 1 if one else 0
        most = max(most, now)
    return most


@pytest.mark.parametrize(("phi", "rate"), [(0.0, 1.0), (0.5, 1.0), (0.8, 1.0), (0.8, 0.3)])
def test_noise_passes_a_limit_about_as_often_as_the_rate_says(phi: float, rate: float) -> None:
    """Independent noise more seldom, since so short a warm-up cannot show that it is; never twice as often."""
    said = 1 - math.exp(-rate * STEPS / 1000)
    shares = share_past_the_limits(phi, rate)
    assert (shares < (1.2 if rate == 1.0 else 2.0) * said).all(), shares
    assert shares.mean() > said / 8, "or the limits are so wide that they see nothing"


def test_without_the_autocorrelation_noise_would_pass_far_more_often() -> None:
    assert share_past_the_limits(0.8, 0.3, shuffled=True).mean() > 1.5 * share_past_the_limits(0.8, 0.3).mean()


def test_fewer_false_alarms_need_wider_limits() -> None:
    values = np.random.default_rng(3).normal(size=20)
    limits = [bootstrap(values, 5, 3, rate) for rate in (0.1, 1.0, 10.0)]
    for name in ("rise", "fall", "drawdown"):
        wide, usual, narrow = (getattr(limit, name) for limit in limits)
        assert wide > usual > narrow


def test_limits_are_the_same_each_time_and_leave_the_global_random_numbers_alone() -> None:
    values = np.random.default_rng(3).normal(size=20)
    np.random.seed(0)
    first = bootstrap(values, 5, 3, 1.0)
    drawn = np.random.random()
    assert bootstrap(values, 5, 3, 1.0) == first
    np.random.seed(0)
    assert np.random.random() == drawn


@given(st.floats(0.01, 100.0), st.floats(-100.0, 100.0))
@settings(max_examples=25)
def test_limits_do_not_depend_on_the_unit(scale: float, shift: float) -> None:
    values = np.random.default_rng(3).normal(size=12)
    limits, other = bootstrap(values, 5, 3, 1.0), bootstrap(values * scale + shift, 5, 3, 1.0)
    for name in ("rise", "fall", "drawdown"):
        assert getattr(other, name) == pytest.approx(getattr(limits, name), rel=1e-6)


@given(st.lists(numbers, max_size=20), st.integers(1, 6))
def test_a_window_has_the_mean_of_its_last_values(values: list[float], size: int) -> None:
    window = Window(size)
    for value in values:
        window.add(value)
    kept = values[-size:]
    assert window.mean == (pytest.approx(np.mean(kept)) if kept else pytest.approx(math.nan, nan_ok=True))


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_a_condition_counts_after_it_held_and_until_it_failed_for_long_enough(
    holds: list[bool], after: int, until: int
) -> None:
    confirmed, said = Confirmed(after, until), False
    for step, now in enumerate(holds):
        said_before, said = said, confirmed.update(now, step)
        lately = holds[: step + 1]
        if len(lately) >= after and all(lately[-after:]):
            said_expected = True
        elif len(lately) >= until and not any(lately[-until:]):
            said_expected = False
        else:
            said_expected = said_before
        assert said == said_expected == (confirmed.since is not None)
        assert confirmed.active == (now or said)
        if said and not said_before:
            assert confirmed.since == step - after + 1
        if said_before and not said:
            assert confirmed.past is not None
            assert confirmed.past[1] == step - until


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_a_condition_that_is_not_active_need_not_be_told_that_it_does_not_hold(
    holds: list[bool], after: int, until: int
) -> None:
    told, spared = Confirmed(after, until), Confirmed(after, until)
    for step, now in enumerate(holds):
        told.update(now, step)
        if now or spared.active:
            spared.update(now, step)
        assert (told.since, told.past, told.active) == (spared.since, spared.past, spared.active)


@given(st.lists(st.floats(-10, 10), max_size=60))
def test_the_cusum_adds_up_what_exceeds_the_allowance(values: list[float]) -> None:
    cusum, expected, start = Cusum(limit=4.0), [0.0], None
    for step, z in enumerate(values):
        said_before = cusum.since
        cusum.add(z, step)
        expected.append(min(max(expected[-1] + min(max(z, -3.0), 3.0) - 0.5, 0.0), 8.0))
        assert cusum.total == expected[-1]
        start = None if expected[-1] == 0 else step if expected[-2] == 0 else start
        if expected[-1] >= 4.0:
            assert cusum.since == start
        if expected[-1] == 0.0:
            assert cusum.since is None
            if said_before is not None:
                assert cusum.past == (said_before, step)


def test_no_single_step_decides_in_a_cusum() -> None:
    cusum = Cusum(limit=4.0)
    cusum.add(1e9, 1)
    assert cusum.since is None


def test_a_cusum_sees_a_recovery_after_any_length_of_illness() -> None:
    cusum = Cusum(limit=4.0)
    for step in range(1000):
        cusum.add(2.0, step)
    assert cusum.since == 0
    for step in range(1000, 1017):
        cusum.add(0.0, step)
    assert cusum.since is None


@pytest.mark.parametrize("rate", [5.0, 20.0])
def test_the_limit_keeps_its_rate_of_false_alarms_on_pure_noise(rate: float) -> None:
    limit = cusum_limit(rate)
    noise = np.random.default_rng(1).normal(size=(2000, 3000))
    total, run_length = np.zeros(3000), np.full(3000, 2000.0)
    for step, now in enumerate(noise):
        total = np.maximum(total + now - 0.5, 0.0)
        run_length[(total >= limit) & (run_length == 2000.0)] = step + 1
    assert np.mean(run_length) == pytest.approx(1000 / rate, rel=0.1)


def test_fewer_false_alarms_cost_a_higher_limit() -> None:
    limits = [cusum_limit(rate) for rate in (100.0, 10.0, 1.0, 0.1)]
    assert limits == sorted(limits)
    assert limits[0] > 0
