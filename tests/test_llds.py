from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import llds_term, official_llds, tokens_preserved
from strategies import DTYPES, masks, tensors
from torch import Tensor

from lldwatch.errors import InputError
from lldwatch.llds import LldsTerm, llds_loss, preserved_tokens, scheduled_answer_weight

COUNTS = ("gates", "open_gates", "preserved_tokens", "moved_tokens", "penalised_tokens")
ADVANTAGES = st.sampled_from([-1.0, -0.25, -0.007, 0.0, 0.007, 0.5, 1.5])


def lists(tensor: Tensor) -> Any:
    return tensor.double().tolist()


def gradient_of(term: LldsTerm, log_probs: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(term.loss, log_probs)
    return gradient


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `llds_loss`: garbage outside of the mask, changes that are exact in float32, ties among them."""
    size, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    mask, dtype = draw(masks(size, tokens)), draw(st.sampled_from(DTYPES))
    arguments: dict[str, Any] = {
        "log_probs": draw(tensors(mask, -4.0, 0.0, dtype)).requires_grad_(),
        "old_log_probs": draw(tensors(mask, -4.0, 0.0, draw(st.sampled_from(DTYPES)))),
        "response_mask": torch.tensor(mask).to(draw(st.sampled_from([torch.bool, torch.int64, torch.float32]))),
        "gate": draw(st.sampled_from(["action", "response", "token"])),
        "normaliser": draw(st.sampled_from(["preserved_tokens", "response_tokens", "global_tokens"])),
        "dead_zone": draw(st.sampled_from([0.0, 0.125, 0.5])),
        "advantages": draw(tensors(mask, -0.0625, 0.0625, torch.float32))
        if draw(st.booleans())
        else torch.tensor([draw(ADVANTAGES) for _ in range(size)]),
        "preserve": draw(st.sampled_from(["non_negative", "positive", "responses", "tokens"])),
    }
    if arguments["preserve"] in ("responses", "tokens"):
        shape = (size,) if arguments["preserve"] == "responses" else (size, tokens)
        chosen = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
        arguments["preserve"] = torch.tensor(chosen).view(shape)
        arguments["advantages"] = draw(st.sampled_from([None, arguments["advantages"]]))
    if arguments["normaliser"] == "global_tokens":
        arguments["global_tokens"] = draw(st.sampled_from([0.75, 5, torch.tensor(40), torch.tensor(0.5)]))
    if draw(st.booleans()):
        span = draw(st.lists(st.integers(0, 1), min_size=size * tokens, max_size=size * tokens))
        arguments["answer_mask"] = torch.tensor(span).view(size, tokens) * torch.tensor(mask)
        arguments["answer_weight"] = draw(st.sampled_from([0.0, 0.25, 1.0]))
    return arguments


def expected_of(arguments: dict[str, Any]) -> dict[str, Any]:
    mask, preserve = lists(arguments["response_mask"] != 0), arguments["preserve"]
    written = [[int(one) for one in row] for row in mask]
    if isinstance(preserve, Tensor):
        kept = preserve if preserve.ndim == 2 else preserve[:, None].expand(len(mask), len(mask[0]))
        preserved = [[bool(one) for one in row] for row in lists(kept)]
    else:
        preserved = tokens_preserved(written, lists(arguments["advantages"]), preserve)
    counts = {"response_tokens": sum(map(sum, written)), "global_tokens": arguments.get("global_tokens")}
    count = counts.get(arguments["normaliser"])
    answer = arguments.get("answer_mask")
    return llds_term(
        lists(arguments["log_probs"]),
        lists(arguments["old_log_probs"]),
        written,
        preserved,
        gate=arguments["gate"],
        answer_masks=None if answer is None else lists(answer),
        answer_weight=arguments.get("answer_weight", 1.0),
        dead_zone=arguments["dead_zone"],
        count=None if count is None else float(count),
    )


@given(batches())
def test_every_combination_of_options_equals_the_token_by_token_twin(arguments: dict[str, Any]) -> None:
    term, expected = llds_loss(**arguments), expected_of(arguments)
    assert term.loss.item() == pytest.approx(expected["loss"], rel=1e-5, abs=1e-7)
    assert {name: getattr(term, name).item() for name in COUNTS} == {name: expected[name] for name in COUNTS}
    assert term.mean_drop.item() == pytest.approx(expected["mean_drop"], rel=1e-5)
    gradient = gradient_of(term, arguments["log_probs"])
    assert gradient.dtype == arguments["log_probs"].dtype
    rounding = {torch.bfloat16: 1e-2, torch.float16: 1e-3}.get(gradient.dtype, 1e-6)
    torch.testing.assert_close(gradient.double(), torch.tensor(expected["gradient"]).double(), rtol=rounding, atol=0)


@given(batches())
def test_a_gradient_is_only_at_fallen_tokens_behind_open_gates(arguments: dict[str, Any]) -> None:
    arguments |= {"answer_mask": None, "dead_zone": 0.0}
    term, log_probs = llds_loss(**arguments), arguments["log_probs"]
    touched = gradient_of(term, log_probs) != 0
    fallen = log_probs.float() < arguments["old_log_probs"].float()
    assert not (touched & ~(fallen & (arguments["response_mask"] != 0))).any()
    assert touched.sum() == term.penalised_tokens <= term.preserved_tokens
    assert bool(term.open_gates) == bool(touched.any())
    assert term.open_gates <= term.gates


# The worked example: positions 0-1 are the prompt, 2-4 the first action, 5 tool feedback, 6-8 the second action.
MASK = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0, 0, 0, 0]])
OLD = torch.full((3, 9), -1.0)
DELTA = torch.tensor(
    [
        [0, 0, 0.5, -0.25, 0.0, 9.0, 0.25, -1.0, 0.5],  # first action +0.25: open; second -0.25: closed; response 0
        [0, 0, -0.5, 0.25, 0.125, 9.0, 0.5, 0.125, 0],  # first -0.125: closed; second +0.625: open; response +0.5: open
        [0, 0, 2.0, 2.0, 0, 0, 0, 0, 0],  # incorrect: whatever it does is of no interest
    ]
)
RIGHT = torch.tensor([1.0, 0.0, -1.0])
SIZE = 11  # tokens of the first two responses


def worked(**options: Any) -> tuple[LldsTerm, Tensor]:
    log_probs = (OLD - DELTA).requires_grad_()
    term = llds_loss(log_probs, OLD, RIGHT, MASK, **options)
    return term, gradient_of(term, log_probs) * SIZE


def test_action_gates_are_eq_4() -> None:
    term, gradient = worked()
    assert term.loss.item() == pytest.approx((0.5 + 0.5 + 0.125) / SIZE)
    assert gradient.nonzero().tolist() == [[0, 2], [1, 6], [1, 7]]
    torch.testing.assert_close(gradient[gradient != 0], torch.full((3,), -1.0))
    assert (term.gates, term.open_gates, term.preserved_tokens, term.penalised_tokens) == (4, 2, SIZE, 3)
    assert term.moved_tokens == SIZE - 1
    assert term.mean_drop.item() == pytest.approx(0.375)


def test_a_smaller_weight_of_the_answer_is_eq_5() -> None:
    answer = torch.zeros(3, 9)
    answer[1, 6:8] = 1
    term, gradient = worked(answer_mask=answer, answer_weight=0.25)
    assert term.loss.item() == pytest.approx((0.5 + 0.25 * (0.5 + 0.125)) / SIZE)
    torch.testing.assert_close(gradient[gradient != 0], torch.tensor([-1.0, -0.25, -0.25]))
    assert term.open_gates == 2


def test_an_answer_without_weight_has_no_gradient_and_is_not_counted() -> None:
    answer = torch.zeros(3, 9)
    answer[1, 6:8] = 1
    term, gradient = worked(answer_mask=answer, answer_weight=0.0)
    assert gradient.nonzero().tolist() == [[0, 2]]
    assert term.penalised_tokens == 1
    assert term.mean_drop.item() == 0.5


def test_token_gates_are_eq_9() -> None:
    term, gradient = worked(gate="token")
    fallen = [0.5, 0.25, 0.5, 0.25, 0.125, 0.5, 0.125]
    assert term.loss.item() == pytest.approx(sum(fallen) / SIZE)
    assert (gradient != 0).sum() == term.open_gates == len(fallen)
    assert term.gates == SIZE


def test_response_gates_are_eq_10() -> None:
    term, gradient = worked(gate="response")
    assert term.loss.item() == pytest.approx((0.25 + 0.125 + 0.5 + 0.125) / SIZE)
    assert gradient.nonzero()[:, 0].tolist() == [1, 1, 1, 1]
    assert (term.gates, term.open_gates) == (2, 1)


def test_a_gate_whose_changes_sum_up_to_nothing_is_closed() -> None:
    term, gradient = worked(gate="response", preserve=torch.tensor([True, False, False]))
    assert term.loss == 0
    assert not gradient.any()


def test_only_rewarded_responses_are_preserved_if_one_says_so() -> None:
    assert worked(preserve="positive")[0].preserved_tokens == 6


@given(st.data())
def test_response_tokens_as_normaliser_give_the_numbers_of_the_official_code(data: st.DataObject) -> None:
    size, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    mask = data.draw(masks(size, tokens).filter(lambda rows: any(map(any, rows))))
    log_probs, old = (data.draw(tensors(mask, -4.0, 0.0, torch.float32)) for _ in range(2))
    advantages = torch.tensor([data.draw(st.sampled_from([-1.2, 0.0, 0.6])) for _ in range(size)])
    gate, searches = data.draw(st.sampled_from(["action", "response"])), data.draw(st.floats(0.0, 3.0))
    answer = torch.tensor(mask) * (torch.arange(tokens) >= data.draw(st.integers(0, tokens)))
    term = llds_loss(
        log_probs,
        old,
        advantages,
        torch.tensor(mask),
        gate=gate,
        answer_mask=answer,
        answer_weight=scheduled_answer_weight(searches, "code"),
        normaliser="response_tokens",
    )
    official = official_llds(
        lists(log_probs),
        lists(old),
        mask,
        lists(advantages),
        gate,
        coefficient=0.2,
        answer_masks=lists(answer),
        answer_coefficient=0.2,
        valid_searches=searches,
    )
    assert 0.2 * term.loss.item() == pytest.approx(official, rel=1e-5, abs=1e-9)


def made_up(rows: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(rows, tokens, generator=draw)
    return {
        "log_probs": (old + 0.2 * torch.randn(rows, tokens, generator=draw)).clamp(max=0.0),
        "old_log_probs": old,
        "advantages": torch.randn(rows, generator=draw),
        "response_mask": torch.rand(rows, tokens, generator=draw) < 0.8,
    }


@pytest.mark.parametrize("gate", ["action", "response", "token"])
@pytest.mark.parametrize("parts", [2, 4, 16])
def test_with_a_global_count_gradient_accumulation_changes_nothing(gate: Any, parts: int) -> None:
    batch = made_up(16, 200)
    weight = torch.ones(200, requires_grad=True)

    def gradient(pieces: int, **options: Any) -> tuple[float, Tensor]:
        total = 0.0
        weight.grad = None
        for piece in range(pieces):
            some = {name: tensor[piece::pieces] for name, tensor in batch.items()}
            some["log_probs"] = some["log_probs"] * weight
            loss = llds_loss(**some, gate=gate, **options).loss
            loss = loss if options else loss / pieces
            loss.backward()
            total += loss.item()
        assert weight.grad is not None
        return total, weight.grad.clone()

    count = preserved_tokens(batch["advantages"], batch["response_mask"])
    whole, of_whole = gradient(1)
    for tokens in (count, int(count)):
        accumulated, of_parts = gradient(parts, normaliser="global_tokens", global_tokens=tokens)
        assert accumulated == pytest.approx(whole, rel=1e-6)
        assert float((of_parts - of_whole).norm() / of_whole.norm()) < 1e-6
    assert abs(gradient(parts)[0] / whole - 1) > 1e-3  # what the count is for


def test_ranks_that_average_their_gradients_divide_the_count_by_their_number() -> None:
    batch = made_up(8, 50)
    count = preserved_tokens(batch["advantages"], batch["response_mask"]) / 2
    ranks = [{name: tensor[rank::2] for name, tensor in batch.items()} for rank in range(2)]
    of_ranks = [llds_loss(**rank, normaliser="global_tokens", global_tokens=count).loss for rank in ranks]
    torch.testing.assert_close(sum(of_ranks) / 2, llds_loss(**batch).loss)


@pytest.mark.parametrize("gate", ["action", "response", "token"])
def test_noise_within_the_measured_dead_zone_has_exactly_no_gradient(gate: Any) -> None:
    batch = made_up(8, 400)
    noise = 1e-6 * torch.randn(8, 400, generator=torch.Generator().manual_seed(1))
    batch["log_probs"] = (batch["old_log_probs"] + noise).clamp(max=0.0).requires_grad_()
    measured = (batch["log_probs"] - batch["old_log_probs"]).abs().max().item()
    term = llds_loss(**batch, gate=gate, dead_zone=measured)
    assert term.loss == 0
    assert term.open_gates == term.penalised_tokens == term.moved_tokens == 0
    assert not gradient_of(term, batch["log_probs"]).any()
    without = llds_loss(**batch, gate=gate)
    assert without.penalised_tokens > 0.1 * without.preserved_tokens  # full strength for nothing: 0.2 to 0.5


def test_beyond_the_dead_zone_the_gradient_is_as_large_as_ever() -> None:
    log_probs = torch.tensor([[-1.0, -1.02, -3.0]], requires_grad=True)
    term = llds_loss(log_probs, torch.full((1, 3), -1.0), torch.ones(1), torch.ones(1, 3), dead_zone=0.1)
    assert term.loss.item() == pytest.approx(1.9 / 3)
    torch.testing.assert_close(gradient_of(term, log_probs), torch.tensor([[0.0, 0.0, -1 / 3]]))


@pytest.mark.parametrize("gate", ["action", "response", "token"])
def test_old_log_probs_that_are_the_current_ones_have_no_effect_and_the_counts_say_so(gate: Any) -> None:
    batch = made_up(4, 30)
    batch["log_probs"] = batch["old_log_probs"].clone().requires_grad_()
    term = llds_loss(**batch, gate=gate)
    assert term.loss == term.moved_tokens == term.mean_drop == 0
    assert term.preserved_tokens > 0
    assert not gradient_of(term, batch["log_probs"]).any()


EMPTY: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "everything rose": lambda batch: batch["old_log_probs"].copy_(batch["log_probs"].detach() - 0.5),
    "nothing to preserve": lambda batch: batch["advantages"].fill_(-1.0),
    "an empty mask": lambda batch: batch["response_mask"].fill_(False),
}


@pytest.mark.parametrize("gate", ["action", "response", "token"])
@pytest.mark.parametrize("normaliser", ["preserved_tokens", "response_tokens"])
@pytest.mark.parametrize("what", EMPTY)
def test_without_anything_to_hold_loss_and_gradient_are_0(what: str, normaliser: Any, gate: Any) -> None:
    batch = made_up(4, 30)
    EMPTY[what](batch)
    batch["log_probs"].requires_grad_()
    term = llds_loss(**batch, normaliser=normaliser, gate=gate)
    assert term.loss == term.open_gates == term.penalised_tokens == term.mean_drop == 0
    term.loss.backward()
    assert batch["log_probs"].grad is not None
    assert torch.equal(batch["log_probs"].grad, torch.zeros(4, 30))


def test_a_count_of_0_is_no_division_by_0() -> None:
    batch = made_up(2, 5)
    batch["response_mask"].fill_(False)
    for count in (0, torch.tensor(0)):
        assert llds_loss(**batch, normaliser="global_tokens", global_tokens=count).loss == 0


def test_an_empty_batch_has_an_empty_term() -> None:
    log_probs = torch.zeros(0, 3, requires_grad=True)
    term = llds_loss(log_probs, torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3))
    assert term.loss == term.preserved_tokens == 0
    term.loss.backward()


def test_advantages_that_are_0_but_for_rounding_belong_to_the_set() -> None:
    rewards = torch.full((8,), 0.1)
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    assert -0.01 < advantages.min() < 0
    mask = torch.ones(8, 2)
    assert preserved_tokens(advantages, mask) == 16
    assert preserved_tokens(advantages, mask, "positive") == 0


def test_token_advantages_choose_tokens_and_actions_stay_whole() -> None:
    log_probs = torch.tensor([[-1.5, -1.0, -0.75]], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0, 0.0]])
    term = llds_loss(log_probs, torch.full((1, 3), -1.0), advantages, torch.ones(1, 3))
    assert (term.preserved_tokens, term.gates, term.open_gates) == (2, 1, 1)
    torch.testing.assert_close(gradient_of(term, log_probs), torch.tensor([[-0.5, 0.0, 0.0]]))


def test_what_stands_outside_of_the_mask_reaches_neither_loss_nor_gradient() -> None:
    mask = torch.tensor([[0, 1, 1, 0]])
    for filling in (0.0, math.nan, math.inf, -math.inf, 7.0):
        log_probs = torch.tensor([[filling, -2.0, -1.0, filling]], requires_grad=True)
        old = torch.tensor([[filling, -1.5, -1.0, filling]])
        advantages = torch.tensor([[filling, 1.0, 1.0, filling]])
        term = llds_loss(log_probs, old, advantages, mask, answer_mask=mask, answer_weight=0.5)
        assert term.loss.item() == 0.125
        assert gradient_of(term, log_probs).tolist() == [[0.0, -0.25, 0.0, 0.0]]


def test_the_old_log_probs_get_no_gradient() -> None:
    batch = made_up(2, 5)
    for name in ("log_probs", "old_log_probs", "advantages"):
        batch[name] = batch[name].detach().requires_grad_()
    llds_loss(**batch).loss.backward()
    assert batch["log_probs"].grad is not None
    assert batch["old_log_probs"].grad is None
    assert batch["advantages"].grad is None


def test_bfloat16_is_summed_up_in_float32() -> None:
    old = torch.full((1, 100_000), -1.0, dtype=torch.bfloat16)
    log_probs = (old - 0.0078125).requires_grad_()
    term = llds_loss(log_probs, old, torch.ones(1), torch.ones(1, 100_000))
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(0.0078125, rel=1e-5)
    assert gradient_of(term, log_probs).dtype == torch.bfloat16


def test_float64_stays_float64() -> None:
    batch = {name: tensor.double() for name, tensor in made_up(2, 5).items()}
    assert llds_loss(**batch).loss.dtype == torch.float64


def test_the_gradient_is_the_derivative() -> None:
    batch = {name: tensor.double() for name, tensor in made_up(2, 8).items()}
    log_probs = batch.pop("log_probs").requires_grad_()
    old, advantages, mask = batch.values()
    assert torch.autograd.gradcheck(lambda nats: llds_loss(nats, old, advantages, mask).loss, (log_probs,))


def test_a_step_along_the_gradient_raises_what_fell_and_nothing_else() -> None:
    batch = made_up(4, 20)
    batch["log_probs"].requires_grad_()
    term = llds_loss(**batch)
    raised = (batch["log_probs"] - gradient_of(term, batch["log_probs"])).detach()
    changed = raised - batch["log_probs"].detach()
    assert (changed >= 0).all()
    assert (changed > 0).sum() == term.penalised_tokens


def test_no_value_is_asked_for_on_the_host() -> None:
    batch = {name: tensor.to("meta") for name, tensor in made_up(2, 5).items()}  # item() raises there
    for gate in ("action", "response", "token"):
        assert llds_loss(**batch, gate=gate, answer_mask=batch["response_mask"], validate=False).loss.is_meta  # type: ignore[arg-type]


@pytest.mark.parametrize("gate", ["action", "response", "token"])
def test_it_compiles_whole_for_all_shapes(gate: Any) -> None:
    torch.compiler.reset()
    compiled = torch.compile(llds_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, tokens, dead_zone, answer_weight in ((4, 30, 0.0, 1.0), (7, 51, 0.02, 0.5), (3, 12, 0.03, 0.7)):
        batch = made_up(rows, tokens)
        options: dict[str, Any] = {"gate": gate, "dead_zone": dead_zone}
        options |= {"answer_mask": batch["response_mask"], "answer_weight": answer_weight}
        results = []
        for function in (llds_loss, compiled):
            log_probs = batch["log_probs"].clone().requires_grad_()
            term = function(log_probs, *list(batch.values())[1:], **options)
            results.append((*term, gradient_of(term, log_probs)))
        for eager, other in zip(*results, strict=True):
            torch.testing.assert_close(other, eager)
    torch.compiler.reset()


def test_nan_inside_of_the_mask_is_named_or_passed_on_but_never_hidden() -> None:
    for gate in ("action", "response", "token"):
        batch = made_up(3, 5)
        batch["advantages"].fill_(1.0)
        batch["response_mask"].fill_(True)
        batch["log_probs"][1, 2] = math.nan
        assert llds_loss(**batch, gate=gate, validate=False).loss.isnan()  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"log_probs is not finite in 1 of 3 responses \(first: row 1\)"):
            llds_loss(**batch, gate=gate)  # type: ignore[arg-type]


VALUE_MISTAKES: list[tuple[str, tuple[int, ...], float, str]] = [
    ("log_probs", (2, 1), math.nan, "log_probs is not finite in 1 of 4 responses (first: row 2): expected finite nats"),
    (
        "log_probs",
        (3, 1),
        -math.inf,
        "log_probs is not finite in 1 of 4 responses (first: row 3): expected finite nats",
    ),
    ("old_log_probs", (0, 2), math.nan, "old_log_probs is not finite in 1 of 4 responses (first: row 0): expected"),
    ("log_probs", (1, 1), 0.7, "log_probs is above 0 in 1 of 4 responses (first: row 1): expected log-probabilities"),
    ("old_log_probs", (1, 1), 0.7, "old_log_probs is above 0 in 1 of 4 responses (first: row 1): expected log-prob"),
    ("advantages", (2,), math.nan, "advantages is not finite in 1 of 4 responses (first: row 2): expected finite"),
    ("response_mask", (2, 2), 0.5, "response_mask has values other than 0 and 1 in 1 of 4 responses (first: row 2)"),
    (
        "answer_mask",
        (3, 0),
        1.0,
        "answer_mask is 1 outside of response_mask in 1 of 4 responses (first: row 3): expected",
    ),
]


@pytest.mark.parametrize(("name", "place", "value", "message"), VALUE_MISTAKES)
def test_a_value_mistake_names_the_row(name: str, place: Any, value: float, message: str) -> None:
    arguments = correct_arguments()
    arguments[name][place] = value
    with pytest.raises(InputError) as raised:
        llds_loss(**arguments)
    said = str(raised.value)
    assert said.startswith(message)
    assert "\n" not in said
    llds_loss(**arguments, validate=False)


def correct_arguments() -> dict[str, Any]:
    mask = torch.ones(4, 3)
    mask[:, 0] = 0
    nats = torch.full((4, 3), -1.0)
    answer = torch.zeros(4, 3)
    return {
        "log_probs": nats.clone(),
        "old_log_probs": nats.clone(),
        "advantages": torch.ones(4),
        "response_mask": mask,
        "answer_mask": answer,
    }


def test_a_certain_token_may_be_above_0_by_rounding() -> None:
    arguments = correct_arguments()
    arguments["log_probs"][1, 1] = 2e-7
    assert llds_loss(**arguments).loss == 0, "it rose"


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"log_probs": torch.zeros(3)}, "log_probs has shape (3,), expected a tensor of shape (batch, tokens)"),
    ({"log_probs": torch.zeros(4, 0)}, "log_probs has shape (4, 0), expected a tensor of shape (batch, tokens)"),
    ({"log_probs": [[0.0]]}, "log_probs is a list, expected a tensor of shape (batch, tokens)"),
    ({"log_probs": torch.zeros(4, 3, dtype=torch.int64)}, "log_probs is torch.int64, expected floating-point nats"),
    (
        {"old_log_probs": torch.zeros(4, 2)},
        "old_log_probs has shape (4, 2), expected (4, 3) to go with log_probs (4, 3)",
    ),
    ({"old_log_probs": None}, "old_log_probs is a NoneType, expected (4, 3) to go with log_probs (4, 3)"),
    (
        {"response_mask": torch.ones(3, 3)},
        "response_mask has shape (3, 3), expected (4, 3) to go with log_probs (4, 3)",
    ),
    (
        {"advantages": torch.ones(3)},
        "advantages has shape (3,), expected (4,) or (4, 3) to go with response_mask (4, 3)",
    ),
    ({"advantages": torch.ones(4, 1)}, "advantages has shape (4, 1), expected (4,) or (4, 3) to go with response_mask"),
    ({"advantages": 1.0}, "advantages is a float, expected (4,) or (4, 3) to go with response_mask (4, 3)"),
    ({"advantages": None}, "advantages is None with preserve 'non_negative': give advantages, or a mask as preserve"),
    ({"answer_mask": torch.ones(4)}, "answer_mask has shape (4,), expected (4, 3) to go with log_probs (4, 3)"),
    ({"preserve": torch.ones(2)}, "preserve has shape (2,), expected (4,) or (4, 3) to go with response_mask (4, 3)"),
    ({"preserve": "all"}, "preserve is 'all', expected one of non_negative, positive, or a mask"),
    ({"gate": "sentence"}, "gate is 'sentence', expected one of action, response, token"),
    (
        {"normaliser": "tokens"},
        "normaliser is 'tokens', expected one of preserved_tokens, response_tokens, global_tokens",
    ),
    (
        {"normaliser": "global_tokens"},
        "global_tokens is None with normaliser 'global_tokens': give the tokens to divide",
    ),
    (
        {"global_tokens": 7},
        "global_tokens was given with normaliser 'preserved_tokens': expected normaliser 'global_tok",
    ),
    (
        {"normaliser": "global_tokens", "global_tokens": -1},
        "global_tokens is -1, expected a number of tokens, at least 0",
    ),
    ({"answer_weight": -0.5}, "answer_weight is -0.5, expected a number from 0 to 1"),
    ({"answer_weight": 1.5}, "answer_weight is 1.5, expected a number from 0 to 1"),
    ({"dead_zone": -1e-3}, "dead_zone is -0.001, expected nats of a token, at least 0"),
    ({"dead_zone": math.nan}, "dead_zone is nan, expected nats of a token, at least 0"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_a_mistake_says_what_was_got_and_what_was_expected(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        llds_loss(**{**correct_arguments(), **wrong})
    said = str(raised.value)
    assert said.startswith(message)
    assert "\n" not in said


def test_counting_the_set_checks_its_shapes_as_well() -> None:
    with pytest.raises(InputError, match=r"response_mask has shape \(4,\), expected a tensor of shape"):
        preserved_tokens(torch.ones(4), torch.ones(4))
    assert preserved_tokens(None, torch.ones(4, 3), torch.tensor([True, False, False, True])) == 6


@pytest.mark.parametrize(
    ("searches", "paper", "code"),
    [(0.0, 0.0, 0.0), (0.5, 0.25, 0.0), (1.0, 0.5, 0.0), (1.5, 0.75, 0.5), (3.0, 1.0, 1.0)],
)
def test_the_two_schedules_of_the_answer_s_weight(searches: float, paper: float, code: float) -> None:
    assert scheduled_answer_weight(searches) == paper
    assert scheduled_answer_weight(searches, "code") == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "mean_valid_searches is -1.0, expected a mean of counts, at least 0"),
        ((math.nan,), "mean_valid_searches is nan, expected a mean of counts, at least 0"),
        ((1.0, "v1"), "schedule is 'v1', expected 'paper' or 'code'"),
    ],
)
def test_a_schedule_that_does_not_exist(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scheduled_answer_weight(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gate", ["action", "response", "token"])
def test_on_a_gpu_it_is_the_same_and_nothing_waits(gate: Any) -> None:
    batch = made_up(8, 300)
    here = llds_loss(**batch, gate=gate)
    there = {name: tensor.cuda() for name, tensor in batch.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        term = llds_loss(**there, gate=gate)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(here, term, strict=True):
        torch.testing.assert_close(other.cpu(), one)
    there["log_probs"][3] = math.nan
    there["advantages"][3] = 1.0
    assert llds_loss(**there, gate=gate).loss.isnan()
    with pytest.raises(InputError, match="first: row 3"):
        llds_loss(**there, gate=gate, validate=True)
