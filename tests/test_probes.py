from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.probes import CrossUpdateProbe
from lldwatch.rollup import summarise
from lldwatch.schema import Probes

VOCABULARY, TOKENS, SIZE = 7, 5, 10


class Policy(torch.nn.Module):
    """A bigram policy: the next token depends on the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(VOCABULARY, VOCABULARY)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """(responses, tokens), nats; the first token is given, its log-prob 0."""
        logits = torch.log_softmax(self.table(tokens[:, :-1]), -1)
        return torch.nn.functional.pad(logits.gather(-1, tokens[:, 1:, None])[..., 0], (1, 0))


class Training:
    """A tiny policy that an optimizer really moves, and batches to train it on."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)
        torch.nn.init.normal_((policy := Policy()).table.weight, generator=self.random)
        self.policy = policy
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)

    def score(self, batch: Any) -> Tensor:
        return self.policy.log_probs(batch["tokens"])

    def batch(self, correct: list[int]) -> dict[str, Any]:
        draw = torch.randint(0, VOCABULARY, (SIZE, TOKENS), generator=self.random)
        mask = torch.rand(SIZE, TOKENS, generator=self.random) < 0.7
        mask[:, -1], mask[:, 0] = True, False
        return {
            "batch": {"tokens": draw, "advantages": torch.randn(SIZE, generator=self.random)},
            "response_mask": mask.long(),
            "correct": torch.tensor([i in correct for i in range(SIZE)]),
            "uid": torch.randint(0, 10**6, (SIZE,), generator=self.random),
            "group": torch.arange(SIZE) // 2,
        }

    def update(self, batch: Any) -> None:
        log_probs = self.score(batch["batch"]) * batch["response_mask"]
        loss = -(log_probs.sum(-1) * batch["batch"]["advantages"]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def likelihoods(self, batch: Any, rows: list[int]) -> list[float]:
        """Sum over policy tokens of each of the rows, token by token."""
        table = torch.log_softmax(self.policy.table.weight.detach().double(), -1)
        sums = []
        for row in rows:
            tokens, mask = batch["batch"]["tokens"][row].tolist(), batch["response_mask"][row].tolist()
            sums.append(sum(float(table[tokens[t - 1], tokens[t]]) for t in range(1, TOKENS) if mask[t]))
        return sums


@pytest.fixture
def training() -> Training:
    return Training()


def of_kind(probes: Probes, kind: str) -> dict[str, list[Any]]:
    if not len(probes):
        return {}
    assert probes.kind is not None
    chosen = probes.kind == kind
    return {name: column[chosen].tolist() for name, column in probes.columns().items() if column is not None}


def test_cross_update_rows_equal_an_independent_measurement(training: Training) -> None:
    probe = CrossUpdateProbe(training.score, noise_every=1000)
    previous: tuple[Any, list[int], list[float]] | None = None
    for correct in ([0, 3, 4], [1, 2], list(range(SIZE)), [9]):
        batch = training.batch(correct)
        training.update(batch)
        training.update(batch)
        rows = of_kind(probe.after_update(**batch), "cross_update")
        if previous is None:
            assert not any(rows.values())
        else:
            held, right, before = previous
            after = training.likelihoods(held, right)
            assert rows["uid"] == held["uid"][right].tolist()
            assert rows["group"] == held["group"][right].tolist()
            assert rows["tokens"] == held["response_mask"][right].sum(-1).tolist()
            assert rows["correct"] == [True] * len(right)
            assert rows["lag"] == [1] * len(right)
            assert rows["log_prob_before"] == pytest.approx(before, abs=1e-5)
            assert rows["log_prob_after"] == pytest.approx(after, abs=1e-5)
            assert rows["log_prob_after"] != rows["log_prob_before"]
        previous = batch, correct, training.likelihoods(batch, correct)


def test_the_headline_is_the_change_per_token_of_those_rows(training: Training) -> None:
    probe = CrossUpdateProbe(training.score)
    first, second = training.batch([1, 4, 6]), training.batch([2])
    training.update(first)
    probe.after_update(**first)
    before = training.likelihoods(first, [1, 4, 6])
    training.update(second)
    probes = probe.after_update(**second)
    after = training.likelihoods(first, [1, 4, 6])
    tokens = int(first["response_mask"][[1, 4, 6]].sum())
    expected = (sum(after) - sum(before)) / tokens
    assert summarise([], [probes])["cross_update_change"] == pytest.approx(expected, abs=1e-6)


def test_noise_is_measured_at_the_first_step_and_each_so_many_steps(training: Training) -> None:
    probe = CrossUpdateProbe(training.score, noise_every=3)
    measured = []
    for _ in range(7):
        batch = training.batch([0, 5])
        training.update(batch)
        rows = of_kind(probe.after_update(**batch), "noise")
        measured.append(bool(rows.get("uid")))
        if measured[-1]:
            assert rows["lag"] == [0, 0]
            assert rows["uid"] == batch["uid"][[0, 5]].tolist()
            assert rows["log_prob_before"] == rows["log_prob_after"]
    assert measured == [True, False, False, True, False, False, True]


def test_a_noisy_score_shows_in_the_noise_rows(training: Training) -> None:
    noise = iter([0.0, 0.25])
    probe = CrossUpdateProbe(lambda batch: training.score(batch) + next(noise))
    batch = training.batch([0, 5])
    probes = probe.after_update(**batch)
    assert summarise([], [probes])["noise_floor"] == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(("right", "at_most"), [(10, 3), (10, 4), (10, 1), (7, 5), (10, 9), (3, 10)])
def test_at_most_so_many_responses_are_held_evenly_chosen(training: Training, right: int, at_most: int) -> None:
    probe = CrossUpdateProbe(training.score, max_responses=at_most)
    batch = training.batch(list(range(right)))
    rows = of_kind(probe.after_update(**batch), "noise")
    positions = [batch["uid"].tolist().index(uid) for uid in rows["uid"]]
    assert len(positions) == min(right, at_most)
    gaps = np.diff(positions)
    assert positions[0] == 0
    assert (gaps > 0).all()
    if at_most > 1:
        assert positions[-1] == right - 1
        assert gaps.max() - gaps.min() <= 1


def test_the_next_batch_may_have_another_size(training: Training) -> None:
    probe = CrossUpdateProbe(training.score, noise_every=1000)
    probe.after_update(**training.batch([0, 1]))
    wide = {"tokens": torch.zeros(2, 9, dtype=torch.long)}
    rows = of_kind(
        probe.after_update(wide, response_mask=torch.ones(2, 9), correct=torch.tensor([1, 0])), "cross_update"
    )
    assert len(rows["uid"]) == 2


def test_a_step_without_correct_responses_measures_nothing_and_holds_nothing(training: Training) -> None:
    probe = CrossUpdateProbe(training.score, noise_every=1)
    probe.after_update(**training.batch([2]))
    assert len(of_kind(probe.after_update(**training.batch([])), "cross_update")["uid"]) == 1
    nothing = probe.after_update(**training.batch([1]))
    assert of_kind(nothing, "cross_update")["uid"] == []
    assert len(of_kind(nothing, "noise")["uid"]) == 1
    assert len(CrossUpdateProbe(training.score).after_update(**training.batch([]))) == 0


def test_uid_and_group_may_be_left_out(training: Training) -> None:
    probe = CrossUpdateProbe(training.score)
    batch = training.batch([1, 2])
    del batch["uid"], batch["group"]
    probes = probe.after_update(**batch)
    assert len(probes) == 2
    assert probes.uid is None


def test_the_trainings_random_stream_gradients_and_weights_are_untouched(training: Training) -> None:
    probe = CrossUpdateProbe(training.score, max_responses=2, noise_every=1)
    for _ in range(2):
        batch = training.batch(list(range(SIZE)))
        training.update(batch)
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
        weights = {name: tensor.clone() for name, tensor in training.policy.state_dict().items()}
        gradient = training.policy.table.weight.grad.clone()
        probe.after_update(**batch)
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert (np.random.get_state()[1] == numpy_state).all()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in training.policy.state_dict().items())
        assert torch.equal(training.policy.table.weight.grad, gradient)


