"""Has a signal left what was normal in the run's own warm-up?

There are two bars: the statistical one, calibrated on that warm-up, says that a change is no noise; the practical one
(`least`) says that it is large enough to matter. Neither was fitted on the runs that the benchmarks judge.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from lldwatch.checks import SUSPECT, Settings, StepCheck
from lldwatch.diagnosis import Check, Evidence
from lldwatch.schema import Observation
from lldwatch.signals import SIGNALS
from lldwatch.trends import Confirmed

LEAST = 1e-6
"""What lies below has this logarithm."""


def _log(value: float) -> float:
    return math.log(value) if value > LEAST else math.log(LEAST)


def _cost(log_prob: float) -> float:
    return -_log(-log_prob)


def _same(value: float) -> float:
    return value


@dataclass(frozen=True, slots=True)
class LevelOf:
    """How a signal is judged.

    Attributes:
        name: of the check.
        signal: key in SIGNALS.
        bad: +1 if a rise is bad, -1 if a fall is, 0 if either may be.
        least: the least change that matters: of the logarithm where `scale` is one, else of the value.
        scale: what makes changes comparable.
        floor: a value below it is never bad; of the value.
        grows_with_rate: it grows with the learning rate, so that nothing is learnt from it while that is warming up.
    """

    name: str
    signal: str
    bad: int
    least: float
    scale: Callable[[float], float] = _log
    floor: float = -math.inf
    grows_with_rate: bool = False


LEVELS = (
    LevelOf("likelihood_of_correct", "log_prob_correct", -1, math.log(1.25), _cost),
    LevelOf("entropy", "entropy", +1, math.log(1.25)),
    LevelOf("grad_norm", "grad_norm", +1, math.log(3.0)),
    LevelOf("response_length", "response_length", 0, math.log(1.5)),
    LevelOf("kl", "kl", +1, math.log(5.0), floor=0.2, grows_with_rate=True),
    LevelOf("clip_fraction", "clip_fraction", +1, math.log(3.0), floor=0.05, grows_with_rate=True),
    LevelOf("rollout_mismatch", "rollout_kl", +1, math.log(3.0), floor=5e-3),
    LevelOf("format", "format_valid_share", -1, 0.1, _same),
    LevelOf("truncation", "truncated_share", +1, 0.2, _same),
    LevelOf("equal_rewards", "zero_advantage_share", +1, 0.25, _same),
)
"""What a run is asked besides displacement, reward and arithmetic. Factors: the smallest that a person reading the plot
would call a change; they stand for themselves, whatever the noise."""


class Level(StepCheck):
    """One signal against the run's own warm-up, on either side.

    Speaks when the median of the last `window` values is beyond the calibrated limit (`lldwatch.trends.bootstrap`) and
    has changed by at least what matters, on the bad side. A single spike does not move it.

    Args:
        of: how the signal is judged.
        settings: of the detector.

    Attributes:
        before: the change before the reward began to fall.
        rise: how far above the warm-up, in limits: the smaller of the statistical and the practical one; 0 if not near.
        fall: how far below it, likewise.
        last: the last finite value; NaN before there is one.
    """

    def __init__(self, of: LevelOf, settings: Settings) -> None:
        super().__init__(of.name, settings)
        self.of = of
        self._signal = SIGNALS[of.signal]
        self._read = attrgetter(of.signal)
        self._recent, self._half = (1 << settings.window) - 1, settings.window // 2
        self._rate = 0.0
        self.last = math.nan
        self.before = 0.0
        self.forget()

    def forget(self) -> None:
        """Learn anew what is normal, and give up what was found: the training was restarted."""
        settings = self.settings
        self._up, self._down = (Confirmed(settings.confirm, settings.release) for _ in range(2))
        self._confirmed = self._down if self.of.bad < 0 else self._up
        self._normal = settings.normal(settings.window)
        self._raw: deque[float] = deque(maxlen=settings.window)
        self.before = 0.0
        self._far = 0
        self.rise = self.fall = 0.0
        self._active = False
        self._set_bars()

    def _set_bars(self) -> None:
        normal, least = self._normal, self.of.least
        self.high = max(normal.limits.rise * normal.spread, least)
        """Change, on the signal's scale, from which on it lies above its warm-up."""
        self.low = max(normal.limits.fall * normal.spread, least)
        """And below it; > 0."""
        self._near_high, self._near_low = normal.center + SUSPECT * self.high, normal.center - SUSPECT * self.low

    @property
    def rose(self) -> int | None:
        """Since when the signal lies above its warm-up; None if it does not."""
        return self._up.since

    @property
    def fell(self) -> int | None:
        """Since when the signal lies below its warm-up; None if it does not."""
        return self._down.since

    @property
    def since(self) -> int | None:
        """Since when the signal lies on its bad side, or on either if both may be bad; None if it does not."""
        if self.of.bad:
            return self._confirmed.since
        return min((since for since in (self.rose, self.fell) if since is not None), default=None)

    @property
    def excess(self) -> float:
        """How far the signal lies on its bad side, in limits: it speaks from 1 on; 0 if not near."""
        return self.fall if self.of.bad < 0 else self.rise if self.of.bad else max(self.rise, self.fall)

    @property
    def change(self) -> float:
        """From the warm-up, on the signal's scale: median of the last values; NaN before the warm-up is over."""
        raw = self._raw
        return sorted(raw)[len(raw) >> 1] - self._normal.center if raw else math.nan

    @property
    def ready(self) -> bool:
        """The warm-up is over."""
        return self._normal.ready

    @property
    def has_moved(self) -> bool:
        """Further than noise and half of what matters since before the reward began to fall, and it matters at all.

        One that has become known only later is held against its warm-up.
        """
        moved = self.change - self.before
        bar = self.high if moved > 0 else self.low
        return self.last >= self.of.floor and abs(moved) > max(bar if bar > self.of.least else 0.0, self.of.least / 2)

    @property
    def has_moved_plainly(self) -> bool:
        """Twice as far from its warm-up as what matters, whatever the noise of that."""
        return self.last >= self.of.floor and abs(self.change) >= 2 * self.of.least

    def update(self, observation: Observation, *, learn: bool = True) -> None:
        """Take one step in; a step without the signal says nothing."""
        measured = self._read(observation)
        if measured is None or measured - measured != 0.0:  # the difference of infinities is NaN
            return
        self.last = measured
        if self.of.grows_with_rate and self._warming_up(observation.learning_rate):
            return
        scaled = self.of.scale(measured)
        raw, normal = self._raw, self._normal
        raw.append(scaled)
        if normal.ready:
            far = not self._near_low < scaled < self._near_high
            self._far = (self._far << 1 | far) & self._recent
            # a median leaves its place only with half of the values
            if self._active or (far and self._far.bit_count() > self._half):
                self._judge(observation.step)
        if normal.learning and normal.add(scaled, learn=learn):
            self._set_bars()

    def _judge(self, step: int) -> None:
        change = self.change
        self.rise = max(change / self.high, 0.0) if self.last >= self.of.floor else 0.0
        self.fall = max(-change / self.low, 0.0)
        self._up.update(self.rise >= 1.0, step)
        self._down.update(self.fall >= 1.0, step)
        self._active = self._up.active or self._down.active or self.rise >= SUSPECT or self.fall >= SUSPECT
        if not self._active:
            self.rise = self.fall = 0.0

    def _warming_up(self, rate: float | None) -> bool:
        before, self._rate = self._rate, rate or 0.0
        return self._rate > 1.0001 * before > 0.0

    def result(self) -> tuple[Check, Evidence | None]:
        """The level in words."""
        if math.isnan(self.last):
            return Check(self.name, "skipped", f"needs {', '.join(self._signal.requires)}"), None
        if math.isnan(self.change):
            words = f"warm-up: steps with {self._signal.name} still needed: {max(self._normal.missing, 1)}"
            return Check(self.name, "skipped", words), None
        value, normal, limit = self._values()
        words = f"{self._signal.title} {value:.4g}, in the warm-up {normal:.4g} (limit {limit:.4g})"
        if not self.speaks:
            aside = ", above it" if self.rose is not None else ", below it" if self.fell is not None else self.was
            return Check(self.name, "ok", f"{words}{aside}"), None
        assert self.since is not None
        evidence = Evidence(self._signal.name, value, normal, limit, self.since, self._signal.reference)
        return Check(self.name, "warning", f"{words}, since step {self.since}"), evidence

    def _values(self) -> tuple[float, float, float]:
        """Value, normal and limit in the signal's own unit."""
        rises = self.of.bad > 0 or (self.of.bad == 0 and self.change >= 0)
        center = self._normal.center
        at_limit = center + self.high if rises else center - self.low
        value, normal, limit = (_UNDO[self.of.scale](x) for x in (center + self.change, center, at_limit))
        return value, normal, max(limit, self.of.floor) if rises else limit


