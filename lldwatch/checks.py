"""The questions the detector asks at each step, each with its own memory.

A check folds observations one by one and answers with a status, the finding in words, and, when it speaks, the
evidence. Each limit is a setting with its reason beside it; none was fitted on the runs that the benchmarks judge.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from lldwatch.diagnosis import Check, Evidence
from lldwatch.errors import InputError
from lldwatch.schema import Observation
from lldwatch.signals import PAPER, SIGNALS, value
from lldwatch.trends import Baseline, Confirmed, Cusum, Window, cusum_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set about the checks; all in steps unless it says otherwise.

    Raises:
        InputError: a value is not positive.
    """

    warmup: int = 10
    """The run's own normal is learnt from so many steps, then frozen."""
    window: int = 5
    """Signals are averaged over so many steps: the fewest whose scatter says something."""
    reward_window: int = 10
    """The reward is averaged over so many: the usual definition of a sustained collapse."""
    confirm: int = 3
    """A sign must show on so many steps in a row before it counts."""
    release: int = 10
    """And be gone for so many before it is given up."""
    sigmas: float = 3.0
    """How many standard errors a level must be from the warm-up's, or a reward below its peak."""
    false_alarms_per_1000_steps: float = 1.0
    """At this rate pure noise would be taken for displacement."""
    horizon: int = 20
    """A displacement matters if, at its pace, what correct responses cost in nats doubles within so many steps."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r}: expected a number above 0")


class StepCheck(ABC):
    """One question; it is answered again at each step."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self._confirmed = Confirmed(settings.confirm, settings.release)

    @property
    def since(self) -> int | None:
        """First step of the confirmed finding; None while there is none."""
        return self._confirmed.since

    @property
    def speaks(self) -> bool:
        """The finding is confirmed."""
        return self.since is not None

    @abstractmethod
    def update(self, observation: Observation) -> None:
        """Take one step in; a step that lacks the signal says nothing."""

    @abstractmethod
    def result(self) -> tuple[Check, Evidence | None]:
        """The answer as of the last step, and the evidence while it speaks."""


