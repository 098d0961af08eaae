"""`trainer_state.json`, which transformers' Trainer writes into each checkpoint: TRL, Unsloth, Open-R1 and forks.

`log_history` is a list of dicts, one a logged step; the steps of a reused batch lack the reward. The list is read
object by object, so that a file that breaks off still gives what stands before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.numbers import whole
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

METRICS = {
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_advantage_share",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "kl": "kl",
    "clip_ratio/region_mean": "clip_fraction",
    "clip_ratio": "clip_fraction",
    "cispo_clip_ratio": "clip_fraction",
    "completions/mean_length": "response_length",
    "completion_length": "response_length",
    "completions/clipped_ratio": "truncated_share",
}
"""TRL's names; integrations differ: `completion_length` and `clip_ratio` are those before 0.17."""

_KEYS = re.compile(r'"(?:log_history|global_step|best_model_checkpoint)"\s*:')
_OWN_KEYS = re.compile(r'"(?:log_history|best_model_checkpoint)"\s*:')
_HISTORY = re.compile(r'"log_history"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")


def _recognise(source: Source) -> str | None:
    named = source.path is not None and source.path.name == "trainer_state.json"
    if not source.is_text or not _KEYS.search(source.opening):
        return None
    if named:
        return "it is named trainer_state.json"
    # other loops call their step global_step as well: that alone is no TrainerState
    return "it has the keys of transformers' TrainerState" if _OWN_KEYS.search(source.opening) else None


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    text = source.document(tally)
    start = _HISTORY.search(text)
    if start is None:
        tally.note(f"{source.name} has no log_history: nothing was logged, or the file breaks off before it")
        return
    decode = json.JSONDecoder().raw_decode
    place, number = start.end(), 0
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing as well
        if text.startswith("]", place):
            return
        number += 1
        try:
            row, place = decode(text, place)
        except (ValueError, RecursionError) as error:
            tally.drop(f"the rest of log_history, which breaks off or is no JSON ({error})", f"entry {number}")
            return
        if isinstance(row, dict):
            yield Entry(whole(row.pop("step", None)), row, f"log_history entry {number}")
        else:
            tally.drop("entry of log_history that is no object", f"entry {number}")


def _about(source: Source) -> dict[str, Any]:
    """Only what stands in the head; the rest of the state says nothing about the run."""
    found = re.search(r'"max_steps"\s*:\s*(\d+)', source.opening)
    return {"planned_steps": int(found[1])} if found and 0 < int(found[1]) < 2**31 else {}


FORMAT = Format(
    name="trl-state",
    title="trainer_state.json of transformers' Trainer (TRL)",
    trainer="TRL",
    metrics=METRICS,
    recognise=_recognise,
    read=_read,
    about=_about,
)
