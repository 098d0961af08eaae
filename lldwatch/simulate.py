"""Simulated trainings with known truth: eight kinds of collapse, and the healthy runs that are taken for them.

These are simulations: no model learns here. Each scenario lets a mechanism disturb the course of a made-up training
from a known step on; what is then measured has the sampling noise, the autocorrelation and the reward scale of a real
one. They serve to score a detector where no recorded run exists, above all on healthy runs that look ill. They cannot
show that real trainings die like this.

The sizes are those of published and measured trainings (arXiv:2512.04220; the miniature of `lldwatch.search_world`;
public logs), never those of a detector's limits. Everything follows from the seed alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lldwatch.errors import InputError
from lldwatch.schema import Observation, columns_of
from lldwatch.simulated import collapses, healthy
from lldwatch.simulated.training import SimulatedRun, autoregressive, averaged, observations

__all__ = [
    "SCALARS",
    "SCENARIOS",
    "SimulatedRun",
    "null",
    "scalars_only",
    "simulate",
    "thinned",
    "with_broken",
    "with_gaps",
]

Scenario = Callable[[np.random.Generator, int], SimulatedRun]

SCENARIOS: Mapping[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        collapses.lld_spiral,
        collapses.sharpening,
        collapses.format_loss,
        collapses.mismatch,
        collapses.numerical,
        collapses.gradient_starvation,
        collapses.optimiser_blow_up,
        collapses.off_policy_overuse,
        collapses.ideal_likelihood,
        healthy.healthy,
        healthy.flat,
        healthy.dip_and_recover,
        healthy.restart,
        healthy.learning_rate_warmup,
        healthy.spikes,
        healthy.length_growth,
        healthy.mixture_shift,
        healthy.zero_advantages,
        healthy.repeated_rewards,
        healthy.parser_broken,
        healthy.entropy_doubles,
        healthy.averaged_logging,
    )
}
"""Name -> what makes a run of so many steps from a random generator; the ill ones first."""

SCALARS = (
    "step",
    "loss",
    "grad_norm",
    "learning_rate",
    "kl",
    "rollout_kl",
    "format_valid_share",
    "truncated_share",
    "reward",
    "reward_std",
    "zero_advantage_share",
    "response_length",
    "entropy",
    "clip_fraction",
)
"""Columns that trainers log by themselves: no likelihood of correct responses, and nothing re-scored."""

_NULL = {
    "reward": (0.6, 0.05),
    "reward_std": (0.45, 0.02),
    "correct_share": (0.6, 0.05),
    "zero_advantage_share": (0.3, 0.05),
    "format_valid_share": (0.95, 0.01),
    "entropy": (0.3, 0.03),
    "log_prob_correct": (-0.2, 0.03),
    "log_prob_incorrect": (-0.35, 0.04),
    "log_prob_first_action": (-0.15, 0.03),
    "log_prob_later_actions": (-0.25, 0.03),
    "gap": (0.15, 0.02),
    "response_length": (40.0, 2.0),
    "cross_update_change": (0.0, 0.003),
    "post_update_correct": (0.005, 0.002),
    "post_update_incorrect": (-0.01, 0.003),
    "post_update_zero_advantage": (0.0, 0.006),
    "loss": (0.0, 0.01),
}
"""Column -> level and standard deviation, about those of the healthy miniature."""

_NULL_POSITIVE = {"grad_norm": (1.0, 0.2), "kl": (0.01, 0.2), "rollout_kl": (7e-4, 0.15), "clip_fraction": (0.01, 0.3)}
"""Column -> median, and standard deviation of its logarithm."""


def simulate(scenario: str, seed: int, steps: int = 200) -> SimulatedRun:
    """One run of a scenario; the same for the same arguments.

    Args:
        scenario: key in SCENARIOS.
        seed: draws onset, speed, noise, autocorrelation, reward scale and all levels.
        steps: training steps, at least 60.

    Raises:
        InputError: there is no such scenario, or `steps` is too small.
    """
    if scenario not in SCENARIOS:
        raise InputError(f"scenario={scenario!r}: expected one of {', '.join(SCENARIOS)}")
    return SCENARIOS[scenario](np.random.default_rng([seed, zlib.crc32(scenario.encode())]), steps)


def null(seed: int, steps: int = 700, phi: float = 0.8) -> SimulatedRun:
    """A run to which nothing happens at all: each signal is a stationary AR(1) series around a healthy level.

    Args:
        seed: of the noise.
        steps: training steps.
        phi: autocorrelation of neighbouring steps, -1 < phi < 1.
    """
    rng = np.random.default_rng([seed, round(100 * phi)])
    columns = {name: level + sd * autoregressive(rng, steps, phi) for name, (level, sd) in _NULL.items()}
    for name, (level, sd) in _NULL_POSITIVE.items():
        columns[name] = level * np.exp(sd * autoregressive(rng, steps, phi))
    for name in ("correct_share", "zero_advantage_share", "format_valid_share", "clip_fraction"):
        columns[name] = np.clip(columns[name], 0.0, 1.0)
    columns["cross_update_error"] = np.full(steps, _NULL["cross_update_change"][1])
    columns["cross_update_responses"] = np.full(steps, 60.0)
    columns["noise_floor"] = np.full(steps, 1e-5)
    rows = observations(np.arange(1, steps + 1), columns, np.full(steps, 4))
    return SimulatedRun(name=f"null_{phi:g}", observations=rows)


def scalars_only(run: SimulatedRun) -> SimulatedRun:
    """The same run as a trainer's own log has it: the columns SCALARS."""
    return replace(
        run, observations=[Observation(**{name: getattr(row, name) for name in SCALARS}) for row in run.observations]
    )


def thinned(run: SimulatedRun, every: int) -> SimulatedRun:
    """The same run logged every `every` steps, as the mean over them; the truth still counts training steps."""
    return replace(run, observations=averaged(run.observations, every))


def with_gaps(run: SimulatedRun, rng: np.random.Generator, share: float) -> SimulatedRun:
    """The same run with holes: each row is lost with probability `share`, and so is each value of the others."""
    names = [name for name in columns_of("steps") if name != "step"]

    def holed(row: Observation) -> Observation:
        holes = rng.random(len(names)) < share
        lost: dict[str, Any] = dict.fromkeys(name for name, hole in zip(names, holes, strict=True) if hole)
        return replace(row, **lost)

    return replace(run, observations=[holed(row) for row in run.observations if rng.random() >= share])


def with_broken(run: SimulatedRun, rng: np.random.Generator, share: float = 0.02) -> SimulatedRun:
    """The same run with single rows, one at least, whose loss, gradient norm and KL are NaN or infinite; they heal."""
    rows = list(run.observations)
    for index in rng.choice(len(rows), size=max(1, round(share * len(rows))), replace=False):
        measured = [name for name in ("loss", "grad_norm", "kl") if getattr(rows[index], name) is not None]
        bad: dict[str, Any] = dict.fromkeys(measured, float(rng.choice([math.nan, math.inf, -math.inf])))
        rows[index] = replace(rows[index], **bad)
    return replace(run, observations=rows)
