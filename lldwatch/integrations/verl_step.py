"""What the actors of all versions of verl have in common: the life of a step, its settings and its numbers."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lldwatch.integrations.environment import Wanted
from lldwatch.integrations.loss_hook import NO_HEADLINE
from lldwatch.integrations.verl_actor import Actor
from lldwatch.integrations.verl_batch import Rollout, number_rows, rollout_of

_CONFIG = (
    *("strategy", "ppo_mini_batch_size", "ppo_micro_batch_size", "ppo_micro_batch_size_per_gpu", "ppo_epochs"),
    *("clip_ratio", "clip_ratio_low", "clip_ratio_high", "loss_agg_mode", "entropy_coeff", "use_kl_loss"),
    *("kl_loss_coef", "state_masking"),
)
"""Settings of the actor that `run.json` is to tell."""

_SCALARS = {"loss": ("loss",), "learning_rate": ("lr", "actor/lr"), "kl": ("kl_loss", "actor/kl_loss")}
"""Field of `Observation` -> what verl calls it in an actor's metrics."""


def put_in_place(original: Any, changed: Any) -> None:
    """Put `changed` in the place of `original` in every module of verl that holds it, under whatever name.

    Args:
        original: a function that others may have imported already.
        changed: what they are to call instead.
    """
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] != "verl":
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, changed)


def read_rollout(actor: Actor, data: Any) -> Rollout:
    """What a batch says of its responses; whatever it is, the step begins, since other processes begin theirs.

    Args:
        actor: of this process.
        data: the batch; each of its rows gets a number.
    """

    def read() -> Rollout:
        number_rows(data)
        return rollout_of(data)

    return actor.guard.run("reading a rollout batch", read) or Rollout(0, {})


def watched_step(
    actor: Actor, train: Callable[[], Any], begin: Callable[[], bool], metrics_in: Callable[[Any], Any]
) -> Any:
    """Train on a rollout batch, and watch it; what the training returns or raises is passed on.

    Args:
        actor: of this process.
        train: the trainer's own function.
        begin: reads the batch; whether the step is watched.
        metrics_in: what `train` returned -> its metrics, a dict to which ours are added; None: it has none.
    """
    begun = actor.guard.run("beginning a step", begin)
    try:
        output = train()
    except BaseException:
        actor.abandon()
        raise

    def end() -> None:
        metrics = metrics_in(output)
        ours = actor.end(actor.guard.run("reading metrics", lambda: scalars_of(metrics)) or {})
        if isinstance(metrics, dict):
            metrics.update(ours)

    if begun:
        actor.guard.run("ending a step", end)
    return output


def counted(actor: Actor, base: Callable[..., Any]) -> Callable[..., Any]:
    """An optimizer step, bound or not, which returns the gradient norm before clipping."""

    @functools.wraps(base)
    def optimizer_step(*args: Any, **kwargs: Any) -> Any:
        norm = base(*args, **kwargs)
        actor.guard.run("counting an update", lambda: actor.updated(norm))
        return norm

    return optimizer_step


def scalars_of(metrics: Any) -> dict[str, float]:
    """Fields of `Observation` in an actor's metrics, which are numbers or one number an update."""
    found: dict[str, float] = {}
    if not isinstance(metrics, dict):
        return found
    for name, theirs in _SCALARS.items():
        given = next((metrics[key] for key in theirs if key in metrics), None)
        if name == "kl" and not isinstance(metrics.get("actor/pg_loss"), list):
            continue  # 0.7 adds it up over the updates, and has a 0 where there is none
        values = np.ravel(given) if isinstance(given, int | float | list) else np.empty(0)
        if values.size and values.dtype.kind in "fi":
            found[name] = float(values[-1] if name == "learning_rate" else values.mean())
    return found


def config_of(config: Any) -> dict[str, Any]:
    """The settings of an actor that are worth telling."""
    values = {name: setting(config, name) for name in _CONFIG}
    mode = setting(setting(config, "policy_loss"), "loss_mode")
    values |= {"loss_mode": mode, "learning_rate": setting(setting(config, "optim"), "lr")}
    return {name: value for name, value in values.items() if value is not None}


def setting(config: Any, name: str) -> Any:
    """A setting by name, of a dataclass, an OmegaConf or a dict; None if there is none."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def asked_for_probes(actor: Actor, wanted: Wanted) -> bool:
    """Whether probes are asked for; what is missing without them is said."""
    if (wanted.probes or "off") != "off":
        return True
    actor.say_once(
        f"{NO_HEADLINE}, nor are post_update, lagged_change and fixed_anchor_change: warnings come late "
        "(LLDWATCH_PROBES=economy re-scores a few responses a step; it was never run on a GPU)"
    )
    return False
