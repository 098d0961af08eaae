from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import histories

from lldwatch import CollapseDetector, Observation, diagnose
from lldwatch.checks import Settings
from lldwatch.diagnosis import Check
from lldwatch.errors import InputError

COLUMNS = [field.name for field in fields(Observation)]


def checks(*observations: Observation) -> dict[str, Check]:
    return {check.name: check for check in diagnose(observations)[-1].checks}


def test_every_question_is_answered_at_each_step_whatever_was_measured() -> None:
    names = [check.name for check in diagnose([Observation(step=1)])[0].checks]
    assert len(set(names)) == len(names) >= 4
    full = diagnose([Observation(**dict.fromkeys(COLUMNS, 1))])[0].checks
    assert [check.name for check in full] == names


def test_a_skipped_check_names_the_column_it_lacks() -> None:
    for check in checks(Observation(step=1)).values():
        assert check.status == "skipped"
        assert any(column in check.reason for column in COLUMNS), check


def test_a_check_in_its_warm_up_names_the_column_and_how_many_steps_are_missing() -> None:
    check = checks(Observation(step=1, entropy=1.0), Observation(step=2, entropy=1.0))["entropy"]
    assert check.status == "skipped"
    assert "entropy" in check.reason
    assert str(Settings().warmup - 2) in check.reason


def test_a_measured_signal_is_not_skipped_after_its_warm_up() -> None:
    steps = [
        Observation(step=step, **{n: 1 for n in COLUMNS if n not in ("step", "time")})
        for step in range(1, 3 * Settings().warmup)
    ]
    assert {check.status for check in checks(*steps).values()} <= {"ok", "warning", "critical"}


@given(histories(max_size=40))
def test_a_finding_has_its_evidence_and_nothing_else_has(history: list[Observation]) -> None:
    for diagnosis in diagnose(history):
        loud = [check for check in diagnosis.checks if check.status in ("warning", "critical")]
        assert len(loud) == len(diagnosis.evidence)
        for check, evidence in zip(loud, diagnosis.evidence, strict=True):
            assert str(evidence.since) in check.reason
            assert diagnosis.step is not None
            assert evidence.since <= diagnosis.step
            assert evidence.reference
        for check in diagnosis.checks:
            assert check.reason
            assert "\n" not in check.reason


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
@pytest.mark.parametrize("wrong", [0, -1, math.nan])
def test_a_setting_that_is_not_above_zero_is_refused_by_name(name: str, wrong: float) -> None:
    with pytest.raises(InputError, match=rf"^{name}="):
        Settings(**{name: wrong})


@pytest.mark.parametrize("column", ["loss", "grad_norm", "entropy", "log_prob_correct"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_no_finding_and_lasting_ones_are(column: str, number: float) -> None:
    healthy = [Observation(step=step, **{column: 1.0}) for step in range(1, 6)]
    once = [*healthy, Observation(step=6, **{column: number}), Observation(step=7, **{column: 1.0})]
    assert checks(*once)["numerical"].status == "ok"
    lasting = [*healthy, *(Observation(step=step, **{column: number}) for step in range(6, 12))]
    check = checks(*lasting)["numerical"]
    assert check.status == "critical"
    assert column in check.reason
    assert "since step 6" in check.reason


@given(st.sampled_from(["entropy", "grad_norm"]), st.floats(0.1, 100.0))
def test_a_level_speaks_when_it_left_the_warm_up_and_not_while_it_stays(name: str, normal: float) -> None:
    warm_up = [Observation(step=step, **{name: normal * (1 + 0.01 * (step % 3))}) for step in range(1, 31)]
    assert checks(*warm_up)[name].status == "ok"
    surge = [Observation(step=step, **{name: normal * 4}) for step in range(31, 46)]
    assert checks(*warm_up, *surge)[name].status == "warning"
    fall = [Observation(step=step, **{name: normal / 4}) for step in range(31, 46)]
    assert checks(*warm_up, *fall)[name].status == "ok"


def test_steps_that_say_nothing_neither_confirm_nor_release_a_finding() -> None:
    steps = [Observation(step=step, entropy=1.0 if step < 31 else 9.0) for step in range(1, 46)]
    silent = [Observation(step=step) for step in range(46, 200)]
    assert checks(*steps, *silent)["entropy"].status == checks(*steps)["entropy"].status == "warning"


def test_a_fresh_detector_keeps_the_settings_and_forgets_the_run() -> None:
    detector = CollapseDetector(Settings(warmup=3))
    diagnose([Observation(step=1, entropy=1.0)], detector)
    fresh = detector.fresh()
    assert fresh.settings == detector.settings
    assert fresh.diagnosis.step is None
