"""The course of a simulated training, and how it is measured; the scenarios disturb it.

Why apart: what a training loop would see of a course (groups, sampling noise, autocorrelation, reward scales) is the
same whatever goes wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lldwatch.errors import InputError
from lldwatch.schema import Observation, columns_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MIN_STEPS = 60
GROUP_SIZE = 8
PROBED = 128
WINDOW = 10
REWARDS = ((0.0, 1.0, 0.0), (-1.0, 2.0, 0.0), (-0.5, 1.0, 0.0), (0.0, 2.0, 0.5), (0.0, 1.0, 1.0))
"""Reward of a wrong response, what a correct one gets beside it, and the reward of its format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """A simulated training and the truth about it.

    Attributes:
        name: of the scenario.
        observations: in the order of their steps, which count from 1.
        family: which kind of collapse it is; None if it is healthy, or ill of something that is none of them.
        onset: first step at which the mechanism works; None in a healthy run.
        collapse: first step from which the mean reward of 10 steps, above `floor`, stays below half of its running peak
            until the end; None if no illness of the policy has cost the reward.
        floor: mean reward of a policy that gets nothing right; half of a reward means nothing without it.
    """

    name: str
    observations: list[Observation]
    family: str | None = None
    onset: int | None = None
    collapse: int | None = None
    floor: float = 0.0


def autoregressive(rng: np.random.Generator, steps: int, phi: float) -> Floats:
    """A stationary AR(1) series, (steps,), mean 0, standard deviation 1.

    Args:
        rng: source of the noise.
        steps: length of the series.
        phi: autocorrelation of neighbours, -1 < phi < 1.
    """
    series = rng.normal(size=steps)
    for step in range(1, steps):
        series[step] = phi * series[step - 1] + math.sqrt(1 - phi**2) * series[step]
    return series


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between `low` and `high` of which each order of magnitude is as likely."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _all_same(share: Floats) -> Floats:
    """How probable it is that something holds of all responses of a group or of none, if it holds of this share."""
    return share**GROUP_SIZE + (1 - share) ** GROUP_SIZE


