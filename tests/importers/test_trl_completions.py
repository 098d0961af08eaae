from __future__ import annotations

import math
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from row_files import COMPLETIONS, column, imported, parquet, state

from lldwatch.errors import InputError
from lldwatch.importers.job import import_logs

SAMPLE = Path(__file__).parents[2] / "sample_logs/foreign/trl"


def test_rows_stand_beside_the_metrics_of_their_step(tmp_path: Path) -> None:
    state(tmp_path / "out/checkpoint-2", [{"step": 1, "reward": 9.0, "loss": 0.5}, {"step": 2, "reward": 8.0}])
    parquet(tmp_path / "out", 1)
    parquet(tmp_path / "out", 2, completion=["a", "b", "c", "d"])
    run, account = imported(tmp_path / "out", tmp_path)
    rows = run.responses()
    assert rows["step"].to_pylist() == [1] * 4 + [2] * 4
    assert rows["uid"].to_pylist() == list(range(8))
    assert rows["reward"].to_pylist() == [1.5, 0.0, 1.0, 0.0] * 2
    assert rows["correct"].to_pylist() == [True, False] * 4
    assert rows["advantage"].to_pylist() == pytest.approx([0.7, -0.7] * 4)
    assert rows["tokens"].null_count == 8
    group = rows["group"].to_pylist()
    assert group[0] == group[1] == group[4] != group[2] == group[3] == group[7]
    first, second = run.observations()
    assert (first.reward, second.reward) == (9.0, 8.0)  # TRL's own knows the weights
    assert (first.responses, first.correct_share, first.zero_advantage_share) == (4, 0.5, 0.0)
    assert first.loss == 0.5
    assert any("sum of right, short, with weight 1" in note for note in account.tally.notes)
    assert any("prompt and completion" in note for note in account.tally.notes)


def test_every_number_of_a_real_training_is_there(tmp_path: Path) -> None:
    run, account = imported(SAMPLE, tmp_path)
    assert account.format == "trl-state"
    assert account.tables == {"responses": 240}
    observations = {row.step: row for row in run.observations()}
    assert sorted(observations) == list(range(1, 31))
    for step, observation in observations.items():
        table = pq.read_table(SAMPLE / f"completions/completions_{step:05d}.parquet").to_pydict()
        rewards = [a + b for a, b in zip(table["letters"], table["short"], strict=True)]
        assert column(run, "reward", step) == pytest.approx(rewards)
        assert column(run, "advantage", step) == pytest.approx(table["advantage"])
        assert column(run, "correct", step) == [reward > 0 for reward in rewards]
        assert len(set(column(run, "group", step))) == len(set(table["prompt"]))
        assert observation.reward == pytest.approx(sum(rewards) / 8, rel=1e-5)
    assert any("the advantages agree" in note for note in account.tally.notes)


def test_a_batch_that_is_used_again_has_its_rows_once(tmp_path: Path) -> None:
    state(tmp_path / "out", [{"step": 1, "reward": 0.6}, {"step": 2, "loss": 0.1}, {"step": 3, "reward": 0.6}])
    for step in (1, 2, 3):
        parquet(tmp_path / "out", step)
    run, account = imported(tmp_path / "out", tmp_path)
    # step 3 has a reward, so its answers are new, even if a collapsed policy wrote the same words
    assert column(run, "step") == [1] * 4 + [3] * 4
    assert [row.responses for row in run.observations()] == [4, None, 4]
    assert [row.reward for row in run.observations()] == pytest.approx([0.6, None, 0.6])
    assert any("used again" in reason for reason in account.tally.dropped)
    assert account.tally.dropped[next(iter(account.tally.dropped))] == (4, "step 2")


def test_without_metrics_equal_files_are_one_batch(tmp_path: Path) -> None:
    for step in (1, 2, 5):
        parquet(tmp_path / "out", step)
    parquet(tmp_path / "out", 7, completion=["2", "3", "4", "6"])
    run, account = imported(tmp_path / "out", tmp_path)
    assert column(run, "step") == [1] * 4 + [7]  # three of the four are those of step 5
    assert sum(count for count, _ in account.tally.dropped.values()) == 11


def test_rewards_whose_sum_was_not_trained_on_are_left_out(tmp_path: Path) -> None:
    """With weights 1 and 10 the second answer was the better one."""
    parquet(tmp_path / "out", 1, right=[1.0, 0.0, 1.0, 0.0], short=[0.0, 0.5, 0.0, 0.5], advantage=[-0.7, 0.7] * 2)
    run, account = imported(tmp_path / "out", tmp_path)
    assert column(run, "reward") == [None] * 4
    assert column(run, "correct") == [False, True, False, True]
    assert next(iter(run.observations())).reward is None
    assert any("reward_weights" in note for note in account.tally.notes)


def test_a_column_of_the_users_own_that_is_no_reward(tmp_path: Path) -> None:
    parquet(tmp_path / "out", 1, difficulty=[3, 7, 2, 9], language=["en", "de", "en", "fr"])
    run, account = imported(tmp_path / "out", tmp_path)
    assert column(run, "reward") == [None] * 4
    assert any("language: not used" in note for note in account.tally.notes)


