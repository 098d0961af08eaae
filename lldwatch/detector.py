"""From observations to a diagnosis: the stages of the death spiral, decided from several signs together.

`CollapseDetector` is deterministic: no clock, no randomness, no files. The monitor folds it live, a post-mortem folds
it over the reader, the dashboard folds it as the run grows; all three say the same.

A falling likelihood of earlier responses alone can be benign (the policy found other correct answers), a falling reward
alone a harder mix of prompts, a lost reward alone a parser that changed: each takes a second sign before it counts for
more than STAGNATION.
"""

from __future__ import annotations

from collections.abc import Iterable

from lldwatch.advice import advise
from lldwatch.checks import Settings
from lldwatch.diagnosis import Confidence, Diagnosis, Episode, Family, Stage, Verdict
from lldwatch.families import name_family
from lldwatch.forecast import Forecast, forecast
from lldwatch.schema import Observation
from lldwatch.signs import Signs

_DIRECT = (Family.NUMERICAL, Family.MISMATCH, Family.SHARPENING, Family.OPTIMISER_BLOW_UP)
"""Kinds that are measured directly or came first, or that the cure of displacement would make worse."""

_OF_DISPLACEMENT = (Family.LLD_SPIRAL, Family.OFF_POLICY_OVERUSE)


class CollapseDetector:
    """Folds observations into a diagnosis.

    Args:
        settings: limits and windows, see `lldwatch.checks.Settings`.

    Attributes:
        stage: as of the last step.
        family: as of the last step.
        forecast: as of the last step.
        first_warning: first step at which a live user was warned; None if there was none.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._signs = Signs(self.settings)
        self._observation: Observation | None = None
        self._first_step = 0
        self._onsets: dict[Stage, int] = {}
        self._known: dict[Stage, int] = {}
        self._episodes: list[Episode] = []
        self._settled = False
        self.stage = Stage.HEALTHY
        self.family: Family | None = None
        self.forecast = Forecast()
        self.first_warning: int | None = None

    def fresh(self) -> CollapseDetector:
        """A detector with the same settings that has seen nothing."""
        return CollapseDetector(self.settings)

    def update(self, observation: Observation) -> Diagnosis:
        """Take one step in, in the order of the steps, and say what the run looks like.

        Args:
            observation: the step; what it lacks is said in the checks.

        Returns:
            The diagnosis as of this step.
        """
        self.fold(observation)
        return self.diagnosis

    def fold(self, observation: Observation) -> Verdict:
        """Take one step in without putting the diagnosis into words, which takes longer than the rest.

        Args:
            observation: the step.

        Returns:
            Stage, family and forecast as of this step.
        """
        if self._observation is None:
            self._first_step = observation.step
        self._observation = observation
        signs, step = self._signs, observation.step
        signs.update(observation)
        stage = self._stage_now()
        if stage is not self.stage or stage is not Stage.HEALTHY:
            self._move(stage, step)
        self.forecast = forecast(signs, step - self._first_step + 1)
        if self.first_warning is None and (stage >= Stage.DECAY or self.forecast.alarms):
            self.first_warning = step
        return Verdict(step, stage, self.family, self.forecast.probability)

    def _stage_now(self) -> Stage:
        signs = self._signs
        if signs.quiet and not signs.finite.speaks:
            return Stage.STAGNATION if signs.starved.speaks else Stage.HEALTHY
        if signs.finite.speaks or signs.reward_lost:
            return Stage.COLLAPSE
        if signs.displacement_borne_out or signs.decaying:
            return Stage.DECAY
        if signs.displaced or signs.reward.falling or signs.starved.speaks:
            return Stage.STAGNATION
        return Stage.HEALTHY

    def _move(self, stage: Stage, step: int) -> None:
        """To another stage, forwards or back; what was left behind is kept as an episode."""
        if stage < self.stage and self.stage >= Stage.DECAY and stage <= Stage.STAGNATION:
            worst = max(self._known)
            self._episodes.append(Episode(worst, self.family, self._onsets[worst], self._known[worst], step))
        for gone in [s for s in self._known if s > stage]:
            del self._known[gone], self._onsets[gone]
        self.stage = stage
        if stage is Stage.HEALTHY:
            self.family, self._settled = None, False
            return
        self._name(stage)
        if stage not in self._known:
            self._known[stage] = step
            self._onsets[stage] = min(self._onset(stage), step)

    def _name(self, stage: Stage) -> None:
        """The kind; once it is displacement it stays that: what goes with it later is not another illness."""
        named = name_family(self._signs)
        settled = self._settled and named not in _DIRECT
        self.family = self.family if settled or named is None else named
        self._settled = stage >= Stage.DECAY and self.family in _OF_DISPLACEMENT

    def _onset(self, stage: Stage) -> int:
        """When the signs that the stage rests on had begun."""
        signs = self._signs
        assert self._observation is not None
        step = self._observation.step
        displaced = [check.since for check in signs.displaced if check.since is not None]
        bad = [level.since for level in signs.bad if level.since is not None]
        fall = [signs.reward.since_fall] if signs.reward.since_fall is not None else []
        if stage is Stage.COLLAPSE:
            broken = signs.finite.since if signs.finite.speaks else signs.reward.since
            return step if broken is None else broken
        if stage is Stage.DECAY:
            return max(min(displaced, default=0), min([*bad, *fall], default=0)) or step
        starved = [signs.starved.since] if signs.starved.since is not None else []
        return min([*displaced, *fall, *starved], default=step)

    @property
    def diagnosis(self) -> Diagnosis:
        """As of the last step, in words."""
        if self._observation is None:
            return Diagnosis()
        results = [check.result() for check in self._signs.all]
        healthy_until = min(self._onsets.values(), default=None)
        return Diagnosis(
            step=self._observation.step,
            stage=self.stage,
            family=self.family,
            confidence=self._confidence(),
            onsets=dict(self._onsets),
            known=dict(self._known),
            first_warning=self.first_warning,
            collapse_probability=self.forecast.probability,
            horizon=self.forecast.horizon,
            steps_to_collapse=self.forecast.steps,
            episodes=tuple(self._episodes),
            evidence=tuple(item for _, item in results if item is not None),
            checks=tuple(check for check, _ in results),
            advice=advise(self.stage, self.family, healthy_until, self._observation),
        )

    def _confidence(self) -> Confidence:
        """How much a verdict on this run can rest on: what was measured."""
        signs = self._signs
        if signs.displacements[0].measured and signs.certainty_known and signs.reward.ready:
            return "high"
        measured = sum(level.ready for level in signs.levels.values())
        return "medium" if signs.reward.ready and measured >= 2 else "low"


def diagnose(observations: Iterable[Observation], detector: CollapseDetector | None = None) -> list[Diagnosis]:
    """The diagnosis as of each observation.

    Args:
        observations: in the order of their steps.
        detector: a fresh one with other settings than the default ones.
    """
    detector = detector or CollapseDetector()
    return [detector.update(observation) for observation in observations]
