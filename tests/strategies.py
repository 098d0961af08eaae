"""Hypothesis strategies for what a training may hand to lldwatch, the ugly cases included."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from lldwatch.schema import Observation

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GARBAGE = (math.nan, math.inf, -math.inf, 7.0, 0.0)


@dataclass(frozen=True)
class Batch:
    """What one call of `per_response` gets."""

    log_probs: Tensor
    old_log_probs: Tensor | None
    response_mask: Tensor
    optional: dict[str, Any]


@st.composite
def masks(draw: st.DrawFn, batch: int, tokens: int) -> list[list[int]]:
    """Prompt, actions with tool feedback in between, padding; one-token and empty responses among them."""
    rows = []
    for _ in range(batch):
        kind = draw(st.sampled_from(["any", "any", "one token", "full", "empty"]))
        if kind == "any":
            row = draw(st.lists(st.integers(0, 1), min_size=tokens, max_size=tokens))
        elif kind == "one token":
            row = [0] * tokens
            row[draw(st.integers(0, tokens - 1))] = 1
        else:
            row = [int(kind == "full")] * tokens
        rows.append(row)
    return rows


@st.composite
def tensors(draw: st.DrawFn, mask: list[list[int]], low: float, high: float, dtype: torch.dtype) -> Tensor:
    """Numbers where the mask is 1, garbage where it is 0."""
    value = st.floats(low, high, width=16)
    garbage = draw(st.sampled_from(GARBAGE))
    rows = [[draw(value) if written else garbage for written in row] for row in mask]
    return torch.tensor(rows, dtype=torch.float32).to(dtype)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    size, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    mask, dtype = draw(masks(size, tokens)), draw(st.sampled_from(DTYPES))
    optional: dict[str, Any] = {}
    if draw(st.booleans()):
        optional["entropy"] = draw(tensors(mask, 0.0, 8.0, dtype))
    if draw(st.booleans()):
        numbers = st.sampled_from([-1.0, -0.25, -0.007, 0.0, 0.007, 0.5, 1.5])
        if draw(st.booleans()):
            optional["advantages"] = torch.tensor([draw(numbers) for _ in range(size)])
        else:
            optional["advantages"] = draw(tensors(mask, -2.0, 2.0, torch.float32))
    if draw(st.booleans()):
        optional["rewards"] = torch.tensor([draw(st.sampled_from([-1.0, 0.0, 0.1, 1.0])) for _ in range(size)])
    if draw(st.booleans()):
        optional["correct"] = torch.tensor([draw(st.booleans()) for _ in range(size)])
    if draw(st.booleans()):
        optional["group"] = torch.tensor([draw(st.integers(0, 3)) for _ in range(size)])
    if draw(st.booleans()):
        spans = [draw(st.lists(st.integers(0, 1), min_size=tokens, max_size=tokens)) for _ in range(size)]
        optional["answer_mask"] = torch.tensor(spans)
    optional["clip_range"] = draw(st.sampled_from([None, 0.2, (0.2, 0.28), 1.5]))
    optional["low_confidence"] = draw(st.sampled_from([(0.1, 0.01), (0.5, 0.25)]))
    mask_dtype = draw(st.sampled_from([torch.bool, torch.int64, torch.float32]))
    on_policy = draw(st.booleans())
    return Batch(
        log_probs=draw(tensors(mask, -12.0, 0.0, dtype)),
        old_log_probs=None if on_policy else draw(tensors(mask, -12.0, 0.0, dtype)),
        response_mask=torch.tensor(mask, dtype=mask_dtype),
        optional=optional,
    )


@st.composite
def response_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of a step, some of them several updates of one response."""
    small = st.floats(-50.0, 0.0, width=32)
    rows = []
    for _ in range(draw(st.integers(0, 8))):
        tokens = draw(st.integers(0, 40))
        rows.append(
            {
                "uid": draw(st.integers(0, 5)),
                "group": draw(st.integers(0, 2)),
                "update": draw(st.integers(0, 2)),
                "reward": draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
                "advantage": draw(st.sampled_from([-1.0, -0.0099, 0.0, 0.0099, 0.011, 1.0])),
                "correct": draw(st.booleans()),
                "tokens": tokens,
                "actions": draw(st.integers(0, 4)),
                "old_log_prob": draw(small),
                "log_prob": draw(small),
                "entropy": draw(st.floats(0.0, 8.0, width=32)),
                "min_log_prob": draw(small),
                "low_confidence_tokens": draw(st.integers(0, tokens)),
                "very_low_confidence_tokens": draw(st.integers(0, tokens)),
                "clipped_tokens": draw(st.integers(0, 40)),
                "first_action_tokens": draw(st.integers(0, tokens)),
                "first_action_log_prob": draw(small),
                "first_action_change": draw(st.floats(-5.0, 5.0, width=32)),
                "answer_tokens": draw(st.integers(0, tokens)),
                "answer_log_prob": draw(small),
                "answer_change": draw(st.floats(-5.0, 5.0, width=32)),
            }
        )
    return rows


@st.composite
def probe_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    small = st.floats(-50.0, 0.0, width=32)
    rows = []
    for _ in range(draw(st.integers(0, 8))):
        tokens = draw(st.integers(0, 40))
        rows.append(
            {
                "kind": draw(
                    st.sampled_from(["cross_update", "cross_update", "post_update", "lagged", "fixed", "noise"])
                ),
                "group": draw(st.integers(0, 3)),
                "correct": draw(st.booleans()),
                "advantage": draw(st.sampled_from([-1.0, -0.0099, 0.0, 0.0099, 1.0])),
                "lag": draw(st.sampled_from([1, 5, 10, 20, 7])),
                "tokens": tokens,
                "log_prob_before": draw(small),
                "log_prob_after": draw(small),
                "largest_token_change": draw(st.floats(0.0, 5.0, width=32)),
                "first_action_tokens": draw(st.integers(0, tokens)),
                "first_action_before": draw(small),
                "first_action_after": draw(small),
            }
        )
    return rows


_NUMBERS = {
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "int32": st.integers(-(2**31) + 1, 2**31 - 1),
}


def _value(dtype: str) -> st.SearchStrategy[Any]:
    return st.none() | _NUMBERS[dtype]


def observations(step: st.SearchStrategy[int]) -> st.SearchStrategy[Observation]:
    """Any step that can be recorded: None, NaN and infinities in every column."""
    columns = {c.name: st.none() | _NUMBERS[c.metadata["dtype"]] for c in fields(Observation) if c.name != "step"}
    return st.fixed_dictionaries({}, optional=columns).flatmap(
        lambda values: step.map(lambda number: Observation(step=number, **values))
    )


@st.composite
def histories(draw: st.DrawFn, max_size: int = 12) -> list[Observation]:
    """Steps of a run in order, with gaps."""
    steps = sorted(draw(st.sets(st.integers(-3, 60), min_size=1, max_size=max_size)))
    return [draw(observations(st.just(step))) for step in steps]
