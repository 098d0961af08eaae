"""lldwatch in NeMo-RL, against stand-ins that keep its documented contract: what is on the package index is empty."""

from __future__ import annotations

import enum
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import llds_term
from torch import Tensor

from lldwatch import Run
from lldwatch.integrations import nemo_rl
from lldwatch.integrations.nemo_rl import watch
from lldwatch.integrations.nemo_rl_loss import PARTS, PREFIX, PreservingLoss

SIZE, TOKENS, VOCABULARY = 8, 7, 6
GLOBAL_BATCH, MICRO_BATCH = 4, 2


class MetricNormalizer(enum.Enum):
    TOKENS = "tokens"
    SEQUENCES = "sequences"


class ClippedPGLossFn:
    """Token-level, with global normalisation; without clipping."""

    loss_type, input_type = "token_level", "logprob"

    def __init__(self, force_on_policy_ratio: bool = False) -> None:
        self.force_on_policy_ratio, self.reference_policy_kl_penalty = force_on_policy_ratio, 0.25
        self.metric_normalizations = {"loss": MetricNormalizer.SEQUENCES}

    def __call__(
        self, next_token_logprobs: Tensor, data: Any, global_valid_seqs: Tensor, global_valid_toks: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        mask = data["token_mask"][:, 1:] * data["sample_mask"].unsqueeze(-1)
        old = next_token_logprobs.detach() if self.force_on_policy_ratio else data["prev_logprobs"][:, 1:]
        each = -data["advantages"][:, 1:] * (next_token_logprobs - old).exp()
        loss = (each * mask).sum() / (global_valid_toks + 1e-8)
        return loss, {"loss": loss.item(), "num_valid_samples": 2.0}


class OldLossFn:
    def __call__(self, next_token_logits: Tensor, data: Any, global_valid_seqs: Any, global_valid_toks: Any) -> Any:
        raise NotImplementedError


class Policy:
    """Two data-parallel workers that get the loss function by pickle, an update for each global batch."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.features, self.weight = torch.randn(SIZE, TOKENS, 3), torch.nn.Parameter(torch.randn(3, VOCABULARY))
        self.gradients: list[Tensor] = []
        self.calls: list[dict[str, Any]] = []

    def log_probs(self, tokens: Tensor) -> Tensor:
        """(batch, tokens), that of the first token 0."""
        own = torch.log_softmax(self.features @ self.weight, -1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
        return torch.nn.functional.pad(own, (1, 0))

    def train(self, data: Any, loss_fn: Any, eval_mode: bool = False, timer: Any = None) -> dict[str, Any]:
        metrics: dict[str, list[float]] = {}
        losses, batches = [], SIZE // GLOBAL_BATCH
        fn = pickle.loads(pickle.dumps(loss_fn))
        assert fn.loss_type == "token_level"
        for start in range(0, SIZE, GLOBAL_BATCH):
            rows = slice(start, start + GLOBAL_BATCH)
            valid = (data["token_mask"][rows, 1:] * data["sample_mask"][rows, None]).sum()
            total = torch.zeros(())
            for first in range(start, start + GLOBAL_BATCH, MICRO_BATCH):
                part = {name: values[first : first + MICRO_BATCH] for name, values in data.items()}
                new = self.log_probs(data["input_ids"])[first : first + MICRO_BATCH, 1:]
                counts = {"global_valid_seqs": torch.tensor(GLOBAL_BATCH), "global_valid_toks": valid}
                self.calls.append({"new": new.detach(), "data": part, "valid": valid.item()})
                loss, told = fn(data=part, next_token_logprobs=new, **counts)
                self.calls[-1]["loss"], total = loss.item(), total + loss
                for name, value in told.items():
                    metrics.setdefault(name, []).append(value / batches)
            if not eval_mode:
                (gradient,) = torch.autograd.grad(total, self.weight)
                self.gradients.append(gradient)
                with torch.no_grad():
                    self.weight -= 0.5 * gradient
            losses.append(total.item())
        return {"loss": torch.tensor(losses), "grad_norm": torch.tensor([0.5]), "all_mb_metrics": metrics}


class Logger:
    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, Any], int, str]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int, prefix: str = "", step_finished: bool = False) -> None:
        self.logged.append((metrics, step, prefix))


class World:
    """NeMo-RL's loop on the driver, as far as it goes through the seams."""

    def __init__(self, **loss: Any) -> None:
        self.policy, self.logger, self.own = Policy(), Logger(), ClippedPGLossFn(**loss)
        self.loss_fn = watch(self.policy, self.own, self.logger)

    def data(self, number: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(number)
        tokens = torch.randint(VOCABULARY, (SIZE, TOKENS), generator=random)
        tokens[:, :2] = torch.tensor([[1, 2], [1, 2], [3, 4], [3, 4]] * 2)
        mask = torch.ones(SIZE, TOKENS)
        mask[:, :2] = mask[:, 4] = 0
        prev = self.policy.log_probs(tokens).detach()
        forced = self.own.force_on_policy_ratio
        return {
            "input_ids": tokens,
            "token_mask": mask,
            "sample_mask": torch.tensor([1.0] * (SIZE - 1) + [0.0]),
            "advantages": torch.tensor([1.0, -1.0, 0.0, 0.5] * 2)[:, None].expand(SIZE, TOKENS),
            "prev_logprobs": torch.zeros_like(prev) if forced else prev,
            "generation_logprobs": prev - 0.01,
        }

    def step(self, number: int) -> dict[str, Any]:
        results = self.policy.train(self.data(number), self.loss_fn, timer=None)
        metrics = {"loss": results["loss"].mean().item(), "grad_norm": 0.5, "reward": 0.25, "lr": 1e-6}
        metrics |= {name: sum(values) for name, values in results["all_mb_metrics"].items()}
        metrics |= {"gen_kl_error": 0.01, "approx_entropy": 1.25}
        self.logger.log_metrics({"seconds": 1.0}, number, prefix="timing/train")
        self.logger.log_metrics(metrics, number, prefix="train")
        return self.logger.logged[-1][0]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> Callable[..., None]:
    for name in ("RUN", "LLDS", "STRENGTH", "RESUME"):
        monkeypatch.delenv(f"LLDWATCH_{name}", raising=False)

    def ask(**more: str) -> None:
        for name, value in {"run": str(run_dir), **more}.items():
            monkeypatch.setenv(f"LLDWATCH_{name.upper()}", value)

    return ask


def closed(world: World, run: Path) -> Run:
    world.policy.train.__wrapped__  # type: ignore[attr-defined]  # noqa: B018  # it is watched
    world.logger.log_metrics.__closure__[1].cell_contents._monitor.close()  # type: ignore[attr-defined]
    return Run(run)


def events(run: Run, kind: str) -> list[str]:
    return [event["detail"] for event in run.events().to_pylist() if event["kind"] == kind]


def test_without_a_run_nothing_is_touched(asked: Any) -> None:
    policy, logger, own = Policy(), Logger(), ClippedPGLossFn()
    assert watch(policy, own, logger) is own
    assert "train" not in vars(policy)
    assert "log_metrics" not in vars(logger)


def test_with_llds_off_value_and_gradient_are_bit_for_bit_the_same(asked: Any) -> None:
    plain = World()
    asked()
    ours = World()
    for number in range(1, 4):
        plain.step(number)
        told = ours.step(number)
    assert torch.equal(torch.stack(ours.policy.gradients), torch.stack(plain.policy.gradients))
    assert [call["loss"] for call in ours.policy.calls] == [call["loss"] for call in plain.policy.calls]
    assert not any(name.startswith(PREFIX) for name in told), "what is meant for the driver is not logged"
    assert told["lldwatch/stage"] == 0.0


def test_the_term_is_the_token_by_token_twin_over_the_global_tokens(asked: Any) -> None:
    asked(llds="on", strength="0.7")
    ours = World()
    for number in range(1, 4):
        ours.step(number)
    terms = []
    for call in ours.policy.calls:
        data, new = call["data"], call["new"].clone().requires_grad_()
        counts = {"global_valid_seqs": torch.tensor(4), "global_valid_toks": torch.tensor(call["valid"])}
        plain, _ = ours.own(new, data, **counts)
        mask = (data["token_mask"] * data["sample_mask"][:, None])[:, 1:].int().tolist()
        kept = [[value >= 0] * (TOKENS - 1) for value in data["advantages"][:, 1].tolist()]
        old = data["prev_logprobs"][:, 1:]
        twin = llds_term(new.tolist(), old.tolist(), mask, kept, dead_zone=0.02, count=call["valid"])
        terms.append(twin["loss"])
        assert call["loss"] == pytest.approx(plain.item() + 0.7 * twin["loss"], rel=1e-5, abs=1e-7)
        loss = PreservingLoss(ours.own)
        loss.coefficient = 0.7
        total, told = loss(next_token_logprobs=new, data=data, **counts)
        expected = torch.autograd.grad(plain, new, retain_graph=True)[0] + 0.7 * torch.tensor(twin["gradient"])
        torch.testing.assert_close(torch.autograd.grad(total, new)[0], expected, rtol=1e-5, atol=1e-7)
        assert told[PREFIX + "llds"] == pytest.approx(twin["loss"], abs=1e-7)
        assert told[PREFIX + "moved"] * call["valid"] >= twin["penalised_tokens"]
    assert sum(terms) > 0


def test_the_driver_changes_the_coefficient_between_steps(asked: Any, run_dir: Path) -> None:
    asked(llds="on")
    ours = World()
    ours.step(1)
    assert ours.loss_fn.coefficient == 1.0
    from lldwatch.control import Order, give_order

    give_order(run_dir, Order("off"))
    monitor = ours.logger.log_metrics.__closure__[1].cell_contents._monitor  # type: ignore[attr-defined]
    for number in range(2, 6):
        ours.step(number)
        monitor._recorder.flush()
    assert ours.loss_fn.coefficient == 0.0
    losses = [call["loss"] for call in ours.policy.calls[-4:]]
    plain = [
        ours.own(call["new"], call["data"], torch.tensor(4), torch.tensor(call["valid"]))[0].item()
        for call in ours.policy.calls[-4:]
    ]
    assert losses == plain


def test_it_stands_for_the_loss_function_also_after_it_was_sent(asked: Any) -> None:
    own = ClippedPGLossFn()
    ours = pickle.loads(pickle.dumps(PreservingLoss(own, dead_zone=0.5)))
    assert (ours.loss_type, ours.input_type) == ("token_level", "logprob")
    assert ours.reference_policy_kl_penalty == 0.25
    assert ours.dead_zone == 0.5
    assert not hasattr(ours, "use_fused_linear_logprobs")
    assert ours.metric_normalizations["loss"] is MetricNormalizer.SEQUENCES
    assert {ours.metric_normalizations[PREFIX + part] for part in PARTS} == {MetricNormalizer.TOKENS}
    assert own.metric_normalizations.keys() == {"loss"}


def test_what_is_recorded(asked: Any, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked(llds="auto")
    ours = World()
    for number in range(5, 8):
        ours.step(number)
    said = capsys.readouterr().err
    assert "attached to ClippedPGLossFn: one row a response as before the update" in said
    assert "cross_update_change, the headline, is not measured" in said
    assert "LLDS auto, strength 1: where a rollout batch has several updates" in said
    run = closed(ours, run_dir)
    assert run.steps()["step"].to_pylist() == [5, 6, 7], "NeMo-RL's numbers"
    calls = ours.policy.calls[:4]
    change = sum(positive(call)[0] for call in calls) / sum(positive(call)[1] for call in calls)
    first = run.steps().to_pylist()[0]
    assert first["change_positive"] == pytest.approx(change, rel=1e-4)
    assert first["first_action_change"] is None, "not seen by the driver"
    for row in run.steps().to_pylist():
        assert (row["responses"], row["updates"], row["updates_per_batch"]) == (SIZE, 2, 2)
        assert (row["reward"], row["grad_norm"], row["entropy"]) == (0.25, 0.5, 1.25)
        assert row["log_prob_correct"] is not None
        assert row["llds_coefficient"] == 0.0
    rows = run.responses().to_pylist()
    assert [row["tokens"] for row in rows[:SIZE]] == [4] * (SIZE - 1) + [0]
    assert len({row["group"] for row in rows}) == 2
    assert rows[0]["log_prob"] is None
    assert rows[0]["old_log_prob"] is not None


def positive(call: dict[str, Any]) -> tuple[float, float]:
    """Change and tokens of the responses with a positive advantage, as shares of the update's tokens."""
    data = call["data"]
    mask = (data["token_mask"] * data["sample_mask"][:, None] * (data["advantages"] > 0))[:, 1:]
    change = ((call["new"] - data["prev_logprobs"][:, 1:]) * mask).sum()
    return change.item() / call["valid"], mask.sum().item() / call["valid"]


def test_an_on_policy_ratio_makes_the_term_inert(asked: Any, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in prev_logprobs then are zeros: every token would seem to have fallen."""
    plain = World(force_on_policy_ratio=True)
    asked(llds="on")
    ours = World(force_on_policy_ratio=True)
    assert "force_on_policy_ratio takes the current log-probs" in capsys.readouterr().err
    for number in range(1, 6):
        plain.step(number)
        ours.step(number)
    assert torch.equal(ours.policy.weight, plain.policy.weight)
    run = closed(ours, run_dir)
    assert any("LLDS has no effect" in line for line in events(run, "llds"))
    assert run.responses()["old_log_prob"].to_pylist()[0] < 0


def test_an_evaluation_and_other_losses_pass_through(asked: Any, run_dir: Path) -> None:
    asked(llds="on")
    ours = World()
    ours.policy.train(ours.data(1), ours.loss_fn, eval_mode=True)
    ours.policy.train(ours.data(1), ours.own)
    ours.logger.log_metrics({"accuracy": 1.0}, 1, prefix="train")
    assert ours.logger.logged[-1][0] == {"accuracy": 1.0}
    assert closed(ours, run_dir).steps().num_rows == 0


def test_a_batch_of_another_form_costs_its_rows(asked: Any, run_dir: Path) -> None:
    asked()
    ours = World()
    handle = {"keys": ["a", "b"]}
    results = {"loss": torch.tensor([0.1]), "all_mb_metrics": {}}
    driver = ours.logger.log_metrics.__closure__[1].cell_contents  # type: ignore[attr-defined]
    train = driver.around_train(lambda data, loss_fn: results)
    for number in (1, 2):
        train(handle, ours.loss_fn)
        ours.logger.log_metrics({"reward": 0.5}, number, prefix="train")
    run = closed(ours, run_dir)
    assert run.steps()["reward"].to_pylist() == [0.5, 0.5]
    assert sum("responses are not recorded" in line for line in events(run, "attach")) == 1
    assert events(run, "error") == []


@pytest.mark.parametrize(
    ("policy", "loss_fn", "logger", "said"),
    [
        (object(), ClippedPGLossFn(), Logger(), "looked for train on object, found none"),
        (Policy(), ClippedPGLossFn(), object(), "looked for log_metrics on object, found none"),
        (
            Policy(),
            OldLossFn(),
            Logger(),
            "next_token_logprobs in OldLossFn.__call__ (NeMo-RL before 0.6 gives logits)",
        ),
    ],
)
def test_a_missing_seam_is_named_in_one_line(
    asked: Any, capsys: pytest.CaptureFixture[str], policy: Any, loss_fn: Any, logger: Any, said: str
) -> None:
    asked()
    assert watch(policy, loss_fn, logger) is loss_fn
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert "nothing is watched, the training goes on" in printed


def test_a_wrong_setting_is_said_in_one_line(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked(llds="yes")
    own = ClippedPGLossFn()
    assert watch(Policy(), own, Logger()) is own
    assert "LLDWATCH_LLDS='yes': expected one of off, on, auto: nothing is watched" in capsys.readouterr().err


def test_a_run_that_is_there_is_left_alone_or_resumed(
    asked: Any, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked()
    first = World()
    first.step(1)
    closed(first, run_dir)
    capsys.readouterr()
    again = World()
    assert again.loss_fn is again.own
    assert "holds a run already" in capsys.readouterr().err
    asked(resume="1")
    resumed = World()
    resumed.step(2)
    assert closed(resumed, run_dir).steps()["step"].to_pylist() == [1, 2]


def test_an_exception_of_ours_never_reaches_the_training(
    asked: Any, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = World()
    asked(llds="on")
    ours = World()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("renamed")

    monkeypatch.setattr(nemo_rl, "per_response", broken)
    monkeypatch.setattr(PreservingLoss, "_tensors", broken)
    for number in range(1, 4):
        plain.step(number)
        ours.step(number)
    assert torch.equal(ours.policy.weight, plain.policy.weight)
    run = closed(ours, run_dir)
    assert run.steps()["reward"].to_pylist() == [0.25] * 3
    assert any("recording the responses failed: KeyError" in line for line in events(run, "error"))
