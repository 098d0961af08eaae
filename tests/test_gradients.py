from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed, nn

from lldwatch.errors import InputError
from lldwatch.gradients import GradientNorms, module_of
from lldwatch.schema import Gradients
from lldwatch.search_world.policy import Policy

Rows = dict[str, tuple[float, int]]
"""Part of the model -> norm, and how many numbers."""


class Tree(nn.Module):
    """A module with the given children, to mimic the naming of a library."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class Unreadable(nn.Parameter):
    """A parameter whose gradient cannot be had."""

    @property
    def grad(self) -> Tensor | None:
        raise RuntimeError("no gradient today")


def qwen2(blocks: int = 12, width: int = 2) -> nn.Module:
    layers = [
        Tree(
            self_attn=Tree(q_proj=nn.Linear(width, width), o_proj=nn.Linear(width, width, bias=False)),
            mlp=Tree(down_proj=nn.Linear(width, width), experts=nn.ModuleList([nn.Linear(width, width)] * 2)),
            input_layernorm=nn.LayerNorm(width),
        )
        for _ in range(blocks)
    ]
    model = Tree(embed_tokens=nn.Embedding(5, width), layers=nn.ModuleList(layers), norm=nn.LayerNorm(width))
    return Tree(model=model, lm_head=nn.Linear(width, 5, bias=False))


def part_in_qwen2(name: str) -> str:
    pieces = name.split(".")
    if pieces[1] == "layers":
        return f"block {pieces[2]}"
    return {"embed_tokens": "embedding", "norm": "other", "weight": "head"}[pieces[1]]


def part_in_policy(name: str) -> str:
    pieces = name.split(".")
    if pieces[0] == "layers":
        return f"block {pieces[1]}"
    return {"norm": "other", "head": "head"}.get(pieces[0], "embedding")


def twin(model: nn.Module, part_of: Callable[[str], str]) -> Rows:
    """The slow and obvious way: number by number, in float64."""
    squares: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        for part in (part_of(name), "total"):
            values = parameter.grad.to_dense().double().flatten().tolist()
            for value in values:
                squares[part] = squares.get(part, 0.0) + value * value
            numbers[part] = numbers.get(part, 0) + len(values)
    return {part: (math.sqrt(squares[part]), numbers[part]) for part in squares}


def rows_of(table: Gradients) -> Rows:
    assert table.error is None, table.error
    if not len(table):
        return {}
    assert table.module is not None
    assert table.grad_norm is not None
    assert table.parameters is not None
    assert table.update is None
    rows = zip(table.module.tolist(), table.grad_norm.tolist(), table.parameters.tolist(), strict=True)
    return {module: (norm, numbers) for module, norm, numbers in rows}


def measured(model: nn.Module) -> Rows:
    return rows_of(GradientNorms(model).measure())


def assert_same(got: Rows, expected: Rows, rtol: float = 1e-5) -> None:
    assert set(got) == set(expected)
    for part, (norm, numbers) in expected.items():
        np.testing.assert_allclose(got[part][0], norm, rtol=rtol, err_msg=part)
        assert got[part][1] == numbers, part


def fill(model: nn.Module, scale: float = 1.0, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = (scale * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
    return model


def trained_policy() -> Policy:
    policy = Policy(20, 16, seed=3)
    policy.log_probs(torch.arange(10).reshape(2, 5))[0].sum().backward()
    return policy


@st.composite
def models(draw: st.DrawFn) -> nn.Module:
    """Any dtype, scale and size; some gradients missing, exactly zero, or with an inf or NaN in them."""
    model = qwen2(draw(st.integers(0, 3)), draw(st.integers(1, 4)))
    model.to(draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])))
    fill(model, draw(st.sampled_from([1e-3, 1.0, 300.0, 1.5e4])), draw(st.integers(0, 99)))
    for parameter in model.parameters():
        change = draw(st.sampled_from(["", "", "", "missing", "zero", "inf", "nan"]))
        assert parameter.grad is not None
        if change == "missing":
            parameter.grad = None
        elif change == "zero":
            parameter.grad.zero_()
        elif change:
            parameter.grad.view(-1)[-1] = float(change)
    return model


@given(models())
def test_rows_equal_the_number_by_number_twin(model: nn.Module) -> None:
    assert_same(measured(model), twin(model, part_in_qwen2))


@given(models())
def test_the_total_is_what_clip_grad_norm_returns_and_the_root_of_the_sum_of_squares_of_the_rows(
    model: nn.Module,
) -> None:
    rows = measured(model.float())
    if not rows:
        return
    total, numbers = rows.pop("total")
    clipped = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    np.testing.assert_allclose(total, float(clipped), rtol=1e-5)
    np.testing.assert_allclose(total, math.sqrt(sum(norm * norm for norm, _ in rows.values())), rtol=1e-6)
    assert numbers == sum(numbers for _, numbers in rows.values())


def test_the_projects_own_policy_after_a_real_backward() -> None:
    policy = trained_policy()
    rows = measured(policy)
    assert list(rows) == ["embedding", "block 0", "block 1", "head", "other", "total"]
    assert rows["embedding"][1] == (20 + 20 + 16) * 48
    assert_same(rows, twin(policy, part_in_policy))
    np.testing.assert_allclose(rows["total"][0], float(nn.utils.clip_grad_norm_(policy.parameters(), 1.0)), rtol=1e-6)


def test_blocks_stand_in_the_order_of_their_numbers_and_the_total_last() -> None:
    blocks = [f"block {index}" for index in range(12)]
    assert list(measured(fill(qwen2()))) == ["embedding", *blocks, "head", "other", "total"]


def test_columns_have_the_dtypes_of_the_contract() -> None:
    table = GradientNorms(fill(qwen2().double())).measure()
    for column in dataclasses.fields(table):
        values = getattr(table, column.name)
        if column.metadata["dtype"] == "string":
            assert values.dtype.kind == "U"
        else:
            assert values is None or values.dtype == column.metadata["dtype"], column.name


def test_fp16_gradients_whose_squares_and_norm_overflow_fp16_have_a_finite_norm() -> None:
    model = nn.Linear(40, 40, bias=False).half()
    model.weight.grad = torch.full((40, 40), 60_000.0, dtype=torch.float16)
    assert measured(model)["total"][0] == pytest.approx(float(torch.tensor(60_000.0).half()) * 40, rel=1e-6)


def test_norms_of_bf16_gradients_are_not_rounded_to_bf16() -> None:
    model = nn.Linear(1001, 1, bias=False).bfloat16()
    model.weight.grad = torch.full((1, 1001), 300.0, dtype=torch.bfloat16)
    assert measured(model)["total"][0] == pytest.approx(300.0 * math.sqrt(1001), rel=1e-6)


def test_squares_that_overflow_float32_are_inf_as_in_clip_grad_norm() -> None:
    model = nn.Linear(2, 2, bias=False).bfloat16()
    model.weight.grad = torch.full((2, 2), 1e30, dtype=torch.bfloat16)
    assert measured(model)["total"][0] == math.inf == float(nn.utils.clip_grad_norm_(model.parameters(), 1.0))


def test_parts_that_are_finite_alone_stay_finite_together_and_float64_ends_at_the_columns_range() -> None:
    model = nn.Linear(1, 1)
    model.weight.grad, model.bias.grad = torch.full((1, 1), 1.5e19), torch.full((1,), 1.5e19)
    assert measured(model)["total"][0] == pytest.approx(1.5e19 * math.sqrt(2), rel=1e-6)
    model.double()
    model.weight.grad, model.bias.grad = (
        torch.full((1, 1), 1e200, dtype=torch.float64),
        torch.full((1,), 1e-40, dtype=torch.float64),
    )
    assert measured(model)["total"][0] == math.inf
    model.weight.grad = None
    assert 0 < measured(model)["total"][0] < 1e-38


@pytest.mark.parametrize(
    ("in_block_0", "in_block_1", "total"),
    [
        (math.inf, 1.0, math.inf),
        (-math.inf, math.inf, math.inf),
        (math.nan, 1.0, math.nan),
        (math.nan, math.inf, math.nan),
        (math.inf, math.nan, math.nan),
    ],
)
def test_inf_and_nan_stay_in_their_part_and_reach_the_total(in_block_0: float, in_block_1: float, total: float) -> None:
    model = fill(qwen2(2))
    for index, value in enumerate((in_block_0, in_block_1)):
        gradient = model.get_parameter(f"model.layers.{index}.self_attn.q_proj.weight").grad
        assert gradient is not None
        gradient[0, 0] = value
    rows = measured(model)
    np.testing.assert_equal(rows["total"][0], total)
    np.testing.assert_equal(rows["block 0"][0], abs(in_block_0))
    assert math.isfinite(rows["embedding"][0])
    assert math.isfinite(rows["block 1"][0]) == math.isfinite(in_block_1)


def test_inf_and_nan_within_one_gradient_are_nan() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[math.inf, math.nan]])
    assert math.isnan(measured(model)["total"][0])


def test_exactly_zero_stays_zero() -> None:
    assert {norm for norm, _ in measured(fill(qwen2(2), 0.0)).values()} == {0.0}


def test_parts_without_a_gradient_have_no_row() -> None:
    model = fill(qwen2(3))
    model.get_submodule("model.layers.1").zero_grad()
    model.get_submodule("lm_head").zero_grad()
    q_proj = model.get_submodule("model.layers.2.self_attn.q_proj")
    q_proj.zero_grad()
    rows = measured(model)
    assert list(rows) == ["embedding", "block 0", "block 2", "other", "total"]
    assert rows["block 0"][1] - rows["block 2"][1] == sum(weight.numel() for weight in q_proj.parameters())
    assert_same(rows, twin(model, part_in_qwen2))


def test_frozen_parameters_have_no_row_after_a_backward() -> None:
    policy = Policy(20, 16, seed=3)
    policy.requires_grad_(False)
    policy.layers[1].requires_grad_(True)
    policy.log_probs(torch.arange(10).reshape(2, 5))[0].sum().backward()
    assert list(measured(policy)) == ["block 1", "total"]


@pytest.mark.parametrize("model", [qwen2(2), nn.Module(), nn.ReLU()])
def test_no_gradient_at_all_gives_no_rows_and_no_error(model: nn.Module) -> None:
    table = GradientNorms(model).measure()
    assert len(table) == 0
    assert table.error is None


@pytest.mark.parametrize("head_first", [False, True])
def test_a_tied_weight_appears_once_under_embedding(head_first: bool) -> None:
    embedding, head = nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)
    head.weight = embedding.weight
    model = Tree(lm_head=head, tokens=embedding) if head_first else Tree(tokens=embedding, lm_head=head)
    head(embedding(torch.tensor([1, 1, 3]))).sum().backward()
    rows = measured(model)
    assert list(rows) == ["embedding", "total"]
    assert rows["embedding"] == rows["total"]
    assert rows["total"][1] == 10
    assert rows["total"][0] == pytest.approx(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)), rel=1e-6)


def test_a_weight_shared_by_all_blocks_appears_once_in_the_first() -> None:
    shared = Tree(linear=nn.Linear(2, 2))
    rows = measured(fill(Tree(layers=nn.ModuleList([shared, shared]))))
    assert list(rows) == ["block 0", "total"]
    assert rows["total"][1] == 6


def test_sparse_gradients_of_repeated_tokens_are_added_up_before_the_norm() -> None:
    tokens = torch.tensor([1, 1, 3, 1])
    norms = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(6, 3, sparse=sparse), nn.Linear(3, 2))
        model(tokens).pow(2).sum().backward()
        if sparse:
            gradient = model[0].weight.grad
            assert isinstance(gradient, Tensor)
            assert gradient.is_sparse
        norms.append(measured(model))
        assert_same(norms[-1], twin(model, lambda name: "embedding" if name.startswith("0") else "other"))
        if sparse:
            assert not gradient.is_coalesced()
    assert_same(norms[1], norms[0], rtol=1e-6)


def test_gradients_of_several_dtypes_go_together() -> None:
    model = fill(qwen2(2))
    for index, dtype in enumerate((torch.float64, torch.bfloat16)):
        fill(model.get_submodule(f"model.layers.{index}").to(dtype), seed=index)
    assert_same(measured(model), twin(model, part_in_qwen2))


def test_measured_at_the_first_update_and_then_each_so_many() -> None:
    norms = GradientNorms(fill(qwen2(1)), every=3)
    assert [len(norms.measure()) > 0 for _ in range(8)] == [True, False, False] * 2 + [True, False]
    norms = GradientNorms(fill(qwen2(1)))
    assert [call for call in range(31) if len(norms.measure())] == [0, 10, 20, 30]


def test_updates_that_the_schedule_leaves_out_do_not_look_at_the_model() -> None:
    class Watched(nn.Linear):
        looks = 0

        def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
            self.looks += 1
            return super().named_parameters(*args, **options)

    model = Watched(2, 2)
    norms = GradientNorms(model, every=4)
    for _ in range(8):
        norms.measure()
    assert model.looks == 2


def test_an_update_that_failed_counts_for_the_schedule() -> None:
    model = fill(qwen2(1))
    norms = GradientNorms(model, every=2)
    model.get_parameter("lm_head.weight").grad = None
    model.register_parameter("broken", Unreadable(torch.zeros(2)))
    assert norms.measure().error is not None
    assert norms.measure().error is None
    del model.broken
    assert list(rows_of(norms.measure())) == ["embedding", "block 0", "other", "total"]


def test_a_model_that_is_wrapped_or_frozen_later_is_read_as_it_is_then() -> None:
    model = qwen2(2)
    norms = GradientNorms(model, every=1)
    assert rows_of(norms.measure()) == {}
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    layers[1] = Tree(_fsdp_wrapped_module=layers[1], adapter=nn.Linear(2, 2))
    fill(layers[1])
    assert list(rows_of(norms.measure())) == ["block 1", "total"]


@pytest.mark.parametrize("calls", ["tolist", "item", "cpu", "numpy", "__float__", "to"])
def test_one_transfer_for_all_parts(calls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen, plain = fill(qwen2()), [], getattr(Tensor, calls)

    def counted(self: Tensor, *args: Any, **options: Any) -> Any:
        if calls != "to" or torch.device("cpu") not in args:
            seen.append(self.shape)
        return plain(self, *args, **options)

    monkeypatch.setattr(Tensor, calls, counted)
    assert len(GradientNorms(model).measure()) == 16
    gradients = len(list(model.parameters()))
    assert seen == ([(gradients,)] if calls == "tolist" else [])


def test_gradients_weights_and_the_random_stream_are_bitwise_untouched() -> None:
    model = trained_policy()
    fill(model.layers[0].half(), 6e4)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    before = {name: (weight.detach().clone(), weight.grad.clone()) for name, weight in model.named_parameters()}
    state = torch.get_rng_state()
    GradientNorms(model).measure()
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in model.named_parameters():
        assert parameter.grad is gradients[name]
        assert parameter.grad.grad_fn is None
        for now, then in zip((parameter.detach(), parameter.grad), before[name], strict=True):
            assert now.dtype == then.dtype
            assert torch.equal(now.reshape(-1).view(torch.uint8), then.reshape(-1).view(torch.uint8)), name


def test_gradients_with_a_graph_of_their_own_are_measured_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, norms = torch.linalg.vector_norm, []
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda *a, **kw: norms.append(plain(*a, **kw)) or norms[-1])
    model = nn.Linear(2, 1, bias=False)
    (gradient,) = torch.autograd.grad(model(torch.ones(1, 2)).pow(3).sum(), model.weight, create_graph=True)
    assert gradient.requires_grad
    model.weight.grad = gradient
    got = measured(model)["total"][0]
    assert [norm.requires_grad for norm in norms] == [False]
    assert got == pytest.approx(float(gradient.detach().norm()), rel=1e-6)


def test_a_failing_gradient_gives_an_error_and_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*args: Any, **options: Any) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    norms = GradientNorms(fill(qwen2(2)), every=1)
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "vector_norm", out_of_memory)
        table = norms.measure()
    assert isinstance(table.error, InputError)
    assert "OutOfMemoryError: CUDA out of memory" in str(table.error)
    assert len(table) == 0
    assert len(norms.measure()) == 6


def test_a_gradient_that_cannot_be_had_gives_an_error_and_raises_nothing() -> None:
    model = fill(nn.Linear(2, 2))
    model.weight = Unreadable(torch.zeros(2, 2))
    table = GradientNorms(model).measure()
    assert isinstance(table.error, InputError)
    assert "RuntimeError: no gradient today" in str(table.error)
    assert len(table) == 0


@pytest.mark.parametrize("every", [0, -1, 2.5, "10", None])
def test_a_schedule_of_less_than_one_update_is_refused(every: Any) -> None:
    with pytest.raises(InputError, match=r"every is .*, expected an int of at least 1") as caught:
        GradientNorms(nn.Linear(1, 1), every=every)
    assert repr(every) in str(caught.value)


@pytest.mark.parametrize(("model", "got"), [(None, "NoneType"), ([torch.zeros(1)], "list"), (nn.Linear, "type")])
def test_a_model_that_is_none_is_refused_and_named(model: Any, got: str) -> None:
    with pytest.raises(InputError, match=rf"model is a {got}, expected a torch\.nn\.Module"):
        GradientNorms(model)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.3.self_attn.q_proj.weight", "block 3"),
        ("model.layers.3.mlp.experts.7.down_proj.weight", "block 3"),
        ("model.norm.weight", "other"),
        ("lm_head.weight", "head"),
        ("transformer.wte.weight", "embedding"),
        ("transformer.wpe.weight", "embedding"),
        ("transformer.h.11.attn.c_attn.bias", "block 11"),
        ("transformer.ln_f.weight", "other"),
        ("gpt_neox.embed_in.weight", "embedding"),
        ("gpt_neox.final_layer_norm.weight", "other"),
        ("embed_out.weight", "head"),
        ("transformer.word_embeddings.weight", "embedding"),
        ("bert.encoder.layer.4.output.dense.weight", "block 4"),
        ("output.weight", "head"),
        ("transformer.output_layer.weight", "head"),
        ("decoder.output_projection.weight", "head"),
        ("score.weight", "head"),
        ("v_head.summary.weight", "head"),
        ("heads.0.weight", "head"),
        ("layers.03.up.weight", "block 3"),
        ("pos_emb", "embedding"),
        ("tok_emb.weight", "embedding"),
        ("base_model.model.model.layers.7.self_attn.q_proj.lora_A.default.weight", "block 7"),
        ("base_model.model.model.embed_tokens.lora_embedding_A.default", "embedding"),
        ("base_model.model.lm_head.lora_A.0.weight", "head"),
        ("module._orig_mod.model.layers.2._fsdp_wrapped_module._flat_param", "block 2"),
        ("_fsdp_wrapped_module._flat_param", "other"),
        ("weight", "other"),
        ("", "other"),
    ],
)
def test_a_name_alone_says_the_part(name: str, part: str) -> None:
    assert module_of(name) == part
    assert module_of(name, nn.Linear(1, 1)) == part, "also where the path leads nowhere"


class Own(nn.Module):
    """A model with a position table that is a plain parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.zeros(4, 2))
        self.scales = nn.ParameterList([nn.Parameter(torch.zeros(1))])
        self.codes = nn.ModuleList([nn.Embedding(3, 2), nn.Embedding(3, 2)])
        self.bag = nn.EmbeddingBag(3, 2)
        self.layers = nn.ModuleDict({"4": Tree(rel=Tree(embed=nn.Linear(2, 2)), up=nn.Sequential(nn.Linear(2, 2)))})
        self.adapter = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        self.head = nn.Sequential(nn.Linear(2, 2), Tree(deep=Tree(out=nn.Linear(2, 2))))
        self.codebook_heads = nn.ModuleList([nn.Linear(2, 3)])


