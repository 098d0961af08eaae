"""lldwatch in real GRPOTrainers."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed: make test-trl-matrix runs this with several versions of it")
tiny_trl = pytest.importorskip("tiny_trl", exc_type=ImportError)

from lldwatch import Alert, CollapseDetector, Command, InputError, Observation, Run, RunExistsError, Stage  # noqa: E402
from lldwatch.diagnosis import Diagnosis, Verdict  # noqa: E402
from lldwatch.integrations.trl import attach  # noqa: E402
from lldwatch.integrations.trl_seams import find_seams  # noqa: E402
from lldwatch.intervention import Correct  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL and transformers, which warn of each other

REUSED = {"num_iterations": 2}
FALLING = {"learning_rate": 2e-2, "max_steps": 8}
"""So large a rate that responses lose likelihood in a few steps."""

SPLIT = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "steps_per_generation": 4}
ACCUMULATED = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many threads for tiny tensors wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def events(run: Path, kind: str) -> list[str]:
    return [event["detail"] for event in Run(run).events().to_pylist() if event["kind"] == kind]


def trained(folder: Path, watched: dict[str, Any] | None = None, **settings: Any) -> Any:
    made = tiny_trl.trainer(folder, **settings)
    if watched is not None:
        attach(made, folder / "run", **watched)
    made.train()
    return made


@pytest.mark.parametrize(
    "settings", [{}, REUSED, SPLIT, ACCUMULATED], ids=["default", "reused", "split", "accumulated"]
)
def test_a_watched_training_is_bit_for_bit_the_unwatched_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain = trained(tmp_path / "plain", **settings)
    left = torch.get_rng_state()
    watched = trained(tmp_path / "watched", {"llds": "auto"}, **settings)
    assert torch.equal(torch.get_rng_state(), left), "the random stream is where it was"
    assert torch.equal(tiny_trl.weights(plain), tiny_trl.weights(watched))
    assert tiny_trl.losses(plain) == tiny_trl.losses(watched)
    assert not events(tmp_path / "watched" / "run", "error")


class Ill(CollapseDetector):
    """Says that the run has collapsed from the second step on, whatever it sees."""

    def fresh(self) -> Ill:
        return Ill(self.settings)

    def fold(self, observation: Observation) -> Verdict:
        verdict = super().fold(observation)
        return verdict._replace(stage=self.diagnosis.stage)

    @property
    def diagnosis(self) -> Diagnosis:
        seen = super().diagnosis
        return dataclasses.replace(seen, stage=Stage.COLLAPSE) if (seen.step or 0) >= 2 else seen


def test_with_alerts_on_the_training_is_bit_for_bit_the_unwatched_one(tmp_path: Path) -> None:
    free, got = threading.Event(), []

    def hanging(alert: Alert) -> None:
        got.append(alert)
        free.wait(60)

    def raising(alert: Alert) -> None:
        raise RuntimeError("no network")

    plain = trained(tmp_path / "plain", **REUSED)
    made = tiny_trl.trainer(tmp_path / "watched", **REUSED)
    channels = [hanging, raising, Command("true"), Command("false")]
    monitor = attach(made, tmp_path / "watched" / "run", llds="auto", detector=Ill(), alerts=channels)
    made.train()
    free.set()
    assert torch.equal(tiny_trl.weights(plain), tiny_trl.weights(made))
    assert tiny_trl.losses(plain) == tiny_trl.losses(made)
    assert [alert.stage for alert in got] == [Stage.COLLAPSE]
    assert len(events(tmp_path / "watched" / "run", "alert")) == 4
    assert not monitor.should_stop
    assert not events(tmp_path / "watched" / "run", "error")


def test_a_collapse_stops_the_trainer_after_it_has_saved_if_it_is_asked_to(tmp_path: Path) -> None:
    made = tiny_trl.trainer(tmp_path, max_steps=6)
    attach(made, tmp_path / "run", detector=Ill(), stop_on="collapse")
    made.train()
    assert made.state.global_step == 2
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file()
    run = Run(tmp_path / "run")
    assert [step.step for step in run.observations()] == [1, 2]
    assert run.ended
    assert len(events(tmp_path / "run", "stop")) == 1
    assert not events(tmp_path / "run", "error")


def test_nobody_stops_a_trainer_that_was_not_asked_to(tmp_path: Path) -> None:
    done = trained(tmp_path, {"detector": Ill()})
    assert done.state.global_step == 4
    assert not list(tmp_path.glob("checkpoint-*"))


def test_what_is_recorded_is_what_trl_logs(tmp_path: Path) -> None:
    done = trained(tmp_path, {})
    run = Run(tmp_path / "run")
    logged = [entry for entry in done.state.log_history if "loss" in entry]
    steps = run.observations()
    assert [step.step for step in steps] == [1, 2, 3, 4]
    for step, entry in zip(steps, logged, strict=True):
        assert step.reward == pytest.approx(entry["reward"])
        assert step.grad_norm == pytest.approx(entry["grad_norm"])
        assert step.learning_rate == pytest.approx(entry["learning_rate"])
        assert step.loss == pytest.approx(entry["loss"], abs=1e-4), "older ones round it"
        assert (step.updates, step.updates_per_batch) == (1, 1)
        if "entropy" in entry:
            assert step.entropy == pytest.approx(entry["entropy"], rel=0.2), "per response here, per token there"
            assert step.truncated_share == pytest.approx(entry["completions/clipped_ratio"])
    rows = run.responses()
    assert len(rows) == 4 * 8
    assert len(set(rows["uid"].to_pylist())) == 4 * 8
    groups = rows["group"].to_numpy()
    assert len(set(groups)) == 4 * 2
    for group in set(groups):
        rewards, advantages = (rows[name].to_numpy()[groups == group] for name in ("reward", "advantage"))
        assert len(rewards) == 4
        assert np.corrcoef(rewards, advantages)[0, 1] > 0.99 if np.ptp(rewards) else not advantages.any()
    assert not events(tmp_path / "run", "error")


def test_the_rows_belong_to_the_texts(tmp_path: Path) -> None:
    """Through TRL's shuffling: the reward of each response is that of the tokens it was recorded with."""
    made = tiny_trl.trainer(tmp_path, **SPLIT)
    monitor = attach(made, tmp_path / "run")
    seen: dict[int, tuple[float, int]] = {}
    inner = made.compute_loss

    def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        texts = made.processing_class.batch_decode(inputs["completion_ids"], skip_special_tokens=True)
        told = zip(
            inputs["lldwatch_uid"].tolist(), tiny_trl.reward(texts), inputs["completion_mask"].sum(1), strict=True
        )
        seen.update({uid: (reward, int(length)) for uid, reward, length in told})
        return inner(model, inputs, *args, **kwargs)

    made.compute_loss = compute_loss
    made.train()
    assert monitor.dropped_steps == 0
    rows = Run(tmp_path / "run").responses().to_pylist()
    assert len(rows) == 16
    assert {row["uid"]: (row["reward"], row["tokens"]) for row in rows} == seen


