from __future__ import annotations

from pathlib import Path

import pytest
from texts import FOREIGN, about, auto, column, put, read, told

from lldwatch.importers.swift import FORMAT

ROW = (
    '{"loss": 1e-08, "grad_norm": 1.25, "learning_rate": 1e-06, "completions/mean_length": 10.5, "reward": 0.625, '
    '"reward_std": NaN, "frac_reward_zero_std": 0.25, "entropy/mean": 3.75, "entropy/max": 3.8, "kl": 0.01, '
    '"clip_ratio/region_mean": 0.02, "rollout_correction/kl": 0.003, "num_turns": 2.5, "epoch": 0.1, '
    '"global_step/max_steps": "5/3766", "elapsed_time": "1s", "memory(GiB)": 41.5, "train_speed(s/it)": 0.56}\n'
)


def test_a_row(tmp_path: Path) -> None:
    name, why, [step], tally = auto(put(tmp_path, ROW, "logging.jsonl"))
    assert (name, why) == ("swift", 'its first row has "global_step/max_steps": "5/3766"')
    assert repr(step.observation.reward_std) == "nan"
    assert {name: value for name, value in told(step).items() if name != "reward_std"} == {
        "step": 5, "loss": 1e-08, "grad_norm": 1.25, "learning_rate": 1e-06, "response_length": 10.5, "reward": 0.625,
        "zero_advantage_share": 0.25, "entropy": 3.75, "kl": 0.01, "clip_fraction": 0.02, "rollout_kl": 0.003,
        "actions": 2.5,
    }  # fmt: skip
    assert list(tally.unmapped) == ["entropy/max", "epoch", "memory(GiB)", "train_speed(s/it)"]


def test_the_console_prints_the_same(tmp_path: Path) -> None:
    python = "Train:   0%|   | 4/3766 [00:00<00:22]" + ROW.replace('"', "'").replace("NaN", "nan")
    name, _, [step], _ = auto(put(tmp_path, "[INFO:swift] args\n" + python))
    assert (name, told(step)["step"], told(step)["entropy"]) == ("swift", 5, 3.75)


def test_megatron_counts_iterations(tmp_path: Path) -> None:
    text = ROW.replace('"global_step/max_steps"', '"iteration"')
    assert column(read(FORMAT, put(tmp_path, text))[0], "step") == [5]


def test_what_is_no_row_is_counted(tmp_path: Path) -> None:
    evaluation = '{"eval_loss": 0.1, "eval_reward": 0.9, "global_step/max_steps": "5/3766"}\n'
    end = '{"train_runtime": 6.1, "train_loss": -0.001, "global_step/max_steps": "40/40"}\n'
    history = '{"log_history": [{"loss": 1}]}\n'
    steps, tally = read(FORMAT, put(tmp_path, ROW + evaluation + end + history + ROW[:-30]))
    assert column(steps, "step") == [5]
    assert tally.reasons == [
        "1 x summary of the training, or evaluation (first: line 2)",
        "2 x row that breaks off, or has no step (first: line 4)",
    ]


def test_runs_and_resumptions(tmp_path: Path) -> None:
    def rows(*steps: int) -> str:
        return "".join(ROW.replace('"5/', f'"{step}/') for step in steps)

    steps, _ = read(FORMAT, put(tmp_path, rows(1, 2, 3, 4, 3, 4) + rows(1, 2)))
    assert [(s.run, s.attempt, s.observation.step) for s in steps][3:] == [
        ("", 0, 4), ("", 1, 3), ("", 1, 4), ("run-2", 0, 1), ("run-2", 0, 2),
    ]  # fmt: skip


def test_the_planned_steps(tmp_path: Path) -> None:
    assert about(FORMAT, put(tmp_path, ROW)) == {"planned_steps": 3766}


@pytest.mark.parametrize(("file", "digits"), [("logging.jsonl", 6), ("console.log", 3)])
def test_logs_that_swift_wrote(file: str, digits: int) -> None:
    name, _, steps, tally = auto(FOREIGN / "swift" / file)
    assert (name, column(steps, "step")) == ("swift", list(range(1, 41)))
    assert column(steps, "entropy")[0] == pytest.approx(3.75305009, rel=10.0 ** (1 - digits))
    assert column(steps, "reward")[:3] == [0.625, None, None]
    assert set(tally.dropped) <= {"summary of the training, or evaluation", "row that breaks off, or has no step"}
