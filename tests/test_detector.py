from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import dipping, healthy, spiral
from strategies import histories
from watched import HEALTHY, ILL, LOOKS_ILL, Watched, watch, watched

from lldwatch import CollapseDetector, Diagnosis, Family, Observation, Stage, diagnose
from lldwatch.checks import Settings
from lldwatch.report import verdict
from lldwatch.simulate import null, simulate, thinned, with_broken, with_gaps

STEPS = 120
COLUMNS = [column.name for column in fields(Observation) if column.name not in ("step", "time")]


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


CONSTANT = {"reward": 0.5, "entropy": 0.3, "log_prob_correct": -0.2, "cross_update_change": 0.0, "grad_norm": 0.7}


def test_a_constant_run_is_healthy() -> None:
    for diagnosis in diagnose(Observation(step=step, **CONSTANT) for step in range(STEPS)):
        assert diagnosis.stage is Stage.HEALTHY


def test_a_run_without_any_gradient_stagnates_and_is_not_warned_of_a_collapse() -> None:
    last = diagnose(Observation(step=step, **{**CONSTANT, "grad_norm": 0.0}) for step in range(STEPS))[-1]
    assert last.stage is Stage.STAGNATION
    assert last.family is Family.GRADIENT_STARVATION
    assert last.first_warning is None
    assert "nothing is learnt" in verdict(last)


@SEEDS
def test_a_spiral_goes_through_its_stages_in_order_and_is_warned_of_before_it_collapses(seed: int) -> None:
    diagnoses = folded(spiral, seed)
    stages = [diagnosis.stage for diagnosis in diagnoses]
    assert stages == sorted(stages)
    assert {Stage.HEALTHY, Stage.DECAY, Stage.COLLAPSE} <= set(stages)
    last = diagnoses[-1]
    assert last.family is Family.LLD_SPIRAL
    assert last.first_warning is not None
    assert last.first_warning < last.known[Stage.COLLAPSE]
    assert last.first_warning > 40  # not before anything happened
    assert set(last.onsets) == set(stages) - {Stage.HEALTHY}
    assert list(last.onsets.values()) == sorted(last.onsets.values())
    assert all(40 < last.onsets[stage] <= last.known[stage] for stage in last.known)
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


def test_what_was_worse_than_stagnation_and_has_healed_is_kept_as_an_episode() -> None:
    healed = 0
    for seed in range(10):
        seen = watched("dip_and_recover", seed)
        last = seen.diagnosis
        assert last.stage is Stage.HEALTHY, seed
        assert (seen.worst >= Stage.DECAY) == bool(last.episodes), seed
        for episode in last.episodes:
            healed += 1
            said = {verdict.step: verdict.stage for verdict in seen.verdicts}
            assert episode.stage is max(said[step] for step in range(episode.known, episode.until))
            assert episode.onset <= episode.known < episode.until
            assert said[episode.known - 1] < episode.stage <= said[episode.known]
            assert said[episode.until] <= Stage.STAGNATION
            assert last.first_warning is not None
        if last.episodes:
            assert f"A dip has healed: steps {last.episodes[0].onset} to " in verdict(last)
    assert healed >= 4


@SEEDS
def test_a_warning_that_was_given_stays_given(seed: int) -> None:
    warned = None
    for diagnosis in [*folded(spiral, seed), *folded(dipping, seed)]:
        if diagnosis.step == 1:
            warned = None
        assert diagnosis.first_warning == warned or warned is None
        warned = diagnosis.first_warning


@pytest.mark.parametrize("scenario", [name for name in HEALTHY if name not in LOOKS_ILL])
@pytest.mark.parametrize("scalars", [False, True], ids=["all signals", "scalars only"])
def test_healthy_runs_that_look_ill_are_never_warned_of(scenario: str, scalars: bool) -> None:
    for seed in range(2 if scalars else 4):
        seen = watched(scenario, seed, scalars=scalars)
        assert seen.worst <= Stage.STAGNATION, seed
        assert seen.diagnosis.first_warning is None, seed


@pytest.mark.parametrize("scenario", [name for name in ILL if name != "gradient_starvation"])
def test_what_collapses_is_called_so_and_mostly_warned_of_before(scenario: str) -> None:
    early = called = 0
    for seed in range(10):
        seen = watched(scenario, seed)
        assert seen.run.onset is not None
        assert seen.run.collapse is not None
        warned = seen.diagnosis.first_warning
        called += seen.worst is Stage.COLLAPSE
        assert warned is None or warned >= seen.run.onset, seed
        early += warned is not None and warned <= seen.run.collapse
    assert called >= 9
    assert early >= (4 if scenario == "sharpening" else 9)


