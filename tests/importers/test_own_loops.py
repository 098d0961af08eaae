from __future__ import annotations

import pytest

from lldwatch.importers.metric_rows import are_of_steps, telling, time_of
from lldwatch.importers.names import lookup
from lldwatch.importers.own_loops import METRICS
from lldwatch.importers.trainers import TABLES
from lldwatch.inputs import SCALARS


def test_each_name_stands_for_a_field() -> None:
    assert set(METRICS.values()) <= set(SCALARS)


@pytest.mark.parametrize(
    "name", ["accuracy", "approx_kl", "ppo_kl", "total_reward", "score", "mean_length", "val/mean_reward", "eval_loss"]
)
def test_what_means_this_here_and_that_there_stands_for_nothing(name: str) -> None:
    assert lookup(TABLES)(name) is None


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("Mean Reward", "reward"),
        ("train/avg_reward", "reward"),
        ("training/mean_kl", "kl"),
        ("completions / mean_length", "response_length"),
        ("KL", "kl"),
        ("Training Loss", "loss"),
        ("metrics/token_entropy", "entropy"),
    ],
)
def test_names_as_people_are_shown_them(name: str, ours: str) -> None:
    found = lookup(TABLES)(name)
    assert found is not None
    assert found[1] == ours


def test_a_trainers_own_name_holds_before_one_of_a_loop() -> None:
    of = lookup(TABLES)
    first, second = of("reward"), of("mean_reward")
    assert first is not None
    assert second is not None
    assert first[0] < second[0]


def test_rows_that_tell_of_a_training() -> None:
    assert telling({"step": 1, "reward": 0.5}) == ["reward"]
    assert telling({"reward": 0.5, "loss": "0.25"}) == ["reward", "loss"]
    assert telling({"reward": 0.5}) == []
    assert telling({"step": 1, "loss": 0.5, "lr": 1e-6}) == []
    assert telling({"step": 1, "reward": 0.5, "action": 3}) == []
    assert telling({"step": 1, "reward": "high"}) == []


def test_many_rows_with_one_step_are_of_its_responses() -> None:
    assert are_of_steps([{"step": s // 4, "reward": 0.5} for s in range(100)])
    assert not are_of_steps([{"step": s // 16, "reward": 0.5} for s in range(100)])


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (1.79e9, 1.79e9),
        (1.79e12, 1.79e9),
        ("1790000000", 1.79e9),
        ("2026-01-01", 1767225600.0),
        (12.5, None),
        ("x", None),
    ],
)
def test_the_time_of_a_row(given: object, seconds: float | None) -> None:
    assert time_of({"timestamp": given}) == seconds
