from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from made_up import dipping, healthy, spiral
from strategies import histories

from lldwatch import CollapseDetector, Diagnosis, Family, Observation, Stage, diagnose
from lldwatch.report import verdict

STEPS = 120


def folded(made_up: Callable[[int, random.Random], dict[str, float]], seed: int, steps: int = STEPS) -> list[Diagnosis]:
    noise = random.Random(seed)
    return diagnose(Observation(step=step, **made_up(step, noise)) for step in range(1, steps + 1))


SEEDS = pytest.mark.parametrize("seed", range(5))


@SEEDS
def test_a_healthy_run_stays_healthy(seed: int) -> None:
    for diagnosis in folded(healthy, seed):
        assert diagnosis.stage is Stage.HEALTHY
        assert diagnosis.family is None
        assert diagnosis.first_warning is None
        assert diagnosis.advice == ()


def test_a_constant_run_is_healthy() -> None:
    constant = {"reward": 0.5, "entropy": 0.3, "log_prob_correct": -0.2, "cross_update_change": 0.0, "grad_norm": 0.0}
    for diagnosis in diagnose(Observation(step=step, **constant) for step in range(STEPS)):
        assert diagnosis.stage is Stage.HEALTHY


@SEEDS
def test_a_spiral_goes_through_its_stages_in_order_and_is_warned_of_before_it_collapses(seed: int) -> None:
    diagnoses = folded(spiral, seed)
    stages = [diagnosis.stage for diagnosis in diagnoses]
    assert stages == sorted(stages)
    assert set(stages) == set(Stage)
    last = diagnoses[-1]
    assert last.family is Family.LLD_SPIRAL
    assert last.first_warning is not None
    assert last.first_warning < last.known[Stage.COLLAPSE]
    assert last.first_warning > 40  # not before anything happened
    assert list(last.onsets) == [Stage.STAGNATION, Stage.DECAY, Stage.COLLAPSE]
    assert all(last.onsets[stage] <= last.known[stage] for stage in last.known)
    assert last.advice
    assert "{" not in "".join(last.advice)


@SEEDS
def test_a_dip_that_recovers_ends_healthy_again(seed: int) -> None:
    diagnoses = folded(dipping, seed)
    assert max(diagnosis.stage for diagnosis in diagnoses) in (Stage.STAGNATION, Stage.DECAY)
    last = diagnoses[-1]
    assert last.stage is Stage.HEALTHY
    assert last.onsets == last.known == {}
    assert last.advice == ()
    assert "cross_update_change" not in [evidence.signal for evidence in last.evidence]


@SEEDS
def test_a_warning_that_was_given_stays_given(seed: int) -> None:
    warned = None
    for diagnosis in [*folded(spiral, seed), *folded(dipping, seed)]:
        if diagnosis.step == 1:
            warned = None
        assert diagnosis.first_warning == warned or warned is None
        warned = diagnosis.first_warning


def lost(step: int, noise: random.Random, **after: float) -> dict[str, float]:
    """A healthy run whose reward is gone from step 60 on, with other signals changed from there on."""
    signals = healthy(step, noise)
    return {**signals, "reward": 0.02, **after} if step >= 60 else signals


def test_a_reward_that_falls_alone_is_no_collapse_and_points_to_the_reward_function() -> None:
    last = folded(lost, 0)[-1]
    assert last.stage is Stage.HEALTHY
    assert next(check.status for check in last.checks if check.name == "reward") == "critical"
    assert "look at the reward function" in verdict(last)


@pytest.mark.parametrize("after", [{"entropy": 0.01}, {"entropy": 3.0}, {"grad_norm": 0.0}])
def test_a_reward_that_falls_with_another_signal_is_a_collapse_without_a_name(after: dict[str, float]) -> None:
    last = folded(lambda step, noise: lost(step, noise, **after), 0)[-1]
    assert last.stage is Stage.COLLAPSE
    assert last.family is None
    assert 60 <= last.known[Stage.COLLAPSE] <= 75


def test_a_log_of_rewards_alone_can_still_collapse() -> None:
    last = folded(lambda step, noise: {"reward": lost(step, noise)["reward"]}, 0)[-1]
    assert last.stage is Stage.COLLAPSE
    skipped = {check.name for check in last.checks if check.status == "skipped"}
    assert skipped == {"likelihood_displacement", "likelihood_of_correct", "entropy", "grad_norm"}


