"""lldwatch in slime, against stand-ins that keep its documented contract: slime is on no package index."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from oracles import llds_term
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lldwatch import InputError, Run
from lldwatch.integrations import slime, slime_watch

VOCABULARY = 7
LENGTHS = (5, 3, 6, 4)
ADVANTAGES = (1.0, -1.0, 0.5, 0.0)
MASKS = ([1, 1, 0, 1, 1], [1, 1, 1], [1, 0, 1, 1, 1, 1], [1, 1, 1, 1])

Reduce = Callable[[Tensor], Tensor]


def get_log_probs_and_entropy(logits: Tensor, *, unconcat_tokens: list[Tensor], **others: Any) -> Any:
    """(what slime does not use, a dict of lists with one tensor a sample)."""
    every = torch.log_softmax(logits[0], -1)
    start, log_probs, entropy = 0, [], []
    for tokens in unconcat_tokens:
        part = every[start : start + len(tokens)]
        log_probs.append(part.gather(-1, tokens[:, None])[:, 0])
        entropy.append(-(part.exp() * part).sum(-1))
        start += len(tokens)
    return torch.empty(0), {"log_probs": log_probs, "entropy": entropy}


def policy_loss_function(args: Any, batch: Any, logits: Tensor, sum_of_sample_mean: Reduce) -> Any:
    losses = sys.modules["slime.backends.megatron_utils.loss"]
    scored = losses.get_log_probs_and_entropy(logits, unconcat_tokens=batch["unconcat_tokens"])
    _, scored = scored if isinstance(scored, tuple) else (None, scored)
    new = torch.cat(scored["log_probs"])
    old = batch["rollout_log_probs"] if args.use_rollout_logprobs else batch.get("log_probs")
    ratio = (new - torch.cat(old or [part.detach() for part in scored["log_probs"]])).exp()
    loss = sum_of_sample_mean(-ratio * torch.cat(batch["advantages"]))
    return loss, {"loss": loss.detach().clone(), "pg_loss": loss.detach().clone()}


def sum_of_sample_mean(per_token: bool) -> Reduce:
    masks = [torch.tensor(mask) for mask in MASKS]

    def reduce(values: Tensor) -> Tensor:
        parts = zip(values.split(list(LENGTHS)), masks, strict=True)
        return torch.stack([(part * mask).sum() / (1 if per_token else mask.sum()) for part, mask in parts]).sum()

    return reduce


class Optimizer:
    """Megatron's `step` returns whether it stepped, the gradient norm, and how many zeros are in the gradient."""

    def __init__(self) -> None:
        self.made = 0

    def step(self) -> tuple[bool, float, None]:
        self.made += 1
        return True, 0.5 * self.made, None


@pytest.fixture
def megatron() -> SimpleNamespace:
    return SimpleNamespace(get_tensor_model_parallel_rank=lambda: 0, get_context_parallel_world_size=lambda: 1)


@pytest.fixture(autouse=True)
def losses(monkeypatch: pytest.MonkeyPatch, megatron: SimpleNamespace) -> Iterator[ModuleType]:
    """slime and Megatron, as far as they are needed; nobody has asked for a run."""
    names = ("slime", "slime.backends", "slime.backends.megatron_utils", "slime.backends.megatron_utils.loss")
    modules = {name: ModuleType(name) for name in (*names, "megatron", "megatron.core")}
    modules["megatron.core"].mpu = megatron  # type: ignore[attr-defined]
    found = modules["slime.backends.megatron_utils.loss"]
    vars(found).update(get_log_probs_and_entropy=get_log_probs_and_entropy, policy_loss_function=policy_loss_function)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("RUN", "LLDS", "STRENGTH", "RESUME"):
        monkeypatch.delenv(f"LLDWATCH_{name}", raising=False)
    slime._watch.cache_clear()
    yield found
    slime._watch.cache_clear()


def asked(monkeypatch: pytest.MonkeyPatch, run: Path, **more: str) -> None:
    for name, value in {"run": str(run), **more}.items():
        monkeypatch.setenv(f"LLDWATCH_{name.upper()}", value)


def args(**given: Any) -> Any:
    known = {
        "loss_type": "custom_loss",
        "use_rollout_logprobs": False,
        "eps_clip": 0.2,
        "eps_clip_high": 0.28,
        "rollout_batch_size": 2,
        "n_samples_per_prompt": 2,
        "global_batch_size": 2,
        "rollout_data_postprocess_path": "lldwatch.integrations.slime.rollout_data",
    }
    return SimpleNamespace(**{**known, **given})