def _exp(scaled: float) -> float:
    if scaled < math.log(LEAST) + 1e-9:
        return 0.0
    return math.exp(scaled) if scaled < 700.0 else math.inf  # a warm-up of all magnitudes has a limit beyond numbers


_UNDO: dict[Callable[[float], float], Callable[[float], float]] = {
    _log: _exp,
    _cost: lambda cost: 0.0 - _exp(-cost),
    _same: _same,
}


class GradNorm(Level):
    """The same for the gradient norm, which may be exactly 0 without being missing: then it says why, if it can.

    Zeros do not count: groups of equal rewards give no gradient in healthy runs too.
    """

    def __init__(self, of: LevelOf, settings: Settings) -> None:
        super().__init__(of, settings)
        self._why_zero = ""

    def update(self, observation: Observation, *, learn: bool = True) -> None:
        """Take one step in; a step without the signal says nothing."""
        if observation.grad_norm != 0.0:
            super().update(observation, learn=learn)
            self._why_zero = "" if observation.grad_norm is not None else self._why_zero
        elif observation.zero_advantage_share == 1.0:
            self._why_zero = "all advantages are 0, so that there is nothing to learn from"
        else:
            known = observation.zero_advantage_share is not None
            self._why_zero = "although advantages are not 0" if known else "for a reason that advantages would tell"

    def result(self) -> tuple[Check, Evidence | None]:
        """The level in words."""
        check, evidence = super().result()
        if not self._why_zero:
            return check, evidence
        words = "Gradient norm" if math.isnan(self.last) else check.reason
        status = "ok" if math.isnan(self.last) else check.status
        return Check(check.name, status, f"{words}; exactly 0 now: {self._why_zero}"), evidence
