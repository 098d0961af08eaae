"""What does being watched cost? CPU time of the training thread inside lldwatch, as a share of the miniature's step.

python benchmarks/overhead.py --scenario healthy --steps 40 --repeats 3

The steps of the miniature are tiny (60 responses of some 24 tokens, 52,000 parameters): no real training spends a
larger share. The probe is the price of the headline: two forward passes of the correct responses of a step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from lldwatch import Monitor
from lldwatch.gradients import GradientNorms
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


def measure(scenario: str, steps: int, folder: Path) -> dict[str, float]:
    """CPU seconds of the training thread: all, and inside each part."""
    spent: dict[str, float] = defaultdict(float)
    originals = [(owner, name, getattr(owner, name)) for places in PARTS.values() for owner, name in places]
    policy = base_policy()
    try:
        for part, places in PARTS.items():
            for owner, name in places:
                setattr(owner, name, timed(getattr(owner, name), spent, part))
        with Monitor(folder) as monitor:
            began = time.thread_time()
            grpo.train(policy, grpo.SCENARIOS[scenario], 0, steps, monitor)
            spent["all"] = time.thread_time() - began
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=grpo.SCENARIOS, default="healthy")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            measure(arguments.scenario, arguments.steps, Path(folder, str(repeat)))
            for repeat in range(arguments.repeats)
        ]
    title = f"part ({arguments.scenario}, median of {arguments.repeats})"
    print(f"| {title} | ms per step | share of the rest |\n|---|---|---|")
    for part in PARTS:
        own = median(1000 * run[part] / arguments.steps for run in runs)
        share = median(run[part] / (run["all"] - sum(run[p] for p in PARTS)) for run in runs)
        print(f"| {part} | {own:.2f} | {share:.1%} |")


if __name__ == "__main__":
    main()
