"""What is read out of a batch of TRL, whatever the trainer made of it: a dict, or an object of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.integrations import swift_batches
from lldwatch.rescore import Batch

Field = Callable[[str], Any]
"""Name -> what the batch has under it; None: nothing."""

UID, GROUP, REWARD = "lldwatch_uid", "lldwatch_group", "lldwatch_reward"
"""What each response carries through TRL's shuffling and splitting."""

_SCORED = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
_IMAGES = ("pixel_values", "image_grid_thw", "num_images")


def parts_of(output: Any) -> list[Any]:
    """The micro-batches of a rollout batch: TRL has one that it splits later, ms-swift a list of them."""
    return list(output) if isinstance(output, list | tuple) else [output]


def reader(inputs: Any) -> Field:
    """How to read a micro-batch."""
    if isinstance(inputs, list | tuple) and len(inputs) == 1:
        inputs = inputs[0]
    if swift_batches.is_swift(inputs):
        inputs = inputs["grpo_batch"]
    if isinstance(inputs, Mapping):
        return inputs.get
    return lambda name: getattr(inputs, name, None)


def put(part: Any, name: str, values: Tensor) -> None:
    """Give a micro-batch a further field."""
    if swift_batches.is_swift(part):
        setattr(part["grpo_batch"], name, values)
    else:
        part[name] = values


def one_a_response(field: Field, name: str) -> Tensor | None:
    """(batch,): advantages, which some trainers have token by token."""
    values: Tensor | None = field(name)
    if values is None or values.ndim == 1:
        return values
    mask = response_mask(field)
    mean: Tensor = (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return mean


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


def rollout(parts: Sequence[Any], correct_above: float) -> tuple[Batch, dict[str, Any]]:
    """What is needed to score a rollout batch, and what a probe is told of it.

    Raises:
        InputError: it is not of text alone, or has no completion_mask.
    """
    fields = [reader(part) for part in parts]
    if swift_batches.is_swift(parts[0]):
        batch = swift_batches.together(parts)
        mask, tokens = batch["kept"], batch["input_ids"][:, -batch["kept"].shape[1] :]
    else:
        batch = scored_part(parts[0])
        mask, tokens = response_mask(fields[0]), fields[0]("completion_ids")
    of_rows = {"advantages": "advantages", "uid": UID, "group": GROUP}
    told = {name: _joined([one_a_response(field, key) for field in fields]) for name, key in of_rows.items()}
    right = torch.cat([correct(field, correct_above) for field in fields])
    return batch, {"response_mask": mask, "correct": right, "tokens": tokens, **told}


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def correct(field: Field, correct_above: float) -> Tensor:
    """(batch,) bool: by the reward, or, where none is known, by the advantage.

    Raises:
        InputError: the batch has neither.
    """
    rewards, advantages = field(REWARD), one_a_response(field, "advantages")
    if rewards is not None:
        return torch.as_tensor(rewards > correct_above)
    if advantages is None:
        raise InputError("the trainer's batch has no advantages: expected those of a GRPOTrainer")
    return torch.as_tensor(advantages > 0)


def scored_part(part: Any) -> Batch:
    """What is needed to score a micro-batch.

    Raises:
        InputError: there are images, whose tensors are not one a response.
    """
    if swift_batches.is_swift(part):
        return swift_batches.one(part)
    field = reader(part)
    if any(field(name) is not None for name in _IMAGES):
        raise InputError("prompts with images cannot be re-scored: no probes, no replay")
    return {name: field(name) for name in _SCORED}


def mismatch(field: Field) -> Tensor | None:
    """KL divergence between the engine that wrote the responses and the trainer, nats/token; None: not known.

    The estimate exp(d) - 1 - d with d = log p_trainer - log p_engine, which is never below 0 (J. Schulman,
    "Approximating KL Divergence", k3).
    """
    engine, trainer = field("sampling_per_token_logps"), field("old_per_token_logps")
    engine = field("rollout_per_token_logps") if engine is None else engine  # of ms-swift
    if engine is None or trainer is None:
        return None
    mask = response_mask(field) != 0
    gap = torch.where(mask & engine.isfinite(), trainer - engine, 0.0)
    return (gap.exp() - 1 - gap).sum() / mask.sum().clamp(min=1)
