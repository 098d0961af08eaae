import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from told import Told

from lldwatch import Monitor, Observation, Run
from lldwatch.diagnosis import Verdict
from lldwatch.intervention import Correct
from lldwatch.probe_plan import Plan
from lldwatch.search_world import grpo
from lldwatch.search_world.grpo import SCENARIOS, StepResult, mini_batches, train
from lldwatch.search_world.objective import group_advantages, grpo_loss
from lldwatch.search_world.policy import Policy

SMALL = replace(SCENARIOS["collapse"], epochs=2, mini_batches=2, prompts=4)


def test_scenarios_differ_in_reuse_alone() -> None:
    healthy, collapse = SCENARIOS["healthy"], SCENARIOS["collapse"]
    assert (healthy.updates_per_batch, collapse.updates_per_batch) == (4, 16)
    assert replace(healthy, name="collapse", epochs=4) == collapse


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    group = torch.tensor([7] * 5 + [9] * 5)
    deviation = math.sqrt(0.2)  # of 1 0 0 0 0, with n - 1
    expected = [0.8 / deviation, *[-0.2 / deviation] * 4, *[0.0] * 5]
    torch.testing.assert_close(group_advantages(rewards, group), torch.tensor(expected), atol=1e-4, rtol=0)


def test_equal_rewards_give_no_advantage_at_all() -> None:
    assert not group_advantages(torch.full((8,), 0.1), torch.zeros(8, dtype=torch.int64)).any()


def test_loss_equals_a_slow_twin() -> None:
    draw = torch.Generator().manual_seed(0)
    log_probs, old = -torch.rand(4, 7, generator=draw), -torch.rand(4, 7, generator=draw)
    advantages = torch.tensor([1.5, -0.5, 0.0, -1.0])
    mask = torch.rand(4, 7, generator=draw) < 0.6
    total = 0.0
    for row in range(4):
        for place in range(7):
            if mask[row, place]:
                ratio = math.exp(log_probs[row, place] - old[row, place])
                total += min(ratio * advantages[row], min(max(ratio, 0.8), 1.2) * advantages[row])
    loss = grpo_loss(log_probs, old, advantages, mask, clip_range=0.2)
    assert loss.item() == pytest.approx(-float(total) / int(mask.sum()), abs=1e-6)


def test_gradient_flows_through_masked_tokens_only() -> None:
    log_probs = torch.full((2, 6), -1.0, requires_grad=True)
    mask = torch.tensor([[0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]]).bool()
    old = torch.where(mask, -1.0, -torch.inf)
    loss = grpo_loss(log_probs, old, torch.tensor([1.0, -1.0]), mask, clip_range=0.2)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert torch.equal(gradient != 0, mask)


