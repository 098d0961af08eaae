"""From the tensors of a training loop to one row per response.

All reductions run on the tensors' own device without gradient; what comes back to the host is one small array.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lldwatch.columns import Array
from lldwatch.errors import InputError
from lldwatch.rollup import ADVANTAGE_TOLERANCE
from lldwatch.schema import Positions, Responses
from lldwatch.token_runs import action_index, place_in_action

__all__ = ["per_response"]

LOW_CONFIDENCE = (0.1, 0.01)
"""Probabilities below which a token counts as written with low and with very low confidence."""

PLACES = 16
"""Places in an action that are told apart in the table `positions`; the last one holds all later ones."""

PLACES_FROM = 64
"""Responses of a call, evenly chosen, that `positions` is made of at most."""

_BY_PLACE = ("tokens", "log_prob", "low_confidence_tokens", "very_low_confidence_tokens", "min_log_prob")
_PER_TOKEN = {"old_log_probs", "response_mask", "entropy", "answer_mask"}


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
    answer_mask: Tensor | None = None,
    clip_range: float | tuple[float, float] | None = None,
    low_confidence: tuple[float, float] = LOW_CONFIDENCE,
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
        answer_mask: (batch, tokens), 1 on the tokens of the final answer, where the trainer can tell them.
        clip_range: epsilon of the ratio's clip range, or (low, high), to count clipped tokens.
        low_confidence: tokens less likely than the first and than the second probability are counted.

    Returns:
        One row per response; sums are in nats, entropy in nats per token. `companions` holds the confidence by the
        place of a token in its action (`Positions`). From a GPU the rows are still on their way when this returns:
        `Monitor` fetches them at the end of the step, you would with `.resolve()`. Nothing is raised here: a tensor
        that has another shape than its neighbours gives no rows and stands in `error`. `Monitor.observe` raises it in
        the first step, when somebody is looking, and never later.
    """
    others = {
        "old_log_probs": old_log_probs,
        "response_mask": response_mask,
        "entropy": entropy,
        "answer_mask": answer_mask,
        "advantages": advantages,
        "rewards": rewards,
        "correct": correct,
        "uid": uid,
        "group": group,
    }
    try:
        _check(log_probs, others, low_confidence)
        columns, positions = _reduce(log_probs, others, clip_range, low_confidence)
        return _rows(columns, positions, uid, group)
    except InputError as error:
        return Responses.unusable(error)
    except Exception as error:  # tensors on two devices, out of memory, ...
        return Responses.unusable(InputError(f"per_response failed ({error}): are all tensors on one device?"))


