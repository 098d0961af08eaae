import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lldwatch import InputError, Monitor, Run
from lldwatch.llds import llds_loss
from lldwatch.references import LaggedPolicy, Replay
from lldwatch.search_world.correction import REFERENCES, Correction, Terms
from lldwatch.search_world.grpo import SCENARIOS, StepResult, rows_of, train
from lldwatch.search_world.objective import group_advantages, kl_penalty, negative_log_likelihood
from lldwatch.search_world.policy import Policy
from lldwatch.search_world.rollout import Rollout

SMALL = replace(SCENARIOS["collapse"], epochs=2, mini_batches=2, prompts=4, learning_rate=3e-3, warmup_steps=1)
ARMS = {
    **{reference: Correction(llds=1.0, reference=reference) for reference in REFERENCES},  # type: ignore[arg-type]
    "likelihood": Correction(llds=1.0, reference="replay", replay_likelihood=True),
    "kl": Correction(kl=0.5),
}


def run(policy: Policy, correction: Correction, **more: Any) -> tuple[list[StepResult], Policy]:
    own = copy.deepcopy(policy)
    return train(own, replace(SMALL, correction=correction), 0, steps=4, **more), own


def same(first: Policy, second: Policy) -> bool:
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_no_scenario_has_a_correction_of_its_own_accord() -> None:
    assert all(scenario.correction == Correction() for scenario in SCENARIOS.values())
    assert (Correction().llds, Correction().kl) == (0, 0)


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_coefficient_of_0_is_bit_for_bit_the_plain_training(policy: Policy, reference: Any) -> None:
    plain = run(policy, Correction())
    asked = run(policy, Correction(reference=reference), llds_coefficient=lambda: 0.0)
    assert plain[0] == asked[0]
    assert same(plain[1], asked[1])


def test_what_a_correction_costs_is_counted(policy: Policy) -> None:
    passes = {}
    for arm, correction in {**ARMS, "none": Correction()}.items():
        results, _ = run(policy, correction)
        passes[arm] = [result.extra_passes for result in results]
    kept = [round(20 * result.reward) for result in run(policy, ARMS["replay"])[0]]
    assert passes["none"] == passes["old"] == [0] * 4
    assert passes["kl"] == [20] * 4  # under the base policy, once a step
    assert passes["lagged"] == [4 * 10] * 4  # each mini-batch under the lagged policy
    for arm in ("replay", "old and replay", "likelihood"):
        first, *rest = passes[arm]
        assert first <= 20  # there was nothing to replay yet
        assert all(passed <= 20 + 4 * 10 for passed in rest)
    for step, passed in enumerate(passes["replay"]):
        assert passed == kept[step] + 4 * min(sum(kept[max(0, step - 3) : step]), 10)


@pytest.mark.parametrize("arm", ARMS)
def test_every_correction_changes_the_training_and_is_reproducible(policy: Policy, arm: str) -> None:
    first, second = run(policy, ARMS[arm]), run(policy, ARMS[arm])
    assert first[0] == second[0]
    assert same(first[1], second[1])
    assert not same(first[1], run(policy, Correction())[1])


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_coefficient_may_be_switched_on_in_the_course_of_a_training(policy: Policy, reference: Any) -> None:
    plain, _ = run(policy, Correction())
    coefficients = iter([0.0, 0.0, 4.0, 4.0])
    later, _ = run(policy, Correction(reference=reference), llds_coefficient=lambda: next(coefficients))
    assert later[:2] == plain[:2]
    assert later[2].grad_norm != plain[2].grad_norm
    assert next(coefficients, None) is None  # asked once a step