def test_every_epoch_sees_every_row_once() -> None:
    parts = list(mini_batches(60, SCENARIOS["collapse"], torch.Generator().manual_seed(0)))
    assert [len(part) for part in parts] == [15] * 16
    epochs = [torch.cat(parts[start : start + 4]) for start in range(0, 16, 4)]
    assert all(torch.equal(epoch.sort().values, torch.arange(60)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def run(policy: Policy, seed: int = 0, monitor: Monitor | None = None) -> tuple[list[StepResult], Policy]:
    own = copy.deepcopy(policy)
    return train(own, SMALL, seed, steps=3, monitor=monitor), own


def same(first: Policy, second: Policy) -> bool:
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_same_seed_gives_the_same_run_bit_for_bit(policy: Policy) -> None:
    first, second, other = run(policy), run(policy), run(policy, seed=1)
    assert first[0] == second[0]
    assert same(first[1], second[1])
    assert first[0] != other[0]


def test_other_random_numbers_and_threads_change_nothing(policy: Policy) -> None:
    first = run(policy)
    threads = torch.get_num_threads()
    try:
        torch.manual_seed(99)
        torch.set_num_threads(2)
        state = torch.get_rng_state()
        second = run(policy)
        assert torch.get_num_threads() == 2
        assert torch.equal(state, torch.get_rng_state())
    finally:
        torch.set_num_threads(threads)
    assert first[0] == second[0]


def test_watched_run_is_the_same_run(policy: Policy, tmp_path: Path) -> None:
    plain = run(policy)
    with Monitor(tmp_path / "run") as monitor:
        watched = run(policy, monitor=monitor)
    assert plain[0] == watched[0]
    assert same(plain[1], watched[1])


class IllInStep2(Told):
    """Sees a death spiral in step 2 alone."""

    def fresh(self) -> "IllInStep2":
        return IllInStep2(self.settings)

    def fold(self, observation: Observation) -> Verdict:
        return super().fold(replace(observation, loss=float(observation.step == 2)))


AUTO = Correct(mode="auto", ramp=1, release=2)


@pytest.mark.parametrize("llds", ["off", "auto", replace(AUTO, dry_run=True)])
def test_a_run_that_lldwatch_does_not_correct_is_the_same_run(policy: Policy, tmp_path: Path, llds: Any) -> None:
    plain = run(policy)
    with Monitor(tmp_path / "run", llds=llds, detector=IllInStep2() if llds != "auto" else None) as monitor:
        own = copy.deepcopy(policy)
        asked = lambda: monitor.llds_coefficient  # noqa: E731
        watched = train(own, replace(SMALL, fewer_epochs=1), 0, steps=3, monitor=monitor, llds_coefficient=asked)
    assert plain[0] == watched
    assert same(plain[1], own)


def test_fewer_updates_are_made_while_the_monitor_asks_for_them(policy: Policy, tmp_path: Path) -> None:
    with Monitor(tmp_path / "run", llds=replace(AUTO, strength=0.0), detector=IllInStep2()) as monitor:
        settings = replace(SMALL, fewer_epochs=1)
        results = train(copy.deepcopy(policy), settings, 0, steps=6, monitor=monitor)
    assert [result.updates for result in results] == [4, 4, 2, 2, 4, 4]
    observed = Run(tmp_path / "run").observations()
    assert [(step.updates, step.updates_per_batch) for step in observed] == [(n, n) for n in (4, 4, 2, 2, 4, 4)]


def test_a_loop_without_fewer_epochs_is_asked_in_vain(policy: Policy, tmp_path: Path) -> None:
    with Monitor(tmp_path / "run", llds=AUTO, detector=IllInStep2()) as monitor:
        results = train(copy.deepcopy(policy), SMALL, 0, steps=3, monitor=monitor)
        assert monitor.fewer_updates
    assert [result.updates for result in results] == [4] * 3


def test_what_lldwatch_recorded(policy: Policy, tmp_path: Path) -> None:
    with Monitor(tmp_path / "run") as monitor:
        results, _ = run(policy, monitor=monitor)
    observed = list(Run(tmp_path / "run").observations())
    assert [observation.step for observation in observed] == [1, 2, 3]
    for observation, result in zip(observed, results, strict=True):
        assert observation.updates == observation.updates_per_batch == 4
        assert observation.responses == 20
        assert observation.reward == pytest.approx(result.reward, abs=1e-6)
        assert observation.grad_norm == pytest.approx(result.grad_norm, rel=1e-4)
        assert observation.response_length == pytest.approx(result.length, rel=1e-5)
        assert observation.format_valid_share == pytest.approx(result.valid)
        assert observation.truncated_share == pytest.approx(result.truncated)


def test_on_step_sees_every_result_and_the_learning_rate_warms_up(policy: Policy) -> None:
    seen: list[StepResult] = []
    results = train(copy.deepcopy(policy), replace(SMALL, warmup_steps=2), 0, steps=3, on_step=seen.append)
    assert seen == results
    assert [result.learning_rate for result in results] == pytest.approx([7.5e-4, 1.5e-3, 1.5e-3])


def test_thread_count_comes_back_when_a_callback_raises(policy: Policy) -> None:
    threads = torch.get_num_threads()

    def stop(_: StepResult) -> None:
        raise KeyboardInterrupt

    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            train(copy.deepcopy(policy), SMALL, 0, steps=3, on_step=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def decoded(policy: Policy, tokens: list[int], place: int) -> float:
    """The log-prob of one token by the definition: the policy, in double precision, on what stands before it."""
    with torch.no_grad():
        logits, _ = policy(torch.tensor([tokens[:place]]))
    scores = logits[0, -1].tolist()
    return scores[tokens[place]] - math.log(sum(math.exp(score) for score in scores))


def test_probes_equal_decoding_token_by_token_with_copies_of_the_policy(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, rollout = [], grpo.rollout
    policies = [copy.deepcopy(policy).double()]

    def kept(*arguments: object, **more: object) -> object:
        batches.append(rollout(*arguments, **more))  # type: ignore[arg-type]
        return batches[-1]

    monkeypatch.setattr(grpo, "rollout", kept)
    plan = Plan(cross_update=3, post_update=8, post_update_every=1, lagged=2, lags=(2,), lagged_every=1, fixed=0)
    with Monitor(tmp_path / "run") as monitor:
        train(policy, SMALL, 0, 4, monitor, lambda _: policies.append(copy.deepcopy(policy).double()), plan)
    uids = {int(uid): (step, row) for step, batch in enumerate(batches, 1) for row, uid in enumerate(batch.uid)}
    rows = [row for row in Run(tmp_path / "run").probes().to_pylist() if row["kind"] != "in_batch"]
    assert {row["kind"] for row in rows} == {"cross_update", "post_update", "lagged", "noise"}
    for row in rows:
        own, place = uids[row["uid"]]
        batch, lag = batches[own - 1], row["step"] - own
        assert row["lag"] == lag
        assert row["correct"] == (batch.rewards[place] > 0.5)
        taken = {"post_update": row["step"] - 1, "noise": row["step"]}.get(row["kind"], own)
        tokens, mask = batch.tokens[place].tolist(), batch.response_mask[place].tolist()
        for moment, when in (("before", taken), ("after", row["step"])):
            expected = sum(decoded(policies[when], tokens, t) for t in range(len(tokens)) if mask[t])
            assert row[f"log_prob_{moment}"] == pytest.approx(expected, abs=2e-4), row
