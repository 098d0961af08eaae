"""What does being watched cost? CPU time of the training thread inside lldwatch, as a share of the miniature's step.

python benchmarks/overhead.py --steps 40 --repeats 3

Two trainings of a policy of 52,000 parameters, whose steps are far smaller than any real one's: the healthy scenario
(60 responses of some 24 tokens, 4 updates a step), and the same with 256 responses and 1 update a step. The share is of
the step without lldwatch. The last column is the share that the same work would be of a step of one second: reductions,
roll-up, recording and detection do not grow with the model, the probes do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from lldwatch import Monitor
from lldwatch.gradients import GradientNorms
from lldwatch.probe_plan import PRESETS
from lldwatch.probes import LikelihoodProbe
from lldwatch.search_world import grpo
from lldwatch.search_world.pretrain import base_policy

PARTS = {
    "hooks: per_response": [(grpo, "per_response")],
    "monitor: gather, record, detect": [
        (Monitor, name) for name in ("observe", "gradients", "update", "probe", "step")
    ],
    "gradient norms of the parts, each 10th step": [(GradientNorms, "measure")],
    "probes: re-score": [(LikelihoodProbe, name) for name in ("before_update", "after_update")],
}


def timed(function: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    """The function, adding the thread's CPU seconds inside it to `spent`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += time.thread_time() - began

    return wrapper


HEALTHY = grpo.SCENARIOS["healthy"]
TRAININGS = {
    "60 responses, 4 updates": HEALTHY,
    "256 responses, 1 update": replace(HEALTHY, prompts=64, responses=4, mini_batches=1),
}
WITHOUT_PROBES = [part for part in PARTS if not part.startswith("probes")]


def measure(training: grpo.Scenario, preset: str, steps: int, folder: Path) -> dict[str, float]:
    """CPU seconds of the training thread a step: all, and inside each part."""
    spent: dict[str, float] = defaultdict(float)
    originals = [(owner, name, getattr(owner, name)) for places in PARTS.values() for owner, name in places]
    policy = base_policy()
    try:
        for part, places in PARTS.items():
            for owner, name in places:
                setattr(owner, name, timed(getattr(owner, name), spent, part))
        with Monitor(folder) as monitor:
            began = time.thread_time()
            grpo.train(policy, training, 0, steps, monitor, probes=preset)
            spent["all"] = time.thread_time() - began
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
    return {part: seconds / steps for part, seconds in spent.items()}


def row(title: str, runs: list[dict[str, float]], parts: list[str]) -> str:
    """Medians over the runs of the time in some parts, alone and as a share of the unwatched step."""
    own = median(sum(run[part] for part in parts) for run in runs)
    share = median(sum(run[part] for part in parts) / (run["all"] - sum(run[p] for p in PARTS)) for run in runs)
    return f"| {title} | {1000 * own:.2f} | {share:.1%} | {own:.2%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| | ms a step | share of the step | share of a step of 1 s |\n|---|---|---|---|")
    for training, scenario in TRAININGS.items():
        runs: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(arguments.repeats):
            for preset in PRESETS:
                with tempfile.TemporaryDirectory() as folder:
                    runs[preset].append(measure(scenario, preset, arguments.steps, Path(folder, "run")))
        print(f"| **{training}** | | | |")
        for part in WITHOUT_PROBES:
            print(row(part, runs["standard"], [part]))
        print(row("all but the probes", runs["standard"], WITHOUT_PROBES))
        for preset in PRESETS:
            print(row(f"probes: {preset}", runs[preset], [part for part in PARTS if part not in WITHOUT_PROBES]))


if __name__ == "__main__":
    main()
