from __future__ import annotations

from pathlib import Path

from texts import FOREIGN, NOISE, auto, column, put, read, told

from lldwatch.importers.openrlhf import FORMAT

ROW = (
    "\x1b[36m(PPOTrainer pid=3431)\x1b[0m INFO 11-26 05:43:42 ppo_trainer.py:551] ✨ Global step 12: {'kl': 0.01, "
    "'policy_loss': -0.0842, 'ppo_clip_ratio': 0.0141, 'ppo_kl': 0.0001, 'reward': 0.5, 'return': -0.1, "
    "'logprobs_diff': 0.02, 'entropy_loss': 0.266, 'actor_lr': 7.5e-05, 'actor_grad_norm': 0.19, 'vllm_kl': 0.002, "
    "'response_length': 25.0, 'total_length': 60.0, 'group_reward_std': 0.3, 'rollout/reward_mean': 0.52, "
    "'rollout/reward_std': 0.5039, 'rollout/response_length_mean': 25.5, 'rollout/truncated_rate': 0.25, "
    "'rollout/num_samples': 60.0, 'timing/step_total': 12.5}\n"
)


def test_a_row(tmp_path: Path) -> None:
    [step], tally = read(FORMAT, put(tmp_path, ROW))
    assert told(step) == {
        "step": 12, "kl": 0.01, "loss": -0.0842, "clip_fraction": 0.0141, "reward": 0.52, "reward_std": 0.5039,
        "entropy": 0.266, "learning_rate": 7.5e-05, "grad_norm": 0.19, "rollout_kl": 0.002, "response_length": 25.5,
        "truncated_share": 0.25, "responses": 60,
    }  # fmt: skip
    assert list(tally.unmapped) == [
        "ppo_kl", "return", "logprobs_diff", "total_length", "group_reward_std", "timing/step_total",
    ]  # fmt: skip


def test_older_rows_have_fewer_names(tmp_path: Path) -> None:
    text = "Global step 1: {'reward': 0.5, 'response_length': 20.0, 'response_clip_ratio': 0.1, 'kl': 0.1}\n"
    [step], _ = read(FORMAT, put(tmp_path, text))
    assert told(step) == {"step": 1, "reward": 0.5, "response_length": 20, "truncated_share": 0.1, "kl": 0.1}


def test_a_kl_of_zero_was_not_measured(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, "Global step 1: {'reward': 0.5, 'kl': 0.0, 'logprobs_diff': 0.0}\n"))
    assert column(steps, "kl") == [None]
    assert tally.notes == ["kl is 0 where OpenRLHF has no reference policy: no KL divergence was measured"]
    assert column(read(FORMAT, put(tmp_path, "Global step 1: {'kl': 0.0, 'logprobs_diff': 0.1}\n"))[0], "kl") == [0.0]


def test_rows_between_noise_runs_resumptions_and_a_row_that_breaks_off(tmp_path: Path) -> None:
    def rows(*steps: int) -> str:
        return "".join(NOISE + ROW.replace("step 12:", f"step {step}:") for step in steps)

    steps, tally = read(FORMAT, put(tmp_path, rows(1, 2, 3, 4, 3, 4) + rows(1, 2) + ROW[:-40]))
    assert [(s.run, s.attempt, s.observation.step) for s in steps][3:] == [
        ("", 0, 4), ("", 1, 3), ("", 1, 4), ("run-2", 0, 1), ("run-2", 0, 2),
    ]  # fmt: skip
    assert tally.reasons == ["1 x row that breaks off (first: line 17)"]


def test_a_log_as_openrlhf_writes_it() -> None:
    name, why, steps, tally = auto(FOREIGN / "openrlhf" / "console.log")
    assert (name, column(steps, "step"), tally.dropped) == ("openrlhf", list(range(1, 49)), {})
    assert ' reads "(PPOTrainer pid=' in why
    assert (column(steps, "reward")[0], column(steps, "responses")[0], column(steps, "kl")[0]) == (0.516667, 60, None)
