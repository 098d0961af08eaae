from __future__ import annotations

from collections import Counter

import pytest
from made_up import Change, later, rows_of, scaled, shifted, together
from watched import HEALTHY, ILL, LOOKS_ILL, signs_of, watched

from lldwatch import Family, Stage
from lldwatch.families import name_family

SEEDS = range(10)


def test_there_is_a_simulated_collapse_of_every_family() -> None:
    assert set(ILL) == set(Family)


@pytest.mark.parametrize("scenario", ILL)
def test_most_runs_of_a_family_are_given_its_name(scenario: str) -> None:
    named = Counter(watched(scenario, seed).diagnosis.family for seed in SEEDS)
    assert named[Family(scenario)] >= 8, named


@pytest.mark.parametrize("scenario", ["sharpening", "format_loss", "mismatch", "numerical", "optimiser_blow_up"])
def test_most_are_named_from_what_a_trainer_logs_by_itself(scenario: str) -> None:
    named = Counter(watched(scenario, seed, scalars=True).diagnosis.family for seed in range(4))
    assert named[Family(scenario)] >= 3, named


@pytest.mark.parametrize("scenario", [name for name in HEALTHY if name not in LOOKS_ILL])
def test_no_healthy_run_is_said_to_die_of_anything(scenario: str) -> None:
    for seed in range(4):
        said = {verdict.family for verdict in watched(scenario, seed).verdicts if verdict.stage >= Stage.DECAY}
        assert said <= {None}, seed


@pytest.mark.parametrize("scenario", ILL)
def test_a_family_is_named_only_while_something_is_wrong(scenario: str) -> None:
    for seed in range(5):
        for verdict in watched(scenario, seed).verdicts:
            assert verdict.family is None or verdict.stage is not Stage.HEALTHY


def test_a_run_that_grows_certain_is_not_called_sick_by_likelihood_alone() -> None:
    """High likelihood is no health: the reward goes all the same. The name for it is the nearest there is."""
    for seed in range(5):
        seen = watched("ideal_likelihood", seed)
        assert seen.diagnosis.family in (None, Family.SHARPENING)
    assert sum(watched("ideal_likelihood", seed).worst is Stage.COLLAPSE for seed in SEEDS) >= 8


def test_broken_arithmetic_comes_before_all_other_names() -> None:
    for seed in range(5):
        families = {verdict.family for verdict in watched("numerical", seed).verdicts if verdict.stage >= Stage.DECAY}
        assert families == {Family.NUMERICAL}


DISPLACED = shifted("cross_update_change", -0.06)
DISPERSED = scaled("entropy", 4.0)
SHARP = scaled("entropy", 0.2)
UNREWARDED = scaled("reward", 0.02)
NO_FORMAT = scaled("format_valid_share", 0.3)
CUT_OFF = shifted("truncated_share", 0.6)
REUSED = shifted("clip_fraction", 0.3)
STARVED = shifted("zero_advantage_share", 0.7)
PROBED = ("cross_update_change", "post_update_zero_advantage")


def exploded(factor: float) -> Change:
    return scaled("grad_norm", factor)


@pytest.mark.parametrize(
    ("change", "family"),
    [
        (DISPLACED, Family.LLD_SPIRAL),
        (together(DISPLACED, DISPERSED, UNREWARDED), Family.LLD_SPIRAL),
        (together(NO_FORMAT, later(20, together(DISPLACED, DISPERSED))), Family.FORMAT_LOSS),
        (together(DISPLACED, DISPERSED, later(15, NO_FORMAT)), Family.LLD_SPIRAL),
        (together(NO_FORMAT, UNREWARDED), Family.FORMAT_LOSS),
        (CUT_OFF, Family.FORMAT_LOSS),
        (together(exploded(40.0), later(10, together(DISPLACED, DISPERSED))), Family.OPTIMISER_BLOW_UP),
        (together(exploded(5.0), later(10, together(DISPLACED, DISPERSED))), Family.LLD_SPIRAL),
        (together(DISPLACED, DISPERSED, later(20, exploded(40.0))), Family.LLD_SPIRAL),
        (together(REUSED, later(10, together(DISPLACED, DISPERSED))), Family.OFF_POLICY_OVERUSE),
        (together(DISPLACED, DISPERSED, later(20, REUSED)), Family.LLD_SPIRAL),
        (together(DISPLACED, DISPERSED, scaled("rollout_kl", 60.0)), Family.MISMATCH),
        (together(SHARP, UNREWARDED), Family.SHARPENING),
        (together(SHARP, STARVED), Family.SHARPENING),
        (together(SHARP, DISPLACED, UNREWARDED), Family.SHARPENING),
        (SHARP, None),  # growing certain is what learning does
        (together(scaled("entropy", 0.5), UNREWARDED), None),  # by too little
        (STARVED, Family.GRADIENT_STARVATION),
        (together(UNREWARDED, STARVED), None),  # equal rewards are what is left of it
        (together(DISPERSED, UNREWARDED), None),  # nothing was displaced
        (UNREWARDED, None),
    ],
)
def test_what_came_before_what_tells_the_kinds_apart(change: Change, family: Family | None) -> None:
    assert name_family(signs_of(rows_of(change, steps=100))) is family


@pytest.mark.parametrize("change", [DISPERSED, scaled("log_prob_correct", 3.0)], ids=["entropy", "likelihood"])
def test_without_probes_uncertainty_and_likelihood_stand_for_displacement(change: Change) -> None:
    assert name_family(signs_of(rows_of(change, without=PROBED))) is Family.LLD_SPIRAL
