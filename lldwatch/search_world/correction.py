"""What may be added to GRPO's loss so that the policy keeps what it can: LLDS, and what one compares it with.

Why it exists: the loop stays readable, and a run without any of it is bit for bit the run of the plain loop.

The control `replay_likelihood` imitates the replayed responses without asking whether they fell: it tells how much of a
rescue is LLDS, and how much is having earlier correct responses in the batch at all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.llds import GATES, Gate, llds_loss
from lldwatch.references import LaggedPolicy, Replay
from lldwatch.search_world.objective import kl_penalty, negative_log_likelihood
from lldwatch.search_world.policy import Policy
from lldwatch.search_world.rollout import Rollout

Reference = Literal["old", "lagged", "replay", "old and replay"]
REFERENCES = ("old", "lagged", "replay", "old and replay")


@dataclass(frozen=True)
class Correction:
    """Terms beside GRPO's loss; by default there is none.

    Attributes:
        llds: coefficient of LLDS from the first step on; 0 = none.
        gate: of LLDS, see `lldwatch.llds`.
        reference: what LLDS compares with: the mini-batch's own old log-probs, the mini-batch under the policy `lag`
            updates ago, earlier correct responses (`lldwatch.references`), or both the first and the last.
        lag: updates, of the lagged policy.
        replay_batches: replayed are responses of so many rollout batches.
        replay_share: replayed responses beside each mini-batch, as a share of its responses.
        replay_likelihood: the control: negative log-likelihood of the replayed responses instead of LLDS.
        kl: coefficient of the KL penalty to the base policy.
    """

    llds: float = 0.0
    gate: Gate = "action"
    reference: Reference = "old"
    lag: int = 16
    replay_batches: int = 3
    replay_share: float = 1.0
    replay_likelihood: bool = False
    kl: float = 0.0

    def __post_init__(self) -> None:
        for name in ("llds", "kl"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected a coefficient of at least 0")
        for name, known in (("gate", GATES), ("reference", REFERENCES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if not self.replay_share > 0:
            raise InputError(f"replay_share is {self.replay_share}, expected a share above 0")


class Terms:
    """The terms in the course of a training.

    Args:
        policy: that is trained; as it is now it is the base policy.
        correction: which terms.
        seed: of the draws from the replayed responses.
        coefficient: asked at the beginning of each step for that of LLDS; None: the correction's own.

    Attributes:
        coefficient: of LLDS in this step.
        scalars: what the last update did, as fields of `Observation`.
        extra_passes: responses of this step scored for these terms alone, with or without gradient.
    """

    def __init__(
        self, policy: Policy, correction: Correction, seed: int, coefficient: Callable[[], float] | None
    ) -> None:
        self._policy, self._settings = policy, correction
        self._asked, self._said = coefficient or (lambda: correction.llds), bool(coefficient or correction.llds)
        self._lagged = LaggedPolicy(policy, correction.lag) if correction.reference == "lagged" else None
        self._replay = Replay(correction.replay_batches, seed=seed) if "replay" in correction.reference else None
        self._base = copy.deepcopy(policy) if correction.kl else None
        self._base_log_probs = torch.empty(0)
        self.coefficient = 0.0
        self.scalars: dict[str, Tensor | float] = {}
        self.extra_passes = 0

    def price(self, mini_batch: int, updates: int) -> str | None:
        """What the references cost, in words; None if they cost nothing.

        Args:
            mini_batch: responses in one.
            updates: optimizer updates a step.
        """
        if self._replay is not None:
            return self._replay.price(self._drawn(mini_batch), updates)
        return None if self._lagged is None else self._lagged.price()

    def begin_step(self, batch: Rollout) -> None:
        """Before the first update on a rollout batch."""
        self.coefficient, self.extra_passes = self._asked(), 0
        if self._base is not None:
            self.extra_passes += len(batch.tokens)
            with torch.no_grad():
                self._base_log_probs = self._base.log_probs(batch.tokens)[0]

    def of(self, part: Rollout, rows: Tensor, log_probs: Tensor, advantages: Tensor) -> Tensor | None:
        """What is added to the loss of a mini-batch, scalar; None: nothing is.

        Args:
            part: the mini-batch.
            rows: (b,) int64, where it stands in the rollout batch.
            log_probs: (b, T) float, nats, with gradient.
            advantages: (b,) float.
        """
        self.scalars, added = {"llds_coefficient": self.coefficient} if self._said else {}, []
        if self.coefficient:
            held = self._held(part, log_probs, advantages)
            if held:
                llds = torch.stack(held).sum()
                self.scalars["llds_loss"] = llds.detach()
                added.append(self.coefficient * llds)
        if self._base is not None:
            kl = kl_penalty(log_probs, self._base_log_probs[rows], part.response_mask)
            self.scalars["kl"] = kl.detach()
            added.append(self._settings.kl * kl)
        return torch.stack(added).sum() if added else None

    def after_update(self) -> None:
        """After each optimizer update."""
        if self._lagged is not None:
            self._lagged.after_update()

    def end_step(self, batch: Rollout) -> None:
        """After the last update on a rollout batch. What may be replayed is kept also while the coefficient is 0."""
        if self._replay is not None:
            correct = batch.rewards > 0.5
            self._replay.take(self._score, {"tokens": batch.tokens}, response_mask=batch.response_mask, correct=correct)

    def _held(self, part: Rollout, log_probs: Tensor, advantages: Tensor) -> list[Tensor]:
        """The terms before their coefficient, one for each reference that there is by now."""
        settings, held = self._settings, list[Tensor]()
        if settings.reference != "replay":
            old = part.old_log_probs
            if self._lagged is not None:
                old = self._lagged.log_probs(self._score, {"tokens": part.tokens}, part.response_mask)
            held.append(llds_loss(log_probs, old, advantages, part.response_mask, gate=settings.gate).loss)
        earlier = None if self._replay is None else self._replay.draw(self._drawn(len(part.rewards)))
        if earlier is None:
            return held
        now, mask = self._score(earlier.batch), earlier.response_mask
        if settings.replay_likelihood:
            held.append(negative_log_likelihood(now, mask))
        else:
            held.append(llds_loss(now, earlier.log_probs, None, mask, gate=settings.gate, preserve=mask).loss)
        return held

    def _score(self, batch: Mapping[str, Tensor]) -> Tensor:
        self.extra_passes += len(batch["tokens"])
        return self._policy.log_probs(batch["tokens"])[0]

    def _drawn(self, mini_batch: int) -> int:
        return max(round(self._settings.replay_share * mini_batch), 1)