class World:
    """One data-parallel rank with a linear policy: what one sample gains another may lose."""

    def __init__(self, arguments: Any | None = None, *, per_token: bool = False, recompute: bool = False) -> None:
        torch.manual_seed(4)
        self.args = arguments or args()
        self.features, self.weight = torch.randn(1, sum(LENGTHS), 3), torch.nn.Parameter(torch.randn(3, VOCABULARY))
        self.optimizer, self.reduce, self.recompute = Optimizer(), sum_of_sample_mean(per_token), recompute
        self.tokens = [torch.randint(VOCABULARY, (length,)) for length in LENGTHS]
        self.old: list[Tensor] | None = None
        self.losses: list[float] = []
        self.metrics: list[dict[str, Tensor]] = []
        self.gradients: list[Tensor] = []

    def rollout(self, number: int, *, updates: int = 2, custom: bool = True) -> None:
        """Log-probs beforehand, then some updates on them."""
        scored = get_log_probs_and_entropy(self.features @ self.weight.detach(), unconcat_tokens=self.tokens)[1]
        self.old = scored["log_probs"]
        data = {"tokens": self.tokens, "rewards": [0.0] * 4, "partition": [1, 3, 5, 7], "sample_indices": [4, 5, 6, 7]}
        data["raw_reward"] = [9.0, 1.0, 9.0, 0.0, 9.0, 1.0, 9.0, 0.0]
        if custom:
            slime.rollout_data(self.args, number, data)
        for update in range(updates):
            if custom:
                slime.before_train_step(self.args, number, update, None, self.optimizer, None)
            self.update(slime.loss if custom else policy_loss_function)

    def batch(self) -> dict[str, Any]:
        return {
            "unconcat_tokens": self.tokens,
            "advantages": [torch.full((n,), value) for n, value in zip(LENGTHS, ADVANTAGES, strict=True)],
            "loss_masks": [torch.tensor(mask) for mask in MASKS],
            "log_probs": self.old,
            "rollout_log_probs": None if self.old is None else [part - 0.01 for part in self.old],
        }

    def update(self, function: Callable[..., Any]) -> None:
        given = (self.args, self.batch(), self.features @ self.weight, self.reduce)
        if self.recompute:
            loss, metrics = checkpoint(function, *given, use_reentrant=False)
        else:
            loss, metrics = function(*given)
        loss.backward()
        self.losses.append(loss.item())
        self.metrics.append(metrics)
        assert self.weight.grad is not None
        self.gradients.append(self.weight.grad.clone())
        self.optimizer.step()
        with torch.no_grad():
            self.weight -= 0.5 * self.weight.grad
        self.weight.grad = None


def closed(run: Path) -> Run:
    watch = slime._watch()
    assert watch is not None
    assert watch._monitor is not None
    watch._monitor.close()
    return Run(run)


def events(run: Run, kind: str) -> list[str]:
    return [event["detail"] for event in run.events().to_pylist() if event["kind"] == kind]


def test_without_a_run_it_is_slimes_loss_and_nothing_else(losses: ModuleType) -> None:
    plain, ours = World(), World()
    plain.rollout(0, custom=False)
    ours.rollout(0)
    assert ours.losses == plain.losses
    assert ours.metrics[0].keys() == plain.metrics[0].keys()
    assert losses.get_log_probs_and_entropy is get_log_probs_and_entropy


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
def test_with_llds_off_value_and_gradient_are_bit_for_bit_the_same(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, per_token: bool, recompute: bool
) -> None:
    asked(monkeypatch, run_dir)
    plain, ours = (World(per_token=per_token, recompute=recompute) for _ in range(2))
    for number in range(3):
        plain.rollout(number, custom=False)
        ours.rollout(number)
    assert ours.losses == plain.losses
    assert torch.equal(torch.stack(ours.gradients), torch.stack(plain.gradients))
    assert all(metrics[slime.METRIC] == 0 for metrics in ours.metrics), "on every rank in every micro-batch"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
