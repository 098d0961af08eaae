"""Policy losses: a registry, as in 0.9, and the one function of the first versions."""

import torch

POLICY_LOSS_REGISTRY = {}


def register_policy_loss(name):
    def decorator(func):
        POLICY_LOSS_REGISTRY[name] = func
        return func

    return decorator


def get_policy_loss_fn(name):
    return POLICY_LOSS_REGISTRY[name]


def agg_loss(loss_mat, loss_mask, loss_agg_mode, dp_size=1, batch_num_tokens=None, **others):
    assert loss_agg_mode == "token-mean"
    total = torch.where(loss_mask != 0, loss_mat, 0.0).sum()
    return total / (loss_mask.sum() if batch_num_tokens is None else batch_num_tokens) * dp_size


def clipped(ratio, advantages, low, high):
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


@register_policy_loss("vanilla")
def compute_policy_loss_vanilla(
    old_log_prob, log_prob, advantages, response_mask, loss_agg_mode="token-mean", config=None, rollout_is_weights=None
):
    ratio = (log_prob - old_log_prob).exp()
    each = clipped(ratio, advantages, config.clip_ratio_low, config.clip_ratio_high)
    return agg_loss(each, response_mask, loss_agg_mode, **config.global_batch_info), {"actor/ppo_kl": 0.0}


@register_policy_loss("twice")
def compute_policy_loss_twice(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, **others):
    """Calls another registered loss, as a user's own may."""
    loss = get_policy_loss_fn("vanilla")
    return loss(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config)


def compute_policy_loss(old_log_prob, log_prob, advantages, eos_mask, cliprange):
    ratio = (log_prob - old_log_prob).exp()
    each = clipped(ratio, advantages, cliprange, cliprange)
    return agg_loss(each, eos_mask, "token-mean"), torch.tensor(0.0), torch.tensor(0.0)
