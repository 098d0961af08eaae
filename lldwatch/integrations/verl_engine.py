"""The engine workers of verl (0.7 and later): FSDP, Megatron and others behind one `TrainingWorker`.

Each function changes one module after its import and says what it found; what is not there is a `LookupError`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch

from lldwatch.integrations import verl_probe as probing
from lldwatch.integrations.environment import Wanted
from lldwatch.integrations.verl_actor import Actor, Micro
from lldwatch.integrations.verl_batch import ROW, Rollout, field_of, padded
from lldwatch.integrations.verl_step import (
    asked_for_probes,
    config_of,
    counted,
    put_in_place,
    read_rollout,
    watched_step,
)


def watch_ppo_loss(actor: Actor, _: Wanted, module: ModuleType) -> str:
    """`verl.workers.utils.losses`: the loss of a micro-batch, around the policy loss, has all of its fields."""
    base = getattr(module, "ppo_loss", None)
    if base is None:
        raise LookupError("no ppo_loss: no rewards, prompts and entropy; log-probs are recorded, LLDS acts")
    actor.told = True

    @functools.wraps(base)
    def ppo_loss(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("config", "model_output", "data"), args, strict=False)), **kwargs}
        micro = actor.guard.run("reading a micro-batch", lambda: _micro_of(module, given))
        with actor.micro_batch(micro):
            return base(*args, **kwargs)

    put_in_place(base, ppo_loss)
    return "rewards, prompts and entropy"


@torch.no_grad()
def _micro_of(module: ModuleType, given: Mapping[str, Any]) -> Micro:
    data, entropy = given["data"], given["model_output"].get("entropy")
    if entropy is not None:
        entropy = module.no_padding_2_padding(entropy.detach(), data)
    return Micro(rows=field_of(data, ROW), entropy=entropy)


def watch_engine_worker(actor: Actor, wanted: Wanted, module: ModuleType) -> str:
    """`verl.workers.engine_workers`: `TrainingWorker.train_mini_batch` is a step of the actor, or of the critic."""
    worker_class: Any = getattr(module, "TrainingWorker", None)
    base = getattr(worker_class, "train_mini_batch", None)
    if base is None:
        raise LookupError("no TrainingWorker.train_mini_batch: steps have no end, and nothing is recorded")

    @functools.wraps(base)
    def train_mini_batch(self: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        def train() -> Any:
            return base(self, data, *args, **kwargs)

        if not _trains_policy(self):
            return train()
        return watched_step(actor, train, lambda: _begin(actor, wanted, self, data), _metrics_in)

    worker_class.train_mini_batch = train_mini_batch
    load = getattr(worker_class, "load_checkpoint", None)
    if load is not None:
        worker_class.load_checkpoint = _remembering_step(load)
    return "steps and updates (TrainingWorker)"


def _trains_policy(worker: Any) -> bool:
    """Its loss is verl's own for an actor, with or without distillation; a critic has another."""
    loss = getattr(worker, "loss_fn", None)
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", "").endswith("ppo_loss")


def _remembering_step(load: Callable[..., Any]) -> Callable[..., Any]:
    """The number of a checkpoint's step stands in its path, and nowhere else in a worker."""

    @functools.wraps(load)
    def load_checkpoint(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = kwargs.get("local_path", args[0] if args else None)
        number = re.search(r"global_step_(\d+)", str(path))
        if number is not None:
            self.lldwatch_step = int(number[1])
        return load(self, *args, **kwargs)

    return load_checkpoint


def _begin(actor: Actor, wanted: Wanted, worker: Any, data: Any) -> bool:
    rollout = read_rollout(actor, data)
    given, resumed = field_of(data, "global_steps"), getattr(worker, "lldwatch_step", None)
    worker.lldwatch_step = None
    number = given if given is not None or resumed is None else resumed + 1
    config = getattr(worker.loss_fn, "keywords", {}).get("config")
    holds = bool(getattr(worker.engine, "is_mp_src_rank_with_outputs", lambda: True)())
    if not actor.begin(rollout, config_of(config), holds=holds, step=number):
        return False
    if not hasattr(worker.engine, "lldwatch"):
        worker.engine.lldwatch = True
        worker.engine.optimizer_step = counted(actor, worker.engine.optimizer_step)
    actor.rescore(actor.guard.run("preparing probes", lambda: _probes(actor, wanted, worker, data, rollout)))
    return True


def _probes(actor: Actor, wanted: Wanted, worker: Any, data: Any, rollout: Rollout) -> probing.Rescoring | None:
    if not asked_for_probes(actor, wanted):
        return None
    batch = None if probing.sees_pictures(worker) else probing.engine_batch(data)
    if batch is None:
        actor.say_once("no probes: responses with pictures, or position ids of several dimensions, are not re-scored")
        return None
    if not hasattr(worker, "lldwatch_probe"):
        assert wanted.probes is not None
        size = getattr(worker.engine_config, "infer_micro_batch_size_per_gpu", None)
        score, ranks = probing.engine_score(worker, data), worker.engine.get_data_parallel_size()
        worker.lldwatch_probe = probing.probe_of(score, wanted.probes, size, ranks)
    advantages = padded(field_of(data, "advantages"))
    about = probing.about_of(rollout, batch["response_mask"], advantages, wanted.correct_above)
    return probing.Rescoring(worker.lldwatch_probe, batch, about, worker.engine.eval_mode)  # loads the model once


def _metrics_in(output: Any) -> Any:
    """The metrics in what an engine worker returns; None in a process that has none."""
    return None if output is None else field_of(output, "metrics")
