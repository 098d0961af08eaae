"""LLDS: a term of the loss that holds correct responses where their likelihood falls, and does nothing elsewhere.

With Delta = old_log_prob - log_prob of a token (nats; positive: it fell), over the tokens of the preserving set
(responses whose advantage is not negative):

    LLDS = sum of weight * max(0, Delta) over the tokens behind open gates / number of the set's tokens

A gate belongs to an action (a contiguous run of policy tokens), a response or a token, and is open if the Delta behind
it sum up to more than 0. It carries no gradient. Total loss = GRPO + coefficient * LLDS (Eq. 6); the coefficient is the
caller's, 0.2 in the paper.

If the old log-probs are the current ones (one update for each rollout batch), Delta is 0, and so are the term and its
gradient: `moved_tokens` tells. `lldwatch.references` has older ones to hold on to.

The authors' published code differs from the paper, and so from this module:

* It divides by all policy tokens of a micro-batch: the strength falls with the share of incorrect responses, and
  depends on the micro-batches. `normaliser="response_tokens"` gives the same number for a micro-batch.
* It takes advantages >= 0 without a tolerance; eight equal rewards of 0.1 give -0.007 in float32, and are left out.
* It cuts an action where the sign of the tokens' own advantages changes, too.
* torch.maximum gives half a gradient to a token that did not move behind an open gate, and lets half a gradient through
  the gate of a response whose Delta sum up to exactly 0. Here both have none.
* The answer's coefficient is min(own coefficient * max(V - 1, 0), coefficient), V the valid searches: none up to one
  search, where the paper has half. The answer is the last <answer> span that lies in the last 50 tokens.
* Its threshold is never read, it has no gate for single tokens (Eq. 9), and it is NaN for a micro-batch without policy
  tokens or with NaN outside of the mask.

Reference: arXiv:2512.04220v2, Sec. 5.5 and B.3.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.llds_inputs import check_name, check_numbers, check_set, check_tensors, check_values
from lldwatch.rollup import ADVANTAGE_TOLERANCE
from lldwatch.token_runs import action_index

__all__ = ["LldsTerm", "llds_loss", "preserved_tokens", "scheduled_answer_weight"]

Gate = Literal["action", "response", "token"]
Normaliser = Literal["preserved_tokens", "response_tokens", "global_tokens"]
Preserve = Literal["non_negative", "positive"]

GATES: tuple[str, ...] = get_args(Gate)
_NORMALISERS: tuple[str, ...] = get_args(Normaliser)
_PRESERVES: tuple[str, ...] = get_args(Preserve)

_FEW = 1e-6
"""Divides a sum over no tokens, which is 0; a count that was divided by the number of ranks may be below 1."""


class LldsTerm(NamedTuple):
    """The term, and what a monitor wants to know of it: scalars on the tensors' device, all but `loss` detached.

    Attributes:
        loss: nats per token, float32 (float64 if a log-prob is), part of the graph also when it is 0.
        gates: gates with a token of the preserving set behind them, int64.
        open_gates: how many of them are open, int64.
        preserved_tokens: tokens of the preserving set, int64.
        moved_tokens: those whose log-prob is farther than the dead zone from the old one, up or down, int64. 0 in every
            update: the old policy is the current one, and the term has no effect.
        penalised_tokens: those that get a gradient, int64.
        mean_drop: Delta of the penalised tokens, nats per token; 0 without any.
    """

    loss: Tensor
    gates: Tensor
    open_gates: Tensor
    preserved_tokens: Tensor
    moved_tokens: Tensor
    penalised_tokens: Tensor
    mean_drop: Tensor


def llds_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor | None,
    response_mask: Tensor,
    *,
    gate: Gate = "action",
    preserve: Preserve | Tensor = "non_negative",
    answer_mask: Tensor | None = None,
    answer_weight: float = 1.0,
    dead_zone: float = 0.0,
    normaliser: Normaliser = "preserved_tokens",
    global_tokens: float | Tensor | None = None,
    validate: bool | None = None,
) -> LldsTerm:
    """The likelihood-preserving term of one (micro-)batch.

    Args:
        log_probs: (batch, tokens), nats, with gradient. Values outside of the mask do not matter, NaN included.
        old_log_probs: (batch, tokens), nats, of an earlier policy; they get no gradient.
        advantages: (batch,) or (batch, tokens), |advantage| < 0.01 counts as 0; may be None if `preserve` is a mask.
        response_mask: (batch, tokens), 1 where the policy wrote the token, 0 on prompt, padding and tool feedback.
        gate: what opens as a whole: an "action" (Eq. 4), a "response" (Eq. 10), or each "token" by itself (Eq. 9).
        preserve: "non_negative": advantage >= 0, the paper's set, with the groups of equal rewards that plain GRPO does
            not train on; "positive": advantage > 0; or a mask, (batch,) or (batch, tokens).
        answer_mask: (batch, tokens), 1 on the tokens of the final answer (LLDS-MA, Eq. 5).
        answer_weight: of those tokens, 0 to 1, see `scheduled_answer_weight`. The gates look at all tokens alike.
        dead_zone: nats of a token, by which each Delta is moved towards 0: a change within it opens no gate and has no
            gradient. A token's gradient does not shrink with its Delta: without a dead zone mere rounding pushes at
            full strength. Give what scoring twice without an update differs by: a step's `token_noise_floor`.
        normaliser: divide by the tokens of the preserving set of this call (the paper), by all policy tokens of this
            call (the official code), or by `global_tokens`.
        global_tokens: for "global_tokens": the sum of `preserved_tokens` over all micro-batches of the update, which
            makes the term the same for any number of them. If ranks average their gradients: over all ranks, divided
            by their number.
        validate: look at values too, not only at shapes. This waits for a GPU; None: on a CPU alone, where nothing
            waits. On a GPU say True in the first steps. Compiled code never does.

    Returns:
        The term and its counts. When nothing fell, or nothing is preserved, the loss is 0 with a gradient of 0.

    Raises:
        InputError: a shape, name or setting is not what it should be; with `validate`, log-probs inside of the mask are
            above 0 or not finite, an advantage is not finite, or the answer mask leaves the response mask.
    """
    check_name("gate", gate, GATES)
    check_name("normaliser", normaliser, _NORMALISERS)
    if not isinstance(preserve, Tensor):
        check_name("preserve", preserve, _PRESERVES, ", or a mask")
    check_numbers(answer_weight, dead_zone, normaliser, global_tokens)
    check_tensors(log_probs, old_log_probs, response_mask, answer_mask)
    check_set(advantages, response_mask, preserve)
    if (log_probs.device.type == "cpu" if validate is None else validate) and not torch.compiler.is_compiling():
        check_values(log_probs, old_log_probs, advantages, response_mask, answer_mask)
    mask = response_mask != 0
    kept = mask & _in_set(advantages, preserve)
    drop = _drop(log_probs, old_log_probs, kept)
    change = drop.detach()
    beyond = torch.relu(change - dead_zone) - torch.relu(-change - dead_zone)
    is_open, gates, open_gates = _gates(gate, beyond, mask, kept)
    penalised = is_open & ~(beyond <= 0)
    penalty = torch.where(penalised, torch.relu(drop - dead_zone), 0.0)  # relu: no gradient at the tie
    if answer_mask is not None:
        answer = answer_mask != 0
        penalty = torch.where(answer, answer_weight * penalty, penalty)
        penalised = penalised & (~answer | (answer_weight > 0))
    preserved, tokens = kept.sum(), penalised.sum()
    counts = {"preserved_tokens": preserved, "response_tokens": mask.sum(), "global_tokens": global_tokens}
    return LldsTerm(
        loss=penalty.sum() / _at_least_few(counts[normaliser]),
        gates=gates,
        open_gates=open_gates,
        preserved_tokens=preserved,
        moved_tokens=(beyond != 0).sum(),
        penalised_tokens=tokens,
        mean_drop=torch.where(penalised, change, 0.0).sum() / tokens.clamp(min=1),
    )


def preserved_tokens(
    advantages: Tensor | None, response_mask: Tensor, preserve: Preserve | Tensor = "non_negative"
) -> Tensor:
    """How many tokens `llds_loss` would preserve, int64 scalar: known before any forward pass.

    Args:
        advantages: (batch,) or (batch, tokens); may be None if `preserve` is a mask.
        response_mask: (batch, tokens).
        preserve: as for `llds_loss`.

    Raises:
        InputError: a shape does not fit.
    """
    check_set(advantages, response_mask, preserve)
    return ((response_mask != 0) & _in_set(advantages, preserve)).sum()


def scheduled_answer_weight(mean_valid_searches: float, schedule: Literal["paper", "code"] = "paper") -> float:
    """The weight of answer tokens in LLDS-MA: small while the policy hardly searches, so that it may learn to.

    Both are 1 from two searches on:

        paper: min(V / 2, 1)            0.5 at one search (arXiv:2512.04220v2, Sec. B.2.1)
        code:  min(max(V - 1, 0), 1)    0 at one search (the official code, as its script sets it)

    Args:
        mean_valid_searches: V, valid searches of a response, mean over the rollout batch.
        schedule: whose.

    Raises:
        InputError: there is no such schedule, or the mean is negative or NaN.
    """
    if schedule not in ("paper", "code"):
        raise InputError(f"schedule is {schedule!r}, expected 'paper' or 'code'")
    if not mean_valid_searches >= 0:
        raise InputError(f"mean_valid_searches is {mean_valid_searches}, expected a mean of counts, at least 0")
    return min(mean_valid_searches / 2 if schedule == "paper" else max(mean_valid_searches - 1, 0.0), 1.0)


def _in_set(advantages: Tensor | None, preserve: Preserve | Tensor) -> Tensor:
    """Bool, (batch, 1) or (batch, tokens): what belongs to the preserving set."""
    if isinstance(preserve, Tensor):
        chosen = preserve != 0
    else:
        assert advantages is not None
        chosen = advantages >= ADVANTAGE_TOLERANCE if preserve == "positive" else advantages > -ADVANTAGE_TOLERANCE
    return chosen if chosen.ndim == 2 else chosen[:, None]


def _drop(log_probs: Tensor, old_log_probs: Tensor, kept: Tensor) -> Tensor:
    """Delta, at least float32; 0 where nothing is preserved, whatever stands there: 0 times NaN would be NaN."""
    exact = torch.promote_types(torch.promote_types(log_probs.dtype, old_log_probs.dtype), torch.float32)
    old = torch.where(kept, old_log_probs.detach().to(exact), 0.0)
    return old - torch.where(kept, log_probs.to(exact), 0.0)


def _gates(gate: Gate, beyond: Tensor, mask: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens stand behind an open gate, how many gates there are, and how many are open.

    A NaN opens its gate, so that it is seen in the loss. All tensors are (batch, tokens).

    Args:
        gate: what opens as a whole.
        beyond: Delta beyond the dead zone, without gradient; 0 where nothing is preserved.
        mask: bool, policy tokens.
        kept: bool, those of the preserving set.
    """
    if gate == "token":
        fallen = ~(beyond <= 0)
        return fallen, kept.sum(), fallen.sum()
    exact = torch.float32 if beyond.device.type == "mps" else torch.float64  # a sum near 0 decides about a whole gate
    if gate == "response":
        opened = ~(beyond.sum(-1, keepdim=True, dtype=exact) <= 0)
        return opened, kept.any(-1).sum(), opened.sum()
    index, places = action_index(mask)[0].clamp(min=0), (len(mask), (mask.shape[1] + 1) // 2)
    sums = torch.zeros(places, dtype=exact, device=mask.device).scatter_add(1, index, beyond.to(exact))
    tokens = torch.zeros(places, dtype=torch.int64, device=mask.device).scatter_add(1, index, kept.long())
    opened = ~(sums <= 0)
    return opened.gather(1, index), (tokens > 0).sum(), opened.sum()


def _at_least_few(count: float | Tensor | None) -> float | Tensor:
    assert count is not None
    return count.float().clamp(min=_FEW) if isinstance(count, Tensor) else max(count, _FEW)
