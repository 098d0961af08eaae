from __future__ import annotations

from pathlib import Path

from texts import FOREIGN, NOISE, auto, column, put, read, told

from lldwatch.importers.slime import FORMAT

TRAINER = "\x1b[36m(MegatronTrainRayActor pid=4712)\x1b[0m [2026-01-01 12:00:00]"


def rollout(number: int, reward: float = 0.5) -> str:
    values = f"'rollout/response_lengths': 25.5, 'rollout/rewards': 0.0, 'rollout/raw_reward': {reward}"
    return f"{TRAINER} data.py:135 - rollout {number}: {{{values}, 'rollout/kl': 0.0}}\n"


def generated(number: int, length: float = 20.5) -> str:
    values = f"'rollout/response_len/mean': {length}, 'rollout/truncated_ratio': 0.25"
    values = f"{{{values}, 'perf/rollout_time': np.float64(3.1)}}"
    return f"(RolloutManager pid=4711) [2026-01-01 12:00:00] rollout.py:268 - perf {number}: {values}\n"


def update(number: int, norm: float = 0.5, entropy: float = 0.25, rate: float = 1e-6) -> str:
    values = (
        f"{{'train/loss': -0.08, 'train/pg_loss': -0.09, 'train/entropy_loss': {entropy}, 'train/pg_clipfrac': 0.01, "
        f"'train/ppo_kl': 1e-05, 'train/kl_loss': 0.002, 'train/train_rollout_logprob_abs_diff': 0.01, "
        f"'train/grad_norm': {norm}, 'train/lr-pg_0': {rate}, 'train/lr-pg_1': {rate}, 'train/step': {number}}}"
    )
    return f"{TRAINER} model.py:918 - step {number}: {values}\n"


def test_a_rollout_and_its_updates(tmp_path: Path) -> None:
    text = generated(3) + rollout(3) + update(6, 0.5, 0.25) + update(7, 0.0, 0.75, 2e-6)
    [step], tally = read(FORMAT, put(tmp_path, text))
    assert told(step) == {
        "step": 3, "updates": 2, "reward": 0.5, "response_length": 20.5, "truncated_share": 0.25, "loss": -0.08,
        "entropy": 0.5, "clip_fraction": 0.01, "kl": 0.002, "grad_norm": 0.25, "grad_norm_max": 0.5,
        "zero_gradient_updates": 1, "learning_rate": 2e-06,
    }  # fmt: skip
    assert list(tally.unmapped) == [
        "perf/rollout_time", "rollout/rewards", "train/ppo_kl", "train/train_rollout_logprob_abs_diff", "train/lr-pg_1",
    ]  # fmt: skip


def test_generation_goes_on_while_training(tmp_path: Path) -> None:
    text = generated(0, 10.0) + rollout(0, 0.1) + generated(1, 11.0) + update(0) + rollout(1, 0.2) + generated(2, 12.0)
    steps, _ = read(FORMAT, put(tmp_path, text + update(1)))
    assert (column(steps, "step"), column(steps, "reward")) == ([0, 1], [0.1, 0.2])
    assert (column(steps, "response_length"), column(steps, "grad_norm")) == ([10, 11], [0.5, 0.5])


def test_updates_alone_are_the_steps(tmp_path: Path) -> None:
    steps, _ = read(FORMAT, put(tmp_path, update(0) + NOISE + update(1, 0.75)))
    assert (column(steps, "step"), column(steps, "grad_norm")) == ([0, 1], [0.5, 0.75])


def test_a_line_that_ray_repeats_is_one_update(tmp_path: Path) -> None:
    [step], _ = read(FORMAT, put(tmp_path, rollout(0) + update(0) + update(0)))
    assert step.observation.updates == 1


def test_updates_of_the_critic_are_not_the_policys(tmp_path: Path) -> None:
    critic = update(0, 9.0).replace(" - step 0:", " - critic-step 0:")
    [step], _ = read(FORMAT, put(tmp_path, rollout(0) + critic + update(0, 0.5)))
    assert (step.observation.updates, step.observation.grad_norm) == (1, 0.5)


def test_many_generations_without_training_are_forgotten(tmp_path: Path) -> None:
    text = rollout(0) + "".join(generated(number) for number in range(1, 500)) + update(0) + rollout(499) + update(1)
    steps, _ = read(FORMAT, put(tmp_path, text))
    assert (column(steps, "step"), column(steps, "response_length")) == ([0, 499], [25.5, 20.5])


def test_nan_resumption_another_run_and_a_row_that_breaks_off(tmp_path: Path) -> None:
    text = "".join(rollout(n) + update(n, float("nan")) for n in (0, 1, 2, 3, 2, 3, 0, 1)) + rollout(2)[:-30]
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert [(s.run, s.attempt, s.observation.step) for s in steps][3:] == [
        ("", 0, 3), ("", 1, 2), ("", 1, 3), ("run-2", 0, 0), ("run-2", 0, 1),
    ]  # fmt: skip
    assert {repr(value) for value in column(steps, "grad_norm") + column(steps, "grad_norm_max")} == {"nan"}
    assert tally.reasons == ["1 x row that breaks off (first: line 17)"]


def test_a_log_as_slime_writes_it() -> None:
    name, _, steps, tally = auto(FOREIGN / "slime" / "console.log")
    assert (name, column(steps, "step"), tally.dropped) == ("slime", list(range(48)), {})
    assert (column(steps, "reward")[0], column(steps, "updates")[0], column(steps, "entropy")[0]) == (
        0.516667,
        1,
        0.265981,
    )
