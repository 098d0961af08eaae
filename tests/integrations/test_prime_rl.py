"""lldwatch in prime-rl, against stand-ins that keep its documented contract: prime-rl is on no package index."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from oracles import llds_term
from torch import Tensor

from lldwatch import InputError, Run
from lldwatch.integrations import prime_rl

LENGTHS = (4, 6, 3)
MASKS = ([0, 1, 1, 1], [0, 1, 1, 0, 1, 1], [0, 1, 1])
ADVANTAGES = (1.0, 0.0, -1.0)


@dataclass
class LossInputs:
    trainer_logprobs: Tensor
    inference_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    loss_mask: Tensor
    loss_weights: Tensor | None = field(default=None)


@dataclass
class LossOutputs:
    loss: Tensor
    metrics: dict[str, Tensor]


@dataclass
class DefaultLossConfig:
    kl_tau: float = 1e-3


def default_loss_fn(inputs: LossInputs, loss_config: DefaultLossConfig) -> LossOutputs:
    change = inputs.trainer_logprobs - inputs.inference_logprobs
    each = inputs.loss_mask * (-inputs.advantages * change.exp() + loss_config.kl_tau * change**2)
    return LossOutputs(each.sum(), {"is_masked": torch.zeros(())})


def own_loss(inputs: LossInputs, *, scale: float) -> LossOutputs:
    return LossOutputs((scale * inputs.trainer_logprobs * inputs.loss_mask).sum(), {})


class Tensors(dict[str, list[Tensor]]):
    def compute_stats(self) -> dict[str, Any]:
        return {"loss/mean": 0.25, "entropy/all/mean": 1.5, "mismatch_kl/all/mean": 0.01, "time": 3}


def compute_loss(samples: list[LossInputs], fn: Callable[..., LossOutputs], **kwargs: Any) -> Tensor:
    """As prime-rl's: a sum over the samples, divided by the tokens of the step."""
    total = samples[0].trainer_logprobs.sum() * 0.0
    for inputs in samples:
        total = total + fn(inputs, **kwargs).loss
    return total / max(sum(int(inputs.loss_mask.sum()) for inputs in samples), 1)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """prime-rl, as far as it is needed; afterwards the module of ours is as if nobody had asked for a run."""
    contents: dict[str, dict[str, Any]] = {
        "prime_rl": {},
        "prime_rl.configs": {},
        "prime_rl.configs.trainer": {"DefaultLossConfig": DefaultLossConfig},
        "prime_rl.trainer": {},
        "prime_rl.trainer.rl": {},
        "prime_rl.trainer.rl.loss": {"default_loss_fn": default_loss_fn, "own_loss": own_loss},
        "prime_rl.trainer.utils": {"Tensors": type("Tensors", (Tensors,), {"compute_stats": Tensors.compute_stats})},
    }
    modules = {}
    for name, things in contents.items():
        modules[name] = ModuleType(name)
        vars(modules[name]).update(things)
        monkeypatch.setitem(sys.modules, name, modules[name])
    yield modules
    monkeypatch.undo()
    importlib.reload(prime_rl)


def imported(monkeypatch: pytest.MonkeyPatch, run: Path | None, **more: str) -> ModuleType:
    """Our module as prime-rl imports it, with an environment."""
    for name in ("RUN", "LLDS", "STRENGTH", "RESUME"):
        monkeypatch.delenv(f"LLDWATCH_{name}", raising=False)
    for name, value in {**({} if run is None else {"run": str(run)}), **more}.items():
        monkeypatch.setenv(f"LLDWATCH_{name.upper()}", value)
    return importlib.reload(prime_rl)


