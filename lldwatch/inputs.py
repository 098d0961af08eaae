"""What is wrong with what a training loop gave, each in one line: what was got, and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import numpy as np

from lldwatch.schema import Observation, Probes, Responses

SCALARS = tuple(column.name for column in fields(Observation) if column.name not in ("step", "time"))
"""What a loop may give to `Monitor.update` and `Monitor.step`."""

_SHORT = {"lr": "learning_rate", "kl_ref": "kl", "length": "response_length", "rewards": "reward"}
_NO_LOG_PROB = -1e5
"""Nats; no policy gives a token so little, but masked-out positions are often filled with -1e9."""


def problem_of(responses: Responses) -> str | None:
    """What is wrong with the values of a batch; None when nothing is."""
    for name, argument in (("log_prob", "log_probs"), ("old_log_prob", "old_log_probs"), ("entropy", "entropy")):
        values = getattr(responses, name)
        if values is None:
            continue
        if not np.isfinite(values).all():
            return f"{argument} is not finite in {_rows(~np.isfinite(values))}: expected finite nats inside the mask"
        if name != "entropy" and responses.tokens is not None and (values > 1e-3 * responses.tokens).any():
            return f"{argument} is above 0 in {_rows(values > 1e-3 * responses.tokens)}: expected log-probabilities"
    smallest = responses.min_log_prob
    if smallest is not None and (smallest < _NO_LOG_PROB).any():
        low = float(smallest.min())
        return f"log_probs falls to {low:.3g}: does response_mask cover masked-out positions?"
    if responses.tokens is not None and len(responses) and not responses.tokens.any():
        return f"response_mask is 0 everywhere in a batch of {len(responses)} responses: expected 1 on policy tokens"
    return None


def problem_of_scores(probes: Probes) -> str | None:
    """What is wrong with what a score returned; None when nothing is."""
    for values in (probes.log_prob_before, probes.log_prob_after):
        if values is None or probes.tokens is None:
            continue
        if (values > 1e-3 * probes.tokens).any():
            return f"score is above 0 in {_rows(values > 1e-3 * probes.tokens)}: expected log-probs of the tokens"
        if not np.isfinite(values).all():
            return f"score is not finite in {_rows(~np.isfinite(values))}: expected finite nats inside the mask"
    return None


def numbers_of(scalars: Mapping[str, Any], *, wait: bool = True) -> tuple[dict[str, Any], list[str]]:
    """The numbers among what the loop gave (None is left out), and what is wrong with the others.

    Args:
        scalars: field of `Observation` -> number, or tensor with one element.
        wait: for a GPU; if not, a copy of what is there stands for its number, which a later call turns into it.
    """
    numbers, problems = {}, []
    for name, value in scalars.items():
        if name not in SCALARS:
            meant = get_close_matches(_SHORT.get(name, name), SCALARS, 3)
            guess = f"did you mean {' or '.join(meant)}?" if meant else f"expected one of {', '.join(SCALARS)}"
            problems.append(f"{name} is not a field of Observation: {guess}")
        elif value is not None:
            try:  # a tensor that wants a gradient would warn when it is turned into a number
                value = value.detach() if hasattr(value, "detach") else value
                numbers[name] = float(value) if wait or not getattr(value, "is_cuda", False) else value.clone()
            except (TypeError, ValueError, OverflowError, RuntimeError) as error:
                shape = f" of shape {tuple(value.shape)}" if getattr(value, "shape", None) else ""
                problems.append(f"{name}{shape} is not one number: {error}")
    return numbers, problems


def _rows(bad: Any) -> str:
    return f"{int(bad.sum())} of {len(bad)} responses (first: row {int(np.flatnonzero(bad)[0])})"


def whole(step: Any) -> Any:
    """The number of a step as an int, of a tensor as well; what is none is left for `Observation` to refuse."""
    try:
        return step if step is None or isinstance(step, str) else int(step)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return step