def test_the_term_is_the_token_by_token_twin_in_slimes_own_reduction(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, per_token: bool, recompute: bool
) -> None:
    asked(monkeypatch, run_dir, llds="on", strength="0.7")
    ours = World(per_token=per_token, recompute=recompute)
    for number in range(5):
        ours.rollout(number, updates=1)
        first = len(ours.losses) - 1
        assert ours.metrics[first][slime.METRIC] == 0, "nothing has moved before the first update"
        before = ours.weight.detach().clone().requires_grad_()
        logits = ours.features @ before
        slime.before_train_step(ours.args, number, 1, None, ours.optimizer, None)
        ours.update(slime.loss)
        plain, _ = policy_loss_function(ours.args, ours.batch(), logits, ours.reduce)
        scored = get_log_probs_and_entropy(logits, unconcat_tokens=ours.tokens)[1]["log_probs"]
        assert ours.old is not None
        expected, slopes = 0.0, []
        for new, old, mask, advantage in zip(scored, ours.old, MASKS, ADVANTAGES, strict=True):
            count = 1 if per_token else sum(mask)
            kept = [[advantage >= 0] * len(mask)]
            twin = llds_term([new.tolist()], [old.tolist()], [mask], kept, count=count)
            expected, slopes = expected + twin["loss"], [*slopes, torch.tensor(twin["gradient"][0])]
        assert expected > 0
        assert ours.losses[-1] == pytest.approx(plain.item() + 0.7 * expected, rel=1e-5)
        assert ours.metrics[-1][slime.METRIC].item() == pytest.approx(expected, rel=1e-5)
        surrogate = plain + 0.7 * (torch.cat(scored) * torch.cat(slopes)).sum()
        torch.testing.assert_close(ours.gradients[-1], torch.autograd.grad(surrogate, before)[0], rtol=1e-4, atol=1e-7)
    assert events(closed(run_dir), "error") == [], "torch ends a recomputation by an exception"


def test_what_is_recorded(monkeypatch: pytest.MonkeyPatch, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked(monkeypatch, run_dir, llds="auto")
    ours = World(recompute=True)
    for number in range(7, 10):
        ours.rollout(number)
    run = closed(run_dir)
    assert run.steps()["step"].to_pylist() == [7, 8], "slime's numbers; the last rollout is not closed"
    for row in run.steps().to_pylist():
        assert (row["responses"], row["updates"], row["reward"], row["correct_share"]) == (8, 2, 0.5, 0.5)
        assert row["entropy"] > 0
        assert row["clip_fraction"] is not None
        assert row["grad_norm"] == pytest.approx(0.75 + (row["step"] - 7))
    rows = run.responses().to_pylist()
    assert [row["tokens"] for row in rows[:4]] == [4, 3, 5, 4]
    assert [row["group"] for row in rows[:4]] == [2, 2, 3, 3]
    assert len(rows) == 2 * 2 * 4, "recorded once, though the loss runs twice"
    said = capsys.readouterr().err
    assert "attached to slime: rows of each micro-batch" in said
    assert "LLDS auto, strength 1: from the second update on a rollout on (2 of them)" in said
    assert "cross_update_change, the headline, is not measured" in said
    assert events(run, "attach") == [line.removeprefix("lldwatch: ") for line in said.splitlines()]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"global_batch_size": 4}, "each rollout is used for one update, so that it has no effect"),
        ({"use_rollout_logprobs": True}, "LLDS on, strength 1: against the inference engine's log-probs"),
        ({"rollout_data_postprocess_path": None}, "no rewards and prompts without --rollout-data-postprocess-path"),
    ],
)
def test_the_start_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    said: str,
) -> None:
    asked(monkeypatch, run_dir, llds="on")
    World(args(**given)).rollout(0)
    assert said in capsys.readouterr().err


