"""The parts of a probe: responses that are held, their log-probs under the policy as it is now, and the rows of both.

Before and after go through the same function in the same dtype: the difference of a trainer's own log-probs and of
another path's is rounding that can be larger than a displacement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lldwatch.columns import Array
from lldwatch.errors import InputError
from lldwatch.schema import Actions, Probes, Tokens
from lldwatch.token_runs import action_index

Batch = Mapping[str, Tensor]
Score = Callable[[Batch], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Log-probs and, if the score gives it, entropy; (responses, tokens), float32, nats, 0 outside of the mask."""

    log_probs: Tensor
    entropy: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Responses that are scored more than once.

    Attributes:
        batch: what the score needs, first dimension the response.
        response_mask: (responses, tokens) bool, True on policy tokens.
        answer_mask: (responses, tokens) bool, True on the answer; None: the trainer cannot tell it.
        tokens: (responses, tokens) token ids; None: not given, or not needed any more.
        uid, group, correct, advantage: (responses,); None: not given.
        step: call of the probe at which they were taken.
        before: what they scored when they were taken.
    """

    batch: dict[str, Tensor]
    response_mask: Tensor
    answer_mask: Tensor | None
    tokens: Tensor | None
    uid: Array | None
    group: Array | None
    correct: Array
    advantage: Array | None
    step: int
    before: Scored | None = None

    def __len__(self) -> int:
        return len(self.response_mask)

    def pick(self, rows: Tensor) -> Held:
        """Some of the responses; copies, since a loop may reuse its buffers."""

        def of(values: Any) -> Any:
            if values is None:
                return None
            return values[rows.cpu().numpy()] if isinstance(values, np.ndarray) else values[rows].detach()

        before = self.before and Scored(self.before.log_probs[rows], None)
        return Held(
            batch={name: tensor[rows].detach() for name, tensor in self.batch.items()},
            **{name: of(getattr(self, name)) for name in _PER_RESPONSE},
            step=self.step,
            before=before,
        )

    def as_state(self) -> dict[str, Any]:
        """Tensors, numbers and None alone, for a checkpoint."""

        def of(values: Any) -> Any:
            return torch.from_numpy(values) if isinstance(values, np.ndarray) else values

        per_response = {name: of(getattr(self, name)) for name in _PER_RESPONSE}
        log_probs = None if self.before is None else self.before.log_probs
        return {"batch": self.batch, **per_response, "step": self.step, "log_probs": log_probs}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> Held:
        """What `as_state` gave."""

        def on_device(tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor.to(device)

        log_probs = on_device(state["log_probs"])
        on_host: dict[str, Any] = {name: None if state[name] is None else state[name].numpy() for name in _ON_HOST}
        return cls(
            batch={name: tensor.to(device) for name, tensor in state["batch"].items()},
            **{name: on_device(state[name]) for name in _PER_TOKEN},
            **on_host,
            step=state["step"],
            before=None if log_probs is None else Scored(log_probs, None),
        )

    def scored(self, before: Scored) -> Held:
        """The same with what they scored; the entropy is shown as it is after an update, and not held."""
        return replace(self, before=Scored(before.log_probs, None))


_PER_TOKEN = ("response_mask", "answer_mask", "tokens")
_ON_HOST = ("uid", "group", "correct", "advantage")
_PER_RESPONSE = (*_PER_TOKEN, *_ON_HOST)


@torch.no_grad()
def score_all(score: Score, held: Held, micro_batch: int | None, passes: int = 0) -> Scored:
    """Score what is held, a few responses at a time.

    Args:
        score: batch -> log-probs, or log-probs and entropies.
        held: at least one response.
        micro_batch: responses at a time; None: all at once.
        passes: make at least so many forward passes; those beyond the responses score the last ones again.

    Raises:
        InputError: the score returned another shape than the response mask has.
        Exception: whatever the score raises.
    """
    size = micro_batch or len(held)
    starts = list(range(0, len(held), size))
    parts: list[list[Tensor | None]] = []
    failure: Exception | None = None
    for start in starts + starts[-1:] * (passes - len(starts)):
        rows = slice(start, start + size)
        try:
            parts.append(_score_some(score, {n: t[rows] for n, t in held.batch.items()}, held.response_mask[rows]))
        except Exception as error:  # whatever the score raises
            if not passes:
                raise
            failure = failure or error  # the other ranks make the passes that are left, and so must this one
    if failure is not None:
        raise failure
    log_probs, entropy = (_stacked([part[place] for part in parts[: len(starts)]]) for place in (0, 1))
    assert log_probs is not None
    return Scored(log_probs, entropy)


def _score_some(score: Score, batch: Batch, mask: Tensor) -> list[Tensor | None]:
    with _undisturbed(score, {tensor.device for tensor in (mask, *batch.values()) if tensor.is_cuda}):
        given = score(batch)
    log_probs, entropy = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    return [_kept(log_probs, mask), None if entropy is None else _kept(entropy, mask)]


def _kept(values: Tensor, mask: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != mask.shape:
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        wanted = "one log-prob for each position of the response mask"
        if isinstance(values, Tensor) and values.ndim == 3:
            wanted += " (from logits: lldwatch.logits.log_probs_and_entropy)"
        raise InputError(f"score returned {got}, expected {tuple(mask.shape)}: {wanted}")
    return torch.where(mask, values.detach().to(mask.device, torch.float32), 0.0)


def _stacked(parts: list[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors and len(tensors) == len(parts) else None


@contextlib.contextmanager
def _undisturbed(score: Score, devices: set[torch.device]) -> Iterator[None]:
    """Dropout off if `score` is the model itself, and the random streams as they were: the training's are not ours.

    Inside of an autocast context the low-precision copies of the weights are forgotten before and after: those that the
    training made are from before the update, and those that are made here know no gradient.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's is untyped
        devices = devices | {torch.device("cuda", torch.cuda.current_device())}
    quiet = without_dropout(score) if isinstance(score, torch.nn.Module) else contextlib.nullcontext()
    torch.clear_autocast_cache()
    try:
        with quiet, torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        torch.clear_autocast_cache()


