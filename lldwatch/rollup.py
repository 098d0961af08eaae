"""From the rows of one step to the step's own numbers.

Means over tokens are sums of nats divided by sums of tokens, so that a long response counts as much as its tokens.
A response that is seen by several updates (several epochs on one batch) counts once where it is the response that is
described (reward, length, log-prob), and each time where the update is (in-batch change, entropy, clipping).

Rejected: rolling up when the log is read. A dashboard would have to scan every response of a run to draw one curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from lldwatch.columns import Array, stack, stack_columns
from lldwatch.schema import Observation, Positions, Probes, Responses

ADVANTAGE_TOLERANCE = 0.01
"""|advantage| below this is 0: eight equal rewards of 0.1 give -0.007 in float32, 1 right answer of 64 gives 0.016."""

_LAGGED = "lagged_change_"
LAGS = tuple(int(item.name.removeprefix(_LAGGED)) for item in fields(Observation) if item.name.startswith(_LAGGED))
"""Steps back for which `Observation` has a column `lagged_change_N`."""

Columns = dict[str, Array | None]


def summarise(responses: Sequence[Responses], probes: Sequence[Probes]) -> dict[str, Any]:
    """The fields of `Observation` that rows determine.

    Args:
        responses: the step's rows, one table per call of `Monitor.observe`.
        probes: the step's re-scored responses.

    Returns:
        Field name -> value; a field whose columns are missing or without rows is left out.
    """
    rows = stack_columns(responses)
    with np.errstate(all="ignore"):  # inf - inf is NaN, and stands there as such
        summary = {**_of_responses(rows), **_of_updates(rows), **_of_probes(probes)}
    return {name: value for name, value in summary.items() if value is not None}


def in_batch(responses: Sequence[Responses]) -> Probes:
    """The in-batch change, summed up by update and sign of the advantage: rows of kind `in_batch`.

    Args:
        responses: the step's rows.

    Returns:
        At most two rows an update; none where the batch was seen by a single update, which `change_positive` and
        `change_negative` say as well, or where a column is missing.
    """
    rows = stack_columns(responses)
    wanted = (rows.get(name) for name in ("update", "advantage", "tokens", "old_log_prob", "log_prob"))
    update, advantage, tokens, old, new = wanted
    if update is None or advantage is None or tokens is None or old is None or new is None:
        return Probes()
    if not len(update) or update.min() == update.max():
        return Probes()
    signed = np.abs(advantage) >= ADVANTAGE_TOLERANCE
    key, where = np.unique(update[signed] * np.int64(2) + (advantage[signed] > 0), return_inverse=True)
    if len(np.unique(key // 2)) < 2:
        return Probes()
    tokens, old, new = (np.bincount(where, weights=column[signed]) for column in (tokens, old, new))
    return Probes(
        kind=np.full(len(key), "in_batch"),
        correct=key % 2,
        lag=np.zeros(len(key)),
        update=key // 2,
        tokens=tokens,
        log_prob_before=old,
        log_prob_after=new,
    )


def by_place(positions: Sequence[Positions]) -> Positions:
    """The (micro-)batches of a step added up: one row a place.

    Args:
        positions: one table per call of `per_response`.
    """
    if len(positions) == 1:
        return positions[0]
    rows = stack_columns(positions)
    after, position = rows.get("after_feedback"), rows.get("position")
    if after is None or position is None:
        return Positions()
    key, where = np.unique(position.astype(np.int64) * 2 + after, return_inverse=True)
    sums: Columns = {}
    for name in ("tokens", "log_prob", "low_confidence_tokens", "very_low_confidence_tokens"):
        column = rows[name]
        sums[name] = None if column is None else np.bincount(where, weights=column)
    smallest = rows["min_log_prob"]
    if smallest is not None:
        lowest = np.full(len(key), np.inf)
        np.minimum.at(lowest, where, smallest)
        sums["min_log_prob"] = lowest
    return Positions(after_feedback=key % 2, position=key // 2, **sums)


def _of_responses(rows: Columns) -> dict[str, Any]:
    """What describes the responses: each counts once."""
    size = next((len(column) for column in rows.values() if column is not None), 0)
    if not size:
        return {}
    if rows["uid"] is not None:
        first = np.unique(rows["uid"], return_index=True)[1]
        if len(first) < size:
            rows = {name: None if column is None else column[first] for name, column in rows.items()}
            size = len(first)
    reward, advantage, smallest = rows["reward"], rows["advantage"], rows["min_log_prob"]
    return {
        "responses": size,
        "reward": _mean(reward),
        "reward_std": None if reward is None else float(np.std(reward, dtype=np.float64)),
        "correct_share": _mean(rows["correct"]),
        "zero_advantage_share": None if advantage is None else _mean(np.abs(advantage) < ADVANTAGE_TOLERANCE),
        "response_length": _mean(rows["tokens"]),
        "actions": _mean(rows["actions"]),
        "min_log_prob": None if smallest is None else float(np.min(smallest)),
        "low_confidence_share": _per_token(rows["low_confidence_tokens"], rows["tokens"]),
        "very_low_confidence_share": _per_token(rows["very_low_confidence_tokens"], rows["tokens"]),
        **_likelihood(rows),
    }


def _likelihood(rows: Columns) -> dict[str, float | None]:
    """Log-probs under the policy that wrote the responses: of correct and incorrect ones, by action, and the gap."""
    correct, log_prob, tokens = rows["correct"], rows["old_log_prob"], rows["tokens"]
    if correct is None or log_prob is None or tokens is None:
        return {}
    right = {name: None if column is None else column[correct] for name, column in rows.items()}
    return {
        "log_prob_correct": _per_token(right["old_log_prob"], right["tokens"]),
        "log_prob_incorrect": _per_token(log_prob[~correct], tokens[~correct]),
        "log_prob_first_action": _per_token(right["first_action_log_prob"], right["first_action_tokens"]),
        "log_prob_later_actions": _per_token(
            _minus(right["old_log_prob"], right["first_action_log_prob"]),
            _minus(right["tokens"], right["first_action_tokens"]),
        ),
        "log_prob_answer": _per_token(right["answer_log_prob"], right["answer_tokens"]),
        "gap": _gap(log_prob, tokens, correct, rows["group"]),
    }


def _of_updates(rows: Columns) -> dict[str, Any]:
    """What describes the updates: each row counts."""
    tokens = rows.get("tokens")
    if tokens is None:
        return {}
    entropy, advantage, update = rows["entropy"], rows["advantage"], rows["update"]
    change = _minus(rows["log_prob"], rows["old_log_prob"])
    summary: dict[str, Any] = {"clip_fraction": _per_token(rows["clipped_tokens"], tokens)}
    if entropy is not None:
        summary["entropy"] = _per_token(entropy[tokens > 0] * tokens[tokens > 0], tokens[tokens > 0])
    if change is not None and update is not None:
        first = (update == 0) & (tokens > 0)
        summary["first_update_change"] = float(np.max(np.abs(change[first]) / tokens[first])) if first.any() else None
    if advantage is not None and change is not None:
        up, down = advantage >= ADVANTAGE_TOLERANCE, advantage <= -ADVANTAGE_TOLERANCE
        summary["change_positive"] = _per_token(change[up], tokens[up])
        summary["change_negative"] = _per_token(change[down], tokens[down])
        for name in ("first_action_change", "answer_change"):
            column = rows[name]
            summary[name] = None if column is None else _mean(column[up])
    return summary


def _of_probes(tables: Sequence[Probes]) -> dict[str, Any]:
    """What the re-scored responses say, kind by kind: a column that one kind lacks is not missing in the others."""
    parts: dict[str, list[Columns]] = {name: [] for name in _OF_KIND}
    for table in tables:
        rows = table.columns()
        kind, tokens = rows["kind"], rows["tokens"]
        change = _minus(rows["log_prob_after"], rows["log_prob_before"])
        if kind is None or tokens is None or change is None:
            continue
        for name in parts:
            chosen = (kind == name) & (tokens > 0)  # a response without policy tokens says nothing
            if chosen.any():
                columns = {**rows, "change": change}.items()
                parts[name].append({column: None if v is None else v[chosen] for column, v in columns})
    summary: dict[str, Any] = {}
    for name, of_kind in _OF_KIND.items():
        if parts[name]:
            summary.update(of_kind(stack(parts[name])))
    return summary


def _cross_update(rows: Columns) -> dict[str, Any]:
    """The headline, its standard error, and the first action apart from later ones."""
    change, tokens, group = rows["change"], rows["tokens"], rows["group"]
    assert change is not None
    assert tokens is not None
    first = _minus(rows["first_action_after"], rows["first_action_before"])
    return {
        "cross_update_change": _per_token(change, tokens),
        "cross_update_error": _standard_error(change, tokens, np.arange(len(change)) if group is None else group),
        "cross_update_responses": len(change),
        "cross_update_first_action": _per_token(first, rows["first_action_tokens"]),
        "cross_update_later_actions": _per_token(_minus(change, first), _minus(tokens, rows["first_action_tokens"])),
    }


def _post_update(rows: Columns) -> dict[str, Any]:
    """Correct, incorrect and zero-advantage responses apart; without advantages none counts as the last."""
    change, tokens, correct, advantage = rows["change"], rows["tokens"], rows["correct"], rows["advantage"]
    if change is None or tokens is None or correct is None:
        return {}
    zero = np.zeros(len(change), bool) if advantage is None else np.abs(advantage) < ADVANTAGE_TOLERANCE
    parts = {"correct": correct & ~zero, "incorrect": ~correct & ~zero, "zero_advantage": zero}
    summary = {f"post_update_{name}": _per_token(change[part], tokens[part]) for name, part in parts.items()}
    return {**summary, "post_update_gap": _gap(change, tokens, correct, rows["group"])}


def _lagged(rows: Columns) -> dict[str, Any]:
    change, tokens, lag = rows["change"], rows["tokens"], rows["lag"]
    if change is None or tokens is None or lag is None:
        return {}
    return {f"{_LAGGED}{steps}": _per_token(change[lag == steps], tokens[lag == steps]) for steps in LAGS}


def _fixed(rows: Columns) -> dict[str, Any]:
    return {"fixed_anchor_change": _per_token(rows["change"], rows["tokens"])}


def _noise(rows: Columns) -> dict[str, Any]:
    change, tokens, largest = rows["change"], rows["tokens"], rows["largest_token_change"]
    assert change is not None
    assert tokens is not None
    return {
        "noise_floor": float(np.max(np.abs(change) / tokens)),
        "token_noise_floor": None if largest is None else float(np.max(largest)),
    }


_OF_KIND = {
    "cross_update": _cross_update,
    "post_update": _post_update,
    "lagged": _lagged,
    "fixed": _fixed,
    "noise": _noise,
}


def _gap(nats: Array, tokens: Array, correct: Array, group: Array | None) -> float | None:
    """Nats per token of correct minus incorrect responses of a prompt, mean over the prompts that have both.

    Each response has its own token count and the same weight. Reference: the likelihood displacement of correct by
    incorrect responses to one prompt, arXiv:2505.18830.
    """
    if group is None:
        return None
    some = tokens > 0
    _, prompt = np.unique(group[some], return_inverse=True)
    side = 2 * prompt + correct[some]  # of each prompt first the incorrect, then the correct ones
    size = 2 * (int(prompt.max(initial=-1)) + 1)
    sums = np.bincount(side, nats[some] / tokens[some].astype(np.float64), size)
    counts = np.bincount(side, minlength=size)
    wrong, right = (sums / np.maximum(counts, 1)).reshape(-1, 2).T
    return _mean((right - wrong)[counts.reshape(-1, 2).all(1)])


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


def _minus(after: Array | None, before: Array | None) -> Array | None:
    """Double precision: two float32 sums of a long response differ by less than their spacing."""
    return None if after is None or before is None else after.astype(np.float64) - before


def _mean(values: Array | None) -> float | None:
    return None if values is None or not len(values) else float(np.mean(values, dtype=np.float64))


def _per_token(nats: Array | None, tokens: Array | None) -> float | None:
    if nats is None or tokens is None or not (total := int(tokens.sum())):
        return None
    return float(np.sum(nats, dtype=np.float64) / total)
