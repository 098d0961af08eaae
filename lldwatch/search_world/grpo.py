"""A plain GRPO loop, as a user's own would be, watched by lldwatch.

Why it exists: it is the miniature's experiment, and the example of how little lldwatch asks of a loop. Both scenarios
are the same GRPO; `collapse` only takes four passes over each rollout batch instead of one, 16 optimizer updates
instead of 4. The correct responses of the batch before then lose likelihood across a step's updates, from about step 10
on: with the reward's first fall or some steps ahead of it. The gradient norm does not explode, it shrinks.

lldwatch only looks on: it draws no random number and changes no tensor, so a run is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lldwatch import Monitor
from lldwatch.gradients import GradientNorms
from lldwatch.hooks import per_response
from lldwatch.probe_plan import Plan
from lldwatch.probes import LikelihoodProbe
from lldwatch.schema import Probes
from lldwatch.search_world import task
from lldwatch.search_world.correction import Correction, Terms
from lldwatch.search_world.objective import group_advantages, grpo_loss
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
        correction: terms beside GRPO's loss; none by default.
        fewer_epochs: passes while the monitor asks for fewer updates; None: it asks in vain.
    """

    name: str
    epochs: int
    mini_batches: int = 4
    prompts: int = 12
    responses: int = 5
    learning_rate: float = 1.5e-3
    warmup_steps: int = 20
    clip_range: float = 0.2
    max_grad_norm: float = 1.0
    weight_decay: float = 0.01
    correction: Correction = field(default_factory=Correction)
    fewer_epochs: int | None = None

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
        truncated: share of responses cut off at task.MAX_TOKENS.
        searches: mean number of tool answers per response.
        length: mean number of tokens the policy wrote per response.
        log_prob_correct: mean log-probability per token of the correct responses when sampled, nats; None without any.
        entropy: mean entropy of the policy's choices, nats per token, mean over the step's updates.
        grad_norm: mean gradient norm before clipping, over the step's updates.
        learning_rate: the step's learning rate.
        updates: optimizer updates of the step.
        extra_passes: responses scored for the correction alone, with or without gradient: what it costs.
    """

    step: int
    reward: float
    valid: float
    truncated: float
    searches: float
    length: float
    log_prob_correct: float | None
    entropy: float
    grad_norm: float
    learning_rate: float
    updates: int
    extra_passes: int = field(compare=False)


def mini_batches(size: int, scenario: Scenario, shuffle: torch.Generator, *, fewer: bool = False) -> Iterator[Tensor]:
    """Row numbers (int64) of each mini-batch of a step; every epoch goes through all rows in a new order."""
    for _ in range(scenario.fewer_epochs if fewer and scenario.fewer_epochs else scenario.epochs):
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
    probes: str | Plan = "standard",
    llds_coefficient: Callable[[], float] | None = None,
) -> list[StepResult]:
    """Trains `policy` in place with GRPO; the same arguments give the same numbers bit for bit on the same machine.

    Args:
        policy: the base policy.
        scenario: settings.
        seed: of prompts, documents, sampling and shuffling.
        steps: rollout batches.
        monitor: what watches the run; None = nothing.
        on_step: called after every step, for instance to show it.
        probes: what is re-scored how often, see `lldwatch.probe_plan`.
        llds_coefficient: asked at the beginning of each step, instead of the scenario's own constant one.

    Returns:
        One result per step.
    """
    sampling = torch.Generator().manual_seed(2 * seed)
    shuffle = torch.Generator().manual_seed(2 * seed + 1)
    world = np.random.default_rng([seed, 2])
    decay = scenario.weight_decay
    optimizer = torch.optim.AdamW(policy.parameters(), lr=scenario.learning_rate, weight_decay=decay)
    terms = Terms(policy, scenario.correction, seed, llds_coefficient)
    watch = None if monitor is None else _Watch(monitor, policy, scenario, probes, terms)
    results = []
    with one_thread():
        for step in range(1, steps + 1):
            learning_rate = scenario.learning_rate * min(1.0, step / scenario.warmup_steps)
            optimizer.param_groups[0]["lr"] = learning_rate
            prompts = [task.draw_prompt(world) for _ in range(scenario.prompts)]
            batch = rollout(policy, prompts, scenario.responses, sampling, world, index=step - 1)
            advantages = group_advantages(batch.rewards, batch.group)
            if watch is not None:
                watch.before_updates(batch, advantages)
            terms.begin_step(batch)
            fewer = monitor is not None and monitor.fewer_updates
            updates = [
                _update(policy, optimizer, scenario, batch, advantages, rows, terms, watch)
                for rows in mini_batches(len(batch.rewards), scenario, shuffle, fewer=fewer)
            ]
            terms.end_step(batch)
            results.append(_result(step, batch, updates, learning_rate, terms.extra_passes))
            if watch is not None:
                watch.after_updates(results[-1])
            if on_step is not None:
                on_step(results[-1])
    return results


def _update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    scenario: Scenario,
    batch: Rollout,
    advantages: Tensor,
    rows: Tensor,
    terms: Terms,
    watch: _Watch | None,
) -> tuple[Tensor, Tensor]:
    """Makes one optimizer update on some rows of a batch; returns mean entropy and gradient norm, both scalars."""
    part, advantages = rows_of(batch, rows), advantages[rows]
    log_probs, entropy = policy.log_probs(part.tokens)
    loss = grpo_loss(log_probs, part.old_log_probs, advantages, part.response_mask, scenario.clip_range)
    if (added := terms.of(part, rows, log_probs, advantages)) is not None:
        loss = loss + added
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
    if watch is not None:
        watch.before_clipping(part, log_probs, entropy, advantages)
    grad_norm = clip_grad_norm_(policy.parameters(), scenario.max_grad_norm)
    optimizer.step()
    terms.after_update()
    if watch is not None:
        watch.monitor.update(grad_norm=grad_norm, loss=loss.detach(), **terms.scalars)
    return entropy.detach()[part.response_mask].mean(), grad_norm


class _Watch:
    """Everything that lldwatch is told in the course of a step."""

    def __init__(self, monitor: Monitor, policy: Policy, scenario: Scenario, probes: str | Plan, terms: Terms) -> None:
        self.monitor, self._scenario = monitor, scenario
        self._gradients = GradientNorms(policy, every=10 * scenario.updates_per_batch)
        score = lambda batch: policy.log_probs(batch["tokens"])  # noqa: E731  # log-probs and entropies
        self._probe = LikelihoodProbe(score, probes, micro_batch=None, text=task.VOCABULARY.__getitem__)
        self._about: dict[str, Tensor] = {}
        mini_batch = scenario.prompts * scenario.responses // scenario.mini_batches
        if (price := terms.price(mini_batch, scenario.updates_per_batch)) is not None:
            monitor.probe(Probes().having(note=price))

    def before_updates(self, batch: Rollout, advantages: Tensor) -> None:
        self._about = {
            "response_mask": batch.response_mask,
            "correct": batch.rewards > 0.5,
            "advantages": advantages,
            "uid": batch.uid,
            "group": batch.group,
            "answer_mask": answer_mask(batch),
            "tokens": batch.tokens,
        }
        self._probe.before_update({"tokens": batch.tokens}, **self._about)

    def before_clipping(self, part: Rollout, log_probs: Tensor, entropy: Tensor, advantages: Tensor) -> None:
        responses = per_response(
            log_probs,
            part.old_log_probs,
            part.response_mask,
            advantages=advantages,
            rewards=part.rewards,
            entropy=entropy,
            uid=part.uid,
            group=part.group,
            answer_mask=answer_mask(part),
            clip_range=self._scenario.clip_range,
        )
        self.monitor.observe(responses)
        self.monitor.gradients(self._gradients.measure())

    def after_updates(self, result: StepResult) -> None:
        self.monitor.probe(self._probe.after_update({"tokens": self._about["tokens"]}, **self._about))
        self.monitor.step(
            result.step,
            learning_rate=result.learning_rate,
            updates_per_batch=result.updates,
            format_valid_share=result.valid,
            truncated_share=result.truncated,
        )


def answer_mask(batch: Rollout) -> Tensor:
    """(B, T) bool, True on what the policy wrote from `<answer>` on."""
    return batch.response_mask & ((batch.tokens == task.ANSWER).cumsum(1) > 0)


def _result(
    step: int, batch: Rollout, updates: list[tuple[Tensor, Tensor]], learning_rate: float, extra_passes: int
) -> StepResult:
    correct = batch.response_mask & (batch.rewards > 0.5)[:, None]
    return StepResult(
        step=step,
        reward=float(batch.rewards.mean()),
        valid=float(batch.valid.float().mean()),
        truncated=float(batch.truncated.float().mean()),
        searches=float(batch.searches.float().mean()),
        length=float(batch.response_mask.sum(1).float().mean()),
        log_prob_correct=float(batch.old_log_probs[correct].mean()) if correct.any() else None,
        entropy=float(torch.stack([entropy for entropy, _ in updates]).mean()),
        grad_norm=float(torch.stack([grad_norm for _, grad_norm in updates]).mean()),
        learning_rate=learning_rate,
        updates=len(updates),
        extra_passes=extra_passes,
    )