def test_starvation_costs_no_reward_and_is_no_more_than_stagnation() -> None:
    assert {watched("gradient_starvation", seed).worst for seed in range(10)} == {Stage.STAGNATION}


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_a_run_to_which_nothing_happens_is_not_warned_of(phi: float) -> None:
    """At most 5 % may be; the benchmark counts more of them, and longer ones."""
    assert sum(watch(null(seed, 300, phi)).diagnosis.first_warning is not None for seed in range(6)) == 0


def lost(step: int, noise: random.Random, **after: float) -> dict[str, float]:
    """A healthy run whose reward is gone from step 60 on, with other signals changed from there on."""
    signals = {**healthy(step, noise), "reward": 0.6 + noise.gauss(0, 0.02)}
    return {**signals, "reward": 0.02, **after} if step >= 60 else signals


def test_a_reward_that_falls_alone_is_no_collapse_and_points_to_the_reward_function() -> None:
    last = folded(lost, 0)[-1]
    assert last.stage is Stage.STAGNATION
    assert last.family is None
    assert last.first_warning is None
    assert next(check.status for check in last.checks if check.name == "reward") == "critical"
    assert "look at the reward function" in verdict(last)
    assert "a parser or an environment" in last.advice[0]


@pytest.mark.parametrize("after", [{"entropy": 0.01}, {"entropy": 3.0}, {"response_length": 5.0}, {"kl": 2.0}])
def test_a_reward_that_falls_with_another_signal_is_a_collapse(after: dict[str, float]) -> None:
    last = folded(lambda step, noise: lost(step, noise, **after), 0)[-1]
    assert last.stage is Stage.COLLAPSE
    assert last.family is not Family.LLD_SPIRAL, "nothing was displaced"
    assert 60 <= last.known[Stage.COLLAPSE] <= 75


@pytest.mark.parametrize(
    "afterwards", [{}, {"format_valid_share": 0.1}, {"grad_norm": 2.0, "zero_advantage_share": 1.0}]
)
def test_what_comes_after_a_displacement_is_no_other_illness(afterwards: dict[str, float]) -> None:
    """Once the policy is gone, nothing is displaced any more, and what is left of it looks like other kinds."""

    def gone(step: int, noise: random.Random) -> dict[str, float]:
        signals = spiral(step, noise)
        return signals if step < 95 else {**signals, "cross_update_change": 0.0, **afterwards}

    last = folded(gone, 0, 180)[-1]
    assert last.stage is Stage.COLLAPSE
    assert next(check.status for check in last.checks if check.name == "likelihood_displacement") == "ok"
    assert last.family is Family.LLD_SPIRAL


def test_broken_arithmetic_at_the_end_of_a_spiral_is_what_must_be_mended() -> None:
    def broken(step: int, noise: random.Random) -> dict[str, float]:
        return {**spiral(step, noise), **({"loss": math.nan} if step > 100 else {})}

    assert folded(broken, 0)[-1].family is Family.NUMERICAL


def test_a_gradient_that_goes_with_the_reward_is_no_second_sign() -> None:
    """Equal rewards give no gradient."""
    assert folded(lambda step, noise: lost(step, noise, grad_norm=0.0), 0)[-1].stage is Stage.STAGNATION


def test_a_log_of_rewards_alone_can_still_collapse() -> None:
    last = folded(lambda step, noise: {"reward": lost(step, noise)["reward"]}, 0)[-1]
    assert last.stage is Stage.COLLAPSE
    assert last.confidence == "low"
    assert {check.name for check in last.checks if check.status != "skipped"} == {"reward", "numerical"}


def test_displacement_without_a_second_sign_is_no_more_than_stagnation() -> None:
    steps = (Observation(step=step, cross_update_change=-0.1, cross_update_error=0.01) for step in range(1, 60))
    assert {diagnosis.stage for diagnosis in diagnose(steps)} == {Stage.HEALTHY, Stage.STAGNATION}


@pytest.mark.parametrize("noise", [{"noise_floor": 0.5}, {}])
def test_neither_one_noisy_score_nor_a_missing_error_hides_a_displacement(noise: dict[str, float]) -> None:
    usual = {"log_prob_correct": -0.2, "entropy": 0.3, "cross_update_change": -0.1, "cross_update_responses": 64}
    diagnoses = diagnose(Observation(step=step, **usual, **(noise if step == 1 else {})) for step in range(1, 60))
    assert diagnoses[-1].stage is Stage.STAGNATION
    assert diagnoses[-1].family is Family.LLD_SPIRAL
    assert diagnoses[-1].known[Stage.STAGNATION] < 12


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


