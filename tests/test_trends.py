from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lldwatch.trends import MAD_TO_SIGMA, Baseline, Confirmed, Cusum, Window, cusum_limit

numbers = st.floats(-1e6, 1e6)
broken = st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(numbers | broken, max_size=30), st.integers(1, 8))
def test_the_baseline_is_median_and_mad_of_the_first_finite_values(values: list[float], size: int) -> None:
    baseline = Baseline(size)
    for value in values:
        baseline.add(value)
    learnt = [value for value in values if math.isfinite(value)][:size]
    assert baseline.missing == size - len(learnt)
    assert baseline.ready == (len(learnt) == size)
    if learnt:
        assert baseline.so_far == pytest.approx(np.median(learnt))
    else:
        assert math.isnan(baseline.so_far)
    if not baseline.ready:
        assert math.isnan(baseline.median)
        assert math.isnan(baseline.spread)
        return
    mad = MAD_TO_SIGMA * np.median(np.abs(np.array(learnt) - np.median(learnt)))
    phi = min(max(baseline.autocorrelation, 0.0), 0.9)
    assert baseline.median == pytest.approx(np.median(learnt))
    assert baseline.spread == pytest.approx(mad * math.sqrt((1 + phi) / (1 - phi)), abs=1e-9)


@given(st.lists(numbers, min_size=3, max_size=20))
def test_the_autocorrelation_is_that_of_neighbours(values: list[float]) -> None:
    assume(np.ptp(values) > 1e-3)
    baseline = Baseline(len(values))
    for value in values:
        baseline.add(value)
    centered = np.array(values) - np.mean(values)
    expected = float(np.dot(centered[1:], centered[:-1]) / np.dot(centered, centered))
    assert baseline.autocorrelation == pytest.approx(expected, abs=1e-6)


def test_a_spike_in_the_warm_up_does_not_move_the_baseline() -> None:
    baseline = Baseline(9)
    for value in [1.0, 1.1, 0.9, 1.0, 1e9, 1.1, 0.9, 1.0, 1.0]:
        baseline.add(value)
    assert baseline.median == 1.0
    assert baseline.spread < 0.5


@given(st.lists(numbers, max_size=20), st.integers(1, 6))
def test_a_window_has_mean_and_standard_error_of_its_last_values(values: list[float], size: int) -> None:
    window = Window(size)
    for value in values:
        window.add(value)
    kept = values[-size:]
    assert window.full == (len(kept) == size)
    assert window.mean == (pytest.approx(np.mean(kept)) if kept else pytest.approx(math.nan, nan_ok=True))
    if len(kept) > 1:
        assert window.error == pytest.approx(np.std(kept, ddof=1) / math.sqrt(len(kept)), abs=1e-6)
    else:
        assert math.isnan(window.error)


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
        if said and not said_before:
            assert confirmed.since == step - after + 1


@given(st.lists(st.floats(-10, 10), max_size=60))
def test_the_cusum_adds_up_what_exceeds_the_allowance(values: list[float]) -> None:
    cusum, expected, start = Cusum(limit=4.0), [0.0], None
    for step, z in enumerate(values):
        cusum.add(z, step)
        expected.append(min(max(expected[-1] + min(max(z, -3.0), 3.0) - 0.5, 0.0), 8.0))
        assert cusum.total == expected[-1]
        start = None if expected[-1] == 0 else step if expected[-2] == 0 else start
        if expected[-1] >= 4.0:
            assert cusum.since == start
        if expected[-1] == 0.0:
            assert cusum.since is None


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
