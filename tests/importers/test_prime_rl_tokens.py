from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from row_files import column, imported, jsonl

from lldwatch.hooks import per_response
from lldwatch.schema import Responses

Row = dict[str, Any]


def samples(count: int, seed: int = 0, length: int = 10, rank: int = 0) -> list[Row]:
    draw, rows = np.random.default_rng(seed), []
    for number in range(count):
        inference = -draw.exponential(1.5, length)
        trainer = inference + draw.normal(0, 0.05, length)
        mask = [False] * 3 + [True] * 3 + [bool(number % 2)] + [True] * 3
        rows.append(
            {
                "schema_version": 1,
                "step": 4,
                "rank": rank,
                "micro_step": 0,
                "micro_sequence_idx": number,
                "export_sequence_idx": number,
                "env_name": "gsm8k",
                "token_ids": list(range(length)),
                "position_ids": list(range(length)),
                "loss_mask": mask,
                "advantages": [0.5 - number % 2] * length,
                "inference_logprobs": inference.tolist(),
                "trainer_logprobs": trainer.tolist(),
                "entropy": draw.uniform(0, 2, length).tolist(),
                "mismatch_kl": (np.exp(trainer - inference) - (trainer - inference) - 1).tolist(),
                "is_masked": [False] * (length - 1) + [True],
                "rl_weights": [None] * length,
            }
        )
    return rows


def export(folder: Path, rows: list[Any], step: int = 4, rank: int = 0) -> Path:
    return jsonl(folder / f"out/token_exports/step_{step}/rank_{rank}.jsonl", rows)


def tensor(rows: list[Row], name: str) -> torch.Tensor:
    return torch.tensor([row[name] for row in rows])


def test_rows_are_those_that_the_hook_makes_of_the_tensors(tmp_path: Path) -> None:
    rows = samples(6)
    run, account = imported(export(tmp_path, rows), tmp_path)
    hooked = per_response(
        tensor(rows, "trainer_logprobs"),
        tensor(rows, "inference_logprobs"),
        tensor(rows, "loss_mask"),
        advantages=tensor(rows, "advantages"),
        entropy=tensor(rows, "entropy"),
    )
    table = run.responses()
    for name in Responses(tokens=[1]).columns():
        given = getattr(hooked, name)
        if given is not None:
            assert table[name].to_pylist() == pytest.approx(given.tolist(), rel=1e-5, abs=1e-5), name
    assert column(run, "clipped_tokens") == [1] * 6
    assert column(run, "reward") == [None] * 6
    assert any("positive advantage counts as correct" in note for note in account.tally.notes)


def test_the_divergence_of_the_engines_is_the_one_that_prime_rl_writes(tmp_path: Path) -> None:
    rows = samples(6)
    run, _ = imported(export(tmp_path, rows), tmp_path)
    written = tensor(rows, "mismatch_kl")[tensor(rows, "loss_mask")]
    (observation,) = run.observations()
    assert observation.rollout_kl == pytest.approx(float(written.mean()), rel=1e-4)
    d = (tensor(rows, "trainer_logprobs") - tensor(rows, "inference_logprobs")).double()
    up = (tensor(rows, "advantages") > 0) & tensor(rows, "loss_mask")
    assert observation.change_positive == pytest.approx(float(d[up].mean()), rel=1e-4)
    assert observation.entropy == pytest.approx(
        float(tensor(rows, "entropy")[tensor(rows, "loss_mask")].mean()), rel=1e-5
    )


def test_ranks_and_steps_come_together(tmp_path: Path) -> None:
    export(tmp_path, samples(2), step=3)
    export(tmp_path, samples(2, 1), step=4)
    export(tmp_path, samples(3, 2, rank=1), step=4, rank=1)
    (tmp_path / "out/token_exports/step_4/STABLE").touch()
    run, account = imported(tmp_path / "out", tmp_path)
    assert column(run, "step") == [3] * 2 + [4] * 5
    assert column(run, "uid") == list(range(7))
    assert account.steps == 2
    for part, folder in (("token_exports", "a"), ("token_exports/step_4", "b")):
        run, _ = imported(tmp_path / "out" / part, tmp_path / folder)
        assert set(column(run, "step")) >= {4}


def test_what_prime_rl_did_not_compute_is_null_at_every_token(tmp_path: Path) -> None:
    rows = [{**row, "is_masked": [None] * 10, "mismatch_kl": [None] * 10} for row in samples(2)]
    run, _ = imported(export(tmp_path, rows), tmp_path)
    assert column(run, "clipped_tokens") == [None, None]


def test_a_single_null_was_infinite_or_nan(tmp_path: Path) -> None:
    rows = samples(2)
    rows[0]["trainer_logprobs"][4] = None
    rows[1]["trainer_logprobs"][0] = None  # outside of the mask
    run, _ = imported(export(tmp_path, rows), tmp_path)
    found = np.array(column(run, "log_prob"))
    assert np.isnan(found).tolist() == [True, False]


def test_rewards_of_versions_that_export_them(tmp_path: Path) -> None:
    rows = [{**row, "rewards": [float(number)] * 10} for number, row in enumerate(samples(2))]
    run, _ = imported(export(tmp_path, rows), tmp_path)
    assert column(run, "reward") == [0.0, 1.0]
    assert column(run, "correct") == [False, True]


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        "7",
        {},
        {"loss_mask": [True]},
        {**samples(1)[0], "entropy": [1.0]},
        {**samples(1)[0], "trainer_logprobs": ["a"] * 10},
        {**samples(1)[0], "loss_mask": None},
        {**samples(1)[0], "trainer_logprobs": [10**400] * 10},
    ],
)
def test_a_broken_sample_is_left_out(tmp_path: Path, broken: Any) -> None:
    first, second = samples(2)
    run, account = imported(export(tmp_path, [first, broken, second]), tmp_path)
    assert len(run.responses()) == 2
    assert [count for count, _ in account.tally.dropped.values()] == [1]