def lora(linear: nn.Linear) -> nn.Module:
    return Tree(
        base_layer=linear,
        lora_A=nn.ModuleDict({"default": nn.Linear(linear.in_features, 1, bias=False)}),
        lora_B=nn.ModuleDict({"default": nn.Linear(1, linear.out_features, bias=False)}),
    )


def gpt2() -> nn.Module:
    blocks = [Tree(ln_1=nn.LayerNorm(2), attn=Tree(c_attn=nn.Linear(2, 6))) for _ in range(12)]
    transformer = Tree(wte=nn.Embedding(5, 2), wpe=nn.Embedding(4, 2), h=nn.ModuleList(blocks), ln_f=nn.LayerNorm(2))
    model = Tree(transformer=transformer, lm_head=nn.Linear(2, 5, bias=False))
    model.get_submodule("lm_head").weight = transformer.get_submodule("wte").weight
    return model


def qwen2_with_lora() -> nn.Module:
    model = qwen2(8)
    attention = model.get_submodule("model.layers.7.self_attn")
    attention.q_proj = lora(attention.q_proj)
    model.requires_grad_(False)
    return Tree(base_model=Tree(model=model))


def sequential() -> nn.Module:
    blocks = [Tree(attn=nn.Linear(2, 2), output=nn.Linear(2, 2)) for _ in range(3)]
    return nn.Sequential(
        Tree(words=nn.Embedding(5, 2)),
        Tree(blocks=nn.Sequential(*blocks), layers=nn.Sequential(nn.Linear(2, 2), nn.ReLU())),
        Tree(tower=nn.Sequential(Tree(layers=nn.ModuleList([nn.Linear(2, 2) for _ in range(6)])))),
        nn.LayerNorm(2),
        Tree(head=nn.Sequential(Tree(layers=nn.Sequential(Tree(out=nn.Linear(2, 2)))))),
    )


