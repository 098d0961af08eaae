"""NeMo-RL's `train_data_step{N}.jsonl`: each response of a step token by token, as it was before the update.

`prev_logprobs` are the trainer's, of the policy before the update; `generation_logprobs` those of the engine that drew
the tokens. On-policy both are of one policy, and differ because two programs computed them: that is no change of
likelihood, so `log_prob` stays unknown, and the difference becomes `rollout_kl`. In asynchronous training the engine's
policy may be a few updates older. Index 0 of each list belongs to no prediction, and the loss leaves it out as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lldwatch.columns import Array
from lldwatch.importers.format import RowsFormat
from lldwatch.importers.row_lines import numbers, scalar
from lldwatch.importers.tally import Tally
from lldwatch.importers.token_rows import Mismatch, identity, reader, response_row

_PER_TOKEN = ("prev_logprobs", "generation_logprobs")
_TEXTS = "content and token_ids, the words of the responses, are not kept: lldwatch has no column for them"
_NO_MASK = "no token_loss_mask (an older NeMo-RL): which tokens the policy wrote is unknown, rewards alone are read"
_FORCED = "prev_logprobs are all 0, NeMo-RL did not compute them (force_on_policy_ratio): the engine's stand for them"


def _row(given: Mapping[str, Any], mismatch: Mismatch, tally: Tally) -> dict[str, float] | None:
    """One response; None if it is none."""
    reward = scalar(given.get("filtered_rewards", given.get("rewards")))
    row: dict[str, float] = {} if reward is None else {"reward": reward, "correct": reward > 0}
    advantages = numbers(given.get("advantages"))
    mask = numbers(given.get("token_loss_mask"))
    if mask is None:
        if "token_loss_mask" not in given:
            tally.note(_NO_MASK)
        if "token_loss_mask" in given or not row:
            return None
        return row if advantages is None or len(advantages) != 1 else {**row, "advantage": float(advantages[0])}
    used = scalar(given.get("sample_loss_mask", 1))
    inside = (mask != 0) & (used is None or used != 0)
    inside[:1] = False
    scores = {name: numbers(given.get(name)) for name in _PER_TOKEN}
    for array in (*scores.values(), advantages):
        if array is not None and len(array) != len(mask) and not (array is advantages and len(array) == 1):
            return None
    if (prompt := numbers(given.get("token_ids"))) is not None and len(prompt) == len(mask):
        row["group"] = _group(prompt, mask)
    return row | _scored(inside, scores["prev_logprobs"], scores["generation_logprobs"], advantages, mismatch, tally)


def _scored(
    inside: Array,
    trainer: Array | None,
    engine: Array | None,
    advantages: Array | None,
    mismatch: Mismatch,
    tally: Tally,
) -> dict[str, float]:
    """What the log-probs of a response say. Zeros alone were not computed, by the one or by the other."""
    there = [None if x is None or (inside.any() and not x[inside].any()) else x for x in (trainer, engine)]
    if there[0] is None and trainer is not None and there[1] is not None:
        tally.note(_FORCED)
    if there[0] is not None and there[1] is not None:
        mismatch.add(there[0][inside], there[1][inside])
    scored = there[0] if there[0] is not None else there[1]
    return response_row(inside, scored=scored, old=scored, advantages=advantages)


def _group(tokens: Array, mask: Array) -> int:
    """What stands before the first token of the policy is the prompt."""
    with np.errstate(all="ignore"):
        return identity(tokens[: int((mask != 0).argmax())].astype(np.int64).tobytes())


FORMAT = RowsFormat(
    name="nemo-train-data",
    title="train_data_step{N}.jsonl of NeMo-RL, token by token",
    trainer="NeMo-RL",
    path=re.compile(r"(?:^|/)train_data_step(?P<step>\d+)\.jsonl$"),
    aside=re.compile(r"(?:^|/)val_data_step\d+\.jsonl$"),
    recognise=lambda path: f"it is named {path.name}",
    read=reader(_row, "response", _TEXTS),
)
