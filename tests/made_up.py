"""Series of a made-up training, for the detector: nothing learns."""

from __future__ import annotations

import math
import random


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
