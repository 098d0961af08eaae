"""Do responses that an update was not shown lose likelihood across it? The checks that lead.

Their signals have a natural zero, so that they need no warm-up of the run's own: they can speak from the first steps
on, when nothing else is known yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from statistics import median

import numpy as np

from lldwatch.checks import SUSPECT, Settings, StepCheck
from lldwatch.diagnosis import Check, Evidence
from lldwatch.schema import Observation
from lldwatch.signals import PAPER
from lldwatch.trends import Cusum, Window, around_trend, autocorrelation, cusum_limit, spread_of


@dataclass(frozen=True, slots=True)
class DisplacementOf:
    """Which responses are looked at.

    Attributes:
        name: of the check.
        whom: the responses, in words.
        change: column of their mean likelihood change.
        error: column of its standard error; None if there is none.
        allowed: share of the pace that matters which is let pass.
        least_noise: of one step's change, as a share of the pace that matters: of few responses it is large.
    """

    name: str
    whom: str
    change: str
    error: str | None
    allowed: float
    least_noise: float


DISPLACEMENTS = (
    DisplacementOf(
        "likelihood_displacement", "earlier correct responses", "cross_update_change", "cross_update_error", 0.5, 0.25
    ),
    DisplacementOf("bystanders", "responses without advantage", "post_update_zero_advantage", None, 1.0, 1.0),
)
"""Responses of the batch itself that carry no advantage stand nearer to what is trained than those of an earlier batch:
they are let move twice as far."""


class Displacement(StepCheck):
    """Each step's change is standardised and summed up by a CUSUM.

    The unit is the largest of: the change's own standard error, the usual one of the warm-up, the A/A noise floor, the
    scatter of the warm-up, a share of the pace that matters. From the end of the warm-up on it is widened by
    sqrt((1 + phi) / (1 - phi)) for an autocorrelation phi > 0, because neighbouring steps that move together say less
    than their number; at first around the trend, since a displacement that grows from the start must not hide itself.
    The pace that matters would double the nats that correct responses cost in the warm-up within `horizon`
    steps.

    Changes are not divided by learning rate or number of updates: what is lost in a step is lost, however many updates
    it took. `cross_update_per_update` shows how much of it reuse is.

    Reference: arXiv:2512.04220, Sec. 3 (likelihood change of correct responses <= eps).
    """

    def __init__(self, of: DisplacementOf, settings: Settings) -> None:
        super().__init__(of.name, settings)
        self.of = of
        self._read = attrgetter(of.change)
        self._read_error = attrgetter(of.error) if of.error else lambda observation: None
        self._cusum = Cusum(cusum_limit(settings.false_alarms_per_1000_steps))
        self._recent = Window(settings.window)
        self._changes: list[float] = []
        self._errors: list[float] = []
        self._costs: list[float] = []
        self._error = self._scatter = self._floor = self._pace = 0.0
        self._widen = 1.0
        self._responses = 1
        self.excess = 0.0
        """What is summed up, in limits: it speaks from 1 on, and reaches 2 at most; 0 if nothing is measured."""

    @property
    def since(self) -> int | None:
        """Estimated onset; None while there is no finding."""
        return self._cusum.since

    @property
    def measured(self) -> bool:
        """Something was re-scored."""
        return bool(self._changes)

    def update(self, observation: Observation, *, learn: bool = True) -> None:
        """Take one step in; a step without the probe says nothing."""
        cost = observation.log_prob_correct
        if cost is not None and len(self._costs) < self.settings.warmup and math.isfinite(cost):
            self._costs.append(-cost)
            self._pace = max(median(self._costs), 0.0) / self.settings.horizon
        change, error = self._read(observation), self._read_error(observation)
        if change is None or not math.isfinite(change):
            return
        if error is None or not math.isfinite(error):
            error = 0.0
        self._learn(change, error, observation)
        noise = max(error, self._error, self._scatter, self._mean_floor, self._pace * self.of.least_noise) * self._widen
        self._recent.add(change)
        if noise > 0.0:
            allowed = max(self._pace * self.of.allowed, self._cusum.allowance * noise)
            self._cusum.add((-change - allowed) / noise + self._cusum.allowance, observation.step)
            self.excess = self._cusum.total / self._cusum.limit

    def _learn(self, change: float, error: float, observation: Observation) -> None:
        """How much noise is usual: from the first steps, up to four warm-ups as long as nothing is seen."""
        if observation.noise_floor is not None and math.isfinite(observation.noise_floor):
            self._floor = observation.noise_floor
        self._responses = max(observation.cross_update_responses or 1, 1)
        warmup, count = self.settings.warmup, len(self._changes)
        if error and len(self._errors) < warmup:
            self._errors.append(error)
            self._error = median(self._errors)
        if count >= 4 * warmup or (count >= warmup and self.excess > SUSPECT):
            return
        self._changes.append(change)
        if count + 1 in (warmup, 2 * warmup, 4 * warmup):
            changes, early = np.array(self._changes), count < warmup
            self._scatter = float(spread_of(changes))
            phi = autocorrelation(around_trend(changes) if early else changes, trend=early)
            self._widen = math.sqrt((1 + phi) / (1 - phi))

    @property
    def _mean_floor(self) -> float:
        """The A/A floor is that of single responses, so their mean has it divided by the root of their number."""
        return self._floor / math.sqrt(self._responses)

    def result(self) -> tuple[Check, Evidence | None]:
        """The pace in words."""
        if not self._changes:
            words = f"needs {self.of.change}: no {self.of.whom} were re-scored (lldwatch.probes.LikelihoodProbe)"
            return Check(self.name, "skipped", words), None
        mean, limit = self._recent.mean, -self._pace * self.of.allowed
        words = (
            f"{self.of.whom} {mean:+.3g} nats/token a step (counts below {limit:+.3g}), "
            f"summed up {self._cusum.total:.1f} sigma (limit {self._cusum.limit:.1f})"
        )
        if self._floor and abs(mean) <= self._mean_floor:
            words += f", inside the noise of scoring twice ({self._mean_floor:.1g})"
        if self.since is None:
            return Check(self.name, "ok", words + self.was), None
        evidence = Evidence(self.of.change, mean, 0.0, limit, self.since, f"{PAPER}, Sec. 3")
        return Check(self.name, "critical", f"{words}, since step {self.since}"), evidence

    @property
    def was(self) -> str:
        """When an earlier finding stood, in words; empty if there was none."""
        past = self._cusum.past
        return "" if past is None or self.speaks else f", was beyond it at steps {past[0]} to {past[1]}"
