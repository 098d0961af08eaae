"""How often a person would be told of trainings that are well, and what telling costs the training.

python benchmarks/alerts.py [--runs 10]

Healthy runs and null series are simulated; what is sent is what `Monitor(alerts=...)` would send.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median

from lldwatch import CollapseDetector
from lldwatch.alerts import Onsets, alerts_of
from lldwatch.simulate import SimulatedRun, null, simulate

PHIS = (0.5, 0.8, 0.95)


def told(title: str, runs: Sequence[SimulatedRun]) -> None:
    """One line: how many alerts of which kind."""
    steps = sum(len(run.observations) for run in runs)
    alerts = [alert for run in runs for alert in alerts_of(run.observations, run.name)]
    kinds = Counter(f"{alert.kind} ({alert.stage.label})" for alert in alerts)
    words = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common()) or "nothing"
    print(f"| {title} | {len(runs)} | {steps:,} | {words} | {1000 * len(alerts) / steps:.1f} |")


def fold_us(run: SimulatedRun) -> float:
    """Median time of the fold, microseconds a step."""
    detector, onsets, spent = CollapseDetector(), Onsets(), []
    for observation in run.observations:
        verdict = detector.fold(observation)
        began = time.perf_counter()
        onsets.update(observation, verdict)
        spent.append(1e6 * (time.perf_counter() - began))
    return median(spent)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="of each row")
    runs = parser.parse_args().runs
    print("| simulated | runs | steps | told | in 1,000 steps |\n|---|---|---|---|---|")
    told("healthy", [simulate("healthy", seed) for seed in range(runs)])
    for phi in PHIS:
        told(f"null, autocorrelation {phi}", [null(seed, phi=phi) for seed in range(runs)])
    print(f"\nthe fold takes {fold_us(simulate('healthy', 0, 2000)):.0f} us a step on the training thread")


if __name__ == "__main__":
    main()
