"""AReaL's console log: `... Train step 47/50 done.`, then a table drawn with box characters, four metrics a row.

Up to 0.4 a step had one table for each of its updates, the first of which held the statistics of the batch as well:
they are averaged. The prefix of the names is that of the trainer, `grpo_actor/` or, since 0.5, `ppo_actor/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.numbers import number
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

_PREFIXES = ("ppo_actor/", "grpo_actor/")
_OF_BATCH = {"task_reward/avg": "reward", "n_seqs": "responses"}
_OF_UPDATES = {
    "actor_loss/avg": "loss",
    "grad_norm": "grad_norm",
    "lr": "learning_rate",
    "entropy/avg": "entropy",
    "clip_ratio/avg": "clip_fraction",
}
METRICS = {
    **{prefix + theirs: ours for prefix in _PREFIXES for theirs, ours in _OF_BATCH.items()},
    **{prefix + "update/" + theirs: ours for prefix in _PREFIXES for theirs, ours in _OF_UPDATES.items()},
    **{prefix + theirs: ours for prefix in _PREFIXES for theirs, ours in _OF_UPDATES.items()},
    "rollout/reward": "reward",  # of all rollouts, those that were rejected too
}
"""Not mapped: `no_eos_ratios` (responses as long as the longest of the batch, cut off or not), `seq_len` (with the
prompt), `final_reward` (a token's, after the KL penalty), `approx_kl` and `behave_approx_kl` (log-ratios of the policy
to its own past, with the sign turned round and without the capped tokens), `kl_rewards` (with its coefficient)."""

_STEP = re.compile(r"\bTrain step (\d{1,12})/(\d{1,12}) done\.")
_CELL = re.compile(r"[│|] ([\w./@-]{1,200})\s{1,200}[│|] {1,40}(-?[\w.+-]{1,30}) {0,40}(?=[│|])")


class _Step:
    """The tables of a step; of what stands in several of them the mean, and the last learning rate."""

    def __init__(self, number: int, where: str) -> None:
        self.number, self.where, self.tables = number, where, 0
        self._sums: dict[str, tuple[float, int]] = {}

    @property
    def has_values(self) -> bool:
        return bool(self._sums)

    def add(self, name: str, value: float) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (value, 1) if name.endswith("/lr") else (total + value, count + 1)

    def entry(self) -> Entry:
        values: dict[str, Any] = {name: total / count for name, (total, count) in self._sums.items()}
        if self.tables > 1:
            values["updates"] = self.tables
        for prefix in _PREFIXES:
            whole, prompt = values.get(f"{prefix}seq_len/avg"), values.pop(f"{prefix}prompt_len/avg", None)
            if whole is not None and prompt is not None:
                values["response_length"] = whole - prompt  # AReaL's prompt is all that is not of the policy
            right, all_of_them = values.pop(f"{prefix}correct_n_seqs", None), values.get(f"{prefix}n_seqs")
            if right is not None and all_of_them:
                values["correct_share"] = right / all_of_them
        return Entry(self.number, values, self.where)


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    step: _Step | None = None
    for line in source.lines(tally):
        text = line.text
        found = _STEP.search(text) if "Train step " in text else None
        if found is not None:
            if step is not None and step.has_values:
                yield step.entry()
            step = _Step(int(found[1]), f"line {line.number}")
        elif step is not None and "╒" in text:
            step.tables += 1
        elif step is not None and ("│" in text or "|" in text):
            for name, value in _CELL.findall(text):
                _add(step, name, value)
    if step is not None and step.has_values:
        yield step.entry()


def _add(step: _Step, name: str, text: str) -> None:
    try:
        value = number(text)
    except ValueError:
        return  # of another table
    if value is not None:
        step.add(name, value)


def _about(source: Source) -> dict[str, Any]:
    found = _STEP.search(source.opening)
    return {"planned_steps": int(found[2])} if found and 0 < int(found[2]) < 2**31 else {}


FORMAT = Format(
    name="areal",
    title="console log of AReaL",
    trainer="AReaL",
    metrics=METRICS,
    line=re.compile(r"\bEpoch \d+/\d+ Step \d+/\d+ Train step \d+/\d+ done\."),
    sign="Train step ",
    read=_read,
    about=_about,
    whole_steps=True,
)
