"""The loss of a micro-batch of the engine workers."""

from verl.trainer.ppo.core_algos import get_policy_loss_fn


def no_padding_2_padding(tensor, data):
    return tensor


def ppo_loss(config, model_output, data, dp_group=None):
    log_prob = no_padding_2_padding(model_output["log_probs"], data)
    config.global_batch_info["dp_size"] = data["dp_size"]
    config.global_batch_info["batch_num_tokens"] = data["batch_num_tokens"]
    config.global_batch_info["global_batch_size"] = data["global_batch_size"]
    loss, metrics = get_policy_loss_fn(config.policy_loss["loss_mode"])(
        old_log_prob=data["old_log_probs"],
        log_prob=log_prob,
        advantages=data["advantages"],
        response_mask=data["response_mask"].bool(),
        loss_agg_mode=config.loss_agg_mode,
        config=config,
        rollout_is_weights=None,
    )
    metrics["actor/pg_loss"] = loss.item()
    return loss, metrics


def value_loss(config, model_output, data, dp_group=None):
    return (model_output["log_probs"] * data["response_mask"]).sum(), {}
