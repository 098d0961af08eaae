"""ms-swift's `logging.jsonl`, and its console log, which prints the same rows as dicts of Python.

The rows are TRL's with `'global_step/max_steps': '5/3766'`; the Megatron trainers call it `'iteration'`. Rows of a
reused batch lack the reward. The last line of the file sums the training up, and holds its whole history once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lldwatch.importers import trl_state
from lldwatch.importers.format import Entry, Format
from lldwatch.importers.numbers import pairs
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

METRICS = {
    **trl_state.METRICS,
    "entropy/mean": "entropy",  # mean over responses of their means over tokens
    "rollout_correction/k3_kl": "rollout_kl",
    "rollout_correction/kl": "rollout_kl",
    "num_turns": "actions",
}
"""Not mapped: `entropy/threshold`, `rollout_correction/*ppl*` and `chi2*` (no KL), `teacher_kl` (another model)."""

_STEP = re.compile(r"""["'](?:global_step/max_steps|iteration)["']: {0,3}["'](\d{1,12})/(\d{1,12})["']""")
_ROW = re.compile(r"""[{,] {0,3}["'](?:loss|eval_loss|reward|grad_norm)["']: """)


def _recognise(source: Source) -> str | None:
    first = source.opening.partition("\n")[0]
    if source.is_text and first.startswith("{") and (found := _STEP.search(first)):
        return f"its first row has {found[0]}"
    return None


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    for line in source.lines(tally):
        text, where = line.text, f"line {line.number}"
        start = text.find("{")
        if start < 0 or not _ROW.search(text, start):
            continue
        if re.search(r"""["'](?:train_runtime|eval_loss)["']: """, text):
            tally.drop("summary of the training, or evaluation", where)
            continue
        step, end = _STEP.search(text, start), text.rfind("}")
        if step is None or end < start:
            tally.drop("row that breaks off, or has no step", where)
            continue
        values = pairs(text[start:end])
        for name in ("global_step/max_steps", "iteration", "elapsed_time", "remaining_time"):
            values.pop(name, None)
        yield Entry(int(step[1]), values, where)


def _about(source: Source) -> dict[str, Any]:
    found = _STEP.search(source.opening)
    return {"planned_steps": int(found[2])} if found and 0 < int(found[2]) < 2**31 else {}


FORMAT = Format(
    name="swift",
    title="logging.jsonl or console log of ms-swift",
    trainer="ms-swift",
    metrics=METRICS,
    recognise=_recognise,
    line=re.compile(r"""["']global_step/max_steps["']: {0,3}["']\d{1,12}/\d{1,12}["']"""),
    sign="global_step/max_steps",
    read=_read,
    about=_about,
    whole_steps=True,
)
