"""Is the reward falling, and is it lost? What a collapse is, in the end, decided by."""

from __future__ import annotations

import math
from collections import deque

from lldwatch.checks import Settings, StepCheck
from lldwatch.diagnosis import Check, Evidence
from lldwatch.schema import Observation
from lldwatch.signals import PAPER
from lldwatch.trends import Confirmed


class Reward(StepCheck):
    """Is the reward below its peak by more than noise, and is it lost?

    Looks at the mean of the last `reward_window` rewards and at its running peak. *Falling*: the drawdown is beyond the
    calibrated limit of the run's own warm-up, and more than `FALL` of what there is to lose. *Lost*: half of what there
    is to lose is gone. There is to lose what lies above 0 or, where that is negative, above the first
    mean; a peak that is itself not above 0 must be doubled.
    """

    FALL = 0.15
    """Of what there is to lose; smaller dips come and go."""
    LOST = 0.5
    """Of what there is to lose: the usual definition of a collapse."""
    BELOW = 0.4
    """Of what there is to lose, where it is clearly more than all that was gained: below where the run began."""
    NEARLY_ALL = 0.9
    """Of what there is to lose: needs no warm-up where no reward is any more what it was."""
    SURE = 1.5
    """Limits of noise that a lost reward must be beyond: more than a warning hangs on it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("reward", settings)
        self._normal = settings.normal(settings.reward_window, of_medians=False)
        self._rewards: deque[float] = deque(maxlen=settings.reward_window)
        self._falling = Confirmed(settings.confirm, settings.release)
        self._confirmed, self._half_gone = (Confirmed(2 * settings.confirm, settings.release) for _ in range(2))
        self.mean = math.nan
        """Of the last rewards; NaN before there are enough."""
        self.peak = -math.inf
        self.fall = 0.0
        """How far below its peak, in limits: the smaller of the statistical and the practical one."""
        self._origin = self._start = 0.0
        self._seen = False
        self._last_five: deque[float] = deque(maxlen=settings.window)
        self._best = self._best_least = -math.inf
        self.halved = False
        """Half of the best few rewards is gone, noise or not: counts where the policy is plainly gone."""
        self._same, self._last, self._lowest = 0, math.nan, math.inf

    @property
    def ready(self) -> bool:
        """Enough rewards were seen to judge by."""
        return self._normal.ready

    @property
    def since_fall(self) -> int | None:
        """Since when it is below its peak by more than noise; None if it is not."""
        return self._falling.since

    @property
    def half_gone(self) -> bool:
        """Half of what there is to lose is gone, by more than noise: enough where other signs say the same."""
        return self._half_gone.since is not None

    @property
    def emptied(self) -> bool:
        """Nine tenths of the best few rewards are gone, and each of the last ones is below each of those.

        Only for rewards that are never clearly negative: for others it is not known what nothing is.
        """
        little = (1 - self.NEARLY_ALL) * self._best
        return self._lowest > -little and self.mean < little and max(self._rewards) < self._best_least

    @property
    def stuck(self) -> bool:
        """For twice `reward_window` steps exactly the lowest value that it ever had, and it began higher."""
        long = self._same >= 2 * self.settings.reward_window
        return long and self._last <= self._lowest < self._start

    @property
    def stirred(self) -> bool:
        """It falls or is lost, or is about to, or has been stuck."""
        return self._falling.active or self._confirmed.active or self._half_gone.active or self.stuck or self.emptied

    @property
    def gaining(self) -> bool:
        """Above where the run began, by more than noise, and not falling."""
        gained = self.mean - self._start
        return (
            self.fall < 1.0
            and gained > self._normal.limits.rise * self._normal.spread
            and gained > self.FALL * self._stake
        )

    @property
    def falling(self) -> bool:
        """Below its peak by more than noise."""
        return self._falling.since is not None

    @property
    def _stake(self) -> float:
        """What there is to lose; > 0."""
        return max(self.peak - self._origin, abs(self.peak), 1e-12) if self.peak <= 0 else self.peak - self._origin

    def update(self, observation: Observation, *, learn: bool = True) -> None:
        """Take one step in; a step without a reward (reuse of a batch) says nothing."""
        reward = observation.reward
        if reward is None or not math.isfinite(reward):
            return
        self._seen = True
        self._same = self._same + 1 if reward == self._last else 0
        self._last, self._lowest = reward, min(self._lowest, reward)
        self._rewards.append(reward)
        self._last_five.append(reward)
        now = sum(self._last_five) / len(self._last_five)
        if len(self._last_five) == self._last_five.maxlen:
            if now > self._best:
                self._best, self._best_least = now, min(self._last_five)
            worth = self._best - min(self._lowest, 0.0) or 1.0
            self.halved = self._best - now > self.LOST * worth
        if self._normal.learning:
            self._normal.add(reward, learn=learn)
        if len(self._rewards) < self.settings.reward_window:
            return
        self.mean = sum(self._rewards) / self.settings.reward_window
        if self.peak == -math.inf:
            self._origin, self._start = min(0.0, self.mean), self.mean
        self.peak = max(self.peak, self.mean)
        if self._normal.ready:
            drop, noise = self.peak - self.mean, self._normal.limits.drawdown * self._normal.spread
            self.fall = min(drop / noise, drop / (self.FALL * self._stake))
            self._falling.update(self.fall >= 1.0, observation.step)
            gone = drop > self.LOST * self._stake or drop > max(
                self.BELOW * self._stake, 1.25 * (self.peak - self._start)
            )
            self._half_gone.update(self.fall >= 1.0 and gone, observation.step)
            self._confirmed.update(drop > self.SURE * noise and gone, observation.step)

    def result(self) -> tuple[Check, Evidence | None]:
        """Reward and peak in words."""
        size = self.settings.reward_window
        if not self._seen:
            return Check(self.name, "skipped", "needs reward"), None
        if len(self._rewards) < size:
            return Check(self.name, "skipped", f"needs {size} steps with reward"), None
        words = f"mean of the last {size} rewards {self.mean:.3g}, at its peak {self.peak:.3g}"
        since = self.since if self.speaks else self._falling.since
        if since is None:
            return Check(self.name, "ok", words + self.was), None
        noise = self._normal.limits.drawdown * self._normal.spread
        share = self.LOST if self.speaks else self.FALL
        limit = self.peak - max(noise, share * self._stake)
        evidence = Evidence("reward", self.mean, self.peak, limit, since, f"{PAPER}, Fig. 2")
        if self.speaks:
            return Check(self.name, "critical", f"{words}, half of it lost since step {since}"), evidence
        return Check(self.name, "warning", f"{words}, falling since step {since} (limit {limit:.3g})"), evidence
