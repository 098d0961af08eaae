from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from row_files import column, imported, jsonl

from lldwatch.errors import InputError
from lldwatch.importers.find import rows_of
from lldwatch.importers.job import import_logs
from lldwatch.importers.tally import Tally

SAMPLE = Path(__file__).parents[2] / "sample_logs/foreign/verl/rollouts"


def row(score: Any, prompt: str = "p", **more: Any) -> dict[str, Any]:
    return {"input": prompt, "output": "text", "gts": "2", "score": score, "step": 3, **more}


def test_score_is_the_reward_and_acc_says_what_is_correct(tmp_path: Path) -> None:
    rows = [row(0.1, acc=False, reason="a"), row(1.0, "q", acc=True), row(-1.0, acc=0.0), row(0.5, "q", acc=1)]
    run, account = imported(jsonl(tmp_path / "rollouts/3.jsonl", rows), tmp_path)
    assert column(run, "reward") == pytest.approx([0.1, 1.0, -1.0, 0.5])
    assert column(run, "correct") == [False, True, False, True]
    group = column(run, "group")
    assert group[0] == group[2] != group[1] == group[3]
    (observation,) = run.observations()
    assert (observation.step, observation.responses, observation.correct_share) == (3, 4, 0.5)
    assert observation.reward == pytest.approx(0.15)
    assert any("gts, reason: not used" in note for note in account.tally.notes)


def test_uid_tells_prompts_of_the_same_words_apart(tmp_path: Path) -> None:
    rows = [row(1.0, uid="a"), row(0.0, uid="b"), row(0.0, uid="a")]
    run, _ = imported(jsonl(tmp_path / "3.jsonl", rows), tmp_path)
    group = column(run, "group")
    assert group[0] == group[2] != group[1]
    assert column(run, "correct") == [True, False, False]


def test_every_number_of_the_sample_is_there(tmp_path: Path) -> None:
    run, account = imported(SAMPLE, tmp_path)
    expected = []
    for path in sorted(SAMPLE.iterdir(), key=lambda path: int(path.stem)):
        rows = [json.loads(text) for text in path.read_text().splitlines()]
        expected += [(int(path.stem), pytest.approx(given["score"]), bool(given["acc"])) for given in rows]
    rows = run.responses().to_pylist()
    assert [(given["step"], given["reward"], given["correct"]) for given in rows] == expected
    assert account.format == "verl-rollouts"


def test_responses_of_a_validation_are_not_of_the_training(tmp_path: Path) -> None:
    for folder in ("validation_data", "my-val", "eval", "val_generations", "retrieval", "rollout_data"):
        jsonl(tmp_path / "logs" / folder / "3.jsonl", [row(1.0)])
    runs, tally = import_logs(tmp_path / "logs", tmp_path / "imported")
    assert sorted(run.name for run in runs) == ["retrieval", "rollout_data"]
    assert [count for why, (count, _) in tally.dropped.items() if "evaluation" in why] == [4]


def test_a_score_that_is_nan_is_evidence(tmp_path: Path) -> None:
    run, _ = imported(jsonl(tmp_path / "3.jsonl", [row(math.nan), row(1.0)]), tmp_path)
    assert math.isnan(column(run, "reward")[0])
    assert math.isnan(next(iter(run.observations())).reward or 0.0)


@pytest.mark.parametrize("score", [None, "high", [1, 2], {}, "1" * 5000])
def test_a_score_that_is_no_number_costs_its_row(tmp_path: Path, score: Any) -> None:
    run, account = imported(jsonl(tmp_path / "3.jsonl", [row(1.0), row(score), row(0.0)]), tmp_path)
    assert column(run, "reward") == [1.0, 0.0]
    assert sum(count for count, _ in account.tally.dropped.values()) == 1


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "3.jsonl", [row(1.0), row(0.0)])
    path.write_text(path.read_text()[:-20])
    run, account = imported(path, tmp_path)
    assert column(run, "reward") == [1.0]
    assert account.tally.dropped == {"line that breaks off or is no JSON": (1, f"{path}, line 2")}


@pytest.mark.parametrize("text", ["", "\n\n", "{", "[]", '{"step": 1, "loss": 2}', '{"input": "a", "output": "b"}'])
def test_other_files_whose_name_is_a_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "7.jsonl"
    path.write_text(text)
    assert rows_of(path, Tally()) is None


def test_no_score_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no usable step"):
        import_logs(jsonl(tmp_path / "3.jsonl", [row(None)]), tmp_path / "imported")


def test_a_file_of_a_validation_alone_says_so(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "val/3.jsonl", [row(1.0)])
    for src in (path, path.parent):
        with pytest.raises(InputError, match="1 x file of responses of an evaluation"):
            import_logs(src, tmp_path / "imported")
