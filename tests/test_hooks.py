from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from oracles import response_row
from strategies import Batch, batches

from lldwatch.errors import InputError
from lldwatch.hooks import per_response


def lists(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.double().tolist()


@given(batches())
def test_every_column_equals_the_token_by_token_twin(batch: Batch) -> None:
    rows = per_response(batch.log_probs, batch.old_log_probs, batch.response_mask, **batch.optional)
    old, clip = lists(batch.old_log_probs), batch.optional["clip_range"]
    each = {name: lists(batch.optional.get(name)) for name in ("advantages", "rewards", "entropy", "correct")}
    expected = [
        response_row(
            lists(batch.log_probs)[i],
            old and old[i],
            lists(batch.response_mask)[i],
            advantage=each["advantages"] and each["advantages"][i],
            reward=each["rewards"] and each["rewards"][i],
            entropy=each["entropy"] and each["entropy"][i],
            correct=each["correct"] and bool(each["correct"][i]),
            clip_range=clip if isinstance(clip, tuple) or clip is None else (clip, clip),
        )
        for i in range(len(batch.log_probs))
    ]
    measured = {name: column for name, column in rows.columns().items() if column is not None}
    assert set(measured) - {"group"} == set(expected[0])
    for name in expected[0]:
        np.testing.assert_allclose(measured[name], [row[name] for row in expected], rtol=1e-5, atol=1e-4, err_msg=name)


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
        return {name: None if column is None else column.tolist() for name, column in rows.columns().items()}

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
    assert len(per_response(torch.zeros(0, 3), None, torch.zeros(0, 3))) == 0


def test_the_gradient_graph_is_left_alone() -> None:
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    per_response(log_probs, log_probs * 1.0, torch.ones(1, 2), entropy=log_probs * 2.0)
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
