from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from texts import FOREIGN, auto, column, put, read, told

from lldwatch.importers.nemo_rl import FORMAT

STEP = {
    "ray/node.0.gpu.0.util": 88.0, "train/reward": 0.5, "train/loss": -0.02, "train/grad_norm": 1.5, "train/lr": 1e-06,
    "train/approx_entropy": 0.4, "train/kl_penalty": 0.03, "train/gen_kl_error": 0.001, "train/policy_kl_error": 9.0,
    "train/token_mult_prob_error": 1.02, "train/mean_gen_tokens_per_sample": 300.5, "train/truncation_rate": 0.125,
    "train/avg_turns_per_sample": 2.0, "train/probs_ratio": 1.0, "train/advantages/mean": 0.0,
    "train/num_valid_samples": 512, "train/global_valid_seqs": 512.0, "train/baseline_reward/pct_0": 12.5,
    "train/baseline_reward/pct_1": 25.0, "train/baseline_reward/pct_mixed": 62.5, "validation/accuracy": 0.4,
}  # fmt: skip


def text(*steps: dict[str, Any]) -> str:
    names = dict.fromkeys(name for row in steps for name in row)
    return json.dumps({name: {str(n): row[name] for n, row in enumerate(steps, 1) if name in row} for name in names})


def test_a_step(tmp_path: Path) -> None:
    [step], tally = read(FORMAT, put(tmp_path, text(STEP)))
    assert told(step) == {
        "step": 1, "reward": 0.5, "loss": -0.02, "grad_norm": 1.5, "learning_rate": 1e-06, "entropy": 0.4, "kl": 0.03,
        "rollout_kl": 0.001, "response_length": 300.5, "truncated_share": 0.125, "actions": 2.0,
        "zero_advantage_share": 0.375,
    }  # fmt: skip
    assert list(tally.unmapped) == [
        "ray/node.0.gpu.0.util", "train/policy_kl_error", "train/token_mult_prob_error", "train/probs_ratio",
        "train/advantages/mean", "train/num_valid_samples", "train/global_valid_seqs",
        "train/baseline_reward/pct_mixed", "validation/accuracy",
    ]  # fmt: skip
    assert (tally.notes, tally.dropped) == ([], {})


def test_sums_over_the_updates_become_means(tmp_path: Path) -> None:
    [step], tally = read(FORMAT, put(tmp_path, text({**STEP, "train/global_valid_seqs": 128.0})))
    means = {"updates": 4, "grad_norm": 0.375, "entropy": 0.1, "kl": 0.0075, "rollout_kl": 0.00025, "loss": -0.005}
    assert {name: told(step)[name] for name in (*means, "reward")} == {**means, "reward": 0.5}
    assert tally.notes == [
        "NeMo-RL adds up over the updates of a step: loss, grad_norm, entropy, kl and rollout_kl are means"
    ]


def test_no_penalty_is_no_divergence_of_zero(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, text({**STEP, "train/kl_penalty": 0.0})))
    assert (column(steps, "kl"), len(tally.notes)) == ([None], 1)


def test_the_order_of_the_steps_and_steps_of_the_machines_alone(tmp_path: Path) -> None:
    given = {"ray/util": {"1": 1.0, "7": 2.0}, "train/reward": {"10": 0.1, "2": 0.2, "x": 0.3}, "version": 1,
             "train/grad_norm": {"2": None, "10": float("nan")}}  # fmt: skip
    steps, tally = read(FORMAT, put(tmp_path, json.dumps(given)))
    assert (column(steps, "step"), column(steps, "reward")) == ([2, 10], [0.2, 0.1])
    assert [repr(value) for value in column(steps, "grad_norm")] == ["None", "nan"]
    assert set(tally.dropped) == {"name without steps", "step that is no number"}


@pytest.mark.parametrize("bad", ["{", "[1, 2]", '{"train/reward": {"1": 0.1', '{"a":' * 100_000])
def test_what_is_no_such_json(tmp_path: Path, bad: str) -> None:
    steps, tally = read(FORMAT, put(tmp_path, bad))
    assert steps == []
    assert bad == "[1, 2]" or "is no JSON" in tally.notes[0]


def test_it_is_recognised_by_its_shape(tmp_path: Path) -> None:
    why = "it maps names to steps and steps to numbers, as NeMo-RL's metrics.json does"
    for given in (text(STEP), json.dumps(json.loads(text(STEP)), indent=4)):
        assert auto(put(tmp_path, given, "metrics.json"))[:2] == ("nemo-rl", why)


def test_a_file_as_nemo_rl_writes_it() -> None:
    name, _, steps, tally = auto(FOREIGN / "nemo-rl" / "metrics.json")
    assert (name, column(steps, "step"), tally.dropped) == ("nemo-rl", list(range(1, 61)), {})
    assert (column(steps, "reward")[0], column(steps, "entropy")[0], column(steps, "response_length")[0]) == (
        0.516667, 0.265981, 25.1333,
    )  # fmt: skip
