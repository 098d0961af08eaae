"""Rollouts: the policy writes, the search tool answers, until all responses have ended.

Why it exists: what makes the task agentic is that a response is a mix of what the policy wrote and what the tool
answered, and only the former may be trained on. That line is drawn here, once, as `response_mask`. All prompts have the
same length and all rows advance together, so a step is one cached forward of one position; rejected was a scheduler
which refills finished rows, more code than the miniature is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lldwatch.search_world import task
from lldwatch.search_world.policy import Policy


@dataclass(frozen=True)
class Rollout:
    """A batch of responses with what the policy thought of them when it wrote them.

    Attributes:
        tokens: (B, T) int64 token ids: prompt, response, padding. T is the longest sequence of the batch.
        response_mask: (B, T) bool, True where the policy wrote the token; prompt, tool feedback and padding are False.
        old_log_probs: (B, T) float32, nats, of the tokens when they were sampled; 0 outside the mask.
        rewards: (B,) float32, 1.0 or 0.0.
        group: (B,) int64, same number = same prompt; unique in the run.
        uid: (B,) int64, number of the response; unique in the run.
        valid: (B,) bool, whether the response keeps to the format.
        truncated: (B,) bool, whether it was cut off at task.MAX_TOKENS.
        searches: (B,) int64, how often the tool answered.
    """

    tokens: Tensor
    response_mask: Tensor
    old_log_probs: Tensor
    rewards: Tensor
    group: Tensor
    uid: Tensor
    valid: Tensor
    truncated: Tensor
    searches: Tensor


def rollout(
    policy: Policy,
    prompts: Sequence[task.Prompt],
    responses: int,
    sampling: torch.Generator,
    environment: np.random.Generator,
    index: int = 0,
) -> Rollout:
    """Lets the policy answer each prompt several times, at temperature 1.

    Args:
        policy: who writes.
        prompts: the questions.
        responses: how many to each; the rows of one prompt stand together.
        sampling: draws the tokens.
        environment: draws the documents.
        index: number of this batch in the run; `uid` and `group` count on from it.

    Returns:
        The finished batch, len(prompts) * responses rows.
    """
    rows = [prompt for prompt in prompts for _ in range(responses)]
    tokens, mask, log_probs, searches = _generate(policy, rows, sampling, environment)
    written = [row[row != task.PAD].tolist()[task.PROMPT_LENGTH :] for row in tokens]
    rewards = [task.exact_match(prompt, response) for prompt, response in zip(rows, written, strict=True)]
    return Rollout(
        tokens=tokens,
        response_mask=mask,
        old_log_probs=log_probs,
        rewards=torch.tensor(rewards),
        group=index * len(prompts) + torch.arange(len(prompts)).repeat_interleave(responses),
        uid=index * len(rows) + torch.arange(len(rows)),
        valid=torch.tensor([task.is_valid_format(response) for response in written]),
        truncated=torch.tensor([response[-1] != task.ANSWER_END for response in written]),
        searches=torch.tensor(searches),
    )


@torch.no_grad()
def _generate(
    policy: Policy, rows: Sequence[task.Prompt], sampling: torch.Generator, environment: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    tokens = torch.full((len(rows), task.MAX_TOKENS), task.PAD)
    tokens[:, : task.PROMPT_LENGTH] = torch.tensor([prompt.tokens for prompt in rows])
    written = [prompt.tokens for prompt in rows]
    feedback: list[list[int]] = [[] for _ in rows]
    done, searches = [False] * len(rows), [0] * len(rows)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    log_probs = torch.zeros(tokens.shape)
    logits, cache = policy(tokens[:, : task.PROMPT_LENGTH])
    length = task.PROMPT_LENGTH
    while length < task.MAX_TOKENS and not all(done):
        scores = torch.log_softmax(logits[:, -1], dim=-1)
        sampled = torch.multinomial(scores.exp(), 1, generator=sampling)
        next_tokens, by_policy = sampled[:, 0].tolist(), [False] * len(rows)
        for row, prompt in enumerate(rows):
            if done[row]:
                next_tokens[row] = task.PAD
                continue
            by_policy[row] = not feedback[row]
            if feedback[row]:
                next_tokens[row] = feedback[row].pop(0)
            written[row].append(next_tokens[row])
            if by_policy[row] and next_tokens[row] == task.SEARCH_END:
                feedback[row] = task.tool_answer(prompt, written[row], environment)
                searches[row] += 1
            done[row] = by_policy[row] and next_tokens[row] == task.ANSWER_END
        tokens[:, length] = torch.tensor(next_tokens)
        mask[:, length] = torch.tensor(by_policy)
        log_probs[:, length] = scores.gather(1, sampled)[:, 0] * mask[:, length]
        length += 1
        logits, cache = policy(tokens[:, length - 1 : length], cache, before=tokens[:, length - 2])
    return tokens[:, :length], mask[:, :length], log_probs[:, :length], searches
