"""What stands where in OpenRLHF's experience, arguments and strategy (0.8 to 0.11): looked for, never by version."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lldwatch.integrations.loss_hook import identities

SCORED = ("sequences", "attention_mask", "action_mask")
"""What a forward pass of the actor needs of a response."""


def place(strategy: Any) -> tuple[bool, int]:
    """Whether this process records rows, and how many hold the same ones (ring attention, tensor parallel)."""
    rank, alike = getattr(strategy, "ring_attn_rank", 0), getattr(strategy, "ring_attn_size", 1)
    tensor_parallel = getattr(strategy, "ds_tensor_parallel_size", 1)
    if tensor_parallel > 1:
        rank += strategy.ds_device_mesh["tp"].get_local_rank()
    return rank == 0, alike * tensor_parallel


def argument(trainer: Any, new: str, old: str) -> Any:
    """Of the command line: named by its section since 0.11, by a flat name before; None: neither is there."""
    args = getattr(trainer, "args", None)
    section, name = new.split(".")
    return getattr(getattr(args, section, None), name, getattr(args, old, None))


def updates_planned(trainer: Any) -> int | None:
    """Optimizer updates on each rollout batch; None: the arguments do not say."""
    rollout = argument(trainer, "rollout.batch_size", "rollout_batch_size")
    each = argument(trainer, "rollout.n_samples_per_prompt", "n_samples_per_prompt")
    train = argument(trainer, "train.batch_size", "train_batch_size")
    epochs = argument(trainer, "train.max_epochs", "max_epochs")
    return int(rollout * each // train * epochs) if rollout and each and train and epochs else None


def clip_range(loss: Any) -> tuple[float, float] | None:
    """Of a `PolicyLoss`: one number up to 0.8, two since."""
    both = getattr(loss, "clip_eps", None)
    low, high = getattr(loss, "clip_eps_low", both), getattr(loss, "clip_eps_high", both)
    return None if low is None or high is None else (float(low), float(high))


def rewards_of(holder: Any, size: int) -> Tensor | None:
    """(size,) float32 of an experience, or of one response of it; None: they are not known."""
    given = getattr(holder, "rewards", None)
    if given is None:
        given = (getattr(holder, "info", None) or {}).get("reward")
    if given is None:
        return None
    values = [torch.as_tensor(value).float().flatten() for value in (given if isinstance(given, list) else [given])]
    rewards = torch.cat(values)
    return rewards if len(rewards) == size else None


def uids_of(experience: Any, size: int) -> Tensor | None:
    """(size,) int64, as `name_responses` gave them; None: this OpenRLHF does not bring them along."""
    index = getattr(experience, "index", None)
    return torch.tensor(index) if isinstance(index, list) and len(index) == size else None


def name_responses(items: list[Any], uids: Any) -> None:
    """Give each response of the replay buffer its identity.

    `index` is free by then: OpenRLHF sets it to None when a response comes into the buffer, and brings it along from
    there into the micro-batches.
    """
    for item, uid in zip(items, uids, strict=True):
        if getattr(item, "index", 0) is None:
            item.index = [int(uid)]


def groups_of(prompts: Any, size: int) -> Tensor | None:
    """(size,) int64, identities of prompts; None: they are not known."""
    if not isinstance(prompts, list) or len(prompts) != size:
        return None
    return identities(str(prompt).encode() for prompt in prompts)


def rows(items: list[Any], name: str) -> Tensor:
    """A field of all responses of the replay buffer, filled up on the right."""
    parts = [getattr(item, name) for item in items]
    return pad_sequence(parts, batch_first=True) if parts else torch.zeros(0, 1)


def rescorable(items: list[Any], correct_above: float, uids: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The rollout batch as a `LikelihoodProbe` wants it: what to score, and what is known about it."""
    advantages = rows(items, "advantages")
    rewards = [rewards_of(item, 1) for item in items]
    known = torch.cat([reward for reward in rewards if reward is not None] or [torch.zeros(0)])
    prompts = [prompt for item in items for prompt in getattr(item, "prompts", None) or ()]
    about = {
        "response_mask": rows(items, "action_mask"),
        "correct": known > correct_above if len(known) == len(items) else advantages.sum(-1) > 0,
        "advantages": advantages,
        "uid": torch.as_tensor(uids),
        "group": groups_of(prompts, len(items)),
    }
    return {name: rows(items, name) for name in SCORED}, about
