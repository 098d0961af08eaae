"""Run once more under TRITON_INTERPRET=1, where Triton is installed: every test then goes through the Triton kernel."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DTYPES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lldwatch import logits as module
from lldwatch.errors import InputError
from lldwatch.logits import log_probs_and_entropy

INTERPRETED = module._kernel_works and os.environ.get("TRITON_INTERPRET") == "1"
ERROR = 1e-5
# the interpreter computes in numpy, which warns of the infinities that the kernel means
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _no_silent_fallback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    fallen = "without Triton" in "".join(record.getMessage() for record in caplog.get_records("call"))
    assert not (INTERPRETED and fallen)


def by_loops(logits: list[float], token: int, temperature: float) -> tuple[float, float]:
    """One row in plain Python: log-prob of the token, entropy."""
    z = [(x - max(logits)) / temperature for x in logits]
    log_total = math.log(math.fsum(math.exp(each) for each in z))
    log_probs = [each - log_total for each in z]
    return log_probs[token], -math.fsum(math.exp(each) * each for each in log_probs if each > -math.inf)


def by_log_softmax(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The textbook in float64."""
    log_probs = torch.log_softmax(logits.double() / temperature, -1)
    terms = torch.where(log_probs == -math.inf, 0.0, log_probs.exp() * log_probs)
    return log_probs.gather(-1, tokens[..., None].long())[..., 0], -terms.sum(-1)


def assert_close(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for name, ours, theirs in zip(("log_probs", "entropy"), got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        torch.testing.assert_close(
            ours.double(), theirs, atol=ERROR, rtol=ERROR, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}"
        )


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, generator=random) * 3
    return logits.to(dtype), torch.randint(0, shape[-1], shape[:-1], generator=random)


@settings(deadline=None, max_examples=100)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    vocabulary=st.integers(1, 40) | st.integers(41, 9000),
    dtype=st.sampled_from(DTYPES),
    temperature=st.floats(0.01, 100),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]),
    masked=st.sampled_from([0.0, 0.5, 0.95]),
    rows=st.none() | st.integers(1, 5),
    layout=st.sampled_from(["contiguous", "shifted", "strided", "vocabulary first"]),
    seed=st.integers(0, 2**32),
)
def test_is_the_textbook_in_float64(
    shape: list[int],
    vocabulary: int,
    dtype: torch.dtype,
    temperature: float,
    scale: float,
    masked: float,
    rows: int | None,
    layout: str,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = (torch.randn(*shape, vocabulary, generator=random).clamp(-5, 5) * scale).to(dtype)
    hidden = torch.rand(logits.shape, generator=random) < masked
    hidden[..., 0] = False
    logits.masked_fill_(hidden, -math.inf)
    tokens = torch.randint(0, vocabulary, shape, generator=random, dtype=torch.int32)
    expected = by_log_softmax(logits, tokens, temperature)
    if layout == "shifted":
        logits = torch.cat([logits, torch.full_like(logits, math.nan)], -2)[..., : shape[-1], :]
    elif layout == "strided":
        logits = logits.repeat_interleave(2, -1)[..., ::2]
    elif layout == "vocabulary first":
        logits = logits.movedim(-1, 0).contiguous().movedim(0, -1)
    assert_close(log_probs_and_entropy(logits, tokens, temperature=temperature, rows=rows), expected)


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=8), st.data(), st.floats(0.1, 10))
def test_is_the_definition_written_as_loops(row: list[float], data: st.DataObject, temperature: float) -> None:
    token = data.draw(st.integers(0, len(row) - 1))
    expected = by_loops(row, token, temperature)
    got = log_probs_and_entropy(torch.tensor([row]), torch.tensor([token]), temperature=temperature)
    assert [float(each) for each in got] == [pytest.approx(each, rel=ERROR, abs=ERROR) for each in expected]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [None, 1, 3])
def test_a_real_vocabulary(dtype: torch.dtype, rows: int | None) -> None:
    logits, tokens = drawn(5, 151_936, dtype=dtype)
    assert_close(log_probs_and_entropy(logits, tokens, rows=rows), by_log_softmax(logits, tokens))


