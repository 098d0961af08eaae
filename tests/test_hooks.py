from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from oracles import place_rows, response_row
from strategies import Batch, batches

from lldwatch import hooks
from lldwatch.errors import InputError
from lldwatch.hooks import PLACES, per_response
from lldwatch.schema import Positions


def lists(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.double().tolist()


@given(batches())
def test_every_column_equals_the_token_by_token_twin(batch: Batch) -> None:
    rows = per_response(batch.log_probs, batch.old_log_probs, batch.response_mask, **batch.optional)
    old, clip = lists(batch.old_log_probs), batch.optional["clip_range"]
    each = {
        name: lists(batch.optional.get(name)) for name in ("advantages", "rewards", "entropy", "correct", "answer_mask")
    }
    expected = [
        response_row(
            lists(batch.log_probs)[i],
            old and old[i],
            lists(batch.response_mask)[i],
            advantage=each["advantages"] and each["advantages"][i],
            reward=each["rewards"] and each["rewards"][i],
            entropy=each["entropy"] and each["entropy"][i],
            correct=each["correct"] and bool(each["correct"][i]),
            answer_mask=each["answer_mask"] and each["answer_mask"][i],
            low_confidence=batch.optional["low_confidence"],
            clip_range=clip if isinstance(clip, tuple) or clip is None else (clip, clip),
        )
        for i in range(len(batch.log_probs))
    ]
    measured = {name: column for name, column in rows.columns().items() if column is not None}
    assert set(measured) - {"group"} == set(expected[0])
    for name in expected[0]:
        np.testing.assert_allclose(measured[name], [row[name] for row in expected], rtol=1e-5, atol=1e-4, err_msg=name)


def places_of(rows: Any) -> dict[tuple[bool, int], dict[str, Any]]:
    (places,) = rows.companions
    assert isinstance(places, Positions)
    columns = {name: [] if column is None else column.tolist() for name, column in places.columns().items()}
    keys = zip(columns.pop("after_feedback"), columns.pop("position"), strict=True)
    return {key: {name: column[i] for name, column in columns.items()} for i, key in enumerate(keys)}


@given(batches())
def test_confidence_by_place_equals_the_token_by_token_twin(batch: Batch) -> None:
    low = batch.optional["low_confidence"]
    found = places_of(per_response(batch.log_probs, None, batch.response_mask, low_confidence=low))
    expected = place_rows(lists(batch.log_probs), lists(batch.response_mask), PLACES, low)
    assert found == {key: pytest.approx(row, rel=1e-5, abs=1e-4) for key, row in expected.items()}


def test_later_places_are_counted_together_and_tool_feedback_parts_the_actions() -> None:
    mask = torch.tensor([[0] + [1] * 20 + [0, 0] + [1] * 3])
    found = places_of(per_response(torch.full(mask.shape, -1.0), None, mask))
    assert {key: row["tokens"] for key, row in found.items()} == {
        **{(False, place): 1 for place in range(PLACES - 1)},
        (False, PLACES - 1): 20 - (PLACES - 1),
        **{(True, place): 1 for place in range(3)},
    }


def test_places_are_made_of_at_most_so_many_responses_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "PLACES_FROM", 3)
    log_probs = -torch.arange(1.0, 8.0)[:, None]
    found = places_of(per_response(log_probs, None, torch.ones(7, 1)))
    assert found[False, 0]["tokens"] == 3
    assert found[False, 0]["log_prob"] == -1.0 - 4.0 - 7.0


@pytest.mark.parametrize("tokens", [1, 100_000])
def test_a_response_may_be_short_or_very_long(tokens: int) -> None:
    log_probs = torch.full((2, tokens), -0.1)
    rows = per_response(log_probs, log_probs + 0.25, torch.ones(2, tokens, dtype=torch.bool), clip_range=0.2)
    assert rows.tokens.tolist() == [tokens] * 2
    assert rows.log_prob.tolist() == pytest.approx([-0.1 * tokens] * 2, rel=1e-5)
    assert rows.first_action_change.tolist() == pytest.approx([-0.25 * tokens] * 2, rel=1e-6)
    assert rows.clipped_tokens.tolist() == [tokens] * 2
    places = places_of(rows)
    assert sum(row["tokens"] for row in places.values()) == 2 * tokens
    assert sum(row["log_prob"] for row in places.values()) == pytest.approx(-0.2 * tokens, rel=1e-5)


