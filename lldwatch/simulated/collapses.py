"""What a training can die of, as disturbances of its course: one function a scenario.

The sizes are those of published and measured trainings (arXiv:2512.04220, Fig. 2 to 5; arXiv:2505.18830; public logs;
the miniature of `lldwatch.search_world`), never those of a detector's limits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from lldwatch.schema import Observation
from lldwatch.simulated.training import Floats, SimulatedRun, Training, log_uniform


def _fatal(training: Training) -> tuple[int, float, float]:
    """When the mechanism starts, when the reward begins to fall, and in how many steps it falls.

    Public collapses: 60 steps and more between the two in the paper, none in half of the logs; a fall takes 1 to 60.
    """
    rng, steps = training.rng, training.steps
    onset = round(steps * rng.uniform(0.2, 0.45))
    return onset, onset + steps * rng.uniform(0.08, 0.25), min(log_uniform(rng, 1, 60), 0.2 * steps)


def _lose(training: Training, start: float, fall: float) -> Floats:
    """Takes the reward away; returns how much of it is gone, (steps,).

    What is correct a tenth as often has lost ln 10 nats in the mean, spread over the tokens of a response.
    """
    lost, curves = training.ramp(start, fall), training.curves
    left = 1 - lost * training.rng.uniform(0.75, 0.99)
    curves["skill"] *= left
    curves["cross"] += np.diff(np.log(left), prepend=0.0) / curves["length"]
    return lost


def _disperse(training: Training, nats: Floats) -> None:
    """Entropy grows by so much; what is sampled has minus that in log-likelihood, correct responses a little more."""
    training.curves["entropy"] += nats
    training.curves["likelihood"] -= training.rng.uniform(0.6, 1.0) * nats


def _displace(training: Training, onset: int, start: float, fall: float, rate: float) -> None:
    """Correct responses lose ever more nats per token and step, `rate` of them once the reward is lost."""
    rng, curves = training.rng, training.curves
    pace = rate * training.ramp(onset, start + fall - onset) ** rng.uniform(0.4, 1.2)
    fallen = np.cumsum(pace)
    curves["cross"] -= pace
    curves["up"] += rng.uniform(0.015, 0.09) * pace / rate
    _disperse(training, rng.uniform(0.3, 1.0) * fallen)
    curves["gap"] *= 1 - rng.uniform(0.3, 0.9) * pace / rate
    curves["kl"] += rng.uniform(0.1, 0.5) * fallen


def lld_spiral(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Correct responses are displaced, ever faster; the reward rises until the policy has lost its certainty."""
    training = Training(rng, steps)
    onset, start, fall = _fatal(training)
    _displace(training, onset, start, fall, log_uniform(rng, 0.008, 0.05))
    lost = _lose(training, start, fall)
    curves = training.curves
    curves["first"] -= rng.uniform(1.2, 3.0) * curves["first"] * training.ramp(onset, start + fall - onset) ** 2
    _disperse(training, log_uniform(rng, 0.2, 5.0) * lost**2)
    curves["grad"] *= 1 + rng.choice([0.0, log_uniform(rng, 5, 100)]) * lost**2
    return training.run("lld_spiral", "lld_spiral", onset)


