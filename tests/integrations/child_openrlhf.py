"""One of two ranks of an OpenRLHF training, as a worker process of ray would be; run by test_openrlhf.py.

`python child_openrlhf.py KIND STAGE SAME OUT`: the stand-in of a generation, or "real" with DeepSpeed's engine in ZeRO
stage STAGE. SAME is "same" if both ranks hold the same responses (ring attention), OUT a file for what came out.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny_openrlhf
import torch
import torch.distributed as dist
from tiny_openrlhf import CurrentDevice, Model, Strategy, World, arguments, module_of

from lldwatch.integrations import openrlhf

STEPS = 3


def main(kind: str, stage: int, same: bool, out: Path) -> None:
    """Train, and write each step's status and the weights."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    if kind == "real":
        on_cpu()
        openrlhf.setup()  # before the trainer's module is imported
    else:
        module = module_of(kind)
        sys.modules[openrlhf.ACTOR] = module
        openrlhf.setup()
        dist.init_process_group("gloo")
    made = deepspeed_world(stage, same) if kind == "real" else stand_in_world(kind, same)
    for step in range(STEPS):
        made.step(10 * step + (0 if same else rank))
    statuses = [{name: float(value) for name, value in status.items()} for status in made.statuses]
    weights = made.weights() if stage < 3 else []
    out.write_text(json.dumps({"statuses": statuses, "weights": weights}))
    dist.barrier()


def stand_in_world(kind: str, same: bool) -> World:
    torch.manual_seed(3)
    model = Model()
    strategy = Strategy(arguments(epochs=2), 1)
    ring(strategy, same)
    actor = tiny_openrlhf.StandInActor(model)
    trainer = module_of(kind).ActorPPOTrainer(strategy, actor, micro_train_batch_size=4)
    strategy.optimizer = torch.optim.SGD(model.parameters(), 0.5)
    return World(module_of(kind), trainer, actor, strategy)


def ring(strategy: Any, same: bool) -> None:
    if same:
        strategy.ring_attn_rank, strategy.ring_attn_size = dist.get_rank(), dist.get_world_size()


def on_cpu() -> None:
    """What OpenRLHF asks of CUDA, answered for a CPU."""
    why = tiny_openrlhf.why_not_real()
    assert why is None, why
    torch.cuda.current_device = lambda: CurrentDevice("cpu")  # type: ignore[assignment,return-value]
    for name in ("synchronize", "empty_cache", "set_device"):
        setattr(torch.cuda, name, lambda *args, **kwargs: None)
    # compiled at its first use, for minutes; without it DeepSpeed takes torch's own
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None


def deepspeed_world(stage: int, same: bool) -> World:
    """OpenRLHF's own strategy with DeepSpeed; two micro-batches an update."""
    deepspeed = importlib.import_module("openrlhf.utils.deepspeed.deepspeed")
    mesh = deepspeed.init_device_mesh
    deepspeed.init_device_mesh = lambda device, *args, **kwargs: mesh("cpu", *args, **kwargs)
    args = arguments(train_batch_size=8, epochs=2)
    args.ds = SimpleNamespace(
        packing_samples=False, tensor_parallel_size=1, param_dtype="fp32", zpg=1, ring_attn_size=1
    )
    args.local_rank = -1
    strategy = deepspeed.DeepspeedStrategy(
        seed=3, max_norm=1.0, micro_train_batch_size=2, train_batch_size=8, zero_stage=stage, args=args
    )
    own = strategy.get_ds_train_config

    def config(optim_dict: dict[str, Any], **given: Any) -> dict[str, Any]:
        optim_dict["params"]["torch_adam"] = True  # the fused one wants a compiler
        made: dict[str, Any] = own(optim_dict=optim_dict, **given)
        zero = {name: value for name, value in made["zero_optimization"].items() if value != "auto"}
        return {**made, "zero_optimization": {**zero, "stage3_param_persistence_threshold": 0}}

    strategy.get_ds_train_config = config
    strategy.setup_distributed()
    ring(strategy, same)
    torch.manual_seed(3)
    actor = importlib.import_module("openrlhf.models").Actor(Model())
    actor.packing_samples, actor.is_vlm = False, False
    adam = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    settings = {"optim": "adam", "adam": adam, "lr_scheduler": "constant", "scheduler_steps": 100}
    actor, optimizer, scheduler = strategy.prepare((actor, {**settings, "lr_warmup_ratio": 0.0}))
    options = {"ema_model": None, "actor_optim": optimizer, "actor_scheduler": scheduler}
    trainer = module_of("real").ActorPPOTrainer(
        strategy, actor, micro_train_batch_size=2, dataloader_pin_memory=False, **options
    )
    return World(module_of("real"), trainer, actor, strategy)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "same", Path(sys.argv[4]))
