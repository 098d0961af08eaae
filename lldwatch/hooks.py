"""From the tensors of a training loop to one row per response.

All reductions run on the tensors' own device without gradient; what comes back to the host is one small array.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.rollup import ADVANTAGE_TOLERANCE
from lldwatch.schema import Array, Responses

_PER_TOKEN = {"old_log_probs", "response_mask", "entropy"}


@torch.no_grad()
def per_response(
    log_probs: Tensor,
    old_log_probs: Tensor | None,
    response_mask: Tensor,
    *,
    advantages: Tensor | None = None,
    rewards: Tensor | None = None,
    entropy: Tensor | None = None,
    correct: Tensor | None = None,
    uid: Tensor | None = None,
    group: Tensor | None = None,
    clip_range: float | tuple[float, float] | None = None,
) -> Responses:
    """Reduce one (micro-)batch to one row per response.

    Args:
        log_probs: (batch, tokens), nats, of the policy that is being updated. Values outside the mask do not matter.
        old_log_probs: (batch, tokens), nats, of the policy that wrote the responses; None when the batch is on-policy.
        response_mask: (batch, tokens), 1 where the policy wrote the token, 0 on prompt, padding and tool feedback.
        advantages: (batch,) or (batch, tokens).
        rewards: (batch,).
        entropy: (batch, tokens), nats, of the policy at each token.
        correct: (batch,) bool; without it a response is correct when its reward is > 0, or, without rewards, when its
            advantage is.
        uid: (batch,) int, identity of each response within the run; without it each row counts as a new response.
        group: (batch,) int, identity of each prompt.
        clip_range: epsilon of the ratio's clip range, or (low, high), to count clipped tokens.

    Returns:
        One row per response; sums are in nats, entropy in nats per token. Nothing is raised here: a tensor that has
        another shape than its neighbours gives no rows and stands in `error`. `Monitor.observe` raises it in the first
        step, when somebody is looking, and never later.
    """
    others = {
        "old_log_probs": old_log_probs,
        "response_mask": response_mask,
        "entropy": entropy,
        "advantages": advantages,
        "rewards": rewards,
        "correct": correct,
        "uid": uid,
        "group": group,
    }
    try:
        _check_shapes(log_probs, others)
        columns = _reduce(log_probs, others, clip_range)
        return Responses(uid=_integers(uid), group=_integers(group), **_to_host(columns))
    except InputError as error:
        return Responses.unusable(error)
    except Exception as error:  # tensors on two devices, out of memory, ...
        return Responses.unusable(InputError(f"per_response failed ({error}): are all tensors on one device?"))


def _reduce(
    log_probs: Tensor, others: dict[str, Tensor | None], clip_range: float | tuple[float, float] | None
) -> dict[str, Tensor]:
    """Column name -> one value per response, on the tensors' own device."""
    response_mask, old_log_probs, entropy = others["response_mask"], others["old_log_probs"], others["entropy"]
    assert response_mask is not None
    mask = response_mask != 0
    tokens = mask.sum(-1)
    new = torch.where(mask, log_probs.detach().float(), 0.0)
    old = new if old_log_probs is None else torch.where(mask, old_log_probs.detach().float(), 0.0)
    starts = mask & ~torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    first_action = mask & (starts.cumsum(-1) == 1)
    columns = {
        "tokens": tokens,
        "actions": starts.sum(-1),
        "log_prob": new.sum(-1),
        "old_log_prob": old.sum(-1),
        "min_log_prob": new.amin(-1),
        "first_action_change": torch.where(first_action, new - old, 0.0).sum(-1),
    }
    if entropy is not None:
        columns["entropy"] = torch.where(mask, entropy.detach().float(), 0.0).sum(-1) / tokens.clamp(min=1)
    if clip_range is not None:
        low, high = clip_range if isinstance(clip_range, tuple) else (clip_range, clip_range)
        ratio = torch.exp(new - old)
        columns["clipped_tokens"] = (mask & ((ratio < 1 - low) | (ratio > 1 + high))).sum(-1)
    if (advantages := others["advantages"]) is not None:
        columns["advantage"] = _per_row(advantages, mask, tokens)
    if (rewards := others["rewards"]) is not None:
        columns["reward"] = rewards
    correct = _correct(columns) if others["correct"] is None else others["correct"]
    if correct is not None:
        columns["correct"] = correct != 0
    return columns


def _check_shapes(log_probs: Tensor, others: dict[str, Tensor | None]) -> None:
    """Every tensor against log_probs; messages name the argument, its shape, and what was expected."""
    if not isinstance(log_probs, Tensor):
        raise InputError(f"log_probs is a {type(log_probs).__name__}, expected a tensor of shape (batch, tokens)")
    shape = tuple(log_probs.shape)
    if len(shape) != 2 or shape[1] == 0:
        raise InputError(f"log_probs has shape {shape}, expected (batch, tokens)")
    for name, value in others.items():
        if value is None and name != "response_mask":
            continue
        expected: list[tuple[int, ...]] = [shape if name in _PER_TOKEN else shape[:1]]
        if name == "advantages":
            expected.append(shape)
        wanted = " or ".join(map(str, expected))
        if not isinstance(value, Tensor):
            raise InputError(f"{name} is a {type(value).__name__}, expected a tensor of shape {wanted}")
        if tuple(value.shape) not in expected:
            raise InputError(f"{name} has shape {tuple(value.shape)}, expected {wanted} to go with log_probs {shape}")


def _per_row(advantages: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    if advantages.ndim == 1:
        return advantages
    return torch.where(mask, advantages.float(), 0.0).sum(-1) / tokens.clamp(min=1)


def _correct(columns: dict[str, Tensor]) -> Tensor | None:
    if "reward" in columns:
        return columns["reward"] > 0
    return columns["advantage"] >= ADVANTAGE_TOLERANCE if "advantage" in columns else None


def _to_host(columns: dict[str, Tensor]) -> dict[str, Array]:
    """One transfer for all columns; float32 holds token counts up to 16 million exactly."""
    device = columns["log_prob"].device
    stacked = torch.stack([column.detach().to(device, torch.float32) for column in columns.values()]).cpu().numpy()
    return dict(zip(columns, stacked, strict=True))


def _integers(values: Tensor | None) -> Array | None:
    return None if values is None else values.detach().cpu().numpy().astype(np.int64)
