from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_verl import Policy, batch_of, config_of, stand_in, train, worker_of
from torch import Tensor

from lldwatch import Run
from lldwatch.integrations import verl_actor, verl_seams
from lldwatch.integrations.verl import register
from lldwatch.integrations.verl_batch import ROW, group_of, number_rows, rewards_of
from lldwatch.integrations.verl_loss import call_of, divisor
from lldwatch.integrations.verl_step import config_of as settings_of
from lldwatch.integrations.verl_step import scalars_of

CHILD, REAL = (Path(__file__).with_name(name) for name in ("child_verl.py", "real_verl.py"))
CORE, LOSSES = "verl.trainer.ppo.core_algos", "verl.workers.utils.losses"


def actor() -> Any:
    return verl_seams._registered[0]


def closed(path: Path) -> Run:
    actor()._monitor.close()
    return Run(path)


def trained(steps: int = 2, **settings: Any) -> tuple[list[dict[str, Any]], Tensor]:
    """Metrics and weights after some steps of a policy that is new."""
    policy = Policy()
    told = train(worker_of(policy, **settings), policy, steps)
    return told, policy.weights.detach()


# nothing is changed that was not asked for


def test_without_a_run_nothing_is_wrapped(verl: None) -> None:
    assert register() is False
    core = importlib.import_module(CORE)
    worker = importlib.import_module("verl.workers.engine_workers").TrainingWorker
    assert not any(hasattr(loss, "lldwatch") for loss in core.POLICY_LOSS_REGISTRY.values())
    assert not hasattr(worker.train_mini_batch, "__wrapped__")
    assert verl_seams._registered == []


def test_a_setting_that_is_wrong_is_said_and_nothing_is_wrapped(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLDWATCH_LLDS", "maybe")
    assert register() is False
    assert "verl is not watched: LLDWATCH_LLDS='maybe'" in caplog.text


def test_verl_loads_it_by_the_module_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "lldwatch.integrations.verl")
    monkeypatch.delitem(sys.modules, "lldwatch.integrations.verl")
    importlib.import_module("verl")
    assert len(verl_seams._registered) == 1
    assert all(hasattr(loss, "lldwatch") for loss in importlib.import_module(CORE).POLICY_LOSS_REGISTRY.values())


@pytest.mark.parametrize("loss_mode", ["vanilla", "twice"])
@pytest.mark.parametrize("llds", ["off", "auto"])
def test_a_training_without_llds_is_bit_for_bit_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, loss_mode: str, llds: str
) -> None:
    plain, weights = trained(loss_mode=loss_mode)
    with stand_in():
        monkeypatch.setenv("LLDWATCH_LLDS", llds)
        register()
        watched, watched_weights = trained(loss_mode=loss_mode)
        assert torch.equal(weights, watched_weights)
        for before, after in zip(plain, watched, strict=True):
            assert before == {name: value for name, value in after.items() if "lldwatch" not in name}
        assert closed(run).observations()[-1].updates == 4


def test_value_and_gradient_of_a_loss_are_bit_for_bit_the_same(run: Path) -> None:
    register()
    core, policy = importlib.import_module(CORE), Policy()
    batch = batch_of(policy, 1)
    loss = core.get_policy_loss_fn("vanilla")
    results = []
    for function in (loss.__wrapped__, loss):
        begin(batch)
        policy.weights.grad = None
        value, metrics = call(function, policy, batch)
        value.backward()
        results.append((value.detach(), policy.weights.grad, metrics))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]


def begin(batch: dict[str, Any]) -> None:
    """A step without a worker around it."""
    from lldwatch.integrations.verl_batch import rollout_of

    protocol = importlib.import_module("verl.protocol")
    actor().told = False
    assert actor().begin(rollout_of(protocol.Rows(batch)), {})