@pytest.mark.parametrize("wrong", [2.0, 0.5, -1.0, math.nan, -1e9])
def test_a_mask_with_other_values_than_0_and_1_is_named(wrong: float) -> None:
    mask = torch.ones(4, 3)
    mask[2, 1] = wrong
    rows = per_response(torch.zeros(4, 3), None, mask)
    assert len(rows) == 0
    assert "response_mask has values other than 0 and 1 in 1 of 4 responses" in str(rows.error)


@pytest.mark.parametrize("name", ["response_mask", "rewards", "log_probs"])
def test_complex_numbers_are_refused_by_name(name: str) -> None:
    arguments: dict[str, Any] = {"log_probs": torch.zeros(2, 3), "response_mask": torch.ones(2, 3)}
    arguments[name] = torch.zeros(2 if name == "rewards" else (2, 3), dtype=torch.complex64)
    error = per_response(old_log_probs=None, **arguments).error
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{name} is torch.complex64, expected real numbers")


@pytest.mark.parametrize("wrong", [(0.1,), (0.1, 0.0), (2.0, 0.1), (0.1, 0.01, 0.001)])
def test_what_is_no_pair_of_probabilities_is_refused(wrong: Any) -> None:
    error = per_response(torch.zeros(1, 1), None, torch.ones(1, 1), low_confidence=wrong).error
    assert str(error).startswith("low_confidence is ")


@given(batches())
def test_what_stands_outside_the_mask_does_not_matter(batch: Batch) -> None:
    def filled(value: float) -> dict[str, Any]:
        def fill(tensor: Any) -> Any:
            if isinstance(tensor, torch.Tensor) and tensor.shape == batch.log_probs.shape:
                return torch.where(batch.response_mask != 0, tensor, value)
            return tensor

        rows = per_response(
            fill(batch.log_probs),
            fill(batch.old_log_probs),
            batch.response_mask,
            **{name: fill(tensor) for name, tensor in batch.optional.items()},
        )
        columns = {name: None if column is None else column.tolist() for name, column in rows.columns().items()}
        return {**columns, "places": places_of(rows)}

    assert filled(math.nan) == filled(-3.0)


def test_dtypes_are_those_of_the_contract() -> None:
    rows = per_response(
        torch.zeros(2, 3, dtype=torch.bfloat16),
        None,
        torch.ones(2, 3),
        rewards=torch.tensor([1, 0]),
        uid=torch.tensor([2**40, 7], dtype=torch.int64),
        group=torch.tensor([1, 1], dtype=torch.int32),
    )
    for column in dataclasses.fields(rows):
        values = getattr(rows, column.name)
        assert values is None or values.dtype == column.metadata["dtype"], column.name
    assert rows.uid is not None
    assert rows.uid.tolist() == [2**40, 7]


def test_a_policy_that_wrote_the_batch_itself_has_not_moved() -> None:
    rows = per_response(torch.tensor([[-1.0, -2.0]]), None, torch.ones(1, 2), clip_range=0.2)
    assert rows.old_log_prob == rows.log_prob == -3.0
    assert rows.first_action_change == 0.0
    assert rows.clipped_tokens == 0


@pytest.mark.parametrize(("clip_range", "clipped"), [(0.2, 3), ((0.2, 0.28), 2), ((0.3, 0.2), 2), (0.5, 0)])
def test_tokens_beyond_either_end_of_the_clip_range_are_counted(clip_range: Any, clipped: int) -> None:
    ratios = torch.tensor([[0.75, 0.85, 1.0, 1.15, 1.25, 1.3]])
    rows = per_response(ratios.log(), torch.zeros(1, 6), torch.ones(1, 6), clip_range=clip_range)
    assert rows.clipped_tokens == clipped


def test_a_broken_token_after_the_first_action_leaves_the_first_action_alone() -> None:
    mask = torch.tensor([[1, 0, 1]])
    rows = per_response(torch.tensor([[-1.0, 0.0, -math.inf]]), torch.tensor([[-1.5, 0.0, -1.0]]), mask)
    assert rows.first_action_change == 0.5
    assert rows.log_prob == -math.inf


