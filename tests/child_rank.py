"""The ranks of a distributed training, as real processes that talk over gloo. But for `trained`, nothing learns.

`Launcher` starts `python child_rank.py`, which imports torch once and then forks a new world of ranks for each job: a
world costs a fraction of a second instead of an import for each of its ranks. A job names one of the functions below
that are marked `@job`; every rank calls it with (rank, size, run, **options), and what it returns, or raises, goes back
to the test together with its warnings.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from made_up import spiral
from told import Told
from torch import Tensor

from lldwatch import Command, Monitor, Observation, Probes, Responses, Stage, Webhook
from lldwatch.detector import CollapseDetector
from lldwatch.hooks import per_response
from lldwatch.intervention import Correct
from lldwatch.probes import LikelihoodProbe
from lldwatch.ranks import Ranks
from lldwatch.recorder import Recorder
from lldwatch.rollup import LAGS
from lldwatch.schema import KINDS, Gradients

SECONDS = 20.0
"""How long ranks wait for each other where nothing should go wrong: a test that hangs ends with an error instead."""

# from the test to the ranks and back


@dataclass
class Rank:
    """How one rank ended: what its job returned, its warnings, what it raised, and its exit code (None: killed)."""

    returned: Any = None
    warnings: list[str] = field(default_factory=list)
    raised: str | None = None
    exit: int | None = None


class Launcher:
    """Starts worlds of ranks, one after the other, and leaves none behind."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def __call__(
        self, name: str, size: int, run: Path, *, seconds: float = 60.0, tidy: bool = False, **options: Any
    ) -> list[Rank]:
        """Run a job on so many ranks; those that have not ended after so many seconds are killed.

        Args:
            name: of the job.
            size: ranks.
            run: the run directory, for the job.
            seconds: for all of it.
            tidy: let the interpreter clear up at the end, as a training does; it takes a second.
            options: for the job.
        """
        work = run.with_name(f"{run.name} {name} {time.monotonic_ns()}")
        work.mkdir(parents=True)
        order = {"name": name, "size": size, "run": str(run), "work": str(work), "seconds": seconds, "tidy": tidy}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**order, "options": options}) + "\n")
        self._process.stdin.flush()
        exits = json.loads(self._process.stdout.readline())
        ranks = []
        for rank, code in enumerate(exits):
            file = work / f"{rank}.pickle"
            found = pickle.loads(file.read_bytes()) if file.exists() else Rank()
            found.exit = code
            ranks.append(found)
        return ranks

    def close(self) -> None:
        """End the launcher and whatever it left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


JOBS: dict[str, Callable[..., Any]] = {}


def job(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a test can ask for. Some options are the launcher's: `seconds` and `tidy`."""
    JOBS[function.__name__] = function
    return function


def launch() -> None:
    """In the launcher: fork the ranks of each job, wait for them, kill those that are late."""
    gc.collect()
    gc.freeze()  # a fork copies less
    for line in sys.stdin:
        order = json.loads(line)
        children = []
        for rank in range(order["size"]):
            child = os.fork()
            if child == 0:
                return be_rank(rank, order)  # and then leave Python as any training does
            children.append(child)
        exits: dict[int, int | None] = {}
        end = time.monotonic() + order["seconds"]
        while len(exits) < len(children):
            for rank, child in enumerate(children):
                if rank not in exits:
                    ended, status = os.waitpid(child, os.WNOHANG)
                    if ended:
                        exits[rank] = os.waitstatus_to_exitcode(status)
                    elif time.monotonic() > end:
                        os.kill(child, signal.SIGKILL)
                        os.waitpid(child, 0)
                        exits[rank] = None
            time.sleep(0.005)
        print(json.dumps([exits[rank] for rank in range(len(children))]), flush=True)
    return None


