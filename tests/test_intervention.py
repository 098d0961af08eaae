from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lldwatch import InputError
from lldwatch.diagnosis import Family, Stage, Verdict
from lldwatch.intervention import INDICATED, Correct, Decision, Intervention

WELL = Verdict(1, Stage.HEALTHY, None, 0.05)
ILL = Verdict(1, Stage.DECAY, Family.LLD_SPIRAL, 0.6)
UNSURE = Verdict(1, Stage.STAGNATION, Family.LLD_SPIRAL, 0.4)
AUTO = Correct(mode="auto", strength=3.0, ramp=3, release=4)
OTHERS = [None, *(family for family in Family if family not in INDICATED)]


def folded(settings: Correct, verdicts: Iterable[Verdict]) -> list[Decision]:
    intervention = Intervention(settings)
    return [intervention.update(verdict) for verdict in verdicts]


def coefficients(settings: Correct, verdicts: Iterable[Verdict]) -> list[float]:
    return [decision.coefficient for decision in folded(settings, verdicts)]


def said(settings: Correct, verdicts: Iterable[Verdict]) -> list[str | None]:
    return [decision.said for decision in folded(settings, verdicts)]


# off, on


@pytest.mark.parametrize("verdict", [WELL, ILL])
def test_off_never_does_or_says_anything(verdict: Verdict) -> None:
    assert Intervention(Correct()).decision == Decision()
    assert folded(Correct(), [verdict] * 5) == [Decision()] * 5


@pytest.mark.parametrize("verdict", [WELL, ILL, ILL._replace(family=Family.SHARPENING)])
def test_on_is_at_full_strength_from_before_the_first_step_and_says_so_once(verdict: Verdict) -> None:
    settings = Correct(mode="on", strength=0.2)
    assert Intervention(settings).decision == Decision(0.2)
    first, *rest = folded(settings, [verdict] * 5)
    assert first == Decision(0.2, False, "on from the first step: coefficient 0.2")
    assert rest == [Decision(0.2)] * 4


# auto


@pytest.mark.parametrize(
    "why",
    [
        ILL,
        ILL._replace(collapse_probability=None),
        ILL._replace(stage=Stage.COLLAPSE),
        ILL._replace(stage=Stage.STAGNATION, collapse_probability=0.5),
        ILL._replace(family=Family.OFF_POLICY_OVERUSE),
    ],
)
def test_auto_ramps_up_from_the_step_of_the_warning(why: Verdict) -> None:
    decisions = folded(AUTO, [WELL, WELL, why, why, why, why])
    assert [decision.coefficient for decision in decisions] == [0, 0, 1, 2, 3, 3]
    assert [decision.fewer_updates for decision in decisions] == [False, False, True, True, True, True]


def test_every_change_is_said_in_words_with_its_reason_and_nothing_else_is() -> None:
    assert said(AUTO, [WELL, ILL, ILL, ILL, ILL, WELL, WELL, WELL, WELL, WELL, WELL, WELL]) == [
        None,
        "engaged (1 of at most 3) up to 3: decay, LLD death spiral; coefficient 0 -> 1",
        "coefficient 1 -> 2",
        "coefficient 2 -> 3",
        *[None] * 4,
        "released after 4 steps without evidence; coefficient 3 -> 2",
        "coefficient 2 -> 1",
        "coefficient 1 -> 0",
        None,
    ]


@pytest.mark.parametrize(
    "verdict", [WELL, UNSURE, ILL._replace(stage=Stage.HEALTHY, collapse_probability=0.49), WELL._replace(step=7)]
)
def test_auto_does_nothing_without_a_warning(verdict: Verdict) -> None:
    assert folded(AUTO, [verdict] * 9) == [Decision()] * 9


