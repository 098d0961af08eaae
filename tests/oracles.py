"""Slow, obvious twins of what lldwatch computes with tensors and arrays: plain loops over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

ZERO_ADVANTAGE = 0.01


def actions_of(mask: Sequence[int]) -> list[list[int]]:
    """The positions of each contiguous run of policy tokens."""
    actions: list[list[int]] = []
    for position, written in enumerate(mask):
        if not written:
            continue
        if actions and actions[-1][-1] == position - 1:
            actions[-1].append(position)
        else:
            actions.append([position])
    return actions


def span_columns(name: str, span: Sequence[int], log_probs: Sequence[float], old: Sequence[float]) -> dict[str, Any]:
    return {
        f"{name}_tokens": len(span),
        f"{name}_log_prob": sum(old[p] for p in span),
        f"{name}_change": sum(log_probs[p] - old[p] for p in span),
    }


def response_row(
    log_probs: Sequence[float],
    old_log_probs: Sequence[float] | None,
    mask: Sequence[int],
    *,
    advantage: float | Sequence[float] | None = None,
    reward: float | None = None,
    entropy: Sequence[float] | None = None,
    correct: bool | None = None,
    answer_mask: Sequence[int] | None = None,
    clip_range: tuple[float, float] | None = None,
    low_confidence: tuple[float, float] = (0.1, 0.01),
) -> dict[str, Any]:
    """The columns of one response, token by token."""
    old_log_probs = log_probs if old_log_probs is None else old_log_probs
    positions = [position for position, written in enumerate(mask) if written]
    actions = actions_of(mask)
    row: dict[str, Any] = {
        "tokens": len(positions),
        "actions": len(actions),
        "log_prob": sum(log_probs[p] for p in positions),
        "old_log_prob": sum(old_log_probs[p] for p in positions),
        "min_log_prob": min((log_probs[p] for p in positions), default=0.0),
        "low_confidence_tokens": sum(log_probs[p] < math.log(low_confidence[0]) for p in positions),
        "very_low_confidence_tokens": sum(log_probs[p] < math.log(low_confidence[1]) for p in positions),
        **span_columns("first_action", actions[0] if actions else [], log_probs, old_log_probs),
    }
    if answer_mask is not None:
        row |= span_columns("answer", [p for p in positions if answer_mask[p]], log_probs, old_log_probs)
    if entropy is not None:
        row["entropy"] = sum(entropy[p] for p in positions) / max(len(positions), 1)
    if clip_range is not None:
        ratios = [math.exp(log_probs[p] - old_log_probs[p]) for p in positions]
        row["clipped_tokens"] = sum(not 1 - clip_range[0] <= ratio <= 1 + clip_range[1] for ratio in ratios)
    if isinstance(advantage, Sequence):
        row["advantage"] = sum(advantage[p] for p in positions) / max(len(positions), 1)
    elif advantage is not None:
        row["advantage"] = advantage
    if reward is not None:
        row["reward"] = reward
    if correct is not None:
        row["correct"] = correct
    elif reward is not None:
        row["correct"] = reward > 0
    elif advantage is not None:
        row["correct"] = row["advantage"] >= ZERO_ADVANTAGE
    return row


def place_rows(
    log_probs: Sequence[Sequence[float]],
    masks: Sequence[Sequence[int]],
    places: int,
    low_confidence: tuple[float, float] = (0.1, 0.01),
) -> dict[tuple[bool, int], dict[str, Any]]:
    """(after feedback, place in the action) -> what stands there, over all responses of a batch."""
    found: dict[tuple[bool, int], list[float]] = {}
    for values, mask in zip(log_probs, masks, strict=True):
        for number, action in enumerate(actions_of(mask)):
            for place, position in enumerate(action):
                found.setdefault((number > 0, min(place, places - 1)), []).append(values[position])
    return {
        key: {
            "tokens": len(values),
            "log_prob": sum(values),
            "min_log_prob": min(values),
            "low_confidence_tokens": sum(value < math.log(low_confidence[0]) for value in values),
            "very_low_confidence_tokens": sum(value < math.log(low_confidence[1]) for value in values),
        }
        for key, values in found.items()
    }


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def per_token(nats: Sequence[float], tokens: Sequence[int]) -> float | None:
    return math.fsum(nats) / sum(tokens) if sum(tokens) else None


def gap_of(nats: Sequence[float], rows: Sequence[dict[str, Any]]) -> float | None:
    """Mean over prompts of nats per token of correct minus incorrect responses; each response counts once."""
    gaps = []
    for group in sorted({row["group"] for row in rows}):
        sides: dict[bool, list[float]] = {True: [], False: []}
        for value, row in zip(nats, rows, strict=True):
            if row["group"] == group and row["tokens"] > 0:
                sides[row["correct"]].append(value / row["tokens"])
        if sides[True] and sides[False]:
            gaps.append(math.fsum(sides[True]) / len(sides[True]) - math.fsum(sides[False]) / len(sides[False]))
    return mean(gaps)


def step_summary(rows: Sequence[dict[str, Any]], probes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The step's own numbers from its rows, one dict a response and update."""
    summary = {**(summary_of_responses(rows) if rows else {}), **summary_of_probes(probes)}
    return {name: value for name, value in summary.items() if value is not None}