class Heard(logging.Handler):
    """Keeps the warnings of lldwatch."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def be_rank(rank: int, order: dict[str, Any]) -> None:
    """In a rank: join the others, do the job, keep what came of it."""
    work, size = Path(order["work"]), order["size"]
    output = os.open(work / f"{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    me = Rank()
    logging.getLogger("lldwatch").addHandler(Heard(me.warnings))
    try:
        dist.init_process_group("gloo", init_method=f"file://{work}/store", rank=rank, world_size=size)
        me.returned = JOBS[order["name"]](rank, size, Path(order["run"]), **order["options"])
    except Exception:
        me.raised = traceback.format_exc()
    hidden = work / f".{rank}"
    hidden.write_bytes(pickle.dumps(me))
    hidden.rename(work / f"{rank}.pickle")
    if not order["tidy"]:
        atexit._run_exitfuncs()
        os._exit(0)


def refusal(attempt: Callable[[], Any]) -> tuple[list[str], str]:
    """The classes of what it raises, and its words."""
    try:
        attempt()
    except Exception as error:
        return [cls.__name__ for cls in type(error).__mro__], str(error)
    return [], ""


# data that the test and its ranks make alike


@dataclass
class Part:
    """What one process sees of one update: rows, and the numbers that it gives with them."""

    responses: list[Responses]
    scalars: dict[str, float]


@dataclass
class Step:
    """What one process sees of one step."""

    updates: list[Part]
    probes: list[Probes]
    scalars: dict[str, float]


def step_of(number: int, ranks: int, split: str) -> list[Step]:
    """A step at random, split over so many ranks; the same for everybody who asks.

    Args:
        number: of the step.
        ranks: over how many.
        split: `responses`: a response is on the same rank in all updates of a step; `rows`: each row anywhere.
    """
    draw = np.random.default_rng([number, 17])
    size, prompts, updates = int(draw.integers(6, 20)), int(draw.integers(2, 6)), 1 + number % 3
    fixed = responses_of(draw, size, number, prompts)
    empty = [number // 5 % ranks] if number % 5 == 1 else []  # a rank that has nothing in this step, rank 0 as well
    having = [rank for rank in range(ranks) if rank not in empty]
    owner = draw.choice(having, size)
    owner[draw.permutation(size)[: len(having)]] = having  # the others all have something
    steps = [Step([], [], {"kl": float(draw.normal(0, 0.01)), "learning_rate": 1e-6 * number}) for _ in range(ranks)]
    for update in range(updates):
        rows = np.flatnonzero(draw.random(size) < 0.7) if updates > 1 else np.arange(size)
        varying = {**fixed, **of_update(draw, fixed)}
        where = draw.choice(having, size) if split == "rows" else owner
        grad_norm = float(draw.gamma(2.0))
        for rank, step in enumerate(steps):
            mine = rows[where[rows] == rank]
            halves = [half for half in (mine[: len(mine) // 2], mine[len(mine) // 2 :]) if len(half)]
            tables = [Responses(**{name: column[half] for name, column in varying.items()}) for half in halves]
            scalars = {"loss": float(draw.normal()), "grad_norm": grad_norm, "llds_coefficient": 0.1 * update}
            step.updates.append(Part(tables, scalars))
    for kind in ("cross_update", "post_update", "lagged", "fixed", "noise"):
        rescored = probes_of(draw, kind, int(draw.integers(3, 16)), prompts)
        where = draw.choice(having, len(rescored["tokens"]))
        for rank, step in enumerate(steps):
            mine = np.flatnonzero(where == rank)
            step.probes.append(Probes(**{name: column[mine] for name, column in rescored.items()}))
    return steps


def together(steps: Sequence[Step]) -> Step:
    """The same step, seen by one process: all rows of an update, and the mean of what the ranks say."""
    updates = []
    for parts in zip(*(step.updates for step in steps), strict=True):
        updates.append(
            Part([rows for part in parts for rows in part.responses], mean([part.scalars for part in parts]))
        )
    probes = [rows for step in steps for rows in step.probes]
    return Step(updates, probes, mean([step.scalars for step in steps]))


def mean(scalars: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([given[name] for given in scalars])) for name in scalars[0]}


def responses_of(draw: np.random.Generator, size: int, number: int, prompts: int) -> dict[str, Any]:
    """What belongs to a response, whatever update sees it."""
    tokens = draw.integers(1, 200, size)
    first = np.minimum(draw.integers(0, 50, size), tokens)
    answer = np.minimum(draw.integers(0, 20, size), tokens)
    return {
        "uid": draw.permutation(size) + 1000 * number,
        "group": draw.integers(0, prompts, size),
        "reward": draw.choice([0.0, 0.1, 1.0], size),
        "advantage": draw.choice([-1.2, -0.4, 0.0, 0.004, 0.3, 1.1], size),
        "correct": draw.random(size) < 0.5,
        "tokens": tokens,
        "actions": draw.integers(1, 5, size),
        "old_log_prob": -draw.gamma(2.0, size=size) * tokens,
        "first_action_tokens": first,
        "first_action_log_prob": -draw.gamma(1.0, size=size) * first,
        "answer_tokens": answer,
        "answer_log_prob": -draw.gamma(1.0, size=size) * answer,
    }


def of_update(draw: np.random.Generator, fixed: dict[str, Any]) -> dict[str, Any]:
    """What an update sees of the responses, under the policy as it is then."""
    tokens, size = fixed["tokens"], len(fixed["tokens"])
    return {
        "log_prob": np.minimum(fixed["old_log_prob"] + draw.normal(0, 0.05, size) * tokens, 0.0),
        "entropy": draw.gamma(1.0, size=size),
        "min_log_prob": -draw.gamma(3.0, size=size),
        "low_confidence_tokens": draw.integers(0, tokens + 1),
        "very_low_confidence_tokens": draw.integers(0, tokens // 3 + 1),
        "clipped_tokens": draw.integers(0, tokens + 1),
        "first_action_change": draw.normal(0, 0.1, size),
        "answer_change": draw.normal(0, 0.1, size),
    }


def probes_of(draw: np.random.Generator, kind: str, size: int, prompts: int) -> dict[str, Any]:
    """Re-scored responses of one kind; some without a policy token."""
    tokens = draw.integers(0, 100, size)
    first = np.minimum(draw.integers(0, 40, size), tokens)
    answer = np.minimum(draw.integers(0, 10, size), tokens)
    before = {"log_prob": tokens, "first_action": first, "answer": answer}
    nats = {f"{name}_before": -draw.gamma(1.0, size=size) * span for name, span in before.items()}
    lags = {"lagged": draw.choice(LAGS, size), "post_update": np.zeros(size)}
    return {
        "kind": np.full(size, kind),
        "uid": draw.integers(0, 10**6, size),
        "group": draw.integers(0, prompts, size),
        "correct": draw.random(size) < 0.5,
        "advantage": draw.choice([-1.0, 0.0, 0.5], size),
        "lag": lags.get(kind, np.ones(size)),
        "tokens": tokens,
        "fallen_tokens": draw.integers(0, tokens + 1),
        "largest_token_change": draw.gamma(1.0, size=size),
        "first_action_tokens": first,
        "answer_tokens": answer,
        **nats,
        **{f"{name[:-7]}_after": values + draw.normal(0, 0.3, size) for name, values in nats.items()},
    }


assert {"cross_update", "post_update", "lagged", "fixed", "noise", "in_batch"} == set(KINDS)


def watch(monitor: Monitor, step: Step) -> dict[str, Any]:
    """Give a step to a monitor; its diagnosis."""
    for part in step.updates:
        for rows in part.responses:
            monitor.observe(rows)
        monitor.update(**part.scalars)
    for rescored in step.probes:
        monitor.probe(rescored)
    return monitor.step(**step.scalars).as_dict()


SPREAD_STEPS = 36
SPIRAL_STEPS = 75


@job
def spread(rank: int, size: int, run: Path, *, split: str) -> list[dict[str, Any]]:
    """Rank after rank sees its part of the same steps."""
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        return [watch(monitor, step_of(number, size, split)[rank]) for number in range(1, SPREAD_STEPS + 1)]


@job
def spiralling(rank: int, size: int, run: Path) -> list[dict[str, Any]]:
    """A training that collapses, of which each rank sees something else."""
    noise = random.Random(rank)
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        return [monitor.step(**spiral(step, noise)).as_dict() for step in range(1, SPIRAL_STEPS + 1)]


@job
def alerting(rank: int, size: int, run: Path) -> list[bool]:
    """The same, and people are told: whether each step asks to stop."""
    if rank:  # rank 0 alone needs the program
        os.environ["PATH"] = ""
    told = run.with_name(f"told-{run.name}")
    told.mkdir(exist_ok=True)
    note = Command(["sh", "-c", f'echo "$PPID $LLDWATCH_ALERT_STAGE" >> "{told}/{rank}"'])
    noise, asked = random.Random(rank), []
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS), alerts=[note], stop_on="collapse") as monitor:
        for step in range(1, 121):
            monitor.step(**spiral(step, noise))
            asked.append(monitor.should_stop)
    return asked


@job
def stopping_alone(rank: int, size: int, run: Path) -> list[bool]:
    """A run that collapses after its ranks have lost each other."""
    noise, asked = random.Random(0), []
    ranks = Ranks(timeout_s=SECONDS)
    with Monitor(run, ranks=ranks, stop_on="collapse") as monitor:
        for step in range(1, 121):
            if step == 60 and rank:
                break  # this one is gone
            monitor.step(**spiral(step, noise))
            asked.append(monitor.should_stop)
    return [*asked, monitor.diagnosis.stage >= Stage.COLLAPSE]


@job
def misconfigured(rank: int, size: int, run: Path) -> tuple[list[str], str]:
    """Rank 0 cannot tell anybody."""
    os.environ.pop("LLDWATCH_WEBHOOK", None)
    return refusal(lambda: Monitor(run, ranks=Ranks(timeout_s=SECONDS), alerts=[Webhook()]))


# rows that say where they come from


def tagged(rank: int, phase: int, rows: int = 3, **more: Any) -> Responses:
    """Rows of a rank (its `group`) in a phase of the training (their `reward`); identities come from the monitor."""
    return Responses(
        group=np.full(rows, rank),
        reward=np.full(rows, phase),
        tokens=np.full(rows, 10),
        log_prob=np.full(rows, -1.0),
        old_log_prob=np.full(rows, -1.5),
        **more,
    )


def tagged_step(monitor: Monitor, rank: int, phase: int, step: int | None = None) -> dict[str, Any]:
    """One step of such rows, one row in `probes`, and one in `gradients`."""
    monitor.observe(tagged(rank, phase))
    monitor.probe(Probes(kind=["lagged"], group=[rank], tokens=[2], log_prob_before=[-1.0], log_prob_after=[-1.5]))
    monitor.gradients(Gradients(module=["head"], grad_norm=[1.0], parameters=[3]))
    return monitor.step(step, grad_norm=1.0).as_dict()


@job
def resumed(rank: int, size: int, run: Path) -> list[dict[str, Any]]:
    """Phase 1: steps 1 to 6. Phase 2, after a new start: 7 to 9. Phase 3, from an earlier checkpoint: 5 to 7."""
    said = []
    with Monitor(run, config={"seed": 1}, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        said += [tagged_step(monitor, rank, 1) for _ in range(6)]
    dist.barrier()
    with Monitor(run, config={"seed": 1}, resume=True, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        said += [tagged_step(monitor, rank, 2) for _ in range(3)]
        said += [tagged_step(monitor, rank, 3, step) for step in (5, None, None)]
    return said


@job
def resumed_earlier(rank: int, size: int, run: Path) -> list[dict[str, Any]]:
    """Phase 1: steps 1 to 6. Phase 2, after a new start from an older checkpoint: steps 4 and 5."""
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        said = [tagged_step(monitor, rank, 1) for _ in range(6)]
    dist.barrier()
    with Monitor(run, resume=True, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        return said + [tagged_step(monitor, rank, 2, step) for step in (4, 5)]


@job
def twice(rank: int, size: int, run: Path) -> None:
    """In step 2 the first row of every rank has the same identity, in the same update."""
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        for step in (1, 2):
            uid = np.arange(3) + 100 * rank + 1000 * step
            if step == 2:
                uid[0] = 77
            monitor.observe(tagged(rank, 1, uid=uid))
            monitor.step()


@job
def uneven_numbers(rank: int, size: int, run: Path) -> list[dict[str, Any]]:
    """Some numbers are given by one rank alone."""
    said = []
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        said.append(monitor.step(loss=float(rank)).as_dict())
        said.append(monitor.step(**({"kl": 0.5, "learning_rate": 1e-6} if rank == 1 else {})).as_dict())
        said.append(monitor.step(**({"grad_norm": 2.0} if rank == 0 else {})).as_dict())
        said.append(monitor.step(**({"grad_norm": 2.0} if rank == 1 else {})).as_dict())
        said.append(monitor.step(loss=float(rank)).as_dict())
    return said


# LLDS


@job
def corrected(rank: int, size: int, run: Path) -> dict[str, Any]:
    """What each rank is told to do in each step. Rank 1 alone sees the illness, in steps 3 to 5, and again in 8.

    After step 6 the training is resumed, after step 9 it goes back to step 5, which is well this time.
    """
    told, asked = list[tuple[int, float, bool]](), list[bool]()
    llds = Correct(mode="auto", strength=3.0, ramp=3, release=2)

    def watching(steps: Sequence[int], ill: Sequence[int], resume: bool) -> None:
        with Monitor(
            run,
            resume=resume,
            detector=Told(),
            llds=llds,
            reduce_updates=asked.append,
            ranks=Ranks(timeout_s=SECONDS),
        ) as monitor:
            for step in steps:
                told.append((step, monitor.llds_coefficient, monitor.fewer_updates))
                monitor.step(step, loss=float(step in ill and rank == 1) * size)

    watching(range(1, 7), [3, 4, 5], resume=False)
    dist.barrier()
    watching([7, 8, 9, 5, 6], [8], resume=True)
    return {"told": told, "asked": asked}


# what goes wrong


@job
def decided(rank: int, size: int, run: Path) -> dict[str, Any]:
    """What `Ranks.decide` gives to each rank, with a decision that fails in between."""
    ranks, other = Ranks(timeout_s=SECONDS), Ranks(timeout_s=SECONDS)

    def fail(parts: Sequence[Any]) -> None:
        raise KeyError("no such prompt")

    return {
        "place": (ranks.rank, ranks.size),
        "order": ranks.decide({"rank": rank, "long": "x" * 10 ** (rank + 2)}, lambda parts: [p["rank"] for p in parts]),
        "failed": refusal(lambda: ranks.decide(rank, fail)),
        "after": ranks.decide(rank, sum),
        "nothing": ranks.decide(None, lambda parts: None),
        "other": other.decide(rank, max),
    }


@job
def broken_detector(rank: int, size: int, run: Path) -> dict[str, Any]:
    """A bug of ours on rank 0, in step 3 alone."""
    whole = CollapseDetector.fold

    def broken(self: CollapseDetector, observation: Observation) -> Any:
        if observation.step == 3:
            raise RuntimeError("a bug of ours")
        return whole(self, observation)

    CollapseDetector.fold = broken  # type: ignore[method-assign]
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        said = [tagged_step(monitor, rank, 1) for _ in range(5)]
    return {"said": said, "dropped": monitor.dropped_steps}


@job
def broken_part(rank: int, size: int, run: Path) -> list[dict[str, Any]]:
    """In step 3 rank 1 gives a number that breaks when it is read, before what it has is on its way."""

    class Broken:
        def __float__(self) -> float:
            raise KeyError("a broken number")

    with Monitor(run, ranks=Ranks(timeout_s=5.0)) as monitor:
        said = []
        for step in range(1, 6):
            monitor.observe(tagged(rank, step))
            said.append(monitor.step(loss=Broken() if (rank, step) == (1, 3) else 1.0).as_dict())
        return said


@job
def refused(rank: int, size: int, run: Path) -> tuple[list[str], str]:
    """A run is there, and nobody asked to go on with it."""
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        monitor.step()
    dist.barrier()
    return refusal(lambda: Monitor(run, ranks=Ranks(timeout_s=SECONDS)))


@job
def forgotten(rank: int, size: int, run: Path, *, steps_before: int) -> tuple[list[str], str]:
    """Nobody gives `ranks`; rank 1 comes when rank 0 has recorded so many steps."""
    monitor = Monitor(run) if rank == 0 else None
    if monitor is not None:
        for _ in range(steps_before):
            monitor.step()
        monitor._recorder.flush()
    dist.barrier()
    answer = ([], "") if rank == 0 else refusal(lambda: Monitor(run))
    dist.barrier()
    if monitor is not None:
        monitor.step()
        monitor.close()
    return answer


@job
def mistaken(rank: int, size: int, run: Path) -> list[Any]:
    """Mistakes of all ranks in the first step; one that each finds, one that rank 0 finds for all."""
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        return [
            refusal(lambda: monitor.step(gradnorm=1.0)),
            refusal(lambda: monitor.observe(per_response(torch.zeros(2, 3), None, torch.ones(2, 2)))),
            refusal(lambda: monitor.step(updates=float("nan"))),
            refusal(lambda: monitor.step("first")),  # type: ignore[arg-type]
            monitor.step(grad_norm=1.0).as_dict(),
            refusal(lambda: monitor.step(gradnorm=1.0)),
        ]


@job
def lost(
    rank: int,
    size: int,
    run: Path,
    *,
    gone: int,
    how: str,
    timeout_s: float,
    back: int | None = None,
) -> dict[str, Any]:
    """In step 4 of 8 a rank dies or hangs. Then, perhaps, the training goes back to an earlier checkpoint."""
    deciding = run.with_name("rank 0 decides")
    if how == "dies before the answer" and rank == gone:
        threading.Thread(target=die_when_there, args=(deciding,), daemon=True).start()
    if rank == 0 and how == "dies before the answer":
        slow_record(4, 1.0, deciding)
    if rank == 0 and how == "decides too slowly":
        slow_record(4, timeout_s + 1.0, deciding)
    said, seconds = [], []
    monitor = Monitor(run, ranks=Ranks(timeout_s=timeout_s))
    with monitor:
        for step in [*range(1, 9), *([] if back is None else range(back, 9))]:
            if rank == gone and step == 4 and len(said) == 3:
                monitor._recorder.flush()
                if how == "leaves":
                    os._exit(1)
                if how == "is killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "hangs":
                    time.sleep(timeout_s + 1.5)
            began = time.monotonic()
            said.append(tagged_step(monitor, rank, 1 + (len(said) >= 8), step))
            seconds.append(time.monotonic() - began)
    return {"said": said, "seconds": seconds, "dropped": monitor.dropped_steps}


def die_when_there(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def slow_record(step: int, seconds: float, deciding: Path) -> None:
    """Something keeps rank 0 waiting in one step, when it has recorded it for the first time; the file says so."""
    record, slept = Recorder.record, []

    @functools.wraps(record)
    def slowly(self: Recorder, observation: Observation, *rows: Any) -> None:
        record(self, observation, *rows)
        if observation.step == step and not slept:
            slept.append(step)
            deciding.touch()
            time.sleep(seconds)

    Recorder.record = slowly  # type: ignore[method-assign]


@job
def left_in_first_step(rank: int, size: int, run: Path) -> list[Any]:
    """A mistake that one rank alone makes in its first step; it ends there, as a training does."""
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        began = time.monotonic()
        said = [monitor.step(**({"gradnorm": 1.0} if rank == 1 else {})).as_dict() for _ in range(3)]
        return [said, time.monotonic() - began]


# groups


@job
def subgroup(rank: int, size: int, run: Path) -> Any:
    """Ranks 0 and 2 hold different responses; 1 and 3 hold the same as they do, and do something else meanwhile."""
    group = dist.new_group([0, 2])
    if rank in (1, 3):
        return refusal(lambda: Ranks(group))
    with Monitor(run, ranks=(ranks := Ranks(group, timeout_s=SECONDS))) as monitor:
        said = [tagged_step(monitor, ranks.rank, 1) for _ in range(3)]
    return ranks.rank, ranks.size, said


@job
def other_groups(rank: int, size: int, run: Path, *, members: list[int]) -> Any:
    """All ranks are among `Ranks`, but only some of them are in a group that the training made before."""
    dist.new_group(members)
    return Ranks(timeout_s=5.0).decide(rank, sum)


@job
def no_torch_distributed(rank: int, size: int, run: Path) -> tuple[list[str], str]:
    """Before init_process_group, or after its end."""
    dist.destroy_process_group()
    return refusal(Ranks)


# probes

PROBE_STEPS = 26
TROUBLE = 11
"""The step at which rank 1 has trouble: one in which the preset `full` measures all kinds but the fixed anchors."""

VOCABULARY, TOKENS = 11, 6


def probe_batches(rank: int, trouble: str | None) -> Iterator[dict[str, Any]]:
    """Batches of a rank: uneven, and at some steps without a correct response."""
    for step in range(1, PROBE_STEPS + 1):
        random = torch.Generator().manual_seed(1000 * rank + step)
        size = 5 + 2 * rank + step % 3
        if trouble == "no responses" and rank == 1 and step == TROUBLE:
            size = 0
        mask = torch.rand(size, TOKENS, generator=random) < 0.7
        mask[:, 0], mask[:, -1] = False, True
        correct = torch.rand(size, generator=random) < 0.5
        if (rank == 1 and step % 4 == 2) or (rank == 0 and step in (1, 5, 6)):
            correct[:] = False
        advantages = torch.where(correct, 1.0, -1.0)
        if step % 4 != 2:  # at the others there may be nothing for post_update
            advantages[torch.rand(size, generator=random) < 0.2] = 0.0
            advantages[:1] = 0.0
        about = {
            "batch": {"tokens": torch.randint(VOCABULARY, (size, TOKENS), generator=random)},
            "response_mask": mask,
            "correct": correct,
            "advantages": advantages,
            "uid": torch.arange(size) + 100 * step + 10_000 * rank,
            "group": torch.arange(size) // 4,
        }
        if trouble == "a wrong shape" and rank == 1 and step == TROUBLE:
            about["response_mask"] = mask[:, 0]
        yield about


@job
def probed(rank: int, size: int, run: Path, *, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Trainings one after the other, each in a folder of its own."""
    return {name: one_probed(rank, size, run / name, **options) for name, options in variants.items()}


