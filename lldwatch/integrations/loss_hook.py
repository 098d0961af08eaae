"""What the integrations share that live in and around a trainer's loss function: the run, and the term.

The run is opened by all ranks or by none: one that is left out would keep the others waiting at the end of each step.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lldwatch.course import Together
from lldwatch.errors import RanksError
from lldwatch.integrations.environment import Wanted
from lldwatch.llds import llds_loss
from lldwatch.monitor import Monitor
from lldwatch.ranks import Ranks

ENGINE_NOISE = 0.1
"""Nats of a token, the dead zone of LLDS where the old log-probs are those of an inference engine. Chosen, not
measured: kernels and rounding differ by some hundredths of a nat for most tokens."""

NO_HEADLINE = "nothing is re-scored here: cross_update_change, the headline, is not measured"


def say(words: str) -> None:
    """One line for whoever started the training."""
    print(f"lldwatch: {words}", file=sys.stderr, flush=True)


def announce(monitor: Monitor, lines: Iterable[str], *, rank: int = 0) -> None:
    """What the user should know at the start: on stderr and in the run, by rank 0."""
    if rank == 0:
        for line in lines:
            say(line)
            monitor.event("attach", line)


def of_llds(wanted: Wanted, can_act: str) -> str:
    """One line about LLDS for the start.

    Args:
        wanted: what the environment asks for.
        can_act: whether, and when, the old log-probs differ from the current ones.
    """
    if wanted.llds.mode == "off":
        return "LLDS off: nothing is added to the loss (LLDWATCH_LLDS=on or auto)"
    reference = wanted.reference or "old"
    instead = (
        "" if reference == "old" else f"; LLDWATCH_REFERENCE={reference} is not for here: it holds on to the old ones"
    )
    return f"LLDS {wanted.llds.mode}, strength {wanted.llds.strength:g}: {can_act}{instead}"


def all_ranks() -> Ranks | None:
    """All processes of the training; None: there is only one. Each process must call it.

    Raises:
        RanksError: they do not find each other.
    """
    started = dist.is_available() and dist.is_initialized()
    return Ranks() if started and dist.get_world_size() > 1 else None


def open_run(
    trainer: str, wanted: Wanted, *, ranks: Together | None = None, config: Mapping[str, Any] | None = None
) -> Monitor | None:
    """The run that the environment asks for; None, and one line on stderr, if it cannot be had. Nothing is raised.

    Args:
        trainer: its name, for `run.json`.
        wanted: what the environment asks for.
        ranks: of a distributed training: each of them must call this.
        config: for `run.json`.
    """
    monitor, why = None, "another rank could not open the run"
    try:
        monitor = Monitor(
            wanted.run,
            trainer=trainer,
            config=config,
            resume=wanted.resume,
            llds=wanted.llds,
            ranks=ranks,
            alerts=wanted.alerts,
        )
    except Exception as error:  # of our own tree most of all
        why = str(error) or type(error).__name__
    if ranks is not None and not _all_have(ranks, monitor is not None) and monitor is not None:
        monitor.close()
        monitor = None
    if monitor is not None and wanted.stop_on and (ranks is None or ranks.rank == 0):
        say(f"LLDWATCH_STOP_ON: {trainer} cannot be asked to stop: let LLDWATCH_ALERT_COMMAND end the job instead")
    if monitor is None and not why.startswith("on rank 0"):
        say(f"{why} (LLDWATCH_RUN, LLDWATCH_RESUME=1): nothing is watched, the training goes on")
    return monitor


def _all_have(ranks: Together, mine: bool) -> bool:
    try:
        return bool(ranks.decide(mine, all))
    except RanksError as error:
        say(str(error))
        return False


class Correction:
    """LLDS in a trainer's loss, with a dead zone for what is noise.

    The old log-probs come from a forward pass of their own (other kernels, other padding, no dropout), and a token's
    gradient does not shrink with its change. Before the first update on a rollout batch the policy is the old one, so
    that all changes are noise: they are measured, the batch gets no term, and in the updates after it what does not
    exceed them counts as none. One token in a thousand may be farther off, or a single one would decide.

    Args:
        monitor: has the coefficient, and is told what the term did.
        dead_zone: nats of a token; None: measured as said above.
    """

    def __init__(self, monitor: Monitor, dead_zone: float | None = None) -> None:
        self._monitor, self._given = monitor, dead_zone
        self._noise: float | None = None
        self._updated = False

    def token_sum(
        self, log_probs: Tensor, old_log_probs: Tensor | None, advantages: Tensor, response_mask: Tensor
    ) -> Tensor | None:
        """Sum of the penalties over the tokens, before the coefficient; None: nothing is to be added.

        Args:
            log_probs: (batch, tokens), nats, with gradient.
            old_log_probs: (batch, tokens), nats; None: the batch is on-policy.
            advantages: (batch,) or (batch, tokens).
            response_mask: (batch, tokens), 1 on policy tokens.
        """
        if not self._monitor.llds_coefficient:
            return None
        dead_zone, acts = self._dead_zone(log_probs, old_log_probs, response_mask)
        old = log_probs.detach() if old_log_probs is None else old_log_probs
        term = llds_loss(
            log_probs if acts else log_probs.detach(),
            old,
            advantages,
            response_mask,
            dead_zone=dead_zone,
            normaliser="global_tokens",
            global_tokens=1.0,
        )
        tokens = (response_mask != 0).sum().clamp(min=1)
        self._monitor.llds(term._replace(loss=term.loss.detach() / tokens))
        return term.loss if acts else None

    def updated(self) -> None:
        """An optimizer update was made."""
        self._updated = True

    def step_ended(self) -> None:
        """The next rollout batch begins."""
        self._updated, self._noise = False, None

    def _dead_zone(self, log_probs: Tensor, old: Tensor | None, mask: Tensor) -> tuple[float, bool]:
        """In nats, and whether a term can act."""
        if old is not None and self._given is not None:
            return self._given, True
        if old is not None and not self._updated:
            self._noise = max(self._noise or 0.0, noise_of(log_probs, old, mask))
        measured = old is not None and self._updated and self._noise is not None
        return (self._noise or 0.0, True) if measured else (math.inf, False)


def identities(prompts: Iterable[bytes]) -> Tensor:
    """(prompts,) int64, the same for the same prompt on all ranks and in all processes."""
    digests = [hashlib.blake2b(prompt, digest_size=8).digest() for prompt in prompts]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


@torch.no_grad()
def noise_of(log_probs: Tensor, old_log_probs: Tensor, response_mask: Tensor) -> float:
    """|change| that at most one policy token in a thousand exceeds, nats. On a GPU this waits for the device.

    Args:
        log_probs: (batch, tokens), nats.
        old_log_probs: (batch, tokens), nats.
        response_mask: (batch, tokens), 1 on policy tokens.
    """
    changes = (log_probs.float() - old_log_probs.float()).abs()[response_mask != 0]
    return float(changes.topk(len(changes) // 1000 + 1).values[-1]) if len(changes) else 0.0
