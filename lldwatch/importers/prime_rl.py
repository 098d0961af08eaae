"""prime-rl's metrics.jsonl: `{"step": 3, "time": 1.7e9, "optim/lr": 1e-6, ...}`, several lines for each step.

The trainer and the orchestrator append to the same file; the orchestrator is some steps ahead, because prime-rl trains
off-policy. Lines of a step are put together before the step is given. NaN and infinities are left out by prime-rl.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.numbers import number_in, whole
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

METRICS = {
    "train/agg/all/reward/mean": "reward",
    "train/agg/effective/reward/mean": "reward",
    "reward/all/mean": "reward",
    "reward/mean": "reward",
    "loss/mean": "loss",  # mean over the micro-batches, each of which holds its part of the step's loss
    "optim/grad_norm": "grad_norm",
    "optim/lr": "learning_rate",
    "entropy/all/mean": "entropy",
    "entropy/mean": "entropy",
    "mismatch_kl/all/mean": "rollout_kl",  # k3, of the trainer to the engine that wrote it, steps ago
    "mismatch_kl/mean": "rollout_kl",
    "train/agg/all/num_output_tokens/mean": "response_length",
    "train/agg/effective/num_output_tokens/mean": "response_length",
    "decode_len/all/mean": "response_length",
    "completion_len/mean": "response_length",
    "train/agg/all/is_truncated/mean": "truncated_share",
    "train/agg/effective/is_truncated/mean": "truncated_share",
    "is_truncated/all/mean": "truncated_share",
    "is_truncated/mean": "truncated_share",
    "train/agg/all/num_turns/mean": "actions",
    "num_turns/all/mean": "actions",
}
"""Of all responses before those that the trainer gets. Not mapped: `is_masked/mean` (by differences of probabilities,
not by a clipped ratio), `ref_kl/mean` (with the sign turned round, and only when distilling), `masked_mismatch_kl`,
`kl_ent_ratio`, names of single environments."""

_MOST_STEPS_APART = 16
_START = re.compile(r'\{"step": \d{1,12}, "time": \d')
_NAMES = re.compile(r'"(?:train/agg/|optim/lr"|mismatch_kl/|entropy/all/|perf/mfu"|progress/ckpt_step"|dispatcher/)')
_OF_AGENT = re.compile(
    r"train/agg/(?P<subset>all|effective)/[^/]+/"
    r"(?P<name>(?:reward|is_truncated|num_output_tokens|num_turns)/mean|solved_none|solved_all)$"
)


def _recognise(source: Source) -> str | None:
    if source.is_text and _START.match(source.opening) and _NAMES.search(source.opening):
        return "its lines begin with step and time, and have names of prime-rl"
    return None


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    waiting: dict[int, Entry] = {}
    ahead: dict[bool, int] = {}
    for line in source.lines(tally):
        entry = _entry(line.text, f"line {line.number}", tally)
        if entry is None or entry.step is None:
            continue
        of_trainer = not any(name.startswith(("train/", "reward/", "progress/")) for name in entry.values)
        if entry.step < ahead.get(of_trainer, 0):  # resumed from a checkpoint
            yield from waiting.values()
            waiting, ahead = {}, {}
        ahead[of_trainer] = entry.step
        before = waiting.get(entry.step)
        waiting[entry.step] = entry if before is None else _together(before, entry)
        both_passed = min(ahead.values()) if len(ahead) == 2 else 0
        for step in sorted(waiting):
            if step < both_passed or step < max(ahead.values()) - _MOST_STEPS_APART:
                yield waiting.pop(step)
    yield from (waiting[step] for step in sorted(waiting))


def _together(one: Entry, other: Entry) -> Entry:
    return one._replace(values={**one.values, **other.values}, time=other.time or one.time)


def _entry(text: str, where: str, tally: Tally) -> Entry | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    step = whole(row.pop("step", None)) if isinstance(row, dict) else None
    if step is None:
        tally.drop("line that breaks off, or has no step", where)
        return None
    time = number_in(row, "time")
    row.pop("time", None)
    values = _of_agents(row)
    if values and all(name.startswith("eval/") for name in values):
        tally.drop("evaluation", where)
        return None
    return Entry(step, values, where, time=time)


def _of_agents(row: dict[str, Any]) -> dict[str, Any]:
    """Names of the only agent as those of all agents; where there are several, none of them is the policy's."""
    found = [match for match in map(_OF_AGENT.match, row) if match]
    if len({match[0].split("/")[3] for match in found}) != 1:
        return row
    for match in found:
        row.setdefault(f"train/agg/{match['subset']}/{match['name']}", row.pop(match[0]))
    none, every = number_in(row, "train/agg/all/solved_none"), number_in(row, "train/agg/all/solved_all")
    if none is not None and every is not None:
        row["zero_advantage_share"] = none + every
        del row["train/agg/all/solved_none"], row["train/agg/all/solved_all"]
    return row


FORMAT = Format(
    name="prime-rl",
    title="metrics.jsonl of prime-rl",
    trainer="prime-rl",
    metrics=METRICS,
    recognise=_recognise,
    line=re.compile(r'^\{"step": \d{1,12}, "time": \d+\.\d+, "(?:perf/|optim/|train/agg/|entropy/|time/|loss/)'),
    sign='{"step": ',
    read=_read,
    whole_steps=True,
)