def made_up(policy: Policy, rows: int = 10) -> tuple[Rollout, torch.Tensor]:
    """A batch that the policy has moved away from since it wrote it."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(12, 60, (rows, 20), generator=draw)
    rewards = (torch.arange(rows) % 3 == 0).float()
    with torch.no_grad():
        old = policy.log_probs(tokens)[0]
    batch = Rollout(
        tokens=tokens,
        response_mask=torch.rand(rows, 20, generator=draw) < 0.7,
        old_log_probs=(old + 0.3 * torch.randn(rows, 20, generator=draw)).clamp(max=0.0),
        rewards=rewards,
        group=torch.arange(rows) // 5,
        uid=torch.arange(rows),
        valid=rewards > 0,
        truncated=rewards > 0,
        searches=torch.zeros(rows, dtype=torch.int64),
    )
    return batch, group_advantages(rewards, batch.group)


def added(policy: Policy, terms: Terms, batch: Rollout, advantages: torch.Tensor) -> torch.Tensor | None:
    rows = torch.tensor([7, 0, 3, 6])
    part = rows_of(batch, rows)
    return terms.of(part, rows, policy.log_probs(part.tokens)[0], advantages[rows])


def test_the_batch_s_own_term_is_the_coefficient_times_llds(policy: Policy) -> None:
    batch, advantages = made_up(policy)
    rows = torch.tensor([7, 0, 3, 6])
    part = rows_of(batch, rows)
    log_probs = policy.log_probs(part.tokens)[0]
    for gate in ("action", "response", "token"):
        terms = Terms(policy, Correction(llds=0.2, gate=gate), 0, None)
        terms.begin_step(batch)
        found = added(policy, terms, batch, advantages)
        expected = llds_loss(log_probs, part.old_log_probs, advantages[rows], part.response_mask, gate=gate).loss
        torch.testing.assert_close(found, 0.2 * expected)
        assert terms.scalars["llds_coefficient"] == 0.2
        torch.testing.assert_close(terms.scalars["llds_loss"], expected.detach())


def test_the_lagged_term_is_against_the_policy_of_that_time(policy: Policy) -> None:
    batch, advantages = made_up(policy)
    terms = Terms(policy, Correction(llds=1.0, reference="lagged", lag=2), 0, None)
    terms.begin_step(batch)
    then = copy.deepcopy(policy)
    assert added(policy, terms, batch, advantages) == 0
    with torch.no_grad():
        for update in range(2):
            policy.head.bias[20 + update] += 1.0
            terms.after_update()
    rows = torch.tensor([7, 0, 3, 6])
    part = rows_of(batch, rows)
    with torch.no_grad():
        log_probs, reference = (model.log_probs(part.tokens)[0] for model in (policy, then))
    expected = llds_loss(log_probs, reference, advantages[rows], part.response_mask).loss
    assert expected > 0
    torch.testing.assert_close(added(policy, terms, batch, advantages), expected)


@pytest.mark.parametrize("likelihood", [False, True])
def test_replayed_are_correct_responses_of_earlier_steps(policy: Policy, likelihood: bool) -> None:
    batch, advantages = made_up(policy)
    settings = Correction(llds=2.0, reference="replay", replay_likelihood=likelihood, replay_share=0.5)
    terms = Terms(policy, settings, 3, None)
    terms.begin_step(batch)
    assert added(policy, terms, batch, advantages) is None
    terms.end_step(batch)
    twin = Replay(3, seed=3)
    score = lambda some: policy.log_probs(some["tokens"])[0]  # noqa: E731
    twin.take(score, {"tokens": batch.tokens}, response_mask=batch.response_mask, correct=batch.rewards > 0.5)
    with torch.no_grad():
        policy.head.bias[20] += 1.0
    drawn = twin.draw(2)
    assert drawn is not None
    now = score(drawn.batch)
    expected = (
        negative_log_likelihood(now, drawn.response_mask)
        if likelihood
        else llds_loss(now, drawn.log_probs, None, drawn.response_mask, preserve=drawn.preserve).loss
    )
    assert expected > 0
    torch.testing.assert_close(added(policy, terms, batch, advantages), 2 * expected)


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_coefficient_of_0_scores_and_draws_nothing(policy: Policy, reference: Any, monkeypatch: Any) -> None:
    batch, advantages = made_up(policy)
    terms = Terms(policy, Correction(reference=reference), 0, lambda: 0.0)
    terms.begin_step(batch)
    terms.end_step(batch)
    for owner, name in ((Replay, "draw"), (LaggedPolicy, "log_probs")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("a forward pass for nothing"))
    assert added(policy, terms, batch, advantages) is None
    assert terms.scalars == {"llds_coefficient": 0.0}


def test_the_lagged_policy_follows_the_training(policy: Policy) -> None:
    near, far = (run(policy, Correction(llds=1.0, reference="lagged", lag=lag)) for lag in (1, 100))
    assert near[0][0].grad_norm != far[0][0].grad_norm


def test_the_kl_term_is_against_the_base_policy(policy: Policy) -> None:
    batch, advantages = made_up(policy)
    terms, base = Terms(policy, Correction(kl=0.1), 0, None), copy.deepcopy(policy)
    with torch.no_grad():
        policy.head.bias[20] += 1.0
    terms.begin_step(batch)
    rows = torch.tensor([7, 0, 3, 6])
    part = rows_of(batch, rows)
    log_probs, reference = (model.log_probs(part.tokens)[0] for model in (policy, base))
    expected = kl_penalty(log_probs, reference, part.response_mask)
    torch.testing.assert_close(added(policy, terms, batch, advantages), 0.1 * expected)
    assert "llds_coefficient" not in terms.scalars


def test_penalty_and_likelihood_equal_their_slow_twins() -> None:
    draw = torch.Generator().manual_seed(0)
    log_probs, reference = -torch.rand(3, 6, generator=draw), -torch.rand(3, 6, generator=draw)
    mask = torch.rand(3, 6, generator=draw) < 0.6
    places = mask.nonzero().tolist()
    gaps = [float(reference[row, place] - log_probs[row, place]) for row, place in places]
    kl = sum(math.exp(gap) - gap - 1 for gap in gaps) / len(places)
    likelihood = -sum(float(log_probs[row, place]) for row, place in places) / len(places)
    reference[~mask], log_probs[~mask] = math.nan, math.nan
    assert kl_penalty(log_probs, reference, mask).item() == pytest.approx(kl, rel=1e-5)
    assert negative_log_likelihood(log_probs, mask).item() == pytest.approx(likelihood, rel=1e-5)


def test_what_the_correction_did_and_costs_is_recorded(policy: Policy, tmp_path: Path, capfd: Any) -> None:
    with Monitor(tmp_path / "run") as monitor:
        run(policy, Correction(llds=0.5, reference="replay", replay_share=0.2), monitor=monitor)
    recorded = Run(tmp_path / "run")
    observed = list(recorded.observations())
    assert [observation.llds_coefficient for observation in observed] == [0.5] * 4
    assert observed[0].llds_loss is None
    assert all(observation.llds_loss is not None for observation in observed[1:])
    said = [event["detail"] for event in recorded.events().to_pylist() if event["kind"] == "probe"]
    price = Replay().price(2, 4)
    assert price in said
    assert price in capfd.readouterr().err


def test_the_references_say_what_they_cost(policy: Policy) -> None:
    prices = {reference: Terms(policy, ARMS[reference], 0, None).price(15, 16) for reference in REFERENCES}
    assert prices == {
        "old": None,
        "lagged": LaggedPolicy(policy, 16).price(),
        "replay": Replay().price(15, 16),
        "old and replay": Replay().price(15, 16),
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"llds": -0.2}, "llds is -0.2, expected a coefficient of at least 0"),
        ({"kl": math.nan}, "kl is nan, expected a coefficient of at least 0"),
        ({"reference": "base"}, "reference is 'base', expected one of old, lagged, replay, old and replay"),
        ({"replay_share": 0}, "replay_share is 0, expected a share above 0"),
        ({"gate": "sentence"}, "gate is 'sentence', expected one of action, response, token"),
    ],
)
def test_a_correction_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Correction(**wrong)
