"""Supervised pre-training: from random weights to a base policy that searches, reads and is right about half the time.

Why it exists: GRPO needs a start from which some responses of a group are right and some are wrong, and the collapse
shows as a fall of likelihood only on a *confident* base. Demonstrations of mixed quality in mostly one wording give
both. The first half mostly practises reading, without which there is nothing to reinforce. It takes some 20 s, so the
result is kept on disk under a hash of everything that made it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lldwatch.search_world import task
from lldwatch.search_world.policy import Policy
from lldwatch.search_world.threads import one_thread

log = logging.getLogger("lldwatch")


@dataclass(frozen=True)
class PretrainSettings:
    """Everything the base policy depends on, beside the task's version.

    Attributes:
        seed: of the weights and of the demonstrations.
        steps: optimizer steps.
        batch_size: demonstrations in each.
        learning_rate: its peak; linear warm-up to it, then linear to a tenth of it.
        warmup_steps: steps of the warm-up.
        practice: share of retrieval practice among the demonstrations in the first half (a fifth of it afterwards).
        faulty: share of faulty demonstrations.
        canonical: probability that a thought is worded canonically.
    """

    seed: int = 0
    steps: int = 500
    batch_size: int = 64
    learning_rate: float = 4e-3
    warmup_steps: int = 50
    practice: float = 0.5
    faulty: float = 0.4
    canonical: float = 0.85


def base_policy(
    settings: PretrainSettings = PretrainSettings(),
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Policy:
    """The pre-trained policy of these settings: read from the cache, or trained and put there.

    Args:
        settings: what to train.
        cache_dir: where it is kept; default $LLDWATCH_CACHE, $XDG_CACHE_HOME/lldwatch or ~/.cache/lldwatch.
        progress: called as ``progress(steps done, all steps)`` while training; not called when read from the cache.

    Returns:
        A policy of its own: training it further does not change the cached one.
    """
    path = cache_path(settings, cache_dir)
    policy = _new_policy(settings)
    if path.is_file():
        try:
            policy.load_state_dict(torch.load(path, weights_only=True))
            return policy
        except Exception as error:  # torch.load raises a dozen types on a damaged file; any of them means: rebuild
            log.warning("lldwatch: rebuilding the damaged cache file %s (%s)", path, type(error).__name__)
            policy = _new_policy(settings)
    train_supervised(policy, settings, progress)
    try:
        _write_atomically(policy, path)
    except OSError as error:
        log.warning("lldwatch: %s cannot be written (%s): the policy is trained again next time", path, error.strerror)
    return policy


def cache_path(settings: PretrainSettings, cache_dir: str | Path | None = None) -> Path:
    """The file that holds the base policy of these settings; `cache_dir` as in `base_policy`."""
    if cache_dir is None:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lldwatch"
        cache_dir = os.environ.get("LLDWATCH_CACHE") or default
    key = json.dumps({"task": task.VERSION, "vocabulary": task.VOCABULARY, **dataclasses.asdict(settings)})
    return Path(cache_dir) / f"search-world-base-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"


def train_supervised(
    policy: Policy, settings: PretrainSettings, progress: Callable[[int, int], None] | None = None
) -> None:
    """Trains `policy` in place on demonstrations drawn from the settings' seed."""
    rng = np.random.default_rng([settings.seed, 1])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.learning_rate)
    with one_thread():
        for step in range(settings.steps):
            optimizer.param_groups[0]["lr"] = settings.learning_rate * schedule(step, settings)
            tokens, trained = demonstrations(settings, step, rng)
            logits, _ = policy(tokens[:, :-1])
            loss = cross_entropy(logits[trained[:, 1:]], tokens[:, 1:][trained[:, 1:]])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            if progress is not None:
                progress(step + 1, settings.steps)


def schedule(step: int, settings: PretrainSettings) -> float:
    """The learning rate of a step (from 0), as a share of its peak."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 1.0 - 0.9 * done


def demonstrations(settings: PretrainSettings, step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch for one pre-training step.

    Returns:
        Token ids (B, T) int64, padded on the right, and which of them are trained on (B, T) bool.
    """
    practice = settings.practice * (1.0 if 2 * step < settings.steps else 0.2)
    tokens = np.full((settings.batch_size, task.MAX_TOKENS), task.PAD)
    trained = np.zeros((settings.batch_size, task.MAX_TOKENS), dtype=bool)
    for row in range(settings.batch_size):
        prompt = task.draw_prompt(rng)
        if rng.random() < practice:
            sequence, mask = task.retrieval_practice(prompt, rng)
        else:
            sequence, mask = task.demonstration(prompt, rng, settings.faulty, settings.canonical)
        tokens[row, : len(sequence)], trained[row, : len(mask)] = sequence, mask
    longest = int(np.flatnonzero(trained.any(axis=0))[-1]) + 1
    return torch.from_numpy(tokens[:, :longest]), torch.from_numpy(trained[:, :longest])


def _new_policy(settings: PretrainSettings) -> Policy:
    return Policy(len(task.VOCABULARY), task.MAX_TOKENS, seed=settings.seed)


def _write_atomically(policy: Policy, path: Path) -> None:
    # Two processes may build the same base at once: each writes its own file, and the last rename wins whole.
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(policy.state_dict(), file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
