from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lldwatch.errors import InputError
from lldwatch.llds import llds_loss
from lldwatch.references import LaggedPolicy, Replay, Replayed

TOKENS = 7


class Adapted(nn.Module):
    """A frozen layer and a trainable adapter, named as peft names them."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.base = nn.Parameter(torch.randn(11, 11, generator=draw), requires_grad=False)
        self.lora_A = nn.Parameter(torch.randn(11, 2, generator=draw))
        self.lora_B = nn.Parameter(torch.zeros(2, 11))
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits = (self.base + self.dropout(self.lora_A @ self.lora_B))[batch["tokens"]]
        return logits.log_softmax(-1).gather(-1, batch["tokens"].roll(-1, 1)[..., None])[..., 0]


def made_up(rows: int = 6, tokens: int = TOKENS, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "tokens": torch.randint(1, 11, (rows, tokens), generator=draw),
        "response_mask": torch.rand(rows, tokens, generator=draw) < 0.7,
        "correct": torch.rand(rows, generator=draw) < 0.5,
    }


def weights(policy: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train(policy: nn.Module, lagged: LaggedPolicy | None, updates: int) -> list[dict[str, Tensor]]:
    """The weights before the first and after each update."""
    past = [weights(policy)]
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.1)
    for update in range(updates):
        optimizer.zero_grad()
        policy(made_up(seed=update)).sum().backward()
        optimizer.step()
        if lagged is not None:
            lagged.after_update()
        past.append(weights(policy))
    return past


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 14))
def test_the_reference_is_the_policy_of_so_many_updates_ago(lag: int, every: int, updates: int) -> None:
    policy = Adapted()
    lagged = LaggedPolicy(policy, lag, every=every)
    past = train(policy, lagged, updates)
    assert min(lag, updates) <= lagged.age <= lag + every - 1
    assert lagged.age <= updates
    now = weights(policy)
    with lagged.swapped_in() as swapped:
        assert swapped is policy
        assert same(weights(policy), past[updates - lagged.age])
    assert same(weights(policy), now)
    assert len(lagged.state_dict()["taken"]) <= 1 + -(-lag // every)
    assert f"{1 - (-lag // every)} snapshots" in lagged.price()


def test_a_snapshot_each_update_is_exactly_so_old() -> None:
    policy = Adapted()
    lagged = LaggedPolicy(policy, 3, every=1)
    train(policy, lagged, 8)
    assert lagged.age == 3


def test_of_an_adapted_model_the_adapters_alone_are_kept() -> None:
    lagged = LaggedPolicy(Adapted(), 2)
    (_, kept), *_ = lagged.state_dict()["taken"]
    assert set(kept) == {"lora_A", "lora_B"}
    assert "2 to 3 updates ago" in lagged.price()
    assert f"2 snapshots of {44 * 4 / 1e6:.3g} MB" in lagged.price()


def test_the_weights_come_back_bit_for_bit_whatever_happens_in_the_block() -> None:
    policy = Adapted()
    lagged = LaggedPolicy(policy, 2)
    train(policy, lagged, 3)
    with torch.no_grad():
        policy.lora_A[0, 0], policy.lora_A[0, 1] = -0.0, math.nan
    before = {name: tensor.view(torch.int32) for name, tensor in weights(policy).items()}
    places = [parameter.data_ptr() for parameter in policy.parameters()]
    with pytest.raises(KeyboardInterrupt), lagged.swapped_in():
        raise KeyboardInterrupt
    assert same(before, {name: tensor.view(torch.int32) for name, tensor in weights(policy).items()})
    assert places == [parameter.data_ptr() for parameter in policy.parameters()]


def test_a_pending_backward_pass_goes_on_as_if_nothing_had_been() -> None:
    batch, policy = made_up(), Adapted().eval()
    lagged = LaggedPolicy(policy, 2)
    train(policy, lagged, 3)
    gradients = []
    for look in (False, True):
        policy.zero_grad()
        loss = policy(batch).sum()
        if look:
            lagged.log_probs(policy, batch, batch["response_mask"])
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None])
    assert all(map(torch.equal, *gradients))


def test_a_training_that_only_asks_for_lagged_log_probs_is_the_same_training() -> None:
    runs = []
    for lag in (None, 2):
        torch.manual_seed(0)
        policy, batch = Adapted(), made_up()
        lagged = None if lag is None else LaggedPolicy(policy, lag)
        train(policy, lagged, 2)
        if lagged is not None:
            lagged.log_probs(policy, batch, batch["response_mask"], micro_batch=4)
        assert policy.training
        train(policy, lagged, 2)
        runs.append((weights(policy), torch.get_rng_state()))
    assert same(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_lagged_log_probs_are_those_of_a_copy_taken_then() -> None:
    policy, batch = Adapted(), made_up()
    lagged = LaggedPolicy(policy, 2, every=1)
    train(policy, lagged, 2)
    then = copy.deepcopy(policy).eval()
    train(policy, lagged, 2)
    expected = torch.where(batch["response_mask"], then(batch).detach(), 0.0)
    for micro_batch in (None, 4):
        found = lagged.log_probs(policy, batch, batch["response_mask"], micro_batch)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected)


def test_against_a_lagged_policy_llds_acts_where_the_old_log_probs_are_the_current_ones() -> None:
    policy, batch = Adapted().eval(), made_up()
    lagged = LaggedPolicy(policy, 1, every=1)
    train(policy, lagged, 2)
    log_probs, mask = policy(batch), batch["response_mask"]
    everything = torch.ones(len(mask))
    assert llds_loss(log_probs, log_probs.detach(), everything, mask).moved_tokens == 0
    reference = lagged.log_probs(policy, batch, mask)
    term = llds_loss(log_probs, reference, everything, mask)
    assert term.moved_tokens > 0


def test_a_resumed_training_goes_on_with_the_snapshots() -> None:
    policy = Adapted().eval()
    lagged = LaggedPolicy(policy, 3, every=2)
    train(policy, lagged, 5)
    state, now = copy.deepcopy(lagged.state_dict()), copy.deepcopy(policy)
    resumed = LaggedPolicy(now, 3, every=2)
    resumed.load_state_dict(state)
    for model, reference in ((policy, lagged), (now, resumed)):
        train(model, reference, 2)
    assert lagged.age == resumed.age
    with lagged.swapped_in(), resumed.swapped_in():
        assert same(weights(policy), weights(now))
    with pytest.raises(
        InputError, match="snapshots are of other parameters than the policy's: expected the same model"
    ):
        LaggedPolicy(nn.Linear(2, 2), 3).load_state_dict(state)


def test_snapshots_may_be_kept_elsewhere_than_the_policy() -> None:
    policy = Adapted()
    lagged = LaggedPolicy(policy, 1, every=1, device="cpu")
    past = train(policy, lagged, 2)
    with lagged.swapped_in():
        assert same(weights(policy), past[1])


LAGGED_MISTAKES: list[tuple[nn.Module, dict[str, Any], str]] = [
    (Adapted(), {"lag": 0}, "lag is 0, expected a whole number from 1"),
    (Adapted(), {"lag": 1.5}, "lag is 1.5, expected a whole number from 1"),
    (Adapted(), {"lag": 2, "every": True}, "every is True, expected a whole number from 1"),
    (Adapted().requires_grad_(False), {"lag": 2}, "the policy has no trainable parameters: expected some that require"),
    (nn.ParameterList([torch.zeros(0)]), {"lag": 2}, "the policy has no trainable parameters: expected some that requ"),
]


@pytest.mark.parametrize(("policy", "arguments", "message"), LAGGED_MISTAKES)
def test_a_lagged_policy_that_cannot_be(policy: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LaggedPolicy(policy, **arguments)


def test_a_lagged_policy_says_when_it_is_used_wrongly() -> None:
    policy = Adapted()
    lagged = LaggedPolicy(policy, 2)
    with lagged.swapped_in(), pytest.raises(InputError, match="swapped in already: leave the first block"):
        lagged.log_probs(policy, made_up(), made_up()["response_mask"])
    with lagged.swapped_in(), pytest.raises(InputError, match="after_update while the lagged policy is swapped in"):
        lagged.after_update()
    policy.base.requires_grad_(True)
    with pytest.raises(InputError, match="other parameters are trainable than at the start: make a new LaggedPolicy"):
        lagged.after_update()


def score(batch: Mapping[str, Tensor]) -> Tensor:
    """The log-prob of a token is a number that tells it, its place and its row's first token apart."""
    places = torch.arange(batch["tokens"].shape[1])
    return -(batch["tokens"] + 0.01 * places + 100 * batch["tokens"][:, :1])


