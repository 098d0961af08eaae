from __future__ import annotations

import re
import string

import pytest
from watched import HEALTHY, ILL, LOOKS_ILL, watched

from lldwatch import Family, Observation, Stage
from lldwatch.advice import ADVICE, advise

TOLD = Observation(step=9, updates_per_batch=16, learning_rate=2e-6)
every = pytest.mark.parametrize("family", [*Family, None])


@every
def test_each_family_has_advice_and_all_of_it_is_filled_in(family: Family | None) -> None:
    for stage in (Stage.STAGNATION, Stage.DECAY, Stage.COLLAPSE):
        lines = advise(stage, family, 40, TOLD)
        assert len(lines) >= 2
        assert len(set(lines)) == len(lines)
        for line in lines:
            assert not re.search(r"[{}\n]|None", line)
            assert line == line.strip()


def test_no_other_placeholder_is_used_than_those_that_are_filled() -> None:
    used = {name for lines in ADVICE.values() for line in lines for _, name, _, _ in string.Formatter().parse(line)}
    assert used - {None} == {"onset", "reuse", "rate"}


def test_the_run_s_own_numbers_are_told_where_they_are_known() -> None:
    said = " ".join(advise(Stage.DECAY, Family.LLD_SPIRAL, 40, TOLD))
    assert "(now 16)" in said
    assert "(now 2e-06)" in said
    assert "before step 40" in said
    unknown = " ".join(advise(Stage.DECAY, Family.LLD_SPIRAL, 40, Observation(step=9)))
    assert "(now" not in unknown


@every
def test_there_is_nothing_to_do_about_a_healthy_run(family: Family | None) -> None:
    assert advise(Stage.HEALTHY, family, None, TOLD) == ()


def test_what_helps_against_displacement_begins_with_fewer_updates() -> None:
    for family in (Family.LLD_SPIRAL, Family.OFF_POLICY_OVERUSE):
        assert advise(Stage.DECAY, family, 40, TOLD)[0].startswith("make fewer optimizer updates")


@pytest.mark.parametrize("family", [Family.SHARPENING, Family.MISMATCH, Family.GRADIENT_STARVATION])
def test_where_the_cure_of_displacement_would_harm_it_is_advised_against(family: Family) -> None:
    lines = advise(Stage.DECAY, family, 40, TOLD)
    assert [line for line in lines if "LLDS" in line] == [line for line in lines if line.startswith("no LLDS")] != []


@pytest.mark.parametrize("family", [family for family in Family if family is not Family.NUMERICAL])
def test_what_is_a_setting_is_named_as_the_trainers_name_it(family: Family) -> None:
    """Broken arithmetic has no setting of a trainer that mends it."""
    said = " ".join(ADVICE[family])
    for trainer in ("TRL: ", "verl: "):
        assert trainer in said


@pytest.mark.parametrize("scenario", ILL)
def test_an_ill_run_is_told_what_to_do_about_its_own_kind(scenario: str) -> None:
    diagnosis = watched(scenario, 0).diagnosis
    assert diagnosis.stage is not Stage.HEALTHY
    first = min(diagnosis.onsets.values())
    assert diagnosis.advice == advise(
        diagnosis.stage, diagnosis.family, first, watched(scenario, 0).run.observations[-1]
    )


@pytest.mark.parametrize("scenario", [name for name in HEALTHY if name not in (*LOOKS_ILL, "zero_advantages")])
def test_a_healthy_run_is_told_nothing(scenario: str) -> None:
    assert watched(scenario, 0).diagnosis.advice == ()
