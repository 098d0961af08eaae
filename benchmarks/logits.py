"""What do log-probs and entropies from logits cost, and how wrong are they?

python benchmarks/logits.py --rows 1024 --vocabulary 151936 --repeats 3

Side by side, on one CPU thread, the ways in turn in each repeat, each time in a forked process of its own:

* lldwatch: `lldwatch.logits.log_probs_and_entropy`
* plain: log_softmax, gather, entropy, in the logits' own dtype
* plain, float32: the same on `logits.float()`
* chunked: in the manner of TRL: log_softmax of one row after another for the log-prob, then the entropy of 128 rows at
  a time, all in the logits' own dtype

CPU seconds are user and system time (getrusage): the median of three calls after a first one, and of that over the
repeats. System time is the kernel's, nearly all of it for handing out fresh memory: an allocator that keeps large
blocks would save it. Extra memory is by how much the first call raised the process' peak resident size (ru_maxrss).
Errors are the largest on a sample of rows, against float64.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lldwatch.logits import log_probs_and_entropy

Measured = tuple[Tensor, Tensor]
SAMPLE, CALLS = 64, 3
OURS, PLAIN = "lldwatch", "plain"


def plain(logits: Tensor, tokens: Tensor) -> Measured:
    """Three arrays as large as the logits."""
    log_probs = torch.log_softmax(logits, -1)
    return log_probs.gather(-1, tokens[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


def plain_float32(logits: Tensor, tokens: Tensor) -> Measured:
    return plain(logits.float(), tokens)


def chunked(logits: Tensor, tokens: Tensor) -> Measured:
    """Two passes: rows for the log-probs, 128 rows at a time for the entropies."""
    log_probs = torch.empty(len(tokens), dtype=logits.dtype)
    for row, token, out in zip(logits, tokens[:, None], log_probs[:, None], strict=True):
        torch.gather(torch.log_softmax(row, -1), -1, token, out=out)
    entropies = []
    for chunk in torch.split(logits, 128):
        logs = torch.log_softmax(chunk, -1)
        entropies.append(-(logs.exp() * logs).sum(-1))
    return log_probs, torch.cat(entropies)


WAYS: dict[str, Callable[[Tensor, Tensor], Measured]] = {
    OURS: log_probs_and_entropy,
    PLAIN: plain,
    "plain, float32": plain_float32,
    "chunked": chunked,
}


def made_up(rows: int, vocabulary: int, dtype: torch.dtype, spread: float) -> tuple[Tensor, Tensor]:
    """Normal logits, row by row: making them must not raise the peak that is measured."""
    random = torch.Generator().manual_seed(0)
    logits = torch.empty(rows, vocabulary, dtype=dtype)
    for row in logits:
        row.copy_(torch.randn(vocabulary, generator=random) * spread)
    return logits, torch.randint(0, vocabulary, (rows,), generator=random)


def errors(measured: Measured, logits: Tensor, tokens: Tensor) -> list[float]:
    """The largest of log_probs and of entropy, nats, on the first rows."""
    exact = plain(logits[:SAMPLE].double(), tokens[:SAMPLE])
    return [float((ours[:SAMPLE] - theirs).abs().max()) for ours, theirs in zip(measured, exact, strict=True)]


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(way: str, logits: Tensor, tokens: Tensor, answer: Any) -> None:
    WAYS[way](logits[:2, :1000], tokens[:2].clamp(max=999))  # loads what a first call loads
    before = peak_megabytes()
    measured = WAYS[way](logits, tokens)
    memory, seconds = peak_megabytes() - before, []
    for _ in range(CALLS):
        start = resource.getrusage(resource.RUSAGE_SELF)
        WAYS[way](logits, tokens)
        end = resource.getrusage(resource.RUSAGE_SELF)
        system = end.ru_stime - start.ru_stime
        seconds.append((end.ru_utime - start.ru_utime + system, system))
    answer.send((*map(statistics.median, zip(*seconds, strict=True)), memory, *errors(measured, logits, tokens)))


def forked(way: str, logits: Tensor, tokens: Tensor) -> tuple[float, ...]:
    """A child sees the parent's logits without a copy, and starts with no memory kept by earlier calls."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(way, logits, tokens, theirs))
    child.start()
    theirs.close()
    try:
        answer: tuple[float, ...] = ours.recv()
    finally:
        child.join()
    return answer


def compare(dtype: torch.dtype, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    logits, tokens = made_up(arguments.rows, arguments.vocabulary, dtype, arguments.spread)
    answers: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    for _ in range(arguments.repeats):
        for way, each in answers.items():
            each.append(forked(way, logits, tokens))
    shape = {"rows": arguments.rows, "vocabulary": arguments.vocabulary, "dtype": str(dtype).removeprefix("torch.")}
    names = "cpu_seconds", "system_seconds", "extra_megabytes", "log_prob_error", "entropy_error"
    return [
        {**shape, "way": way, **dict(zip(names, map(statistics.median, zip(*each, strict=True)), strict=True))}
        for way, each in answers.items()
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown; ratios are to lldwatch's row of the same dtype."""
    lines = [
        "| logits | way | CPU s | x | of it system | extra MB | x | log-prob error, nats | entropy error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ours = next(each for each in results if each["way"] == OURS and each["dtype"] == result["dtype"])
        slower = result["cpu_seconds"] / ours["cpu_seconds"]
        larger = result["extra_megabytes"] / max(ours["extra_megabytes"], 1e-9)
        lines.append(
            f"| [{result['rows']:,} x {result['vocabulary']:,}] {result['dtype']} | {result['way']} "
            f"| {result['cpu_seconds']:.3f} | {slower:.1f} | {result['system_seconds']:.3f} "
            f"| {result['extra_megabytes']:.1f} | {larger:.0f} "
            f"| {result['log_prob_error']:.0e} | {result['entropy_error']:.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument(
        "--dtypes", nargs="+", choices=["bfloat16", "float16", "float32"], default=["bfloat16", "float32"]
    )
    parser.add_argument("--spread", type=float, default=3.0, help="standard deviation of the logits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [result for name in arguments.dtypes for result in compare(getattr(torch, name), arguments)]
    print(json.dumps(results, indent=1) if arguments.json else table(results))


if __name__ == "__main__":
    main()
