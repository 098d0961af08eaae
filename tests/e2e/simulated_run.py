"""Writes a run step by step with made-up numbers that fall into DECAY and then COLLAPSE. A simulation: nothing learns.

Run as `python simulated_run.py RUN_DIR --steps 120 --delay 0.1`; used by test_live.py.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

from lldwatch import Monitor


def made_up_step(step: int, noise: random.Random, *, ill_from: int) -> dict[str, float]:
    """Fields of an Observation: healthy until `ill_from`, then the death spiral in about 50 steps."""
    ill = min(max((step - ill_from) / 50, 0.0), 1.0)
    lost = min(max((step - ill_from - 35) / 15, 0.0), 1.0)
    learnt = 0.35 + 0.3 * (1 - math.exp(-step / 20))
    grad_norm = 0.5 * math.exp(noise.gauss(0, 0.25) + 3.5 * ill**3)
    if lost == 1.0:  # equal rewards give no gradient at all
        grad_norm = 0.0 if step % 3 else math.nan
    return {
        "reward": learnt * (1 - 0.95 * lost) + noise.gauss(0, 0.02),
        "entropy": 0.3 + 1.7 * ill**2 + noise.gauss(0, 0.02),
        "log_prob_correct": -0.2 - 1.2 * ill**2 + noise.gauss(0, 0.015),
        "log_prob_incorrect": -0.42 - 1.3 * ill**2 + noise.gauss(0, 0.025),
        "cross_update_change": -0.034 * ill + noise.gauss(0, 0.002),
        "cross_update_error": 0.002 + 0.001 * noise.random(),
        "noise_floor": 0.001 + 0.001 * noise.random(),
        "change_positive": 0.05 + 0.02 * ill + noise.gauss(0, 0.006),
        "grad_norm": grad_norm,
        "loss": noise.gauss(0, 0.01),
    }


def write(run_dir: Path, *, steps: int, delay: float, ill_from: int = 25, close: bool = True) -> None:
    """Write the run; `close=False` leaves it as a killed training would."""
    noise = random.Random(3)
    config = {"simulation": True, "learning_rate": 1e-6, "updates_per_batch": 4, "model": "none: made-up numbers"}
    monitor = Monitor(run_dir, trainer="simulation", config=config, planned_steps=steps)
    for step in range(1, steps + 1):
        monitor.step(step, **made_up_step(step, noise, ill_from=ill_from))
        time.sleep(delay)
    if close:
        monitor.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds between steps")
    parser.add_argument("--ill-from", type=int, default=25, help="step from which the run is ill")
    given = parser.parse_args()
    write(given.run_dir, steps=given.steps, delay=given.delay, ill_from=given.ill_from)