@contextlib.contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """In the block no part of the model is in training mode; after it those are that were."""
    modules = [module for module in model.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


@torch.no_grad()
def probe_rows(kind: str, held: Held, after: Scored, now: int) -> Probes:
    """One row per response: what it scored when it was taken, and what it scores now."""
    assert held.before is not None
    before, new, mask = held.before.log_probs, after.log_probs, held.response_mask
    change = new - before
    first_action = mask & (action_index(mask)[0] == 0)
    spans = {"": mask, "first_action_": first_action}
    if held.answer_mask is not None:
        spans["answer_"] = held.answer_mask
    columns = {
        "fallen_tokens": (change < 0).sum(-1),
        "largest_token_change": change.abs().amax(-1),
    }
    for name, span in spans.items():
        columns[f"{name}tokens"] = span.sum(-1)
        for moment, values in (("before", before), ("after", new)):
            columns[f"{name or 'log_prob_'}{moment}"] = torch.where(span, values, 0.0).sum(-1)
    host = torch.stack([column.float() for column in columns.values()]).cpu().numpy()
    return Probes(
        kind=np.full(len(held), kind),
        uid=held.uid,
        group=held.group,
        correct=held.correct,
        advantage=held.advantage,
        lag=np.full(len(held), now - held.step),
        **dict(zip(columns, host, strict=True)),
    )


@torch.no_grad()
def action_rows(kind: str, held: Held, after: Scored) -> Actions:
    """One row per action of each response."""
    assert held.before is not None
    mask, (index, starts) = held.response_mask, action_index(held.response_mask)
    count = int(starts.sum(-1).amax(0)) if mask.numel() else 0
    exact = torch.float32 if mask.device.type == "mps" else torch.float64  # a small change of a long action's large sum
    sums = torch.zeros(3, len(held), count + 1, dtype=exact, device=mask.device)  # the last: what is not the policy's
    place = torch.where(mask, index, count)
    for row, values in zip(sums, (mask, held.before.log_probs, after.log_probs), strict=True):
        row.scatter_add_(1, place, values.to(exact))
    tokens, before, new = sums[:, :, :count].cpu().numpy()
    response, action = (tokens > 0).nonzero()
    return Actions(
        kind=np.full(len(response), kind),
        uid=None if held.uid is None else held.uid[response],
        correct=held.correct[response],
        action=action,
        tokens=tokens[response, action],
        log_prob_before=before[response, action],
        log_prob_after=new[response, action],
    )


@torch.no_grad()
def token_rows(kind: str, held: Held, after: Scored, most: int, text: Callable[[int], str] | None) -> Tokens:
    """Token by token, the responses whose log-prob per token fell most, from their first to their last policy token."""
    assert held.before is not None
    mask, change = held.response_mask, after.log_probs - held.before.log_probs
    per_token = change.sum(-1) / mask.sum(-1).clamp(min=1)
    rows = per_token.nan_to_num(nan=-torch.inf).argsort()[:most]
    inside = (mask.cumsum(-1) > 0) & (mask.flip(-1).cumsum(-1).flip(-1) > 0)
    action = torch.where(mask, action_index(mask)[0], -1)
    response, position = inside[rows].cpu().numpy().nonzero()

    def of(values: Tensor | None) -> Array | None:
        return None if values is None else values[rows].cpu().numpy()[response, position]

    ids = of(held.tokens)
    return Tokens(
        kind=np.full(len(response), kind),
        uid=None if held.uid is None else held.uid[rows.cpu().numpy()[response]],
        position=position,
        action=of(action),
        token=ids,
        text=None if text is None or ids is None else np.array([text(int(token)) for token in ids]),
        log_prob_before=of(held.before.log_probs),
        log_prob_after=of(after.log_probs),
        entropy=of(after.entropy),
    )