def test_one_step_of_evidence_in_between_keeps_it_on() -> None:
    calm = [WELL] * 3
    assert coefficients(AUTO, [ILL] * 3 + 5 * [*calm, ILL])[2:] == [3] * 21
    assert coefficients(AUTO, [ILL] * 3 + 5 * [*calm, UNSURE])[2:] == [3] * 21
    assert coefficients(AUTO, [ILL] * 3 + [*calm, WELL, WELL, WELL]) == [1, 2, 3, 3, 3, 3, 2, 1, 0]


def test_a_risk_that_is_not_calm_yet_is_neither_evidence_nor_calm() -> None:
    low, high = (WELL._replace(collapse_probability=chance) for chance in (0.24, 0.25))
    assert coefficients(AUTO, [ILL] * 3 + [low] * 4)[-1] == 2
    assert coefficients(AUTO, [ILL] * 3 + [high] * 40)[-1] == 3
    assert coefficients(Correct(mode="auto", ramp=1, release=1, calm=0.6), [ILL, high]) == [1, 0]


def test_evidence_that_comes_back_while_it_ramps_down_engages_it_again_from_where_it_is() -> None:
    once = [ILL] * 3 + [WELL] * 5
    assert coefficients(AUTO, [*once, ILL, ILL, ILL])[-5:] == [2, 1, 2, 3, 3]
    words = said(AUTO, [*once, ILL])[-1]
    assert words == "engaged (2 of at most 3) up to 3: decay, LLD death spiral; coefficient 1 -> 2"


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("stage", [Stage.STAGNATION, Stage.DECAY, Stage.COLLAPSE])
def test_it_is_never_engaged_for_another_kind_of_collapse(family: Family | None, stage: Stage) -> None:
    verdict = Verdict(1, stage, family, 0.99)
    assert folded(AUTO, [WELL, *[verdict] * 9]) == [Decision()] * 10


@pytest.mark.parametrize("family", OTHERS)
def test_it_is_let_go_when_it_turns_out_to_be_another_kind(family: Family | None) -> None:
    other = ILL._replace(family=family)
    *_, first, second, third = folded(AUTO, [ILL, ILL, ILL, other, other, other])
    assert [first.coefficient, second.coefficient, third.coefficient] == [2, 1, 0]
    assert not first.fewer_updates
    assert first.said is not None
    assert first.said.startswith("released: it is not for ")
    assert (family.label if family else "no kind that is known") in first.said


def test_where_it_is_indicated() -> None:
    assert {Family.LLD_SPIRAL, Family.OFF_POLICY_OVERUSE} == INDICATED


def test_after_the_last_engagement_it_stays_off_and_says_so_once() -> None:
    settings = Correct(mode="auto", ramp=1, release=2, engagements=2)
    decisions = folded(settings, [ILL, WELL, WELL] * 4 + [ILL] * 3)
    assert [decision.coefficient for decision in decisions] == [1, 1, 0, 1, 1, 0] + [0] * 9
    words = [decision.said for decision in decisions if decision.said]
    assert [line for line in words if "not engaged" in line] == ["not engaged: 2 times was the most"]
    assert not any(decision.fewer_updates for decision in decisions[6:])


def test_with_a_strength_of_0_fewer_updates_are_asked_for_and_nothing_else() -> None:
    decisions = folded(Correct(mode="auto", strength=0.0, release=2), [ILL, ILL, ILL, WELL, WELL, WELL])
    assert {decision.coefficient for decision in decisions} == {0.0}
    assert [decision.fewer_updates for decision in decisions] == [True] * 4 + [False] * 2
    assert [decision.said for decision in decisions if decision.said] == [
        "engaged (1 of at most 3) up to 0: decay, LLD death spiral",
        "released after 2 steps without evidence",
    ]


# dry run


def test_a_dry_run_says_what_it_would_have_done_and_does_nothing() -> None:
    verdicts = [WELL, ILL, ILL, ILL, *[WELL] * 8]
    dry = folded(Correct(mode="auto", strength=3.0, release=4, dry_run=True), verdicts)
    assert {decision[:2] for decision in dry} == {(0.0, False)}
    for decision, words in zip(dry, said(AUTO, verdicts), strict=True):
        assert decision.said == (f"would have: {words} (dry run)" if words else None)


