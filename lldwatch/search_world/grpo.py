"""A plain GRPO loop, as a user's own would be, watched by lldwatch.

Why it exists: it is the miniature's experiment, and the example of how little lldwatch asks of a loop. Both scenarios
are the same GRPO; `collapse` only takes four passes over each rollout batch instead of one, 16 optimizer updates
instead of 4. That reuse pushes up what is in the batch and quietly displaces the correct responses which are not: the
run dies by Lazy Likelihood Displacement, while the gradient norm looks well.

lldwatch only looks on: it draws no random number and changes no tensor, so a run is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lldwatch import Monitor
from lldwatch.hooks import per_response
from lldwatch.probes import CrossUpdateProbe
from lldwatch.search_world import task
from lldwatch.search_world.policy import Policy
from lldwatch.search_world.rollout import Rollout, rollout
from lldwatch.search_world.threads import one_thread


@dataclass(frozen=True)
class Scenario:
    """Settings of a GRPO run.

    Attributes:
        name: what it is called on the command line.
        epochs: passes over each rollout batch.
        mini_batches: optimizer updates in one pass.
        prompts: prompts in a rollout batch.
        responses: responses to each prompt (the group).
        learning_rate: after the warm-up.
        warmup_steps: rollout batches over which the learning rate rises linearly.
        clip_range: PPO's clipping of the ratio.
        max_grad_norm: the gradient is scaled down to it.
        weight_decay: of AdamW.
    """

    name: str
    epochs: int
    mini_batches: int = 4
    prompts: int = 12
    responses: int = 5
    learning_rate: float = 1e-3
    warmup_steps: int = 10
    clip_range: float = 0.2
    max_grad_norm: float = 1.0
    weight_decay: float = 0.01

    @property
    def updates_per_batch(self) -> int:
        """Optimizer updates per rollout batch."""
        return self.epochs * self.mini_batches


SCENARIOS = {
    "healthy": Scenario("healthy", epochs=1),
    "collapse": Scenario("collapse", epochs=4),
}
"""The two runs of the miniature, equal but for the reuse of each rollout batch."""


@dataclass(frozen=True)
class StepResult:
    """What one step (one rollout batch and its updates) looked like.

    Attributes:
        step: number of the rollout batch, from 1.
        reward: mean reward of the batch.
        valid: share of responses in valid format.
        searches: mean number of tool answers per response.
        length: mean number of tokens the policy wrote per response.
        log_prob_correct: mean log-probability per token of the correct responses when sampled, nats; None without any.
        entropy: mean entropy of the policy's choices, nats per token, mean over the step's updates.
        grad_norm: mean gradient norm before clipping, over the step's updates.
        learning_rate: the step's learning rate.
    """

    step: int
    reward: float
    valid: float
    searches: float
    length: float
    log_prob_correct: float | None
    entropy: float
    grad_norm: float
    learning_rate: float


def group_advantages(rewards: Tensor, group: Tensor) -> Tensor:
    """GRPO's advantage, (reward - mean of the group) / (standard deviation of the group + 1e-6).

    Args:
        rewards: (B,) float.
        group: (B,) int64, same number = same prompt; the groups are equally large and stand together.

    Returns:
        (B,) float; exactly 0 in groups whose rewards are all equal.
    """
    by_group = rewards.view(len(group.unique()), -1)
    advantages = (by_group - by_group.mean(1, keepdim=True)) / (by_group.std(1, keepdim=True) + 1e-6)
    return torch.where(by_group.amax(1, keepdim=True) == by_group.amin(1, keepdim=True), 0.0, advantages).view(-1)


def grpo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor, clip_range: float
) -> Tensor:
    """GRPO's clipped loss, mean over the tokens the policy wrote.

    Equation: - mean over tokens of min(ratio A, clip(ratio, 1 - clip_range, 1 + clip_range) A),
    ratio = exp(log_probs - old_log_probs).

    Args:
        log_probs: (B, T) float, nats, with gradient.
        old_log_probs: (B, T) float, nats, when sampled.
        advantages: (B,) float.
        response_mask: (B, T) bool, the tokens that count.
        clip_range: half width of the trusted ratio.

    Returns:
        Scalar.
    """
    ratio = torch.where(response_mask, log_probs - old_log_probs, 0.0).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    gain = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    return -(gain * response_mask).sum() / response_mask.sum()


def mini_batches(size: int, scenario: Scenario, shuffle: torch.Generator) -> Iterator[Tensor]:
    """Row numbers (int64) of each mini-batch of a step; every epoch goes through all rows in a new order."""
    for _ in range(scenario.epochs):
        yield from torch.randperm(size, generator=shuffle).chunk(scenario.mini_batches)


def rows_of(batch: Rollout, rows: Tensor) -> Rollout:
    """The given rows (int64 row numbers) of a batch."""
    return Rollout(**{field.name: getattr(batch, field.name)[rows] for field in fields(batch)})


def train(
    policy: Policy,
    scenario: Scenario,
    seed: int,
    steps: int = 80,
    monitor: Monitor | None = None,
    on_step: Callable[[StepResult], None] | None = None,
) -> list[StepResult]:
    """Trains `policy` in place with GRPO; the same arguments give the same numbers bit for bit on the same machine.

    Args:
        policy: the base policy.
        scenario: settings.
        seed: of prompts, documents, sampling and shuffling.
        steps: rollout batches.
        monitor: what watches the run; None = nothing.
        on_step: called after every step, for instance to show it.

    Returns:
        One result per step.
    """
    sampling = torch.Generator().manual_seed(2 * seed)
    shuffle = torch.Generator().manual_seed(2 * seed + 1)
    world = np.random.default_rng([seed, 2])
    decay = scenario.weight_decay
    optimizer = torch.optim.AdamW(policy.parameters(), lr=scenario.learning_rate, weight_decay=decay)
    probe = CrossUpdateProbe(lambda batch: _score(policy, batch["tokens"]))
    results = []
    with one_thread():
        for step in range(1, steps + 1):
            learning_rate = scenario.learning_rate * min(1.0, step / scenario.warmup_steps)
            optimizer.param_groups[0]["lr"] = learning_rate
            prompts = [task.draw_prompt(world) for _ in range(scenario.prompts)]
            batch = rollout(policy, prompts, scenario.responses, sampling, world, index=step - 1)
            entropy, grad_norm = _update(policy, optimizer, batch, scenario, shuffle, monitor)
            results.append(_result(step, batch, entropy, grad_norm, learning_rate))
            if monitor is not None:
                _watch(monitor, probe, batch, results[-1], scenario)
            if on_step is not None:
                on_step(results[-1])
    return results


def _update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Rollout,
    scenario: Scenario,
    shuffle: torch.Generator,
    monitor: Monitor | None,
) -> tuple[float, float]:
    """Runs the step's optimizer updates; returns mean entropy and mean gradient norm."""
    all_advantages = group_advantages(batch.rewards, batch.group)
    entropies, grad_norms = [], []
    for rows in mini_batches(len(batch.rewards), scenario, shuffle):
        part, advantages = rows_of(batch, rows), all_advantages[rows]
        log_probs, entropy = policy.log_probs(part.tokens)
        loss = grpo_loss(log_probs, part.old_log_probs, advantages, part.response_mask, scenario.clip_range)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if monitor is not None:
            monitor.observe(
                per_response(
                    log_probs,
                    part.old_log_probs,
                    part.response_mask,
                    advantages=advantages,
                    rewards=part.rewards,
                    entropy=entropy,
                    uid=part.uid,
                    group=part.group,
                    clip_range=scenario.clip_range,
                )
            )
        grad_norm = clip_grad_norm_(policy.parameters(), scenario.max_grad_norm)
        optimizer.step()
        if monitor is not None:
            monitor.update(grad_norm=grad_norm, loss=loss.detach())
        entropies.append(entropy.detach()[part.response_mask].mean())
        grad_norms.append(grad_norm)
    return float(torch.stack(entropies).mean()), float(torch.stack(grad_norms).mean())