OWN_PARTS = {
    "position_embeddings": "embedding",
    "scales.0": "other",
    "codes.0.weight": "embedding",
    "codes.1.weight": "embedding",
    "bag.weight": "embedding",
    "layers.4.rel.embed.weight": "block 4",
    "layers.4.up.0.weight": "block 4",
    "adapter.0.weight": "other",
    "adapter.2.bias": "other",
    "head.0.weight": "head",
    "head.1.deep.out.weight": "head",
    "codebook_heads.0.weight": "head",
}
GPT2_PARTS = {
    "transformer.wte.weight": "embedding",
    "transformer.wpe.weight": "embedding",
    "transformer.h.0.ln_1.weight": "block 0",
    "transformer.h.11.attn.c_attn.bias": "block 11",
    "transformer.ln_f.bias": "other",
}
LORA_PARTS = {
    "base_model.model.model.layers.7.self_attn.q_proj.lora_A.default.weight": "block 7",
    "base_model.model.model.layers.7.self_attn.q_proj.lora_B.default.weight": "block 7",
    "base_model.model.model.layers.7.self_attn.q_proj.base_layer.weight": "block 7",
    "base_model.model.model.embed_tokens.weight": "embedding",
    "base_model.model.model.norm.weight": "other",
    "base_model.model.lm_head.weight": "head",
}
SEQUENTIAL_PARTS = {
    "0.words.weight": "embedding",
    "1.blocks.0.attn.weight": "block 0",
    "1.blocks.2.output.bias": "block 2",
    "1.layers.0.weight": "other",
    "2.tower.0.layers.5.bias": "block 5",
    "3.weight": "other",
    "4.head.0.layers.0.out.weight": "head",
}


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (Own(), OWN_PARTS),
        (gpt2(), GPT2_PARTS),
        (qwen2_with_lora(), LORA_PARTS),
        (sequential(), SEQUENTIAL_PARTS),
        (Policy(9, 8, seed=0), {"token.weight": "embedding", "previous.weight": "embedding", "head.bias": "head"}),
    ],
)
def test_modules_say_the_part_where_names_do_not(model: nn.Module, parts: dict[str, str]) -> None:
    names = dict(model.named_parameters())
    for name, part in parts.items():
        assert name in names
        assert module_of(name, model) == part, name


