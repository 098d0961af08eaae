"""What lldwatch does in the course of a slime training, in one process.

Every rank takes part in what is common, also those of earlier pipeline stages, which never call the loss; rows come
from tensor-parallel rank 0. With context parallelism a response is spread over ranks: nothing is read there, since
gates and rows would need a collective in the loss.
"""

from __future__ import annotations

import functools
import importlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lldwatch.course import Together
from lldwatch.hooks import per_response
from lldwatch.integrations.environment import Wanted
from lldwatch.integrations.guard import Guard
from lldwatch.integrations.loss_hook import (
    ENGINE_NOISE,
    NO_HEADLINE,
    Correction,
    all_ranks,
    announce,
    of_llds,
    open_run,
)
from lldwatch.monitor import Monitor
from lldwatch.ranks import Ranks

LOSSES = "slime.backends.megatron_utils.loss"
SCORE = "get_log_probs_and_entropy"
GROUPS = "slime.utils.distributed_utils"
REWARDS = "lldwatch.integrations.slime.rollout_data"

_SEEN = "lldwatch_added"
"""In a micro-batch whose loss was read: whether LLDS was added. slime recomputes the loss of the same dict."""


class Watch:
    """One process of a slime training that is watched.

    Args:
        settings: what the environment asks for.
    """

    def __init__(self, settings: Wanted) -> None:
        self._settings, self._guard = settings, Guard()
        self._monitor: Monitor | None = None
        self._correction: Correction | None = None
        self._opened = False
        self._rollout: int | None = None
        self._norms: list[Any] = []
        self._rewards: dict[int, tuple[weakref.ref[Any], float, int]] = {}

    @property
    def coefficient(self) -> float:
        """Of LLDS; the same on all ranks."""
        return 0.0 if self._monitor is None else self._monitor.llds_coefficient

    def before_update(self, args: Any, rollout_id: int, step_id: int, optimizer: Any) -> None:
        """An update begins, and with it perhaps a rollout: the one before is closed. Every rank comes here."""
        if not self._opened:
            self._opened = True
            self._guard.run("opening the run", lambda: self._open(args))
        if self._monitor is None:
            return
        self._guard.run("reading the gradient norm", lambda: self._listen(optimizer))
        if self._rollout is not None:
            self._guard.run("counting an update", self._after_update)
        if self._rollout is not None and rollout_id != self._rollout:
            self._guard.run("closing the step", self._close)
        self._rollout = rollout_id

    def of_loss(
        self, args: Any, batch: Any, scored: list[dict[str, Any]], reduce: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        """Record a micro-batch; the LLDS term in slime's reduction, or None."""
        if self._monitor is None or not scored or not torch.is_grad_enabled():
            return None

        def llds() -> Tensor | None:
            return self._llds(args, batch, scored[-1]["log_probs"], reduce)

        if _SEEN in batch:  # torch ends a recomputation by an exception in its midst, which no guard may keep
            return llds() if batch[_SEEN] else None
        self._guard.run("reading the loss", lambda: self._observe(args, batch, scored[-1]))
        added = self._guard.run("adding LLDS", llds)
        batch[_SEEN] = added is not None
        return added

    def take_rewards(self, args: Any, data: dict[str, Any]) -> None:
        """Rewards and prompts of a rollout, by the token tensors that go into the micro-batches as they are."""
        self._guard.run("reading the rewards", lambda: self._take_rewards(args, data))

    def _take_rewards(self, args: Any, data: dict[str, Any]) -> None:
        tokens, rewards = data["tokens"], data.get("raw_reward", data["rewards"])
        if len(rewards) != len(tokens):  # those of all ranks
            rewards = [rewards[place] for place in data["partition"]]
        each = max(int(getattr(args, "n_samples_per_prompt", 1)), 1)
        prompts = [-1 if index is None else int(index) // each for index in data["sample_indices"]]
        about = zip(tokens, rewards, prompts, strict=True)
        self._rewards = {id(part): (weakref.ref(part), float(reward), prompt) for part, reward, prompt in about}

    def _open(self, args: Any) -> None:
        ranks = _ranks()
        self._monitor = self._guard.monitor = open_run(
            "slime", self._settings, ranks=ranks, config=vars(args) if hasattr(args, "__dict__") else None
        )
        if self._monitor is None:
            return
        engine = getattr(args, "use_rollout_logprobs", False)
        self._correction = Correction(self._monitor, ENGINE_NOISE if engine else None)
        announce(self._monitor, _found(args, self._settings), rank=0 if ranks is None else ranks.rank)

    def _listen(self, optimizer: Any) -> None:
        """Megatron's optimizer returns whether it stepped, the gradient norm, and zeros in the gradient."""
        own = optimizer.step
        if getattr(own, "lldwatch", False):
            return

        @functools.wraps(own)
        def step(*args: Any, **kwargs: Any) -> Any:
            result = own(*args, **kwargs)
            if isinstance(result, tuple) and len(result) > 1:
                self._norms.append(result[1])
            return result

        step.lldwatch = True  # type: ignore[attr-defined]  # wrapped once
        optimizer.step = step

    def _after_update(self) -> None:
        assert self._monitor is not None
        assert self._correction is not None
        norms, self._norms = self._norms, []
        self._monitor.update(grad_norm=norms[-1] if norms else None)
        self._correction.updated()

    def _close(self) -> None:
        """Every rank comes here, and none may leave before `step`."""
        assert self._monitor is not None
        assert self._correction is not None
        self._correction.step_ended()
        self._monitor.step(self._rollout)

    def _observe(self, args: Any, batch: Any, scored: dict[str, Any]) -> None:
        if _parallel() != (0, 1):
            return
        assert self._monitor is not None
        old, entropy = _old(args, batch), scored.get("entropy")
        new = _padded(scored["log_probs"])
        known = [self._rewards.get(id(part)) for part in batch.get("unconcat_tokens") or ()]
        mine = [found for found in known if found is not None and found[0]() is not None]
        told = len(mine) == len(new)
        rewards = torch.tensor([reward for _, reward, _ in mine], device=new.device) if told else None
        rows = per_response(
            new,
            None if old is None else _padded(old),
            _padded(batch["loss_masks"]),
            advantages=_padded(batch["advantages"]),
            rewards=rewards,
            correct=None if rewards is None else rewards > self._settings.correct_above,
            entropy=None if entropy is None else _padded(entropy),
            group=torch.tensor([prompt for _, _, prompt in mine]) if told else None,
            clip_range=_clip_range(args),
        )
        self._monitor.observe(rows)

    def _llds(
        self, args: Any, batch: Any, log_probs: Sequence[Tensor], reduce: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        """Each sample's penalty is spread over its tokens, so that slime's own reduction weighs the samples."""
        if self._correction is None or not self.coefficient or _parallel()[1] > 1:
            return None
        old, spread = _old(args, batch), []
        for place, new in enumerate(log_probs):
            before, mask = None if old is None else old[place][None], batch["loss_masks"][place]
            penalty = self._correction.token_sum(new[None], before, batch["advantages"][place][None], mask[None])
            if penalty is None:
                return None
            spread.append((penalty / (mask != 0).sum().clamp(min=1)).expand(len(new)))
        return reduce(torch.cat(spread)) if spread else None


class _Ranks(Ranks):
    """Over slime's gloo group, asked for each time: with --offload-train slime remakes all groups between rollouts."""

    def __init__(self, group: Callable[[], Any]) -> None:
        self.rank, self.size, self._first = dist.get_rank(), dist.get_world_size(), 0
        self._of_the_moment = group

    @property
    def _group(self) -> Any:
        return self._of_the_moment()


def _ranks() -> Together | None:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    try:
        group = importlib.import_module(GROUPS).get_gloo_group
    except (ImportError, AttributeError):
        return all_ranks()
    return _Ranks(group)


def _parallel() -> tuple[int, int]:
    """Rank in the tensor-parallel group, and size of the context-parallel one."""
    try:
        mpu = importlib.import_module("megatron.core").mpu
    except (ImportError, AttributeError):
        return 0, 1
    return mpu.get_tensor_model_parallel_rank(), mpu.get_context_parallel_world_size()


def _old(args: Any, batch: Any) -> list[Tensor] | None:
    """One tensor a sample; None: slime takes the current ones."""
    name = "rollout_log_probs" if getattr(args, "use_rollout_logprobs", False) else "log_probs"
    return batch.get(name) or None


def _clip_range(args: Any) -> tuple[float, float] | None:
    low = getattr(args, "eps_clip", None)
    high = getattr(args, "eps_clip_high", None)
    return None if low is None else (float(low), float(low if high is None else high))


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """(samples, tokens), filled up on the right."""
    return pad_sequence(list(parts), batch_first=True)


def _found(args: Any, settings: Wanted) -> list[str]:
    """What is recorded, and whether LLDS can act, for the start."""
    lines = ["attached to slime: rows of each micro-batch, entropy and gradient norm; a step is a rollout"]
    if not hasattr(importlib.import_module(LOSSES), SCORE):
        lines.append(f"looked for {SCORE} in {LOSSES}, found none: neither rows nor LLDS")
    if _parallel()[1] > 1:
        lines.append("context parallelism splits responses over ranks: neither rows nor LLDS")
    if getattr(args, "rollout_data_postprocess_path", None) != REWARDS:
        ours = f"--rollout-data-postprocess-path {REWARDS}"
        lines.append(f"no rewards and prompts without {ours}; a sample with a positive advantage counts as correct")
    batch, size = getattr(args, "rollout_batch_size", 0), getattr(args, "global_batch_size", 0)
    updates = batch * getattr(args, "n_samples_per_prompt", 1) // size if batch and size else None
    acts = "from the second update on a rollout on" + (f" ({updates} of them)" if updates else "")
    if getattr(args, "use_rollout_logprobs", False):
        acts = "against the inference engine's log-probs"
    elif updates == 1:
        acts = "each rollout is used for one update, so that it has no effect: make --global-batch-size smaller"
    return [*lines, NO_HEADLINE, of_llds(settings, acts)]
