"""Real engine workers of verl on a tiny model and a CPU: `real_verl.py JOB FOLDER SIZE`; the last line is JSON.

Real are the rollout batch's type, `TrainingWorker`, its loops, the FSDP engine (with more than one process FSDP2
shards the model), `ppo_loss` and the policy losses. Not real: ray, the rollouts (random tokens), and the engine's
construction, which wants a GPU.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SIZE = 8
"""Responses of a rollout batch, over all processes."""


class Device:
    """torch.cpu with what verl asks of a GPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def max_memory_allocated(self) -> int:
        return 0

    max_memory_reserved = max_memory_allocated


def use_cpu() -> None:
    from verl.plugin.platform import platform_manager
    from verl.plugin.platform.platform_cuda import PlatformCUDA

    class Cpu(PlatformCUDA):
        device_name, device_module = "cpu", Device()

        def current_device(self) -> Any:
            return "cpu"

        def is_available(self) -> bool:
            return True

        def empty_cache(self) -> None:
            pass

    platform_manager.set_platform(Cpu())


def model_of() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(vocab_size=40, num_key_value_heads=2, max_position_embeddings=64, **sizes)
    model = Qwen2ForCausalLM(config)
    if dist.get_world_size() > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def engine_of(model: Any) -> Any:
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    engine = object.__new__(FSDPEngineWithLMHead)
    many = dist.get_world_size() > 1
    settings = {"fsdp_size": dist.get_world_size() if many else -1, "forward_only": False, "use_fused_kernels": False}
    settings |= {"use_dynamic_bsz": False, "max_token_len_per_gpu": None, "infer_max_token_len_per_gpu": None}
    settings |= {"micro_batch_size_per_gpu": 2, "infer_micro_batch_size_per_gpu": 2, "entropy_checkpointing": False}
    given: dict[str, Any] = {"module": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-2)}
    given |= {"engine_config": types.SimpleNamespace(**settings, use_no_sync_for_gradient_accumulation=True)}
    given |= {"optimizer_config": types.SimpleNamespace(clip_grad=1.0), "_autocast_dtype": torch.float32}
    given |= {"_is_offload_param": False, "_is_offload_optimizer": False, "scaler": None, "_qat_enabled": False}
    given |= {"ulysses_device_mesh": None, "ulysses_parallel_group": None, "ulysses_sequence_parallel_size": 1}
    given |= {"use_ulysses_sp": False, "pad_to_length": False, "pad_to_length_bucket": 0, "mode": None}
    for name, value in given.items():
        setattr(engine, name, value)
    engine.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(engine.optimizer, 1.0)
    engine.get_data_parallel_group = lambda: dist.group.WORLD
    engine.get_data_parallel_size = dist.get_world_size
    engine.get_data_parallel_rank = dist.get_rank
    return engine


def worker_of(model: Any, config: Any) -> Any:
    from verl.utils.profiler import DistProfiler
    from verl.workers import engine_workers

    worker = object.__new__(engine_workers.TrainingWorker)
    worker.engine = engine_of(model)
    worker.engine_config, worker.model_config = worker.engine.engine_config, {"use_remove_padding": False}
    worker.device_name, worker.flops_counter, worker.profiler = "cpu", None, DistProfiler(rank=dist.get_rank())
    worker.loss_fn = functools.partial(engine_workers.ppo_loss, config=config)
    return worker


