from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_verl import TOKENS, Policy, batch_of, stand_in
from torch import Tensor

from lldwatch import Run
from lldwatch.integrations import verl_seams
from lldwatch.integrations.search_r1 import attach

CHILD = Path(__file__).with_name("child_search_r1.py")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(Policy().weights.detach())

    def forward(self, batch: Any) -> Tensor:
        policy = Policy()
        policy.weights = self.weights
        return policy(batch)


def trained(steps: int = 2) -> tuple[list[dict[str, Any]], Tensor]:
    """Metrics and weights after some steps: four updates on halves of a batch of 8, twice."""
    module, protocol = (importlib.import_module(f"verl.{name}") for name in ("workers.actor.dp_actor", "protocol"))
    model = Model()
    config = types.SimpleNamespace(
        clip_ratio=0.2, state_masking=True, ppo_mini_batch_size=4, ppo_micro_batch_size=2, ppo_epochs=1
    )
    actor = module.DataParallelPPOActor(config, model, torch.optim.SGD(model.parameters(), lr=0.5), model.parameters())
    told = []
    for step in range(1, steps + 1):
        batch = batch_of(model, step)  # type: ignore[arg-type]
        fields = {
            **{"responses": batch["responses"], "input_ids": batch["responses"]},
            **{"attention_mask": torch.ones(8, TOKENS), "position_ids": torch.arange(TOKENS).expand(8, -1)},
            **{"old_log_probs": batch["old_log_probs"], "advantages": batch["advantages"]},
            **{"loss_mask": batch["response_mask"], "token_level_scores": batch["rm_scores"]},
        }
        told.append(actor.update_policy(protocol.DataProto(fields, {"uid": batch["uid"]}, {"temperature": 1.0})))
    return told, model.weights.detach()


def closed(path: Path) -> Run:
    verl_seams._registered[0]._monitor.close()  # type: ignore[union-attr]
    return Run(path)


def test_without_a_run_nothing_is_wrapped(verl: None) -> None:
    assert attach() is False
    module = importlib.import_module("verl.workers.actor.dp_actor")
    assert not hasattr(module.core_algos.compute_policy_loss, "lldwatch")
    assert not hasattr(module.DataParallelPPOActor.update_policy, "__wrapped__")


def test_one_line_of_import_is_enough(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "lldwatch.integrations.search_r1")
    monkeypatch.delitem(sys.modules, "lldwatch.integrations.search_r1")
    importlib.import_module("verl")
    trained(1)
    recorded = closed(run)
    assert recorded.info.trainer.startswith("Search-R1")
    assert len(recorded.observations()) == 1


@pytest.mark.parametrize("llds", ["off", "auto"])
@pytest.mark.parametrize("probes", ["off", "standard"])
def test_a_training_without_llds_is_bit_for_bit_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, llds: str, probes: str
) -> None:
    plain, weights = trained()
    with stand_in():
        monkeypatch.setenv("LLDWATCH_LLDS", llds)
        monkeypatch.setenv("LLDWATCH_PROBES", probes)
        attach()
        watched, watched_weights = trained()
        assert torch.equal(weights, watched_weights)
        for before, after in zip(plain, watched, strict=True):
            assert before == {name: value for name, value in after.items() if "lldwatch" not in name}
            assert after["actor/lldwatch_llds_coefficient"] == 0.0


def test_rows_rewards_prompts_entropy_and_updates_are_recorded(run: Path) -> None:
    attach()
    told, _ = trained(2)
    recorded = closed(run)
    rows = recorded.responses().to_pandas()
    assert len(rows) == 2 * 8
    first = rows[rows.step == 1]
    assert (first["update"].to_list(), first["group"].nunique(), first.uid.nunique()) == ([0] * 4 + [1] * 4, 4, 8)
    assert set(zip(first.reward, first.correct, strict=True)) == {(0.0, False), (1.0, True)}
    assert (first.actions == 2).all(), "tool feedback is left out by the loss mask"
    step = recorded.observations()[0]
    assert (step.updates, step.responses) == (2, 8)
    assert step.grad_norm == pytest.approx(sum(told[0]["actor/grad_norm"]) / 2)
    assert step.entropy is not None
    assert recorded.info.config["state_masking"] is True


