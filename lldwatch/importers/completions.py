"""What the tables of completions of TRL and ms-swift have in common: rewards by function, an advantage, and words.

Neither says how many answers a prompt has: a group is what answers the same words, wherever it stands. Neither says
the weights of the reward functions, nor (TRL) which columns are rewards and which the user's own (`log_extra`). The
advantages tell whether a sum with weight 1 is what was trained on; where it is not, the reward stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

import numpy as np

from lldwatch.columns import Array
from lldwatch.importers.format import Rows
from lldwatch.importers.tally import Tally
from lldwatch.importers.token_rows import identity
from lldwatch.rollup import ADVANTAGE_TOLERANCE
from lldwatch.schema import Responses

LOOK_AT = 8
"""Steps, evenly chosen, that are asked whether the rewards add up."""

_CLOSE = 2e-3
"""Of the largest difference within a group: advantages are float32, divided by a spread plus 1e-4."""


class Batch(NamedTuple):
    """The completions of a step.

    Attributes:
        prompts: their words.
        completions: their words.
        rewards: reward function -> float64, shape (responses,), NaN where it did not apply.
        advantages: float64, shape (responses,).
    """

    prompts: Sequence[bytes]
    completions: Sequence[bytes]
    rewards: Mapping[str, Array]
    advantages: Array | None


def evenly(steps: Iterable[int]) -> list[int]:
    """At most `LOOK_AT` of the steps."""
    ordered = sorted(steps)
    return ordered[:: max(-(-len(ordered) // LOOK_AT), 1)]


def adds_up(batches: Sequence[Batch], tally: Tally) -> bool:
    """Whether the sum of the reward columns, weight 1, may stand for the reward; says why or why not.

    Args:
        batches: some of the steps.
        tally: gets the note.
    """
    names = ", ".join(dict.fromkeys(name for batch in batches for name in batch.rewards))
    if not names:
        return False
    if all(len(batch.rewards) < 2 for batch in batches):
        tally.note(f"the reward of a response is {names}, with weight 1, since the file names none")
        return True
    found = {verdict for batch in batches if (verdict := _agrees(batch)) is not None}
    if False in found:
        tally.note(
            f"the sum of {names} with weight 1 does not give the advantages that stand beside it (reward_weights, or a "
            "column that is no reward): the reward of a response is left out, correct is who has an advantage above 0"
        )
        return False
    proof = "the advantages agree" if found else "the advantages do not tell, they are 0 or missing"
    tally.note(f"the reward of a response is the sum of {names}, with weight 1, since the file names none: {proof}")
    return True


def rows_of(batch: Batch, summed: bool, tally: Tally, where: str) -> Rows:
    """The rows; a response that no reward function scored has none, since the trainer leaves it out of the update.

    Args:
        batch: of one step.
        summed: the sum of its rewards is the reward.
        tally: counts what is left out.
        where: the step, for messages.
    """
    reward = _sum(batch) if summed else None
    scored = np.ones(len(batch.prompts), bool) if reward is None else ~np.isnan(reward)
    tally.drop("response that no reward function scored", where, int((~scored).sum()))
    columns: dict[str, Array] = {"group": np.array([identity(prompt) for prompt in batch.prompts], np.int64)}
    if batch.advantages is not None:
        columns |= {"advantage": batch.advantages, "correct": batch.advantages >= ADVANTAGE_TOLERANCE}
    if reward is not None:
        columns |= {"reward": reward, "correct": reward > 0}
    words = zip(batch.prompts, batch.completions, columns.get("reward", columns["group"]).tolist(), strict=True)
    marks = [_mark(*parts) for parts, kept in zip(words, scored, strict=True) if kept]
    if not marks:
        return Rows(Responses())
    return Rows(Responses(**{name: column[scored] for name, column in columns.items()}), marks=marks)


def _mark(prompt: bytes, completion: bytes, reward: float) -> bytes:
    return blake2b(b"%d %b%b %r" % (len(prompt), prompt, completion, reward), digest_size=8).digest()


def _sum(batch: Batch) -> Array | None:
    """NaN where no function applied."""
    if not batch.rewards:
        return None
    columns = np.array(list(batch.rewards.values()))
    with np.errstate(all="ignore"):
        total: Array = np.nansum(columns, axis=0)
    total[np.isnan(columns).all(axis=0)] = np.nan
    return total


def _agrees(batch: Batch) -> bool | None:
    """Within each group the advantage is the reward, moved and stretched; None if there is nothing to see."""
    reward, advantage = _sum(batch), batch.advantages
    if reward is None or advantage is None or not len(reward):
        return None
    if not (np.isfinite(reward).all() and np.isfinite(advantage).all()):
        return None
    runs = [len(list(same)) for _, same in groupby(batch.prompts)]
    common = math.gcd(*runs)
    sizes = [size for size in range(2, common + 1) if common % size == 0]
    if not sizes:
        return None
    verdicts = [_fits(reward.reshape(-1, size), advantage.reshape(-1, size)) for size in sizes]
    return next((verdict for verdict in verdicts if verdict is not False), False)


def _fits(reward: Array, advantage: Array) -> bool | None:
    """Of groups of one size, shape (groups, size)."""
    with np.errstate(all="ignore"):
        r = reward - reward.mean(1, keepdims=True)
        a = advantage - advantage.mean(1, keepdims=True)
        moved = (np.abs(r).max(1) > 1e-6) | (np.abs(a).max(1) > ADVANTAGE_TOLERANCE)
        if not moved.any():
            return None
        stretch = (r * a).sum(1, keepdims=True) / np.maximum((a * a).sum(1, keepdims=True), 1e-30)
        off = np.abs(r - stretch * a).max(1)
        return bool((stretch[moved] > 0).all() and (off <= _CLOSE * np.abs(r).max(1) + 1e-6)[moved].all())