def summary_of_responses(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seen, once = set(), []
    for row in rows:
        if row["uid"] not in seen:
            seen.add(row["uid"])
            once.append(row)
    rewards = [row["reward"] for row in once]
    center = math.fsum(rewards) / len(rewards)
    right, wrong = [r for r in once if r["correct"]], [r for r in once if not r["correct"]]
    up = [row for row in rows if row["advantage"] >= ZERO_ADVANTAGE]
    down = [row for row in rows if row["advantage"] <= -ZERO_ADVANTAGE]
    lengths, tokens = [row["tokens"] for row in once], [row["tokens"] for row in rows]
    first_update = [row for row in rows if row["update"] == 0 and row["tokens"] > 0]
    return {
        "responses": len(once),
        "reward": center,
        "reward_std": math.sqrt(math.fsum((reward - center) ** 2 for reward in rewards) / len(rewards)),
        "correct_share": len(right) / len(once),
        "zero_advantage_share": mean([float(abs(row["advantage"]) < ZERO_ADVANTAGE) for row in once]),
        "response_length": mean(lengths),
        "actions": mean([row["actions"] for row in once]),
        "min_log_prob": min(row["min_log_prob"] for row in once),
        "low_confidence_share": per_token([row["low_confidence_tokens"] for row in once], lengths),
        "very_low_confidence_share": per_token([row["very_low_confidence_tokens"] for row in once], lengths),
        "log_prob_correct": per_token([r["old_log_prob"] for r in right], [r["tokens"] for r in right]),
        "log_prob_incorrect": per_token([r["old_log_prob"] for r in wrong], [r["tokens"] for r in wrong]),
        "log_prob_first_action": per_token(
            [r["first_action_log_prob"] for r in right], [r["first_action_tokens"] for r in right]
        ),
        "log_prob_later_actions": per_token(
            [r["old_log_prob"] - r["first_action_log_prob"] for r in right],
            [r["tokens"] - r["first_action_tokens"] for r in right],
        ),
        "log_prob_answer": per_token([r["answer_log_prob"] for r in right], [r["answer_tokens"] for r in right]),
        "gap": gap_of([row["old_log_prob"] for row in once], once),
        "entropy": per_token([row["entropy"] * row["tokens"] for row in rows], tokens),
        "clip_fraction": per_token([row["clipped_tokens"] for row in rows], tokens),
        "change_positive": per_token([r["log_prob"] - r["old_log_prob"] for r in up], [r["tokens"] for r in up]),
        "change_negative": per_token([r["log_prob"] - r["old_log_prob"] for r in down], [r["tokens"] for r in down]),
        "first_action_change": mean([row["first_action_change"] for row in up]),
        "answer_change": mean([row["answer_change"] for row in up]),
        "first_update_change": max(
            (abs(r["log_prob"] - r["old_log_prob"]) / r["tokens"] for r in first_update), default=None
        ),
    }


def summary_of_probes(probes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = [{**p, "change": p["log_prob_after"] - p["log_prob_before"]} for p in probes if p["tokens"] > 0]
    cross, post, lagged, fixed, noise = (
        [row for row in rows if row["kind"] == kind]
        for kind in ("cross_update", "post_update", "lagged", "fixed", "noise")
    )
    zero = [row for row in post if abs(row["advantage"]) < ZERO_ADVANTAGE]
    mixed = [row for row in post if abs(row["advantage"]) >= ZERO_ADVANTAGE]

    def change_of(some: Sequence[dict[str, Any]]) -> float | None:
        return per_token([row["change"] for row in some], [row["tokens"] for row in some])

    first = [row["first_action_after"] - row["first_action_before"] for row in cross]
    return {
        "cross_update_change": change_of(cross),
        "cross_update_error": ratio_error(
            [row["change"] for row in cross], [row["tokens"] for row in cross], [row["group"] for row in cross]
        )
        if cross
        else None,
        "cross_update_responses": len(cross) or None,
        "cross_update_first_action": per_token(first, [row["first_action_tokens"] for row in cross]),
        "cross_update_later_actions": per_token(
            [row["change"] - part for row, part in zip(cross, first, strict=True)],
            [row["tokens"] - row["first_action_tokens"] for row in cross],
        ),
        "post_update_correct": change_of([row for row in mixed if row["correct"]]),
        "post_update_incorrect": change_of([row for row in mixed if not row["correct"]]),
        "post_update_zero_advantage": change_of(zero),
        "post_update_gap": gap_of([row["change"] for row in post], post),
        "lagged_change_5": change_of([row for row in lagged if row["lag"] == 5]),
        "lagged_change_10": change_of([row for row in lagged if row["lag"] == 10]),
        "lagged_change_20": change_of([row for row in lagged if row["lag"] == 20]),
        "fixed_anchor_change": change_of(fixed),
        "noise_floor": max((abs(row["change"]) / row["tokens"] for row in noise), default=None),
        "token_noise_floor": max((row["largest_token_change"] for row in noise), default=None),
    }


def in_batch_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What every update saw of the batch's change: sums by update and sign of the advantage."""
    signed = [row for row in rows if abs(row["advantage"]) >= ZERO_ADVANTAGE]
    if len({row["update"] for row in signed}) < 2:
        return []
    found = []
    for key in sorted({(row["update"], row["advantage"] > 0) for row in signed}):
        of_key = [row for row in signed if (row["update"], row["advantage"] > 0) == key]
        found.append(
            {
                "update": key[0],
                "correct": key[1],
                "tokens": sum(row["tokens"] for row in of_key),
                "log_prob_before": math.fsum(row["old_log_prob"] for row in of_key),
                "log_prob_after": math.fsum(row["log_prob"] for row in of_key),
            }
        )
    return found


def ratio_error(changes: Sequence[float], tokens: Sequence[int], groups: Sequence[int]) -> float | None:
    """Standard error of sum(changes) / sum(tokens); the residuals of a prompt are added up before they are squared."""
    ratio = math.fsum(changes) / sum(tokens)
    residuals = dict.fromkeys(groups, 0.0)
    for change, count, group in zip(changes, tokens, groups, strict=True):
        residuals[group] += change - ratio * count
    clusters = len(residuals)
    if clusters < 2:
        return None
    spread = math.fsum(residual**2 for residual in residuals.values())
    return math.sqrt(clusters / (clusters - 1) * spread) / sum(tokens)


def llds_term(
    log_probs: Sequence[Sequence[float]],
    old_log_probs: Sequence[Sequence[float]],
    masks: Sequence[Sequence[int]],
    preserved: Sequence[Sequence[bool]],
    *,
    gate: str = "action",
    answer_masks: Sequence[Sequence[int]] | None = None,
    answer_weight: float = 1.0,
    dead_zone: float = 0.0,
    count: float | None = None,
) -> dict[str, Any]:
    """LLDS token by token: arXiv:2512.04220v2, Eq. 4 (action), 10 (response), 9 (token), 5 (answer).

    Args:
        preserved: what belongs to the preserving set, for each token.
        count: tokens to divide by; None: those of the preserving set.
    """
    drops = [[old - new for new, old in zip(*rows, strict=True)] for rows in zip(log_probs, old_log_probs, strict=True)]
    gradient = [[0.0] * len(mask) for mask in masks]
    gates = open_gates = kept_tokens = moved = 0
    penalties, penalised = [], []
    for row, mask in enumerate(masks):
        actions = actions_of(mask)
        written = [position for action in actions for position in action]
        behind = {"action": actions, "response": [written], "token": [[position] for position in written]}[gate]
        for group in behind:
            kept = [position for position in group if preserved[row][position]]
            beyond = {p: max(drops[row][p] - dead_zone, 0.0) - max(-drops[row][p] - dead_zone, 0.0) for p in kept}
            gates += bool(kept)
            kept_tokens += len(kept)
            moved += sum(value != 0 for value in beyond.values())
            if math.fsum(beyond.values()) <= 0:
                continue
            open_gates += 1
            for position in kept:
                weight = answer_weight if answer_masks is not None and answer_masks[row][position] else 1.0
                if beyond[position] > 0:
                    penalties.append(weight * beyond[position])
                    gradient[row][position] = -weight
                    penalised += [drops[row][position]] * (weight > 0)
    divisor = kept_tokens if count is None else count
    return {
        "loss": math.fsum(penalties) / divisor if divisor else 0.0,
        "gradient": [[value / divisor if divisor else 0.0 for value in row] for row in gradient],
        "gates": gates,
        "open_gates": open_gates,
        "preserved_tokens": kept_tokens,
        "moved_tokens": moved,
        "penalised_tokens": len(penalised),
        "mean_drop": mean(penalised) or 0.0,
    }


def official_llds(
    log_probs: Sequence[Sequence[float]],
    old_log_probs: Sequence[Sequence[float]],
    masks: Sequence[Sequence[int]],
    advantages: Sequence[float],
    gate: str,
    *,
    coefficient: float,
    answer_masks: Sequence[Sequence[int]] | None = None,
    answer_coefficient: float = 0.0,
    valid_searches: float = 0.0,
) -> float:
    """What the authors' published code adds to the loss of a micro-batch, with its answer mask "adaptive"."""
    of_answer = min(answer_coefficient * max(valid_searches - 1, 0), coefficient)
    total, tokens = 0.0, 0
    for row, (new, old, mask, advantage) in enumerate(zip(log_probs, old_log_probs, masks, advantages, strict=True)):
        tokens += sum(mask)
        if advantage < 0:
            continue
        chunks = actions_of(mask) if gate == "action" else [[p for p, written in enumerate(mask) if written]]
        for chunk in chunks:
            if math.fsum(old[p] - new[p] for p in chunk) > 0:
                for p in chunk:
                    answer = answer_masks is not None and answer_masks[row][p]
                    total += (of_answer if answer else coefficient) * max(old[p] - new[p], 0.0)
    return total / tokens


def tokens_preserved(
    masks: Sequence[Sequence[int]], advantages: Sequence[float] | Sequence[Sequence[float]], preserve: str
) -> list[list[bool]]:
    """Whether each token belongs to the preserving set, from advantages of responses or of tokens."""

    def chosen(advantage: float) -> bool:
        return advantage >= ZERO_ADVANTAGE if preserve == "positive" else advantage > -ZERO_ADVANTAGE

    return [
        [chosen(each[p]) if isinstance(each, Sequence) else chosen(each) for p in range(len(mask))]
        for mask, each in zip(masks, advantages, strict=True)
    ]