def taken(replay: Replay, batch: dict[str, Tensor], **more: Any) -> int:
    return replay.take(
        score, {"tokens": batch["tokens"]}, response_mask=batch["response_mask"], correct=batch["correct"], **more
    )


def rows_of(replayed: Replayed | None) -> list[list[int]]:
    """The tokens of each drawn response, its padding taken away."""
    return [] if replayed is None else sorted([t for t in row if t] for row in replayed.batch["tokens"].tolist())


def test_what_is_drawn_are_correct_responses_of_the_last_batches_with_their_log_probs() -> None:
    replay, batches = Replay(batches=2), [made_up(8, tokens, seed=tokens) for tokens in (5, 7, 6)]
    for batch in batches:
        assert taken(replay, batch) == batch["correct"].sum()
    expected = [row for batch in batches[1:] for row in batch["tokens"][batch["correct"]].tolist()]
    drawn = replay.draw(100)
    assert drawn is not None
    assert len(drawn) == len(replay) == len(expected)
    assert rows_of(drawn) == sorted(expected)
    assert drawn.batch["tokens"].shape == drawn.log_probs.shape == (len(drawn), 7)
    torch.testing.assert_close(drawn.log_probs, torch.where(drawn.response_mask, score(drawn.batch), 0.0))
    assert drawn.answer_mask is None
    masks = {str(t): m for b in batches for t, m in zip(b["tokens"].tolist(), b["response_mask"].tolist(), strict=True)}
    for tokens, mask in zip(drawn.batch["tokens"].tolist(), drawn.response_mask.tolist(), strict=True):
        own = masks[str([token for token in tokens if token])]
        assert mask == own + [False] * (7 - len(own))