def _reduce(
    log_probs: Tensor,
    others: dict[str, Tensor | None],
    clip_range: float | tuple[float, float] | None,
    low_confidence: tuple[float, float],
) -> tuple[dict[str, Tensor], Tensor]:
    """Column name -> one value per response, on the tensors' own device; and the sums by place, see `_by_place`."""
    given, old_log_probs, entropy = others["response_mask"], others["old_log_probs"], others["entropy"]
    assert given is not None
    mask = given if given.dtype == torch.bool else given != 0
    bits = _bits(mask)
    new = _inside(log_probs, bits)
    old = new if old_log_probs is None else _inside(old_log_probs, bits)
    change = new - old
    action, starts = action_index(mask)
    low, very_low = (_where(torch.lt, new, math.log(probability)) for probability in low_confidence)
    tokens = mask.sum(-1)
    columns = {
        "tokens": tokens,
        "actions": starts.sum(-1),
        "log_prob": new.sum(-1),
        "old_log_prob": old.sum(-1),
        "min_log_prob": new.amin(-1),
        "low_confidence_tokens": low.sum(-1),
        "very_low_confidence_tokens": very_low.sum(-1),
        **_span("first_action", mask & (action < 1), old, change),
    }
    if mask is not given:
        columns["odd_mask"] = ((given != 1) & mask).sum(-1)
    if (answer_mask := others["answer_mask"]) is not None:
        columns |= _span("answer", mask & (answer_mask != 0), old, change)
    if entropy is not None:
        columns["entropy"] = _inside(entropy, bits).sum(-1) / tokens.clamp(min=1)
    if clip_range is not None:
        columns["clipped_tokens"] = _clipped(change, clip_range)
    every = max(-(-len(mask) // PLACES_FROM), 1)
    return columns | _of_rows(others, bits, tokens), _by_place(
        *(part[::every] for part in (mask, action, starts, new, low, very_low))
    )


def _bits(mask: Tensor) -> Tensor:
    """(batch, tokens) int32: all bits set where the mask is True, none elsewhere."""
    return -mask.to(torch.int32)


def _inside(values: Tensor, bits: Tensor) -> Tensor:
    """The values where the mask is 1, float32, and 0 elsewhere, whatever stands there: NaN times 0 would be NaN.

    On a CPU an eighth of the time of torch.where.

    Args:
        values: (..., batch, tokens), any floating dtype.
        bits: of the mask, see `_bits`.
    """
    return (values.detach().float().view(torch.int32) & bits).view(torch.float32)


def _where(compare: Callable[..., Tensor], values: Tensor, bound: float) -> Tensor:
    """1.0 where the comparison holds, 0.0 elsewhere: on a CPU quicker than a bool tensor, and quicker to sum."""
    return compare(values, bound, out=torch.empty_like(values))


def _span(name: str, span: Tensor, old: Tensor, change: Tensor) -> dict[str, Tensor]:
    """Tokens, old log-prob and change of a part of each response."""
    bits = _bits(span)
    return {
        f"{name}_tokens": span.sum(-1),
        f"{name}_log_prob": _inside(old, bits).sum(-1),
        f"{name}_change": _inside(change, bits).sum(-1),
    }


def _clipped(change: Tensor, clip_range: float | tuple[float, float]) -> Tensor:
    """Tokens per response whose ratio, exp(change), is outside; the change is 0 outside of the mask."""
    low, high = clip_range if isinstance(clip_range, tuple) else (clip_range, clip_range)
    floor = math.log(1 - low) if low < 1 else -math.inf
    return _where(torch.lt, change, floor).sum(-1) + _where(torch.gt, change, math.log1p(high)).sum(-1)


def _of_rows(others: dict[str, Tensor | None], bits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Advantage, reward and whether the response is correct, as far as they are known."""
    known: dict[str, Tensor] = {}
    if (advantages := others["advantages"]) is not None:
        per_token = advantages.ndim == 2
        known["advantage"] = _inside(advantages, bits).sum(-1) / tokens.clamp(min=1) if per_token else advantages
    if (rewards := others["rewards"]) is not None:
        known["reward"] = rewards
    if (correct := others["correct"]) is not None:
        known["correct"] = correct != 0
    elif "reward" in known:
        known["correct"] = known["reward"] > 0
    elif "advantage" in known:
        known["correct"] = known["advantage"] >= ADVANTAGE_TOLERANCE
    return known


def _by_place(mask: Tensor, action: Tensor, starts: Tensor, new: Tensor, low: Tensor, very_low: Tensor) -> Tensor:
    """Sums over the batch by place in the action, (5, 2 * PLACES), first actions before later ones.

    The rows are those of `_BY_PLACE`. All values are 0 outside of the mask; the smallest of no log-prob is 0.
    """
    exact = torch.float32 if new.device.type == "mps" else torch.float64  # the last place may hold millions of tokens
    place = place_in_action(starts).clamp_(max=PLACES - 1).add_(action.clamp(0, 1), alpha=PLACES).flatten()
    values = torch.stack([mask, new, low, very_low]).to(exact).flatten(1)
    sums = torch.zeros(len(_BY_PLACE), 2 * PLACES, dtype=exact, device=new.device)
    sums[:4].index_add_(1, place, values)
    sums[4].scatter_reduce_(0, place, values[1], "amin")
    return sums.float()


def _rows(columns: dict[str, Tensor], positions: Tensor, uid: Tensor | None, group: Tensor | None) -> Responses:
    """One transfer for all columns and places; float32 holds token counts up to 16 million exactly."""
    device = positions.device
    stacked = torch.stack([column if column.device == device else column.to(device) for column in columns.values()])
    flat = _to_host(torch.cat([stacked.detach().float().flatten(), positions.flatten()]))
    # a copy, since the loop may reuse its buffers before the rows are fetched
    identities = [None if values is None else _to_host(values.detach().clone()) for values in (uid, group)]

    def rows() -> Responses:
        values = flat.numpy()
        host = dict(zip(columns, values[: stacked.numel()].reshape(stacked.shape), strict=True))
        odd = host.pop("odd_mask", None)
        if odd is not None and odd.any():
            where = f"{int((odd > 0).sum())} of {len(odd)} responses"
            wrong = f"response_mask has values other than 0 and 1 in {where}: expected 1 on policy tokens"
            return Responses.unusable(InputError(wrong))
        places = _positions(values[stacked.numel() :].reshape(positions.shape))
        own = [None if tensor is None else tensor.numpy().astype("int64") for tensor in identities]
        return Responses(uid=own[0], group=own[1], **host).having(companions=(places,))

    if device.type != "cuda":
        return rows()
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's is untyped
    copied.record(torch.cuda.current_stream(device))

    def when_copied() -> Responses:
        copied.synchronize()
        return rows()

    return Responses().having(pending=when_copied)


def _to_host(values: Tensor) -> Tensor:
    """On the host; from a GPU it is under way when this returns, and nobody waits for it yet."""
    if not values.is_cuda:
        return values.cpu()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _positions(sums: Array) -> Positions:
    seen = sums[0] > 0
    index = seen.nonzero()[0]
    rows = dict(zip(_BY_PLACE, sums[:, seen], strict=True))
    return Positions(after_feedback=index >= PLACES, position=index % PLACES, **rows)


def _check(log_probs: Tensor, others: dict[str, Tensor | None], low_confidence: tuple[float, float]) -> None:
    """Every tensor against log_probs; messages name the argument, its shape, and what was expected."""
    if not isinstance(log_probs, Tensor):
        raise InputError(f"log_probs is a {type(log_probs).__name__}, expected a tensor of shape (batch, tokens)")
    shape = tuple(log_probs.shape)
    if len(shape) != 2 or shape[1] == 0:
        raise InputError(f"log_probs has shape {shape}, expected (batch, tokens)")
    if log_probs.is_complex():
        raise InputError(f"log_probs is {log_probs.dtype}, expected real numbers")
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
        if value.is_complex():
            raise InputError(f"{name} is {value.dtype}, expected real numbers")
    if len(low_confidence) != 2 or not all(0 < probability <= 1 for probability in low_confidence):
        raise InputError(f"low_confidence is {low_confidence!r}, expected two probabilities in (0, 1]")
