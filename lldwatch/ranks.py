"""The ranks of a distributed training: once a step, what each has seen goes to rank 0, and what it decides to all.

Over gloo, on the CPU: no kernel is launched and no stream of the training's is waited for. It happens in
`Monitor.step`, never in the loss: pipeline-parallel trainers call the loss on some ranks only, and would hang.

Rejected: an all-reduce of sums. It would need a second one for the standard error (prompts may be spread over ranks),
and every new column another sum; the rows of a step are some kilobytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from lldwatch.errors import InputError, LldwatchError, RanksError

__all__ = ["Ranks"]

Mine = TypeVar("Mine")
Answer = TypeVar("Answer")


class Ranks:
    """The processes that hold different responses of one training: its data-parallel ranks.

    ```python
    monitor = Monitor("runs/search", ranks=Ranks())     # on every rank, with the same arguments
    ```

    Processes that hold the same responses (tensor or sequence parallel) must not be among them, or each would count
    twice: give the group of the data-parallel ones, and make a Monitor on one process of each.

    Args:
        group: of the ranks; None: all of them. `torch.distributed` must have been started.
        timeout_s: how long a step may wait for the slowest rank before each goes on alone.

    Attributes:
        rank: of this process within the group.
        size: number of ranks.

    Raises:
        InputError: torch.distributed is not running, or this process is not in the group.
        RanksError: the others do not answer.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, timeout_s: float = 600.0) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError("Ranks needs torch.distributed: call init_process_group first, or leave ranks out")
        members = list(range(dist.get_world_size())) if group is None else dist.get_process_group_ranks(group)
        if dist.get_rank() not in members:
            raise InputError(f"process {dist.get_rank()} is not in the group of ranks {members}: make no Ranks there")
        self.rank, self.size = members.index(dist.get_rank()), len(members)
        self._first = members[0]
        timeout = timedelta(seconds=timeout_s)
        try:  # by the members alone where others take no part; that counts on all of them being in as many groups
            self._group = dist.new_group(
                members, backend="gloo", timeout=timeout, use_local_synchronization=group is not None
            )
        except Exception as error:  # a RuntimeError of gloo or of the store, or of a process that is gone
            raise RanksError(f"the ranks {members} do not find each other ({_short(error)})") from error

    def decide(self, mine: Mine, decide: Callable[[Sequence[Mine]], Answer]) -> Answer:
        """Bring what all ranks have to rank 0, let it decide, and bring the answer to all. Every rank must call it.

        Args:
            mine: what this rank has; anything that can be pickled.
            decide: called on rank 0 alone, with one `mine` per rank, rank 0's first.

        Returns:
            What `decide` returned, on every rank.

        Raises:
            RanksError: a rank did not answer in time, or is gone.
            LldwatchError: `decide` raised; rank 0 gets the exception itself, the others its words.
        """
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        answer: list[Any] = [None, None]
        failure: Exception | None = None
        try:
            dist.gather_object(mine, parts, dst=self._first, group=self._group)
            if parts is not None:
                try:
                    answer[0] = decide(parts)
                except Exception as error:  # the others wait for an answer, whatever it is
                    failure, answer[1] = error, f"{type(error).__name__}: {error}"
            dist.broadcast_object_list(answer, src=self._first, group=self._group)
        except Exception as error:  # gloo raises RuntimeError, and others when a process is gone
            if failure is None:
                raise RanksError(
                    f"ranks do not answer each other any more ({_short(error)}): each goes on alone"
                ) from error
        if failure is not None:
            raise failure
        if answer[1] is not None:
            raise LldwatchError(f"on rank 0: {answer[1]}")
        result: Answer = answer[0]
        return result


def _short(error: Exception) -> str:
    """The first sentence, without the place in the source where gloo begins it."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"\[[^\]]*\.cc:\d+\]\s*", "", line).split(". ")[0] or type(error).__name__
