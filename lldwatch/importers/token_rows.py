"""One row a response from its tokens, as `lldwatch.hooks.per_response` makes them from tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from lldwatch.columns import Array
from lldwatch.importers.format import Part, Rows
from lldwatch.importers.row_lines import objects
from lldwatch.importers.tally import Tally
from lldwatch.schema import Responses

LOW, VERY_LOW = math.log(0.1), math.log(0.01)
"""Nats: tokens less likely count as written with low and with very low confidence."""


def identity(prompt: bytes) -> int:
    """The same for the same prompt, in all runs and processes."""
    return int.from_bytes(blake2b(prompt, digest_size=8).digest(), "big", signed=True)


def response_row(
    mask: Array,
    *,
    scored: Array | None,
    old: Array | None,
    new: Array | None = None,
    entropy: Array | None = None,
    advantages: Array | None = None,
    clipped: Array | None = None,
) -> dict[str, float]:
    """One response.

    Args:
        mask: bool, shape (tokens,): the policy wrote the token. All others have the same shape.
        scored: nats, of the policy before the update: what confidence is told from.
        old: nats, of the policy that wrote the response.
        new: nats, of the policy before this update; None where it is `old`.
        entropy: nats.
        advantages: of each token, or of the response, shape (1,).
        clipped: 1 where the trainer clipped the token.

    Returns:
        Column of `Responses` -> value, of those that are known.
    """
    tokens = int(mask.sum())
    starts = mask & ~np.concatenate(([False], mask[:-1]))
    first = mask & (np.cumsum(starts) == 1)
    row: dict[str, float] = {"tokens": tokens, "actions": int(starts.sum()), "first_action_tokens": int(first.sum())}
    with np.errstate(all="ignore"):  # inf - inf is NaN, and stands there as such
        if scored is not None:
            inside = scored[mask]
            row["min_log_prob"] = float(np.min(inside, initial=0.0))
            row["low_confidence_tokens"] = int((inside < LOW).sum())
            row["very_low_confidence_tokens"] = int((inside < VERY_LOW).sum())
        if old is not None:
            row["old_log_prob"] = float(old[mask].sum())
            row["first_action_log_prob"] = float(old[first].sum())
        if old is not None and new is not None:
            row["log_prob"] = float(new[mask].sum())
            row["first_action_change"] = float((new[first] - old[first]).sum())
        if entropy is not None:
            row["entropy"] = float(entropy[mask].sum() / max(tokens, 1))
        if advantages is not None:
            of_tokens = len(advantages) == len(mask)
            row["advantage"] = float(advantages[mask].sum() / max(tokens, 1) if of_tokens else advantages[0])
        if clipped is not None:
            row["clipped_tokens"] = int((clipped[mask] == 1).sum())
    return row


def responses_of(rows: Sequence[Mapping[str, float]]) -> Responses:
    """The rows as columns: those that every row has."""
    common = set.intersection(*(set(row) for row in rows)) if rows else set()
    return Responses(**{name: np.array([row[name] for row in rows]) for name in common})


Read = Callable[[Mapping[int, Sequence[Part]], Tally], Callable[[int], Rows]]
"""What `RowsFormat.read` is."""


def reader(
    row_of: Callable[[Mapping[str, Any], Mismatch, Tally], Mapping[str, float] | None],
    what: str,
    note: str | None = None,
) -> Read:
    """`read` of a format whose files hold a response a line, token by token.

    Args:
        row_of: the response of a line; None if it is none.
        what: a line holds, for messages.
        note: what is said where there are any.
    """

    def read(places: Mapping[int, Sequence[Part]], tally: Tally) -> Callable[[int], Rows]:
        def of_step(step: int) -> Rows:
            rows, mismatch = [], Mismatch()
            for where, given in objects(places[step], tally):
                row = row_of(given, mismatch, tally)
                if row is None:
                    tally.drop(f"{what} whose lists are no numbers, or differ in length", where)
                else:
                    rows.append(row)
            if rows and note:
                tally.note(note)
            return Rows(responses_of(rows), mismatch.values)

        return of_step

    return read


class Mismatch:
    """KL divergence of the rollout engine from the trainer, both of the same policy, over the tokens of a step.

    The estimate called k3, mean of exp(d) - 1 - d with d = trainer - engine at tokens that the engine drew: never
    negative, and the one that NeMo-RL (`gen_kl_error`) and prime-rl (`mismatch_kl`) log.
    """

    def __init__(self) -> None:
        self._sum, self._tokens = 0.0, 0

    def add(self, trainer: Array, engine: Array) -> None:
        """Tokens of a response, nats, shape (tokens,)."""
        with np.errstate(all="ignore"):
            difference = trainer - engine
            self._sum += float(np.sum(np.expm1(difference) - difference))
        self._tokens += len(trainer)

    @property
    def values(self) -> dict[str, float]:
        """As field of `Observation`; nothing where there were no tokens."""
        return {"rollout_kl": self._sum / self._tokens} if self._tokens else {}