def compiled(model: nn.Module) -> nn.Module:
    wrapped = torch.compile(model, backend="eager")
    assert isinstance(wrapped, nn.Module)
    assert next(wrapped.named_parameters())[0].startswith("_orig_mod.")
    return wrapped


def each_block_wrapped(model: nn.Module) -> nn.Module:
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    for index, layer in enumerate(layers):
        layers[index] = Tree(_fsdp_wrapped_module=Tree(_checkpoint_wrapped_module=layer))
    return Tree(_fsdp_wrapped_module=model)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: Tree(module=model),
        lambda model: Tree(_fsdp_wrapped_module=model),
        lambda model: Tree(base_model=Tree(model=model)),
        lambda model: Tree(module=compiled(model)),
        lambda model: nn.Sequential(model),
        compiled,
        each_block_wrapped,
    ],
)
def test_a_wrapper_changes_no_row(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = fill(qwen2())
    plain = measured(model)
    wrapped = measured(wrap(model))
    assert list(wrapped) == list(plain)
    assert_same(wrapped, plain, rtol=1e-6)


def shard_and_measure(rank: int, size: int, path: Path) -> None:
    """One rank of a model whose gradients are DTensors: sharded unevenly, replicated, or plain."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    distributed.init_process_group(
        "gloo", f"file://{path / 'store'}", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60)
    )
    try:
        mesh = init_device_mesh("cpu", (size,))
        model = fill(qwen2(2, width=3))
        whole = {name: parameter.grad for name, parameter in model.named_parameters()}
        placements = {"embed_tokens": Shard(0), "q_proj": Shard(0), "down_proj": Shard(0), "lm_head": Replicate()}
        for name, parameter in list(model.named_parameters()):
            place = next((place for piece, place in placements.items() if piece in name), None)
            gradient = whole[name]
            if place is not None and gradient is not None:
                module, _, leaf = name.rpartition(".")
                shards = nn.Parameter(distribute_tensor(parameter.detach(), mesh, [place]))
                shards.grad = distribute_tensor(gradient, mesh, [place])
                setattr(model.get_submodule(module), leaf, shards)
        np.save(path / f"rank{rank}.npy", list(measured(model).values()))
    finally:
        distributed.destroy_process_group()


def test_norms_of_dtensor_gradients_are_those_of_the_whole_tensors_on_every_rank(tmp_path: Path) -> None:
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    pytest.importorskip("torch.distributed.tensor.placement_types", reason="DTensor has no public name in torch 2.4")
    expected = list(twin(fill(qwen2(2, width=3)), part_in_qwen2).items())
    other = torch.multiprocessing.get_context("spawn").Process(target=shard_and_measure, args=(1, 2, tmp_path))
    other.start()
    shard_and_measure(0, 2, tmp_path)
    other.join(60)
    assert other.exitcode == 0
    order = ["embedding", "block 0", "block 1", "head", "other", "total"]
    for rank in range(2):
        got = np.load(tmp_path / f"rank{rank}.npy")
        np.testing.assert_allclose(got, [dict(expected)[part] for part in order], rtol=1e-5)