def test_a_step_is_a_rollout_batch_with_all_its_updates(tmp_path: Path) -> None:
    trained(tmp_path, {}, **SPLIT, max_steps=8)
    steps = Run(tmp_path / "run").observations()
    assert [(step.step, step.updates, step.responses) for step in steps] == [(4, 4, 16), (8, 4, 16)]
    assert steps[1].cross_update_change is not None
    changes = Run(tmp_path / "run").responses().to_pylist()
    moved = {
        update: max(abs(r["log_prob"] - r["old_log_prob"]) for r in changes if r["update"] == update)
        for update in range(4)
    }
    assert moved[0] == 0
    assert min(moved[1], moved[2], moved[3]) > 1e-3


def test_micro_batches_are_one_update(tmp_path: Path) -> None:
    done = trained(tmp_path, {}, **ACCUMULATED, max_steps=2)
    steps = Run(tmp_path / "run").observations()
    assert [(step.step, step.updates, step.responses) for step in steps] == [(1, 1, 16), (2, 1, 16)]
    for step, (loss, norm) in zip(steps, tiny_trl.losses(done), strict=True):
        assert step.loss == pytest.approx(loss, abs=1e-4)
        assert step.grad_norm == pytest.approx(norm)


def test_with_a_reference_model_the_kl_is_recorded(tmp_path: Path) -> None:
    made = tiny_trl.tokenizer()
    tiny_trl.model(len(made)).save_pretrained(tmp_path / "base")
    made.save_pretrained(tmp_path / "base")
    done = trained(tmp_path / "out", {}, model=str(tmp_path / "base"), beta=0.1, **REUSED)
    steps = Run(tmp_path / "out" / "run").observations()
    logged = [entry["kl"] for entry in done.state.log_history if "kl" in entry]
    assert [step.updates for step in steps] == [2, 2]
    assert [step.kl for step in steps] == pytest.approx([sum(logged[:2]) / 2, sum(logged[2:]) / 2], rel=1e-4)
    assert not events(tmp_path / "out" / "run", "error")


