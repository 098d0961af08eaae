"""LLDS in TRL: the term on the trainer's own batch, or on earlier responses, in TRL's normalisation.

TRL averages over the policy tokens of the whole rollout batch on all ranks (`num_items_in_batch`), so that the loss is
the same for any number of micro-batches; the term on the trainer's batch is divided by the same number. A term on
replayed responses makes its own forward pass in the same backward. There is no collective of ours in the loss.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.integrations import swift_batches
from lldwatch.integrations import trl_fields as fields
from lldwatch.integrations.trl_seams import LOG_PROBS, Seams
from lldwatch.llds import Gate, LldsTerm, llds_loss
from lldwatch.references import LaggedPolicy, Replay
from lldwatch.rescore import Batch, without_dropout

REFERENCES = ("old", "lagged", "replay", "both")


class Scoring:
    """Scores responses by the trainer's own method, as it was before it was wrapped.

    Args:
        trainer: a GRPO trainer.
        seams: what was found on it.
    """

    def __init__(self, trainer: Any, seams: Seams) -> None:
        self._trainer, self._own = trainer, getattr(trainer, seams.log_probs)

    def __call__(self, batch: Batch) -> Tensor:
        """(responses, tokens), nats, under the policy as it is now, without dropout."""
        with without_dropout(self._trainer.model):
            return self.with_gradient(self._trainer.model, batch)

    def with_gradient(self, model: Any, batch: Batch) -> Tensor:
        """(responses, tokens), nats, as the trainer's loss has them.

        Args:
            model: that the loss was given: on many ranks the one that brings the gradients together.
            batch: as `trl_fields.rollout` makes it.
        """
        scored = self._of_swift(model, batch) if "kept" in batch else self._of_trl(model, batch)
        log_probs: Tensor = scored[0] if isinstance(scored, tuple) else scored
        return log_probs

    def _of_trl(self, model: Any, batch: Batch) -> Any:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        return self._own(model, ids, mask, batch["completion_ids"].shape[1])

    def _of_swift(self, model: Any, batch: Batch) -> Any:
        """By the part of it that makes one forward pass; the other asks all ranks how large their batches are."""
        own = getattr(self._trainer, f"{LOG_PROBS[0]}_single", self._own)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return own(model, inputs, SimpleNamespace(logits_to_keep=batch["kept"].shape[1], seq_lengths=None))


class Reference:
    """What LLDS compares with, in a TRL training.

    Args:
        kind: "old": the batch's own log-probs before its updates (the paper); "lagged": the batch under the policy some
            updates ago; "replay": correct responses of earlier batches; "both": "old" and "replay".
        trainer: that is watched.
        seams: what was found on it.
        scoring: scores responses.
        gate: of LLDS.
        share: replayed responses beside each micro-batch, as a share of its responses.
        lag: updates, of the lagged policy.

    Attributes:
        replay: earlier responses; None: of another kind.
        ready: all ranks have something to replay.

    Raises:
        InputError: there is no such reference, or the share is not above 0.
    """

    def __init__(
        self, kind: str, trainer: Any, seams: Seams, scoring: Scoring, *, gate: Gate, share: float, lag: int
    ) -> None:
        if kind not in REFERENCES:
            raise InputError(f"reference={kind!r}: expected one of {', '.join(REFERENCES)}")
        if not share > 0:
            raise InputError(f"replay_share={share!r}: expected a share above 0")
        self._trainer, self._seams, self._scoring, self._gate = trainer, seams, scoring, gate
        size = int(trainer.args.per_device_train_batch_size)
        self._drawn = max(round(share * size), 1)
        self._batch_too = kind != "replay"
        self.replay = _replay(trainer, 4 * self._drawn, size) if kind in ("replay", "both") else None
        self._lagged = LaggedPolicy(trainer.model, lag) if kind == "lagged" else None
        self.ready = False

    def price(self, micro_batches: int) -> str | None:
        """What it costs, in words; None: nothing.

        Args:
            micro_batches: of a step.
        """
        if self.replay is not None:
            return self.replay.price(self._drawn, micro_batches)
        return None if self._lagged is None else self._lagged.price()

    def after_update(self) -> None:
        """After each optimizer update."""
        if self._lagged is not None:
            self._lagged.after_update()

    def take(self, batch: Batch, about: dict[str, Any]) -> None:
        """After the last update on a rollout batch: keep its correct responses, if they are to be replayed."""
        if self.replay is not None:
            mask, correct = about["response_mask"], about["correct"]
            many, size = (
                self._trainer.accelerator.num_processes > 1,
                int(self._trainer.args.per_device_train_batch_size),
            )
            passes = -(-(self.replay.at_most or 0) // size) if many else 0  # as many on all ranks
            self.replay.take(self._scoring, batch, response_mask=mask, correct=correct, passes=passes)

    def terms(self, model: Any, log_probs: Tensor, inputs: Any, dead_zone: float) -> list[tuple[LldsTerm, float]]:
        """The terms of one micro-batch, each with its share of the update's; none while there is nothing to hold on to.

        Args:
            model: that the loss was given.
            log_probs: (batch, tokens), nats, with gradient.
            inputs: that the loss was given.
            dead_zone: nats of a token.
        """
        # where transformers does not divide the loss by the number of micro-batches, TRL does it, and so must this
        parts = 1 if self._seams.scales_loss else int(getattr(self._trainer, "current_gradient_accumulation_steps", 1))
        made = [self._on_batch(log_probs, inputs, dead_zone)] if self._batch_too else []
        replayed = self._on_replayed(model, dead_zone) if self.ready else None
        return [(term, 1 / parts) for term in (*made, replayed) if term is not None]

    def _on_replayed(self, model: Any, dead_zone: float) -> LldsTerm | None:
        earlier = None if self.replay is None else self.replay.draw(self._drawn)
        if earlier is None:
            return None
        return llds_loss(
            self._scoring.with_gradient(model, earlier.batch),
            earlier.log_probs,
            None,
            earlier.response_mask,
            gate=self._gate,
            preserve=earlier.preserve,
            dead_zone=dead_zone,
            validate=False,
        )

    def _on_batch(self, log_probs: Tensor, inputs: Any, dead_zone: float) -> LldsTerm:
        field = fields.reader(inputs)
        mask, old = fields.trusted_mask(field), field("old_per_token_logps")
        if self._lagged is not None:
            old = self._lagged.log_probs(self._scoring, fields.scored_part(inputs), mask)
        tokens = self._tokens(field("num_items_in_batch"))
        return llds_loss(
            log_probs,
            log_probs.detach() if old is None else old,
            fields.one_a_response(field, "advantages"),
            mask,
            gate=self._gate,
            dead_zone=dead_zone,
            normaliser="response_tokens" if tokens is None else "global_tokens",
            global_tokens=tokens,
            validate=False,
        )

    def _tokens(self, of_all: Any) -> Tensor | None:
        """Policy tokens of a micro-batch, mean over rollout batch and ranks; None: TRL before 0.22 has no count."""
        if of_all is None:
            return None
        per_generation = getattr(self._trainer.args, "steps_per_generation", None) or 1
        tokens: Tensor = torch.as_tensor(of_all).float()
        share: Tensor = tokens / (self._trainer.accelerator.num_processes * per_generation)
        return share


def _replay(trainer: Any, at_most: int, micro_batch: int) -> Replay:
    """TRL fills prompts up on the left and responses on the right; rows of ms-swift all end where the tensor ends."""
    swift = hasattr(trainer, swift_batches.TRAINER_HAS)
    pad = getattr(trainer, "pad_token_id", None) or getattr(trainer.processing_class, "pad_token_id", None) or 0
    return Replay(
        at_most=at_most,
        micro_batch=micro_batch,
        pad_values={"prompt_ids": pad, "completion_ids": pad},
        pad_left=("prompt_ids", "prompt_mask", *swift_batches.NAMES) + (("response_mask",) if swift else ()),
    )
