"""What does the LLDS term cost? CPU time of it beside that of the GRPO loss that it is added to.

python benchmarks/llds_overhead.py --responses 32 --tokens 2048 --vocabulary 151936 --repeats 7

On one CPU thread, forward and backward, medians of the repeats. The GRPO loss computation is what every trainer does
after its model's forward pass: log-probs of the tokens from the logits (log_softmax and gather, float32), then the
clipped loss. The logits of a whole batch do not fit into memory, here or on most GPUs: they are taken a few rows at a
time, and one such part is timed and multiplied. The model itself, which costs far more, is left out.

A look at the values is on by default on a CPU, and only there. Not in the table: the forward passes that replayed and
lagged log-probs take, which `Replay.price` and `LaggedPolicy.price` state; a batch's old log-probs take none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from lldwatch.llds import llds_loss
from lldwatch.search_world.objective import grpo_loss

ROWS = 256
"""Rows of logits at a time."""


def made_up(responses: int, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs, old log-probs, advantages, and a mask with four actions in each response."""
    draw = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(responses, tokens, generator=draw)
    log_probs = (old + 0.1 * torch.randn(responses, tokens, generator=draw)).clamp(max=0.0)
    advantages = torch.randn(responses, generator=draw)
    mask = (torch.arange(tokens) * 8 // tokens % 2 == 0).expand(responses, tokens)
    return log_probs.requires_grad_(), old, advantages, mask


def from_logits(vocabulary: int) -> Callable[[], Tensor]:
    """The sum of the log-probs of ROWS tokens from their logits."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, vocabulary, generator=draw).requires_grad_()
    tokens = torch.randint(0, vocabulary, (ROWS, 1), generator=draw)
    return lambda: torch.log_softmax(logits, -1).gather(-1, tokens).sum()


def seconds(loss: Callable[[], Tensor], repeats: int) -> float:
    """CPU seconds of the thread, forward and backward: the median after a first time."""
    taken = []
    for _ in range(repeats + 1):
        began = time.thread_time()
        loss().backward()  # type: ignore[no-untyped-call]  # torch's is untyped
        taken.append(time.thread_time() - began)
    return median(taken[1:])


def measure(responses: int, tokens: int, vocabulary: int, repeats: int) -> dict[str, float]:
    """Seconds of each part for the whole batch."""
    log_probs, old, advantages, mask = made_up(responses, tokens)
    answer = mask & (torch.arange(tokens) > 0.7 * tokens)
    batch = (log_probs, old, advantages, mask)
    ways: dict[str, Callable[[], Tensor]] = {
        "GRPO loss from log-probs": lambda: grpo_loss(*batch, clip_range=0.2),
        "LLDS, action gate": lambda: llds_loss(*batch, validate=False).loss,
        "LLDS, response gate": lambda: llds_loss(*batch, gate="response", validate=False).loss,
        "LLDS, token gate": lambda: llds_loss(*batch, gate="token", validate=False).loss,
        "LLDS-MA, action gate, dead zone": lambda: (
            llds_loss(*batch, answer_mask=answer, answer_weight=0.5, dead_zone=1e-3, validate=False).loss
        ),
        "the same with a look at the values": lambda: (
            llds_loss(*batch, answer_mask=answer, answer_weight=0.5, dead_zone=1e-3, validate=True).loss
        ),
    }
    parts = -(-responses * tokens // ROWS)
    return {
        "log-probs from logits": parts * seconds(from_logits(vocabulary), repeats),
        **{way: seconds(loss, repeats) for way, loss in ways.items()},
    }


def table(measured: dict[str, float]) -> str:
    """Markdown; shares are of the GRPO loss computation, its first two rows."""
    whole = sum(list(measured.values())[:2])
    lines = ["| forward and backward | ms | of the GRPO loss computation |", "|---|---|---|"]
    lines += [f"| {way} | {1000 * each:,.2f} | {each / whole:.3%} |" for way, each in measured.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"[{arguments.responses} x {arguments.tokens:,}], vocabulary {arguments.vocabulary:,}, one CPU thread\n")
    print(table(measure(arguments.responses, arguments.tokens, arguments.vocabulary, arguments.repeats)))


if __name__ == "__main__":
    main()
