"""`DataParallelPPOActor` of the first versions: looks the loss up in its module at each call."""

from verl.trainer.ppo import core_algos


class DataParallelPPOActor:
    def __init__(self, config, actor_module, actor_optimizer, parameters):
        self.config, self.actor_module, self.actor_optimizer = config, actor_module, actor_optimizer
        self.parameters, self.ulysses_sequence_parallel_size = list(parameters), 1

    def _forward_micro_batch(self, micro_batch, temperature):
        log_probs = self.actor_module(micro_batch)
        return -log_probs.detach(), log_probs

    def _optimizer_step(self):
        import torch

        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 100.0)
        self.actor_optimizer.step()
        return norm

    def update_policy(self, data):
        names = ["responses", "input_ids", "attention_mask", "position_ids", "old_log_probs", "advantages"]
        if self.config.state_masking:
            names.append("loss_mask")
        batch = data.select(batch_keys=names).batch
        metrics = {}
        for mini in batch.split(self.config.ppo_mini_batch_size):
            self.actor_optimizer.zero_grad()
            for micro in mini.split(self.config.ppo_micro_batch_size):
                width = micro["responses"].shape[1]
                mask = micro["loss_mask"] if self.config.state_masking else micro["attention_mask"][:, -width:]
                _, log_prob = self._forward_micro_batch(micro_batch=micro, temperature=data.meta_info["temperature"])
                loss, _, _ = core_algos.compute_policy_loss(
                    old_log_prob=micro["old_log_probs"],
                    log_prob=log_prob,
                    advantages=micro["advantages"],
                    eos_mask=mask,
                    cliprange=self.config.clip_ratio,
                )
                (loss / (self.config.ppo_mini_batch_size // self.config.ppo_micro_batch_size)).backward()
                metrics.setdefault("actor/pg_loss", []).append(loss.item())
            metrics.setdefault("actor/grad_norm", []).append(self._optimizer_step().item())
        return metrics