class Training:
    """The noiseless course of a training that learns, for a mechanism to disturb; then measured with noise.

    Args:
        rng: source of all its numbers.
        steps: how long it runs.

    Attributes:
        curves: level at each step, (steps,) each. Shares: skill (correct responses), starved (groups that are always
            all right or all wrong), clip, format, truncated. Nats per token: entropy, likelihood (log-prob of correct
            responses), gap, first (log-prob of first minus later actions), cross (cross-update change), up and down
            (change of the batch's own correct and incorrect responses), kl, rollout_kl. Others: grad, length (tokens),
            rate (learning rate).
        updates: optimizer updates on each rollout batch, (steps,).
        format_weight: what a valid format adds to the reward.
        sample: how many independent responses tell as much as the step's responses.

    Raises:
        InputError: `steps` is too small for a run to live and to die in.
    """

    def __init__(self, rng: np.random.Generator, steps: int) -> None:
        if steps < MIN_STEPS:
            raise InputError(f"steps={steps}: a simulated run has at least {MIN_STEPS}")
        self.rng, self.steps = rng, steps
        self.step = np.arange(1, steps + 1)
        self.groups = round(log_uniform(rng, 32, 256))
        self.sample = 2 * self.groups  # responses to one prompt resemble each other: 8 tell as much as 2 prompts
        self.phi = rng.uniform(0.0, 0.8)
        self.wrong, self.scale, self.format_weight = REWARDS[rng.choice(5, p=[0.4, 0.2, 0.1, 0.2, 0.1])]
        self.updates = np.full(steps, rng.choice([1, 2, 4]))
        self.curves = self._healthy()

    def _healthy(self) -> dict[str, Floats]:
        rng, done, one = self.rng, self.step / self.steps, np.ones(self.steps)
        entropy = log_uniform(rng, 0.2, 1.0) * rng.uniform(0.6, 1.0) ** done
        return {
            "skill": rng.uniform(0.25, 0.55) + rng.uniform(0.1, 0.35) * (1 - np.exp(-done / rng.uniform(0.15, 0.5))),
            "starved": rng.uniform(0.1, 0.5) * one,
            "clip": log_uniform(rng, 5e-4, 2e-2) * one,
            "format": rng.uniform(0.93, 0.995) * one,
            "truncated": rng.uniform(0.0, 0.05) * one,
            "entropy": entropy,
            "likelihood": -rng.uniform(0.6, 0.9) * entropy,  # what is correct is likelier than the average
            "gap": rng.uniform(0.05, 0.3) * (1 + 0.3 * done),
            "first": rng.uniform(0.05, 0.2) * one,
            "cross": -rng.uniform(0.0, 0.002) * one,
            "up": log_uniform(rng, 0.001, 0.01) * one,
            "down": -log_uniform(rng, 0.001, 0.01) * one,
            "kl": log_uniform(rng, 0.002, 0.05) * np.sqrt(done),
            "rollout_kl": log_uniform(rng, 5e-4, 1e-3) * one,
            "grad": log_uniform(rng, 0.05, 2.0) * rng.uniform(0.6, 1.1) ** done,
            "length": log_uniform(rng, 60, 2000) * rng.uniform(0.9, 1.2) ** done,
            "rate": log_uniform(rng, 3e-7, 1e-5) * self.ramp(1, rng.uniform(0.0, 0.05) * self.steps),
        }

    def ramp(self, start: float, duration: float) -> Floats:
        """0 before step `start`, 1 as soon as `duration` steps are over, straight in between; (steps,)."""
        return np.clip((self.step - start + 1) / max(duration, 1.0), 0.0, 1.0)

    def _noise(self, low: float, high: float) -> Floats:
        return self.rng.uniform(low, high) * autoregressive(self.rng, self.steps, self.phi)

    def measure(self) -> dict[str, Floats]:
        """Columns of `Observation`, (steps,) each; NaN where nothing could be measured."""
        columns = self._rewards()
        columns |= self._levels(columns["correct_share"], columns["zero_advantage_share"])
        columns |= self._confidence(columns["correct_share"])
        return columns | self._changes(columns["correct_share"])

    def _rewards(self) -> dict[str, Floats]:
        """Sampled: so many of the responses are correct, so many groups got one reward."""
        rng, curve = self.rng, {name: np.clip(series, 0.0, 1.0) for name, series in self.curves.items()}
        skill = curve["skill"]
        skill = np.clip(skill + 4 * skill * (1 - skill) * self._noise(0.0, 0.03), 0.0, 1.0)
        correct = rng.binomial(self.sample, skill) / self.sample
        valid = rng.binomial(self.sample, curve["format"]) / self.sample
        all_same = np.where(correct > 0, _all_same(skill), 1.0)
        zero_advantage = curve["starved"] + (1 - curve["starved"]) * all_same
        if self.format_weight:  # one badly formatted response, and the rewards of its group differ
            zero_advantage *= _all_same(curve["format"])
        spread = self.scale * np.sqrt(correct * (1 - correct)), self.format_weight * np.sqrt(valid * (1 - valid))
        return {
            "reward": self.wrong + self.scale * correct + self.format_weight * valid,
            "reward_std": np.hypot(*spread),
            "correct_share": correct,
            "zero_advantage_share": rng.binomial(self.groups, zero_advantage) / self.groups,
            "format_valid_share": valid,
            "truncated_share": rng.binomial(self.sample, curve["truncated"]) / self.sample,
        }

    def _levels(self, correct: Floats, zero_advantage: Floats) -> dict[str, Floats]:
        curve, noise = self.curves, self._noise
        return {
            # equal rewards are advantage 0: where all groups have them, the gradient is exactly 0
            "grad_norm": curve["grad"] * np.sqrt(1 - zero_advantage) * np.exp(noise(0.1, 0.4)),
            "response_length": np.maximum(curve["length"] * (1 + noise(0.02, 0.08)), 1.0),
            "kl": curve["kl"] * np.exp(noise(0.05, 0.3)),
            "rollout_kl": curve["rollout_kl"] * np.exp(noise(0.05, 0.2)),
            "clip_fraction": np.clip(curve["clip"] * np.exp(noise(0.1, 0.4)), 0.0, 1.0),
            "loss": self.rng.normal(0.0, log_uniform(self.rng, 0.002, 0.05), self.steps),
            "learning_rate": curve["rate"],
        }

    def _confidence(self, correct: Floats) -> dict[str, Floats]:
        """Without a correct response its log-prob is missing."""
        curve, noise = self.curves, self._noise
        some, mixed = np.where(correct > 0, 1.0, np.nan), np.where((correct > 0) & (correct < 1), 1.0, np.nan)
        entropy = np.maximum(curve["entropy"] * (1 + noise(0.02, 0.08)), 1e-4)
        likelihood = np.minimum(curve["likelihood"] * (1 + noise(0.02, 0.1)), -1e-4)
        gap, first = curve["gap"] * (1 + noise(0.05, 0.2)), curve["first"] * (1 + noise(0.05, 0.2))
        low = np.clip(0.1 * entropy**1.2, 0.0, 0.95)
        return {
            "entropy": entropy,
            "log_prob_correct": some * likelihood,
            "log_prob_incorrect": likelihood - gap,
            "gap": mixed * gap,
            "log_prob_first_action": some * np.minimum(likelihood + first / 2, -1e-4),
            "log_prob_later_actions": some * np.minimum(likelihood - first / 2, -1e-4),
            "low_confidence_share": low,
            "very_low_confidence_share": low / 4,
        }

    def _changes(self, correct: Floats) -> dict[str, Floats]:
        """What re-scoring shows: nothing of the previous step's correct responses if it had none."""
        curve, rng = self.curves, self.rng
        probed = np.minimum(np.round(np.r_[0.0, correct[:-1]] * self.groups * GROUP_SIZE), PROBED)
        probed = np.where(probed > 0, probed, np.nan)
        step_size = np.maximum(curve["rate"] / curve["rate"].max(), 0.05)
        error = log_uniform(rng, 0.01, 0.05) / np.sqrt(probed) * step_size
        noise = rng.uniform(1.0, 1.4) * error * autoregressive(rng, self.steps, min(self.phi, 0.5))
        tilt = rng.uniform(-0.2, 0.4) * curve["cross"]
        mixed = np.where((correct > 0) & (correct < 1), 1.0, np.nan)
        wobble = rng.uniform(0.001, 0.005)
        return self._lagged(wobble) | {
            "cross_update_change": curve["cross"] + noise,
            "cross_update_error": error,
            "cross_update_responses": probed,
            "cross_update_first_action": curve["cross"] + tilt + noise,
            "cross_update_later_actions": curve["cross"] - tilt + noise,
            "post_update_correct": mixed * curve["up"] * np.exp(self._noise(0.1, 0.4)),
            "post_update_incorrect": mixed * curve["down"] * np.exp(self._noise(0.1, 0.4)),
            # nearer to what is trained than an earlier batch, and few: they move farther (measured in the miniature)
            "post_update_zero_advantage": rng.uniform(1.0, 4.0) * curve["cross"] + self._noise(0.002, 0.006),
            "noise_floor": np.full(self.steps, log_uniform(rng, 1e-6, 1e-3)),
        }

    def _lagged(self, wobble: float) -> dict[str, Floats]:
        """Small losses add up, though part of what an update took is won back by the next ones."""
        summed = np.cumsum(np.r_[0.0, self.curves["cross"]])
        changes = {"fixed_anchor_change": 0.6 * summed[1:] + wobble * self.rng.normal(size=self.steps)}
        for lag in (5, 10, 20):
            change = 0.7 * (summed[lag + 1 :] - summed[1:-lag]) + wobble * self.rng.normal(size=self.steps - lag)
            changes[f"lagged_change_{lag}"] = np.r_[np.full(lag, np.nan), change]
        return changes

    def run(
        self,
        name: str,
        family: str | None = None,
        onset: int | None = None,
        columns: Mapping[str, Floats] | None = None,
    ) -> SimulatedRun:
        """The training as a loop would have recorded it.

        Args:
            name: of the scenario.
            family: which kind of collapse the mechanism is.
            onset: first step at which it works; without one no loss of reward counts as a collapse.
            columns: what was measured, where the scenario has changed it.
        """
        columns = self.measure() if columns is None else columns
        floor = self.wrong + self.format_weight * float(np.clip(self.curves["format"][0], 0.0, 1.0))
        return SimulatedRun(
            name=name,
            observations=observations(self.step, columns, self.updates),
            family=family,
            onset=onset,
            collapse=None
            if onset is None
            else lost_for_good(columns["reward"].astype(np.float32).astype(np.float64) - floor),
            floor=floor,
        )


