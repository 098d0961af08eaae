"""Healthy trainings that look ill, as disturbances of a training's course: one function a scenario.

The sizes are those of public logs: entropy that more than doubles, gradient norms of a thousand times the usual one,
gradients that are exactly 0 on most rows, rewards that repeat, logs that average.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lldwatch.simulated.training import SimulatedRun, Training, averaged, log_uniform


def healthy(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """It learns."""
    return Training(rng, steps).run("healthy")


def flat(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """It never learns: the reward stays, and so does everything else."""
    training = Training(rng, steps)
    for name in ("skill", "entropy", "likelihood", "gap", "length", "grad"):
        training.curves[name] = np.full(steps, training.curves[name][0])
    return training.run("flat")


def dip_and_recover(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """For a while correct responses are displaced and the reward dips; then it is won back."""
    training = Training(rng, steps)
    width = steps * rng.uniform(0.03, 0.08)
    middle = steps * rng.uniform(0.25, 0.65)
    dip = np.exp(-(((training.step - middle) / width) ** 2))
    curves = training.curves
    curves["skill"] *= 1 - rng.uniform(0.2, 0.6) * dip
    curves["cross"] -= rng.uniform(0.005, 0.03) * np.gradient(dip) / np.gradient(dip).max()
    curves["entropy"] *= 1 + rng.uniform(0.1, 1.0) * dip
    curves["likelihood"] *= 1 + rng.uniform(0.1, 1.0) * dip
    curves["grad"] *= 1 + rng.uniform(0.0, 2.0) * dip
    return training.run("dip_and_recover")


def restart(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Resumed from an earlier checkpoint without its optimizer: a jump, and the learning rate warms up once more."""
    training = Training(rng, steps)
    at, back = round(steps * rng.uniform(0.3, 0.7)), round(steps * rng.uniform(0.0, 0.15))
    after, curves = training.step >= at, training.curves
    source = np.where(after, np.maximum(training.step - back, 1), training.step) - 1
    for name in ("skill", "entropy", "likelihood", "gap", "kl", "length"):
        curves[name] = curves[name][source]
    settling = after * np.exp(-(training.step - at) / rng.uniform(3, 15))
    curves["rate"] *= np.where(after, training.ramp(at, rng.uniform(5, 30)), 1.0)
    curves["entropy"] *= 1 + rng.uniform(-0.15, 0.3) * settling
    curves["likelihood"] *= 1 + rng.uniform(-0.15, 0.3) * settling
    curves["skill"] *= 1 - rng.uniform(0.0, 0.15) * settling
    curves["grad"] *= 1 + rng.uniform(1, 5) * settling
    columns = training.measure()
    for name in columns:
        if name.startswith(("cross_update", "lagged")):  # what earlier responses there were went with the process
            columns[name][at - 1] = np.nan
    return training.run("restart", columns=columns)


