"""The same run logged twice, by a console and by TensorBoard say: only the richer log of the two becomes a run."""

from __future__ import annotations

import shutil

import numpy as np

from lldwatch.columns import Array
from lldwatch.importers.known import ROWS_FORMATS
from lldwatch.importers.result import Imported
from lldwatch.importers.tally import Tally
from lldwatch.run import Run

_ROUNDED = 2e-3
"""Consoles round to three decimals."""

_LEAST_STEPS = 5


def leave_out_doubles(runs: list[Imported], tally: Tally) -> list[Imported]:
    """The runs without those that another one holds as well; which were left out is noted.

    Two logs are of the same run if 9 in 10 of the steps of the shorter one, 5 at least, have the same reward. One that
    has the rows of responses stays before all others, and one that tells as much before a console's, which is rounded;
    rows alone say what no other log does.
    """
    if len(runs) < 2:
        return runs
    kept: list[tuple[Imported, dict[int, float]]] = []
    for run in sorted(runs, key=_order):
        if any(run.format == rows.name for rows in ROWS_FORMATS):
            kept.append((run, {}))
            continue
        rewards = _rewards(run)
        double = next((other for other, theirs in kept if _same(rewards, theirs)), None)
        if double is None:
            kept.append((run, rewards))
        else:
            what = f"{run.source} ({run.format}{_which(run, runs)})"
            tally.note(f"{what} is the same run as {double.source}{_which(double, runs)}, which tells more: left out")
            assert run.path is not None
            shutil.rmtree(run.path)
    remaining = [run for run, _ in kept]
    return [run for run in runs if run in remaining]


def _which(run: Imported, runs: list[Imported]) -> str:
    """Which run of its source, where that holds several."""
    return f", {run.name}" if sum(one.source == run.source for one in runs) > 1 else ""


def _order(run: Imported) -> tuple[bool, int, bool, int]:
    return not run.tables, -len(run.measured), run.source.endswith((".log", ".txt", ".out")), -run.steps


def _rewards(run: Imported) -> dict[int, float]:
    assert run.path is not None
    table = Run(run.path).steps()
    return {s: r for s, r in zip(table["step"].to_pylist(), table["reward"].to_pylist(), strict=True) if r is not None}


def _same(one: dict[int, float], other: dict[int, float]) -> bool:
    common = sorted(one.keys() & other.keys())
    shorter = min(len(one), len(other))
    if len(common) < max(_LEAST_STEPS, 0.9 * shorter):
        return False
    a, b = _array(one, common), _array(other, common)
    if np.ptp(a) < _ROUNDED:  # a reward that never moves tells no two runs apart
        return False
    return bool(np.mean(np.isclose(a, b, rtol=_ROUNDED, atol=_ROUNDED, equal_nan=True)) >= 0.9)


def _array(rewards: dict[int, float], steps: list[int]) -> Array:
    return np.array([rewards[step] for step in steps])