def test_displacement_without_a_second_sign_is_no_more_than_stagnation() -> None:
    steps = (Observation(step=step, cross_update_change=-0.1, cross_update_error=0.01) for step in range(1, 60))
    diagnoses = diagnose(steps)
    assert {diagnosis.stage for diagnosis in diagnoses} == {Stage.HEALTHY, Stage.STAGNATION}
    assert diagnoses[-1].first_warning is None


@pytest.mark.parametrize("noise", [{"noise_floor": 0.5}, {}])
def test_neither_one_noisy_score_nor_a_missing_error_hides_a_displacement(noise: dict[str, float]) -> None:
    usual = {"log_prob_correct": -0.2, "entropy": 0.3, "cross_update_change": -0.1, "cross_update_responses": 64}
    diagnoses = diagnose(Observation(step=step, **usual, **(noise if step == 1 else {})) for step in range(1, 60))
    assert diagnoses[-1].stage is Stage.DECAY


def test_a_reward_below_zero_that_wavers_is_not_lost() -> None:
    noise = random.Random(0)
    for diagnosis in folded(lambda step, _: {"reward": (-0.2 if step < 20 else -0.22) + noise.gauss(0, 0.003)}, 0):
        assert diagnosis.stage is Stage.HEALTHY


def test_a_loss_scaler_that_overflows_at_the_start_is_no_broken_arithmetic() -> None:
    steps = [Observation(step=step, loss=0.1, grad_norm=math.inf if step < 5 else 1.0) for step in range(1, 10)]
    assert {diagnosis.stage for diagnosis in diagnose(steps)} == {Stage.HEALTHY}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_lasting_broken_arithmetic_is_a_collapse_of_its_own_family(number: float) -> None:
    noise = random.Random(0)
    steps = [
        Observation(step=step, **{**healthy(step, noise), **({"loss": number} if step > 30 else {})})
        for step in range(1, 41)
    ]
    diagnosis = diagnose(steps)[-1]
    assert diagnosis.stage is Stage.COLLAPSE
    assert diagnosis.family is Family.NUMERICAL
    assert diagnosis.onsets[Stage.COLLAPSE] == 31
    assert diagnosis.first_warning == diagnosis.known[Stage.COLLAPSE]


@pytest.mark.parametrize(
    ("column", "number"),
    [(column, number) for column in sorted(healthy(1, random.Random(0))) for number in (math.nan, math.inf, -math.inf)],
)
def test_one_broken_step_does_not_blind_the_detector(column: str, number: float) -> None:
    noise = random.Random(1)
    steps = [Observation(step=step, **spiral(step, noise)) for step in range(1, STEPS + 1)]
    steps[20] = Observation(**{**steps[20].as_dict(), column: number})
    diagnosis = diagnose(steps)[-1]
    assert diagnosis.stage is Stage.COLLAPSE
    assert diagnosis.family is Family.LLD_SPIRAL
    assert diagnosis.first_warning is not None
    assert 40 < diagnosis.first_warning < diagnosis.known[Stage.COLLAPSE]


@given(histories(max_size=40))
@settings(max_examples=60)
def test_a_diagnosis_is_coherent_whatever_was_measured(history: list[Observation]) -> None:
    ever_warned = False
    for observation, diagnosis in zip(history, diagnose(history), strict=True):
        ever_warned = ever_warned or diagnosis.stage >= Stage.DECAY
        assert diagnosis.step == observation.step
        assert set(diagnosis.onsets) == set(diagnosis.known)
        assert Stage.HEALTHY not in diagnosis.known
        assert diagnosis.stage is Stage.HEALTHY or max(diagnosis.known) is diagnosis.stage
        assert all(diagnosis.onsets[stage] <= step <= observation.step for stage, step in diagnosis.known.items())
        assert (diagnosis.first_warning is not None) == ever_warned
        if Stage.DECAY in diagnosis.known:
            assert diagnosis.first_warning is not None
            assert diagnosis.first_warning <= diagnosis.known[Stage.DECAY]
        assert bool(diagnosis.advice) == (diagnosis.stage is not Stage.HEALTHY)


@given(histories(max_size=30))
@settings(max_examples=40)
def test_the_same_steps_give_the_same_diagnosis(history: list[Observation]) -> None:
    one, other = CollapseDetector(), CollapseDetector()
    for observation in history:  # the two take turns: nothing is shared
        first, second = one.update(observation), other.update(observation)
        assert first.as_dict() == second.as_dict() == one.diagnosis.as_dict()
    assert [diagnosis.as_dict() for diagnosis in diagnose(history)][-1] == one.diagnosis.as_dict()
