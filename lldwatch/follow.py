"""A run and its diagnoses, kept up to date while the run grows: for the dashboard, `watch` and `diagnose`."""

from __future__ import annotations

import time

from lldwatch.alerts import Alert, Onsets, name_of
from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Diagnosis, Verdict
from lldwatch.run import Run
from lldwatch.schema import Observation


class Follower:
    """Folds what a run has, and then what is new, through the detector.

    Args:
        run: the run to follow.
        detector: with other settings than the default ones.
        alerting: also find what a person must know at once.

    Attributes:
        observations: all steps so far; steps that a resumed training repeated stand there once, as it last made them.
        verdicts: stage, family and forecast as of each of them.
        alerts: what the steps of the last `update` are worth telling at once.
        onsets: what that is decided by, as of the last step; None: nobody asked for it.
    """

    def __init__(self, run: Run, detector: CollapseDetector | None = None, *, alerting: bool = False) -> None:
        self.run = run
        self.observations: list[Observation] = []
        self.verdicts: list[Verdict] = []
        self.alerts: list[Alert] = []
        self.onsets = Onsets() if alerting else None
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
        first, now, self.alerts = len(self.observations), time.time(), []
        for observation in self.run.poll():
            if self.observations and observation.step <= self.observations[-1].step:
                first = min(first, self._go_back_to(observation.step))
            self.observations.append(observation)
            self.verdicts.append(self._detector.fold(observation))
            begun = [] if self.onsets is None else self.onsets.update(observation, self.verdicts[-1], now)
            if begun:
                diagnosis, name = self.diagnosis, name_of(self.run.path)
                self.alerts += [onset.alert(diagnosis, name) for onset in begun]
        return first

    def _go_back_to(self, step: int) -> int:
        """Forget the steps that the training made again, and fold the others once more."""
        kept = sum(1 for observation in self.observations if observation.step < step)
        # not cut in place: whoever looks at the lists of a moment ago still sees them as they were
        self.observations, self.verdicts = self.observations[:kept], self.verdicts[:kept]
        self._detector = self._detector.fresh()
        self.onsets = None if self.onsets is None else Onsets()
        for observation in self.observations:
            verdict = self._detector.fold(observation)
            if self.onsets is not None:
                self.onsets.update(observation, verdict)
        return kept
