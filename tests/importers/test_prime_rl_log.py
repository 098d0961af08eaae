from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from texts import FOREIGN, auto, column, put, read, told

from lldwatch.importers.prime_rl import FORMAT


def line(step: int, **values: Any) -> str:
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return json.dumps({"step": step, "time": 1790000000.5 + step, **named}) + "\n"


def orchestrator(step: int, reward: float = 0.5, agent: str = "policy") -> str:
    agents = {
        "all__{}__reward__mean": reward,
        "effective__{}__reward__mean": 0.9,
        "all__{}__num_output_tokens__mean": 200.5,
        "all__{}__solved_none": 0.25,
        "all__{}__solved_all": 0.125,
    }
    names = {f"train__agg__{name.format(agent)}": value for name, value in agents.items()}
    return line(step, **names, progress__tokens=1000)


def trainer(step: int) -> str:
    return (
        line(step, perf__throughput=284.5, perf__mfu=30.0)
        + line(step, optim__lr=1e-06, optim__grad_norm=0.19)
        + line(step, entropy__all__mean=0.266, loss__mean=-0.08, is_masked__mean=0.01, mismatch_kl__all__mean=0.0002)
        + line(step, time__step=9.8)
    )


def test_the_lines_of_a_step_are_put_together(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, orchestrator(1) + trainer(1) + orchestrator(2) + trainer(2)))
    assert told(steps[0]) | {"time": 0} == {
        "step": 1, "time": 0, "reward": 0.5, "response_length": 200.5, "zero_advantage_share": 0.375,
        "learning_rate": 1e-06, "grad_norm": 0.19, "entropy": 0.266, "loss": -0.08, "rollout_kl": 0.0002,
    }  # fmt: skip
    assert (steps[0].observation.time, column(steps, "step")) == (1790000001.5, [1, 2])
    assert list(tally.unmapped) == [
        "progress/tokens", "perf/throughput", "perf/mfu", "is_masked/mean", "time/step",
    ]  # fmt: skip
    assert tally.dropped == {}


def test_the_orchestrator_is_ahead(tmp_path: Path) -> None:
    text = "".join(orchestrator(step, step / 10) for step in (1, 2, 3))
    text += "".join(trainer(step) + orchestrator(step + 3, (step + 3) / 10) for step in (1, 2, 3))
    steps, _ = read(FORMAT, put(tmp_path, text + trainer(4)))
    assert column(steps, "step") == [1, 2, 3, 4, 5, 6]
    assert column(steps, "reward") == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert column(steps, "entropy") == [0.266] * 4 + [None] * 2
    assert {s.run for s in steps} == {""}


def test_one_side_alone(tmp_path: Path) -> None:
    for side in (trainer, orchestrator):
        steps, _ = read(FORMAT, put(tmp_path, "".join(side(step) for step in range(1, 41))))
        assert column(steps, "step") == list(range(1, 41))


def test_a_resumed_training_and_another_one(tmp_path: Path) -> None:
    text = "".join(orchestrator(step) + trainer(step) for step in (1, 2, 3, 4, 3, 4, 1, 2))
    steps, _ = read(FORMAT, put(tmp_path, text))
    assert [(s.run, s.attempt, s.observation.step) for s in steps][3:] == [
        ("", 0, 4), ("", 1, 3), ("", 1, 4), ("run-2", 0, 1), ("run-2", 0, 2),
    ]  # fmt: skip


def test_several_agents_are_no_policy(tmp_path: Path) -> None:
    both = json.loads(orchestrator(1, agent="asker")) | json.loads(orchestrator(1, agent="solver"))
    steps, tally = read(FORMAT, put(tmp_path, json.dumps(both) + "\n" + trainer(1)))
    assert (column(steps, "reward"), column(steps, "entropy")) == ([None], [0.266])
    assert "train/agg/all/solver/reward/mean" in tally.unmapped


def test_older_names(tmp_path: Path) -> None:
    text = line(1, reward__all__mean=0.5, decode_len__all__mean=100.0, is_truncated__all__mean=0.1)
    steps, _ = read(FORMAT, put(tmp_path, text + line(1, reward__mean=0.7)))
    assert (column(steps, "reward"), column(steps, "response_length"), column(steps, "truncated_share")) == (
        [0.5],
        [100],
        [0.1],
    )


def test_what_is_no_row_is_counted(tmp_path: Path) -> None:
    text = trainer(1) + "[1]\n{}\n" + line(1, eval__aime__all__policy__reward__mean=0.2) + trainer(2)[:-30]
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert column(steps, "step") == [1, 2]
    assert tally.reasons == [
        "3 x line that breaks off, or has no step (first: line 5)",
        "1 x evaluation (first: line 7)",
    ]


def test_a_file_as_prime_rl_writes_it() -> None:
    name, why, steps, tally = auto(FOREIGN / "prime-rl" / "metrics.jsonl")
    assert (name, why) == ("prime-rl", "its lines begin with step and time, and have names of prime-rl")
    assert (column(steps, "step"), tally.dropped) == (list(range(1, 49)), {})
    for field in ("reward", "entropy", "grad_norm", "rollout_kl", "response_length", "zero_advantage_share", "time"):
        assert None not in column(steps, field)
