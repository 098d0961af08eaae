from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from strategies import histories

from lldwatch import CollapseDetector, Observation, diagnose
from lldwatch.checks import Finite, Reused, Settings, Starved, StepCheck
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
@settings(max_examples=40)
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


def told(check: StepCheck, rows: Iterable[dict[str, Any]], first: int = 1) -> StepCheck:
    for step, row in enumerate(rows, first):
        check.update(Observation(step=step, **row))
    return check


def test_nothing_to_learn_from_is_said_after_twice_the_reward_window() -> None:
    silent = {"zero_advantage_share": 1.0}
    check = told(Starved(Settings()), [silent] * 21)
    assert not check.speaks
    told(check, [silent] * 3, first=22)
    assert check.since == 20
    result, evidence = check.result()
    assert evidence is not None
    assert (result.status, evidence.signal, evidence.value, evidence.limit) == (
        "warning",
        "zero_advantage_share",
        1.0,
        Starved.LIMIT,
    )
    assert "100% of the responses teach nothing" in result.reason
    told(check, [{"zero_advantage_share": 0.2}] * 20, first=30)
    assert not check.speaks
    assert "was beyond it at steps 20 to " in check.result()[0].reason


@pytest.mark.parametrize(("share", "speaks"), [(0.8, False), (0.96, False), (0.98, True)])
def test_many_responses_without_advantage_are_no_starvation_yet(share: float, speaks: bool) -> None:
    assert told(Starved(Settings()), [{"zero_advantage_share": share}] * 60).speaks == speaks


def test_zero_gradients_on_four_steps_of_five_are_no_starvation() -> None:
    rows = [{"grad_norm": 0.0 if step % 5 else 1.0} for step in range(300)]
    assert not told(Starved(Settings()), rows).speaks


def test_the_gradient_tells_of_starvation_where_advantages_are_not_logged() -> None:
    assert told(Starved(Settings()), [{"grad_norm": 0.0}] * 30).speaks
    assert not told(Starved(Settings()), [{"grad_norm": 0.0, "zero_advantage_share": 0.3}] * 30).speaks
    assert Starved(Settings()).result()[0].reason == "needs zero_advantage_share or grad_norm"


def test_a_batch_that_is_used_too_often_is_told_from_the_start() -> None:
    check = told(Reused(Settings()), [{"clip_fraction": 0.25, "updates_per_batch": 16}] * 3)
    assert check.since == 1
    result, evidence = check.result()
    assert evidence is not None
    assert (evidence.value, evidence.limit) == (0.25, Reused.LIMIT)
    assert "25.0% of the tokens" in result.reason
    assert "16 updates on each batch" in result.reason


def test_single_steps_of_much_clipping_are_no_overuse() -> None:
    rows = [{"clip_fraction": 0.01 if step % 5 < 3 else 0.9} for step in range(100)]
    for confirm in (1, 3):
        assert not told(Reused(Settings(confirm=confirm)), rows).speaks
    assert "updates on each batch" not in told(Reused(Settings()), rows).result()[0].reason
    assert told(Reused(Settings()), [{}, {"clip_fraction": math.nan}]).result()[0].reason == "needs clip_fraction"


def test_arithmetic_that_has_healed_is_told_of() -> None:
    rows = [{"loss": 0.1}] * 5 + [{"loss": math.nan}] * 4 + [{"loss": 0.1}] * 12
    check = told(Finite(Settings()), rows)
    assert not check.speaks
    assert check.result()[0].reason.endswith(", was beyond it at steps 6 to 9")


def test_broken_values_are_named_by_their_column() -> None:
    for column in ("loss", "reward", "entropy", "min_log_prob", "cross_update_change"):
        rows = [{"loss": 0.1, "grad_norm": 1.0}] * 5 + [{"loss": 0.1, "grad_norm": 1.0, column: math.inf}] * 3
        result, evidence = told(Finite(Settings()), rows).result()
        assert evidence is not None
        assert (evidence.signal, evidence.value) == (column, math.inf)
        assert result.reason == f"{column} is inf since step 6"
