"""GRPO's formulas: the advantage of a response within its group, the clipped loss, and the penalty on leaving a policy.

Why it exists: they are what a reader wants to check against the paper, without the loop around them.

Reference: arXiv:2402.03300 (GRPO), Sec. 4.1; the mean over tokens is that of arXiv:2503.14476 (DAPO).
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, group: Tensor) -> Tensor:
    """GRPO's advantage, (reward - mean of the group) / (standard deviation of the group + 1e-6).

    Args:
        rewards: (B,) float.
        group: (B,) int64, same number = same prompt; the groups are equally large and stand together.

    Returns:
        (B,) float; exactly 0 in groups whose rewards are all equal.
    """
    by_group = rewards.view(len(torch.unique(group)), -1)
    advantages = (by_group - by_group.mean(1, keepdim=True)) / (by_group.std(1, keepdim=True) + 1e-6)
    return torch.where(by_group.amax(1, keepdim=True) == by_group.amin(1, keepdim=True), 0.0, advantages).view(-1)


def grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor, clip_range: float
) -> Tensor:
    """GRPO's clipped loss, mean over the tokens the policy wrote.

    Equation: - mean over tokens of min(ratio A, clip(ratio, 1 - clip_range, 1 + clip_range) A),
    ratio = exp(log_probs - old_log_probs).

    Args:
        log_probs: (B, T) float, nats, with gradient.
        old_log_probs: (B, T) float, nats, when sampled.
        advantages: (B,) float.
        response_mask: (B, T) bool, the tokens that count.
        clip_range: half width of the trusted ratio.

    Returns:
        Scalar.
    """
    ratio = torch.where(response_mask, log_probs - old_log_probs, 0.0).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    gain = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    return -(gain * response_mask).sum() / response_mask.sum()


def kl_penalty(log_probs: Tensor, reference: Tensor, response_mask: Tensor) -> Tensor:
    """GRPO's estimate of the KL divergence from a reference policy, mean over the tokens the policy wrote.

    Equation: mean over tokens of exp(d) - d - 1, d = reference - log_probs. Not clamped: cut off at 10,
    as in some trainers, it has no gradient left for a token that fell far.

    Args:
        log_probs: (B, T) float, nats, with gradient.
        reference: (B, T) float, nats, of the reference policy.
        response_mask: (B, T) bool, the tokens that count.

    Returns:
        Scalar, nats per token, at least 0.
    """
    difference = torch.where(response_mask, reference - log_probs, 0.0)
    return (difference.exp() - difference - 1).sum() / response_mask.sum()


def negative_log_likelihood(log_probs: Tensor, response_mask: Tensor) -> Tensor:
    """Mean of -log_prob over the tokens the policy wrote, nats per token: plain imitation, LLDS without its gate.

    Args:
        log_probs: (B, T) float, nats, with gradient.
        response_mask: (B, T) bool, the tokens that count.
    """
    return -torch.where(response_mask, log_probs, 0.0).sum() / response_mask.sum()
