"""The actor of a verl training, as one process sees it: its steps, updates and losses go to a `Monitor`.

A step is a rollout batch with all its updates. Nothing here talks to other processes but the beginning of the first
step and the end of each, which every process of the actor comes to: never the loss, which some of them do not call.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from lldwatch.errors import RanksError
from lldwatch.forward import PREFIX
from lldwatch.hooks import per_response
from lldwatch.integrations import verl_loss as losses
from lldwatch.integrations.environment import Wanted
from lldwatch.integrations.guard import Guard
from lldwatch.integrations.loss_hook import Correction, of_llds, open_run, say
from lldwatch.integrations.verl_batch import Rollout
from lldwatch.monitor import Monitor
from lldwatch.ranks import Ranks
from lldwatch.schema import Probes, Responses

log = logging.getLogger("lldwatch")

METRICS = "actor/lldwatch_"
"""Before the names of our metrics; verl's driver sorts the actor's by this prefix."""

TIMEOUT_S = 120.0
"""For the slowest process, at the end of a step; verl's own collectives give up after 600."""


class Rescoring(Protocol):
    """Re-scores responses before and after a step's updates, as `verl_probe.Rescoring` does."""

    def before(self) -> None:
        """Before the first update."""

    def after(self) -> Probes:
        """After the last one."""


@dataclass(slots=True)
class Micro:
    """What is known of the micro-batch whose loss is computed, beside the loss's own arguments.

    Attributes:
        rows: (responses,) their numbers in the rollout batch; None: not known.
        entropy: (responses, tokens), nats; None: the trainer did not compute it.
    """

    rows: Tensor | None = None
    entropy: Tensor | None = None


@dataclass(slots=True)
class _Step:
    """The step that is being made.

    Attributes:
        rollout: the part of the batch that this process trains on.
        holds: its rows are recorded by this process.
        number: of the step; None: one more than the last.
        rescoring: of its responses; None: there are no probes.
        updates: made so far.
        losses: that came by.
    """

    rollout: Rollout
    holds: bool
    number: int | None
    rescoring: Rescoring | None = None
    updates: int = 0
    losses: int = 0


