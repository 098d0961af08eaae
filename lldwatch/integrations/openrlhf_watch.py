"""What lldwatch does in the course of an OpenRLHF training, in one process of the actor.

Ranks that hold the same responses (ring attention, tensor parallel) take part in everything that is common, since each
of them computes the whole loss; one of them records rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from lldwatch.hooks import per_response
from lldwatch.integrations import openrlhf_fields as fields
from lldwatch.integrations.environment import Wanted
from lldwatch.integrations.guard import Guard
from lldwatch.integrations.loss_hook import NO_HEADLINE, Correction, of_llds
from lldwatch.monitor import Monitor
from lldwatch.probes import LikelihoodProbe
from lldwatch.rescore import Batch

_ARGUMENTS = ("log_probs", "old_log_probs", "advantages", "action_mask")


class Watch:
    """One trainer that is watched.

    Args:
        trainer: an `ActorPPOTrainer`.
        settings: what the environment asks for.
        monitor: of the run.
    """

    def __init__(self, trainer: Any, settings: Wanted, monitor: Monitor) -> None:
        self._trainer, self._settings, self._monitor = trainer, settings, monitor
        self._guard, self._correction = Guard(monitor), Correction(monitor)
        self._observes, alike = fields.place(trainer.strategy)
        self._probe = self._make_probe(alike)
        self._experience: Any = None
        self._entropy: Tensor | None = None
        self._rollout: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._scalars: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        self._micro_batches = self._updates = 0

    def found(self) -> list[str]:
        """What is recorded, and whether LLDS can act, for the start."""
        above = f"correct is a response with a reward above {self._settings.correct_above:g}"
        lines = [f"attached to ActorPPOTrainer: rows of each micro-batch, rewards and prompts; {above}"]
        if fields.argument(self._trainer, "actor.entropy_coef", "entropy_loss_coef") is None:
            lines.append("entropy is not recorded: --actor.entropy_coef 0 computes it and leaves the loss as it is")
        if self._probe is None:
            lines.append(NO_HEADLINE)
        updates = fields.updates_planned(self._trainer)
        inert = "each rollout batch is used for one update, so that it has no effect: make the train batch smaller"
        acts = "from the second update on a rollout batch on" + (f" ({updates} of them)" if updates else "")
        return [*lines, of_llds(self._settings, inert if updates == 1 else acts)]

    def around_step(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """All updates on a rollout batch."""

        @functools.wraps(own)
        def ppo_train(*args: Any, **kwargs: Any) -> Any:
            self._guard.run("reading the rollout batch", self._begin)
            if self._probe is not None and self._rollout is not None:
                self._probe.before_update(self._rollout[0], **self._rollout[1])
            status = own(*args, **kwargs)
            self._guard.run("probing", self._rescore)
            self._guard.run("closing the step", self._close)
            if isinstance(status, dict):
                status.update(self._guard.run("forwarding to the logger", self._monitor.metrics) or {})
            return status

        return ppo_train

    def around_micro_batch(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """Forward, loss, backward and perhaps the optimizer's step."""

        @functools.wraps(own)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            self._experience, self._entropy = args[0] if args else kwargs.get("experience"), None
            made = self._updates_of_engine()
            try:
                status = own(*args, **kwargs)
            finally:
                self._experience = self._entropy = None
            self._guard.run("counting an update", lambda: self._after_micro_batch(made, status))
            return status

        return training_step

    def of_actor(self, module: Any, args: Any, output: Any) -> None:
        """After a forward pass of the actor: the entropies go beside the log-probs, if they were asked for."""
        if self._experience is not None and isinstance(output, tuple):
            self._entropy = getattr(output[-1], "entropy", None)

    def of_loss(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After the policy loss of a micro-batch: it is observed, and LLDS is added while it is switched on."""
        if self._experience is None or not torch.is_grad_enabled():
            return None
        given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
        if self._observes:
            self._guard.run("reading the loss", lambda: self._observe(module, given))
        added = self._guard.run("adding LLDS", lambda: self._llds(given))
        if added is None:
            return None
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    def _begin(self) -> None:
        """Name the responses of the rollout batch, and take what the probes need of it."""
        self._rollout, self._scalars = None, {}
        items = list(getattr(getattr(self._trainer, "replay_buffer", None), "items", ()))
        uids = self._monitor.new_uids(len(items))
        fields.name_responses(items, uids)
        if truncated := [float(item.truncated) for item in items if getattr(item, "truncated", None) is not None]:
            self._scalars["truncated_share"] = sum(truncated) / len(truncated)
        if self._probe is not None:
            self._rollout = fields.rescorable(items, self._settings.correct_above, uids)

    def _observe(self, loss: Any, given: dict[str, Any]) -> None:
        experience, mask = self._experience, given["action_mask"]
        rewards = fields.rewards_of(experience, len(mask))
        rows = per_response(
            given["log_probs"],
            given["old_log_probs"],
            mask,
            advantages=given["advantages"],
            rewards=rewards,
            correct=None if rewards is None else rewards > self._settings.correct_above,
            entropy=None if self._entropy is None else self._entropy[:, -mask.shape[1] :],
            uid=fields.uids_of(experience, len(mask)),
            group=fields.groups_of(getattr(experience, "prompts", None), len(mask)),
            clip_range=fields.clip_range(loss),
        )
        self._monitor.observe(rows)

    def _llds(self, given: dict[str, Any]) -> Tensor | None:
        """What is to be added; a mean over tokens, as OpenRLHF has it with `token-mean`."""
        mask = given["action_mask"]
        penalty = self._correction.token_sum(given["log_probs"], given["old_log_probs"], given["advantages"], mask)
        if penalty is None:
            return None
        tokens = given.get("batch_num_tokens")  # of the update, over all ranks and micro-batches; since 0.11
        mean: Tensor
        mean = penalty / mask.sum().clamp(min=1) if tokens is None else penalty / tokens * given.get("dp_size", 1)
        return self._monitor.llds_coefficient * mean

    def _after_micro_batch(self, made_before: int | None, status: Any) -> None:
        told = status.get("metrics", status)
        self._losses.append(torch.as_tensor(told["policy_loss"]).detach())
        self._micro_batches += 1
        made = self._updates_of_engine()
        if made is None:
            made_update = self._micro_batches % max(getattr(self._trainer.strategy, "accumulated_gradient", 1), 1) == 0
        else:
            made_update = made != made_before
        if not made_update:
            return
        losses, self._losses, self._updates = self._losses, [], self._updates + 1
        self._monitor.update(
            loss=torch.stack(losses).mean(),
            grad_norm=self._grad_norm(told),
            learning_rate=told.get("actor_lr"),
            rollout_kl=told.get("vllm_kl"),
        )
        self._correction.updated()

    def _rescore(self) -> None:
        if self._probe is not None and self._rollout is not None:
            probes = self._probe.after_update(self._rollout[0], **self._rollout[1])
            if self._observes:
                self._monitor.probe(probes)

    def _close(self) -> None:
        """Every rank comes here, and none may leave before `step`."""
        updates, self._updates, self._losses, self._rollout = self._updates, 0, [], None
        self._correction.step_ended()
        self._monitor.step(updates_per_batch=updates, **self._scalars)

    def _make_probe(self, alike: int) -> LikelihoodProbe | None:
        """Each rank makes it, or none: the ranks score together."""
        actor, preset = getattr(self._trainer, "actor", None), self._settings.probes or "economy"
        held = hasattr(self._trainer, "replay_buffer")
        if actor is None or not held or preset == "off" or getattr(actor, "is_vlm", False):
            return None
        probe = LikelihoodProbe(self._score, preset, micro_batch=max(int(self._trainer.micro_train_batch_size), 1))
        size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        probe.plan = probe.plan.among(max(size // alike, 1))
        return probe

    def _score(self, batch: Batch) -> Tensor:
        """(responses, tokens), nats; what is padding in all of them does not go through the model."""
        actor = self._trainer.actor
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        sequences, attention, actions = (batch[name].to(device) for name in fields.SCORED)
        beyond = sequences.shape[1] - int(attention.any(0).nonzero().max()) - 1
        parts = [part[:, : part.shape[1] - beyond] for part in (sequences, actions, attention)]
        training = actor.training
        actor.eval()
        try:
            ring = getattr(self._trainer.strategy, "ring_attn_group", None)
            log_probs = actor(parts[0], parts[1], attention_mask=parts[2], ring_attn_group=ring)
        finally:
            actor.train(training)
        return pad(log_probs.float().cpu(), (0, beyond))

    def _updates_of_engine(self) -> int | None:
        """Optimizer steps that DeepSpeed has made."""
        made = getattr(self._engine, "global_steps", None)
        return made if isinstance(made, int) else None

    def _grad_norm(self, told: dict[str, Any]) -> Any:
        """Before clipping. OpenRLHF says 0 where DeepSpeed has none (ZeRO stage 0), which is no gradient of zero."""
        ask = getattr(self._engine, "get_global_grad_norm", None)
        return told.get("actor_grad_norm") if ask is None else ask()

    @property
    def _engine(self) -> Any:
        return getattr(getattr(self._trainer, "actor", None), "model", None)
