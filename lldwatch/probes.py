"""Re-score responses under the policy as it is now: the only way to see what an update did to text it was not shown.

The in-batch change of positive responses has the wrong sign all the way into a collapse, since an update pushes up what
it trains on. The headline is therefore the *cross-update* change: the correct responses of the previous step, scored
before and after this step's updates. Scoring the same responses twice without an update in between (A/A) gives the
noise floor below which a change means nothing.

Reference: likelihood change of correct responses, arXiv:2512.04220, Sec. 3 (definition of LLD).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.schema import Array, Probes, stack_columns

Batch = Mapping[str, Tensor]
Score = Callable[[Batch], Tensor]


@dataclass(slots=True)
class _Held:
    """Correct responses of one step, and their log-probs since the last update."""

    batch: dict[str, Tensor]
    response_mask: Tensor
    uid: Array | None
    group: Array | None
    log_prob: Array


class CrossUpdateProbe:
    """Measures the cross-update likelihood change and the A/A noise floor.

    Costs two forward passes of at most `max_responses` responses a step, and a third one each `noise_every` steps.

    Args:
        score: batch -> log-probs (responses, tokens) in nats of the batch's own tokens under the policy as it is now.
            It must not change the model. It is called without gradient, and the random streams are put back after it.
            If it is the model itself, dropout is off meanwhile; if it is a function, that is the function's business.
        max_responses: hold at most this many correct responses of a step, evenly chosen.
        noise_every: measure the noise floor at the first step and then each so many steps.
    """

    def __init__(self, score: Score, *, max_responses: int = 64, noise_every: int = 10) -> None:
        if max_responses < 1 or noise_every < 1:
            raise InputError(f"max_responses={max_responses}, noise_every={noise_every}: both must be at least 1")
        self._score, self._max_responses, self._noise_every = score, max_responses, noise_every
        self._held: _Held | None = None
        self._calls = 0

    def after_update(
        self,
        batch: Batch,
        *,
        response_mask: Tensor,
        correct: Tensor,
        uid: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Probes:
        """Call once a step, after its last optimizer update.

        Args:
            batch: what `score` needs, as tensors whose first dimension is the response.
            response_mask: (batch, tokens), 1 on policy tokens.
            correct: (batch,) bool.
            uid: (batch,) int, identity of each response.
            group: (batch,) int, identity of each prompt.

        Returns:
            The rows for `Monitor.probe`; a cross-update row needs a correct response of the step before. Nothing is
            raised here: what went wrong stands in `error`, and `Monitor.probe` raises it in the first step only.
        """
        try:
            return self._measure(batch, response_mask, correct, uid, group)
        except InputError as error:
            self._held = None
            return Probes.unusable(error)
        except Exception as error:  # whatever the user's function raises
            self._held = None
            return Probes.unusable(
                InputError(f"score failed in the cross-update probe ({type(error).__name__}: {error})")
            )

    def _measure(
        self, batch: Batch, response_mask: Tensor, correct: Tensor, uid: Tensor | None, group: Tensor | None
    ) -> Probes:
        _check(batch, response_mask, correct, uid, group)
        self._calls += 1
        correct = correct != 0
        rows = []
        if self._held is not None:
            after = self._log_prob(self._held.batch, self._held.response_mask)
            rows.append(_rows("cross_update", self._held, after, 1))
        chosen = _evenly(torch.nonzero(correct).flatten(), self._max_responses)
        self._held = None
        if len(chosen):
            held_batch = {name: tensor[chosen].detach() for name, tensor in batch.items()}
            mask = response_mask[chosen] != 0
            self._held = _Held(
                batch=held_batch,
                response_mask=mask,
                uid=None if uid is None else uid[chosen].cpu().numpy(),
                group=None if group is None else group[chosen].cpu().numpy(),
                log_prob=self._log_prob(held_batch, mask),
            )
            if (self._calls - 1) % self._noise_every == 0:
                rows.append(_rows("noise", self._held, self._log_prob(held_batch, mask), 0))
        return Probes(**stack_columns(rows))

    @torch.no_grad()
    def _log_prob(self, batch: Batch, response_mask: Tensor) -> Array:
        """Sum over policy tokens, (responses,), nats."""
        with _undisturbed(self._score, response_mask.device):
            log_probs = self._score(batch)
        if log_probs.shape != response_mask.shape:
            raise InputError(
                f"score returned shape {tuple(log_probs.shape)}, expected {tuple(response_mask.shape)}: "
                "one log-prob for each position of the response mask"
            )
        sums: Array = torch.where(response_mask, log_probs.float(), 0.0).sum(-1).cpu().numpy()
        return sums


@contextlib.contextmanager
def _undisturbed(score: Score, device: torch.device) -> Iterator[None]:
    """Dropout off if `score` is the model itself, and the random streams as they were: the training's are not ours."""
    modules = [module for module in score.modules() if module.training] if isinstance(score, torch.nn.Module) else []
    for module in modules:
        module.training = False
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module in modules:
            module.training = True


def _check(batch: Batch, response_mask: Tensor, correct: Tensor, uid: Tensor | None, group: Tensor | None) -> None:
    given: Mapping[str, object] = {"response_mask": response_mask, "correct": correct, **batch}
    for name, something in given.items():
        if not isinstance(something, Tensor) or something.ndim == 0:
            what = "a number" if isinstance(something, Tensor) else f"a {type(something).__name__}"
            raise InputError(
                f"{name} is {what}, expected a tensor with one row for each response: give what score needs"
            )
    if response_mask.ndim != 2:
        raise InputError(f"response_mask has shape {tuple(response_mask.shape)}, expected (batch, tokens)")
    size = len(response_mask)
    for name, tensor in {"correct": correct, "uid": uid, "group": group}.items():
        if tensor is not None and tuple(tensor.shape) != (size,):
            raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected ({size},): one for each response")
    for name, tensor in batch.items():
        if len(tensor) != size:
            raise InputError(f"{name} has {len(tensor)} rows, response_mask has {size}: one row for each response")


def _evenly(indices: Tensor, at_most: int) -> Tensor:
    """Without a random choice: the training's random stream is not ours."""
    if len(indices) <= at_most:
        return indices
    return indices[torch.linspace(0, len(indices) - 1, at_most, device=indices.device).long()]


def _rows(kind: str, held: _Held, after: Array, lag: int) -> Probes:
    size = len(after)
    return Probes(
        kind=np.full(size, kind),
        uid=held.uid,
        group=held.group,
        correct=np.ones(size, bool),
        lag=np.full(size, lag),
        tokens=held.response_mask.sum(-1).cpu().numpy(),
        log_prob_before=held.log_prob,
        log_prob_after=after,
    )
