"""What lldwatch does in the course of a TRL training: the bodies of the wrapped methods, and the trainer's events.

Everything of ours runs in a `Guard`: what the trainer's own method returns is passed on, whatever happens here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lldwatch.errors import InputError, RanksError
from lldwatch.hooks import per_response
from lldwatch.integrations import trl_fields as fields
from lldwatch.integrations.guard import Guard
from lldwatch.integrations.loss_hook import say
from lldwatch.integrations.trl_seams import SWIFT_REWARDS, Seams, generates_next
from lldwatch.integrations.trl_terms import Reference, Scoring
from lldwatch.monitor import Monitor
from lldwatch.probes import LikelihoodProbe
from lldwatch.ranks import Ranks
from lldwatch.rescore import Batch, score_all
from lldwatch.samples import held_of

ROUNDING = {True: 1e-5, False: 1e-2}
"""Nats of a token that may differ between two forward passes, of float32 weights and of shorter ones: chosen after
what 1e-6 nats of noise did to the gradient of LLDS, and bf16's three digits."""

_PASSES = ("probing", "holding on to correct responses")
"""Parts that make forward passes, which all ranks make or none does."""


class Watch:
    """One trainer that is watched.

    Args:
        trainer: a GRPO trainer.
        seams: what was found on it.
        monitor: of the run.
        ranks: of a distributed training.
        scoring: scores responses.
        probe: re-scores responses; None: nothing does.
        reference: what LLDS compares with.
        holds: keep what the reference needs from the first step on; else from when LLDS is switched on.
        correct_above: reward above which a response is correct.

    Attributes:
        guard: keeps what goes wrong in here away from the trainer.
    """

    def __init__(
        self,
        trainer: Any,
        seams: Seams,
        monitor: Monitor,
        ranks: Ranks | None,
        scoring: Scoring,
        probe: LikelihoodProbe | None,
        reference: Reference,
        holds: bool,
        correct_above: float,
    ) -> None:
        self._trainer, self._seams, self._monitor, self._ranks = trainer, seams, monitor, ranks
        self._probe, self._reference, self._holds, self._correct_above = probe, reference, holds, correct_above
        self._scoring, self.guard = scoring, Guard(monitor)
        self._scored: list[tuple[Tensor, Tensor | None]] | None = None
        self._rewards: Tensor | None = None
        self._rollout: tuple[Batch, dict[str, Any]] | None = None
        self._losses: list[Tensor] = []
        self._grad_norm: Any = None
        self._updates = self._rollouts = self._micro_batches = 0
        self._seen, self._over = set[int](), False
        self._scalars: dict[str, Any] = {}

    @property
    def should_stop(self) -> bool:
        """The trainer is to save a checkpoint and to stop."""
        return self._monitor.should_stop and not self._over

    def around_log_probs(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The method that scores: what it returns within the loss is kept."""

        @functools.wraps(own)
        def score(*args: Any, **kwargs: Any) -> Any:
            result = own(*args, **kwargs)
            if self._scored is not None and torch.is_grad_enabled():
                pair = (*result, None) if isinstance(result, tuple) else (result, None)
                self._scored.append((pair[0], pair[1]))
            return result

        return score

    def around_loss(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The loss of a micro-batch: it is observed, and LLDS is added while it is switched on."""

        @functools.wraps(own)
        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self._over or not (self._trainer.model.training and torch.is_grad_enabled()):
                return own(model, inputs, *args, **kwargs)
            scored: list[tuple[Tensor, Tensor | None]] = []
            self._scored = scored
            try:
                loss = own(model, inputs, *args, **kwargs)
            finally:
                self._scored = None
            self.guard.run("keeping the loss", lambda: self._losses.append(loss.detach()))
            self.guard.run("reading the loss", lambda: self._read_loss(inputs, scored))
            added = self.guard.run("adding LLDS", lambda: self._with_llds(loss, model, inputs, scored))
            return loss if added is None else added

        return compute_loss

    def around_generation(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """A rollout batch: each response gets an identity, its group and its reward."""

        @functools.wraps(own)
        def generate(*args: Any, **kwargs: Any) -> Any:
            training, self._rewards = self._trainer.model.training and not self._over, None
            if training and generates_next(self._trainer) is None:  # the trainer does not say when a step ends
                self.guard.run("closing the step", self._close_step, always=True)
            output = own(*args, **kwargs)
            if training:
                self.guard.run("reading the rollout batch", lambda: self._take_rollout(output))
            return output

        return generate

    def around_rewards(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The rewards of all ranks, one column a reward function."""

        @functools.wraps(own)
        def calculate(*args: Any, **kwargs: Any) -> Any:
            self._rewards = rewards = own(*args, **kwargs)
            return rewards

        return calculate

    def around_clipping(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The gradient norm before clipping."""

        @functools.wraps(own)
        def clip(*args: Any, **kwargs: Any) -> Any:
            self._grad_norm = norm = own(*args, **kwargs)
            return norm

        return clip

    def around_log(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """What the training logs: stage, risk and the headline signals go along."""

        @functools.wraps(own)
        def log(logs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            if "loss" in logs and not self._over:  # neither of an evaluation, nor the summary at the end
                logs.update(self.guard.run("forwarding to the logger", self._monitor.metrics) or {})
            return own(logs, *args, **kwargs)

        return log

    def around_training(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The whole training: the run is closed, and says what the training ended with."""

        @functools.wraps(own)
        def train(*args: Any, **kwargs: Any) -> Any:
            with self._monitor:
                return own(*args, **kwargs)

        return train

    def begin(self, folder: Path, step: int) -> None:
        """The training begins.

        Args:
            folder: of its checkpoint.
            step: of the checkpoint; 0: there is none.
        """
        if self._over:
            say("this trainer trains again, unwatched: attach(trainer, run_dir, resume=True) to another one")
        elif step and not self.load(folder):
            self._monitor.event("resume", f"no {self._state_file} in {folder}: fixed anchors and replay begin anew")

    def after_update(self, learning_rate: float | None, *, last: bool = False) -> None:
        """An optimizer update was made. The last one on a rollout batch ends the step, on all ranks alike.

        Args:
            learning_rate: of the update.
            last: of the training.
        """
        if self._over:
            return
        self._updates += 1
        self.guard.run("recording an update", lambda: self._update(learning_rate))
        self.guard.run("holding on to the policy", self._reference.after_update)
        if generates_next(self._trainer) or last:
            self.guard.run("closing the step", self._close_step, always=True)

    def end(self) -> None:
        """The training ends: what is open becomes the last step."""
        self.guard.run("closing the step", self._close_step, always=True)
        self._over = True

    def _update(self, learning_rate: float | None) -> None:
        norm, self._grad_norm = self._grad_norm, None
        if norm is None and hasattr(self._trainer.model_wrapped, "get_global_grad_norm"):  # DeepSpeed clips by itself
            norm = self._trainer.model_wrapped.get_global_grad_norm()
        losses, self._losses, self._seen = self._losses, [], set()
        if not losses:
            raise InputError("an update without a loss in training mode: its rows are not recorded")
        loss = torch.stack(losses).sum() / (len(losses) if self._seams.scales_loss else 1)
        kl = self._logged("kl", len(losses))
        self._monitor.update(grad_norm=norm, loss=loss, learning_rate=learning_rate, kl=kl)

    def save(self, folder: Path) -> None:
        """Beside a checkpoint: the fixed anchors and what is replayed."""
        if folder.is_dir():
            torch.save({name: part.state_dict() for name, part in self._kept().items()}, folder / self._state_file)

    def load(self, folder: Path) -> bool:
        """What `save` put beside a checkpoint; whether it is there."""
        if not (folder / self._state_file).is_file():
            return False
        device = self._trainer.accelerator.device
        state = torch.load(folder / self._state_file, map_location=device, weights_only=True)
        for name, part in self._kept().items():
            if name in state:
                part.load_state_dict(state[name], device)
        return True

    @property
    def _state_file(self) -> str:
        return f"lldwatch-rank{self._trainer.accelerator.process_index}.pt"

    def _kept(self) -> dict[str, Any]:
        parts = {"probe": self._probe, "replay": self._reference.replay}
        return {name: part for name, part in parts.items() if part is not None}

    def _take_rollout(self, output: Any) -> None:
        """Mark the responses, and give the probes the batch before its first update."""
        self._rollouts += 1
        self._micro_batches = 0
        parts = fields.parts_of(output)
        masks = [fields.response_mask(fields.reader(part)) for part in parts]
        sizes, device = [len(mask) for mask in masks], masks[0].device
        first = self._trainer.accelerator.process_index * sum(sizes)
        place = torch.arange(first, first + sum(sizes), device=device)
        group = place // max(int(getattr(self._trainer, "num_generations", 1)), 1)
        marks = {
            fields.UID: torch.from_numpy(self._monitor.new_uids(sum(sizes))).to(device),
            fields.GROUP: group + (self._monitor.attempt << 48) + (self._rollouts << 20),
            fields.REWARD: self.guard.run("reading rewards", lambda: self._rewards_of(first, sum(sizes), device)),
        }
        for name, values in marks.items():
            if values is not None:
                for part, of_part in zip(parts, torch.split(values, sizes), strict=True):
                    fields.put(part, name, of_part)
        self._scalars["truncated_share"] = self._logged("completions/clipped_ratio")
        self._scalars["rollout_kl"] = fields.mismatch(fields.reader(parts[0]))
        if self._rollout is None:  # of several rollout batches before an update the first one
            self._probe_before(parts)

    def _rewards_of(self, first: int, size: int, device: torch.device) -> Tensor | None:
        """(size,) of this rank, summed with the trainer's weights; None: they are not known."""
        rewards = self._rewards if self._rewards is not None else getattr(self._trainer, SWIFT_REWARDS, None)
        if rewards is None:
            return None
        if len(rewards) != size * self._trainer.accelerator.num_processes:
            raise InputError(f"{len(rewards)} rewards for {size} responses on each rank: they cannot be told apart")
        total: Tensor = (rewards * self._trainer.reward_weights.to(rewards.device)).nansum(1)
        return total[first : first + size].float().to(device)

    def _probe_before(self, parts: list[Any]) -> None:
        self._rollout = batch, about = fields.rollout(parts, self._correct_above)
        if self._probe is not None:
            self._probe.before_update(batch, **about)
        if self._seams.liger:
            everything = held_of(batch, about["response_mask"], about["correct"], step=0)
            scored = score_all(self._scoring, everything, int(self._trainer.args.per_device_train_batch_size))
            self._observe(fields.reader(parts[0]), [(scored.log_probs, None)])

    def _read_loss(self, inputs: Any, scored: list[tuple[Tensor, Tensor | None]]) -> None:
        part = self._micro_batches % int(getattr(self._trainer.args, "steps_per_generation", None) or 1)
        self._micro_batches += 1
        repeated = part in self._seen  # several passes over a rollout batch within one update
        self._seen.add(part)
        if not (self._seams.liger or repeated):
            self._observe(fields.reader(inputs), scored)

    def _observe(self, field: fields.Field, scored: list[tuple[Tensor, Tensor | None]]) -> None:
        """Rows of a micro-batch, of the log-probs that the trainer's own loss was made of."""
        entropies = [entropy for _, entropy in scored if entropy is not None]
        rows = per_response(
            self._of_loss(scored),
            field("old_per_token_logps"),
            fields.response_mask(field),
            advantages=fields.one_a_response(field, "advantages"),
            rewards=field(fields.REWARD),
            correct=fields.correct(field, self._correct_above),
            entropy=torch.cat(entropies) if len(entropies) == len(scored) else None,
            uid=field(fields.UID),
            group=field(fields.GROUP),
            clip_range=self._clip_range,
        )
        self._monitor.observe(rows)

    def _of_loss(self, scored: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        if not scored:
            looked_for = f"{self._seams.log_probs} within compute_loss"
            raise InputError(f"{looked_for} was not called: no log-probs to be read; probes and reward are recorded")
        return torch.cat([log_probs for log_probs, _ in scored]) if len(scored) > 1 else scored[0][0]

    def _with_llds(
        self, loss: Tensor, model: Any, inputs: Any, scored: list[tuple[Tensor, Tensor | None]]
    ) -> Tensor | None:
        """The loss of a micro-batch with LLDS added to it; None: nothing is."""
        coefficient = self._monitor.llds_coefficient
        if not coefficient:
            return None
        made = self._reference.terms(model, self._of_loss(scored), inputs, self._dead_zone())
        if not made:
            return None
        whole = torch.stack([term.loss for term, _ in made]).sum()
        moved = torch.stack([term.moved_tokens for term, _ in made]).sum()
        self._monitor.llds(made[0][0]._replace(loss=whole, moved_tokens=moved))
        return loss + coefficient * torch.stack([share * term.loss for term, share in made]).sum()

    def _dead_zone(self) -> float:
        """Nats of a token: the noise that was measured, but never less than what rounding makes."""
        last = self._monitor.observation
        measured = (last.token_noise_floor if last is not None else None) or 0.0
        exact = next(self._trainer.model.parameters()).dtype == torch.float32
        return max(measured, ROUNDING[exact])

    def _close_step(self) -> None:
        """The rollout batch has had all its updates. Every rank comes here, and none may leave before `step`."""
        if not self._updates:
            return
        rollout, self._rollout = self._rollout, None
        scalars, self._scalars, updates, self._updates = self._scalars, {}, self._updates, 0
        self._holds = self._holds or self._monitor.llds_coefficient > 0
        passes = (
            self._probe is not None or self._holds
        )  # the same on all ranks: without any there is nothing to agree on
        if passes and self._all(rollout is not None and all(map(self.guard.works, _PASSES))):
            assert rollout is not None
            self.guard.run(_PASSES[0], lambda: self._probe_after(*rollout))
            if self._holds:
                self.guard.run(_PASSES[1], lambda: self._reference.take(*rollout))
        if self._holds and self._reference.replay is not None:
            self._reference.ready = self._all(len(self._reference.replay) > 0)
        self._monitor.step(self._trainer.state.global_step, updates_per_batch=updates, **scalars)

    def _all(self, mine: bool) -> bool:
        """Whether it is so on all ranks. Every rank must ask; alone it is what this one says."""
        if self._ranks is None:
            return mine
        try:
            return bool(self._ranks.decide(mine, all))
        except RanksError as error:
            self._ranks = None
            self._monitor.event("error", str(error))
            return False

    def _probe_after(self, batch: Batch, about: dict[str, Any]) -> None:
        if self._probe is not None:
            self._monitor.probe(self._probe.after_update(batch, **about))

    @property
    def _clip_range(self) -> tuple[float, float] | None:
        low, high = (getattr(self._trainer, name, None) for name in ("epsilon_low", "epsilon_high"))
        return None if low is None or high is None else (float(low), float(high))

    def _logged(self, name: str, count: int = 1) -> float | None:
        """Mean of the last values that the trainer has logged under a name; None: it has none."""
        metrics = getattr(self._trainer, "_metrics", None)
        values = metrics["train"].get(name, []) if metrics is not None and "train" in metrics else []
        return sum(values[-count:]) / len(values[-count:]) if values and count else None
