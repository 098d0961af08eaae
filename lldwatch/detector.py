"""From observations to a diagnosis: the stages of the death spiral, decided from several signs together.

`CollapseDetector.update` is deterministic: no clock, no randomness, no files. The monitor folds it live, a post-mortem
folds it over the reader, the dashboard folds it as the run grows; all three say the same.

A falling likelihood of earlier responses alone can be benign (the policy found other correct answers), so it makes a
run no more than STAGNATION; DECAY wants a second sign. A lost reward alone can be a parser that changed, so COLLAPSE
wants a second sign as well, unless none is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from lldwatch.checks import Displacement, Finite, GradNorm, Level, RewardLost, Settings, StepCheck
from lldwatch.diagnosis import Diagnosis, Family, Stage
from lldwatch.schema import Observation
from lldwatch.trends import Confirmed

_ADVICE = {
    Family.LLD_SPIRAL: (
        "make fewer optimizer updates on each rollout batch{reuse}: in the miniature this alone keeps the run alive",
        "add a likelihood-preserving term (LLDS, arXiv:2512.04220) on the correct responses of earlier batches",
        "add a KL penalty to the reference policy, or lower the learning rate",
        "go back to the last checkpoint before step {onset}",
    ),
    Family.NUMERICAL: (
        "go back to the last checkpoint before step {onset}",
        "compute log-probs and loss in float32, and look for -inf log-probs and divisions by a zero standard deviation",
    ),
    None: (
        "look at the responses of the last steps: a reward that falls alone is often a parser or an environment",
        "go back to the last checkpoint before step {onset}",
    ),
}


class CollapseDetector:
    """Folds observations into a diagnosis.

    Args:
        settings: limits and windows, see `lldwatch.checks.Settings`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._displacement = Displacement(self.settings)
        self._likelihood = Level("likelihood_of_correct", "log_prob_correct", -1, self.settings)
        self._entropy = Level("entropy", "entropy", +1, self.settings)
        self._grad_norm = GradNorm(self.settings)
        self._reward = RewardLost(self.settings)
        self._finite = Finite(self.settings)
        self._checks: tuple[StepCheck, ...] = (
            self._displacement,
            self._likelihood,
            self._entropy,
            self._grad_norm,
            self._reward,
            self._finite,
        )
        self._borne_out = Confirmed(self.settings.confirm, self.settings.release)
        self.diagnosis = Diagnosis()
        """As of the last step."""

    def fresh(self) -> CollapseDetector:
        """A detector with the same settings that has seen nothing."""
        return CollapseDetector(self.settings)

    def update(self, observation: Observation) -> Diagnosis:
        """Take one step in, in the order of the steps.

        Args:
            observation: the step; what it lacks is said in the checks.

        Returns:
            The diagnosis as of this step.
        """
        for check in self._checks:
            check.update(observation)
        self._borne_out.update(self._second_sign(), observation.step)
        results = [check.result() for check in self._checks]
        evidence = tuple(item for _, item in results if item is not None)
        stage = self._stage()
        family = self._family(stage)
        before = self.diagnosis
        known = {s: k for s, k in before.known.items() if s <= stage}
        onsets = {s: k for s, k in before.onsets.items() if s <= stage}
        if stage is not Stage.HEALTHY and stage not in known:
            known[stage] = observation.step
            onsets[stage] = self._onset(stage, observation.step)
        warned = before.first_warning
        self.diagnosis = Diagnosis(
            step=observation.step,
            stage=stage,
            family=family,
            onsets=onsets,
            known=known,
            first_warning=observation.step if warned is None and stage >= Stage.DECAY else warned,
            evidence=evidence,
            checks=tuple(check for check, _ in results),
            advice=_advice(stage, family, onsets, observation),
        )
        return self.diagnosis

    def _stage(self) -> Stage:
        if self._finite.speaks:
            return Stage.COLLAPSE
        if self._reward.speaks and self._something_moved():
            return Stage.COLLAPSE
        if self._displacement.speaks:
            return Stage.DECAY if self._borne_out.since is not None else Stage.STAGNATION
        return Stage.HEALTHY

    def _something_moved(self) -> bool:
        """Something beside the reward has left its warm-up, on either side; or nothing beside it is measured."""
        levels = (self._likelihood, self._entropy, self._grad_norm)
        moved = any(abs(level.distance) > self.settings.sigmas for level in levels)
        unmeasured = all(check.result()[0].status == "skipped" for check in (self._displacement, *levels))
        return moved or unmeasured or self._displacement.speaks

    def _second_sign(self) -> bool:
        """The displacement is not the benign one of a policy that grows certain of other correct answers."""
        distances = [d for d in (self._entropy.distance, self._likelihood.distance) if math.isfinite(d)]
        not_certain = bool(distances) and min(distances) >= -1.0
        moved = self._entropy.speaks or self._likelihood.speaks or self._reward.falling
        return self._displacement.speaks and (moved or not_certain)

    def _family(self, stage: Stage) -> Family | None:
        if self._finite.speaks:
            return Family.NUMERICAL
        displaced = self._displacement.speaks or self.diagnosis.family is Family.LLD_SPIRAL
        return Family.LLD_SPIRAL if stage >= Stage.STAGNATION and displaced else None

    def _onset(self, stage: Stage, step: int) -> int:
        """When the signs that the stage rests on had begun."""
        displaced = self._displacement.since or step
        if stage is Stage.STAGNATION:
            return displaced
        if stage is Stage.DECAY:
            second = [check.since for check in (self._entropy, self._likelihood) if check.since is not None]
            return max(displaced, min(second, default=displaced))
        broken = self._finite.since if self._finite.speaks else self._reward.since
        return step if broken is None else broken


def diagnose(observations: Iterable[Observation], detector: CollapseDetector | None = None) -> list[Diagnosis]:
    """The diagnosis as of each observation.

    Args:
        observations: in the order of their steps.
        detector: a fresh one with other settings than the default ones.
    """
    detector = detector or CollapseDetector()
    return [detector.update(observation) for observation in observations]


def _advice(stage: Stage, family: Family | None, onsets: dict[Stage, int], observation: Observation) -> tuple[str, ...]:
    if stage is Stage.HEALTHY:
        return ()
    reuse = f" (now {observation.updates_per_batch})" if observation.updates_per_batch else ""
    return tuple(line.format(onset=min(onsets.values()), reuse=reuse) for line in _ADVICE[family])
