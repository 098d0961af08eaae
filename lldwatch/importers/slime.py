"""slime's console log: `rollout 3: {...}`, `step 12: {...}` and `perf 3: {...}`, dicts of Python.

The step is that of the rollouts, from 0: a batch and all its updates, which slime counts through the run as `step`. A
rollout comes before its updates; the generation of a later one may be logged in between (`perf`). Each update has a
row; they are averaged. A log that holds the updates alone has these as its steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.numbers import number, number_in, printed_rows
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

METRICS = {
    "rollout/raw_reward": "reward",
    "train/loss": "loss",
    "train/pg_loss": "loss",
    "train/grad_norm": "grad_norm",
    "train/lr-pg_0": "learning_rate",
    "train/entropy_loss": "entropy",  # positive, before its coefficient
    "train/kl_loss": "kl",  # before its coefficient
    "train/mis_k3_kl": "rollout_kl",
    "train/mis_kl": "rollout_kl",
    "train/pg_clipfrac": "clip_fraction",
    "rollout/response_len/mean": "response_length",
    "rollout/response_lengths": "response_length",  # tool feedback included
    "rollout/truncated_ratio": "truncated_share",
    "rollout/truncated": "truncated_share",
}
"""Not mapped: `rollout/rewards` (normalised within the prompt), `train/train_rollout_logprob_abs_diff` (absolute, no
KL), `train/ppo_kl` (mean fall of all log-probs), `train/ois` and `tis` (ratios), `rollout/zero_std/count_*` (how many
prompts; of how many is not said), `rollout/log_probs` (of all responses, right or wrong), `eval/*`."""

_START = re.compile(r"(?<!Global )(?<![\w-])(rollout|step|perf) (\d{1,15}): \{")
_MOST_ROLLOUTS_AHEAD = 64


class _Rollouts:
    """Rollouts that are not complete yet."""

    def __init__(self) -> None:
        self.begun: int | None = None
        self._rows: dict[int, dict[str, Any]] = {}
        self._updates: dict[int, dict[str, float]] = {}
        self._where: dict[int, str] = {}

    def add(self, rollout: int, values: dict[str, Any], where: str) -> None:
        self._rows.setdefault(rollout, {}).update(values)
        self._where.setdefault(rollout, where)

    def update(self, number_of_update: int, values: dict[str, str], tally: Tally, where: str) -> None:
        """An update of the rollout that was begun last; a line that Ray repeats is the same update."""
        self._updates[number_of_update] = numbers = {}
        for name, text in values.items():
            try:
                value = number(text)
            except ValueError:
                tally.drop(f"{name} that is not a number", where)
                continue
            if value is not None:
                numbers[name] = value

    def close(self, rollout: int, where: str) -> Entry:
        """The rollout with the means of its updates."""
        values = self._rows.pop(rollout, {})
        updates = list(self._updates.values())
        self._updates = {}
        for name in dict.fromkeys(name for update in updates for name in update):
            given = [update[name] for update in updates if name in update]
            values[name] = given[-1] if "/lr-" in name else sum(given) / len(given)
        norms = [update["train/grad_norm"] for update in updates if "train/grad_norm" in update]
        if updates:
            values["updates"] = len(updates)
        if norms:
            values["grad_norm_max"], values["zero_gradient_updates"] = max(norms), norms.count(0.0)
        for name in ("rollout/kl", "train/step", "rollout/step"):
            if name != "rollout/kl" or number_in(values, name) == 0:  # 0 also where there is no reference policy
                values.pop(name, None)
        return Entry(rollout, values, self._where.pop(rollout, where))

    def forget(self) -> None:
        """Of generations that were not trained on, keep the latest."""
        while len(self._rows) > _MOST_ROLLOUTS_AHEAD:
            oldest = next(rollout for rollout in self._rows if rollout != self.begun)
            del self._rows[oldest]
            self._where.pop(oldest, None)


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    rollouts = _Rollouts()
    where = ""
    for where, start, values in printed_rows(source, tally, ": {", _START):
        kind, count = start[1], int(start[2])
        if kind == "step" and rollouts.begun is None:
            yield Entry(count, values, where)
        elif kind == "step":
            rollouts.update(count, values, tally, where)
        else:
            if kind == "rollout" and rollouts.begun not in (None, count):
                yield rollouts.close(rollouts.begun, where)
            rollouts.begun = count if kind == "rollout" else rollouts.begun
            rollouts.add(count, values, where)
            rollouts.forget()
    if rollouts.begun is not None:
        yield rollouts.close(rollouts.begun, where)


FORMAT = Format(
    name="slime",
    title="console log of slime",
    trainer="slime",
    metrics=METRICS,
    line=re.compile(r"(?<!Global )(?<![\w-])(?:rollout|step|perf) \d{1,15}: \{'(?:rollout|train|perf)/"),
    sign=": {'",
    read=_read,
    whole_steps=True,
)
