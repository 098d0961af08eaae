"""verl's `rollout_data_dir/{step}.jsonl`: prompt, response and score of each response of a step, as words.

The name is only a number, so that the file is known by its first line. The rows are in no order (verl balances a batch
over its workers): a prompt is told by verl's `uid` where it was written, else by its words. What the reward function
told beside the score stands in further keys; `acc` says whether the response is correct.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lldwatch.importers.format import Part, Rows, RowsFormat
from lldwatch.importers.row_lines import first_object, objects, scalar
from lldwatch.importers.tally import Tally
from lldwatch.importers.token_rows import identity, responses_of

_KEYS = ("input", "output", "score")
_USED = {*_KEYS, "step", "acc", "uid"}


def _recognise(path: Path) -> str | None:
    row = first_object(path)
    return "its lines have input, output and score, as verl dumps rollouts" if row.keys() >= set(_KEYS) else None


def _read(places: Mapping[int, Sequence[Part]], tally: Tally) -> Callable[[int], Rows]:
    def of_step(step: int) -> Rows:
        rows, keys = [], set[str]()
        for where, given in objects(places[step], tally):
            score = scalar(given.get("score"))
            if score is None:
                tally.drop("response without a score that is a number", where)
                continue
            keys |= given.keys()
            rows.append(_row(given, score))
        if rows:
            unused = ", ".join(sorted(keys - _USED)[:20])
            tally.note("input and output, the words of the responses, are not kept: lldwatch has no column for them")
            tally.note(f"beside score and acc each response has {unused}: not used") if unused else None
        return Rows(responses_of(rows))

    return of_step


def _row(given: Mapping[str, Any], score: float) -> dict[str, float]:
    prompt = given.get("uid", given.get("input"))
    right = scalar(given.get("acc"))
    return {
        "reward": score,
        "group": identity(str(prompt).encode(errors="replace")),
        "correct": score > 0 if right is None else right > 0,
    }


FORMAT = RowsFormat(
    name="verl-rollouts",
    title="rollout_data_dir/{step}.jsonl of verl",
    trainer="verl",
    path=re.compile(r"(?:^|/)(?P<step>\d+)\.jsonl$"),
    aside=re.compile(r"(?:^|/)(?:[^/]*[_.-])?(?:e?val|validation|evaluation)(?:[_.-][^/]*)?/\d+\.jsonl$"),
    recognise=_recognise,
    read=_read,
)