@given(st.integers(1, 12))
def test_each_response_is_drawn_at_most_once(responses: int) -> None:
    replay = Replay()
    for seed in range(3):
        taken(replay, made_up(8, seed=seed))
    drawn = replay.draw(responses)
    assert drawn is not None
    assert len(drawn) == min(responses, len(replay))
    assert len({str(row) for row in drawn.batch["tokens"].tolist()}) == len(drawn)


def test_over_many_draws_all_responses_come_about_as_often() -> None:
    replay = Replay()
    for seed in range(3):
        taken(replay, made_up(8, seed=seed))
    seen = [str(row) for _ in range(400) for row in rows_of(replay.draw(3))]
    counts = [seen.count(row) for row in set(seen)]
    assert len(counts) == len(replay)
    assert min(counts) > 0.6 * 1200 / len(replay)


def test_drawing_leaves_the_training_s_random_stream_alone_and_depends_on_its_seed() -> None:
    def draws(seed: int) -> list[Any]:
        replay = Replay(seed=seed)
        for batch in range(2):
            taken(replay, made_up(8, seed=batch))
        return [rows_of(replay.draw(3)) for _ in range(4)]

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = draws(0)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    assert first == draws(0) != draws(1)


def test_what_is_kept_does_not_change_with_the_loop_s_buffers() -> None:
    replay, batch = Replay(), made_up(8)
    taken(replay, batch)
    expected = rows_of(replay.draw(100))
    batch["tokens"].fill_(3)
    assert rows_of(replay.draw(100)) == expected