def test_the_score_is_called_without_gradient_and_on_a_copy(training: Training) -> None:
    graded = []

    def score(batch: Any) -> Tensor:
        graded.append(torch.is_grad_enabled())
        return training.score(batch)

    probe = CrossUpdateProbe(score, noise_every=1000)
    batch = training.batch([3, 4])
    before = training.likelihoods(batch, [3, 4])
    probe.after_update(**batch)
    batch["batch"]["tokens"].zero_()  # the loop reuses its buffers
    rows = of_kind(probe.after_update(**training.batch([])), "cross_update")
    assert rows["log_prob_after"] == pytest.approx(before, abs=1e-5)
    assert graded == [False] * 3


def fails_from(call: int, score: Callable[[Any], Tensor], error: Exception) -> Callable[[Any], Tensor]:
    calls = iter(range(1000))

    def failing(batch: Any) -> Tensor:
        if next(calls) >= call:
            raise error
        return score(batch)

    return failing


@pytest.mark.parametrize("first_failing_call", [0, 3])
def test_a_score_that_raises_gives_no_rows_and_the_reason(training: Training, first_failing_call: int) -> None:
    probe = CrossUpdateProbe(fails_from(first_failing_call, training.score, RuntimeError("out of memory")))
    measured = [probe.after_update(**training.batch([0, 1, 2])) for _ in range(6)]
    assert [len(probes) for probes in measured[-3:]] == [0, 0, 0]
    assert "score failed in the cross-update probe (RuntimeError: out of memory)" in str(measured[-1].error)