class Actor:
    """Watches what this process trains; nothing is opened before its first step.

    Args:
        wanted: what the environment asks for.
        trainer: its name, for `run.json`.

    Attributes:
        guard: keeps what goes wrong in here away from the training.
        told: parts of the loss's micro-batch come through `micro_batch`; a loss without one is none of the actor's.
        before_steps: to be called at the beginning of each step.
        found: what of verl is watched, in words.
    """

    def __init__(self, wanted: Wanted, trainer: str) -> None:
        self.guard, self.told = Guard(), False
        self.before_steps = list[Callable[[], object]]()
        self.found = list[str]()
        self._wanted, self._trainer = wanted, trainer
        self._monitor: Monitor | None = None
        self._correction: Correction | None = None
        self._refused = self._in_loss = False
        self._said = set[str]()
        self._step: _Step | None = None
        self._micro: Micro | None = None

    def begin(
        self, rollout: Rollout, config: Mapping[str, Any], *, holds: bool = True, step: int | None = None
    ) -> bool:
        """A rollout batch is there. Every process of the actor must call it.

        Args:
            rollout: the part of it that this process trains on.
            config: of the trainer, for `run.json`.
            holds: the rows are to be recorded by this process, and not by another that has the same ones.
            step: its number; None: one more than the last.

        Returns:
            Whether the step is watched.
        """
        self._open(config)
        if self._monitor is None:
            return False
        self._step = _Step(rollout, holds, step)
        if self._correction is not None:
            self._correction.step_ended()  # the one before, however it ended
        if holds and rollout.size:
            rollout.columns.setdefault("uid", torch.from_numpy(self._monitor.new_uids(rollout.size)))
        for lack in rollout.missing:
            self.say_once(f"verl gives no {lack}")
        for prepare in self.before_steps:
            prepare()
        return True

    def rescore(self, rescoring: Rescoring | None) -> None:
        """Re-score responses in the step that has begun; before its first update."""
        if self._step is not None and rescoring is not None:
            self._step.rescoring = rescoring
            self.guard.run("re-scoring", rescoring.before)

    @contextmanager
    def micro_batch(self, micro: Micro | None) -> Iterator[None]:
        """In the block the policy loss of this micro-batch is computed."""
        self._micro = micro or Micro()
        try:
            yield
        finally:
            self._micro = None

    def saw(self, micro: Micro) -> None:
        """The next policy loss is of this micro-batch."""
        self._micro = micro

    def around_loss(self, name: str, base: Callable[..., Any]) -> Callable[..., Any]:
        """A policy loss that is watched: what it returns is passed on, with LLDS added while that is switched on."""

        @functools.wraps(base)
        def policy_loss(*args: Any, **kwargs: Any) -> Any:
            if self._in_loss or not torch.is_grad_enabled():  # of another loss, or of an evaluation
                return base(*args, **kwargs)
            self._in_loss = True
            try:
                result = base(*args, **kwargs)
            finally:
                self._in_loss = False
            micro, self._micro = self._micro, None
            if self._step is None or (self.told and micro is None):
                return result
            added = self.guard.run("reading the policy loss", lambda: self._take(name, args, kwargs, micro or Micro()))
            return result if added is None else losses.with_added(result, added)

        policy_loss.lldwatch = True  # type: ignore[attr-defined]  # a mark
        return policy_loss

    def updated(self, grad_norm: Any) -> None:
        """One optimizer update was made.

        Args:
            grad_norm: before clipping; None: not known.
        """
        step = self._step
        if self._monitor is None or step is None:
            return
        self._monitor.update(grad_norm=grad_norm)
        step.updates += 1
        if self._correction is not None:
            self._correction.updated()

    def end(self, scalars: Mapping[str, Any]) -> dict[str, float]:
        """The rollout batch has been trained on. Every process of the actor must call it.

        Args:
            scalars: fields of `Observation`.

        Returns:
            Metrics for verl's own loggers.
        """
        step, self._step = self._step, None
        if self._monitor is None or step is None:
            return {}
        if step.rescoring is not None:
            probes = self.guard.run("re-scoring", step.rescoring.after)
            if step.holds and probes is not None:
                self._monitor.probe(probes)
        if step.holds and not step.losses:
            self.say_once("no policy loss of verl's registry was called in a step: no responses, and LLDS cannot act")
        coefficient = self._monitor.llds_coefficient
        self._monitor.step(step.number, updates_per_batch=step.updates or None, **scalars)
        forwarded = {name.removeprefix(PREFIX): value for name, value in self._monitor.metrics().items()}
        return {f"{METRICS}{name}": value for name, value in {"llds_coefficient": coefficient, **forwarded}.items()}

    def abandon(self) -> None:
        """The training raised in the middle of a step."""
        self._step = None

    def say_once(self, words: str) -> None:
        """To whoever started the training, and as an event of the run."""
        if words in self._said:
            return
        self._said.add(words)
        say_first(words)
        if self._monitor is not None and is_first():
            self._monitor.event("attach", words)

    def _open(self, config: Mapping[str, Any]) -> None:
        if self._monitor is not None or self._refused:
            return
        wanted = self._wanted
        many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        try:
            ranks = Ranks(timeout_s=TIMEOUT_S) if many else None
            self._monitor = open_run(self._trainer, wanted, ranks=ranks, config=config)
        except RanksError as error:
            say(f"{error}: nothing is watched, the training goes on")
        if self._monitor is None:
            self._refused = True
            return
        self._correction = Correction(self._monitor)
        self.guard.monitor = self._monitor
        self.say_once(f"records {', '.join(self.found)} into {wanted.run}")
        self.say_once(of_llds(wanted, "from the second update on a rollout batch on (actor.ppo_mini_batch_size)"))
        if (wanted.reference or "old") != "old":
            self.say_once(f"LLDWATCH_REFERENCE={wanted.reference}: in verl LLDS holds on to the old log-probs alone")

    def _take(self, name: str, args: Any, kwargs: Mapping[str, Any], micro: Micro) -> Tensor | None:
        """Record the micro-batch; what is to be added to its loss, None while LLDS is off."""
        step = self._step
        assert self._monitor is not None
        assert self._correction is not None
        assert step is not None
        step.losses += 1
        call = losses.call_of(name, args, kwargs)
        if step.holds:
            self.guard.run("recording a micro-batch", lambda: self._observe(step, call, micro))
        coefficient = self._monitor.llds_coefficient
        total = self._correction.token_sum(call.log_probs, call.old_log_probs, call.advantages, call.mask)
        return None if total is None else coefficient * total / losses.divisor(call)

    def _observe(self, step: _Step, call: losses.Call, micro: Micro) -> None:
        assert self._monitor is not None
        if micro.entropy is None:
            self.say_once("verl gives no entropy: set actor_rollout_ref.actor.calculate_entropy=True to have it")
        if micro.rows is None:
            self.say_once("verl gives no way to tell the responses of a micro-batch: no rewards, no prompts")
        known: dict[str, Any] = step.rollout.of(micro.rows, call.log_probs.device)
        if "rewards" in known:
            known["correct"] = known["rewards"] > self._wanted.correct_above
        rows = per_response(
            call.log_probs,
            call.old_log_probs,
            call.mask,
            advantages=call.advantages,
            entropy=micro.entropy,
            clip_range=call.clip_range,
            **known,
        )
        self._monitor.observe(_written(rows))


def _written(rows: Responses) -> Responses:
    """Without responses that have no policy token: verl fills a batch up with such."""
    if (waiting := rows.pending) is not None:
        return rows.having(pending=lambda: _written(waiting()))
    if rows.error is not None or rows.tokens is None or rows.tokens.all():
        return rows
    own = {name: column[rows.tokens > 0] for name, column in rows.columns().items() if column is not None}
    return replace(rows, **own).having(companions=rows.companions)


def is_first() -> bool:
    """This process is the only one, or the first of its training."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def say_first(words: str) -> None:
    """To the log and to the terminal, by one process; verl hides what a plugin says at lower levels."""
    log.info("lldwatch: %s", words)
    if is_first():
        say(words)
