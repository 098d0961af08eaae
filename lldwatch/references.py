"""Log-probs for LLDS to hold on to, other than those of the current batch when it was written.

The paper compares the current batch with its own old log-probs (`"old"`). That has no effect when each rollout batch is
used for one update, and it cannot hold what falls most, the correct responses of *earlier* batches. Two references that
can, both at the price of extra forward passes:

* `LaggedPolicy`: the current batch under the policy some updates ago (the authors' own advice for one update a batch).
* `Replay`: correct responses of earlier batches under the policy right after their own updates. An extension of
  lldwatch, not in the paper.

Neither draws from the training's random stream, or changes a weight, a gradient or a random state that it keeps.
Rejected: an average of past weights, which is no policy that ever wrote anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lldwatch.errors import InputError
from lldwatch.rescore import Batch, Held, Score, score_all
from lldwatch.samples import evenly, held_of

__all__ = ["LaggedPolicy", "Replay", "Replayed"]

Weights = dict[str, Tensor]


class LaggedPolicy:
    """The policy as it was some optimizer updates ago: snapshots of its trainable parameters.

    With LoRA those are the adapters alone, since the base model is frozen. Buffers are not kept.

    ```python
    lagged = LaggedPolicy(policy, lag=16)
    ...
    reference = lagged.log_probs(policy, batch, batch["response_mask"])
    term = llds_loss(log_probs, reference, batch["advantages"], batch["response_mask"])
    ...
    optimizer.step()
    lagged.after_update()
    ```

    Args:
        policy: the model that is trained. Its parameters are written in place, and put back bit for bit.
        lag: the reference is at least so many updates old; before, it is the policy at the start.
        every: take a snapshot each so many updates: the reference is at most `lag + every - 1` updates old, and
            `1 + lag / every` snapshots (rounded up) are kept. None: `lag`, two snapshots.
        device: where they are kept; None: beside each parameter. "cpu" saves GPU memory and costs a transfer.

    Raises:
        InputError: the policy has no trainable parameters (DeepSpeed's ZeRO-3 has none between passes), or a number is
            not a whole one from 1.
    """

    def __init__(
        self, policy: nn.Module, lag: int, *, every: int | None = None, device: torch.device | str | None = None
    ) -> None:
        self.lag, self.every = _whole("lag", lag), _whole("every", lag if every is None else every)
        self._policy, self._device = policy, device
        self._parameters = self._trainable()
        if not any(parameter.numel() for parameter in self._parameters.values()):
            raise InputError(
                "the policy has no trainable parameters: expected some that require a gradient, and are here"
            )
        self._updates, self._swapped = 0, False
        self._taken: list[tuple[int, Weights]] = [(0, self._snapshot(None))]

    @property
    def age(self) -> int:
        """How many updates ago the reference was the policy."""
        return self._updates - self._taken[0][0]

    def price(self) -> str:
        """What it costs, in words for the start of a run."""
        weights = self._taken[0][1].values()
        megabytes = sum(weight.numel() * weight.element_size() for weight in weights) / 1e6
        return (
            f"LLDS against the policy {self.lag} to {self.lag + self.every - 1} updates ago: one more forward pass of "
            f"each batch, without gradient; {1 - (-self.lag // self.every)} snapshots of {megabytes:.3g} MB"
        )

    def after_update(self) -> None:
        """Call after each optimizer update.

        Raises:
            InputError: the lagged policy is swapped in, or other parameters are trainable than at the start.
        """
        if self._swapped:
            raise InputError("after_update while the lagged policy is swapped in: leave the block first")
        now = self._trainable()
        if now.keys() != self._parameters.keys() or any(now[name] is not self._parameters[name] for name in now):
            raise InputError("other parameters are trainable than at the start: make a new LaggedPolicy")
        self._updates += 1
        spare = None
        while len(self._taken) > 1 and self._updates - self._taken[1][0] >= self.lag:
            _, spare = self._taken.pop(0)
        if self._updates % self.every == 0:
            self._taken.append((self._updates, self._snapshot(spare)))

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[nn.Module]:
        """In the block the policy is the lagged one; after it the current one again, whatever happens in the block.

        Do not update it in the block. A backward pass must not reach into or out of it.

        Raises:
            InputError: it is swapped in already.
        """
        if self._swapped:
            raise InputError("the lagged policy is swapped in already: leave the first block before the second")
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._swapped = True
        try:
            self._put(self._taken[0][1])
            yield self._policy
        finally:
            self._put(own)
            self._swapped = False

    def log_probs(self, score: Score, batch: Batch, response_mask: Tensor, micro_batch: int | None = None) -> Tensor:
        """Log-probs of a batch under the lagged policy.

        Args:
            score: batch -> log-probs (responses, tokens) in nats, or a pair of them and the entropies, from `policy`.
                If it is the model itself, dropout is off meanwhile.
            batch: what the score needs, first dimension the response.
            response_mask: (responses, tokens), 1 on policy tokens.
            micro_batch: responses at a time; None: all at once.

        Returns:
            (responses, tokens), float32, nats, without gradient, 0 outside of the mask.

        Raises:
            InputError: the score returned another shape, or `batch` is no dict of tensors.
        """
        everything = torch.ones(len(response_mask), dtype=torch.bool)
        held = held_of(batch, response_mask, everything, step=self._updates)
        with self.swapped_in():
            return score_all(score, held, micro_batch).log_probs

    def state_dict(self) -> dict[str, Any]:
        """The snapshots, to be kept with a checkpoint; the tensors are not copied."""
        return {"updates": self._updates, "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the snapshots of a checkpoint.

        Raises:
            InputError: they are of other parameters.
        """
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        for _, weights in state["taken"]:
            if {name: weight.shape for name, weight in weights.items()} != shapes:
                raise InputError("the snapshots are of other parameters than the policy's: expected the same model")
        self._updates = state["updates"]
        self._taken = [(at, self._copied(weights, None)) for at, weights in state["taken"]]

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self._policy.named_parameters() if parameter.requires_grad}

    def _snapshot(self, spare: Weights | None) -> Weights:
        return self._copied({name: parameter.data for name, parameter in self._parameters.items()}, spare)

    def _copied(self, weights: Mapping[str, Tensor], spare: Weights | None) -> Weights:
        """A copy where snapshots are kept, in the memory of one that is not needed any more, if there is one."""
        if spare is None:
            parameters = self._parameters
            spare = {name: torch.empty_like(parameters[name].data, device=self._device) for name in weights}
        for name, weight in weights.items():
            spare[name].copy_(weight)
        return spare

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        """Into the parameters' own memory, which sharded models hold views of; low-precision copies are forgotten."""
        for name, weight in weights.items():
            self._parameters[name].data.copy_(weight)  # unknown to autograd, which may have a backward pass pending
        torch.clear_autocast_cache()


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """Earlier correct responses to score again, and what they are held to.

    Attributes:
        batch: what the score needs, first dimension the response.
        log_probs: (responses, tokens), float32, nats, right after the responses' own updates; 0 outside of the mask.
        response_mask: (responses, tokens) bool.
        answer_mask: (responses, tokens) bool; None: not given.
    """

    batch: dict[str, Tensor]
    log_probs: Tensor
    response_mask: Tensor
    answer_mask: Tensor | None

    def __len__(self) -> int:
        return len(self.response_mask)

    @property
    def preserve(self) -> Tensor:
        """(responses,) bool, all True: `llds_loss(log_probs, replayed.log_probs, None, ..., preserve=...)`."""
        return torch.ones_like(self.response_mask[:, 0])