BROKEN = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize(
    ("column", "number"),
    [(column, BROKEN[place % 3]) for place, column in enumerate(sorted(healthy(1, random.Random(0))))],
)
def test_one_broken_step_does_not_blind_the_detector(column: str, number: float) -> None:
    noise = random.Random(1)
    steps = [Observation(step=step, **spiral(step, noise)) for step in range(1, STEPS + 1)]
    steps[20] = replace(steps[20], **{column: number})
    seen = watch_rows(steps)
    assert seen.diagnosis.stage is Stage.COLLAPSE
    assert seen.diagnosis.family is Family.LLD_SPIRAL
    assert seen.diagnosis.first_warning is not None
    assert 40 < seen.diagnosis.first_warning < seen.diagnosis.known[Stage.COLLAPSE]


def watch_rows(rows: list[Observation]) -> Watched:
    return watch(replace(simulate("healthy", 0, 60), observations=rows))


@pytest.mark.parametrize("columns", [("reward",), ("entropy", "grad_norm"), ("loss",), ("cross_update_change",), ()])
def test_what_is_not_logged_is_skipped_by_the_name_of_its_column_and_the_rest_is_judged(
    columns: tuple[str, ...],
) -> None:
    noise = random.Random(0)
    rows = [healthy(step, noise) for step in range(1, 41)]
    observations = [Observation(step=step, **{name: row[name] for name in columns}) for step, row in enumerate(rows, 1)]
    last = diagnose(observations)[-1]
    skipped = [check for check in last.checks if check.status == "skipped"]
    judged = {check.name for check in last.checks if check.status != "skipped"}
    for check in skipped:
        assert "needs " in check.reason
        assert any(column in check.reason for column in COLUMNS if column not in columns), check
    expected = {
        ("reward",): {"reward", "numerical"},
        ("entropy", "grad_norm"): {"entropy", "grad_norm", "learning_signal", "numerical"},
        ("loss",): {"numerical"},
        ("cross_update_change",): {"likelihood_displacement", "numerical"},
        (): set(),
    }
    assert judged == expected[columns]
    assert last.confidence == "low"


@pytest.mark.parametrize(
    ("without", "confidence"),
    [((), "high"), (("cross_update_change",), "medium"), (("cross_update_change", "reward"), "low")],
)
def test_the_confidence_says_what_the_verdict_rests_on(without: tuple[str, ...], confidence: str) -> None:
    noise = random.Random(0)
    rows = [healthy(step, noise) for step in range(1, 41)]
    kept = [{name: value for name, value in row.items() if name not in without} for row in rows]
    assert diagnose(Observation(step=step, **row) for step, row in enumerate(kept, 1))[-1].confidence == confidence


def test_a_run_of_forty_rows_is_judged() -> None:
    """The warm-up is a quarter of it."""
    spirals = [watch_rows(simulate("off_policy_overuse", seed, 60).observations[:40]) for seed in range(5)]
    well = [watch_rows(simulate(name, seed, 60).observations[:40]) for name in ("healthy", "spikes") for seed in (0, 1)]
    assert sum(seen.diagnosis.first_warning is not None for seen in spirals) >= 4
    assert {seen.worst for seen in well} == {Stage.HEALTHY}
    assert all(check.status != "skipped" for check in well[0].diagnosis.checks if check.name == "entropy")


@pytest.mark.parametrize("every", [2, 5])
def test_a_run_that_is_logged_every_few_steps_is_judged_in_the_steps_of_training(every: int) -> None:
    called = 0
    for seed in range(4):
        run = thinned(simulate("mismatch", seed, 400), every)
        seen = watch(run)
        assert run.onset is not None
        warned = seen.diagnosis.first_warning
        called += seen.worst is Stage.COLLAPSE
        assert warned is None or (warned % every == 0 and warned >= run.onset)
        assert watch(thinned(simulate("healthy", seed, 400), every)).diagnosis.first_warning is None
    assert called >= 3


@pytest.mark.parametrize("scenario", ["healthy", "length_growth", "entropy_doubles", "repeated_rewards"])
def test_holes_and_broken_rows_are_no_illness(scenario: str) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        seen = watch(with_broken(with_gaps(simulate(scenario, seed), rng, 0.2), rng, 0.05))
        assert seen.diagnosis.first_warning is None


