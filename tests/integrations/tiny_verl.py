"""A policy of a few hundred numbers and its rollout batches, for the stand-in of verl; the same in every process."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

STAND_IN = Path(__file__).parent / "stand_in"
VOCABULARY, TOKENS = 7, 6


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """In the block `import verl` finds the stand-in, and what lldwatch did to it is gone afterwards."""
    from lldwatch.integrations import verl_seams

    finders, path, registered = list(sys.meta_path), list(sys.path), list(verl_seams._registered)
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "verl"}
    sys.path.insert(0, str(STAND_IN))
    verl_seams._registered.clear()
    try:
        yield
    finally:
        for actor in verl_seams._registered:
            if actor._monitor is not None:
                actor._monitor.close()
        verl_seams._registered[:] = registered
        sys.meta_path[:], sys.path[:] = finders, path
        for name in [name for name in sys.modules if name.partition(".")[0] == "verl"]:
            del sys.modules[name]
        sys.modules.update(hidden)


class Policy:
    """Log-probs of each token given the one before it."""

    def __init__(self, seed: int = 0) -> None:
        self.weights = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        self.weights.requires_grad_()

    def __call__(self, batch: Any) -> Tensor:
        ids = batch["responses"]
        before = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1)
        return torch.log_softmax(self.weights[before], -1).gather(-1, ids[..., None]).squeeze(-1)

    def parameters(self) -> list[Tensor]:
        return [self.weights]

    def modules(self) -> list[Any]:
        return []


def batch_of(policy: Policy, step: int, size: int = 8, first: int = 0) -> dict[str, Any]:
    """Responses first, first + 1, ... of a step: two to a prompt, one of them right; tool feedback in the middle."""
    draw = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(0, VOCABULARY, (first + size, TOKENS), generator=draw)[first:]
    lengths = torch.randint(3, TOKENS + 1, (first + size,), generator=draw)[first:]
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    mask[:, 1] = 0
    rewards = torch.tensor([0.0, 1.0]).repeat(size // 2)
    scores = torch.zeros(size, TOKENS)
    scores[torch.arange(size), lengths - 1] = rewards
    with torch.no_grad():
        old = policy({"responses": ids})
    return {
        "responses": ids,
        "response_mask": mask,
        "advantages": (2 * rewards - 1)[:, None].expand(-1, TOKENS).clone(),
        "old_log_probs": old,
        "rm_scores": scores,
        "uid": [f"{step}/{(first + row) // 2}" for row in range(size)],
    }


def config_of(loss_mode: str = "vanilla") -> Any:
    return SimpleNamespace(
        clip_ratio=0.2,
        clip_ratio_low=0.2,
        clip_ratio_high=0.2,
        loss_agg_mode="token-mean",
        policy_loss={"loss_mode": loss_mode},
        global_batch_info={},
        ppo_epochs=2,
    )


def worker_of(policy: Policy, *, loss_mode: str = "vanilla", micro_batch: int = 2, **engine: Any) -> Any:
    """A worker of the stand-in that trains the policy."""
    module = importlib.import_module("verl.workers.engine_workers")
    worker = module.TrainingWorker(module.BaseEngine(policy, policy.parameters(), micro_batch, **engine))
    worker.set_loss_fn(functools.partial(module.ppo_loss, config=config_of(loss_mode)))
    return worker


def train(worker: Any, policy: Policy, steps: int = 1, first: int = 0, **settings: Any) -> list[dict[str, Any]]:
    """Some steps, two updates on each half of a batch; the metrics of each."""
    protocol = importlib.import_module("verl.protocol")
    told = []
    for step in range(1, steps + 1):
        size = settings.get("size", 8)
        fields = {"mini_batch_size": size // 2, "epochs": 2, "global_batch_size": size // 2, "calculate_entropy": True}
        data = protocol.Rows({**batch_of(policy, step, size, first), **fields, **settings})
        output = worker.train_mini_batch(data=data)
        told.append({} if output is None else output["metrics"])
    return told