LOWEST = torch.finfo(torch.float32).min
EXTREMES = {
    "peaked": [1e4, *[-1e4] * 9999],
    "a lone peak at the end": [*[-1e4] * 9999, 1e4],
    "all equal": [3.0] * 10_000,
    "all zero": [0.0] * 10_000,
    "far from zero": [1e4, 1e4 - 0.25, *[1e4 - 8] * 9998],
    "far below zero": [-1e4, -1e4 - 0.25, *[-1e4 - 8] * 9998],
    "masked at the beginning": [*[-math.inf] * 9000, *range(10)],
    "masked at the end": [*range(10), *[-math.inf] * 9000],
    "one entry left": [*[-math.inf] * 9000, 7.0, *[-math.inf] * 9000],
    "masked by the lowest number": [*[LOWEST] * 9000, *range(10)],
    "nothing but the lowest number": [LOWEST] * 10_000,
    "from one end to the other": [LOWEST / 4, -LOWEST / 4],
    "one token": [42.0],
    "rising by blocks": [float(i // 1000) * 40 for i in range(20_000)],
    "falling by blocks": [float(-(i // 1000)) * 40 for i in range(20_000)],
}


@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize("temperature", [1e-2, 1.0, 0.7, 1e2])
def test_extremes(case: str, temperature: float) -> None:
    row = torch.tensor(EXTREMES[case])
    tokens = torch.tensor([0, len(row) - 1, len(row) // 2])
    logits = row.expand(3, -1)
    got = log_probs_and_entropy(logits, tokens, temperature=temperature)
    assert_close(got, tuple(each.float().double() for each in by_log_softmax(logits, tokens, temperature)))
    assert bool((got[0] <= 0).all())
    assert bool((got[1] >= 0).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, [math.nan, math.inf], [-math.inf, math.nan], "nothing left"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_row(bad: Any, dtype: torch.dtype) -> None:
    logits, tokens = drawn(2, 5, 9000, dtype=dtype)
    expected = by_log_softmax(logits, tokens)
    if bad == "nothing left":
        logits[0, 2] = -math.inf
    else:
        logits[0, 2, 100:102] = torch.tensor(bad)
    got = log_probs_and_entropy(logits, tokens, rows=3)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.isnan().sum() == 1
        assert ours[0, 2].isnan()
        theirs[0, 2] = math.nan
    assert_close(got, expected)


def test_a_masked_token_has_log_prob_minus_infinity() -> None:
    log_prob, entropy = log_probs_and_entropy(torch.tensor([[0.0, -math.inf, 0.0]]), torch.tensor([1]))
    assert log_prob.tolist() == [-math.inf]
    assert entropy.tolist() == [pytest.approx(math.log(2))]


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_the_ends_of_the_temperature_range(temperature: float) -> None:
    log_prob, entropy = log_probs_and_entropy(
        torch.tensor([[1.0, 2.0, 2.0, -math.inf]]), torch.tensor([1]), temperature=temperature
    )
    ties = 2 if temperature < 1 else 3
    assert log_prob.tolist() == [pytest.approx(-math.log(ties))]
    assert entropy.tolist() == [pytest.approx(math.log(ties))]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (2, 0, 3), (0, 0)])
def test_an_empty_batch(shape: tuple[int, ...]) -> None:
    for each in log_probs_and_entropy(torch.empty(*shape, 7), torch.empty(shape, dtype=torch.int64)):
        assert each.shape == shape
        assert each.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_token_ids_of_any_integer_type(dtype: torch.dtype) -> None:
    logits, tokens = drawn(2, 4, 100)
    expected = by_log_softmax(logits, tokens)
    assert_close(log_probs_and_entropy(logits, tokens.to(dtype).expand(2, 4)[:, :]), expected)


def test_tokens_in_another_layout() -> None:
    logits, tokens = drawn(3, 4, 100)
    twisted = tokens.T.contiguous().T
    assert_close(log_probs_and_entropy(logits, twisted), by_log_softmax(logits, tokens))


def test_no_gradient_and_nothing_changed() -> None:
    logits, tokens = drawn(2, 3, 50)
    before = logits.clone()
    got = log_probs_and_entropy(logits.requires_grad_(), tokens)
    assert not any(each.requires_grad for each in got)
    assert torch.equal(logits, before)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        again = log_probs_and_entropy(logits, tokens)
    for one, other in zip(got, again, strict=True):
        assert torch.equal(one, other)


def test_how_many_rows_go_together_changes_nothing() -> None:
    logits, tokens = drawn(2, 7, 5000)
    whole = log_probs_and_entropy(logits, tokens)
    for rows in (1, 2, 7, 100):
        for one, other in zip(whole, log_probs_and_entropy(logits, tokens, rows=rows), strict=True):
            torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


class Allocations(TorchDispatchMode):
    """Keeps the size in bytes of the largest storage that an operation returned."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs, self.largest = inputs.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr() != self.inputs:
                self.largest = max(self.largest, each.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("layout", ["contiguous", "shifted", "vocabulary first"])
def test_never_copies_the_logits(layout: str) -> None:
    logits, tokens = drawn(3, 41, 2000)
    if layout == "shifted":
        logits, tokens = logits[:, :-1], tokens[:, 1:]
    elif layout == "vocabulary first":
        logits = logits.movedim(-1, 0).contiguous().movedim(0, -1)
    with Allocations(logits) as seen:
        log_probs_and_entropy(logits, tokens, rows=2)
    assert seen.largest <= 2 * 4 * 2 * 2000


LOGITS, TOKENS = drawn(2, 3, 10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": [[0.0]]}, "logits is a list, expected a tensor"),
        ({"tokens": [[0]]}, "tokens is a list, expected a tensor"),
        ({"logits": torch.zeros(3)}, "logits has shape (3,), expected (..., tokens, vocabulary)"),
        ({"logits": torch.zeros(2, 3, 0)}, "logits has shape (2, 3, 0), expected (..., tokens, vocabulary)"),
        ({"logits": LOGITS.double()}, "logits (2, 3, 10) is torch.float64, expected bfloat16, float16 or float32"),
        ({"tokens": TOKENS[:, 1:]}, "tokens has shape (2, 2), expected (2, 3) to go with logits (2, 3, 10)"),
        ({"tokens": TOKENS[..., None]}, "tokens has shape (2, 3, 1), expected (2, 3) to go with logits (2, 3, 10)"),
        ({"tokens": TOKENS.float()}, "tokens (2, 3) is torch.float32, expected integers"),
        ({"tokens": TOKENS > 0}, "tokens (2, 3) is torch.bool, expected integers"),
        ({"tokens": TOKENS.to("meta")}, "tokens (2, 3) is on meta, expected cpu to go with logits"),
        (
            {"tokens": torch.full((2, 3), 10)},
            "tokens (2, 3) has ids from 10 to 10, expected 0 to 9 to go with logits (2, 3, 10)",
        ),
        (
            {"tokens": torch.full((2, 3), -100)},
            "tokens (2, 3) has ids from -100 to -100, expected 0 to 9 to go with logits (2, 3, 10)",
        ),
        ({"temperature": 0}, "temperature is 0, expected a number above 0 (1e-30 to 1e30)"),
        ({"temperature": -1.0}, "temperature is -1.0, expected a number above 0 (1e-30 to 1e30)"),
        ({"temperature": math.nan}, "temperature is nan, expected a number above 0 (1e-30 to 1e30)"),
        ({"temperature": math.inf}, "temperature is inf, expected a number above 0 (1e-30 to 1e30)"),
        ({"temperature": torch.ones(1)}, "temperature is tensor([1.]), expected a number above 0 (1e-30 to 1e30)"),
        ({"rows": 0}, "rows is 0, expected an int of at least 1, or None"),
        ({"rows": 2.0}, "rows is 2.0, expected an int of at least 1, or None"),
    ],
)
def test_a_mistake_is_named_in_one_line(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"logits": LOGITS, "tokens": TOKENS, **changed}
    with pytest.raises(InputError) as caught:
        log_probs_and_entropy(**arguments)
    assert str(caught.value) == message


@pytest.fixture
def kernel_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(module, "_kernel_works", True)
    monkeypatch.setattr(module, "_interpreted", True)
    monkeypatch.setattr(module, "triton", type("Triton", (), {"next_power_of_2": staticmethod(lambda n: n)}))
    monkeypatch.setattr(module, "_kernel", fails)


@pytest.mark.skipif(INTERPRETED, reason="is about a Triton that does not work")
@pytest.mark.usefixtures("kernel_that_fails")
def test_a_kernel_that_fails_is_told_once_and_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lldwatch"):
        for _ in range(2):
            assert_close(log_probs_and_entropy(LOGITS, TOKENS), by_log_softmax(LOGITS, TOKENS))
    assert [record.getMessage() for record in caplog.records] == [
        "entropy from logits without Triton, whose kernel failed: no C compiler"
    ]


@pytest.mark.skipif(not INTERPRETED, reason="needs Triton and TRITON_INTERPRET=1")
def test_the_interpreted_kernel_gives_padding_nan() -> None:
    _padding_gets_nan(module._fused)


@pytest.mark.skipif(not module._kernel_works or INTERPRETED, reason="needs Triton, and not its interpreter")
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_the_kernel_compiles_for_an_h100_that_is_not_here(dtype: str) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if "constexprs" not in inspect.signature(ASTSource).parameters:
        pytest.skip("this Triton is asked to compile in another way")
    signature = dict.fromkeys(("logits_stride", "vocabulary"), "i32") | dict.fromkeys(("scale", "ln_2"), "fp32")
    signature |= {"logits": f"*{dtype}", "tokens": "*i64", "log_probs": "*fp32", "entropy": "*fp32"}
    signature |= {"tokens_stride": "constexpr", "block": "constexpr"}
    kernel = module._kernel()
    source = ASTSource(
        fn=kernel,
        signature={name: signature[name] for name in kernel.arg_names},
        constexprs={"tokens_stride": 1, "block": module._BLOCK},
        attrs={(each,): [["tt.divisibility", 16]] for each in (0, 1, 2, 3, 4, 6)},
    )
    compiled = module.triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": module._WARPS})
    assert "ld.global.v4" in compiled.asm["ptx"]


@needs_gpu
def test_on_a_gpu_padding_gets_nan() -> None:
    logits, tokens = (each.cuda() for each in drawn(2, 4, 5000))
    expected = by_log_softmax(logits, tokens)
    tokens[1, 2], expected[0][1, 2] = -100, math.nan
    assert_close(log_probs_and_entropy(logits, tokens), expected)


def _padding_gets_nan(fused: Any) -> None:
    logits, tokens = drawn(4, 5000)
    expected = by_log_softmax(logits, tokens)
    tokens[1], tokens[2] = -100, 5000
    expected[0][1:3] = math.nan
    got = torch.empty(4), torch.empty(4)
    assert fused(logits, tokens, *got, 1.0)
    assert_close(got, expected)


def test_by_rows_padding_gets_nan() -> None:
    def by_rows(*arguments: Any) -> bool:
        module._by_rows(*arguments, 2)
        return True

    _padding_gets_nan(by_rows)


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fused", [True, False])
def test_on_a_gpu_without_waiting_for_it(dtype: torch.dtype, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kernel_works", fused and module._kernel_works)
    logits, tokens = drawn(2, 9, 151_936, dtype=dtype)
    logits[0, 3, 5:] = -math.inf
    expected = by_log_softmax(logits, tokens, 0.7)
    logits, tokens = logits.cuda(), tokens.cuda()
    log_probs_and_entropy(logits, tokens, temperature=0.7)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = log_probs_and_entropy(logits, tokens, temperature=0.7)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close((got[0].cpu(), got[1].cpu()), expected)
