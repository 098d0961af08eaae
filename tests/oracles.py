"""Slow, obvious twins of what lldwatch computes with tensors and arrays: plain loops over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

ZERO_ADVANTAGE = 0.01


def response_row(
    log_probs: Sequence[float],
    old_log_probs: Sequence[float] | None,
    mask: Sequence[int],
    *,
    advantage: float | Sequence[float] | None = None,
    reward: float | None = None,
    entropy: Sequence[float] | None = None,
    correct: bool | None = None,
    clip_range: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """The columns of one response, token by token."""
    old_log_probs = log_probs if old_log_probs is None else old_log_probs
    positions = [position for position, written in enumerate(mask) if written]
    actions: list[list[int]] = []
    for position in positions:
        if actions and actions[-1][-1] == position - 1:
            actions[-1].append(position)
        else:
            actions.append([position])
    row: dict[str, Any] = {
        "tokens": len(positions),
        "actions": len(actions),
        "log_prob": sum(log_probs[p] for p in positions),
        "old_log_prob": sum(old_log_probs[p] for p in positions),
        "min_log_prob": min((log_probs[p] for p in positions), default=0.0),
        "first_action_change": sum(log_probs[p] - old_log_probs[p] for p in actions[0]) if actions else 0.0,
    }
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


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def per_token(nats: Sequence[float], tokens: Sequence[int]) -> float | None:
    return math.fsum(nats) / sum(tokens) if sum(tokens) else None


def step_summary(rows: Sequence[dict[str, Any]], probes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The step's own numbers from its rows, one dict a response and update."""
    summary: dict[str, Any] = {}
    seen, once = set(), []
    for row in rows:
        if row["uid"] not in seen:
            seen.add(row["uid"])
            once.append(row)
    if rows:
        rewards = [row["reward"] for row in once]
        center = math.fsum(rewards) / len(rewards)
        right, wrong = [r for r in once if r["correct"]], [r for r in once if not r["correct"]]
        up = [row for row in rows if row["advantage"] >= ZERO_ADVANTAGE]
        down = [row for row in rows if row["advantage"] <= -ZERO_ADVANTAGE]
        tokens = [row["tokens"] for row in rows]
        summary = {
            "responses": len(once),
            "reward": center,
            "reward_std": math.sqrt(math.fsum((reward - center) ** 2 for reward in rewards) / len(rewards)),
            "correct_share": len(right) / len(once),
            "zero_advantage_share": mean([float(abs(row["advantage"]) < ZERO_ADVANTAGE) for row in once]),
            "response_length": mean([row["tokens"] for row in once]),
            "actions": mean([row["actions"] for row in once]),
            "min_log_prob": min(row["min_log_prob"] for row in once),
            "log_prob_correct": per_token([r["old_log_prob"] for r in right], [r["tokens"] for r in right]),
            "log_prob_incorrect": per_token([r["old_log_prob"] for r in wrong], [r["tokens"] for r in wrong]),
            "entropy": per_token([row["entropy"] * row["tokens"] for row in rows], tokens),
            "clip_fraction": per_token([row["clipped_tokens"] for row in rows], tokens),
            "change_positive": per_token([r["log_prob"] - r["old_log_prob"] for r in up], [r["tokens"] for r in up]),
            "change_negative": per_token(
                [r["log_prob"] - r["old_log_prob"] for r in down], [r["tokens"] for r in down]
            ),
            "first_action_change": mean([row["first_action_change"] for row in up]),
        }
    change = {id(probe): probe["log_prob_after"] - probe["log_prob_before"] for probe in probes}
    cross = [probe for probe in probes if probe["kind"] == "cross_update" and probe["tokens"] > 0]
    noise = [probe for probe in probes if probe["kind"] == "noise" and probe["tokens"] > 0]
    if cross:
        changes, tokens = [change[id(probe)] for probe in cross], [probe["tokens"] for probe in cross]
        summary["cross_update_change"] = per_token(changes, tokens)
        summary["cross_update_error"] = ratio_error(changes, tokens, [probe["group"] for probe in cross])
        summary["cross_update_responses"] = len(cross)
    if noise:
        summary["noise_floor"] = max(abs(change[id(probe)]) / probe["tokens"] for probe in noise)
    return {name: value for name, value in summary.items() if value is not None}


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