def learning_rate_warmup(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """What an update changes grows with the learning rate; its warm-up is long (286 steps in the paper's code)."""
    training = Training(rng, steps)
    curves = training.curves
    warm = training.ramp(1, steps * rng.uniform(0.2, 0.5))
    curves["rate"] = curves["rate"].max() * warm
    for name in ("cross", "up", "down", "clip", "kl"):
        curves[name] *= warm
    learnt = np.cumsum(warm) / np.sum(warm)
    curves["skill"] = curves["skill"][0] + (curves["skill"][-1] - curves["skill"][0]) * learnt
    curves["entropy"] *= rng.uniform(0.5, 1.0) ** learnt
    return training.run("learning_rate_warmup")


def spikes(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Single steps with a thousand times the usual gradient norm, or a multiple of the entropy, that heal at once."""
    training = Training(rng, steps)
    columns = training.measure()
    gradient = rng.choice(steps, size=int(rng.integers(2, 7)), replace=False)
    columns["grad_norm"][gradient] *= log_uniform(rng, 300, 3000)
    uncertain = rng.choice(steps, size=int(rng.integers(1, 3)), replace=False)
    columns["entropy"][uncertain] *= rng.uniform(3, 10)
    return training.run("spikes", columns=columns)


def length_growth(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Long reasoning is learnt: five times the length, and less certain tokens among them."""
    training = Training(rng, steps)
    grown = training.ramp(steps * rng.uniform(0.05, 0.3), steps * rng.uniform(0.4, 0.7))
    training.curves["length"] *= rng.uniform(4, 6) ** grown
    drift = 1 + rng.uniform(0.2, 0.8) * grown
    for name in ("likelihood", "entropy"):
        training.curves[name] *= drift
    return training.run("length_growth")


def mixture_shift(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Harder prompts become correct: correct responses are less likely in the mean, though none of them lost any."""
    training = Training(rng, steps)
    curves = training.curves
    harder = training.ramp(steps * rng.uniform(0.1, 0.5), steps * rng.uniform(0.2, 0.5))
    curves["likelihood"] -= rng.uniform(0.1, 0.4) * harder
    curves["cross"] *= 0.0
    curves["skill"] += rng.uniform(0.05, 0.15) * harder
    curves["gap"] *= 1 - rng.uniform(0.2, 0.6) * harder
    return training.run("mixture_shift")


def zero_advantages(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """A few prompts a step, each nearly always right or always wrong: the gradient is exactly 0 on most rows."""
    training = Training(rng, steps)
    training.groups = training.sample = 8
    training.format_weight = 0.0
    training.curves["skill"] = rng.uniform(0.6, 0.75) + 0.1 * training.step / steps
    training.curves["starved"] = np.full(steps, rng.uniform(0.5, 0.7) ** (1 / training.groups))
    return training.run("zero_advantages")


def repeated_rewards(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Each rollout batch is logged for several optimizer steps: its columns repeat, KL and clip fraction saw-tooth."""
    training = Training(rng, steps)
    reuse = int(rng.integers(2, 5))
    rollout, use = np.arange(steps) // reuse * reuse, np.arange(steps) % reuse
    columns = training.measure()
    per_update = ("grad_norm", "loss", "learning_rate", "entropy", "kl", "clip_fraction", "cross_", "post_", "noise")
    for name in columns:
        if not name.startswith(per_update):
            columns[name] = columns[name][rollout]
    columns["kl"] = columns["kl"] * (1 + rng.uniform(0.2, 1.0) * use)
    columns["clip_fraction"] = np.clip(columns["clip_fraction"] * use, 0.0, 1.0)
    training.updates = np.full(steps, 1)
    return training.run("repeated_rewards", columns=columns)


def parser_broken(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """The reward function no longer finds an answer: reward 0 from one step to the next, and the policy is unharmed.

    Equal rewards are advantage 0, so the gradient is exactly 0 as well: nothing changes any more. No response counts as
    correct.
    """
    training = Training(rng, steps)
    training.format_weight = 0.0
    well = training.step < steps * rng.uniform(0.3, 0.8)
    for name, series in training.curves.items():
        training.curves[name] = np.where(well, series, series[well][-1])
    training.curves["skill"] *= well
    return training.run("parser_broken")


def entropy_doubles(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """The policy explores: entropy grows to more than twice, and it learns all the while."""
    training = Training(rng, steps)
    wide = rng.uniform(1.8, 2.6) ** training.ramp(steps * rng.uniform(0.05, 0.4), steps * rng.uniform(0.2, 0.6))
    training.curves["entropy"] *= wide
    training.curves["likelihood"] *= 1 + rng.uniform(0.3, 0.8) * (wide - 1)
    return training.run("entropy_doubles")


def averaged_logging(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """A run that learns, logged every few steps as the mean over them."""
    run = Training(rng, steps).run("averaged_logging")
    return replace(run, observations=averaged(run.observations, int(rng.integers(2, 6))))
