"""LLDS beside a policy loss of verl, with verl's own normalisation.

verl divides the sum over a micro-batch's tokens by a number that belongs to the whole mini-batch of all ranks, times
the number of ranks, over which gradients are averaged: any split into micro-batches and ranks gives the same gradient.
So does LLDS here, with the same number:

| loss_agg_mode | the sum of the penalty is divided by |
|---|---|
| `token-mean` | all policy tokens of the mini-batch |
| `token-sum` | 1 |
| `seq-mean-token-sum` | the responses of the mini-batch |
| `seq-mean-token-sum-norm` | the same times `loss_scale_factor`, or the width of the batch |
| `seq-mean-token-mean` | all policy tokens: a long response counts more than in verl's loss |

All policy tokens are what the authors' code divides by; the paper takes those of the preserving set, whose number over
all ranks is not known in the loss. Where verl has no such numbers (before 0.7), its loss is a mean over the
micro-batch, and so is LLDS.

Before the first update of a rollout batch the policy is the one that scored `old_log_probs`: see
`lldwatch.integrations.loss_hook.Correction` for what is made of their difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

ARGUMENTS = (
    *("old_log_prob", "log_prob", "advantages", "response_mask", "loss_agg_mode"),
    *("config", "rollout_is_weights"),
)
"""Of every registered policy loss, in order."""

PLAIN = "compute_policy_loss"
"""The loss of the versions without a registry; later ones have it, and do not call it."""

PLAIN_ARGUMENTS = (*ARGUMENTS[:4], "cliprange")

CLIPS_TOKENS = frozenset({"vanilla", "clip_cov", "bypass_mode", PLAIN})
"""Losses whose `clip_ratio` bounds the ratio of a token; for the others it means something else."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a policy loss was called with; tensors (responses, tokens).

    Attributes:
        log_probs: nats, with gradient.
        old_log_probs: nats.
        advantages: of each token.
        mask: 1 on policy tokens.
        clip_range: (low, high) of a token's ratio; None: the loss has none.
        mode: `loss_agg_mode`.
        info: numbers of the whole mini-batch; empty: verl does not know them.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    mask: Tensor
    clip_range: tuple[float, float] | None
    mode: str
    info: Mapping[str, Any]


def call_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """The arguments of a policy loss by name.

    Args:
        name: of the loss.
        args: positional arguments.
        kwargs: the others.
    """
    order = PLAIN_ARGUMENTS if name == PLAIN else ARGUMENTS
    given = {**dict(zip(order, args, strict=False)), **kwargs}
    config = given.get("config")
    mask = given["response_mask"] if "response_mask" in given else given["eos_mask"]
    return Call(
        log_probs=given["log_prob"],
        old_log_probs=given["old_log_prob"],
        advantages=given["advantages"],
        mask=mask,
        clip_range=_clip_range(given, config) if name in CLIPS_TOKENS else None,
        mode=given.get("loss_agg_mode") or "token-mean",
        info=getattr(config, "global_batch_info", None) or {},
    )


def _clip_range(given: Mapping[str, Any], config: Any) -> tuple[float, float] | None:
    def setting(*names: str) -> float | None:
        values = [given[name] if name in given else getattr(config, name, None) for name in names]
        return next((float(value) for value in values if value is not None), None)

    both = setting("cliprange", "clip_ratio")
    low, high = setting("cliprange_low", "clip_ratio_low"), setting("cliprange_high", "clip_ratio_high")
    low, high = both if low is None else low, both if high is None else high
    return None if low is None or high is None else (low, high)


def divisor(call: Call) -> float | Tensor:
    """What the sum over the tokens of a micro-batch is divided by, see the module's table."""
    ranks = call.info.get("dp_size") or 1
    if call.mode == "token-sum":
        return 1.0 / ranks
    if call.mode in ("seq-mean-token-sum", "seq-mean-token-sum-norm"):
        responses = call.info.get("global_batch_size")
        count = (call.mask != 0).any(-1).sum() if responses is None else responses
        width = call.info.get("loss_scale_factor") or call.mask.shape[-1]
        result: float | Tensor = count * (width if call.mode.endswith("norm") else 1) / ranks
        return result
    tokens = call.info.get("batch_num_tokens")
    result = ((call.mask != 0).sum() if tokens is None else tokens) / ranks
    return result


def with_added(result: Any, term: Tensor) -> Any:
    """What a policy loss returned, a loss or a tuple that begins with it, with a term added to the loss."""
    return (result[0] + term, *result[1:]) if isinstance(result, tuple) else result + term
