"""The questions the detector asks at each step, each with its own memory.

A check folds observations one by one; asked for its result, it answers with a status, the finding in words, and, when
it speaks, the evidence. This module holds what all checks share and those that need no normal of the run; `levels`,
`displacement` and `reward_checks` hold the others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from operator import attrgetter

from lldwatch.diagnosis import Check, Evidence
from lldwatch.errors import InputError
from lldwatch.schema import Observation
from lldwatch.trends import Confirmed, Normal

SUSPECT = 0.7
"""Limits from which on a sign is suspected to be one: what may be ill must not be learnt as normal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set about the checks; in steps that were logged unless it says otherwise.

    Raises:
        InputError: a value is not positive.
    """

    warmup: int = 10
    """The run's own normal is learnt from so many steps, anew from twice as many, and then frozen."""
    window: int = 5
    """Signals are averaged over so many steps: the fewest whose scatter says something."""
    reward_window: int = 10
    """The reward is averaged over so many: the usual definition of a sustained collapse."""
    confirm: int = 3
    """A sign must show on so many steps in a row before it counts."""
    release: int = 10
    """And be gone for so many before it is given up."""
    false_alarms_per_1000_steps: float = 1.0
    """At this rate noise may take a single signal past its limit. A warning takes several signs together, so that false
    ones are rarer: `benchmarks/detector.py` measures how much."""
    horizon: int = 20
    """A displacement matters if, at its pace, what correct responses cost in nats doubles within so many steps."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r}: expected a number above 0")

    def normal(self, window: int, of_medians: bool = True) -> Normal:
        """What medians (or means) of `window` values of a series of this run will be judged by."""
        sizes = (self.warmup, 2 * self.warmup)
        return Normal(sizes, window, self.confirm, self.false_alarms_per_1000_steps, of_medians)


class StepCheck(ABC):
    """One question; it is answered again at each step.

    Args:
        name: of the check.
        settings: of the detector.
    """

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

    @property
    def was(self) -> str:
        """When an earlier finding stood, in words; empty if there was none."""
        past = self._confirmed.past
        return "" if past is None or self.speaks else f", was beyond it at steps {past[0]} to {past[1]}"

    @abstractmethod
    def update(self, observation: Observation, *, learn: bool = True) -> None:
        """Take one step in; a step that lacks the signal says nothing."""

    @abstractmethod
    def result(self) -> tuple[Check, Evidence | None]:
        """The answer as of the last step, and the evidence while it speaks."""


class Starved(StepCheck):
    """Is there anything to learn from?

    Speaks when 97 % of the responses carry no advantage, or the gradient is exactly 0, in the mean of twice
    `reward_window` steps: groups that are all right or all wrong give plain GRPO no gradient. In healthy runs with few
    prompts a step four steps of five can be like that.

    Reference: arXiv:2503.14476 (DAPO), Sec. 3.2.
    """

    LIMIT = 0.97

    def __init__(self, settings: Settings) -> None:
        super().__init__("learning_signal", settings)
        self._shares: deque[float] = deque(maxlen=2 * settings.reward_window)

    def update(self, observation: Observation, *, learn: bool = True) -> None:
        """Take one step in; a step without the signals says nothing."""
        share = observation.zero_advantage_share
        if share is None and observation.grad_norm is not None:
            share = float(observation.grad_norm == 0.0)
        if share is None or not math.isfinite(share):
            return
        self._shares.append(share)
        full = len(self._shares) == self._shares.maxlen
        self._confirmed.update(full and self._mean > self.LIMIT, observation.step)

    @property
    def _mean(self) -> float:
        return sum(self._shares) / len(self._shares)

    def result(self) -> tuple[Check, Evidence | None]:
        """The share in words."""
        if not self._shares:
            return Check(self.name, "skipped", "needs zero_advantage_share or grad_norm"), None
        words = f"{self._mean:.0%} of the responses teach nothing (counts above {self.LIMIT:.0%})"
        if self.since is None:
            return Check(self.name, "ok", words + self.was), None
        evidence = Evidence("zero_advantage_share", self._mean, None, self.LIMIT, self.since, "arXiv:2503.14476")
        return Check(self.name, "warning", f"{words}, since step {self.since}"), evidence


class Reused(StepCheck):
    """Is each rollout batch used too often?

    Speaks when the clip fraction is high in the median of the last `window` steps. It needs no normal of the run: reuse
    is there from the start.
    """

    LIMIT = 0.1
    """A tenth of the tokens outside the clip range is an order of magnitude above what single use gives."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("reuse", settings)
        self._clipped: deque[float] = deque(maxlen=settings.window)
        self._updates: int | None = None

    def update(self, observation: Observation, *, learn: bool = True) -> None:
        """Take one step in; a step without the clip fraction says nothing."""
        self._updates = observation.updates_per_batch or self._updates
        clipped = observation.clip_fraction
        if clipped is None or not math.isfinite(clipped):
            return
        self._clipped.append(clipped)
        self._confirmed.update(self._median > self.LIMIT, observation.step)

    @property
    def _median(self) -> float:
        return sorted(self._clipped)[len(self._clipped) // 2]

    def result(self) -> tuple[Check, Evidence | None]:
        """The share in words."""
        if not self._clipped:
            return Check(self.name, "skipped", "needs clip_fraction"), None
        updates = f", {self._updates} updates on each batch" if self._updates else ""
        words = f"{self._median:.1%} of the tokens are outside the clip range (counts above {self.LIMIT:.0%}){updates}"
        if self.since is None:
            return Check(self.name, "ok", words + self.was), None
        evidence = Evidence("clip_fraction", self._median, None, self.LIMIT, self.since, "arXiv:1707.06347 (PPO)")
        return Check(self.name, "warning", f"{words}, since step {self.since}"), evidence


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
_read_finite = attrgetter(*_FINITE)


class Finite(StepCheck):
    """Is the arithmetic whole?

    Speaks when a value is NaN or infinite on `confirm` steps in a row: a single infinite gradient norm is skipped by
    every mixed-precision scaler.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("numerical", settings)
        self._column, self._value = "", math.nan
        self._seen = self._grad_norm_seen = False

    def update(self, observation: Observation, *, learn: bool = True) -> None:
        """Take one step in."""
        values = _read_finite(observation)
        total = 0.0
        for value in values:
            if value is not None:
                self._seen = True
                total += value * 0.0
        if self._grad_norm_seen and total == 0.0:
            self._confirmed.update(False, observation.step)
            return
        self._look(dict(zip(_FINITE, values, strict=True)), observation.step)

    def _look(self, values: dict[str, float | None], step: int) -> None:
        norm = values["grad_norm"]
        self._grad_norm_seen = self._grad_norm_seen or (norm is not None and math.isfinite(norm))
        broken = None
        for name, value in values.items():
            # a loss scaler begins with overflows until it has found its scale
            scaling = name.startswith("grad_norm") and not self._grad_norm_seen
            if value is not None and not math.isfinite(value) and not scaling:
                broken = name
                self._column, self._value = name, value
                break
        self._confirmed.update(broken is not None, step)

    def result(self) -> tuple[Check, Evidence | None]:
        """Which value broke."""
        if not self._seen:
            return Check(self.name, "skipped", "needs loss, reward, grad_norm or entropy"), None
        if self.since is None:
            return Check(self.name, "ok", f"loss, gradient norm and log-probs are finite{self.was}"), None
        evidence = Evidence(self._column, self._value, None, None, self.since, "IEEE 754")
        return Check(self.name, "critical", f"{self._column} is {self._value} since step {self.since}"), evidence
