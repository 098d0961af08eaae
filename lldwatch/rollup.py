"""From the rows of one step to the step's own numbers.

Means over tokens are sums of nats divided by sums of tokens, so that a long response counts as much as its tokens.
A response that is seen by several updates (several epochs on one batch) counts once where it is the response that is
described (reward, length, log-prob), and each time where the update is (in-batch change, entropy, clipping).

Rejected: rolling up when the log is read. A dashboard would have to scan every response of a run to draw one curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lldwatch.schema import Array, Probes, Responses, stack_columns

ADVANTAGE_TOLERANCE = 0.01
"""|advantage| below this is 0: eight equal rewards of 0.1 give -0.007 in float32, 1 right answer of 64 gives 0.016."""


def summarise(responses: Sequence[Responses], probes: Sequence[Probes]) -> dict[str, Any]:
    """The fields of `Observation` that rows determine.

    Args:
        responses: the step's rows, one table per call of `Monitor.observe`.
        probes: the step's re-scored responses.

    Returns:
        Field name -> value; a field whose columns are missing or without rows is left out.
    """
    rows, rescored = stack_columns(responses), stack_columns(probes)
    summary = {**_of_responses(rows), **_of_updates(rows), **_of_probes(rescored)}
    return {name: value for name, value in summary.items() if value is not None}


def _of_responses(rows: dict[str, Array | None]) -> dict[str, Any]:
    """What describes the responses: each counts once."""
    size = next((len(column) for column in rows.values() if column is not None), 0)
    if not size:
        return {}
    uid = rows["uid"]
    first = np.arange(size) if uid is None else np.unique(uid, return_index=True)[1]
    reward, advantage, correct, actions, length, log_prob, smallest = (
        None if (column := rows[name]) is None else column[first]
        for name in ("reward", "advantage", "correct", "actions", "tokens", "old_log_prob", "min_log_prob")
    )
    summary = {
        "responses": len(first),
        "reward": _mean(reward),
        "reward_std": None if reward is None else float(np.std(reward, dtype=np.float64)),
        "correct_share": _mean(correct),
        "zero_advantage_share": None if advantage is None else _mean(np.abs(advantage) < ADVANTAGE_TOLERANCE),
        "response_length": _mean(length),
        "actions": _mean(actions),
        "min_log_prob": None if smallest is None else float(np.min(smallest)),
    }
    if log_prob is not None and correct is not None and length is not None:
        summary["log_prob_correct"] = _per_token(log_prob[correct], length[correct])
        summary["log_prob_incorrect"] = _per_token(log_prob[~correct], length[~correct])
    return summary


def _of_updates(rows: dict[str, Array | None]) -> dict[str, Any]:
    """What describes the updates: each row counts."""
    tokens = rows.get("tokens")
    if tokens is None:
        return {}
    entropy, clipped, advantage = rows["entropy"], rows["clipped_tokens"], rows["advantage"]
    old, new, first_action = rows["old_log_prob"], rows["log_prob"], rows["first_action_change"]
    summary: dict[str, Any] = {}
    if entropy is not None:
        summary["entropy"] = _per_token(entropy[tokens > 0] * tokens[tokens > 0], tokens[tokens > 0])
    if clipped is not None:
        summary["clip_fraction"] = _per_token(clipped, tokens)
    if advantage is not None and old is not None and new is not None:
        up, down = advantage >= ADVANTAGE_TOLERANCE, advantage <= -ADVANTAGE_TOLERANCE
        summary["change_positive"] = _per_token(new[up].astype(np.float64) - old[up], tokens[up])
        summary["change_negative"] = _per_token(new[down].astype(np.float64) - old[down], tokens[down])
        summary["first_action_change"] = None if first_action is None else _mean(first_action[up])
    return summary


def _of_probes(rows: dict[str, Array | None]) -> dict[str, Any]:
    """What the re-scored responses say: the headline, its standard error, and the noise floor."""
    kind, tokens, before, after = (rows.get(name) for name in ("kind", "tokens", "log_prob_before", "log_prob_after"))
    if kind is None or tokens is None or before is None or after is None:
        return {}
    change = after.astype(np.float64) - before
    cross, noise = (kind == "cross_update") & (tokens > 0), (kind == "noise") & (tokens > 0)
    summary: dict[str, Any] = {}
    if cross.any():
        group = rows.get("group")
        clusters = np.arange(int(cross.sum())) if group is None else group[cross]
        summary["cross_update_change"] = _per_token(change[cross], tokens[cross])
        summary["cross_update_error"] = _standard_error(change[cross], tokens[cross], clusters)
        summary["cross_update_responses"] = int(cross.sum())
    if noise.any():
        summary["noise_floor"] = float(np.max(np.abs(change[noise]) / tokens[noise]))
    return summary


def _standard_error(change: Array, tokens: Array, group: Array) -> float | None:
    """Standard error of sum(change) / sum(tokens), answers to one prompt counted as one (they move together).

    The linearised ratio estimator with clusters (Cochran, Sampling Techniques, 3rd ed., Sec. 6.3 and 9.3):
    sqrt(k / (k - 1) * sum over k clusters of (change_c - ratio * tokens_c)^2) / sum(tokens).
    """
    _, cluster = np.unique(group, return_inverse=True)
    count = int(cluster.max()) + 1
    if count < 2:
        return None
    residual = np.bincount(cluster, weights=change - change.sum() / tokens.sum() * tokens)
    return float(np.sqrt(count / (count - 1) * np.sum(residual**2)) / tokens.sum())


def _mean(values: Array | None) -> float | None:
    return None if values is None or not len(values) else float(np.mean(values, dtype=np.float64))


def _per_token(nats: Array, tokens: Array) -> float | None:
    total = int(tokens.sum())
    return float(np.sum(nats, dtype=np.float64) / total) if total else None