def test_a_batch_without_a_correct_response_pushes_none_out() -> None:
    replay, batch = Replay(batches=1), made_up(8)
    taken(replay, batch)
    wrong = {**made_up(8, seed=1), "correct": torch.zeros(8, dtype=torch.bool)}
    assert taken(replay, wrong) == 0
    assert rows_of(replay.draw(100)) == sorted(batch["tokens"][batch["correct"]].tolist())


def test_nothing_kept_is_nothing_drawn() -> None:
    replay = Replay()
    assert replay.draw(3) is None
    assert len(replay) == 0


def test_of_a_large_batch_a_few_are_kept() -> None:
    replay, batch = Replay(at_most=2), made_up(40)
    assert taken(replay, batch) == 2
    right = batch["tokens"][batch["correct"]].tolist()
    assert rows_of(replay.draw(100)) == sorted([right[0], right[-1]])


def test_the_score_may_also_give_entropies_and_see_a_few_at_a_time() -> None:
    seen = []

    def with_entropy(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        seen.append(len(batch["tokens"]))
        return score(batch), score(batch)

    batch = made_up(20)
    count = int(batch["correct"].sum())
    Replay(micro_batch=3).take(
        with_entropy, {"tokens": batch["tokens"]}, response_mask=batch["response_mask"], correct=batch["correct"]
    )
    assert seen == [3] * (count // 3) + [count % 3] * (count % 3 > 0)


def test_tensors_are_filled_up_on_the_side_and_with_the_value_that_one_says() -> None:
    replay = Replay(pad_values={"prompt": 9, "extra": -1}, pad_left={"prompt"})
    for width in (1, 3):
        batch = {
            "tokens": torch.full((1, width), width),
            "prompt": torch.full((1, width), width),
            "extra": torch.full((1, width, 2), 0.5),
            "length": torch.tensor([width]),
        }
        replay.take(score, batch, response_mask=torch.ones(1, width), correct=torch.tensor([True]))
    drawn = replay.draw(2)
    assert drawn is not None
    assert drawn.batch["tokens"].tolist() == [[1, 0, 0], [3, 3, 3]]
    assert drawn.batch["prompt"].tolist() == [[9, 9, 1], [3, 3, 3]]
    assert drawn.batch["extra"].tolist()[0] == [[0.5, 0.5], [-1, -1], [-1, -1]]
    assert drawn.batch["length"].tolist() == [1, 3]
    assert drawn.response_mask.tolist() == [[True, False, False], [True] * 3]
    assert drawn.batch["prompt"].dtype == torch.int64


def test_the_response_mask_of_left_padded_responses_moves_with_them() -> None:
    replay = Replay(pad_left={"tokens", "response_mask"})
    for width in (1, 3):
        tokens = torch.full((1, width), width)
        ones = torch.ones(1, width)
        replay.take(score, {"tokens": tokens}, response_mask=ones, correct=torch.tensor([True]), answer_mask=ones)
    drawn = replay.draw(2)
    assert drawn is not None
    assert drawn.answer_mask is not None
    assert drawn.response_mask.tolist() == drawn.answer_mask.tolist() == [[False, False, True], [True] * 3]
    assert (drawn.log_probs != 0).tolist() == drawn.response_mask.tolist()


def test_llds_holds_replayed_responses_to_what_they_were() -> None:
    policy, batch = Adapted().eval(), made_up(12)
    replay = Replay()
    replay.take(policy, {"tokens": batch["tokens"]}, response_mask=batch["response_mask"], correct=batch["correct"])
    train(policy, None, 3)
    drawn = replay.draw(8)
    assert drawn is not None
    term = llds_loss(policy(drawn.batch), drawn.log_probs, None, drawn.response_mask, preserve=drawn.preserve)
    assert term.preserved_tokens == drawn.response_mask.sum()
    assert term.loss > 0
    term.loss.backward()
    assert policy.lora_B.grad is not None
    assert policy.lora_B.grad.any()


def test_a_resumed_training_draws_what_it_would_have_drawn() -> None:
    replay = Replay(batches=2, seed=3)
    for seed in range(3):
        taken(replay, made_up(8, 4 + seed, seed=seed), answer_mask=made_up(8, 4 + seed)["response_mask"])
    replay.draw(2)
    state, resumed = copy.deepcopy(replay.state_dict()), Replay(batches=2)
    resumed.load_state_dict(state)
    for batch in range(5, 7):
        one, other = replay.draw(4), resumed.draw(4)
        assert one is not None
        assert other is not None
        for name in ("log_probs", "response_mask", "answer_mask"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert rows_of(one) == rows_of(other)
        more = made_up(8, seed=batch)
        for each in (replay, resumed):
            taken(each, more, answer_mask=more["response_mask"])


def test_the_state_is_loaded_without_trusting_it(tmp_path: Any) -> None:
    replay = Replay()
    taken(replay, made_up(8))
    torch.save(replay.state_dict(), tmp_path / "replay.pt")
    resumed = Replay()
    resumed.load_state_dict(torch.load(tmp_path / "replay.pt", weights_only=True))
    assert rows_of(resumed.draw(3)) == rows_of(replay.draw(3))
    lagged = LaggedPolicy(Adapted(), 2)
    torch.save(lagged.state_dict(), tmp_path / "lagged.pt")
    lagged.load_state_dict(torch.load(tmp_path / "lagged.pt", weights_only=True))


def test_the_price_of_a_replay_is_said() -> None:
    assert Replay().price(15, 16) == (
        "LLDS on replayed responses: 15 of earlier batches scored with gradient beside each mini-batch, 240 a step; "
        "and all correct ones of a step once more, without gradient"
    )
    assert "at most 20 correct ones" in Replay(at_most=20).price(3, 4)


REPLAY_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"batches": 0}, "batches is 0, expected a whole number from 1"),
    ({"at_most": 0}, "at_most is 0, expected a whole number from 1"),
]