def test_after_a_failure_it_measures_again(training: Training) -> None:
    healthy = [True, True, False, True, True]
    steps = iter(healthy)

    def score(batch: Any) -> Tensor:
        if not now:
            raise RuntimeError("out of memory")
        return training.score(batch)

    probe = CrossUpdateProbe(score, noise_every=1000)
    rows = []
    for now in steps:  # noqa: B007  # read by score
        rows.append(len(of_kind(probe.after_update(**training.batch([0, 1])), "cross_update").get("uid", [])))
    assert rows == [0, 2, 0, 0, 2]


def test_a_score_of_another_shape_names_both_shapes(training: Training) -> None:
    probe = CrossUpdateProbe(lambda batch: training.score(batch)[:, 1:])
    said = str(probe.after_update(**training.batch([0, 1, 2])).error)
    assert "score returned shape (3, 4), expected (3, 5)" in said


def test_dropout_is_off_while_the_model_is_scored_and_on_again_after_it() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(7, 7), torch.nn.Dropout(0.5))
    model[0].training = False  # a part that the user froze stays as it is

    class Scored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, batch: Any) -> Tensor:
            return self.inner(batch["tokens"]).log_softmax(-1)[..., 0]

    scored, tokens = Scored(), torch.randint(0, 7, (6, 4))
    probe = CrossUpdateProbe(scored, noise_every=1)
    state = torch.random.get_rng_state()
    rows = probe.after_update({"tokens": tokens}, response_mask=torch.ones(6, 4), correct=torch.ones(6))
    assert rows.log_prob_before is not None
    assert (rows.log_prob_before == rows.log_prob_after).all()
    assert torch.equal(state, torch.random.get_rng_state())
    assert scored.training
    assert model[1].training
    assert not model[0].training


def test_a_function_that_draws_random_numbers_leaves_the_training_s_stream_alone(training: Training) -> None:
    probe = CrossUpdateProbe(lambda batch: training.score(batch) + torch.rand(()))
    state = torch.random.get_rng_state()
    probe.after_update(**training.batch([0, 1, 2]))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("wrong", [["a"] * SIZE, None, "text", torch.tensor(3.0), 1.5])
def test_what_is_no_tensor_in_the_batch_is_named(training: Training, wrong: Any) -> None:
    arguments = training.batch([0])
    arguments["batch"] = {**arguments["batch"], "meta": wrong}
    said = str(CrossUpdateProbe(training.score).after_update(**arguments).error)
    assert said.startswith("meta is a ")
    assert "give what score needs" in said


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("response_mask", torch.ones(SIZE), r"response_mask has shape \(10,\), expected \(batch, tokens\)"),
        ("correct", torch.ones(SIZE + 1), r"correct has shape \(11,\), expected \(10,\)"),
        ("correct", torch.ones(SIZE, TOKENS), r"correct has shape \(10, 5\), expected \(10,\)"),
        ("uid", torch.ones(3), r"uid has shape \(3,\), expected \(10,\)"),
        ("group", torch.ones(SIZE, 1), r"group has shape \(10, 1\), expected \(10,\)"),
        ("batch", {"tokens": torch.zeros(4, TOKENS, dtype=torch.long)}, "tokens has 4 rows, response_mask has 10"),
    ],
)
def test_a_shape_mistake_names_the_argument(training: Training, name: str, wrong: Any, words: str) -> None:
    error = CrossUpdateProbe(training.score).after_update(**{**training.batch([0]), name: wrong}).error
    assert isinstance(error, InputError)
    assert re.search(words, str(error))


@pytest.mark.parametrize("wrong", [{"max_responses": 0}, {"noise_every": 0}])
def test_limits_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=0"):
        CrossUpdateProbe(lambda batch: batch["tokens"], **wrong)
