"""Re-score responses in verl: without it the headline, the change of what an update was not shown, cannot be had.

It goes through the function that verl itself scores old log-probs with (`TrainingWorker.infer_batch`), before the first
and after the last update of a rollout batch. Every process of the actor makes the same number of forward passes, as
sharded models want it. It is off unless `LLDWATCH_PROBES` asks for it: an out-of-memory in one process alone, in the
middle of a sharded forward pass, is more than can be caught. Pictures and the like are not re-scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lldwatch.integrations.verl_batch import Rollout, field_of, padded
from lldwatch.probes import LikelihoodProbe
from lldwatch.rescore import Batch, Score, without_dropout
from lldwatch.rollup import ADVANTAGE_TOLERANCE
from lldwatch.schema import Probes

SETTINGS = ("temperature", "pad_mode", "pad_token_id")
"""Of a rollout batch, which its log-probs depend on."""

MICRO_BATCH = 8
"""Responses at a time, where verl's own number is not set."""


@dataclass(frozen=True, slots=True)
class Rescoring:
    """The probes of one step.

    Attributes:
        probe: of all steps.
        batch: what its score needs.
        about: what else it wants to know.
        within: what the passes through the model are made in.
    """

    probe: LikelihoodProbe
    batch: Batch
    about: dict[str, Any]
    within: Callable[[], AbstractContextManager[Any]]

    def before(self) -> None:
        """Before the step's first update."""
        if self.probe.plan.post_update:
            with self.within():
                self.probe.before_update(self.batch, **self.about)

    def after(self) -> Probes:
        """After its last one: the rows."""
        with self.within():
            return self.probe.after_update(self.batch, **self.about)


def probe_of(score: Score, preset: str, micro_batch: int | None, ranks: int) -> LikelihoodProbe:
    """A probe whose plan holds for all data-parallel ranks together.

    Args:
        score: batch -> log-probs.
        preset: `economy`, `standard`, `full`.
        micro_batch: responses at a time; None: `MICRO_BATCH`.
        ranks: data-parallel ones.
    """
    probe = LikelihoodProbe(score, preset, micro_batch=micro_batch or MICRO_BATCH)
    probe.plan = probe.plan.among(max(ranks, 1))
    return probe


def about_of(rollout: Rollout, mask: Tensor, advantages: Tensor, correct_above: float) -> dict[str, Any]:
    """What a probe wants to know of the rollout batch.

    Args:
        rollout: of this process.
        mask: (responses, tokens).
        advantages: (responses, tokens).
        correct_above: reward above which a response is correct.
    """
    rewards = rollout.columns.get("rewards")
    if rewards is None:
        tokens = (mask != 0).sum(-1).clamp(min=1)
        correct = torch.where(mask != 0, advantages, 0.0).sum(-1) / tokens >= ADVANTAGE_TOLERANCE
    else:
        correct = rewards.to(mask.device) > correct_above
    others: dict[str, Any] = {name: rollout.columns[name] for name in ("uid", "group") if name in rollout.columns}
    return {"response_mask": mask, "correct": correct & (mask != 0).any(-1), "advantages": advantages, **others}


def engine_batch(data: Any) -> dict[str, Tensor] | None:
    """What `engine_score` needs, as tensors with one row a response; None: responses like these are not re-scored.

    It depends on the kind of the batch alone, so that all processes come to the same answer.

    Args:
        data: a rollout batch of the engine workers, whose `input_ids` are nested.
    """
    ids, positions, prompts = (field_of(data, name) for name in ("input_ids", "position_ids", "prompts"))
    nested = all(isinstance(rows, Tensor) and rows.is_nested and rows.dim() == 2 for rows in (ids, positions))
    if not nested or prompts is None:
        return None
    if prompts.is_nested:
        prompt_tokens = prompts.offsets().diff()
    else:
        prompt_tokens = field_of(data, "attention_mask")[:, : prompts.shape[1]].sum(-1)
    return {
        "input_ids": padded(ids),
        "position_ids": padded(positions),
        "tokens": ids.offsets().diff(),
        "prompt_tokens": prompt_tokens,
        "response_mask": padded(field_of(data, "response_mask")),
    }


def sees_pictures(worker: Any) -> bool:
    """The model of an engine worker takes more than text."""
    config = getattr(worker.model_config, "hf_config", None)
    return any(getattr(config, name, None) is not None for name in ("vision_config", "audio_config"))


def engine_score(worker: Any, data: Any) -> Score:
    """Score with an engine worker, as verl scores old log-probs.

    Args:
        worker: a `TrainingWorker`.
        data: a rollout batch, for its settings.
    """
    settings = {name: value for name in SETTINGS if (value := field_of(data, name)) is not None}
    settings |= {"compute_loss": False, "calculate_entropy": False, "disable_auto_offload": True}
    fixed = not getattr(worker.engine_config, "use_dynamic_bsz", False)

    def score(batch: Batch) -> Tensor:
        sizes = batch["tokens"].tolist()
        rows = {
            name: _nested([row[:size] for row, size in zip(batch[name], sizes, strict=True)])
            for name in ("input_ids", "position_ids")
        }
        rows["loss_mask"] = _nested([torch.ones(size, dtype=torch.int64) for size in sizes])
        asked = type(data)(rows, batch_size=[len(sizes)])
        more = {"micro_batch_size_per_gpu": len(sizes)} if fixed else {}
        for name, value in {**settings, **more}.items():
            asked.set_non_tensor(name, value)
        output = worker.infer_batch(asked)
        found = torch.zeros(batch["response_mask"].shape)
        if output is None:  # this process has no outputs: it has made the pass with the others
            return found
        for row, log_probs, start in zip(
            found, output["log_probs"].unbind(), batch["prompt_tokens"].tolist(), strict=True
        ):
            own = log_probs[start - 1 : -1]  # the log-prob of a token stands at the one before it
            row[: len(own)] = own
        return found

    return score


def _nested(rows: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def dense_batch(data: Any) -> dict[str, Tensor]:
    """The same for `dense_score`: what a `DataParallelPPOActor` scores, padded."""
    names = ("responses", "input_ids", "attention_mask", "position_ids")
    return {name: field_of(data, name) for name in names}


def dense_mask(data: Any) -> Tensor:
    """The policy tokens of a rollout batch of a `DataParallelPPOActor`, (responses, tokens)."""
    width = field_of(data, "responses").shape[-1]
    known = (field_of(data, name) for name in ("loss_mask", "response_mask", "attention_mask"))
    mask: Tensor = next(mask for mask in known if mask is not None)
    return mask[:, -width:]


def dense_score(actor: Any, data: Any) -> Score:
    """Score with a `DataParallelPPOActor`.

    Args:
        actor: of this process.
        data: a rollout batch, for its temperature.
    """
    temperature = field_of(data, "temperature")

    def score(batch: Batch) -> Tensor:
        device = next(actor.actor_module.parameters()).device
        with without_dropout(actor.actor_module):
            given = actor._forward_micro_batch(
                {name: tensor.to(device) for name, tensor in batch.items()}, temperature=temperature
            )
        log_probs: Tensor = given["log_probs"] if isinstance(given, dict) else given[1]
        return log_probs

    return score


@contextmanager
def resharded(actor: Any) -> Iterator[None]:
    """After the block the root's gathered weights are let go, which a pass without a backward one leaves behind."""
    try:
        yield
    finally:
        handle = getattr(actor.actor_module, "_handle", None)
        if handle is not None and dist.is_initialized() and dist.get_world_size() > 1:
            handle.reshard(True)  # as verl does
