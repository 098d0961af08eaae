from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from row_files import column, imported, jsonl

from lldwatch.errors import InputError
from lldwatch.hooks import per_response
from lldwatch.importers.job import import_logs
from lldwatch.schema import Responses

Row = dict[str, Any]


def rows_of(count: int, seed: int = 0, length: int = 12) -> list[Row]:
    """As `log_batched_dict_as_jsonl` writes them: each value a list of one."""
    draw, rows = np.random.default_rng(seed), []
    for number in range(count):
        mask = np.zeros(length)
        mask[3:9] = 1
        mask[5] = number % 2  # tool feedback in every other one
        scores = -draw.exponential(1.5, length)
        row = {
            "content": ["text"],
            "rewards": [float(number % 3 == 0)],
            "input_lengths": [9],
            "token_ids": [[number // 2, 7, 8, *range(length - 3)]],
            "token_loss_mask": [mask.tolist()],
            "sample_loss_mask": [1.0],
            "advantages": [[0.5 - number % 2] * length],
            "generation_logprobs": [(scores + draw.normal(0, 0.01, length)).tolist()],
            "prev_logprobs": [scores.tolist()],
        }
        rows.append({**row, "idx": number})
    return rows


def tensor(rows: list[Row], name: str) -> torch.Tensor:
    return torch.tensor([row[name][0] for row in rows])


def test_rows_are_those_that_the_hook_makes_of_the_tensors(tmp_path: Path) -> None:
    rows = rows_of(6)
    run, account = imported(jsonl(tmp_path / "exp_001/train_data_step5.jsonl", rows), tmp_path)
    mask = tensor(rows, "token_loss_mask")
    hooked = per_response(
        tensor(rows, "prev_logprobs"),
        None,
        mask,
        advantages=tensor(rows, "advantages"),
        rewards=tensor(rows, "rewards"),
    )
    table = run.responses()
    for name in Responses(tokens=[1]).columns():
        given = getattr(hooked, name)
        if name in ("log_prob", "first_action_change") or given is None:
            assert name in ("uid", "group") or table[name].null_count == 6, name
        else:
            assert table[name].to_pylist() == pytest.approx(given.tolist(), rel=1e-5, abs=1e-5), name
    group = column(run, "group")
    assert group[0] == group[1] != group[2] == group[3]
    assert column(run, "step") == [5] * 6
    assert any("words of the responses" in note for note in account.tally.notes)


def test_two_engines_differ_by_a_divergence_and_not_by_a_change(tmp_path: Path) -> None:
    rows = rows_of(6)
    run, _ = imported(jsonl(tmp_path / "train_data_step5.jsonl", rows), tmp_path)
    inside = tensor(rows, "token_loss_mask") == 1
    d = (tensor(rows, "prev_logprobs") - tensor(rows, "generation_logprobs")).double()[inside]
    (observation,) = run.observations()
    assert observation.rollout_kl == pytest.approx(float((d.exp() - 1 - d).mean()), rel=1e-4)
    assert observation.change_positive is None
    assert observation.change_negative is None
    assert observation.first_update_change is None
    scores, tokens = tensor(rows, "prev_logprobs").double(), inside.sum(-1)
    right = torch.tensor([row["rewards"][0] > 0 for row in rows])
    sums = torch.where(inside, scores, 0.0).sum(-1)
    assert observation.log_prob_correct == pytest.approx(float(sums[right].sum() / tokens[right].sum()), rel=1e-5)
    assert observation.correct_share == pytest.approx(1 / 3)
    assert observation.reward == pytest.approx(1 / 3)


def test_rewards_of_responses_that_were_trained_on_hold(tmp_path: Path) -> None:
    """With dynamic sampling `rewards` are those of all prompts, of which some were dropped."""
    rows = [{**row, "filtered_rewards": [2.0]} for row in rows_of(2)]
    run, _ = imported(jsonl(tmp_path / "train_data_step1.jsonl", rows), tmp_path)
    assert column(run, "reward") == [2.0, 2.0]


def test_a_sample_that_is_masked_out_has_no_policy_token(tmp_path: Path) -> None:
    rows = rows_of(2)
    rows[1]["sample_loss_mask"] = [0.0]
    run, _ = imported(jsonl(tmp_path / "train_data_step1.jsonl", rows), tmp_path)
    assert column(run, "tokens") == [5, 0]
    assert column(run, "old_log_prob")[1] == 0.0
    assert column(run, "min_log_prob")[1] == 0.0


def test_log_probs_that_nemo_did_not_compute(tmp_path: Path) -> None:
    rows = rows_of(3)
    for row in rows:
        row["prev_logprobs"] = [[0.0] * 12]
    run, account = imported(jsonl(tmp_path / "train_data_step1.jsonl", rows), tmp_path)
    engine = tensor(rows, "generation_logprobs").double() * tensor(rows, "token_loss_mask")
    assert column(run, "old_log_prob") == pytest.approx(engine.sum(-1).tolist(), rel=1e-5)
    assert next(iter(run.observations())).rollout_kl is None
    assert any("force_on_policy_ratio" in note for note in account.tally.notes)


def test_an_older_version_without_masks_gives_rewards_alone(tmp_path: Path) -> None:
    names = ("content", "rewards", "advantages", "generation_logprobs", "prev_logprobs", "input_lengths")
    rows = [{name: row[name] for name in names} | {"advantages": [0.5]} for row in rows_of(3)]
    run, account = imported(jsonl(tmp_path / "train_data_step1.jsonl", rows), tmp_path)
    assert column(run, "reward") == [1.0, 0.0, 0.0]
    assert column(run, "advantage") == [0.5] * 3
    assert column(run, "tokens") == [None] * 3
    assert any("older NeMo-RL" in note for note in account.tally.notes)


def test_nan_among_the_log_probs_is_evidence(tmp_path: Path) -> None:
    rows = rows_of(2)
    rows[0]["prev_logprobs"][0][4] = math.nan
    rows[1]["prev_logprobs"][0][0] = math.nan  # outside of the mask
    run, _ = imported(jsonl(tmp_path / "train_data_step1.jsonl", rows), tmp_path)
    found = column(run, "old_log_prob")
    assert math.isnan(found[0])
    assert not math.isnan(found[1])
    assert math.isnan(next(iter(run.observations())).rollout_kl or 0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prev_logprobs", [[-1.0]]),
        ("generation_logprobs", [[-1.0] * 13]),
        ("advantages", [[1.0] * 3]),
        ("token_loss_mask", None),
        ("token_loss_mask", "1111"),
        ("token_loss_mask", [["a"] * 12]),
        ("token_loss_mask", []),
    ],
)
def test_a_response_whose_lists_do_not_fit_is_left_out(tmp_path: Path, name: str, value: Any) -> None:
    rows = rows_of(3)
    rows[1][name] = value
    run, account = imported(jsonl(tmp_path / "train_data_step1.jsonl", rows), tmp_path)
    assert column(run, "reward") == [1.0, 0.0]
    assert [count for why, (count, _) in account.tally.dropped.items() if "differ in length" in why] == [1]


def test_lines_that_break_off_and_files_of_validations(tmp_path: Path) -> None:
    jsonl(tmp_path / "exp/val_data_step2.jsonl", [{"content": "a", "rewards": [1.0]}])
    (tmp_path / "exp/train_data_step3.jsonl").write_text("")
    path = jsonl(tmp_path / "exp/train_data_step2.jsonl", [json.dumps(rows_of(1)[0]), '{"content": ["', "[]"])
    run, account = imported(path.parent, tmp_path)
    assert column(run, "step") == [2]
    whys = list(account.tally.dropped)
    assert len(whys) == 3
    assert any("evaluation" in why for why in whys)


def test_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no usable step"):
        import_logs(jsonl(tmp_path / "train_data_step1.jsonl", [{"content": "a"}, {}]), tmp_path / "imported")