class Displacement(StepCheck):
    """Do correct responses of the previous step lose likelihood across this step's updates?

    Each step's change is standardised with its own standard error (at least the usual one, the scatter of the warm-up
    and the A/A noise floor) and summed up by a CUSUM. What is less than half of the pace that matters is allowed: the
    pace at which the nats that correct responses cost in the warm-up would double within `horizon` steps. The change
    has a natural zero, so no warm-up is needed before it can speak.

    Reference: arXiv:2512.04220, Sec. 3 (likelihood change of correct responses <= eps).
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("likelihood_displacement", settings)
        self._cusum = Cusum(cusum_limit(settings.false_alarms_per_1000_steps))
        self._changes = Window(settings.window)
        self._cost, self._scatter, self._error = (Baseline(settings.warmup) for _ in range(3))
        self._floor, self._responses = 0.0, 1

    @property
    def since(self) -> int | None:
        """Estimated onset; None while there is no finding."""
        return self._cusum.since

    def update(self, observation: Observation) -> None:
        """Take one step in; a step without the probe says nothing."""
        if observation.log_prob_correct is not None:
            self._cost.add(-observation.log_prob_correct)
        self._floor = _finite(observation.noise_floor) or self._floor
        change, error = _finite(observation.cross_update_change), _finite(observation.cross_update_error)
        if change is None:
            return
        self._changes.add(change)
        self._scatter.add(change)
        if error:
            self._error.add(error)
        self._responses = max(observation.cross_update_responses or 1, 1)
        noise = self._noise(error or 0.0)
        if noise > 0.0:
            allowed = max(self._pace() / 2, self._cusum.allowance * noise)
            self._cusum.add((-change - allowed) / noise + self._cusum.allowance, observation.step)

    @property
    def _mean_floor(self) -> float:
        """The A/A floor is that of single responses, so their mean has it divided by the root of their number."""
        return self._floor / math.sqrt(self._responses)

    def _noise(self, error: float) -> float:
        """Standard deviation of one step's change when nothing happens; nats per token.

        A quarter of the pace that matters is the least: equal numbers must not make an infinite signal.
        """
        scatter = self._scatter.spread if self._scatter.ready else 0.0
        usual = self._error.so_far
        return max(error, scatter, self._mean_floor, usual if math.isfinite(usual) else 0.0, self._pace() / 4)

    def _pace(self) -> float:
        cost = self._cost.so_far
        return max(cost, 0.0) / self.settings.horizon if math.isfinite(cost) else 0.0

    def result(self) -> tuple[Check, Evidence | None]:
        """The pace in words."""
        if math.isnan(self._changes.mean):
            return Check(
                self.name,
                "skipped",
                "needs cross_update_change: nothing was re-scored (lldwatch.probes.LikelihoodProbe)",
            ), None
        mean, limit = self._changes.mean, -self._pace() / 2
        words = (
            f"earlier correct responses {mean:+.3g} nats/token a step (counts below {limit:+.3g}), "
            f"summed up {self._cusum.total:.1f} sigma (limit {self._cusum.limit:.1f})"
        )
        if self._floor and abs(mean) <= self._mean_floor:
            words += f", inside the noise of scoring twice ({self._mean_floor:.1g})"
        if self.since is None:
            return Check(self.name, "ok", words), None
        evidence = Evidence("cross_update_change", mean, 0.0, limit, self.since, f"{PAPER}, Sec. 3")
        return Check(self.name, "critical", f"{words}, since step {self.since}"), evidence


class Level(StepCheck):
    """Has a signal left what was normal in the run's own warm-up?

    Speaks when the mean of the last `window` values is further than `sigmas` standard errors from the frozen median,
    on the side that is bad. Standard error: robust spread * sqrt(1 / window + (pi / 2) / warmup), the second term for
    the median itself. A spread below 5 % of the median counts as 5 %: a warm-up of equal values must not turn every
    later change into an alarm.

    Args:
        name: of the check.
        signal: key in SIGNALS.
        sign: +1 if a rise is bad, -1 if a fall is.
        settings: of the detector.
    """

    def __init__(self, name: str, signal: str, sign: int, settings: Settings) -> None:
        super().__init__(name, settings)
        self._signal, self._sign = SIGNALS[signal], sign
        self._baseline, self._values = Baseline(settings.warmup), Window(settings.window)

    @property
    def distance(self) -> float:
        """Standard errors from the warm-up, > 0 on the bad side; NaN before the warm-up is over."""
        spread = max(self._baseline.spread, 0.05 * abs(self._baseline.median), 1e-12)
        error = spread * math.sqrt(1 / self.settings.window + math.pi / 2 / self.settings.warmup)
        return self._sign * (self._values.mean - self._baseline.median) / error

    def update(self, observation: Observation) -> None:
        """Take one step in; a step without the signal says nothing."""
        measured = value(self._signal, observation)
        if measured is None or not math.isfinite(measured):
            return
        self._values.add(measured)
        self._confirmed.update(self.distance > self.settings.sigmas, observation.step)
        self._baseline.add(measured)

    def result(self) -> tuple[Check, Evidence | None]:
        """The level in words."""
        if math.isnan(self._values.mean):
            return Check(self.name, "skipped", f"needs {', '.join(self._signal.requires)}"), None
        if not self._baseline.ready:
            words = f"warm-up: steps with {self._signal.name} still needed: {self._baseline.missing}"
            return Check(self.name, "skipped", words), None
        mean, normal = self._values.mean, self._baseline.median
        limit = normal if self.distance == 0 else normal + (mean - normal) / self.distance * self.settings.sigmas
        words = f"{self._signal.title} {mean:.4g}, in the warm-up {normal:.4g} (limit {limit:.4g})"
        if self.since is None:
            return Check(self.name, "ok", words), None
        evidence = Evidence(self._signal.name, mean, normal, limit, self.since, self._signal.reference)
        return Check(self.name, "warning", f"{words}, since step {self.since}"), evidence


class GradNorm(Level):
    """The same for the gradient norm, which may be exactly 0 without being missing: then it says why, if it can."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("grad_norm", "grad_norm", +1, settings)
        self._why_zero = ""

    def update(self, observation: Observation) -> None:
        """Take one step in; a step without the signal says nothing."""
        super().update(observation)
        if observation.grad_norm is not None:
            self._why_zero = ""
        if observation.grad_norm == 0.0 and observation.zero_advantage_share == 1.0:
            self._why_zero = "all advantages are 0, so that there is nothing to learn from"
        elif observation.grad_norm == 0.0:
            known = observation.zero_advantage_share is not None
            self._why_zero = "although advantages are not 0" if known else "for a reason that advantages would tell"

    def result(self) -> tuple[Check, Evidence | None]:
        """The level in words."""
        check, evidence = super().result()
        if self._why_zero and check.status != "skipped":
            check = Check(check.name, check.status, f"{check.reason}; exactly 0 now: {self._why_zero}")
        return check, evidence


