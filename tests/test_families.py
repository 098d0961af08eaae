from __future__ import annotations

from collections import Counter

import pytest
from watched import HEALTHY, ILL, LOOKS_ILL, watched

from lldwatch import Family, Stage

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