def sharpening(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """The policy grows certain of one answer, whatever the question."""
    training = Training(rng, steps)
    onset, start, fall = _fatal(training)
    sharp = training.ramp(onset, start + fall / 2 - onset)
    lost = _lose(training, start, fall)
    curves, left = training.curves, rng.uniform(0.01, 0.1) ** sharp
    curves["entropy"] *= left
    curves["likelihood"] *= left
    curves["gap"] *= 1 - 0.8 * sharp
    curves["cross"] += rng.uniform(0.0005, 0.004) * sharp * (1 - lost)
    curves["grad"] *= 1 - rng.uniform(0.5, 0.95) * sharp
    curves["length"] *= 1 - rng.uniform(0.1, 0.6) * sharp
    curves["starved"] += (rng.uniform(0.85, 0.98) - curves["starved"]) * sharp
    return training.run("sharpening", "sharpening", onset)


def ideal_likelihood(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Negative advantages are zeroed: all that is sampled grows likelier, and the reward goes all the same.

    Only anchors and dips of the cross-update change show it (measured in the miniature).
    """
    training = Training(rng, steps)
    onset, start, fall = _fatal(training)
    sure = training.ramp(onset, start + fall - onset)
    _lose(training, start, fall)
    curves = training.curves
    curves["entropy"] += (rng.uniform(0.02, 0.09) - curves["entropy"]) * sure
    curves["likelihood"] *= 1 - rng.uniform(0.6, 0.9) * sure
    curves["cross"] -= rng.uniform(0.01, 0.05) * (sure > 0) * (rng.random(steps) < 0.25)
    curves["down"] *= 0.0
    curves["up"] *= 1 + rng.uniform(2.0, 8.0) * sure
    return training.run("ideal_likelihood", None, onset)


def format_loss(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Answers that cannot be parsed, then responses that do not stop (or stop at once), then no reward."""
    training = Training(rng, steps)
    onset, start, fall = _fatal(training)
    broken = training.ramp(onset, start + fall - onset)
    lost = _lose(training, start, fall)
    curves = training.curves
    curves["format"] *= 1 - rng.uniform(0.7, 1.0) * broken
    endless = rng.random() < 0.7
    curves["length"] *= 1 + (rng.uniform(0.5, 4.0) if endless else -rng.uniform(0.5, 0.9)) * lost
    curves["truncated"] += rng.uniform(0.4, 0.9) * lost * endless
    curves["entropy"] *= 1 + rng.uniform(0.0, 0.6) * lost
    return training.run("format_loss", "format_loss", onset)


def mismatch(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """What the rollout engine samples is less and less what the trainer believes: spikes, then no reward."""
    training = Training(rng, steps)
    onset, start, fall = _fatal(training)
    apart = training.ramp(onset, start + fall - onset)
    lost = _lose(training, start, fall)
    curves = training.curves
    curves["rollout_kl"] *= (log_uniform(rng, 0.03, 0.5) / curves["rollout_kl"]) ** apart
    spike = rng.random(steps) < 0.15 * (apart > 0)
    curves["grad"] *= np.where(spike, np.exp(rng.uniform(np.log(5), np.log(200), steps)), 1.0)
    curves["clip"] *= 1 + rng.uniform(0.0, 4.0) * apart
    curves["entropy"] *= 1 + rng.uniform(-0.3, 1.0) * lost
    curves["likelihood"] *= 1 + rng.uniform(0.0, 0.8) * lost
    curves["cross"] -= rng.uniform(0.0, 0.02) * lost
    return training.run("mismatch", "mismatch", onset)


def numerical(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """An infinite gradient, then NaN in every weight: what is sampled from then on is garbage."""
    training = Training(rng, steps)
    onset = round(steps * rng.uniform(0.2, 0.8))
    nan_from = onset + int(rng.integers(1, 4))
    training.curves["skill"] *= training.step < nan_from
    run = training.run("numerical", "numerical", onset)
    dead: dict[str, Any] = dict.fromkeys(("loss", "grad_norm", "entropy", "kl", "rollout_kl"), math.nan)

    def broken(observation: Observation) -> Observation:
        if observation.step >= nan_from:
            return replace(observation, **dead, log_prob_incorrect=math.nan)
        return replace(observation, grad_norm=math.inf) if observation.step >= onset else observation

    return replace(run, observations=[broken(observation) for observation in run.observations])


def gradient_starvation(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Nearly all groups are all right or all wrong: nothing is learnt any more, and nothing is lost."""
    training = Training(rng, steps)
    training.format_weight = 0.0
    onset, start, _ = _fatal(training)
    starved, curves = training.ramp(onset, start - onset), training.curves
    stuck = curves["skill"][onset - 1]
    curves["skill"] = np.where(training.step >= onset, stuck, curves["skill"])
    curves["starved"] += (rng.uniform(0.97, 1.0) - curves["starved"]) * starved
    for name in ("cross", "up", "down"):
        curves[name] *= 1 - 0.95 * starved
    return training.run("gradient_starvation", "gradient_starvation", onset)


def optimiser_blow_up(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """A few steps that are far too large; the policy is gone with them."""
    training = Training(rng, steps)
    onset = round(steps * rng.uniform(0.2, 0.7))
    growth, fall = min(log_uniform(rng, 2, 30), 0.1 * steps), log_uniform(rng, 1, 5)
    lost = _lose(training, onset + growth, fall)
    curves, blown = training.curves, training.ramp(onset, growth)
    curves["grad"] *= log_uniform(rng, 30, 3000) ** blown
    curves["kl"] += log_uniform(rng, 0.5, 20.0) * lost
    curves["clip"] += rng.uniform(0.1, 0.6) * blown * (1 - lost)
    _disperse(training, log_uniform(rng, 0.5, 6.0) * lost)
    curves["cross"] -= rng.uniform(0.1, 1.0) * blown * (1 - lost) ** 0.5
    curves["down"] -= rng.uniform(0.1, 1.0) * blown
    return training.run("optimiser_blow_up", "optimiser_blow_up", onset)


def off_policy_overuse(rng: np.random.Generator, steps: int) -> SimulatedRun:
    """Each rollout batch is used too often: from the first step on in half of the runs, later in the others."""
    training = Training(rng, steps)
    onset, start, fall = _fatal(training)
    if rng.random() < 0.5:
        start, onset = start - onset + 1, 1
    curves, reused = training.curves, training.step >= onset
    training.updates = np.where(reused, rng.choice([16, 32, 64]), training.updates)
    rate = log_uniform(rng, 0.01, 0.05)
    _displace(training, onset, start, fall, rate)
    lost = _lose(training, start, fall)
    curves["clip"] += rng.uniform(0.05, 0.3) * reused
    curves["down"] -= rng.uniform(0.03, 0.3) * reused
    curves["up"] += rng.uniform(0.01, 0.1) * reused
    _disperse(training, log_uniform(rng, 0.2, 3.0) * lost)
    return training.run("off_policy_overuse", "off_policy_overuse", onset)
