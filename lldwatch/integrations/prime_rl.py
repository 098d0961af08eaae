"""lldwatch in prime-rl: a custom loss that is prime-rl's own loss, watched.

```toml
[trainer.loss]
type = "custom"
import_path = "lldwatch.integrations.prime_rl.loss"
kwargs = { dead_zone = 0.1 }        # and the fields of prime-rl's DefaultLossConfig
```

and `LLDWATCH_RUN=/shared/runs/search LLDWATCH_LLDS=auto` in the environment of the trainer's processes; without
`LLDWATCH_RUN` it is prime-rl's loss and nothing else.

prime-rl calls the loss once for each sample and divides the sum by the tokens of the whole step: LLDS is a sum over
tokens. The old log-probs are those of the inference engine, up to some steps old: LLDS acts in the only update of a
step, and needs a dead zone, within which a difference counts as rounding.

The loss is not told when a step ends. Each step, on every rank, prime-rl calls `Tensors.compute_stats` after the
update: there the step is closed, ranks speak with each other, and stage and risk go into prime-rl's own logs. It is
wrapped when this module is imported, the one moment that no rank misses: one without RL samples never calls the loss.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lldwatch.errors import InputError, LldwatchError
from lldwatch.hooks import per_response
from lldwatch.integrations.environment import Wanted, wanted
from lldwatch.integrations.guard import Guard
from lldwatch.integrations.loss_hook import (
    ENGINE_NOISE,
    NO_HEADLINE,
    Correction,
    all_ranks,
    announce,
    of_llds,
    open_run,
    say,
)
from lldwatch.monitor import Monitor

BASE = "prime_rl.trainer.rl.loss.default_loss_fn"
CONFIG = "prime_rl.configs.trainer.DefaultLossConfig"
STATS = "prime_rl.trainer.utils.Tensors"

_AT_ONCE = 32
"""Samples that are reduced to rows at a time: filled up to the longest, they lie beside the training's activations."""

_LOGGED = {"loss": "loss/mean", "entropy": "entropy/all/mean", "rollout_kl": "mismatch_kl/all/mean"}
"""Field of `Observation` -> what prime-rl calls it."""


def loss(
    inputs: Any,
    *,
    base: str = BASE,
    config: str | None = CONFIG,
    dead_zone: float = ENGINE_NOISE,
    context_parallel: int = 1,
    **settings: Any,
) -> Any:
    """The loss of one sample, for prime-rl's `[trainer.loss]`.

    Args:
        inputs: prime-rl's `LossInputs`.
        base: the loss function that is watched; "prime_rl.trainer.rl.loss.ipo_loss_fn", or one of the user's own.
        config: the class of its second argument, "prime_rl.configs.trainer.IPOLossConfig"; None: it has none, and takes
            the settings as keywords.
        dead_zone: nats of a token; a difference from the inference engine within it does not count as a fall.
        context_parallel: prime-rl's `model.cp`; the ranks of such a group hold the same samples, one of them records.
        settings: of the loss function that is watched.

    Returns:
        Its `LossOutputs`, with LLDS added while it is switched on.

    Raises:
        InputError: there is no such loss function, or its settings are wrong.
    """
    key = (base, config, repr(sorted(settings.items())))
    if key not in _BASES:
        _BASES[key] = _watched_loss(base, config, settings)
    result = _BASES[key](inputs)
    return result if _watch is None else _watch.around(inputs, result, dead_zone, context_parallel)


_BASES: dict[tuple[str, str | None, str], Callable[[Any], Any]] = {}


def _watched_loss(base: str, config: str | None, settings: dict[str, Any]) -> Callable[[Any], Any]:
    """The loss function of one sample that lldwatch watches."""
    try:
        own, kind = _imported(base), None if config is None else _imported(config)
    except InputError as error:
        words = "name prime-rl's loss function with base, and its settings' class with config, in the kwargs of"
        raise InputError(f"{error}: {words} [trainer.loss]") from error
    if kind is None:
        return lambda inputs: own(inputs, **settings)
    try:
        made = kind(**settings)
    except (TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{config} does not take {settings} ({why}): see prime-rl's [trainer.loss]") from error
    return lambda inputs: own(inputs, made)


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"looked for {path}, found none ({error})") from error


