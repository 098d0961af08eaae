"""Which responses a probe looks at: chosen evenly or by prompt, without a random choice.

The training's random stream is not ours, and the same batch must give the same sample in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lldwatch.columns import Array
from lldwatch.errors import InputError
from lldwatch.rescore import Batch, Held
from lldwatch.rollup import ADVANTAGE_TOLERANCE


def held_of(
    batch: Batch,
    response_mask: Tensor,
    correct: Tensor,
    *,
    step: int,
    advantages: Tensor | None = None,
    uid: Tensor | None = None,
    group: Tensor | None = None,
    answer_mask: Tensor | None = None,
    tokens: Tensor | None = None,
) -> Held:
    """A loop's batch as the probe holds it; nothing is copied yet.

    Raises:
        InputError: something is no tensor, or its shape does not go with that of the response mask.
    """
    per_token = {"answer_mask": answer_mask, "tokens": tokens}
    per_response = {"correct": correct, "uid": uid, "group": group}
    _check(batch, response_mask, per_token, per_response, advantages)
    mask = response_mask != 0
    answer = None if answer_mask is None else mask & (answer_mask != 0)
    if advantages is not None and advantages.ndim == 2:
        advantages = torch.where(mask, advantages.detach().float(), 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    return Held(
        batch=dict(batch),
        response_mask=mask,
        answer_mask=answer,
        tokens=tokens,
        uid=_host(uid),
        group=_host(group),
        correct=(correct != 0).cpu().numpy(),
        advantage=None if advantages is None else advantages.detach().float().cpu().numpy(),
        step=step,
    )


def evenly(indices: Tensor, at_most: int) -> Tensor:
    """At most so many of the indices, at equal distances, the first and the last among them."""
    if len(indices) <= at_most:
        return indices
    return indices[torch.linspace(0, len(indices) - 1, at_most, device=indices.device).long()]


def pairs(held: Held, at_most: int) -> Tensor:
    """Rows for `post_update`: a correct and an incorrect response of a prompt at a time, and some without advantage.

    At most a quarter of the places is for responses with advantage 0, the rest for pairs. Without `group`, or where no
    prompt has both on this rank, correct and incorrect ones are chosen apart from each other.

    Args:
        held: the whole batch.
        at_most: number of rows.

    Returns:
        (rows,) int64, in order.
    """
    zero = np.zeros(len(held), bool) if held.advantage is None else np.abs(held.advantage) < ADVANTAGE_TOLERANCE
    right, wrong = (np.flatnonzero(side & ~zero) for side in (held.correct, ~held.correct))
    without = _even(np.flatnonzero(zero), at_most // 4)
    each = (at_most - len(without)) // 2
    chosen = [_even(right, each), _even(wrong, each), without]
    if held.group is not None:
        firsts = [
            dict(zip(held.group[rows][::-1].tolist(), rows[::-1].tolist(), strict=True)) for rows in (right, wrong)
        ]
        both = np.array([[firsts[0][p], firsts[1][p]] for p in sorted(firsts[0].keys() & firsts[1].keys())], np.int64)
        if len(both):
            chosen = [both[_even(np.arange(len(both)), each)].ravel(), without]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def _even(indices: Array, at_most: int) -> Array:
    return evenly(torch.from_numpy(indices), at_most).numpy()


def _host(values: Tensor | None) -> Array | None:
    return None if values is None else values.detach().cpu().numpy()


def _check(
    batch: Batch,
    response_mask: Tensor,
    per_token: dict[str, Tensor | None],
    per_response: dict[str, Tensor | None],
    advantages: Tensor | None,
) -> None:
    if not isinstance(batch, Mapping):
        raise InputError(f"batch is a {type(batch).__name__}, expected a dict of tensors: give what score needs")
    given: dict[str, Any] = {"response_mask": response_mask, **per_response, **per_token, **batch}
    for name, something in given.items():
        needed = name in batch or name in ("response_mask", "correct")
        if (something is not None or needed) and (not isinstance(something, Tensor) or something.ndim == 0):
            what = "a number" if isinstance(something, Tensor) else f"a {type(something).__name__}"
            raise InputError(
                f"{name} is {what}, expected a tensor with one row for each response: give what score needs"
            )
    if response_mask.ndim != 2:
        raise InputError(f"response_mask has shape {tuple(response_mask.shape)}, expected (batch, tokens)")
    shape = tuple(response_mask.shape)
    for name, tensor in {**per_response, **per_token}.items():
        wanted = shape if name in per_token else shape[:1]
        if tensor is not None and tuple(tensor.shape) != wanted:
            why = "like response_mask" if name in per_token else "one for each response"
            raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected {wanted}: {why}")
    if advantages is not None and tuple(advantages.shape) not in (shape, shape[:1]):
        raise InputError(f"advantages has shape {tuple(advantages.shape)}, expected {shape[:1]} or {shape}")
    for name, tensor in batch.items():
        if len(tensor) != shape[0]:
            raise InputError(f"{name} has {len(tensor)} rows, response_mask has {shape[0]}: one row for each response")
