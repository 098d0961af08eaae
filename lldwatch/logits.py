"""Log-probs and entropies from logits, in one pass, for a trainer that has neither.

A trainer's own log-probs and entropies are the better source, since they cost nothing: this is the fallback. At
[1,024 x 151,936] the plain log_softmax, gather and entropy write several times the size of the logits. Here a few rows
at a time go through two small float32 buffers that stay in the processor's cache, and on a CUDA device, where Triton is
installed, through one kernel that reads each logit once and keeps all else in registers.

With z = (x - max x) / temperature, w = exp(z), W = sum w:

    log_prob = z[token] - log W        entropy = log W - sum(w * z) / W        (nats)

All of z is <= 0 and W >= 1, so that the entropy cannot come out negative, and logits of 1e4 lose no digits: max x is
taken off before anything is rounded, which the form lse(x) - sum(p * x) does not do. The kernel computes the same sums
while max x is still growing. Exponentials are powers of two: they alone take half of the time on a CPU, and torch.exp2
was 2 to 3 times as fast as torch.exp on one processor, as fast on another.

Reference: online softmax, Milakov & Gimelshein, arXiv:1805.02867, Sec. 3; the sum for the entropy is carried along and
rescaled like the normaliser.

Rejected: torch.compile (as fast, but compiles for seconds on each new shape); blocks of the vocabulary instead of rows
on a CPU (slower: too many small operations).
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lldwatch.errors import InputError

__all__ = ["log_probs_and_entropy"]

log = logging.getLogger("lldwatch")

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
_LOG2_E, _LN_2 = math.log2(math.e), math.log(2)
_FLOOR = (
    -70.0
)  # nats: exp(-70) times any vocabulary is nothing beside W >= 1, and a float32 product of it is no denormal
_CPU_ELEMENTS, _GPU_ELEMENTS = 320_000, 2**24  # of one buffer: two rows of a large vocabulary; one launch's worth
_BLOCK, _WARPS = 4096, 8  # compiled for sm_90: 64 registers a thread, so that 4 rows share a multiprocessor


def _optional(name: str) -> Any:
    try:
        return import_module(name)
    except Exception:  # a broken Triton must not cost anyone the other way
        return None


triton, tl = _optional("triton"), _optional("triton.language")  # `tl` is what the kernel's source says
_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
_kernel_works = triton is not None and tl is not None


@torch.no_grad()
def log_probs_and_entropy(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-prob of each token and entropy of the distribution that it was drawn from.

    A measurement: no gradient flows through it. Errors are below 1e-5 nats, or 1e-5 of a value beyond 1 nat. A row with
    a logit that is NaN or +inf, or with nothing but -inf, gives NaN for both, and leaves all other rows alone; a logit
    of -inf is a masked entry (log-prob -inf, no part in the entropy).

    On a CPU a token id outside the vocabulary raises. On other devices looking would wait for the device, so there it
    gives a log-prob of NaN (-100 as padding, say) and the right entropy. The vocabulary must be whole, not one rank's
    shard. The Triton kernel was checked with Triton's interpreter and compiled for sm_80 and sm_90, but not run
    on a GPU: its speed is unmeasured. Should it fail to compile or launch, one warning says so and the rows go the
    other way.

    Args:
        logits: (..., tokens, vocabulary), bfloat16, float16 or float32, in any layout; never copied as a whole. Those
            of position t predict `tokens[..., t]`: shift them first if yours predict the next one.
        tokens: (..., tokens), int.
        temperature: logits are divided by it, as the sampler did; between 1e-30 and 1e30.
        rows: rows in flight; memory is 8 bytes x rows x vocabulary. Without it about 2.5 MB on a CPU, 128 MB on a GPU.
            The Triton kernel needs none of it.

    Returns:
        log_probs and entropy, each (..., tokens), float32, nats.

    Raises:
        InputError: a tensor has another shape, dtype or device than it should, or a number is out of its range.
    """
    _check(logits, tokens, temperature, rows)
    log_probs = torch.empty(tokens.shape, dtype=torch.float32, device=logits.device)
    entropy = torch.empty_like(log_probs)
    if tokens.numel() == 0:
        return log_probs, entropy
    for matrices in _matrices(logits, tokens, log_probs, entropy):
        if not _fused(*matrices, float(temperature)):
            _by_rows(*matrices, float(temperature), rows)
    return log_probs, entropy