class Watch:
    """One process of a prime-rl training that is watched.

    Args:
        settings: what the environment asks for.
    """

    def __init__(self, settings: Wanted) -> None:
        self._settings, self._guard = settings, Guard()
        self._monitor: Monitor | None = None
        self._correction: Correction | None = None
        self._samples: list[tuple[Tensor, ...]] = []
        self._opened = False

    def around(self, inputs: Any, result: Any, dead_zone: float, context_parallel: int) -> Any:
        """What prime-rl's loss of a sample returned, with LLDS while it is switched on; the sample is kept for its row.

        Args:
            inputs: prime-rl's `LossInputs`.
            result: prime-rl's `LossOutputs`.
            dead_zone: nats of a token.
            context_parallel: ranks that hold the same samples.
        """
        if not torch.is_grad_enabled():
            return result
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        if rank % context_parallel == 0:
            self._guard.run("reading the loss", lambda: self._keep(inputs))
        added = self._guard.run("adding LLDS", lambda: self._llds(inputs, dead_zone))
        return result if added is None else dataclasses.replace(result, loss=result.loss + added)

    def around_stats(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """prime-rl brings the numbers of a step together, on every rank, after its update."""

        @functools.wraps(own)
        def compute_stats(*args: Any, **kwargs: Any) -> Any:
            stats = own(*args, **kwargs)
            if not self._opened:
                self._opened = True
                self._guard.run("opening the run", self._open)
            samples, self._samples = self._samples, []
            if self._monitor is None or not isinstance(stats, dict):
                return stats
            self._guard.run("recording the samples", lambda: self._observe(samples))
            self._guard.run("closing the step", lambda: self._close(stats))
            return {**stats, **(self._guard.run("forwarding to the logger", self._monitor.metrics) or {})}

        return compute_stats

    def _keep(self, inputs: Any) -> None:
        if self._opened and self._monitor is None:
            return  # the run could not be had
        kept = (inputs.trainer_logprobs, inputs.inference_logprobs, inputs.advantages, inputs.loss_mask)
        self._samples.append(tuple(part.detach() for part in kept))

    def _llds(self, inputs: Any, dead_zone: float) -> Tensor | None:
        """A sum over tokens, as prime-rl wants it; its sample is a batch of one."""
        monitor = self._monitor
        if monitor is None or not monitor.llds_coefficient:
            return None
        if self._correction is None:
            self._correction = Correction(monitor, dead_zone)
        penalty = self._correction.token_sum(
            inputs.trainer_logprobs[None],
            inputs.inference_logprobs[None],
            inputs.advantages[None],
            inputs.loss_mask[None],
        )
        return None if penalty is None else monitor.llds_coefficient * penalty

    def _open(self) -> None:
        """At the end of the first step: before it no moment is common to all ranks."""
        ranks = all_ranks()
        self._monitor = self._guard.monitor = open_run("prime-rl", self._settings, ranks=ranks)
        if self._monitor is not None:
            announce(self._monitor, _found(self._settings), rank=0 if ranks is None else ranks.rank)

    def _observe(self, samples: list[tuple[Tensor, ...]]) -> None:
        assert self._monitor is not None
        some = [sample for sample in samples if bool(sample[3].any())]  # prime-rl fills ranks up with empty ones
        for start in range(0, len(some), _AT_ONCE):
            columns = zip(*some[start : start + _AT_ONCE], strict=True)
            new, old, advantages, mask = (pad_sequence(list(parts), batch_first=True) for parts in columns)
            self._monitor.observe(per_response(new, old, mask, advantages=advantages))

    def _close(self, stats: dict[str, Any]) -> None:
        """Every rank comes here, and none may leave before `step`."""
        assert self._monitor is not None
        told = {field: stats[name] for field, name in _LOGGED.items() if name in stats}
        if self._monitor.observation is None and self._settings.llds.mode != "off":
            told["llds_coefficient"] = 0.0  # before there was a run nobody knew of one
        self._monitor.step(**told)


def _found(settings: Wanted) -> list[str]:
    """What is recorded, and whether LLDS can act, for the start."""
    return [
        "attached to prime-rl: one row a sample; prime-rl's loss knows neither reward nor prompt nor gradient norm, a "
        "sample with a positive advantage counts as correct",
        NO_HEADLINE,
        of_llds(settings, "against the inference engine's log-probs, from the second step on"),
    ]


def begin() -> Watch | None:
    """Wrap prime-rl's `Tensors.compute_stats`, if the environment asks for a run; None: nothing is watched."""
    try:
        settings = wanted()
        if settings is None:
            return None
        tensors = _imported(STATS)
        own = tensors.compute_stats
    except (LldwatchError, AttributeError) as error:
        say(f"{error}: nothing is watched, the loss is prime-rl's own ({STATS}.compute_stats ends a step)")
        return None
    watch = Watch(settings)
    tensors.compute_stats = watch.around_stats(own)
    return watch


_watch = begin()
