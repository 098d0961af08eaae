"""`TrainingWorker`: a rollout batch is split into mini-batches, one update for each, and these into micro-batches."""

import torch

from verl.protocol import Rows
from verl.workers.utils.losses import ppo_loss, value_loss

__all__ = ["TrainingWorker", "ppo_loss", "value_loss"]


class BaseEngine:
    def __init__(self, score, parameters, micro_batch=2, outputs=True, ranks=1):
        self.score, self.micro_batch, self.outputs, self.ranks = score, micro_batch, outputs, ranks
        self.parameters = list(parameters)
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.5)

    def is_mp_src_rank_with_outputs(self):
        return self.outputs

    def get_data_parallel_size(self):
        return self.ranks

    def optimizer_step(self):
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 100.0)
        self.optimizer.step()
        return norm.item()

    def train_batch(self, data, loss_function):
        self.optimizer.zero_grad()
        losses = []
        data["batch_num_tokens"], data["dp_size"] = int(data["response_mask"].sum()) * self.ranks, self.ranks
        for micro in data.split(self.micro_batch):
            output = {"log_probs": self.score(micro)}
            if data.get("calculate_entropy"):
                output["entropy"] = -output["log_probs"].detach()
            loss, _ = loss_function(model_output=output, data=micro, dp_group=None)
            loss.backward()
            losses.append(loss.item())
        return {"metrics": {"loss": sum(losses), "grad_norm": self.optimizer_step()}}


class Settings:
    use_dynamic_bsz = False
    infer_micro_batch_size_per_gpu = 4


class TrainingWorker:
    engine_config = Settings()

    def __init__(self, engine):
        self.engine, self.loss_fn = engine, None

    def set_loss_fn(self, loss_fn):
        self.loss_fn = loss_fn

    def load_checkpoint(self, local_path, hdfs_path=None, del_local_after_load=False):
        return local_path

    def train_mini_batch(self, data):
        size, metrics = data["mini_batch_size"], {}
        for _ in range(data.get("epochs", 1)):
            for mini in data.split(size):
                for name, value in self.engine.train_batch(mini, self.loss_fn)["metrics"].items():
                    metrics.setdefault(name, []).append(value)
        metrics["lr"] = [0.5]
        return Rows({"metrics": metrics}) if self.engine.outputs else None
