"""NeMo-RL's metrics.json, which its tools make of the TensorBoard files: name -> step -> value.

`{"train/reward": {"1": 0.1, "2": 0.2}, ...}`; among the names are those of the machines (`ray/node.0.gpu.0.util`).
NeMo-RL adds the loss, the gradient norm and all means over tokens up over the updates of a step.
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
    "train/reward": "reward",
    "train/loss": "loss",
    "train/grad_norm": "grad_norm",
    "train/lr": "learning_rate",
    # E[-(p/q) log p] of sampled tokens: without bias, and over a batch's tokens with little noise
    "train/approx_entropy": "entropy",
    "train/kl_penalty": "kl",  # before its coefficient
    "train/gen_kl_error": "rollout_kl",
    "train/mean_gen_tokens_per_sample": "response_length",
    "train/truncation_rate": "truncated_share",
    "train/avg_turns_per_sample": "actions",
    "train/turns_per_sample/mean": "actions",
}
"""Not mapped: `token_mult_prob_error` (a factor), `policy_kl_error` and `js_divergence_error` (other divergences, where
`gen_kl_error` is there), `probs_ratio_clamped` (a mean ratio, not how many were clipped), `filtered_reward` (of what
dynamic sampling kept), `is_oob_ratio`, `advantages/mean`, `validation/*`."""

_SUMS = ("train/loss", "train/grad_norm", "train/approx_entropy", "train/kl_penalty", "train/gen_kl_error")
_SHAPE = re.compile(r'\s*\{\s*"[^"\n]{1,300}"\s*:\s*\{\s*"\d{1,12}"\s*:\s*(?:-?[\d.]|NaN|-?Infinity|null)')


def _recognise(source: Source) -> str | None:
    if source.is_text and _SHAPE.match(source.opening):
        return "it maps names to steps and steps to numbers, as NeMo-RL's metrics.json does"
    return None


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    try:
        metrics = json.loads(source.document(tally))
    except (ValueError, RecursionError) as error:
        tally.note(f"{source.name} is no JSON ({error}): nothing could be read")
        return
    by_step: dict[int, dict[str, Any]] = {}
    for name, values in metrics.items() if isinstance(metrics, dict) else ():
        if not isinstance(values, dict):
            tally.drop("name without steps", name)
            continue
        for key, value in values.items():
            step = whole(key)
            if step is None:
                tally.drop("step that is no number", name)
            else:
                by_step.setdefault(step, {})[name] = value
    for step, row in sorted(by_step.items()):
        if any(name.startswith("train/") for name in row):  # the machines are looked at between the steps
            yield Entry(step, _as_meant(row, tally), f"step {step}")


def _as_meant(row: dict[str, Any], tally: Tally) -> dict[str, Any]:
    if number_in(row, "train/kl_penalty") == 0:
        del row["train/kl_penalty"]
        tally.note("train/kl_penalty is 0 where there is no penalty: no KL divergence was measured")
    samples, of_update = number_in(row, "train/num_valid_samples"), number_in(row, "train/global_valid_seqs")
    updates = round(samples / of_update) if samples and of_update and 0 < samples / of_update < 10_000 else 1
    if updates > 1:
        row["updates"] = updates
        for name in _SUMS:
            total = number_in(row, name)
            if total is not None:
                row[name] = total / updates
        tally.note("NeMo-RL adds up over the updates of a step: loss, grad_norm, entropy, kl and rollout_kl are means")
    zero, one = number_in(row, "train/baseline_reward/pct_0"), number_in(row, "train/baseline_reward/pct_1")
    if zero is not None and one is not None:
        # with the leave-one-out baseline (the default) the only right or wrong response of a prompt counts as well
        row["zero_advantage_share"] = (zero + one) / 100
        del row["train/baseline_reward/pct_0"], row["train/baseline_reward/pct_1"]
    return row


FORMAT = Format(
    name="nemo-rl",
    title="metrics.json of NeMo-RL",
    trainer="NeMo-RL",
    metrics=METRICS,
    recognise=_recognise,
    read=_read,
)
