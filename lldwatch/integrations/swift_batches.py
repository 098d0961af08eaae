"""The rollout batch of ms-swift (4.4 and newer): a list of micro-batches, each padded to its own length.

To be scored together they are brought to one length. Rows are moved so that all of them end where the tensor ends;
positions shift with them, which a rotary embedding does not see, and before and after are moved alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.rescore import Batch

TEXT = frozenset({"input_ids", "attention_mask", "position_ids", "use_cache", "logits_to_keep", "text_position_ids"})
"""What a model of text is given; anything else belongs to images or to packing."""


NAMES = ("input_ids", "attention_mask", "kept")
"""Of the tensors of a batch that is to be scored."""

TRAINER_HAS = "_prepare_batch_inputs"
"""A method of ms-swift's trainer that TRL's has not."""


def is_swift(part: Any) -> bool:
    """It is a micro-batch of ms-swift."""
    return isinstance(part, dict) and "grpo_batch" in part and "model_inputs" in part


def one(part: Any) -> Batch:
    """A micro-batch to be scored as it stands.

    Raises:
        InputError: there are inputs other than text, or rows are packed into one.
    """
    inputs, kept = part["model_inputs"], part["grpo_batch"].completion_mask
    odd = sorted(name for name, value in inputs.items() if name not in TEXT and value is not None)
    ids, attention = inputs.get("input_ids"), inputs.get("attention_mask")
    if odd or attention is None or attention.ndim != 2 or len(ids) != len(kept):
        raise InputError(f"micro-batches with {', '.join(odd) or 'packed rows'} cannot be re-scored: no probes")
    return dict(zip(NAMES, (ids, attention.to(ids.dtype), kept), strict=True))


def together(parts: Sequence[Any]) -> Batch:
    """All micro-batches as one: `input_ids`, `attention_mask` (rows, length) and `kept` (rows, K), the response mask.

    Raises:
        InputError: there are inputs other than text, or rows are packed into one.
    """
    rows = []
    for part in parts:
        ids, attention, kept = one(part).values()
        mask = torch.zeros_like(ids)
        mask[:, ids.shape[1] - kept.shape[1] :] = kept
        rows.append(_right_aligned(torch.stack([ids, attention, mask])))
    length = max(part.shape[-1] for part in rows)
    ids, attention, mask = torch.cat([torch.nn.functional.pad(part, (length - part.shape[-1], 0)) for part in rows], 1)
    first = int(mask.any(0).nonzero()[0, 0]) if mask.any() else length - 1
    return dict(zip(NAMES, (ids, attention, mask[:, first:]), strict=True))


def _right_aligned(planes: Tensor) -> Tensor:
    """(3, rows, length), ids, attention and mask: each row's last token at the end, padding in front."""
    length = planes.shape[-1]
    place = torch.arange(length, device=planes.device)
    behind = length - 1 - (planes[1] * (place + 1)).argmax(-1, keepdim=True)
    source = place - behind
    moved = planes.gather(-1, source.clamp(min=0).expand_as(planes))
    return torch.where(source >= 0, moved, 0)
