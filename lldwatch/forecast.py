"""How likely is a sustained collapse soon, and when?

A hazard model: within a horizon of H steps the expected number of collapses is L = exp(w . x), x what the checks say
as of now; the probability is 1 - exp(-L), and the collapse has come by step t with probability 1 - exp(-L t / H).

Fitted by `benchmarks/forecast.py` on simulated runs and on miniature runs of base policies that no benchmark judges;
`benchmarks/detector.py` shows how well it is calibrated on others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from lldwatch.signs import Signs

ALARM = 0.5
"""From this probability on a live user is warned: a collapse is then more likely than not."""


class Forecast(NamedTuple):
    """As of one step.

    Attributes:
        probability: that the reward is lost for good within `horizon` steps; None before anything can be judged.
        horizon: in steps: a quarter of those so far, at least 20.
        steps: (10 %, median, 90 %) of the steps to it; None where a collapse is less likely than not.
    """

    probability: float | None = None
    horizon: int | None = None
    steps: tuple[int, int, int] | None = None

    @property
    def alarms(self) -> bool:
        """A collapse is more likely than not."""
        return self.probability is not None and self.probability >= ALARM


class Features(NamedTuple):
    """What the forecast looks at; all are 0 when nothing is seen or measured."""

    displacement: float
    """The headline's sum, in limits, at most 2; 0 while the policy grows certain. The other displacement check adds
    nothing to it in the fit."""
    second: float
    """The worst of the other signals, in limits, at most 2, so that one alone never warns; 0 while the reward gains."""
    fall: float
    """How far the reward is below its peak, in limits, at most 4."""
    broken: float
    """The arithmetic broke."""


WEIGHTS = (-2.81, 0.63, 1.01, 0.41, 1.76)
"""Of 1 and of the features."""


def features(signs: Signs) -> Features:
    """What the checks say as of now.

    Args:
        signs: of the run.
    """
    displacement = 0.0 if signs.growing_certain else signs.displacements[0].excess
    # a change of length alone is what learning does as well
    bad = [] if signs.reward.gaining or signs.quiet else [level for level in signs.bad if level.of.bad]
    return Features(
        displacement=displacement,
        second=min(max((level.excess for level in bad), default=0.0), 2.0),
        fall=min(signs.reward.fall, 4.0),
        broken=float(signs.finite.speaks),
    )


def horizon_of(steps_so_far: int) -> int:
    """How far it is looked ahead, in steps: a quarter of those so far, at least 20."""
    return max(20, steps_so_far // 4)


def forecast(signs: Signs, steps_so_far: int) -> Forecast:
    """The forecast as of now.

    Args:
        signs: of the run.
        steps_so_far: since the first step that was seen.
    """
    if not signs.judges:
        return Forecast()
    horizon = horizon_of(steps_so_far)
    score = WEIGHTS[0]
    for weight, feature in zip(WEIGHTS[1:], features(signs), strict=True):
        score += weight * feature
    expected = math.exp(min(score, 3.0))
    probability = -math.expm1(-expected)
    if probability < ALARM:
        return Forecast(probability, horizon)
    low, middle, high = (max(round(-math.log1p(-share) * horizon / expected), 1) for share in (0.1, 0.5, 0.9))
    return Forecast(probability, horizon, (low, middle, high))