@pytest.mark.parametrize("scenario", ["lld_spiral", "format_loss", "mismatch", "optimiser_blow_up"])
def test_holes_and_broken_rows_hide_no_illness(scenario: str) -> None:
    called = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        called += watch(with_broken(with_gaps(simulate(scenario, seed), rng, 0.2), rng, 0.05)).worst is Stage.COLLAPSE
    assert called >= 3


@given(histories(max_size=40))
@settings(max_examples=40)
def test_a_diagnosis_is_coherent_whatever_was_measured(history: list[Observation]) -> None:
    ever_warned = False
    for observation, diagnosis in zip(history, diagnose(history), strict=True):
        chance = diagnosis.collapse_probability
        ever_warned = ever_warned or diagnosis.stage >= Stage.DECAY or (chance is not None and chance >= 0.5)
        assert diagnosis.step == observation.step
        assert set(diagnosis.onsets) == set(diagnosis.known)
        assert Stage.HEALTHY not in diagnosis.known
        assert diagnosis.stage is Stage.HEALTHY or max(diagnosis.known) is diagnosis.stage
        assert diagnosis.stage is not Stage.HEALTHY or diagnosis.family is None
        assert all(diagnosis.onsets[stage] <= step <= observation.step for stage, step in diagnosis.known.items())
        assert (diagnosis.first_warning is not None) == ever_warned
        if Stage.DECAY in diagnosis.known:
            assert diagnosis.first_warning is not None
            assert diagnosis.first_warning <= diagnosis.known[Stage.DECAY]
        assert bool(diagnosis.advice) == (diagnosis.stage is not Stage.HEALTHY)
        assert (chance is None) == (diagnosis.horizon is None)
        assert chance is None or 0.0 <= chance <= 1.0


QUICK = Settings(warmup=3, window=2, reward_window=2, confirm=1, release=2)
"""Limits that even a few made-up steps pass."""


@given(histories(max_size=30), st.booleans())
@settings(max_examples=40)
def test_the_same_steps_give_the_same_diagnosis(history: list[Observation], quick: bool) -> None:
    one = CollapseDetector(QUICK if quick else None)
    other = one.fresh()
    for observation in history:  # the two take turns: nothing is shared
        first, second = one.update(observation), other.update(observation)
        assert first.as_dict() == second.as_dict() == one.diagnosis.as_dict()
    assert [diagnosis.as_dict() for diagnosis in diagnose(history, one.fresh())][-1] == one.diagnosis.as_dict()


def summary(diagnosis: Diagnosis) -> tuple[Any, ...]:
    return diagnosis.step, diagnosis.stage, diagnosis.family, diagnosis.collapse_probability


@pytest.mark.parametrize("scenario", ["lld_spiral", "dip_and_recover", "restart", "numerical", "zero_advantages"])
def test_fold_and_update_agree_wherever_the_words_are_asked_for(scenario: str) -> None:
    """Putting a diagnosis into words changes nothing, so that it may be left out."""
    seen = watched(scenario, 1)
    detector, asked = CollapseDetector(), random.Random(0)
    for observation, verdict_then in zip(seen.run.observations, seen.verdicts, strict=True):
        if asked.random() < 0.5:
            assert summary(detector.update(observation)) == verdict_then
        else:
            assert detector.fold(observation) == verdict_then
    assert detector.diagnosis.as_dict() == seen.diagnosis.as_dict()


def test_a_fresh_detector_has_seen_nothing_and_keeps_its_settings() -> None:
    detector = CollapseDetector(QUICK)
    detector.fold(Observation(step=1, loss=math.nan))
    detector.fold(Observation(step=2, loss=math.nan))
    assert detector.stage is Stage.COLLAPSE
    fresh = detector.fresh()
    assert fresh.settings is detector.settings
    assert (fresh.stage, fresh.family, fresh.first_warning) == (Stage.HEALTHY, None, None)
    assert fresh.diagnosis.as_dict() == Diagnosis().as_dict()


def test_the_stage_and_family_at_hand_are_those_of_the_diagnosis() -> None:
    detector, noise = CollapseDetector(), random.Random(0)
    for step in range(1, STEPS + 1):
        said = detector.update(Observation(step=step, **spiral(step, noise)))
        told = (said.stage, said.family, said.first_warning)
        assert (detector.stage, detector.family, detector.first_warning) == told
        assert detector.forecast.probability == said.collapse_probability
        assert detector.forecast.steps == said.steps_to_collapse
