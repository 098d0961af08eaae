"""Where the actions of a response are: the contiguous runs of policy tokens between pieces of tool feedback.

Reference: an action is what the policy writes between two tool answers; arXiv:2512.04220, Sec. 3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def action_index(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Number the actions of each response.

    Args:
        mask: (batch, tokens) bool, True where the policy wrote the token.

    Returns:
        (batch, tokens) int64: at a policy token the index of its action, from 0; outside of the mask that of the action
        before, -1 in front of the first. And (batch, tokens) bool, True where an action begins.
    """
    starts = mask.clone()
    starts[:, 1:] &= ~mask[:, :-1]
    return starts.cumsum(-1) - 1, starts


def place_in_action(starts: Tensor) -> Tensor:
    """How many tokens after the beginning of its action a token stands.

    Args:
        starts: (batch, tokens) bool, True where an action begins.

    Returns:
        (batch, tokens) int64, from 0; outside of the actions the number means nothing.
    """
    place = torch.arange(starts.shape[-1], device=starts.device)
    return place - (starts * place).cummax(-1).values
