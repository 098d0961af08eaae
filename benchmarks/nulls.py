"""How often does the detector warn about runs to which nothing happens?

python benchmarks/nulls.py --runs 200 --steps 700

The runs are simulated: every signal is a stationary AR(1) series of the same autocorrelation around a healthy level.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from lldwatch import CollapseDetector, Observation

LEVELS = {  # signal: (level, standard deviation), about those of the healthy miniature
    "cross_update_change": (0.0, 0.003),
    "log_prob_correct": (-0.2, 0.03),
    "entropy": (0.3, 0.03),
    "grad_norm": (1.0, 0.2),
    "reward": (0.6, 0.05),
}


def autoregressive(rng: np.random.Generator, steps: int, phi: float) -> npt.NDArray[np.float64]:
    """A stationary AR(1) series, (steps,), mean 0, standard deviation 1."""
    series = rng.normal(size=steps)
    for step in range(1, steps):
        series[step] = phi * series[step - 1] + np.sqrt(1 - phi**2) * series[step]
    return series


def is_warned(seed: int, phi: float, steps: int) -> bool:
    """Whether a run without any change is warned about at some step."""
    rng = np.random.default_rng([seed, round(100 * phi)])
    series = {name: level + sd * autoregressive(rng, steps, phi) for name, (level, sd) in LEVELS.items()}
    detector = CollapseDetector()
    for step in range(steps):
        values = {name: float(series[name][step]) for name in LEVELS}
        detector.update(Observation(step=step + 1, cross_update_error=LEVELS["cross_update_change"][1], **values))
    return detector.diagnosis.first_warning is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=700)
    arguments = parser.parse_args()
    print("| autocorrelation | runs warned | false warnings per 1,000 steps |\n|---|---|---|")
    with ProcessPoolExecutor() as pool:
        for phi in (0.0, 0.5, 0.8, 0.95):
            warned = sum(
                pool.map(partial(is_warned, phi=phi, steps=arguments.steps), range(arguments.runs), chunksize=4)
            )
            rate = 1000 * warned / arguments.runs / arguments.steps
            print(f"| {phi} | {warned}/{arguments.runs} | {rate:.2f} |", flush=True)


if __name__ == "__main__":
    main()