def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Two turns of the policy with tool feedback between them, written without a model."""
    encode = trainer.processing_class.encode
    first, tool, last = encode("abc"), encode("x9x9"), encode("de")
    answers = [first + tool + (last if number % 2 else encode("zz")) + [1] for number, _ in enumerate(prompts)]
    mask = [[1] * len(first) + [0] * len(tool) + [1] * (len(ids) - len(first) - len(tool)) for ids in answers]
    asked = [encode(prompt) for prompt in prompts]
    return {"prompt_ids": asked, "completion_ids": answers, "logprobs": None, "env_mask": mask}


def test_tool_feedback_is_not_the_policys(tmp_path: Path) -> None:
    try:
        done = trained(tmp_path, {}, rollout_func=rollout, max_steps=2)
    except TypeError:
        pytest.skip("this TRL has no rollout_func")
    except (KeyError, ValueError, AttributeError) as error:
        pytest.skip(f"rollout_func without vLLM is not for this TRL: {error}")
    assert "tool_mask" in done._buffered_inputs[0]
    rows = Run(tmp_path / "run").responses()
    assert set(rows["actions"].to_pylist()) == {2}
    assert set(rows["tokens"].to_pylist()) == {3 + 2 + 1}
    assert set(rows["first_action_tokens"].to_pylist()) == {3}


@pytest.mark.parametrize("reference", ["old", "lagged", "replay", "both"])
def test_llds_acts_on_reused_batches_and_is_recorded(tmp_path: Path, reference: str) -> None:
    plain = trained(tmp_path / "plain", **REUSED, **FALLING)
    watched = {"llds": Correct(mode="on", strength=4.0), "reference": reference, "lag": 1}
    corrected = trained(tmp_path / "on", watched, **REUSED, **FALLING)
    assert not torch.equal(tiny_trl.weights(plain), tiny_trl.weights(corrected))
    steps = Run(tmp_path / "on" / "run").observations()
    assert {step.llds_coefficient for step in steps} == {4.0}
    assert any((step.llds_loss or 0) > 0 for step in steps)
    assert not events(tmp_path / "on" / "run", "error")
    told = " ".join(events(tmp_path / "on" / "run", "attach"))
    assert f"LLDS on, strength 4, reference '{reference}'" in told
    assert ("forward pass" in told or "scored with gradient" in told) == (reference != "old"), "what it costs is said"


def test_where_llds_cannot_act_that_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = trained(tmp_path / "plain")
    inert = trained(tmp_path / "on", {"llds": "on", "reference": "old"})
    assert torch.equal(tiny_trl.weights(plain), tiny_trl.weights(inert))
    said = capsys.readouterr().err
    assert "each rollout batch is used for one update" in said
    assert "num_iterations" in said
    assert any("LLDS has no effect" in words for words in events(tmp_path / "on" / "run", "llds"))


def test_replay_acts_where_each_batch_is_used_once(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", **FALLING)
    corrected = trained(tmp_path / "on", {"llds": Correct(mode="on", strength=4.0)}, **FALLING)
    assert not torch.equal(tiny_trl.weights(plain), tiny_trl.weights(corrected))
    assert any((step.llds_loss or 0) > 0 for step in Run(tmp_path / "on" / "run").observations())


def test_llds_is_the_same_for_any_number_of_micro_batches(tmp_path: Path) -> None:
    """With TRL's own normaliser, as far as TRL's loss itself is; older ones average over each micro-batch."""
    grown = {"llds": Correct(mode="on", strength=4.0), "reference": "old"}
    shape = REUSED | FALLING | {"shuffle_dataset": False}
    trained(tmp_path / "whole", grown, per_device_train_batch_size=16, **shape)
    parts = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    split = trained(tmp_path / "split", grown, **parts, **shape)
    if find_seams(split).scales_loss:
        pytest.skip("this TRL's own loss depends on the micro-batches")
    one, other = (Run(tmp_path / name / "run").observations() for name in ("whole", "split"))
    assert any((step.llds_loss or 0) > 0 for step in one)
    assert [step.loss for step in other] == pytest.approx([step.loss for step in one], rel=1e-3, abs=1e-6)
    assert [step.grad_norm for step in other] == pytest.approx([step.grad_norm for step in one], rel=1e-3)


def test_an_evaluation_is_not_a_step(tmp_path: Path) -> None:
    from datasets import Dataset

    made = Dataset.from_dict({"prompt": ["1+1=", "2+2=", "3+3=", "4+4="]})
    evaluated = {"eval_dataset": made, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
    done = trained(tmp_path, {}, **evaluated, max_steps=2)
    assert any("eval_loss" in entry for entry in done.state.log_history)
    assert not any("lldwatch/stage" in entry for entry in done.state.log_history if "eval_loss" in entry)
    assert len(Run(tmp_path / "run").responses()) == 2 * 8


def test_stage_and_signals_go_to_the_trainers_own_log(tmp_path: Path) -> None:
    done = trained(tmp_path, {})
    entries = [entry for entry in done.state.log_history if "loss" in entry]
    assert all(entry["lldwatch/stage"] == 0 for entry in entries)
    assert all("lldwatch/zero_advantage_share" in entry for entry in entries)
    assert not any("lldwatch/stage" in entry for entry in done.state.log_history if "train_runtime" in entry)


def test_a_resumed_training_goes_on_with_its_run(tmp_path: Path) -> None:
    saved = {"save_strategy": "steps", "save_steps": 2}
    trained(tmp_path, {"llds": "auto"}, **saved, max_steps=4)
    assert (tmp_path / "checkpoint-4" / "lldwatch-rank0.pt").is_file()
    with pytest.raises(RunExistsError, match="resume"):
        attach(tiny_trl.trainer(tmp_path, **saved), tmp_path / "run")
    again = tiny_trl.trainer(tmp_path, **saved, max_steps=6)
    attach(again, tmp_path / "run", llds="auto", resume=True)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    run = Run(tmp_path / "run")
    assert [step.step for step in run.observations()] == [1, 2, 3, 4, 5, 6]
    assert run.info.attempt == 1
    uids = run.responses()["uid"].to_pylist()
    assert len(uids) == len(set(uids)) == 6 * 8
    assert not events(tmp_path / "run", "error")


def test_two_processes_are_one_run(tmp_path: Path) -> None:
    script = Path(__file__).with_name("child_trl.py")
    for name in ("plain", "watched"):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "torch.distributed.run",
            "--nproc_per_node=2",
            "--master_port=0",
        ]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script), str(tmp_path / name), name]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-3000:]
    plain, watched = (torch.load(tmp_path / name / "weights.pt") for name in ("plain", "watched"))
    assert torch.equal(plain, watched)
    run = Run(tmp_path / "watched" / "run")
    steps = run.observations()
    assert [(step.step, step.updates, step.responses) for step in steps] == [(2, 2, 8), (4, 2, 8)]
    rows = run.responses().to_pylist()
    assert len({row["uid"] for row in rows}) == 16
    of_group: dict[int, int] = {}
    for _, group in {(row["uid"], row["group"]) for row in rows}:
        of_group[group] = of_group.get(group, 0) + 1
    assert set(of_group.values()) == {4}, "a group may be spread over the ranks"
    assert not events(tmp_path / "watched" / "run", "error")


def test_what_is_no_grpo_trainer_is_refused_in_one_line(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    other = Trainer(model=tiny_trl.model(43), args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    with pytest.raises(InputError, match="Trainer has neither _get_per_token_logps_and_entropies nor _get_per_token"):
        attach(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_method_that_is_gone_is_named_and_the_rest_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trl import GRPOTrainer

    class Renamed(GRPOTrainer):  # type: ignore[misc]
        """As in a version that calls it otherwise."""

        def __getattribute__(self, name: str) -> Any:
            if name == "_calculate_rewards" and object.__getattribute__(self, "__dict__").get("hidden", False):
                raise AttributeError(name)
            return super().__getattribute__(name)

    made = tiny_trl.trainer(tmp_path, Renamed)
    made.hidden = True
    attach(made, tmp_path / "run")
    made.hidden = False
    made.train()
    assert "no _calculate_rewards: the rewards of responses are not recorded" in capsys.readouterr().err
    steps = Run(tmp_path / "run").observations()
    assert len(steps) == 4
    assert all(step.grad_norm is not None and step.responses == 8 for step in steps)


def test_a_loss_of_its_own_is_told_and_the_training_goes_on(tmp_path: Path) -> None:
    from trl import GRPOTrainer

    class Fused(GRPOTrainer):  # type: ignore[misc]
        """Computes a loss without asking for log-probs where they can be seen, as a fused kernel does."""

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            return model(input_ids=inputs["completion_ids"]).logits.float().square().mean()

    trained(tmp_path, {}, kind=Fused)
    said = events(tmp_path / "run", "error")
    assert "was not called: no log-probs to be read" in said[0]
    assert len(said) == 2, "said once, and once more when it is given up"
    steps = Run(tmp_path / "run").observations()
    assert len(steps) == 4
    assert all(step.grad_norm is not None for step in steps)


def test_a_fused_loss_is_watched_by_scoring_once_more_and_refuses_llds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for TRL before 1.14 with Liger, whose kernel needs a GPU: the same attributes, the same way around."""
    from trl import GRPOTrainer

    class Liger(GRPOTrainer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.use_liger_loss = True

        def compute_liger_loss(self, model: Any, inputs: Any) -> Any:
            return model(input_ids=inputs["completion_ids"]).logits.float().square().mean()

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return self.compute_liger_loss(model, inputs)

    with pytest.raises(InputError, match="LLDS cannot be added: set use_liger_kernel=False"):
        attach(tiny_trl.trainer(tmp_path, Liger), tmp_path / "run", llds="on")
    trained(tmp_path, {}, kind=Liger)
    assert "use_liger_kernel" in capsys.readouterr().err
    run = Run(tmp_path / "run")
    assert len(run.responses()) == 4 * 8
    assert all(step.reward is not None and step.log_prob_correct is not None for step in run.observations())
    assert not events(tmp_path / "run", "error")


@pytest.mark.parametrize("broken", ["per_response", "held"])
def test_what_breaks_in_lldwatch_does_not_break_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from lldwatch.integrations import trl_fields, trl_watch

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("made to fail")

    plain = trained(tmp_path / "plain")
    monkeypatch.setattr(*((trl_watch, "per_response") if broken == "per_response" else (trl_fields, "rollout")), fails)
    watched = trained(tmp_path / "watched", {"llds": "auto"})
    assert torch.equal(tiny_trl.weights(plain), tiny_trl.weights(watched))
    said = events(tmp_path / "watched" / "run", "error")
    assert "made to fail" in said[0]
    assert "Traceback" in said[0]
    assert len(Run(tmp_path / "watched" / "run").observations()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": "new"}, "reference='new': expected one of old, lagged, replay, both"),
        ({"llds": "sometimes"}, "llds='sometimes'"),
        ({"probes": "all"}, "preset='all'"),
        ({"replay_share": 0}, "replay_share=0"),
    ],
)
def test_a_wrong_argument_leaves_no_run_behind(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        attach(tiny_trl.trainer(tmp_path), tmp_path / "run", **arguments)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_passes_within_one_update_count_each_response_once(tmp_path: Path) -> None:
    twice = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "steps_per_generation": 2}
    trained(tmp_path, {}, num_iterations=2, max_steps=2, **twice)
    steps = Run(tmp_path / "run").observations()
    assert [(step.step, step.updates, step.responses) for step in steps] == [(1, 1, 8), (2, 1, 8)]
    assert not events(tmp_path / "run", "error")


def test_a_second_training_of_the_same_trainer_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = trained(tmp_path, {"llds": Correct(mode="on", strength=4.0)}, max_steps=2)
    done.train()
    assert "trains again, unwatched" in capsys.readouterr().err
    assert [step.step for step in Run(tmp_path / "run").observations()] == [1, 2]


def test_dropout_is_told_of_where_llds_is_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tiny_trl.trainer(tmp_path)
    made.model.lm_head = torch.nn.Sequential(torch.nn.Dropout(0.2), made.model.lm_head)
    attach(made, tmp_path / "run", llds="auto").close()
    assert "dropout of 0.2 is noise to LLDS" in capsys.readouterr().err