class Replay:
    """The correct responses of the last rollout batches, and their log-probs right after their own updates.

    ```python
    replay = Replay(batches=3)
    ...
    if (earlier := replay.draw(16)) is not None:                       # beside each mini-batch
        now = score(earlier.batch)
        term = llds_loss(now, earlier.log_probs, None, earlier.response_mask, preserve=earlier.preserve)
    ...
    replay.take(score, batch, response_mask=mask, correct=rewards > 0)     # after the step's last update
    ```

    Each rank of a distributed training keeps its own. Sharded models want the same number of forward passes on all
    ranks: there draw only when no rank's is empty.

    Args:
        batches: of so many, the last ones that had a correct response.
        at_most: responses of a batch, evenly chosen; None: all correct ones.
        seed: of the generator that draws; the training's is left alone.
        micro_batch: score at most so many responses at a time in `take`; None: all at once.
        pad_values: name in the batch -> what to fill up with where tensors of different length are put together; 0
            where it is not named.
        pad_left: names in the batch that are filled up on the left, as prompts are; "response_mask" stands for all that
            has its shape here.

    Raises:
        InputError: a number is not a whole one from 1.
    """

    def __init__(
        self,
        batches: int = 3,
        *,
        at_most: int | None = None,
        seed: int = 0,
        micro_batch: int | None = None,
        pad_values: Mapping[str, float] | None = None,
        pad_left: Collection[str] = (),
    ) -> None:
        self.batches = _whole("batches", batches)
        self.at_most = None if at_most is None else _whole("at_most", at_most)
        self._micro_batch, self._pad_values, self._pad_left = micro_batch, dict(pad_values or {}), frozenset(pad_left)
        self._random = torch.Generator().manual_seed(seed)
        self._steps, self._held = 0, list[Held]()

    def __len__(self) -> int:
        """Responses that can be drawn."""
        return sum(map(len, self._held))

    def price(self, drawn: int, updates: int) -> str:
        """What it costs, in words for the start of a run.

        Args:
            drawn: responses beside each mini-batch.
            updates: optimizer updates a step.
        """
        most = "all" if self.at_most is None else f"at most {self.at_most}"
        return (
            f"LLDS on replayed responses: {drawn} of earlier batches scored with gradient beside each mini-batch, "
            f"{drawn * updates} a step; and {most} correct ones of a step once more, without gradient"
        )

    def take(
        self,
        score: Score,
        batch: Batch,
        *,
        response_mask: Tensor,
        correct: Tensor,
        answer_mask: Tensor | None = None,
        passes: int = 0,
    ) -> int:
        """Keep a batch's correct responses, as the policy scores them now: call after the step's last update.

        Args:
            score: batch -> log-probs (responses, tokens) in nats, or a pair of them and the entropies.
            batch: what the score needs, as tensors whose first dimension is the response; copied.
            response_mask: (batch, tokens), 1 on policy tokens.
            correct: (batch,) bool.
            answer_mask: (batch, tokens), 1 on the final answer.
            passes: make at least so many forward passes, also where nothing is correct, as sharded models want it.

        Returns:
            How many were kept. A batch without a correct response pushes none out.

        Raises:
            InputError: a tensor has another shape than it should, or the score returned one.
        """
        self._steps += 1
        everything = held_of(batch, response_mask, correct, step=self._steps, answer_mask=answer_mask)
        rows = torch.from_numpy(np.flatnonzero(everything.correct))
        if not len(rows):
            if passes and len(everything):  # the other ranks make theirs
                score_all(score, everything.pick(torch.zeros(1, dtype=torch.long)), self._micro_batch, passes)
            return 0
        rows = rows if self.at_most is None else evenly(rows, self.at_most)
        held = everything.pick(rows.to(response_mask.device))
        self._held = [*self._held, held.scored(score_all(score, held, self._micro_batch, passes))][-self.batches :]
        return len(held)

    def draw(self, responses: int) -> Replayed | None:
        """Some of the kept responses, each at most once; fewer if there are fewer, None if there is none.

        Args:
            responses: how many.
        """
        _whole("responses", responses)
        places = torch.randperm(len(self), generator=self._random)[:responses]
        parts, start = list[Held](), 0
        for held in self._held:
            rows = places[(places >= start) & (places < start + len(held))] - start
            start += len(held)
            if len(rows):
                parts.append(held.pick(rows.to(held.response_mask.device)))
        return self._together(parts) if parts else None

    def state_dict(self) -> dict[str, Any]:
        """What is kept and the generator, as tensors and numbers, to be kept with a checkpoint."""
        return {
            "steps": self._steps,
            "held": [held.as_state() for held in self._held],
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Go on as the one that gave the state would have.

        Args:
            state: what `state_dict` gave.
            device: where the batches are.
        """
        self._steps = state["steps"]
        self._held = [Held.from_state(held, torch.device(device)) for held in state["held"]][-self.batches :]
        self._random.set_state(state["random"].cpu())

    def _together(self, parts: list[Held]) -> Replayed:
        def joined(name: str, tensors: list[Tensor]) -> Tensor:
            return _padded(tensors, self._pad_values.get(name, 0), name in self._pad_left)

        answers = [held.answer_mask for held in parts if held.answer_mask is not None]
        before = [held.before.log_probs for held in parts if held.before is not None]
        return Replayed(
            batch={name: joined(name, [held.batch[name] for held in parts]) for name in parts[0].batch},
            log_probs=joined("response_mask", before),
            response_mask=joined("response_mask", [held.response_mask for held in parts]),
            answer_mask=joined("response_mask", answers) if len(answers) == len(parts) else None,
        )


def _padded(tensors: list[Tensor], value: float, left: bool) -> Tensor:
    """Tensors whose first dimension is the response, filled up to the longest of them and stacked."""
    longest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    full = []
    for tensor in tensors:
        sides = list[int]()
        for size, most in zip(reversed(tensor.shape[1:]), reversed(longest), strict=True):
            sides += [most - size, 0] if left else [0, most - size]
        full.append(nn.functional.pad(tensor, sides, value=value) if any(sides) else tensor)
    return torch.cat(full)


def _whole(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}, expected a whole number from 1")
    return value
