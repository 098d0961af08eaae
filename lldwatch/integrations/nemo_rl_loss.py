"""NeMo-RL's loss function with LLDS: what is sent to its workers each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lldwatch.integrations.guard import Guard
from lldwatch.llds import llds_loss
from lldwatch.rollup import ADVANTAGE_TOLERANCE

DEAD_ZONE = 0.02
"""Nats of a token. The old log-probs are scored by the same engine in other micro-batches; chosen, not measured."""

PREFIX = "lldwatch_part/"
"""Of what a loss function brings back to the driver; it does not go into NeMo-RL's logs."""

PARTS = ("llds", "moved", "positive_change", "positive_tokens", "negative_change", "negative_tokens")
ARGUMENTS = ("next_token_logprobs", "data", "global_valid_seqs", "global_valid_toks")

_GUARD = Guard()
"""Of a worker: the loss function is a new object there in each step."""


class PreservingLoss:
    """NeMo-RL's loss function of a training, with LLDS, and with the numbers that a driver wants to know.

    It has every attribute of the one that it stands for. NeMo-RL adds the metrics of all micro-batches and workers up:
    they are contributions, divided by `global_valid_toks`.

    Args:
        own: the loss function, `ClippedPGLossFn` or one with its signature.
        dead_zone: nats of a token; a difference from the old log-probs within it does not count as a fall.

    Attributes:
        coefficient: of LLDS. The driver changes it between steps.
    """

    def __init__(self, own: Any, *, dead_zone: float = DEAD_ZONE) -> None:
        self.own, self.dead_zone, self.coefficient = own, dead_zone, 0.0
        normalised = getattr(own, "metric_normalizations", None)
        if normalised:  # a trainer that calls with placeholders for the global counts asks what to multiply with
            kind = type(next(iter(normalised.values())))
            self.metric_normalizations = {**normalised, **{PREFIX + part: kind("tokens") for part in PARTS}}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "own":  # while it is unpickled there is none yet
            raise AttributeError(name)
        return getattr(self.own, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The loss and the metrics of a micro-batch, as NeMo-RL calls it."""
        loss, metrics = self.own(*args, **kwargs)
        given = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
        parts = _GUARD.run("reading the loss", lambda: self._parts(given))
        added = _GUARD.run("adding LLDS", lambda: self._llds(given)) if self.coefficient else None
        if added is not None:
            loss = loss + self.coefficient * added
        told = dict.fromkeys(PARTS, 0.0) | (parts or {}) | ({} if added is None else {"llds": added.item()})
        return loss, {**metrics, **{PREFIX + name: value for name, value in told.items()}}

    @torch.no_grad()
    def _parts(self, given: dict[str, Any]) -> dict[str, float]:
        """The likelihood change of the micro-batch, by the sign of the advantage; one transfer for all."""
        new, old, advantages, mask = self._tensors(given)
        change = torch.where(mask, new.float() - old.float(), 0.0)
        signs = advantages >= ADVANTAGE_TOLERANCE, advantages <= -ADVANTAGE_TOLERANCE
        up, down = (mask & sign for sign in signs)
        moved = ((change.abs() > self.dead_zone) & mask).sum()
        values = [moved, change[up].sum(), up.sum(), change[down].sum(), down.sum()]
        tokens = torch.as_tensor(given["global_valid_toks"]).clamp(min=1e-8)
        parts = torch.stack([value.double() for value in values]) / tokens
        return dict(zip(PARTS[1:], parts.tolist(), strict=True))

    def _llds(self, given: dict[str, Any]) -> Tensor:
        new, old, advantages, mask = self._tensors(given)
        tokens = given["global_valid_toks"]
        about: dict[str, Any] = {"dead_zone": self.dead_zone, "normaliser": "global_tokens", "global_tokens": tokens}
        return llds_loss(new, old, advantages, mask, validate=False, **about).loss

    def _tensors(self, given: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """New and old log-probs, advantages and mask: (batch, tokens - 1), since the first token has none."""
        new, data = given["next_token_logprobs"], given["data"]
        mask = (data["token_mask"][:, 1:] * data["sample_mask"][:, None]) != 0
        # what stands in prev_logprobs then was never computed
        forced = getattr(self.own, "force_on_policy_ratio", False)
        old = new.detach() if forced else data["prev_logprobs"][:, 1:]
        return new, old, data["advantages"][:, 1:], mask
