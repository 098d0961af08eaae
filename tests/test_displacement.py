from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lldwatch.checks import Settings
from lldwatch.displacement import DISPLACEMENTS, Displacement
from lldwatch.schema import Observation
from lldwatch.trends import cusum_limit

HEADLINE, BYSTANDERS = DISPLACEMENTS
both = pytest.mark.parametrize("of", DISPLACEMENTS, ids=lambda of: of.name)

COST, HORIZON = 0.2, Settings().horizon
PACE = COST / HORIZON
"""Nats per token and step that double in `HORIZON` steps what correct responses cost."""


def displacement(of: Any = HEADLINE, **settings: Any) -> Displacement:
    return Displacement(of, Settings(**settings))


def feed(check: Displacement, changes: Iterable[float | None], first: int = 1, **columns: Any) -> Displacement:
    for step, change in enumerate(changes, first):
        check.update(Observation(step=step, **{check.of.change: change}, **{"log_prob_correct": -COST, **columns}))
    return check


def noise(count: int, spread: float, seed: int = 0, center: float = 0.0) -> list[float]:
    random_numbers = random.Random(seed)
    return [center + random_numbers.gauss(0, spread) for _ in range(count)]


@both
def test_without_the_probe_it_is_skipped_and_says_what_it_needs(of: Any) -> None:
    check, evidence = feed(displacement(of), [None, math.nan, math.inf]).result()
    assert (check.status, evidence) == ("skipped", None)
    assert of.change in check.reason
    assert "LikelihoodProbe" in check.reason
    assert not displacement(of).measured
    assert displacement(of).excess == 0.0


@both
def test_it_speaks_before_any_warm_up_is_over(of: Any) -> None:
    """Zero is its normal, so that a run that is ill from its first step on is seen."""
    check = displacement(of)
    for step in range(1, Settings().warmup):
        check.update(Observation(step=step, log_prob_correct=-COST, cross_update_error=0.002, **{of.change: -0.06}))
    assert check.speaks
    assert check.since == 1


@both
def test_the_onset_is_found_and_not_the_step_at_which_it_was_known(of: Any) -> None:
    check = feed(displacement(of), noise(40, 0.002), cross_update_error=0.002)
    assert not check.speaks
    known = None
    for step in range(41, 80):
        feed(check, [-3 * PACE], first=step, cross_update_error=0.002)
        known = known or (step if check.speaks else None)
    assert known is not None
    assert check.since is not None
    assert 36 <= check.since <= 42
    assert check.since < known <= 50


@both
def test_noise_is_no_displacement(of: Any) -> None:
    for seed in range(8):
        check = displacement(of)
        for step, change in enumerate(noise(500, 0.003, seed), 1):
            feed(check, [change], first=step, cross_update_error=0.003)
            assert not check.speaks


@pytest.mark.parametrize("phi", [0.0, 0.8])
@pytest.mark.parametrize("spread", [0.003, 0.01])
def test_noise_whose_error_is_not_known_speaks_not_much_more_often_than_said(phi: float, spread: float) -> None:
    """Its size is learnt from few steps, which is no exact thing."""
    runs, steps, spoke = 40, 300, 0
    for seed in range(runs):
        check, now, ever = displacement(), 0.0, False
        for step, draw in enumerate(noise(steps, spread, seed), 1):
            now = phi * now + math.sqrt(1 - phi**2) * draw
            ever = feed(check, [now], first=step).speaks or ever
        spoke += ever
    assert spoke / runs <= 2.5 * (1 - math.exp(-Settings().false_alarms_per_1000_steps * steps / 1000))


@pytest.mark.parametrize(("of", "let_pass"), [(HEADLINE, 0.4), (BYSTANDERS, 0.9)], ids=["headline", "bystanders"])
def test_a_loss_too_slow_to_matter_is_let_pass_however_certain_it_is(of: Any, let_pass: float) -> None:
    assert not feed(displacement(of), [-let_pass * PACE] * 300, cross_update_error=1e-6).speaks
    assert feed(displacement(of), [-(let_pass + 0.4) * PACE] * 300, cross_update_error=1e-6).speaks