def observations(step: Ints, columns: Mapping[str, Floats], updates: Ints) -> list[Observation]:
    """Rows of a run.

    Args:
        step: their numbers, (rows,).
        columns: of `Observation`, (rows,) each; NaN means that a row lacks it.
        updates: optimizer updates on each rollout batch, (rows,).
    """
    rows = []
    for row, number in enumerate(step):
        values: dict[str, Any] = {
            name: float(series[row]) for name, series in columns.items() if not np.isnan(series[row])
        }
        probed = values.pop("cross_update_responses", None)
        rows.append(
            Observation(
                step=int(number),
                updates=int(updates[row]),
                updates_per_batch=int(updates[row]),
                cross_update_responses=None if probed is None else int(probed),
                **values,
            )
        )
    return rows


def averaged(rows: Sequence[Observation], every: int) -> list[Observation]:
    """Means over `every` rows each, under the last one's step; counts are the last one's, a short rest is left out.

    Args:
        rows: in the order of their steps.
        every: how many rows make one, at least 1.
    """
    whole = {name for name, item in columns_of("steps").items() if item.metadata["dtype"].startswith("int")}

    def mean(name: str, values: list[Any]) -> Any:
        measured = [value for value in values if value is not None]
        if name in whole or not measured:
            return measured[-1] if measured else None
        return float(np.sum(measured)) / len(measured)

    return [
        Observation(**{name: mean(name, [getattr(row, name) for row in part]) for name in columns_of("steps")})
        for part in (rows[start : start + every] for start in range(0, len(rows) - every + 1, every))
    ]


def lost_for_good(reward: Floats) -> int | None:
    """Step (from 1) of a sustained collapse; the same definition as `lldwatch.search_world.outcome`."""
    means = np.convolve(reward, np.full(WINDOW, 1 / WINDOW), mode="valid")
    low = means < 0.5 * np.maximum.accumulate(means) - 1e-9
    sustained = len(low) if low.all() else int(np.argmin(low[::-1]))
    return len(reward) - sustained + 1 if sustained else None
