"""What a rollout batch of verl says of its responses, whether it is a `TensorDict` (0.8 and later) or a `DataProto`.

Micro-batches are cut from it, shuffled and packed by length, and the loss sees none of its other fields. So each row
gets its number as one more field, which comes back with every micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

ROW = "lldwatch_row"
"""The field that is added: number of the row in the rollout batch of this rank."""

REWARDS = ("token_level_scores", "rm_scores")
"""Fields that hold the reward at the tokens, before any penalty; the first one that is there counts."""


@dataclass(slots=True)
class Rollout:
    """One rollout batch, as this rank holds it.

    Attributes:
        size: responses.
        columns: what is known of each: `rewards`, `group`, `uid`, shape (size,).
        missing: what is not known, in words.
    """

    size: int
    columns: dict[str, Tensor]
    missing: list[str] = field(default_factory=list)

    def of(self, rows: Tensor | None, device: torch.device) -> dict[str, Tensor]:
        """The columns of some rows, on the device; nothing if the rows are not known."""
        if rows is None:
            return {}
        for name, column in self.columns.items():
            if column.device != device:  # once a batch
                self.columns[name] = column.to(device)
        chosen = rows.to(device)
        return {name: column[chosen] for name, column in self.columns.items()}


def rollout_of(data: Any) -> Rollout:
    """Read what is known of the responses.

    Args:
        data: the batch; it may be on any device.
    """
    rewards, group = rewards_of(data), group_of(data)
    columns = {"rewards": rewards, "group": group}
    missing = []
    if rewards is None:
        missing.append(f"rewards (no field {' or '.join(REWARDS)}): correct is who has an advantage above 0")
    if group is None:
        missing.append("prompts (no field uid): no gap within a prompt")
    known = {name: column for name, column in columns.items() if column is not None}
    return Rollout(size_of(data), known, missing)


def number_rows(data: Any) -> None:
    """Add the field `ROW`, in place; what is selected of a `DataProto` keeps it."""
    batch = getattr(data, "batch", data)
    device = next((value.device for _, value in batch.items() if isinstance(value, Tensor)), None)
    batch[ROW] = torch.arange(size_of(data), device=device)
    if batch is data:
        return
    select = data.select

    def select_with_rows(batch_keys: Any = None, *args: Any, **kwargs: Any) -> Any:
        return select(None if batch_keys is None else [*batch_keys, ROW], *args, **kwargs)

    data.select = select_with_rows


def rewards_of(data: Any) -> Tensor | None:
    """Sum over each response's tokens, float32, shape (responses,); None if the batch has none."""
    for name in REWARDS:
        scores = field_of(data, name)
        if isinstance(scores, Tensor):
            return padded(scores).float().sum(-1) if scores.ndim > 1 else scores.float()
    return None


def group_of(data: Any) -> Tensor | None:
    """An int64 for each response, the same for the same prompt on all ranks; None if the batch has no `uid`."""
    uid = field_of(data, "uid")
    names = uid.tolist() if hasattr(uid, "tolist") else uid
    if not isinstance(names, Iterable) or isinstance(names, str | bytes):
        return None
    groups = [int(name) if isinstance(name, Integral) else _number(str(name)) for name in names]
    return torch.tensor(groups, dtype=torch.int64) if len(groups) == size_of(data) else None


def _number(name: str) -> int:
    """Python's own hash of a word differs between processes."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def size_of(data: Any) -> int:
    """Responses of the batch."""
    return int(getattr(data, "batch", data).batch_size[0])


def field_of(data: Any, name: str) -> Any:
    """A field of either kind of batch, or of a dict; None if it is not there."""
    for fields in (getattr(data, "batch", data), getattr(data, "non_tensor_batch", {}), getattr(data, "meta_info", {})):
        if hasattr(fields, "keys") and name in fields.keys():  # noqa: SIM118  # a TensorDict has no other way to ask
            return fields[name]
    return None


def padded(values: Tensor) -> Tensor:
    """Nested rows as one tensor, 0 behind their ends; any other tensor as it is."""
    return torch.nested.to_padded_tensor(values, 0.0) if values.is_nested else values