def one_probed(
    rank: int,
    size: int,
    run: Path,
    *,
    preset: str,
    micro_batch: int | None = None,
    trouble: str | None = None,
    sharded: bool = False,
) -> dict[str, Any]:
    """Calls of the score at each step, before and after the update, and what the batches held."""
    calls, step, scored = 0, 0, []
    weights = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(5))

    def score(batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if trouble == "the score fails" and rank == 1 and step == TROUBLE:
            raise RuntimeError("out of memory")
        tokens, table = batch["tokens"], weights
        if sharded:  # each rank holds a part of the weights
            table = torch.where((torch.arange(VOCABULARY) % size == rank)[:, None], weights, 0.0)
            dist.all_reduce(table)
        log_probs = torch.log_softmax(table[tokens[:, :-1]], -1).gather(-1, tokens[:, 1:, None])[..., 0]
        return torch.nn.functional.pad(log_probs, (1, 0))

    probe = LikelihoodProbe(score, preset, micro_batch=micro_batch, every_rank=True)
    counts, correct, uids = [], {}, {}
    if trouble == "anchors of one's own":
        own = torch.randint(VOCABULARY, (2 + 5 * rank, TOKENS), generator=torch.Generator().manual_seed(rank))
        probe.set_anchors({"tokens": own}, response_mask=torch.ones_like(own))
        counts.append((calls, 0))
    with Monitor(run, ranks=Ranks(timeout_s=SECONDS)) as monitor:
        for step, about in enumerate(probe_batches(rank, trouble), 1):
            calls = 0
            probe.before_update(**about)
            before = calls
            weights += 0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(step))
            probes = probe.after_update(**about)
            counts.append((before, calls - before))
            monitor.probe(probes)
            scored.append(len(probes))
            monitor.step()
            uids[step], correct[step] = about["uid"].tolist(), about["uid"][about["correct"]].tolist()
    return {"calls": counts, "uids": uids, "correct": correct, "rows": scored}


