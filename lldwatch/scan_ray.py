"""Work on Ray: for folders of thousands of runs that many machines can see. `lldwatch.scan` says what the work is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lldwatch.errors import InputError

Found = TypeVar("Found")


def on_ray(
    work: Callable[..., list[Found]],
    parts: Sequence[Sequence[str]],
    *arguments: Any,
    failed: Callable[[str, str], Found],
    jobs: int,
) -> Iterator[list[Found]]:
    """One task for each part, in the order in which they are done.

    The cluster is the one that the process is connected to, or that `RAY_ADDRESS` names, else a local one. Its machines
    must have lldwatch, and see the runs under the same paths.

    Args:
        work: called as ``work(part, *arguments)`` on some machine.
        parts: paths or URLs of runs.
        arguments: further ones.
        failed: called as ``failed(run, why)`` for each run of a task that was lost.
        jobs: cores of a local cluster.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        words = "--engine ray needs Ray: install lldwatch with its extra [ray], or use --engine local"
        raise InputError(words) from None
    began = not ray.is_initialized()
    if began:
        _connect(ray, jobs)
    try:
        task = ray.remote(work)
        waiting = {task.remote(list(part), *arguments): part for part in parts}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            part = waiting.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                yield [failed(run, f"its Ray task failed ({reason}): try again") for run in part]
    finally:
        if began:
            ray.shutdown()


def _connect(ray: Any, jobs: int) -> None:
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level="error")
    else:
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level="error")
