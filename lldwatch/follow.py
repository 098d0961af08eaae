"""A run and its diagnoses, kept up to date while the run grows: for the dashboard, `watch` and `diagnose`."""

from __future__ import annotations

from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Diagnosis, Verdict
from lldwatch.run import Run
from lldwatch.schema import Observation


class Follower:
    """Folds what a run has, and then what is new, through the detector.

    Args:
        run: the run to follow.
        detector: with other settings than the default ones.

    Attributes:
        observations: all steps so far; steps that a resumed training repeated stand there once, as it last made them.
        verdicts: stage, family and forecast as of each of them.
    """

    def __init__(self, run: Run, detector: CollapseDetector | None = None) -> None:
        self.run = run
        self.observations: list[Observation] = []
        self.verdicts: list[Verdict] = []
        self._detector = (detector or CollapseDetector()).fresh()

    @property
    def diagnosis(self) -> Diagnosis:
        """As of the last step."""
        return self._detector.diagnosis

    def update(self) -> int:
        """Read what is new.

        Returns:
            Index of the first observation that is new or was replaced; the number of observations when nothing is.
        """
        first = len(self.observations)
        for observation in self.run.poll():
            if self.observations and observation.step <= self.observations[-1].step:
                first = min(first, self._go_back_to(observation.step))
            self.observations.append(observation)
            self.verdicts.append(self._detector.fold(observation))
        return first

    def _go_back_to(self, step: int) -> int:
        """Forget the steps that the training made again, and fold the others once more."""
        kept = sum(1 for observation in self.observations if observation.step < step)
        del self.observations[kept:], self.verdicts[kept:]
        self._detector = self._detector.fresh()
        for observation in self.observations:
            self._detector.fold(observation)
        return kept
