"""All checks of a run together, and what they say when they are held against each other.

A single check can be fooled: each question here is asked of several, and what else could explain them is looked at
first (the confounders of each are named in its docstring).
"""

from __future__ import annotations

import math

from lldwatch.checks import SUSPECT, Finite, Reused, Settings, Starved, StepCheck
from lldwatch.displacement import DISPLACEMENTS, Displacement
from lldwatch.levels import LEVELS, GradNorm, Level
from lldwatch.reward_checks import Reward
from lldwatch.schema import Observation
from lldwatch.trends import Confirmed

CERTAIN = 0.1
"""Change of the logarithm of entropy, or of what correct responses cost, from which the policy is growing certain."""


class Signs:
    """The checks, by name, and the signs that are made of them.

    Args:
        settings: of the detector.

    Attributes:
        all: the checks in the order in which they are shown.
        levels: those about single signals, by name.
        displacements: those about responses that an update was not shown; the headline first.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.displacements = tuple(Displacement(of, settings) for of in DISPLACEMENTS)
        self.levels = {of.name: (GradNorm if of.signal == "grad_norm" else Level)(of, settings) for of in LEVELS}
        self._policy = [level for level in self.levels.values() if level.of.name != "equal_rewards"]
        self.reward, self.finite = Reward(settings), Finite(settings)
        self.starved, self.reused = Starved(settings), Reused(settings)
        self.all: tuple[StepCheck, ...] = (
            *self.displacements,
            *self.levels.values(),
            self.reused,
            self.starved,
            self.reward,
            self.finite,
        )
        self._joint = Confirmed(settings.confirm, settings.release)
        self._several = Confirmed(settings.confirm, settings.release)
        self._garbage = Confirmed(settings.confirm, settings.release)
        self._least_entropy = math.inf
        self._borne_out, self._lost = (Confirmed(1, settings.release) for _ in range(2))
        self._stirred, self._calm = False, True
        self._rate = self._top_rate = 0.0
        self.restarted: int | None = None
        """Step of the last restart that the learning rate shows."""
        self.healthy = True
        """Nothing has looked ill so far; from the first suspicion on nothing more is learnt as normal."""
        self.quiet = True
        """Nothing is near a limit, and nothing that was has yet to be given up."""
        self.bad: list[Level] = []
        """Levels on their bad side that nothing else explains."""

    def update(self, observation: Observation) -> None:
        """Take one step in."""
        step = observation.step
        self._look_for_restart(observation)
        for check in self.all:
            check.update(observation, learn=self.healthy)
        entropy = self.levels["entropy"].last
        self._least_entropy = min(self._least_entropy, entropy)
        self._garbage.update(entropy >= max(GARBAGE, 2 * self._least_entropy), step)
        fall = self.reward.fall
        if fall < SUSPECT:
            self._calm = True
        elif self._calm:
            self._calm = False
            for level in self._policy:
                level.before = level.change if level.ready else 0.0
        near = [level for level in self._policy if level.rise or level.fall]
        displaced = any(check.excess >= SUSPECT for check in self.displacements)
        suspicious = displaced or fall >= SUSPECT or self.reward.emptied
        self.quiet = not (near or suspicious or self._stirred or self.reward.stirred or self._garbage.active)
        if not self.quiet:
            self._weigh(near, step)
        if suspicious or self.bad:
            self.healthy = False

    def _weigh(self, near: list[Level], step: int) -> None:
        """Hold the signs against each other."""
        self.bad = [level for level in near if level.since is not None and not self._explained(level)]
        worst, fall = max((level.excess for level in self.bad), default=0.0), self.reward.fall
        # long responses are less certain ones: the two are one sign
        apart = sorted((level.excess for level in self.bad if level.of.signal != "response_length"), reverse=True)
        several = len(apart) > 1 and apart[0] + apart[1] >= SEVERAL and not self.reward.gaining
        self._several.update(several, step)
        self._joint.update(worst >= 1.0 and fall >= 1.0 and fall + worst >= JOINT, step)
        self._borne_out.update(self._displacement_borne_out(), step)
        self._lost.update(self._reward_lost(), step)
        together = (self._several, self._joint, self._borne_out, self._lost)
        displaced = any(check.speaks for check in self.displacements)
        self._stirred = bool(self.bad) or displaced or self.reward.stirred or any(sign.active for sign in together)

    def _look_for_restart(self, observation: Observation) -> None:
        """A training that was resumed warms its learning rate up again: what is normal is then learnt anew."""
        rate = observation.learning_rate
        if rate is None or not math.isfinite(rate):
            return
        if rate < 0.5 * self._rate and self._rate > 0.2 * self._top_rate:
            self.restarted = observation.step
            for level in self.levels.values():
                level.forget()
        self._rate, self._top_rate = rate, max(self._top_rate, rate)

    def _explained(self, level: Level) -> bool:
        """Whether something harmless explains that the likelihood of correct responses is low.

        Longer responses hold less likely tokens; harder prompts that become correct have less likely answers, while no
        single response loses likelihood: the probe tells the two apart.
        """
        if level.of.signal != "log_prob_correct":
            return False
        longer = self.levels["response_length"].rose is not None
        measured = self.displacements[0].measured
        return longer or (measured and self.displacements[0].excess < 0.5)

    @property
    def judges(self) -> bool:
        """At least one signal that a collapse shows in can be judged."""
        return self.reward.ready or self.displacements[0].measured or any(level.ready for level in self.levels.values())

    @property
    def growing_certain(self) -> bool:
        """The policy's responses have become clearly more likely: it found other correct answers, which is benign."""
        return self.levels["likelihood_of_correct"].change > CERTAIN or self.levels["entropy"].change < -CERTAIN

    @property
    def certainty_known(self) -> bool:
        """Entropy or likelihood have been measured for long enough to tell."""
        return self.levels["likelihood_of_correct"].ready or self.levels["entropy"].ready

    @property
    def displaced(self) -> list[Displacement]:
        """Displacements that nothing benign explains."""
        return [] if self.growing_certain else [check for check in self.displacements if check.speaks]

    @property
    def displaced_since(self) -> int | None:
        """Onset of the displacement; None while there is none that nothing benign explains."""
        if not self.displaced and not self.displacement_borne_out:
            return None
        return min((check.since for check in self.displacements if check.since is not None), default=None)

    @property
    def displacement_borne_out(self) -> bool:
        """Displaced, and a second sign says that it is an illness; until both are gone for some steps."""
        return self._borne_out.since is not None

    def _displacement_borne_out(self) -> bool:
        displaced = self.displaced
        if not displaced or not self.certainty_known:
            return False
        return displaced[-1] is not self.displacements[0] or bool(self.bad) or self.reward.falling

    @property
    def decaying(self) -> bool:
        """The reward falls, and another signal has left its warm-up on the bad side: together further than noise."""
        return (self._joint.since is not None and self.reward.falling) or self._several.since is not None

    @property
    def reward_lost(self) -> bool:
        """The reward is lost, and it is not the reward function alone that changed.

        A parser or an environment that breaks takes the reward and with it what is made of it, advantages and gradient,
        and leaves the policy as it is.
        """
        return self._lost.since is not None

    def _reward_lost(self) -> bool:
        if (self.reward.stuck and self._frozen) or (self.reward.halved and self._garbage.since is not None):
            return True
        both = self.reward.half_gone and (self.displacement_borne_out or self.decaying)
        if not (self.reward.speaks or self.reward.emptied or both):
            return False
        watched = [level for name, level in self.levels.items() if name in _OF_THE_POLICY and level.ready]
        if not watched:
            return True
        plain = self.reward.emptied and any(level.has_moved_plainly for level in watched)
        moved = any(level.has_moved or level in self.bad for level in watched)
        return plain or moved or any(check.speaks for check in self.displacements)

    @property
    def _frozen(self) -> bool:
        """Responses of a token or two, or no choice left: no policy, whatever it was before; needs no warm-up."""
        return self.levels["response_length"].last <= 2.0 or self.levels["entropy"].last <= 0.01


GARBAGE = 4.0
"""Entropy, nats per token, of a policy that chooses among more than 50 tokens each time: it writes no language any
more. Trained language models stay below 2; it must have doubled as well, since an untrained one begins there."""

JOINT = 3.0
"""Limits that a falling reward and a second sign must be beyond together: either alone is passed by noise at the stated
rate, and the two often together."""

SEVERAL = 4.0
"""Limits that the two worst signals must be beyond together where the reward gains nothing and does not fall yet."""

_OF_THE_POLICY = (
    "likelihood_of_correct",
    "entropy",
    "response_length",
    "kl",
    "clip_fraction",
    "rollout_mismatch",
    "format",
    "truncation",
)