def samples(shift: float = 0.5, *, seed: int = 1) -> list[LossInputs]:
    """Three samples whose log-probs differ from the inference engine's, by 0.04 for what is rounding."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for length, mask, advantage in zip(LENGTHS, MASKS, ADVANTAGES, strict=True):
        old = -3 * torch.rand(length, generator=random) - 1
        fall = torch.where(torch.rand(length, generator=random) < 0.5, shift, 0.04)
        new = (old - fall).requires_grad_()
        made.append(LossInputs(new, old, None, torch.full((length,), advantage), torch.tensor(mask) != 0))
    return made


def gradients(batch: list[LossInputs], total: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(total, [inputs.trainer_logprobs for inputs in batch]))


def end_step(package: dict[str, ModuleType]) -> dict[str, Any]:
    return dict(package["prime_rl.trainer.utils"].Tensors().compute_stats())


def closed(module: ModuleType, run: Path) -> Run:
    module._watch._monitor.close()
    return Run(run)


def test_without_a_run_it_is_prime_rls_loss_and_nothing_else(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imported(monkeypatch, None)
    batch = samples()
    result = module.loss(batch[0], kl_tau=0.5)
    assert torch.equal(result.loss, default_loss_fn(batch[0], DefaultLossConfig(kl_tau=0.5)).loss)
    assert package["prime_rl.trainer.utils"].Tensors.compute_stats is Tensors.compute_stats


def test_with_llds_off_value_and_gradient_are_bit_for_bit_the_same(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    module = imported(monkeypatch, run_dir)
    for _ in range(3):
        batch = samples()
        plain, ours = (
            compute_loss(batch, default_loss_fn, loss_config=DefaultLossConfig()),
            compute_loss(batch, module.loss),
        )
        assert plain.item() == ours.item()
        for one, other in zip(gradients(batch, plain), gradients(batch, ours), strict=True):
            assert torch.equal(one, other)
        end_step(package)


def test_the_term_is_the_token_by_token_twin_from_the_second_step_on(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    module = imported(monkeypatch, run_dir, llds="on", strength="0.7")
    for step in range(3):
        batch = samples(seed=step)
        plain = compute_loss(batch, default_loss_fn, loss_config=DefaultLossConfig())
        ours = compute_loss(batch, module.loss, dead_zone=0.1)
        term, slopes = 0.0, []
        for inputs in batch:
            rows = [[part.tolist()] for part in (inputs.trainer_logprobs, inputs.inference_logprobs)]
            mask = inputs.loss_mask.int().tolist()
            kept = [[bool(inputs.advantages[0] >= 0)] * len(mask)]
            twin = llds_term(rows[0], rows[1], [mask], kept, dead_zone=0.1, count=1)
            term, slopes = term + twin["loss"], [*slopes, torch.tensor(twin["gradient"][0])]
        strength, tokens = 0.7 if step else 0.0, sum(map(sum, MASKS))
        assert ours.item() == pytest.approx(plain.item() + strength * term / tokens, rel=1e-5)
        for one, other, slope in zip(gradients(batch, plain), gradients(batch, ours), slopes, strict=True):
            torch.testing.assert_close(other, one + strength * slope / tokens, rtol=1e-5, atol=1e-7)
        stats = end_step(package)
    assert term > 0
    assert stats["lldwatch/llds_coefficient"] == pytest.approx(0.7)
    assert stats["lldwatch/llds_loss"] > 0
    applied = closed(module, run_dir).steps()["llds_coefficient"].to_pylist()
    assert applied == pytest.approx([0.0, 0.7, 0.7]), "in the first step there is no run yet"


def test_rounding_within_the_dead_zone_adds_nothing(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    module = imported(monkeypatch, run_dir, llds="on")
    for _ in range(5):
        batch = samples(shift=0.06)
        ours = compute_loss(batch, module.loss)
        assert ours.item() == compute_loss(batch, default_loss_fn, loss_config=DefaultLossConfig()).item()
        end_step(package)
    events = [row for row in closed(module, run_dir).events().to_pylist() if row["kind"] == "llds"]
    assert any("LLDS has no effect" in row["detail"] for row in events)


def test_what_is_recorded_and_what_goes_into_prime_rls_logs(
    package: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = imported(monkeypatch, run_dir, llds="auto")
    for step in range(2):
        batch = samples(seed=step)
        empty = LossInputs(*[torch.zeros(5)] * 2, None, torch.zeros(5), torch.zeros(5) != 0)
        compute_loss([*batch, empty], module.loss)
        stats = end_step(package)
        assert stats["loss/mean"] == 0.25
        assert stats["lldwatch/stage"] == 0.0
    said = capsys.readouterr().err
    assert "attached to prime-rl: one row a sample" in said
    assert "cross_update_change, the headline, is not measured" in said
    assert "LLDS auto, strength 1: against the inference engine's log-probs, from the second step on" in said
    run = closed(module, run_dir)
    for row in run.steps().to_pylist():
        assert (row["responses"], row["loss"], row["entropy"]) == (3, 0.25, 1.5)
        assert row["rollout_kl"] == pytest.approx(0.01)
        assert row["reward"] is None
        assert row["correct_share"] == pytest.approx(1 / 3)
        assert row["change_positive"] < 0
    rows = run.responses().to_pylist()
    assert [row["tokens"] for row in rows] == [3, 4, 2] * 2
    assert rows[0]["old_log_prob"] == pytest.approx(samples(seed=0)[0].inference_logprobs[1:].sum().item(), rel=1e-5)


def test_ranks_of_a_context_parallel_group_record_once(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    module = imported(monkeypatch, run_dir)
    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    for rank, kept in ((0, 1), (1, 0), (2, 1), (3, 0)):
        monkeypatch.setattr(module.dist, "get_rank", lambda rank=rank: rank)
        module._watch._samples.clear()
        module.loss(samples()[0], context_parallel=2)
        assert len(module._watch._samples) == kept


def test_a_loss_of_ones_own_is_watched_as_well(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    module = imported(monkeypatch, run_dir)
    result = module.loss(samples()[0], base="prime_rl.trainer.rl.loss.own_loss", config=None, scale=2.0)
    assert torch.equal(result.loss, own_loss(samples()[0], scale=2.0).loss)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"base": "prime_rl.trainer.rl.loss.grpo"}, "looked for prime_rl.trainer.rl.loss.grpo, found none"),
        ({"base": "nowhere.loss"}, "looked for nowhere.loss, found none (No module named 'nowhere')"),
        ({"base": "loss"}, "looked for loss, found none"),
        ({"kl_tua": 0.1}, "prime_rl.configs.trainer.DefaultLossConfig does not take {'kl_tua': 0.1}"),
    ],
)
def test_a_mistake_in_the_settings_is_said_in_one_line(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], message: str
) -> None:
    module = imported(monkeypatch, None)
    with pytest.raises(InputError) as error:
        module.loss(samples()[0], **kwargs)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("renamed", ["class", "method", "setting"])
def test_where_no_end_of_a_step_is_seen_the_loss_stays_prime_rls_own(
    package: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    renamed: str,
) -> None:
    utils = package["prime_rl.trainer.utils"]
    if renamed == "class":
        del utils.Tensors
    if renamed == "method":
        utils.Tensors = type("Tensors", (), {})
    module = imported(monkeypatch, run_dir, llds="yes" if renamed == "setting" else "on")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "nothing is watched, the loss is prime-rl's own (prime_rl.trainer.utils.Tensors.compute_stats" in said
    batch = samples()
    assert torch.equal(module.loss(batch[0]).loss, default_loss_fn(batch[0], DefaultLossConfig()).loss)
    assert not run_dir.exists()


def test_a_run_that_is_there_is_left_alone(
    package: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = imported(monkeypatch, run_dir)
    compute_loss(samples(), module.loss)
    end_step(package)
    closed(module, run_dir)
    package["prime_rl.trainer.utils"].Tensors.compute_stats = Tensors.compute_stats
    capsys.readouterr()
    again = imported(monkeypatch, run_dir, llds="on")
    for _ in range(2):
        compute_loss(samples(), again.loss)
        assert "lldwatch/stage" not in end_step(package)
    assert "holds a run already" in capsys.readouterr().err
    assert again._watch._samples == []
    package["prime_rl.trainer.utils"].Tensors.compute_stats = Tensors.compute_stats
    resumed = imported(monkeypatch, run_dir, resume="1")
    compute_loss(samples(), resumed.loss)
    end_step(package)
    assert closed(resumed, run_dir).steps()["step"].to_pylist() == [1, 2]


def test_an_exception_of_ours_never_reaches_the_training(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    module = imported(monkeypatch, run_dir, llds="on")

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("renamed")

    monkeypatch.setattr(module, "per_response", broken)
    monkeypatch.setattr("lldwatch.integrations.loss_hook.llds_loss", broken)
    for _ in range(3):
        batch = samples()
        ours = compute_loss(batch, module.loss)
        assert ours.item() == compute_loss(batch, default_loss_fn, loss_config=DefaultLossConfig()).item()
        end_step(package)
    errors = [row["detail"] for row in closed(module, run_dir).events().to_pylist() if row["kind"] == "error"]
    assert any("adding LLDS failed: KeyError: 'renamed'; the training goes on" in line for line in errors)
    assert any("recording the samples failed" in line for line in errors)


def test_an_evaluation_is_not_recorded(
    package: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    module = imported(monkeypatch, run_dir)
    with torch.no_grad():
        module.loss(samples()[0])
    assert module._watch._samples == []