def _watch(monitor: Monitor, probe: CrossUpdateProbe, batch: Rollout, result: StepResult, scenario: Scenario) -> None:
    """Closes lldwatch's observation of a step, after its updates."""
    monitor.probe(
        probe.after_update(
            {"tokens": batch.tokens},
            response_mask=batch.response_mask,
            correct=batch.rewards > 0.5,
            uid=batch.uid,
            group=batch.group,
        )
    )
    monitor.step(
        result.step,
        learning_rate=result.learning_rate,
        updates_per_batch=scenario.updates_per_batch,
    )


@torch.no_grad()
def _score(policy: Policy, tokens: Tensor) -> Tensor:
    log_probs, _ = policy.log_probs(tokens)
    return log_probs


def _result(step: int, batch: Rollout, entropy: float, grad_norm: float, learning_rate: float) -> StepResult:
    correct = batch.response_mask & (batch.rewards > 0.5)[:, None]
    return StepResult(
        step=step,
        reward=float(batch.rewards.mean()),
        valid=float(batch.valid.float().mean()),
        searches=float(batch.searches.float().mean()),
        length=float(batch.response_mask.sum(1).float().mean()),
        log_prob_correct=float(batch.old_log_probs[correct].mean()) if correct.any() else None,
        entropy=entropy,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
    )