def call(function: Any, policy: Any, batch: dict[str, Any], config: Any = None) -> Any:
    return function(
        old_log_prob=batch["old_log_probs"],
        log_prob=policy(batch),
        advantages=batch["advantages"],
        response_mask=batch["response_mask"].bool(),
        loss_agg_mode="token-mean",
        config=config or config_of(),
        rollout_is_weights=None,
    )


# what is recorded


def test_all_that_the_actor_sees_is_recorded(run: Path) -> None:
    register()
    policy = Policy()
    told = train(worker_of(policy), policy, 3)
    recorded = closed(run)
    rows = recorded.responses().to_pandas()
    assert len(rows) == 3 * 8 * 2
    first = rows[rows.step == 1]
    assert sorted(first["update"].unique()) == [0, 1, 2, 3]
    assert (first.groupby("uid").size() == 2).all(), "a response has one identity in both epochs"
    assert first["group"].nunique() == 4
    assert set(zip(first.reward, first.advantage, first.correct, strict=True)) == {(0.0, -1.0, False), (1.0, 1.0, True)}
    assert first.entropy.notna().all()
    step = recorded.observations()[0]
    assert (step.step, step.updates, step.updates_per_batch, step.responses) == (1, 4, 4, 8)
    assert step.grad_norm == pytest.approx(np.mean(told[0]["grad_norm"]))
    assert (step.loss, step.learning_rate) == (pytest.approx(np.mean(told[0]["loss"]), abs=1e-6), 0.5)
    assert step.gap is not None
    assert step.actions == pytest.approx(2.0)
    assert recorded.info.trainer.startswith("verl")
    assert recorded.info.config == {
        **{"ppo_epochs": 2, "clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2},
        **{"loss_agg_mode": "token-mean", "loss_mode": "vanilla"},
    }


def test_the_rows_of_an_update_are_those_of_its_mini_batch(run: Path) -> None:
    register()
    policy = Policy()
    batch = batch_of(policy, 1)
    train(worker_of(policy), policy)
    rows = closed(run).responses().to_pandas()
    expected = batch["old_log_probs"].where(batch["response_mask"] != 0, torch.tensor(0.0)).sum(-1)
    found = rows[rows["update"] < 2].sort_values("uid").old_log_prob
    assert found.to_numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_metrics_of_the_step_that_ended_stand_among_verls_own(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLDWATCH_LLDS", "on")
    monkeypatch.setenv("LLDWATCH_STRENGTH", "0.5")
    register()
    policy = Policy()
    told = train(worker_of(policy), policy, 2)[-1]
    ours = {name: value for name, value in told.items() if name.startswith("actor/lldwatch_")}
    assert ours["actor/lldwatch_stage"] == 0.0
    assert ours["actor/lldwatch_llds_coefficient"] == 0.5
    assert ours["actor/lldwatch_llds_loss"] > 0
    assert {"actor/lldwatch_gap", "actor/lldwatch_log_prob_correct"} <= ours.keys()
    assert all(isinstance(value, float) for value in ours.values())
    assert not any("max" in name or "min" in name for name in ours), "verl would take the maximum"


def test_a_loss_that_is_registered_later_is_watched(run: Path) -> None:
    register()
    core, policy = importlib.import_module(CORE), Policy()

    @core.register_policy_loss("mine")
    def mine(*args: Any, **kwargs: Any) -> Any:
        return core.compute_policy_loss_vanilla(*args, **kwargs)

    train(worker_of(policy, loss_mode="mine"), policy)
    assert len(closed(run).responses()) == 16


def test_a_loss_inside_of_another_is_recorded_once(run: Path) -> None:
    register()
    trained(1, loss_mode="twice")
    assert len(closed(run).responses()) == 16


def test_modules_that_are_imported_already_are_watched_too(run: Path) -> None:
    module = importlib.import_module("verl.workers.engine_workers")
    register()
    assert module.ppo_loss is importlib.import_module(LOSSES).ppo_loss
    trained(1)
    assert closed(run).observations()[0].reward == 0.5


def test_a_loss_outside_of_the_actors_micro_batches_is_none_of_its_own(run: Path) -> None:
    register()
    policy, module = Policy(), importlib.import_module("verl.workers.engine_workers")
    worker = worker_of(policy)
    loss = importlib.import_module(CORE).get_policy_loss_fn("vanilla")

    def distillation_ppo_loss(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> Any:
        result = module.ppo_loss(config, model_output, data)
        call(loss, lambda _: model_output["log_probs"].detach(), data, config)
        return result

    worker.set_loss_fn(functools.partial(distillation_ppo_loss, config=config_of()))
    train(worker, policy)
    assert len(closed(run).responses()) == 16


def test_an_actor_whose_loss_never_comes_by_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register()
    policy = Policy()
    worker = worker_of(policy)

    def my_ppo_loss(model_output: Any, data: Any, dp_group: Any = None) -> Any:
        return -(model_output["log_probs"] * data["advantages"]).mean(), {}

    worker.set_loss_fn(my_ppo_loss)
    train(worker, policy, 2)
    assert capsys.readouterr().err.count("no policy loss of verl's registry was called") == 1
    assert [step.updates for step in closed(run).observations()] == [4, 4]


def test_a_critic_is_not_watched(run: Path) -> None:
    register()
    policy, module = Policy(), importlib.import_module("verl.workers.engine_workers")
    worker = worker_of(policy)
    worker.set_loss_fn(functools.partial(module.value_loss, config=config_of()))
    told = train(worker, policy)
    assert actor()._monitor is None
    assert not any("lldwatch" in name for name in told[0])


def test_responses_that_fill_up_a_batch_are_left_out(run: Path) -> None:
    register()
    policy = Policy()
    batch = batch_of(policy, 1)
    batch["response_mask"][-3:] = 0
    train(worker_of(policy, micro_batch=1), policy, **{"response_mask": batch["response_mask"]})
    assert closed(run).observations()[0].responses == 5


def test_steps_go_on_with_the_number_of_a_checkpoint(run: Path) -> None:
    register()
    policy = Policy()
    worker = worker_of(policy)
    assert worker.load_checkpoint(local_path="/checkpoints/global_step_40/actor") is not None
    train(worker, policy, 2)
    assert [step.step for step in closed(run).observations()] == [41, 42]


def test_a_number_that_the_batch_has_is_the_step(run: Path) -> None:
    register()
    policy = Policy()
    train(worker_of(policy), policy, 1, global_steps=7)
    assert [step.step for step in closed(run).observations()] == [7]


def test_what_is_missing_is_said_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register()
    policy, protocol = Policy(), importlib.import_module("verl.protocol")
    worker = worker_of(policy)
    for step in (1, 2):
        batch = batch_of(policy, step)
        data = {name: value for name, value in batch.items() if name not in ("rm_scores", "uid")}
        worker.train_mini_batch(protocol.Rows({**data, "mini_batch_size": 4, "global_batch_size": 4}))
    said = capsys.readouterr().err
    for words in ("no rewards", "no prompts", "no entropy: set actor_rollout_ref.actor.calculate_entropy", "headline"):
        assert said.count(words) == 1
    step = closed(run).observations()[1]
    assert (step.reward, step.entropy) == (None, None)
    assert step.correct_share == 0.5, "who has an advantage"


# LLDS


def by_hand(batch: dict[str, Any], now: Tensor, dead_zone: float, divide_by: float) -> Tensor:
    """The term, token by token: of actions that fell together, what fell by more than the dead zone."""
    total = torch.zeros(())
    for row in range(len(now)):
        if batch["advantages"][row, 0] < 0:
            continue
        actions: list[list[int]] = []
        for place in batch["response_mask"][row].nonzero().flatten().tolist():
            if actions and actions[-1][-1] == place - 1:
                actions[-1].append(place)
            else:
                actions.append([place])
        for action in actions:
            drops = [batch["old_log_probs"][row, place] - now[row, place] for place in action]
            nats = [drop.item() for drop in drops]
            if sum(max(drop - dead_zone, 0) - max(-drop - dead_zone, 0) for drop in nats) > 0:
                total = total + sum((drop - dead_zone for drop in drops if drop.item() > dead_zone), torch.zeros(()))
    return total / divide_by


@pytest.mark.parametrize(("tokens", "ranks"), [(None, 1), (40, 1), (90, 2)])
def test_llds_is_that_of_a_loop_over_tokens(
    run: Path, monkeypatch: pytest.MonkeyPatch, tokens: int | None, ranks: int
) -> None:
    monkeypatch.setenv("LLDWATCH_LLDS", "on")
    monkeypatch.setenv("LLDWATCH_STRENGTH", "0.7")
    register()
    core, policy = importlib.import_module(CORE), Policy()
    batch, config = batch_of(policy, 1), config_of()
    if tokens is not None:
        config.global_batch_info.update(batch_num_tokens=tokens, dp_size=ranks)
    loss = core.get_policy_loss_fn("vanilla")
    begin(batch)
    assert torch.equal(call(loss, policy, batch, config)[0], call(loss.__wrapped__, policy, batch, config)[0])
    actor().updated(1.0)
    policy.weights.data += 0.3 * torch.randn(policy.weights.shape, generator=torch.Generator().manual_seed(5))
    found = gradient(policy, lambda: call(loss, policy, batch, config)[0])
    count = float(batch["response_mask"].sum()) if tokens is None else tokens / ranks
    term = lambda: by_hand(batch, policy(batch), 0.0, count)  # noqa: E731
    expected = gradient(policy, lambda: call(loss.__wrapped__, policy, batch, config)[0] + 0.7 * term())
    assert term() > 0.01
    for ours, by_loop in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, by_loop, rtol=1e-5, atol=1e-7)


def gradient(policy: Policy, loss: Any) -> tuple[Tensor, Tensor]:
    value = loss()
    return value.detach(), torch.autograd.grad(value, policy.weights)[0]


def test_llds_is_the_same_for_any_number_of_micro_batches(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLDWATCH_LLDS", "on")
    weights = []
    for size in (4, 2, 1):
        with stand_in():
            monkeypatch.setenv("LLDWATCH_RUN", f"{run}{size}")
            register()
            weights.append(trained(3, micro_batch=size)[1])
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    assert torch.allclose(weights[0], weights[2], atol=1e-6)
    without = trained(3)[1]
    assert (weights[0] - without).abs().max() > 1e-3, "it does something"


def test_what_verl_divides_by() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    tensors = [torch.zeros(3, 3), torch.zeros(3, 3), torch.ones(3, 3), mask]

    def of(mode: str, **info: Any) -> float:
        return float(divisor(call_of("vanilla", [*tensors, mode, types.SimpleNamespace(global_batch_info=info)], {})))

    known = {"batch_num_tokens": 30, "global_batch_size": 12, "dp_size": 2}
    assert of("token-mean") == 3
    assert of("token-mean", **known) == 15
    assert of("token-sum", **known) == 0.5
    assert of("seq-mean-token-sum") == 2
    assert of("seq-mean-token-sum", **known) == 6
    assert of("seq-mean-token-sum-norm", **known) == 18
    assert of("seq-mean-token-sum-norm", **known, loss_scale_factor=10) == 60
    assert of("seq-mean-token-mean", **known) == 15


def test_the_clip_range_is_that_of_tokens_or_none() -> None:
    tensors = [torch.zeros(1, 1)] * 4
    config = types.SimpleNamespace(clip_ratio=0.2, clip_ratio_low=None, clip_ratio_high=0.28)
    assert call_of("vanilla", [*tensors, "token-mean", config], {}).clip_range == (0.2, 0.28)
    assert call_of("gspo", [*tensors, "token-mean", config], {}).clip_range is None
    assert call_of("compute_policy_loss", tensors, {"cliprange": 0.1}).clip_range == (0.1, 0.1)
    assert call_of("vanilla", tensors, {"config": None}).clip_range is None


# nothing of ours ends a training


def test_an_exception_of_ours_does_not_reach_the_training(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trained(3)[1]
    with stand_in():
        register()
        monkeypatch.setattr(verl_actor, "per_response", lambda *args, **kwargs: 1 / 0)
        assert torch.equal(trained(3)[1], plain)
        steps = closed(run).observations()
    assert "recording a micro-batch failed: ZeroDivisionError" in caplog.text
    assert "left out from now on" in caplog.text
    assert [step.updates for step in steps] == [4, 4, 4], "the rest goes on"


@pytest.mark.parametrize("name", ["begin", "end", "updated", "_take"])
def test_no_part_of_it_ends_a_training(run: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plain = trained(2)[1]
    with stand_in():
        register()
        monkeypatch.setattr(verl_actor.Actor, name, lambda *args, **kwargs: 1 / 0)
        assert torch.equal(trained(2)[1], plain)


def test_an_exception_of_the_training_is_passed_on_and_the_next_step_is_recorded(run: Path) -> None:
    register()
    policy = Policy()
    worker = worker_of(policy)
    own, worker.engine.train_batch = worker.engine.train_batch, lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        train(worker, policy)
    worker.engine.train_batch = own
    train(worker, policy)
    assert [step.responses for step in closed(run).observations()] == [8]


def test_a_run_that_exists_is_said_and_the_training_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register()
    trained(2)
    closed(run)
    with stand_in():
        register()
        told = trained(2)[0]
        assert not any("lldwatch" in name for name in told[-1])
        said = capsys.readouterr().err
        assert said.count("holds a run already") == 1
        assert "LLDWATCH_RESUME=1" in said
    with stand_in():
        monkeypatch.setenv("LLDWATCH_RESUME", "1")
        register()
        trained(2)
        assert [step.step for step in closed(run).observations()] == [1, 2, 3, 4]


def test_places_that_are_not_there_are_said_with_what_is_lost(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [CORE, LOSSES, "verl.workers.engine_workers", "verl.workers.actor.dp_actor"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    register()
    assert f"{CORE} has neither POLICY_LOSS_REGISTRY nor compute_policy_loss: no losses" in caplog.text
    assert f"{LOSSES} has no ppo_loss: no rewards, prompts and entropy; log-probs are recorded" in caplog.text
    assert "engine_workers has no TrainingWorker.train_mini_batch: steps have no end" in caplog.text
    assert "dp_actor has no DataParallelPPOActor.update_policy, _optimizer_step" in caplog.text
    looked_for = capsys.readouterr().err
    assert all(name in looked_for for name in names)


def test_without_ppo_loss_log_probs_are_recorded_all_the_same(run: Path) -> None:
    monkeypatched = importlib.import_module(LOSSES)
    own = monkeypatched.ppo_loss
    del monkeypatched.ppo_loss
    register()
    monkeypatched.ppo_loss = own
    trained(1)
    step = closed(run).observations()[0]
    assert step.reward is None
    assert step.log_prob_correct is not None


# what a batch says


def test_prompts_have_the_same_number_in_every_process() -> None:
    class Words:
        def __init__(self, words: list[Any]) -> None:
            self.words = words

        def tolist(self) -> list[Any]:
            return self.words

    class Rows(dict[str, Any]):
        batch_size = torch.Size([3])

    words = group_of(Rows(uid=Words(["a", "b", "a"])))
    assert words is not None
    assert words.tolist() == [4681665781835383343, -8902839231844102283, 4681665781835383343]
    numbers = group_of(Rows(uid=np.array([5, 6, 5], object)))
    assert numbers is not None
    assert numbers.tolist() == [5, 6, 5]
    assert group_of(Rows(uid="all of them")) is None
    assert group_of(Rows()) is None
    assert group_of(Rows(uid=["a"])) is None


def test_rewards_are_sums_over_tokens_also_of_nested_rows() -> None:
    class Rows(dict[str, Any]):
        batch_size = torch.Size([2])

    nested = torch.nested.as_nested_tensor([torch.tensor([0.0, 2.0]), torch.tensor([1.0])], layout=torch.jagged)
    for scores in (nested, torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([2.0, 1.0])):
        rewards = rewards_of(Rows(rm_scores=scores))
        assert rewards is not None
        assert rewards.tolist() == [2.0, 1.0]
    rows = Rows(rm_scores=nested)
    number_rows(rows)
    assert rows[ROW].tolist() == [0, 1]


def test_metrics_and_settings_of_any_kind_are_read_or_left_out() -> None:
    losses = {"actor/pg_loss": [1.0, 3.0]}
    assert scalars_of({"loss": [1.0, 3.0], "lr": [0.1, 0.2], "kl_loss": np.float64(0.5), **losses}) == {
        "loss": 2.0,
        "learning_rate": 0.2,
        "kl": 0.5,
    }
    assert scalars_of({"actor/kl_loss": 0.1, **losses}) == {"kl": 0.1}
    assert scalars_of({"actor/kl_loss": 0.1, "actor/pg_loss": 1.0}) == {}, "added up over the updates in 0.7"
    assert scalars_of({"loss": "nan", "actor/lr": 0.1}) == {"learning_rate": 0.1}
    assert scalars_of(None) == {}
    assert settings_of(None) == {}


# many processes


def said_by(command: list[str], **environment: str) -> Any:
    """JSON in the last line that the process prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLDWATCH_")}
    own = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**clean, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])


def worlds(folder: Path, *asked: dict[str, Any]) -> Any:
    return said_by([str(CHILD), str(folder), json.dumps(asked)])


def test_two_processes_record_what_both_see_and_have_one_coefficient(run_dir: Path) -> None:
    first = {"job": "halves", "size": 2, "environment": {"LLDWATCH_RUN": str(run_dir), "LLDWATCH_LLDS": "on"}}
    again = {"job": "halves", "size": 2, "environment": {"LLDWATCH_RUN": str(run_dir), "LLDWATCH_LLDS": "off"}}
    told, refused, plain = worlds(run_dir.parent, first, again, {"job": "halves", "size": 2, "environment": {}})
    assert told[0]["coefficients"] == told[1]["coefficients"] == [1.0, 1.0]
    recorded = Run(run_dir)
    assert [step.responses for step in recorded.observations()] == [16, 16]
    assert [step.updates for step in recorded.observations()] == [4, 4]
    rows = recorded.responses().to_pandas()
    assert len(rows) == 2 * 2 * 16
    assert rows[rows.step == 1].uid.nunique() == 16
    assert rows[rows.step == 1].group.nunique() == 8
    assert [process["coefficients"] for process in refused] == [[], []]
    assert [process["err"].count("holds a run already") for process in refused] == [1, 0]
    assert [process["weights"] for process in refused] == [process["weights"] for process in plain]
    assert told[0]["weights"] != plain[0]["weights"], "LLDS acted"


def test_a_process_with_the_same_rows_takes_part_and_records_none(verl: None, run_dir: Path) -> None:
    environment = {"LLDWATCH_RUN": str(run_dir), "LLDWATCH_LLDS": "on"}
    told = worlds(run_dir.parent, {"job": "duplicate", "size": 2, "environment": environment})[0]
    assert told[0]["weights"] == told[1]["weights"], "LLDS acts in both"
    assert told[0]["weights"] != float(trained(2)[1].double().sum()).hex()
    assert [step.responses for step in Run(run_dir).observations()] == [8, 8]


# the real one

needs_verl = pytest.mark.skipif(
    importlib.util.find_spec("verl") is None, reason="verl is not installed (make test-verl)"
)


def children(job: str, folder: Path, size: int, **environment: str) -> list[dict[str, Any]]:
    """What the processes of a real training said."""
    return list(said_by([str(REAL), job, str(folder), str(size)], **environment))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Number of processes -> what they do without lldwatch."""
    return functools.cache(lambda size: children("{}", tmp_path_factory.mktemp("plain"), size))


def theirs(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in step.items() if "lldwatch" not in name} for step in metrics]


@needs_verl
def test_every_real_loss_is_bit_for_bit_the_same_and_llds_adds_up_as_they_do(run_dir: Path) -> None:
    told = children("losses", run_dir.parent, 1, LLDWATCH_RUN=str(run_dir))[0]
    assert len(told["same"]) >= 12
    assert set(told["same"].values()) == {True}
    differing = {way for way, (verls, ours) in told["ways"].items() if ours != pytest.approx(verls, rel=1e-6)}
    assert differing == {"seq-mean-token-mean 0", "seq-mean-token-mean 4"}


@needs_verl
@pytest.mark.parametrize("size", [1, 2])
def test_real_workers_train_bit_for_bit_the_same_when_llds_is_off(plain: Any, run_dir: Path, size: int) -> None:
    environment = {"LLDWATCH_RUN": str(run_dir), "LLDWATCH_PROBES": "economy"}
    watched = children("{}", run_dir.parent, size, **environment)
    for ours, without in zip(watched, plain(size), strict=True):
        assert ours["lldwatch"], "verl has loaded the plugin by itself"
        assert ours["weights"] == without["weights"]
        assert theirs(ours["metrics"]) == without["metrics"]
    recorded = Run(run_dir)
    rows = recorded.responses().to_pandas()
    assert len(rows) == 3 * 8 * 2
    first = rows[rows.step == 1]
    assert (first.uid.nunique(), first["group"].nunique(), first.reward.sum()) == (8, 4, 8.0)
    assert (first.actions == 2).all()
    steps = recorded.observations()
    assert [step.updates for step in steps] == [4, 4, 4]
    assert steps[0].entropy == pytest.approx(watched[0]["metrics"][0]["actor/entropy_loss"], rel=0.05)
    assert steps[0].grad_norm == pytest.approx(watched[0]["metrics"][0]["actor/grad_norm"], rel=1e-5)
    assert steps[0].learning_rate == pytest.approx(0.01)
    assert steps[0].first_update_change is not None
    assert steps[0].first_update_change < 1e-5
    assert all(step.cross_update_change is not None for step in steps[1:])
    assert steps[1].cross_update_change == pytest.approx(watched[0]["metrics"][1]["actor/lldwatch_cross_update_change"])
    assert recorded.problems == []


@needs_verl
@pytest.mark.parametrize("size", [1, 2])
def test_real_workers_with_llds(plain: Any, run_dir: Path, size: int) -> None:
    environment = {"LLDWATCH_RUN": str(run_dir), "LLDWATCH_LLDS": "on"}
    watched = children("{}", run_dir.parent, size, **environment)
    assert [ours["weights"] for ours in watched] != [without["weights"] for without in plain(size)]
    for ours in watched:
        assert [step["actor/lldwatch_llds_coefficient"] for step in ours["metrics"]] == [1.0, 1.0, 1.0]
        assert all(step["actor/lldwatch_llds_loss"] > 0 for step in ours["metrics"])
        assert ours["metrics"][0]["actor/pg_loss"] > plain(size)[0]["metrics"][0]["actor/pg_loss"]
    steps = Run(run_dir).observations()
    assert [step.responses for step in steps] == [8, 8, 8]
    assert all(step.llds_loss is not None and step.llds_loss > 0 for step in steps)
