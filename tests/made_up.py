"""Series of a made-up training, for the detector: nothing learns."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from lldwatch import Observation


def healthy(step: int, noise: random.Random) -> dict[str, float]:
    """A run that learns, with all that can be checked: the reward rises, everything else stays."""
    return {
        "reward": 0.3 + 0.4 * (1 - math.exp(-step / 30)) + noise.gauss(0, 0.02),
        "entropy": 0.4 + noise.gauss(0, 0.02),
        "log_prob_correct": -0.3 + noise.gauss(0, 0.01),
        "cross_update_change": noise.gauss(0, 0.002),
        "cross_update_error": 0.002,
        "noise_floor": 0.0001,
        "grad_norm": 0.5 * math.exp(noise.gauss(0, 0.2)),
        "loss": noise.gauss(0, 0.01),
        "post_update_zero_advantage": noise.gauss(0, 0.002),
        "response_length": 200.0 + noise.gauss(0, 5),
        "kl": 0.01 * math.exp(noise.gauss(0, 0.2)),
        "rollout_kl": 7e-4 * math.exp(noise.gauss(0, 0.15)),
        "clip_fraction": 0.01 * math.exp(noise.gauss(0, 0.3)),
        "format_valid_share": 0.95 + noise.gauss(0, 0.01),
        "truncated_share": 0.02 + noise.gauss(0, 0.005),
        "zero_advantage_share": 0.3 + noise.gauss(0, 0.03),
    }


def dipping(step: int, noise: random.Random) -> dict[str, float]:
    """Correct responses are displaced for a while, and recover."""
    values = healthy(step, noise)
    if 40 <= step < 55:
        values["cross_update_change"] -= 0.04
    return values


def spiral(step: int, noise: random.Random) -> dict[str, float]:
    """From step 40 on correct responses are displaced, then entropy surges, then the reward goes."""
    values = healthy(step, noise)
    ill, lost = min(max((step - 40) / 40, 0.0), 1.0), min(max((step - 70) / 20, 0.0), 1.0)
    values["cross_update_change"] -= 0.05 * ill
    values["entropy"] += 2.0 * ill**2
    values["log_prob_correct"] -= 2.0 * ill**2
    values["grad_norm"] *= 1 + 20 * ill**4
    values["reward"] *= 1 - lost
    return values


ILL_FROM = 40
Change = Callable[[dict[str, float], int], dict[str, float]]
"""Columns as they are, and how many steps ago it began (< 0: not yet) -> columns that are other ones."""


def done(ago: int) -> float:
    """How far a change has come that takes ten steps."""
    return min(max(ago / 10, 0.0), 1.0)


def scaled(name: str, factor: float) -> Change:
    """A column comes to so many times its value."""
    return lambda columns, ago: {name: columns[name] * (1 + (factor - 1) * done(ago))}


def shifted(name: str, by: float) -> Change:
    """A column comes to its value and so much more."""
    return lambda columns, ago: {name: columns[name] + by * done(ago)}


def later(steps: int, change: Change) -> Change:
    """The same, so many steps later."""
    return lambda columns, ago: change(columns, ago - steps)


def together(*changes: Change) -> Change:
    """All of them, the later ones over what the earlier ones made."""

    def change(columns: dict[str, float], ago: int) -> dict[str, float]:
        for one in changes:
            columns = columns | one(columns, ago)
        return columns

    return change


def rows_of(change: Change, *, steps: int = 80, without: Sequence[str] = (), seed: int = 0) -> list[Observation]:
    """A healthy run with a steady reward, to which something happens from step 40 on; `without` is not logged."""
    noise, rows = random.Random(seed), []
    for step in range(1, steps + 1):
        columns = healthy(step, noise) | {"reward": 0.5 + noise.gauss(0, 0.02)}
        columns |= change(columns, step - ILL_FROM)
        rows.append(Observation(step=step, **{name: value for name, value in columns.items() if name not in without}))
    return rows