def config_of(**settings: Any) -> Any:
    from verl.workers.config import ActorConfig

    sizes = {"ppo_micro_batch_size_per_gpu": 2, "ppo_mini_batch_size": SIZE // 2}
    return ActorConfig(strategy="fsdp", rollout_n=2, **sizes, **settings)


def nested(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def batch_of(step: int) -> Any:
    """This process's share of a step's rollout batch: prompts and responses of many lengths, no old log-probs yet."""
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    draw, size, rank = torch.Generator().manual_seed(step), dist.get_world_size(), dist.get_rank()
    lengths = torch.randint(3, 9, (SIZE, 2), generator=draw).tolist()
    texts = [[torch.randint(3, 40, (length,), generator=draw) for length in pair] for pair in lengths]
    own = range(rank * SIZE // size, (rank + 1) * SIZE // size)
    prompts, responses = ([texts[row][part] for row in own] for part in (0, 1))
    masks = [torch.ones(len(response), dtype=torch.long) for response in responses]
    for mask in masks:
        mask[1] = 0  # tool feedback
    scores = [
        torch.nn.functional.pad(torch.tensor([float(row % 2)]), (len(r) - 1, 0))
        for row, r in zip(own, responses, strict=True)
    ]
    fields = {
        **{"prompts": nested(prompts), "responses": nested(responses), "response_mask": nested(masks)},
        **{"loss_mask": nested(masks), "rm_scores": nested(scores)},
        "input_ids": nested([torch.cat(pair) for pair in zip(prompts, responses, strict=True)]),
        "position_ids": nested([torch.arange(len(p) + len(r)) for p, r in zip(prompts, responses, strict=True)]),
        "advantages": nested(
            [torch.full((len(r),), 2.0 * (row % 2) - 1) for row, r in zip(own, responses, strict=True)]
        ),
    }
    data = TensorDict(fields, batch_size=[len(own)])
    settings = {
        "temperature": 1.0,
        "global_batch_size": SIZE // 2,
        "mini_batch_size": SIZE // 2,
        "epochs": 2,
        "seed": 1,
    }
    settings |= {"dataloader_kwargs": {"shuffle": True}, "calculate_entropy": True}
    return tu.assign_non_tensor(data, uid=[f"{step}/{row // 2}" for row in own], **settings)


def train(steps: int, **settings: Any) -> dict[str, Any]:
    """Metrics of each step and the sum of all weights in the end."""
    from verl.utils import tensordict_utils as tu
    from verl.utils.metric import reduce_metrics
    from verl.utils.py_functional import rename_dict
    from verl.workers.utils.padding import response_from_nested

    model = model_of()
    worker, told = worker_of(model, config_of(**settings)), []
    for step in range(1, steps + 1):
        data = batch_of(step)
        scored = worker.infer_batch(tu.assign_non_tensor(data, compute_loss=False))
        data["old_log_probs"] = response_from_nested(scored["log_probs"], data["response_mask"])
        output = worker.train_mini_batch(tu.assign_non_tensor(data, compute_loss=True))
        metrics = reduce_metrics(rename_dict(tu.get(output, "metrics"), "actor/"))  # as verl's driver does
        told.append({name: float(value) for name, value in metrics.items() if "perf/" not in name})
    shards = [getattr(weights, "to_local", lambda w=weights: w)() for weights in model.parameters()]
    return {"metrics": told, "weights": float(sum(shard.detach().double().sum() for shard in shards)).hex()}


def losses() -> dict[str, Any]:
    """Of every registered loss and way to add up: value, gradient and metrics with and without lldwatch."""
    from verl.trainer.ppo import core_algos
    from verl.workers.config import PolicyLossConfig

    from lldwatch.integrations import verl_seams
    from lldwatch.integrations.verl_batch import Rollout
    from lldwatch.integrations.verl_loss import call_of, divisor

    actor, found = verl_seams._registered[0], {}
    actor.told = False
    assert actor.begin(Rollout(0, {}), {})
    draw = torch.Generator().manual_seed(3)
    log_probs, old = (-torch.rand(6, 9, generator=draw) * 2 for _ in range(2))
    advantages, mask = torch.randn(6, 9, generator=draw), torch.rand(6, 9, generator=draw) < 0.8
    for name, loss in core_algos.POLICY_LOSS_REGISTRY.items():
        mode = "seq-mean-token-mean" if name in ("gspo", "geo_mean") else "token-mean"
        config = config_of(
            policy_loss=PolicyLossConfig(loss_mode=name, dro_beta=0.1, clip_cov_ratio=0.3, kl_cov_ratio=0.3)
        )
        config.global_batch_info.update(dp_size=2, batch_num_tokens=70, global_batch_size=12, loss_scale_factor=None)
        results = []
        for function in (loss.__wrapped__, loss):
            torch.manual_seed(1)
            leaf = log_probs.clone().requires_grad_()
            value, metrics = function(old, leaf, advantages, mask, mode, config, None)
            value.backward()
            results.append((value.item().hex(), leaf.grad.sum().item().hex(), repr(sorted(metrics.items()))))
        found[name] = results[0] == results[1]
    ways = {}
    for mode in ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"):
        for info in ({}, {"dp_size": 2, "batch_num_tokens": 70, "global_batch_size": 12, "loss_scale_factor": 20}):
            theirs = core_algos.agg_loss(log_probs, mask, mode, **info)
            call = call_of(
                "vanilla", (old, log_probs, advantages, mask, mode, types.SimpleNamespace(global_batch_info=info)), {}
            )
            ways[f"{mode} {len(info)}"] = [theirs.item(), float((log_probs * mask).sum() / divisor(call))]
    return {"same": found, "ways": ways}


def rank_of(job: str, folder: Path, rank: int, size: int) -> dict[str, Any]:
    """In a process of its own: what it says of the training."""
    import verl

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    told = losses() if job == "losses" else train(3, **json.loads(job))
    for registered in getattr(sys.modules.get("lldwatch.integrations.verl_seams"), "_registered", []):
        registered._monitor.close()
    dist.destroy_process_group()
    return {**told, "verl": verl.__version__, "lldwatch": "lldwatch" in sys.modules}


def be_rank(job: str, folder: Path, rank: int, size: int) -> None:
    """In a forked process, which leaves at once when it is done."""
    try:
        (folder / f"{rank}.json").write_text(json.dumps(rank_of(job, folder, rank, size)))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main(job: str, folder: Path, size: int) -> None:
    """verl is imported once, and the processes are forked."""
    import verl  # loads its plugins

    use_cpu()
    import verl.workers.engine.fsdp.transformer_impl
    import verl.workers.engine_workers  # noqa: F401

    folder = folder / f"world {time.monotonic_ns()}"
    folder.mkdir()
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            be_rank(job, folder, rank, size)
        children.append(child)
    exits = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert exits == [0] * size, exits
    print(json.dumps([json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