def test_a_dry_run_of_on() -> None:
    settings = Correct(mode="on", dry_run=True)
    assert Intervention(settings).decision == Decision()
    assert folded(settings, [ILL, ILL]) == [
        Decision(said="would have: on from the first step: coefficient 1 (dry run)"),
        Decision(),
    ]


# of every run

verdicts_of_runs = st.lists(
    st.builds(
        Verdict,
        st.just(1),
        st.sampled_from(Stage),
        st.sampled_from([None, *Family]),
        st.none() | st.floats(0, 1),
    ),
    max_size=60,
)
settings_of_runs = st.builds(
    Correct,
    mode=st.just("auto"),
    strength=st.floats(0, 8),
    ramp=st.integers(1, 5),
    release=st.integers(1, 6),
    calm=st.floats(0.01, 1),
    engagements=st.integers(1, 3),
    dry_run=st.booleans(),
)


@given(settings_of_runs, verdicts_of_runs)
def test_whatever_comes_it_stays_in_its_bounds_and_says_each_change(settings: Correct, verdicts: list[Verdict]) -> None:
    decisions = [Decision(), *folded(settings, verdicts)]
    for verdict, (before, now) in zip(verdicts, pairwise(decisions), strict=True):
        assert 0 <= now.coefficient <= settings.strength
        assert abs(now.coefficient - before.coefficient) <= settings.strength / settings.ramp * (1 + 1e-9)
        if now.coefficient > before.coefficient and not before.fewer_updates:
            assert verdict.family in INDICATED
        if settings.dry_run:
            assert now[:2] == (0, False)
        elif now.coefficient != before.coefficient or now.fewer_updates != before.fewer_updates:
            assert now.said
    engaged = [line for line in (decision.said for decision in decisions) if line and "(dry run)" not in line]
    assert sum(line.startswith("engaged") for line in engaged) <= settings.engagements


@given(settings_of_runs, verdicts_of_runs, st.integers(0, 60))
def test_the_same_steps_give_the_same_decisions_also_after_a_fresh_start(
    settings: Correct, verdicts: list[Verdict], used: int
) -> None:
    first = Intervention(settings)
    for verdict in verdicts[:used]:
        first.update(verdict)
    again = first.fresh()
    assert again.decision == Intervention(settings).decision
    assert [again.update(verdict) for verdict in verdicts] == folded(settings, verdicts)


# bad settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "nonsense"}, "llds='nonsense': expected one of off, on, auto"),
        ({"mode": None}, "llds=None: expected one of off, on, auto"),
        ({"strength": -0.2}, "strength=-0.2: expected a coefficient of at least 0"),
        ({"strength": math.nan}, "strength=nan: expected a coefficient of at least 0"),
        ({"strength": math.inf}, "strength=inf: expected a coefficient of at least 0"),
        ({"strength": "1"}, "strength='1': expected a coefficient of at least 0"),
        ({"ramp": 0}, "ramp=0: expected a whole number from 1"),
        ({"ramp": 1.5}, "ramp=1.5: expected a whole number from 1"),
        ({"release": -1}, "release=-1: expected a whole number from 1"),
        ({"release": True}, "release=True: expected a whole number from 1"),
        ({"engagements": 0}, "engagements=0: expected a whole number from 1"),
        ({"engagements": None}, "engagements=None: expected a whole number from 1"),
        ({"calm": 0}, "calm=0: expected a probability above 0"),
        ({"calm": 1.1}, "calm=1.1: expected a probability above 0"),
        ({"calm": math.nan}, "calm=nan: expected a probability above 0"),
        ({"calm": "low"}, "calm='low': expected a probability above 0"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_in_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        Correct(**settings)
    assert str(refused.value) == words