def _matrices(
    logits: Tensor, tokens: Tensor, log_probs: Tensor, entropy: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Views: logits as (tokens, vocabulary), the others, the results among them, as (tokens,)."""
    if logits.is_contiguous():
        yield logits.view(-1, logits.shape[-1]), tokens.reshape(-1), log_probs.view(-1), entropy.view(-1)
        return
    # to flatten `logits[:, :-1]` would copy all of it, so one matrix of the batch after another
    for index in itertools.product(*map(range, logits.shape[:-2])):
        yield logits[index], tokens[index], log_probs[index], entropy[index]


def _check(logits: Tensor, tokens: Tensor, temperature: float, rows: int | None) -> None:
    """Every argument; messages name it, its shape, and what was expected."""
    for name, value in {"logits": logits, "tokens": tokens}.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} is a {type(value).__name__}, expected a tensor")
    shape, wanted = tuple(logits.shape), tuple(logits.shape[:-1])
    if len(shape) < 2 or shape[-1] == 0:
        raise InputError(f"logits has shape {shape}, expected (..., tokens, vocabulary)")
    if logits.dtype not in _DTYPES:
        raise InputError(f"logits {shape} is {logits.dtype}, expected bfloat16, float16 or float32")
    if tuple(tokens.shape) != wanted:
        raise InputError(f"tokens has shape {tuple(tokens.shape)}, expected {wanted} to go with logits {shape}")
    if tokens.dtype not in _INTEGERS:
        raise InputError(f"tokens {wanted} is {tokens.dtype}, expected integers")
    if tokens.device != logits.device:
        raise InputError(f"tokens {wanted} is on {tokens.device}, expected {logits.device} to go with logits")
    if not isinstance(temperature, Real) or not 1e-30 <= temperature <= 1e30:
        raise InputError(f"temperature is {temperature!r}, expected a number above 0 (1e-30 to 1e30)")
    if rows is not None and (not isinstance(rows, int) or rows < 1):
        raise InputError(f"rows is {rows!r}, expected an int of at least 1, or None")
    if tokens.device.type == "cpu" and tokens.numel():
        low, high = (int(bound) for bound in tokens.aminmax())
        if low < 0 or high >= shape[-1]:
            raise InputError(
                f"tokens {wanted} has ids from {low} to {high}, expected 0 to {shape[-1] - 1} to go with logits {shape}"
            )


def _by_rows(
    logits: Tensor, tokens: Tensor, log_probs: Tensor, entropy: Tensor, temperature: float, rows: int | None
) -> None:
    """Fill log_probs and entropy, (tokens,), from logits, (tokens, vocabulary), a few rows at a time."""
    count, vocabulary = logits.shape
    if rows is None:
        rows = max(1, (_CPU_ELEMENTS if logits.device.type == "cpu" else _GPU_ELEMENTS) // vocabulary)
    buffers = torch.empty((2, min(rows, count), vocabulary), dtype=torch.float32, device=logits.device)
    highest, total, moment = torch.empty((3, count, 1), dtype=torch.float32, device=logits.device)
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        z, weights = buffers[:, : min(rows, count - start)]
        torch.amax(z.copy_(logits[part]), -1, keepdim=True, out=highest[part])
        z.sub_(highest[part]).clamp_(min=_FLOOR * temperature).mul_(_LOG2_E / temperature)
        torch.sum(torch.exp2(z, out=weights), -1, keepdim=True, out=total[part])
        torch.sum(weights.mul_(z), -1, keepdim=True, out=moment[part])
    log_total = total.log()
    entropy.copy_((log_total - moment / total * _LN_2)[:, 0])
    token = tokens[:, None].long()
    chosen = logits.gather(-1, token.clamp(0, vocabulary - 1)).float()
    chosen.masked_fill_((token < 0) | (token >= vocabulary), math.nan)
    log_probs.copy_(((chosen - highest) / temperature - log_total)[:, 0])


def _fused(logits: Tensor, tokens: Tensor, log_probs: Tensor, entropy: Tensor, temperature: float) -> bool:
    """Fill log_probs and entropy by the Triton kernel; False when it is not for this tensor or this machine."""
    global _kernel_works
    if not _kernel_works or not (logits.is_cuda or _interpreted) or logits.stride(-1) != 1:
        return False
    count, vocabulary = logits.shape
    block = min(_BLOCK, triton.next_power_of_2(vocabulary))
    try:
        with torch.cuda.device(logits.get_device()):
            _kernel()[(count,)](
                *(logits, tokens, log_probs, entropy, logits.stride(0), tokens.stride(0)),
                *(vocabulary, _LOG2_E / temperature, _LN_2),
                block=block,
                num_warps=_WARPS,
            )
    except Exception as error:  # no compiler on the node, say: a monitor must not end the training
        _kernel_works = False
        log.warning("entropy from logits without Triton, whose kernel failed: %s", error)
    return _kernel_works


@cache
def _kernel() -> Any:
    """The compiled `_row`: Triton keeps its machine code for each dtype and vocabulary in here."""
    return triton.jit(_row)


# Triton compiles every annotation that it finds, and knows none but its own
def _row(  # type: ignore[no-untyped-def]  # Triton compiles no annotation but constexpr
    logits,
    tokens,
    log_probs,
    entropy,
    logits_stride,
    tokens_stride,
    vocabulary,
    scale,
    ln_2,
    block: tl.constexpr,  # type: ignore[name-defined]  # known to Triton alone
):
    """Triton: one program does one row. A lane keeps its own sums; -101 bits is the floor, -70 nats, of the other way.

    The floor is set by a comparison, not by a maximum, since NaN must get through it. The first maximum is the lowest
    float instead of -inf, whose difference to a block of nothing but -inf would be NaN.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, block)
    highest = tl.full([], -3.4028234e38, tl.float32)
    total = tl.zeros([block], tl.float32)
    moment = tl.zeros([block], tl.float32)
    for start in range(0, vocabulary, block):
        column = start + lanes
        x = tl.load(logits + row * logits_stride + column, mask=column < vocabulary, other=-float("inf")).to(tl.float32)
        before = highest
        highest = tl.maximum(before, tl.max(x, axis=0))
        drop = (before - highest) * scale
        drop = tl.where(drop < -101.0, -101.0, drop)
        z = (x - highest) * scale
        z = tl.where(z < -101.0, -101.0, z)
        weight = tl.exp2(z)
        kept = tl.exp2(drop)
        moment = kept * (moment + total * drop) + weight * z
        total = kept * total + weight
    whole = tl.sum(total, axis=0)
    log_total = tl.where(whole < 0.5, float("nan"), tl.log2(whole) * ln_2)  # below 1 only where every logit is -inf
    token = tl.load(tokens + row * tokens_stride).to(tl.int64)
    inside = (token >= 0) & (token < vocabulary)
    chosen = tl.load(logits + row * logits_stride + token, mask=inside, other=float("nan")).to(tl.float32)
    tl.store(log_probs + row, (chosen - highest) * (scale * ln_2) - log_total)
    tl.store(entropy + row, log_total - tl.sum(moment, axis=0) / whole * ln_2)