def test_one_reward_function_needs_no_proof(tmp_path: Path) -> None:
    parquet(tmp_path / "out", 1, short=None, advantage=[0.0] * 4)
    run, account = imported(tmp_path / "out", tmp_path)
    assert column(run, "reward") == [1.0, 0.0, 1.0, 0.0]
    assert any("the reward of a response is right" in note for note in account.tally.notes)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7])
def test_groups_of_any_size_are_told_by_their_prompt(tmp_path: Path, size: int) -> None:
    prompts = ["a"] * size + ["b"] * size + ["c"] * 2
    number = len(prompts)
    columns = {"prompt": prompts, "completion": [str(i) for i in range(number)], "advantage": [0.0] * number}
    parquet(tmp_path / "out", 1, **columns, right=[1.0] * number, short=None)
    run, _ = imported(tmp_path / "out", tmp_path)
    group = column(run, "group")
    assert [group.index(g) for g in group] == [0] * size + [size] * size + [2 * size] * 2


def test_two_groups_of_one_prompt_do_not_hide_that_the_rewards_add_up(tmp_path: Path) -> None:
    columns = {"prompt": ["a"] * 4, "right": [1.0, 0.0, 1.0, 1.0], "short": [0.0, 0.0, 0.0, 0.5]}
    parquet(tmp_path / "out", 1, **columns, advantage=[0.7, -0.7, -0.7, 0.7])
    run, account = imported(tmp_path / "out", tmp_path)
    assert column(run, "reward") == [1.0, 0.0, 1.0, 1.5]
    assert any("the advantages agree" in note for note in account.tally.notes)


def test_rewards_that_are_nan(tmp_path: Path) -> None:
    """A function that did not apply adds nothing; a response that none scored is no part of the update."""
    nan = math.nan
    parquet(tmp_path / "out", 1, right=[nan, 0.0, nan, 1.0], short=[0.5, nan, nan, nan], advantage=[0.7, -0.7, 0, 0])
    run, account = imported(tmp_path / "out", tmp_path)
    assert column(run, "reward") == [0.5, 0.0, 1.0]
    assert account.tally.dropped["response that no reward function scored"] == (1, "step 1")
    assert next(iter(run.observations())).responses == 3


def test_conversations_are_prompts_too(tmp_path: Path) -> None:
    prompts = [[{"role": "user", "content": text}] for text in ("a", "a", "b", "b")]
    parquet(tmp_path / "out", 1, prompt=prompts, completion=[[{"role": "assistant", "content": c}] for c in "2345"])
    run, _ = imported(tmp_path / "out", tmp_path)
    group = column(run, "group")
    assert group[0] == group[1] != group[2] == group[3]


def test_types_that_no_trainer_writes(tmp_path: Path) -> None:
    parquet(tmp_path / "out", 1, right=[True, False, True, False], short=[1, 2, 3, None], advantage=None)
    run, _ = imported(tmp_path / "out", tmp_path)
    assert column(run, "reward") == [2.0, 2.0, 4.0, 0.0]
    assert column(run, "advantage") == [None] * 4


def test_files_that_cannot_be_read_cost_their_own_step(tmp_path: Path) -> None:
    paths = [parquet(tmp_path / "out", step, completion=list(f"{step}bcd")) for step in range(1, 6)]
    paths[1].write_bytes(paths[1].read_bytes()[:700])
    paths[2].write_bytes(b"")
    paths[3].write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    run, account = imported(tmp_path / "out", tmp_path)
    assert sorted(set(column(run, "step"))) == [1, 5]
    assert sum(count for why, (count, _) in account.tally.dropped.items() if "cannot be read" in why) == 3


def test_a_file_that_breaks_after_it_was_recognised(tmp_path: Path) -> None:
    for step in (1, 2):
        parquet(tmp_path / "out", step, completion=list(f"{step}bcd"))
    path = tmp_path / "out/completions/completions_00002.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    run, account = imported(tmp_path / "out", tmp_path)
    assert sorted(set(column(run, "step"))) == [1]
    assert any("cannot be read" in why for why in account.tally.dropped)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    parquet(tmp_path / "out", 1)
    parquet(tmp_path / "out", 2).chmod(0)
    run, account = imported(tmp_path / "out", tmp_path)
    assert sorted(set(column(run, "step"))) == [1]
    assert any("cannot be read" in why for why in account.tally.dropped)


def test_an_empty_table_gives_no_step(tmp_path: Path) -> None:
    path = parquet(tmp_path / "out", 1, **{name: [] for name in COMPLETIONS})
    with pytest.raises(InputError, match="no usable step"):
        import_logs(path, tmp_path / "imported")


def test_one_file_alone(tmp_path: Path) -> None:
    path = parquet(tmp_path / "out", 12)
    run, account = imported(path, tmp_path)
    assert account.format == "trl-completions"
    assert [row.step for row in run.observations()] == [12]
    assert [row.reward for row in run.observations()] == [0.625]