def test_a_nan_log_prob_inside_the_mask_is_kept() -> None:
    rows = per_response(torch.tensor([[math.nan, -1.0]]), None, torch.ones(1, 2))
    assert rows.log_prob is not None
    assert math.isnan(rows.log_prob[0])


def test_an_empty_batch_gives_no_rows() -> None:
    rows = per_response(torch.zeros(0, 3), None, torch.zeros(0, 3), rewards=torch.zeros(0), uid=torch.zeros(0))
    assert rows.error is None
    assert len(rows) == 0
    assert places_of(rows) == {}


def test_identities_are_kept_as_they_were() -> None:
    uid = torch.tensor([5, 6])
    rows = per_response(torch.zeros(2, 3), None, torch.ones(2, 3), uid=uid)
    uid.zero_()  # the loop reuses its buffers
    assert rows.uid is not None
    assert rows.uid.tolist() == [5, 6]


def test_the_gradient_graph_is_left_alone() -> None:
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    rows = per_response(log_probs, log_probs * 1.0, torch.ones(1, 2), entropy=log_probs * 2.0, advantages=log_probs * 3)
    assert rows.error is None
    assert len(rows) == 1
    assert log_probs.grad is None
    log_probs.sum().backward()
    assert log_probs.grad is not None


SHAPE_MISTAKES: list[tuple[str, Any, str, str]] = [
    ("log_probs", torch.zeros(3), "(3,)", "(batch, tokens)"),
    ("log_probs", torch.zeros(2, 0), "(2, 0)", "(batch, tokens)"),
    ("log_probs", [[0.0]], "list", "(batch, tokens)"),
    ("old_log_probs", torch.zeros(2, 4), "(2, 4)", "(2, 3)"),
    ("old_log_probs", torch.zeros(2), "(2,)", "(2, 3)"),
    ("response_mask", torch.zeros(3, 3), "(3, 3)", "(2, 3)"),
    ("response_mask", None, "NoneType", "(2, 3)"),
    ("response_mask", np.ones((2, 3)), "ndarray", "(2, 3)"),
    ("entropy", torch.zeros(2), "(2,)", "(2, 3)"),
    ("answer_mask", torch.zeros(2), "(2,)", "(2, 3)"),
    ("advantages", torch.zeros(3), "(3,)", "(2,) or (2, 3)"),
    ("advantages", torch.zeros(2, 1), "(2, 1)", "(2,) or (2, 3)"),
    ("rewards", torch.zeros(2, 3), "(2, 3)", "(2,)"),
    ("rewards", [1.0, 0.0], "list", "(2,)"),
    ("correct", torch.zeros(2, 1), "(2, 1)", "(2,)"),
    ("uid", torch.zeros(1), "(1,)", "(2,)"),
    ("group", torch.zeros(()), "()", "(2,)"),
]


@pytest.mark.parametrize(("name", "wrong", "got", "expected"), SHAPE_MISTAKES)
def test_a_shape_mistake_names_the_argument_its_shape_and_what_was_expected(
    name: str, wrong: Any, got: str, expected: str
) -> None:
    arguments: dict[str, Any] = {
        "log_probs": torch.zeros(2, 3),
        "old_log_probs": torch.zeros(2, 3),
        "response_mask": torch.ones(2, 3),
        name: wrong,
    }
    rows = per_response(**arguments)
    assert isinstance(rows.error, InputError)
    assert len(rows) == 0
    said = str(rows.error)
    assert said.startswith(f"{name} ")
    assert got in said
    assert expected in said
    assert "\n" not in said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_rows_arrive_later_and_are_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    arguments = {
        "log_probs": -torch.rand(8, 40, generator=draw),
        "old_log_probs": -torch.rand(8, 40, generator=draw),
        "response_mask": torch.rand(8, 40, generator=draw) < 0.7,
        "rewards": torch.rand(8, generator=draw),
        "uid": torch.arange(8),
    }
    here = per_response(**arguments, clip_range=0.2)
    there = per_response(**{name: tensor.cuda() for name, tensor in arguments.items()}, clip_range=0.2)
    assert len(there) == 0
    arrived = there.resolve()
    for name, column in here.columns().items():
        other = arrived.columns()[name]
        assert (column is None) == (other is None)
        if column is not None:
            np.testing.assert_allclose(other, column, rtol=1e-5, atol=1e-5, err_msg=name)
    assert places_of(arrived).keys() == places_of(here).keys()