def test_llds_acts_from_the_second_update_on_and_is_a_mean_over_the_micro_batch(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLDWATCH_LLDS", "on")
    plain = trained(1)
    with stand_in():
        attach()
        told, weights = trained(1)
        losses = [
            after - before for before, after in zip(plain[0][0]["actor/pg_loss"], told[0]["actor/pg_loss"], strict=True)
        ]
        assert losses[:2] == [0.0, 0.0]
        assert max(losses[2:]) > 1e-3
        assert not torch.equal(weights, plain[1])
        assert closed(run).observations()[0].llds_loss is not None


def test_probes_give_the_headline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLDWATCH_PROBES", "economy")
    attach()
    trained(3)
    steps = closed(run).observations()
    assert steps[0].cross_update_change is None
    assert all(step.cross_update_change is not None for step in steps[1:])
    assert steps[0].noise_floor == 0.0


# the real one


@functools.cache
def real(version: str, run: Path | None = None, llds: str = "off") -> dict[str, Any]:
    """What a real actor of that version did in three steps."""
    folder = Path(sys.prefix) / f"verl-{version}"
    if not folder.is_dir():
        pytest.skip(f"verl {version} is not installed (make test-verl)")
    own = {} if run is None else {"LLDWATCH_RUN": str(run), "LLDWATCH_LLDS": llds, "LLDWATCH_PROBES": "economy"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLDWATCH_")}
    said = subprocess.run(
        [sys.executable, str(CHILD), str(folder)], env={**clean, **own}, capture_output=True, text=True, timeout=280
    )
    assert said.returncode == 0, said.stderr[-4000:]
    told: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return {**told, "err": said.stderr}


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_real_verl_trains_bit_for_bit_the_same_when_llds_is_off(version: str, run_dir: Path) -> None:
    plain, watched = real(version), real(version, run_dir)
    assert watched["weights"] == plain["weights"]
    assert [named(step, ours=False) for step in watched["metrics"]] == plain["metrics"]
    assert "actor/lldwatch_stage" in watched["metrics"][0]
    recorded = Run(run_dir)
    rows = recorded.responses().to_pandas()
    assert len(rows) == 3 * 8
    assert rows.groupby("step")["group"].nunique().tolist() == [4, 4, 4]
    steps = recorded.observations()
    assert [step.reward for step in steps] == [0.5, 0.5, 0.5]
    assert [step.updates for step in steps] == [2, 2, 2]
    assert (steps[0].entropy is None) == (version == "0.1"), "the first version hands logits on, not entropy"
    assert steps[0].grad_norm == pytest.approx(sum(watched["metrics"][0]["actor/grad_norm"]) / 2, rel=1e-5)
    assert all(step.cross_update_change is not None for step in steps[1:])
    assert steps[0].first_update_change is not None
    assert steps[0].first_update_change < 1e-5
    assert recorded.problems == []


@pytest.mark.parametrize("version", ["0.2"])
def test_real_verl_with_llds(version: str, run_dir: Path) -> None:
    plain, watched = real(version), real(version, run_dir, "on")
    before, after = plain["metrics"][0]["actor/pg_loss"], watched["metrics"][0]["actor/pg_loss"]
    assert before[:2] == after[:2], "before the first update nothing has moved"
    assert all(with_term >= without for without, with_term in zip(before, after, strict=True))
    assert watched["weights"] != plain["weights"]
    assert Run(run_dir).observations()[0].llds_loss is not None


def named(metrics: dict[str, Any], *, ours: bool) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if ("lldwatch" in name) == ours}