def test_the_inference_engines_log_probs_have_a_dead_zone(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    asked(monkeypatch, run_dir, llds="on")
    ours = World(args(use_rollout_logprobs=True))
    ours.rollout(0, updates=1)
    assert ours.metrics[0][slime.METRIC] == 0, "they differ by 0.01 nats, which is rounding"
    ours.update(slime.loss)
    assert ours.metrics[1][slime.METRIC] > 0


def test_without_old_log_probs_the_term_is_inert(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    asked(monkeypatch, run_dir, llds="on")
    ours = World()
    for number in range(5):
        ours.rollout(number, updates=0)
        ours.old = None
        for update in range(2):
            slime.before_train_step(ours.args, number, update, None, ours.optimizer, None)
            ours.update(slime.loss)
    assert all(metrics[slime.METRIC] == 0 for metrics in ours.metrics)
    assert any("LLDS has no effect" in line for line in events(closed(run_dir), "llds"))


@pytest.mark.parametrize(("tensor_rank", "context_size", "rows"), [(1, 1, 0), (0, 2, 0), (0, 1, 8)])
def test_who_records_in_a_parallel_training(
    monkeypatch: pytest.MonkeyPatch,
    run_dir: Path,
    megatron: SimpleNamespace,
    tensor_rank: int,
    context_size: int,
    rows: int,
) -> None:
    asked(monkeypatch, run_dir, llds="on")
    megatron.get_tensor_model_parallel_rank = lambda: tensor_rank
    megatron.get_context_parallel_world_size = lambda: context_size
    ours = World()
    for number in range(2):
        ours.rollout(number)
    run = closed(run_dir)
    assert run.responses().num_rows == rows
    assert (ours.metrics[1][slime.METRIC] > 0) == (context_size == 1), "all tensor-parallel ranks add the term"
    assert any("context parallelism" in line for line in events(run, "attach")) == (context_size > 1)


def test_the_critics_updates_are_not_the_actors(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    asked(monkeypatch, run_dir)
    slime.before_train_step(args(loss_type="value_loss"), 0, 0, None, Optimizer(), None)
    assert not run_dir.exists()


def test_a_renamed_scoring_function_costs_rows_and_llds_and_is_named(
    losses: ModuleType, monkeypatch: pytest.MonkeyPatch, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(monkeypatch, run_dir, llds="on")
    own = losses.get_log_probs_and_entropy

    def renamed(given: Any, batch: Any, logits: Tensor, reduce: Reduce) -> Any:
        losses.get_log_probs_and_entropy = own
        try:
            return policy_loss_function(given, batch, logits, reduce)
        finally:
            del losses.get_log_probs_and_entropy

    losses.policy_loss_function = renamed
    del losses.get_log_probs_and_entropy
    plain, ours = World(), World()
    for number in range(2):
        ours.rollout(number)
    losses.get_log_probs_and_entropy = own
    for number in range(2):
        plain.rollout(number, custom=False)
    assert ours.losses == plain.losses
    said = capsys.readouterr().err
    assert (
        "looked for get_log_probs_and_entropy in slime.backends.megatron_utils.loss, found none: neither rows" in said
    )
    assert closed(run_dir).steps()["grad_norm"].to_pylist() == [0.75], "the gradient norm is still recorded"


def test_a_renamed_loss_is_said_in_one_line(losses: ModuleType) -> None:
    losses.ppo_loss_function = losses.policy_loss_function
    del losses.policy_loss_function
    with pytest.raises(InputError) as error:
        World().rollout(0)
    assert str(error.value) == (
        "looked for policy_loss_function in slime.backends.megatron_utils.loss, found ppo_loss_function: use "
        "--loss-type policy_loss, without lldwatch"
    )


def test_a_run_that_is_there_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(monkeypatch, run_dir)
    first = World()
    for number in range(2):
        first.rollout(number)
    closed(run_dir)
    slime._watch.cache_clear()
    capsys.readouterr()
    monkeypatch.setenv("LLDWATCH_LLDS", "on")
    again = World()
    for number in range(2):
        again.rollout(number)
    assert again.losses == first.losses
    said = capsys.readouterr().err
    assert "holds a run already" in said
    assert said.count("\n") == 1
    slime._watch.cache_clear()
    monkeypatch.setenv("LLDWATCH_RESUME", "1")
    monkeypatch.setenv("LLDWATCH_LLDS", "off")
    resumed = World()
    for number in range(1, 3):
        resumed.rollout(number)
    assert closed(run_dir).steps()["step"].to_pylist() == [0, 1]


def test_a_wrong_setting_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(monkeypatch, run_dir, llds="yes")
    plain, ours = World(), World()
    plain.rollout(0, custom=False)
    ours.rollout(0)
    assert ours.losses == plain.losses
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "LLDWATCH_LLDS='yes': expected one of off, on, auto: nothing is watched, the loss is slime's own" in said


def test_an_exception_of_ours_never_reaches_the_training(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    asked(monkeypatch, run_dir, llds="on")

    def broken(*given: Any, **more: Any) -> Any:
        raise KeyError("renamed")

    monkeypatch.setattr(slime_watch, "per_response", broken)
    monkeypatch.setattr("lldwatch.integrations.loss_hook.noise_of", broken)
    plain, ours = World(), World()
    for number in range(3):
        plain.rollout(number, custom=False)
        ours.rollout(number)
    assert ours.losses == plain.losses
    errors = events(closed(run_dir), "error")
    assert any("reading the loss failed: KeyError: 'renamed'; the training goes on" in line for line in errors)
    assert any("adding LLDS failed: KeyError" in line for line in errors)


def test_ranks_speak_over_the_group_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --offload-train slime remakes all groups between rollouts."""
    groups = iter(["first", "second"])
    utils = ModuleType("slime.utils.distributed_utils")
    utils.get_gloo_group = lambda: next(groups)  # type: ignore[attr-defined]
    for name in ("slime.utils", "slime.utils.distributed_utils"):
        monkeypatch.setitem(sys.modules, name, utils)
    for name, value in {"is_initialized": True, "get_world_size": 4, "get_rank": 2}.items():
        monkeypatch.setattr(slime_watch.dist, name, lambda value=value: value)
    ranks = slime_watch._ranks()
    assert isinstance(ranks, slime_watch._Ranks)
    assert (ranks.rank, ranks.size) == (2, 4)
    assert [ranks._group, ranks._group] == ["first", "second"]


def test_the_names_on_the_command_line_are_there() -> None:
    for path in (slime_watch.REWARDS, "lldwatch.integrations.slime.loss"):
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