class RewardLost(StepCheck):
    """Has the reward gone, and stayed away?

    Speaks when the mean of the last `reward_window` rewards stays below half of its running peak, counted from 0 or,
    where the first mean was negative, from that; a peak that is itself not above 0 must be doubled. The fall must be
    more than `sigmas` standard errors.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("reward", settings)
        self._rewards = Window(settings.reward_window)
        self._peak, self._peak_error, self._origin = -math.inf, 0.0, 0.0
        self._seen = False

    @property
    def falling(self) -> bool:
        """Below its peak by more than the noise."""
        noise = math.hypot(self._rewards.error, self._peak_error)
        return self._rewards.full and self._peak - self._rewards.mean > self.settings.sigmas * noise

    def update(self, observation: Observation) -> None:
        """Take one step in; a step without a reward (reuse of a batch) says nothing."""
        if observation.reward is None or not math.isfinite(observation.reward):
            return
        self._seen = True
        self._rewards.add(observation.reward)
        if not self._rewards.full:
            return
        mean = self._rewards.mean
        self._origin = min(self._origin, mean) if self._peak == -math.inf else self._origin
        if mean > self._peak:
            self._peak, self._peak_error = mean, self._rewards.error
        self._confirmed.update(mean < self._limit() and self.falling, observation.step)

    def _limit(self) -> float:
        if self._peak > 0:
            return (self._peak + self._origin) / 2
        return self._peak - max(-self._peak, self._peak - self._origin)

    def result(self) -> tuple[Check, Evidence | None]:
        """Reward and peak in words."""
        if not self._seen:
            return Check(self.name, "skipped", "needs reward"), None
        if not self._rewards.full:
            return Check(self.name, "skipped", f"needs {self.settings.reward_window} steps with reward"), None
        mean = self._rewards.mean
        words = f"mean of the last {self.settings.reward_window} rewards {mean:.3g}, at its peak {self._peak:.3g}"
        if self.since is None:
            return Check(self.name, "ok", words), None
        evidence = Evidence("reward", mean, self._peak, self._limit(), self.since, f"{PAPER}, Fig. 2")
        return Check(self.name, "critical", f"{words}, below half of it since step {self.since}"), evidence


_FINITE = (
    "loss",
    "reward",
    "grad_norm",
    "grad_norm_max",
    "entropy",
    "min_log_prob",
    "log_prob_correct",
    "log_prob_incorrect",
    "change_positive",
    "change_negative",
    "cross_update_change",
)


class Finite(StepCheck):
    """Is the arithmetic whole?

    Speaks when a value is NaN or infinite on `confirm` steps in a row: a single infinite gradient norm is skipped by
    every mixed-precision scaler.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("numerical", settings)
        self._column, self._value = "", math.nan
        self._seen = self._grad_norm_seen = False

    def update(self, observation: Observation) -> None:
        """Take one step in."""
        values = {name: number for name in _FINITE if (number := getattr(observation, name)) is not None}
        self._seen = self._seen or bool(values)
        self._grad_norm_seen = self._grad_norm_seen or math.isfinite(values.get("grad_norm", math.nan))
        if not self._grad_norm_seen:  # a loss scaler begins with overflows until it has found its scale
            values = {name: number for name, number in values.items() if not name.startswith("grad_norm")}
        broken = next((name for name, number in values.items() if not math.isfinite(number)), None)
        if broken is not None:
            self._column, self._value = broken, values[broken]
        self._confirmed.update(broken is not None, observation.step)

    def result(self) -> tuple[Check, Evidence | None]:
        """Which value broke."""
        if not self._seen:
            return Check(self.name, "skipped", "needs loss, reward, grad_norm or entropy"), None
        if self.since is None:
            return Check(self.name, "ok", "loss, gradient norm and log-probs are finite"), None
        evidence = Evidence(self._column, self._value, None, None, self.since, "IEEE 754")
        return Check(self.name, "critical", f"{self._column} is {self._value} since step {self.since}"), evidence


def _finite(number: float | None) -> float | None:
    """A broken value says nothing to a check but `Finite`, and must not blind it for the steps to come."""
    return number if number is not None and math.isfinite(number) else None