@job
def default_of_every_rank(rank: int, size: int, run: Path) -> list[int]:
    """Calls of the score by a probe that is told nothing of ranks: rank 1 has nothing to score."""
    calls = 0

    def score(batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(3, 4)[: len(batch["tokens"])]

    answers = []
    for given in ({}, {"every_rank": False}):
        calls = 0
        about = {"response_mask": torch.ones(3, 4), "correct": torch.full((3,), rank == 0)}
        LikelihoodProbe(score, "economy", **given).after_update({"tokens": torch.zeros(3, 4)}, **about)
        answers.append(calls)
    return answers


# a training that really learns something


class Policy(torch.nn.Module):
    """A bigram policy with dropout: the random stream matters."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(VOCABULARY, 8)
        self.head = torch.nn.Linear(8, VOCABULARY)
        self.dropout = torch.nn.Dropout(0.2)

    def forward(self, batch: Any) -> Tensor:
        """(responses, tokens), nats; the first token is given, its log-prob 0."""
        logits = torch.log_softmax(self.head(self.dropout(self.table(batch["tokens"][:, :-1]))), -1)
        return torch.nn.functional.pad(logits.gather(-1, batch["tokens"][:, 1:, None])[..., 0], (1, 0))


@job
def trained(rank: int, size: int, run: Path, *, steps: int) -> dict[str, list[Any]]:
    """The same data-parallel training twice, first without and then with lldwatch."""
    return {name: training(rank, size, run, steps, watched=name == "watched") for name in ("unwatched", "watched")}


def training(rank: int, size: int, run: Path, steps: int, *, watched: bool) -> list[Any]:
    """Losses, and a sum over the weights at the end, as hexadecimal numbers: bit for bit."""
    torch.manual_seed(7)  # the same weights on all ranks, then a stream of its own on each
    policy = Policy()
    torch.manual_seed(100 + rank)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    monitor = Monitor(run, ranks=Ranks(timeout_s=SECONDS)) if watched else None
    probe = LikelihoodProbe(policy, "full", micro_batch=5) if watched else None
    losses = []
    for step in range(steps):
        tokens = torch.randint(VOCABULARY, (8, TOKENS))
        mask, rewards = torch.ones(8, TOKENS).index_fill(1, torch.tensor([0]), 0.0), (tokens[:, -1] > 5).float()
        about = {"batch": {"tokens": tokens}, "response_mask": mask, "correct": rewards > 0}
        about["advantages"], about["uid"] = rewards - rewards.mean(), torch.arange(8) + 100 * step + 10_000 * rank
        if probe is not None:
            probe.before_update(**about)
        with torch.no_grad():
            old = policy(about["batch"])
        for _ in range(2):
            log_probs = policy(about["batch"])
            ratio = torch.exp(log_probs - old)
            loss = -(ratio * about["advantages"][:, None] * mask).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            for parameter in policy.parameters():
                assert parameter.grad is not None
                dist.all_reduce(parameter.grad)
                parameter.grad /= size
            if monitor is not None:
                known = {"advantages": about["advantages"], "rewards": rewards, "uid": about["uid"]}
                monitor.observe(per_response(log_probs, old, mask, **known))
            grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item().hex())
            if monitor is not None:
                monitor.update(grad_norm=grad_norm, loss=loss)
        if probe is not None and monitor is not None:
            monitor.probe(probe.after_update(**about))
            monitor.step()
    if monitor is not None:
        monitor.close()
    return [*losses, sum(parameter.double().sum() for parameter in policy.parameters()).item().hex()]


@job
def timed(rank: int, size: int, run: Path, *, steps: int, pause: float = 0.0) -> float:
    """Median seconds of a `Monitor.step`, 64 responses on each rank, when the ranks come to it at the same time.

    For whoever wants to know; no test asks for it, since the time is the machine's. With a pause between the steps the
    recorder's thread is done with the last one, as it is in a training.
    """
    rows = {name: column for name, column in responses_of(np.random.default_rng(1), 64, 1, 8).items() if name != "uid"}
    rows |= of_update(np.random.default_rng(2), rows)
    probes = probes_of(np.random.default_rng(3), "cross_update", 64, 8)
    seconds = []
    with Monitor(run, ranks=None if size == 1 else Ranks(timeout_s=SECONDS)) as monitor:
        for _ in range(steps):
            monitor.observe(Responses(**rows))
            monitor.probe(Probes(**probes))
            time.sleep(pause)
            dist.barrier()
            began = time.perf_counter()
            monitor.step(loss=0.1, grad_norm=1.0)
            seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


if __name__ == "__main__":
    warnings.simplefilter("error")  # as in pytest
    sys.modules["child_rank"] = sys.modules["__main__"]  # what is pickled here is of the module that the test imports
    Rank.__module__ = "child_rank"
    launch()
