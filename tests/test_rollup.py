from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import in_batch_rows, ratio_error, step_summary
from strategies import probe_rows, response_rows

from lldwatch.rollup import in_batch, summarise
from lldwatch.schema import Observation, Probes, Responses

Rows = list[dict[str, Any]]


def tables(kind: type[Any], rows: Rows, cut: int) -> list[Any]:
    """The rows as two tables, as two micro-batches would bring them."""
    return [
        kind(**{name: [row[name] for row in part] for name in part[0]}) for part in (rows[:cut], rows[cut:]) if part
    ]


@given(response_rows(), probe_rows(), st.integers(0, 8))
def test_every_field_equals_the_row_by_row_twin(rows: Rows, probes: Rows, cut: int) -> None:
    summary = summarise(tables(Responses, rows, cut), tables(Probes, probes, cut))
    expected = step_summary(rows, probes)
    assert set(summary) == set(expected)
    for name, value in expected.items():
        assert summary[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


@given(response_rows(), st.integers(0, 8))
def test_the_in_batch_change_by_update_equals_the_row_by_row_twin(rows: Rows, cut: int) -> None:
    found, expected = in_batch(tables(Responses, rows, cut)), in_batch_rows(rows)
    assert len(found) == len(expected)
    for name in ("update", "correct", "tokens", "log_prob_before", "log_prob_after"):
        column = found.columns()[name]
        assert (column is None) == (not expected)
        if column is not None:
            assert column.tolist() == pytest.approx([row[name] for row in expected], rel=1e-5, abs=1e-5), name
            assert set(found.columns()["kind"]) == {"in_batch"}


def test_a_batch_that_a_single_update_saw_has_no_rows_by_update() -> None:
    rows = Responses(update=[3, 3], advantage=[1.0, -1.0], tokens=[2, 2], old_log_prob=[-1, -1], log_prob=[-1, -2])
    assert len(in_batch([rows])) == 0
    assert len(in_batch([Responses(tokens=[2])])) == 0
    assert len(in_batch([])) == 0


@given(response_rows(), probe_rows())
def test_the_fields_are_fields_of_observation(rows: Rows, probes: Rows) -> None:
    summary = summarise(tables(Responses, rows, 8), tables(Probes, probes, 8))
    assert Observation(step=1, **summary).responses == summary.get("responses")


@given(response_rows(), st.sampled_from(sorted(Responses(tokens=[1]).columns())))
def test_a_missing_column_takes_only_what_is_made_of_it(rows: Rows, missing: str) -> None:
    poorer = [{name: value for name, value in row.items() if name != missing} for row in rows]
    summary = summarise(tables(Responses, poorer, 8), [])
    if missing == "uid":  # each row then is a response of its own
        rows = [{**row, "uid": number} for number, row in enumerate(rows)]
    expected = step_summary(rows, [])
    assert set(summary) <= set(expected)
    for name, value in summary.items():
        assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
    if rows and missing != "tokens":
        assert {"responses", "response_length"} <= set(summary)


def test_nothing_measured_gives_no_field() -> None:
    assert summarise([], []) == {}
    assert summarise([Responses()], [Probes()]) == {}


def test_a_response_seen_by_two_updates_counts_once_as_a_response_and_twice_as_an_update() -> None:
    first = {"uid": [1, 2], "tokens": [10, 30], "advantage": [1.0, -1.0], "old_log_prob": [-5.0, -60.0]}
    seen = [
        Responses(**first, log_prob=[-5.0, -60.0], reward=[1.0, 0.0], update=[0, 0]),
        Responses(**first, log_prob=[-4.0, -66.0], reward=[1.0, 0.0], update=[1, 1]),
    ]
    summary = summarise(seen, [])
    assert summary["responses"] == 2
    assert summary["reward"] == 0.5
    assert summary["change_positive"] == pytest.approx(1.0 / 20)
    assert summary["change_negative"] == pytest.approx(-6.0 / 60)


def test_nan_rows_stay_evidence() -> None:
    rows = Responses(tokens=[3, 4], old_log_prob=[math.nan, -1.0], correct=[True, False], reward=[math.nan, 1.0])
    summary = summarise([rows], [])
    assert math.isnan(summary["log_prob_correct"])
    assert math.isnan(summary["reward"])
    assert summary["log_prob_incorrect"] == -0.25


def test_equal_rewards_up_to_rounding_have_no_advantage() -> None:
    rows = Responses(tokens=[3, 3, 3], advantage=np.float32([-0.007, 0.007, 0.016]))
    assert summarise([rows], [])["zero_advantage_share"] == pytest.approx(2 / 3)


def test_answers_to_one_prompt_count_as_one_in_the_standard_error() -> None:
    """By hand: ratio (-3 - 1) / 4 = -1; residuals -3 + 2 = -1 and -1 + 2 = 1; sqrt(2 / 1 * 2) / 4 = 0.5."""
    same = {"kind": ["cross_update"] * 4, "tokens": [1] * 4, "log_prob_before": [0.0] * 4}
    probes = Probes(**same, log_prob_after=[-1.5, -1.5, -0.5, -0.5], group=[1, 1, 2, 2])
    assert summarise([], [probes])["cross_update_error"] == pytest.approx(0.5)
    alone = Probes(**same, log_prob_after=[-1.5, -1.5, -0.5, -0.5])
    assert summarise([], [alone])["cross_update_error"] == pytest.approx(math.sqrt(4 / 3 * 4 * 0.25) / 4)


def test_the_standard_error_is_the_scatter_of_repeated_draws() -> None:
    draws = np.random.default_rng(0)
    changes, errors = [], []
    for _ in range(400):
        group = np.repeat(np.arange(30), 4)
        tokens = draws.integers(5, 50, 120)
        after = tokens * (-0.02 + 0.05 * draws.normal(size=30)[group] + 0.02 * draws.normal(size=120))
        summary = summarise(
            [],
            [
                Probes(
                    kind=["cross_update"] * 120, tokens=tokens, group=group, log_prob_before=np.zeros(120),
                    log_prob_after=after,
                )
            ],
        )  # fmt: skip
        changes.append(summary["cross_update_change"])
        errors.append(summary["cross_update_error"])
    assert np.mean(errors) == pytest.approx(np.std(changes), rel=0.12)


@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(1, 9)), min_size=2, max_size=6))
def test_one_prompt_alone_has_no_standard_error(rows: list[tuple[float, int]]) -> None:
    changes, tokens = [change for change, _ in rows], [count for _, count in rows]
    probes = Probes(
        kind=["cross_update"] * len(rows), tokens=tokens, log_prob_before=[0.0] * len(rows), log_prob_after=changes,
        group=[5] * len(rows),
    )  # fmt: skip
    assert "cross_update_error" not in summarise([], [probes])
    assert ratio_error(changes, tokens, [5] * len(rows)) is None
