"""prime-rl's `token_exports/step_{N}/rank_{R}.jsonl` (`enable_token_export`): each sample of a step token by token.

`inference_logprobs` are those of the engine that drew the tokens, some updates older than the trainer; prime-rl takes
its ratio, and what it masks, against them. So they are `old_log_prob` here, as in a run that lldwatch records live, and
the change within the batch holds the difference of the two programs as well. prime-rl exports no prompt, and the reward
only in some versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lldwatch.importers.format import RowsFormat
from lldwatch.importers.row_lines import numbers
from lldwatch.importers.tally import Tally
from lldwatch.importers.token_rows import Mismatch, reader, response_row
from lldwatch.rollup import ADVANTAGE_TOLERANCE

_PER_TOKEN = ("trainer_logprobs", "inference_logprobs", "entropy", "advantages", "is_masked", "rewards")
_CHANGE = (
    "the change within the batch is trainer - inference, which prime-rl takes its ratio from: it holds how far the two "
    "engines differ and how old the weights of inference were, rollout_kl says how much"
)
_CORRECT = "no rewards in the token exports: a sample with a positive advantage counts as correct"


def _row(given: Mapping[str, Any], mismatch: Mismatch, tally: Tally) -> dict[str, float] | None:
    """One sample; None if it is none."""
    mask = numbers(given.get("loss_mask"))
    lists = {name: numbers(given[name]) for name in _PER_TOKEN if given.get(name) is not None}
    if mask is None or not lists or any(array is None or len(array) != len(mask) for array in lists.values()):
        return None
    inside = mask == 1
    told = {name: a for name, a in lists.items() if a is not None and not _is_unknown(given[name])}
    trainer, engine = told.get("trainer_logprobs"), told.get("inference_logprobs")
    if trainer is not None and engine is not None:
        tally.note(_CHANGE)
        mismatch.add(trainer[inside], engine[inside])
    row = response_row(
        inside,
        scored=trainer,
        old=engine,
        new=trainer,
        entropy=told.get("entropy"),
        advantages=told.get("advantages"),
        clipped=told.get("is_masked"),
    )
    if "rewards" in told and inside.any():
        row["reward"] = float(told["rewards"][inside][-1])
        row["correct"] = row["reward"] > 0
    elif "advantage" in row:
        tally.note(_CORRECT)
        row["correct"] = row["advantage"] >= ADVANTAGE_TOLERANCE
    return row


def _is_unknown(values: Any) -> bool:
    """prime-rl writes null at every token for what it did not compute, and at single ones for inf and NaN."""
    return isinstance(values, list) and all(value is None for value in values)


FORMAT = RowsFormat(
    name="prime-rl-tokens",
    title="token_exports of prime-rl, token by token",
    trainer="prime-rl",
    path=re.compile(r"(?:^|/)token_exports/step_(?P<step>\d+)/rank_\d+\.jsonl$"),
    recognise=lambda path: "it lies in token_exports",
    read=reader(_row, "sample"),
)
