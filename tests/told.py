"""A detector that is told what to say, for tests of what follows from it."""

from __future__ import annotations

from lldwatch import Observation
from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Family, Stage, Verdict


class Told(CollapseDetector):
    """A loss of 1 is the death spiral, any other is health."""

    def fresh(self) -> Told:
        return Told(self.settings)

    def fold(self, observation: Observation) -> Verdict:
        super().fold(observation)
        if observation.loss == 1.0:
            return Verdict(observation.step, Stage.DECAY, Family.LLD_SPIRAL, 0.9)
        return Verdict(observation.step, Stage.HEALTHY, None, 0.0)
