"""lldwatch in NeMo-RL (0.6 and newer): one line in a copy of its launcher, after `setup`.

```python
from lldwatch.integrations.nemo_rl import watch

(policy, policy_generation, _, cluster, dataloader, val_dataloader, loss_fn, logger, ...) = setup(...)
loss_fn = watch(policy, loss_fn, logger)            # LLDWATCH_RUN=runs/search LLDWATCH_LLDS=auto in the environment
grpo_train(policy, ..., loss_fn, ..., logger, ...)
```

Without `LLDWATCH_RUN` it gives `loss_fn` back and does nothing. The workers need lldwatch in their environments, too:
the loss function is sent to them each step, and with it the coefficient that the driver has set.

The driver records: responses, advantages and log-probs before the update from what `policy.train` is given; the
likelihood change within the batch from what the loss functions bring back; loss, reward, gradient norm and KL from
`logger`, which is told of each step with its number, and so closes it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lldwatch.errors import LldwatchError
from lldwatch.hooks import per_response
from lldwatch.integrations.environment import Wanted, wanted
from lldwatch.integrations.guard import Guard
from lldwatch.integrations.loss_hook import NO_HEADLINE, announce, identities, of_llds, open_run, say
from lldwatch.integrations.nemo_rl_loss import ARGUMENTS, DEAD_ZONE, PARTS, PREFIX, PreservingLoss
from lldwatch.monitor import Monitor

_ROWS = ("input_ids", "token_mask", "sample_mask", "advantages", "prev_logprobs", "generation_logprobs")
_LOGGED = {
    "loss": "loss",
    "reward": "reward",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
    "entropy": "approx_entropy",
    "rollout_kl": "gen_kl_error",
}
"""Field of `Observation` -> what NeMo-RL calls it. Its entropy is an estimate by importance sampling."""


def watch(policy: Any, loss_fn: Any, logger: Any, *, dead_zone: float = DEAD_ZONE) -> Any:
    """Watch a training. Call it on the driver, after `setup` and before the training. Never raises.

    Args:
        policy: NeMo-RL's, whose `train` is wrapped.
        loss_fn: of the training.
        logger: NeMo-RL's, whose `log_metrics` is wrapped.
        dead_zone: nats of a token; a difference from the old log-probs within it does not count as a fall.

    Returns:
        The loss function to train with: `loss_fn` itself if nothing is watched.
    """
    try:
        settings = wanted()
    except LldwatchError as error:
        say(f"{error}: nothing is watched")
        return loss_fn
    if settings is None:
        return loss_fn
    missing = _missing(policy, loss_fn, logger)
    if missing:
        say(f"looked for {' and '.join(missing)}, found none: nothing is watched, the training goes on")
        return loss_fn
    monitor = open_run("NeMo-RL", settings)
    if monitor is None:
        return loss_fn
    ours = PreservingLoss(loss_fn, dead_zone=dead_zone)
    driver = Driver(settings, monitor, ours)
    policy.train, logger.log_metrics = driver.around_train(policy.train), driver.around_log(logger.log_metrics)
    announce(monitor, _found(loss_fn, settings))
    return ours


class Driver:
    """What lldwatch does on the driver.

    Args:
        settings: what the environment asks for.
        monitor: of the run.
        loss: that the training is given.
    """

    def __init__(self, settings: Wanted, monitor: Monitor, loss: PreservingLoss) -> None:
        self._settings, self._monitor, self._loss = settings, monitor, loss
        self._guard = Guard(monitor)
        self._scalars: dict[str, Any] | None = None
        self._told = False

    def around_train(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The updates on a rollout batch."""

        @functools.wraps(own)
        def train(data: Any, loss_fn: Any, *args: Any, **kwargs: Any) -> Any:
            if loss_fn is not self._loss or kwargs.get("eval_mode"):
                return own(data, loss_fn, *args, **kwargs)
            self._loss.coefficient = self._monitor.llds_coefficient
            results = own(data, loss_fn, *args, **kwargs)
            self._scalars = {}
            self._guard.run("recording the responses", lambda: self._observe(data))
            self._guard.run("reading what the workers saw", lambda: self._take(results))
            return results

        return train

    def around_log(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """NeMo-RL logs a step: it is closed, and stage and risk go along."""

        @functools.wraps(own)
        def log_metrics(metrics: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
            prefix = args[0] if args else kwargs.get("prefix")
            if prefix == "train" and self._scalars is not None:
                self._guard.run("closing the step", lambda: self._close(metrics, step))
                metrics = {**metrics, **(self._guard.run("forwarding to the logger", self._monitor.metrics) or {})}
            return own(metrics, step, *args, **kwargs)

        return log_metrics

    def _observe(self, data: Any) -> None:
        """One row a response, as it was before the update: the driver sees no later policy."""
        if not all(name in data for name in _ROWS):
            if not self._told:
                self._monitor.event("attach", f"looked for {', '.join(_ROWS)} in the batch: responses are not recorded")
            self._told = True
            return
        mask = (data["token_mask"] * data["sample_mask"][:, None]) != 0
        forced = getattr(self._loss, "force_on_policy_ratio", False)
        scored = data["generation_logprobs" if forced else "prev_logprobs"]
        rows = per_response(
            scored[:, 1:],
            None,
            mask[:, 1:],
            advantages=data["advantages"][:, 1:],
            group=_groups(data["input_ids"], data["token_mask"]),
        )
        if rows.error is None:
            rows = replace(rows, log_prob=None, first_action_change=None).having(companions=rows.companions)
        self._monitor.observe(rows)

    def _take(self, results: Any) -> None:
        """What the loss functions brought back, added up over micro-batches and workers: each update counts alike."""
        assert self._scalars is not None
        metrics = results["all_mb_metrics"]
        sums = {name: float(sum(metrics.pop(PREFIX + name, ()))) for name in PARTS}
        for sign in ("positive", "negative"):
            if tokens := sums[f"{sign}_tokens"]:
                self._scalars[f"change_{sign}"] = sums[f"{sign}_change"] / tokens
        updates = torch.as_tensor(results["loss"]).numel()
        self._scalars |= {"updates": updates, "updates_per_batch": updates}
        if self._loss.coefficient:
            self._monitor.llds(_Term(torch.tensor(sums["llds"]), torch.tensor(sums["moved"])))

    def _close(self, metrics: Any, step: Any) -> None:
        scalars, self._scalars = self._scalars or {}, None
        told = {field: metrics[name] for field, name in _LOGGED.items() if metrics.get(name) is not None}
        self._monitor.step(int(step), **told, **scalars)


class _Term(NamedTuple):
    """What `Monitor.llds` looks at."""

    loss: Tensor
    moved_tokens: Tensor


def _groups(tokens: Tensor, mask: Tensor) -> Tensor:
    """Identities of prompts: of what stands before the first token of the policy."""
    starts = (mask != 0).int().argmax(-1).tolist()
    return identities(row[:start].cpu().numpy().tobytes() for row, start in zip(tokens, starts, strict=True))


def _missing(policy: Any, loss_fn: Any, logger: Any) -> list[str]:
    """Seams that were looked for in vain."""
    methods = (policy, "train"), (logger, "log_metrics")
    missing = [f"{name} on {type(one).__name__}" for one, name in methods if not callable(getattr(one, name, None))]
    if not _takes_log_probs(loss_fn):
        missing.append(f"next_token_logprobs in {type(loss_fn).__name__}.__call__ (NeMo-RL before 0.6 gives logits)")
    return missing


def _takes_log_probs(loss_fn: Any) -> bool:
    try:
        parameters = inspect.signature(loss_fn).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(one.name == ARGUMENTS[0] or one.kind is one.VAR_KEYWORD for one in parameters)


def _found(loss_fn: Any, settings: Wanted) -> list[str]:
    """What is recorded, and whether LLDS can act, for the start."""
    acts = "where a rollout batch has several updates: train_global_batch_size below prompts times generations"
    if getattr(loss_fn, "force_on_policy_ratio", False):
        acts = "force_on_policy_ratio takes the current log-probs for the old ones, so that it has no effect"
    return [
        f"attached to {type(loss_fn).__name__}: one row a response as before the update, the change within the batch "
        "as a number of the step, the mean reward; a response with a positive advantage counts as correct",
        NO_HEADLINE,
        of_llds(settings, acts),
    ]
