"""What is read out of a batch of TRL, whatever the trainer made of it: a dict, or an object of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.rescore import Batch

Field = Callable[[str], Any]
"""Name -> what the batch has under it; None: nothing."""

UID, GROUP, REWARD = "lldwatch_uid", "lldwatch_group", "lldwatch_reward"
"""What each response carries through TRL's shuffling and splitting."""

SCORED = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
"""What is needed to score responses to prompts of text."""

_IMAGES = ("pixel_values", "image_grid_thw", "num_images")


def reader(inputs: Any) -> Field:
    """How to read a batch."""
    if isinstance(inputs, list | tuple) and len(inputs) == 1:
        inputs = inputs[0]
    if isinstance(inputs, Mapping) and "grpo_batch" in inputs:  # ms-swift from 4.4 on
        inputs = inputs["grpo_batch"]
    if isinstance(inputs, Mapping):
        return inputs.get
    return lambda name: getattr(inputs, name, None)


def response_mask(field: Field) -> Tensor:
    """(batch, tokens), 1 on what the policy wrote: not on padding, and not on tool feedback.

    Raises:
        InputError: the batch has no completion_mask.
    """
    mask: Tensor | None = field("completion_mask")
    if mask is None:
        raise InputError("the trainer's batch has no completion_mask: expected one of a GRPOTrainer")
    tools = field("tool_mask")
    return mask if tools is None else mask * tools


def trusted_mask(field: Field) -> Tensor:
    """The same without tokens that vLLM's importance sampling has masked out: they are not trained on."""
    mask, ratio = response_mask(field), field("importance_sampling_ratio")
    return mask if ratio is None else mask * (ratio != 0)


def about(field: Field, correct_above: float) -> dict[str, Any]:
    """What a probe is told of a rollout batch."""
    return {
        "response_mask": response_mask(field),
        "correct": correct(field, correct_above),
        "advantages": field("advantages"),
        "uid": field(UID),
        "group": field(GROUP),
        "tokens": field("completion_ids"),
    }


def correct(field: Field, correct_above: float) -> Tensor:
    """(batch,) bool: by the reward, or, where none is known, by the advantage.

    Raises:
        InputError: the batch has neither.
    """
    rewards, advantages = field(REWARD), field("advantages")
    if rewards is not None:
        return torch.as_tensor(rewards > correct_above)
    if advantages is None:
        raise InputError("the trainer's batch has no advantages: expected those of a GRPOTrainer")
    return torch.as_tensor((advantages if advantages.ndim == 1 else advantages.amax(-1)) > 0)


def scored_part(field: Field) -> Batch | None:
    """What the score needs; None if there are images, whose tensors are not one a response."""
    if any(field(name) is not None for name in _IMAGES):
        return None
    return {name: field(name) for name in SCORED}


def mismatch(field: Field) -> Tensor | None:
    """KL divergence between the engine that wrote the responses and the trainer, nats/token; None: not known.

    The estimate exp(d) - 1 - d with d = log p_trainer - log p_engine, which is never below 0 (J. Schulman,
    "Approximating KL Divergence", k3).
    """
    engine, trainer = field("sampling_per_token_logps"), field("old_per_token_logps")
    if engine is None or trainer is None:
        return None
    mask = response_mask(field) != 0
    gap = torch.where(mask & engine.isfinite(), trainer - engine, 0.0)
    return (gap.exp() - 1 - gap).sum() / mask.sum().clamp(min=1)
