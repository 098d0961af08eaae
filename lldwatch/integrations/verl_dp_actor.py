"""`DataParallelPPOActor`: the actor of verl up to 0.7, and of Search-R1."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lldwatch.integrations import verl_probe as probing
from lldwatch.integrations.environment import Wanted
from lldwatch.integrations.verl_actor import Actor, Micro
from lldwatch.integrations.verl_batch import ROW, Rollout, field_of
from lldwatch.integrations.verl_step import asked_for_probes, config_of, counted, read_rollout, setting, watched_step
from lldwatch.probes import LikelihoodProbe


def watch_dp_actor(actor: Actor, wanted: Wanted, module: ModuleType) -> str:
    """`dp_actor`: `DataParallelPPOActor`, the actor of verl up to 0.7, and of Search-R1."""
    actor_class: Any = getattr(module, "DataParallelPPOActor", None)
    lacking = [
        name for name in ("update_policy", "_optimizer_step", "_forward_micro_batch") if not hasattr(actor_class, name)
    ]
    if lacking:
        raise LookupError(f"no DataParallelPPOActor.{', '.join(lacking)}: nothing is recorded")
    base, forward = actor_class.update_policy, actor_class._forward_micro_batch
    actor.told = True

    @functools.wraps(base)
    def update_policy(self: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        def train() -> Any:
            return base(self, data, *args, **kwargs)

        return watched_step(actor, train, lambda: _begin(actor, wanted, self, data), lambda metrics: metrics)

    @functools.wraps(forward)
    def forward_micro_batch(self: Any, micro_batch: Any, *args: Any, **kwargs: Any) -> Any:
        result = forward(self, micro_batch, *args, **kwargs)
        if torch.is_grad_enabled():
            actor.guard.run("reading a micro-batch", lambda: actor.saw(_micro_of(micro_batch, result)))
        return result

    actor_class.update_policy, actor_class._forward_micro_batch = update_policy, forward_micro_batch
    actor_class._optimizer_step = counted(actor, actor_class._optimizer_step)
    return "steps, updates, rewards, prompts and entropy (DataParallelPPOActor)"


def _micro_of(micro_batch: Any, result: Any) -> Micro:
    """The entropy is the first thing that is returned, or has a name; the very first version has logits there."""
    named = isinstance(result, dict)
    entropy = result.get("entropys") if named else result[0]
    log_probs = result["log_probs"] if named else result[1]
    fits = isinstance(entropy, Tensor) and entropy.shape == log_probs.shape
    return Micro(rows=field_of(micro_batch, ROW), entropy=entropy if fits else None)


def _begin(actor: Actor, wanted: Wanted, own: Any, data: Any) -> bool:
    rollout = read_rollout(actor, data)
    rank = dist.get_rank() if dist.is_initialized() else 0
    holds = rank % _sequence_ranks(own) == 0  # the ranks of one sequence are neighbours
    if not actor.begin(rollout, config_of(own.config), holds=holds, step=field_of(data, "global_steps")):
        return False
    actor.rescore(actor.guard.run("preparing probes", lambda: _probes(actor, wanted, own, data, rollout)))
    return True


def _sequence_ranks(own: Any) -> int:
    return max(getattr(own, "ulysses_sequence_parallel_size", 1), 1)


def _probes(actor: Actor, wanted: Wanted, own: Any, data: Any, rollout: Rollout) -> probing.Rescoring | None:
    if not asked_for_probes(actor, wanted):
        return None
    if field_of(data, "multi_modal_inputs") is not None:
        actor.say_once("no probes: responses with pictures are not re-scored")
        return None
    probe: LikelihoodProbe | None = getattr(own, "lldwatch_probe", None)
    if probe is None:
        assert wanted.probes is not None
        size = setting(own.config, "ppo_micro_batch_size_per_gpu") or setting(own.config, "ppo_micro_batch_size")
        ranks = (dist.get_world_size() if dist.is_initialized() else 1) // _sequence_ranks(own)
        probe = own.lldwatch_probe = probing.probe_of(probing.dense_score(own, data), wanted.probes, size, ranks)
    mask = probing.dense_mask(data)
    about = probing.about_of(rollout, mask, field_of(data, "advantages"), wanted.correct_above)
    return probing.Rescoring(probe, probing.dense_batch(data), about, lambda: probing.resharded(own))
