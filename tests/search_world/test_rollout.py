from collections.abc import Callable

import numpy as np
import pytest
import torch

from lldwatch.search_world import task
from lldwatch.search_world.policy import Policy
from lldwatch.search_world.rollout import Rollout, rollout


def run(policy: Policy, seed: int = 0, index: int = 0, prompts: int = 6) -> Rollout:
    environment = np.random.default_rng(seed)
    questions = [task.draw_prompt(environment) for _ in range(prompts)]
    return rollout(policy, questions, 5, torch.Generator().manual_seed(seed), environment, index)


def scripted(script: Callable[[int], str]) -> Callable[..., tuple[torch.Tensor, int]]:
    """A stand-in policy: writes ``script(place)`` at each place of every row."""

    def forward(tokens: torch.Tensor, cache: int | None = None, before: object = None) -> tuple[torch.Tensor, int]:
        place = (cache or 0) + tokens.shape[1]
        logits = torch.full((len(tokens), tokens.shape[1], 72), -50.0)
        logits[:, -1, task.VOCABULARY.index(script(place))] = 50.0
        return logits, place

    return forward


def test_an_episode_by_hand() -> None:
    facts = np.full((task.ENTITIES, task.RELATIONS), task.VOCABULARY.index("e7"))
    entity, relation = (task.VOCABULARY.index(name) for name in ("e3", "r1"))
    prompt = task.Prompt(entity, (relation,), facts)
    line = "<think> r1 </think> <search> e3 r1 </search> ! ! ! ! ! ! ! <answer> e7 </answer>"  # ! = feedback
    words = line.split()
    policy = scripted(lambda place: (words + ["w0"] * 99)[place - 5].replace("!", "w5"))
    batch = rollout(policy, [prompt], 2, torch.Generator().manual_seed(0), np.random.default_rng(0))  # type: ignore[arg-type]
    assert batch.tokens.shape == (2, 5 + len(words))
    text = task.decode(batch.tokens[0].tolist())
    assert text.startswith("<q> e3 r1 none </q> <think> r1 </think> <search> e3 r1 </search> <information>")
    assert text.endswith("</information> <answer> e7 </answer>")
    assert batch.response_mask[0].tolist() == [False] * 5 + [word != "!" for word in words]
    assert batch.rewards.tolist() == [1.0, 1.0]
    assert batch.valid.tolist() == [True, True]
    assert batch.searches.tolist() == [1, 1]
    assert batch.truncated.tolist() == [False, False]


def test_a_response_without_end_is_cut_off() -> None:
    prompts = [task.draw_prompt(np.random.default_rng(0))]
    batch = rollout(scripted(lambda _: "w0"), prompts, 2, torch.Generator(), np.random.default_rng(0))  # type: ignore[arg-type]
    assert batch.tokens.shape == (2, task.MAX_TOKENS)
    assert batch.truncated.all()
    assert not batch.rewards.any()
    assert not batch.valid.any()
    assert batch.response_mask.sum().item() == 2 * (task.MAX_TOKENS - task.PROMPT_LENGTH)


def test_the_mask_is_what_the_policy_wrote(policy: Policy) -> None:
    batch = run(policy)
    assert batch.searches.sum() > 5
    for tokens, mask, searches in zip(batch.tokens.tolist(), batch.response_mask, batch.searches, strict=True):
        expected, feedback, answered = [False] * task.PROMPT_LENGTH, 0, 0
        for place in range(task.PROMPT_LENGTH, len(tokens)):
            expected.append(not feedback and tokens[place] != task.PAD)
            if feedback:
                feedback = 0 if tokens[place] == task.INFO_END else feedback
            elif tokens[place] == task.SEARCH_END:
                feedback, answered = 1, answered + 1
            elif tokens[place] == task.ANSWER_END:
                break
        expected += [False] * (len(tokens) - len(expected))
        assert mask.tolist() == expected
        assert searches == answered


def test_log_probs_when_sampled_equal_those_re_scored(policy: Policy) -> None:
    batch = run(policy)
    with torch.no_grad():
        log_probs, _ = policy.log_probs(batch.tokens)
    mask = batch.response_mask
    torch.testing.assert_close(batch.old_log_probs[mask], log_probs[mask], atol=1e-4, rtol=0)
    assert not batch.old_log_probs[~mask].any()


def test_same_seeds_give_the_same_batch(policy: Policy) -> None:
    first, second, other = run(policy, seed=1), run(policy, seed=1), run(policy, seed=2)
    assert all(torch.equal(value, vars(second)[name]) for name, value in vars(first).items())
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_numbers_of_responses_and_groups_go_on_through_the_run(policy: Policy) -> None:
    first, second = run(policy, index=0, prompts=2), run(policy, index=1, prompts=2)
    assert torch.cat([first.uid, second.uid]).tolist() == list(range(20))
    assert torch.cat([first.group, second.group]).tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert first.uid.dtype == first.group.dtype == torch.int64


@pytest.mark.parametrize("column", ["rewards", "valid", "group", "uid", "searches", "truncated"])
def test_one_value_per_response(policy: Policy, column: str) -> None:
    assert getattr(run(policy, prompts=3), column).shape == (15,)
