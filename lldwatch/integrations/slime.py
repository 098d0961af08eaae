"""lldwatch in slime (Megatron back end): a custom loss that is slime's policy loss, watched, and two hooks beside it.

```sh
--loss-type custom_loss --custom-loss-function-path lldwatch.integrations.slime.loss
--custom-megatron-before-train-step-hook-path lldwatch.integrations.slime.before_train_step
--rollout-data-postprocess-path lldwatch.integrations.slime.rollout_data      # rewards and prompts; optional
```

and `LLDWATCH_RUN=/shared/runs/search LLDWATCH_LLDS=auto` in the environment of the training's processes (`env_vars` of
ray's runtime environment); without `LLDWATCH_RUN` it is slime's policy loss and nothing else.

slime computes the log-probs inside of its loss: they are read where they come from, by a stand-in for
`get_log_probs_and_entropy` during the call. With `--recompute-loss-function` the loss runs twice: it is recorded once.

A step is a rollout. slime says when the next one begins, by the hook that runs before each of its updates on every
rank, and not when one ends: a rollout is closed when the next one begins, and the last one of a training is lost. With
a custom loss slime always computes the old log-probs beforehand, a forward pass more where each rollout is used once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lldwatch.errors import InputError, LldwatchError
from lldwatch.integrations.environment import wanted
from lldwatch.integrations.loss_hook import say
from lldwatch.integrations.slime_watch import LOSSES, SCORE, Watch

LOSS = "policy_loss_function"
METRIC = "lldwatch_llds"


def loss(args: Any, batch: Any, logits: Tensor, sum_of_sample_mean: Callable[[Tensor], Tensor]) -> tuple[Tensor, Any]:
    """The policy loss of a micro-batch, for `--custom-loss-function-path`, with LLDS while it is switched on.

    Args:
        args: of the command line.
        batch: slime's micro-batch.
        logits: (1, tokens, vocabulary).
        sum_of_sample_mean: slime's reduction of a value for each token.

    Returns:
        The loss, and slime's metrics; with a run one more, `lldwatch_llds`, on every rank in every micro-batch, since
        slime adds them up in order.

    Raises:
        InputError: slime has no policy loss of that name.
    """
    losses = importlib.import_module(LOSSES)
    own = getattr(losses, LOSS, None)
    if own is None:
        found = ", ".join(name for name in vars(losses) if name.endswith("_loss_function")) or "no loss function"
        raise InputError(f"looked for {LOSS} in {LOSSES}, found {found}: use --loss-type policy_loss, without lldwatch")
    watch = _watch()
    if watch is None:
        value: tuple[Tensor, Any] = own(args, batch, logits, sum_of_sample_mean)
        return value
    with _scores(losses) as scored:
        total, metrics = own(args, batch, logits, sum_of_sample_mean)
    added = watch.of_loss(args, batch, scored, sum_of_sample_mean)
    zero = torch.zeros((), device=total.device, dtype=total.dtype)
    metrics = {**metrics, METRIC: zero if added is None else added.detach()}
    return (total if added is None else total + watch.coefficient * added), metrics


def before_train_step(
    args: Any, rollout_id: int, step_id: int, model: Any, optimizer: Any, opt_param_scheduler: Any
) -> None:
    """For `--custom-megatron-before-train-step-hook-path`: an update begins, on every rank. Never raises.

    Args:
        args: of the command line.
        rollout_id: number of the rollout.
        step_id: number of the update on it, from 0.
        model: not looked at.
        optimizer: Megatron's, whose `step` says the gradient norm.
        opt_param_scheduler: not looked at.
    """
    watch = _watch()
    if watch is not None and getattr(args, "loss_type", None) == "custom_loss":  # the critic has a loss of its own
        watch.before_update(args, rollout_id, step_id, optimizer)


def rollout_data(args: Any, rollout_id: int, rollout_data: dict[str, Any]) -> None:
    """For `--rollout-data-postprocess-path`: keep the rewards of a rollout until its updates. Never raises.

    Args:
        args: of the command line.
        rollout_id: number of the rollout.
        rollout_data: slime's, of this rank; it is not changed.
    """
    watch = _watch()
    if watch is not None:
        watch.take_rewards(args, rollout_data)


@functools.cache
def _watch() -> Watch | None:
    try:
        settings = wanted()
    except LldwatchError as error:
        say(f"{error}: nothing is watched, the loss is slime's own")
        return None
    return None if settings is None else Watch(settings)


@contextlib.contextmanager
def _scores(losses: Any) -> Iterator[list[dict[str, Any]]]:
    """What `get_log_probs_and_entropy` returns meanwhile, with its gradient."""
    own, scored = getattr(losses, SCORE, None), list[dict[str, Any]]()
    if own is None:
        yield scored
        return

    @functools.wraps(own)
    def score(*args: Any, **kwargs: Any) -> Any:
        result = own(*args, **kwargs)
        values = result[-1] if isinstance(result, tuple) else result
        if isinstance(values, dict) and "log_probs" in values:
            scored.append(dict(values))
        return result

    setattr(losses, SCORE, score)
    try:
        yield scored
    finally:
        setattr(losses, SCORE, own)
