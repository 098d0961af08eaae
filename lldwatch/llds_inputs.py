"""What is wrong with what `lldwatch.llds` was given, each in one line: what was got, what was expected, what to do."""

from __future__ import annotations

import torch
from torch import Tensor

from lldwatch.errors import InputError

_ABOVE_0 = 1e-3
"""Nats; the log-prob of a certain token may be above 0 by rounding."""


def check_name(setting: str, value: str, known: tuple[str, ...], otherwise: str = "") -> None:
    """A setting that has names.

    Raises:
        InputError: the value is none of those that are known.
    """
    if value not in known:
        raise InputError(f"{setting} is {value!r}, expected one of {', '.join(known)}{otherwise}")


def check_numbers(
    answer_weight: float, dead_zone: float, normaliser: str, global_tokens: float | Tensor | None
) -> None:
    """Settings that are numbers; see `lldwatch.llds.llds_loss`.

    Raises:
        InputError: one of them is not what it should be.
    """
    if not 0 <= answer_weight <= 1:
        raise InputError(f"answer_weight is {answer_weight}, expected a number from 0 to 1")
    if not dead_zone >= 0:
        raise InputError(f"dead_zone is {dead_zone}, expected nats of a token, at least 0")
    if normaliser == "global_tokens" and global_tokens is None:
        raise InputError("global_tokens is None with normaliser 'global_tokens': give the tokens to divide by")
    if normaliser != "global_tokens" and global_tokens is not None:
        raise InputError(f"global_tokens was given with normaliser {normaliser!r}: expected normaliser 'global_tokens'")
    if isinstance(global_tokens, (int, float)) and not global_tokens >= 0:
        raise InputError(f"global_tokens is {global_tokens}, expected a number of tokens, at least 0")


def check_set(advantages: Tensor | None, response_mask: Tensor, preserve: str | Tensor) -> None:
    """What says which tokens are preserved, against the response mask.

    Raises:
        InputError: neither advantages nor a mask were given, or a shape does not fit.
    """
    if advantages is None and not isinstance(preserve, Tensor):
        raise InputError(f"advantages is None with preserve {preserve!r}: give advantages, or a mask as preserve")
    if not isinstance(response_mask, Tensor) or response_mask.ndim != 2:
        raise InputError(f"response_mask {_got(response_mask)}, expected a tensor of shape (batch, tokens)")
    shape = tuple(response_mask.shape)
    for name, value in (("advantages", advantages), ("preserve", preserve)):
        if value is None or (name == "preserve" and isinstance(value, str)):
            continue
        if not isinstance(value, Tensor) or tuple(value.shape) not in (shape, shape[:1]):
            raise InputError(f"{name} {_got(value)}, expected {shape[:1]} or {shape} to go with response_mask {shape}")


def check_tensors(
    log_probs: Tensor, old_log_probs: Tensor, response_mask: Tensor, answer_mask: Tensor | None = None
) -> None:
    """Types and shapes of what has one value a token, against log_probs.

    Raises:
        InputError: one of them is not what it should be.
    """
    if not isinstance(log_probs, Tensor) or log_probs.ndim != 2 or log_probs.shape[1] == 0:
        raise InputError(f"log_probs {_got(log_probs)}, expected a tensor of shape (batch, tokens)")
    shape = tuple(log_probs.shape)
    others = {"old_log_probs": old_log_probs, "response_mask": response_mask, "answer_mask": answer_mask}
    for name, value in others.items():
        if name == "answer_mask" and value is None:
            continue
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            raise InputError(f"{name} {_got(value)}, expected {shape} to go with log_probs {shape}")
    for name, nats in (("log_probs", log_probs), ("old_log_probs", old_log_probs)):
        if not nats.is_floating_point():
            raise InputError(f"{name} is {nats.dtype}, expected floating-point nats")


@torch.no_grad()
def check_values(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor | None,
    response_mask: Tensor,
    answer_mask: Tensor | None = None,
) -> None:
    """What stands inside of the mask. On a GPU this waits for the device.

    Raises:
        InputError: a value is not what it should be; the message names the first row.
    """
    mask = response_mask != 0
    if response_mask.dtype != torch.bool:
        odd = (mask & (response_mask != 1)).any(-1)
        _complain(odd, "response_mask has values other than 0 and 1", "1 on policy tokens")
    for name, values in (("log_probs", log_probs), ("old_log_probs", old_log_probs)):
        low, high = torch.aminmax(torch.where(mask, values, 0.0), dim=-1)
        _complain(~(low.isfinite() & high.isfinite()), f"{name} is not finite", "finite nats inside the response mask")
        _complain(high > _ABOVE_0, f"{name} is above 0", "log-probabilities of the tokens")
    if advantages is not None:
        each = torch.where(mask, advantages, 0.0) if advantages.ndim == 2 else advantages[:, None]
        _complain(~each.isfinite().all(-1), "advantages is not finite", "finite numbers")
    if answer_mask is not None:
        beyond = ((answer_mask != 0) & ~mask).any(-1)
        _complain(beyond, "answer_mask is 1 outside of response_mask", "a part of it: set it to 0 on tool feedback")


def _got(value: object) -> str:
    return f"has shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"is a {type(value).__name__}"


def _complain(bad: Tensor, what: str, expected: str) -> None:
    if bad.any():
        rows = f"{int(bad.sum())} of {len(bad)} responses (first: row {int(bad.nonzero()[0, 0])})"
        raise InputError(f"{what} in {rows}: expected {expected}")
