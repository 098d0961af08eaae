"""Trainings of the stand-in of verl on several processes, one after the other: `child_verl.py FOLDER WORLDS`.

WORLDS is JSON, a list of {"job", "size", "environment"}; what each process said is printed as JSON in the end. torch is
imported once, and the processes are forked.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_verl import Policy, stand_in, train, worker_of

import lldwatch.integrations.verl_seams  # noqa: F401  # for all processes


def rank_of(job: str, rank: int, size: int) -> dict[str, Any]:
    """Two steps in one process; ranks have different responses, or (`duplicate`) the same ones, which one records."""
    alike = job == "duplicate"
    with stand_in():
        from lldwatch.integrations.verl import register

        register()
        policy = Policy()
        worker = worker_of(policy, outputs=rank == 0 or not alike)
        step = worker.engine.optimizer_step

        def averaged() -> float:
            dist.all_reduce(policy.weights.grad)
            policy.weights.grad /= size
            return step()

        worker.engine.optimizer_step = averaged
        metrics = train(worker, policy, 2, first=0 if alike else 8 * rank)
        name = "actor/lldwatch_llds_coefficient"
        told = [step[name] for step in metrics if name in step]
        return {"coefficients": told, "weights": float(policy.weights.detach().double().sum()).hex()}


def be_rank(folder: Path, world: dict[str, Any], rank: int) -> None:
    """In a forked process, which leaves at once when it is done."""
    os.environ.update(world["environment"])
    output = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world["size"])
        told = rank_of(world["job"], rank, world["size"])
        (folder / f"{rank}.json").write_text(json.dumps(told))
        dist.destroy_process_group()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main(folder: Path, worlds: list[dict[str, Any]]) -> None:
    said = []
    for number, world in enumerate(worlds):
        place = folder / f"world {number}"
        place.mkdir()
        children = []
        for rank in range(world["size"]):
            child = os.fork()
            if child == 0:
                be_rank(place, world, rank)
            children.append(child)
        exits = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        errors = [(place / f"{rank}.txt").read_text() for rank in range(world["size"])]
        assert exits == [0] * world["size"], "\n".join(errors)
        ranks = [json.loads((place / f"{rank}.json").read_text()) for rank in range(world["size"])]
        said.append([{**told, "err": err} for told, err in zip(ranks, errors, strict=True)])
    print(json.dumps(said))


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
