"""Fits the weights of the forecast, and prints them for lldwatch/forecast.py.

python benchmarks/forecast.py --miniature runs/development

On simulated runs of seeds from 1000 on, with all signals and with scalars only, and on recorded miniature runs (see
benchmarks/miniature.py) of base policies that no benchmark judges: those from 100 on. Each run counts as much as any
other. A step tells whether a sustained collapse came within the horizon, or how long at least it did not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lldwatch import Observation
from lldwatch.checks import Settings
from lldwatch.forecast import Features, features, horizon_of
from lldwatch.run import Run
from lldwatch.search_world.outcome import judge
from lldwatch.signs import Signs
from lldwatch.simulate import SCENARIOS, null, scalars_only, simulate

Floats = npt.NDArray[np.float64]
FIRST_SEED = 1000
FIRST_BASE = 100
PRIOR = 0.5
"""Each weight is drawn towards 0 as if so many runs had said so."""


def examples(observations: Sequence[Observation], collapse: int | None) -> Floats:
    """One row a step before the collapse: the features, 1 if it came within the horizon, share of the horizon seen."""
    signs, rows = Signs(Settings()), []
    first, last = observations[0].step, observations[-1].step
    for observation in observations:
        signs.update(observation)
        if collapse is not None and observation.step >= collapse:
            break
        if not signs.judges:
            continue
        horizon = horizon_of(observation.step - first + 1)
        came = collapse is not None and collapse <= observation.step + horizon
        seen = 1.0 if came else min((last - observation.step) / horizon, 1.0)
        rows.append((1.0, *features(signs), came, seen))
    return np.array(rows, dtype=np.float64).reshape(-1, len(Features._fields) + 3)


def simulated(job: tuple[str, int, bool]) -> Floats:
    """Examples of one simulated run."""
    scenario, seed, only_scalars = job
    run = null(seed, 200, float(scenario)) if scenario not in SCENARIOS else simulate(scenario, seed)
    return examples((scalars_only(run) if only_scalars else run).observations, run.collapse)


def recorded(folder: Path) -> Iterator[Floats]:
    """Examples of each recorded run of a development base policy."""
    for path in sorted(folder.glob("*-base*-seed*")):
        if int(path.name.split("-base")[1].split("-")[0]) >= FIRST_BASE:
            observations = Run(path).observations()
            yield examples(observations, judge([o.reward or 0.0 for o in observations]).collapse_step)


def fit(parts: Iterable[Floats], rounds: int = 200) -> Floats:
    """Maximum likelihood of the hazard model by projected Newton steps; weights of features stay at or above 0."""
    rows = np.concatenate([np.c_[part, np.full(len(part), 1 / len(part))] for part in parts if len(part)])
    x, came, seen, weight = rows[:, :-3], rows[:, -3] > 0, rows[:, -2], rows[:, -1]
    w = np.zeros(x.shape[1])
    w[0] = -3.0
    for _ in range(rounds):
        expected = np.exp(np.clip(x @ w, -20.0, 3.0))
        alive = np.exp(-expected)
        slope = np.where(came, expected * alive / np.maximum(1 - alive, 1e-12), -expected * seen)
        curve = np.where(came, expected * alive, expected * seen)
        gradient = x.T @ (weight * slope) - PRIOR * np.r_[0.0, w[1:]]
        hessian = (x * (weight * curve)[:, None]).T @ x + PRIOR * np.eye(len(w))
        w = w + 0.5 * np.linalg.solve(hessian, gradient)
        w[1:] = np.maximum(w[1:], 0.0)
    return np.asarray(w)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30, help="simulated runs of each scenario")
    parser.add_argument("--miniature", type=Path, help="folder with recorded runs of base policies from 100 on")
    arguments = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    names = [*SCENARIOS, "0.0", "0.5", "0.8", "0.95"]
    jobs = [(name, seed, only_scalars) for name in names for seed in seeds for only_scalars in (False, True)]
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(simulated, jobs, chunksize=8))
    if arguments.miniature:
        parts += list(recorded(arguments.miniature))
    for name, value in zip(("1", *Features._fields), fit(parts), strict=True):
        print(f"{name:<14} {value:.2f}")


if __name__ == "__main__":
    main()