@pytest.mark.parametrize(("arguments", "message"), REPLAY_MISTAKES)
def test_a_replay_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Replay(**arguments)


def test_a_replay_says_when_it_is_used_wrongly() -> None:
    replay, batch = Replay(), made_up()
    with pytest.raises(InputError, match="responses is 0, expected a whole number from 1"):
        replay.draw(0)
    with pytest.raises(InputError, match="correct has shape"):
        taken(replay, {**batch, "correct": torch.ones(2)})
    with pytest.raises(InputError, match="score returned shape"):
        replay.take(
            lambda some: some["tokens"].float()[:, :2],
            {"tokens": batch["tokens"]},
            response_mask=batch["response_mask"],
            correct=batch["correct"],
        )
    assert len(replay) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_snapshots_may_stay_on_the_host_and_replays_on_the_device() -> None:
    policy = Adapted().cuda()
    batch = {name: tensor.cuda() for name, tensor in made_up(8).items()}
    state = torch.cuda.get_rng_state()
    for device in (None, "cpu"):
        lagged = LaggedPolicy(policy, 1, every=1, device=device)
        before = weights(policy)
        with torch.no_grad():
            policy.lora_B.add_(1.0)
        lagged.after_update()
        with lagged.swapped_in():
            assert same(weights(policy), before)
    replay = Replay()
    replay.take(policy, {"tokens": batch["tokens"]}, response_mask=batch["response_mask"], correct=batch["correct"])
    resumed = Replay()
    resumed.load_state_dict(replay.state_dict(), "cuda")
    one, other = replay.draw(3), resumed.draw(3)
    assert one is not None
    assert other is not None
    assert one.log_probs.is_cuda
    assert torch.equal(one.log_probs, other.log_probs)
    assert torch.equal(state, torch.cuda.get_rng_state())


@pytest.mark.parametrize("correct", [0, 1, 6])
def test_a_replay_makes_as_many_passes_as_the_other_ranks(correct: int) -> None:
    batch, calls = made_up(), 0

    def counted(part: Mapping[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return score(part)

    replay, right = Replay(micro_batch=2), torch.arange(6) < correct
    mask, tokens = batch["response_mask"], {"tokens": batch["tokens"]}
    kept = replay.take(counted, tokens, response_mask=mask, correct=right, passes=3)
    assert (kept, len(replay), calls) == (correct, correct, 3)