def test_bystanders_are_let_move_twice_as_far() -> None:
    assert BYSTANDERS.allowed == 2 * HEADLINE.allowed


@both
def test_a_gain_in_likelihood_is_never_one(of: Any) -> None:
    check = feed(displacement(of), [10 * PACE] * 100)
    assert not check.speaks
    assert check.excess == 0.0


@both
def test_a_displacement_that_heals_is_given_up_and_told_of(of: Any) -> None:
    check = feed(displacement(of), [*noise(20, 0.002), *[-4 * PACE] * 60], cross_update_error=0.002)
    assert check.speaks
    since = check.since
    feed(check, noise(60, 0.002, seed=1), first=81, cross_update_error=0.002)
    assert not check.speaks
    result, evidence = check.result()
    assert (result.status, evidence) == ("ok", None)
    assert f", was beyond it at steps {since} to " in result.reason


@given(st.lists(st.none() | st.floats(width=32), max_size=40), st.lists(st.none() | st.floats(width=32), max_size=40))
def test_whatever_is_measured_it_stays_between_nothing_and_twice_its_limit(
    changes: list[float | None], errors: list[float | None]
) -> None:
    check = displacement()
    for step, change in enumerate(changes):
        error = errors[step] if step < len(errors) else None
        feed(check, [change], first=step, cross_update_error=error, noise_floor=error, log_prob_correct=change)
        assert 0.0 <= check.excess <= 2.0
        assert check.excess < 1.0 or check.speaks
        assert check.result()[0].reason


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("column", ["cross_update_change", "cross_update_error", "log_prob_correct", "noise_floor"])
def test_one_broken_number_does_not_blind_it(column: str, number: float | None) -> None:
    check = feed(displacement(), noise(12, 0.002), cross_update_error=0.002)
    broken = {"cross_update_change": 0.001, "log_prob_correct": -COST, "cross_update_error": 0.002, column: number}
    check.update(Observation(step=13, **broken))  # type: ignore[arg-type]
    assert feed(check, [-4 * PACE] * 12, first=14, cross_update_error=0.002).speaks


def test_the_noise_of_scoring_twice_is_none_and_is_that_of_single_responses() -> None:
    """A mean over 100 responses has a tenth of it."""
    change = -0.009
    floor = 0.02
    alone = feed(displacement(), [change] * 100, noise_floor=floor, cross_update_responses=1)
    many = feed(displacement(), [change] * 100, noise_floor=floor, cross_update_responses=100)
    assert not alone.speaks
    assert many.speaks
    assert "inside the noise of scoring twice" in alone.result()[0].reason
    assert "scoring twice" not in many.result()[0].reason


def test_fewer_false_alarms_mean_a_later_alarm() -> None:
    def known(rate: float) -> int:
        check = displacement(false_alarms_per_1000_steps=rate)
        for step in range(1, 200):
            feed(check, [-2 * PACE], first=step, cross_update_error=0.01)
            if check.speaks:
                return step
        raise AssertionError("never")

    assert known(20.0) < known(1.0) < known(0.01)


def test_the_evidence_is_the_loss_a_step_and_the_pace_that_counts() -> None:
    check, evidence = feed(displacement(), [-4 * PACE] * 30, cross_update_error=0.002).result()
    assert evidence is not None
    assert check.status == "critical"
    assert evidence.signal == "cross_update_change"
    assert evidence.value == pytest.approx(-4 * PACE)
    assert evidence.baseline == 0.0
    assert evidence.limit == pytest.approx(-PACE / 2)
    assert evidence.since == 1
    assert f"(limit {cusum_limit(Settings().false_alarms_per_1000_steps):.1f})" in check.reason
    assert check.reason.endswith("since step 1")
