from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from row_files import column, imported, jsonl

from lldwatch.errors import InputError
from lldwatch.importers.job import import_logs

SAMPLE = Path(__file__).parents[2] / "sample_logs/foreign/swift"
Row = dict[str, Any]


def line(step: int, completions: str = "abcd", **more: Any) -> Row:
    row = {"step": [str(step)] * 4, "prompt": ["p", "p", "q", "q"], "completion": list(completions)}
    return {**row, "Right": [1.0, 0.0, 0.0, 1.0], "advantages": [0.7, -0.7, -0.7, 0.7], **more}


def test_one_line_is_one_step(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "v0/completions.jsonl", [line(1), line(2, "efgh", entropy=[1, 2, 3, 4], solution=list("wxyz"))]
    )
    run, account = imported(path, tmp_path)
    assert column(run, "step") == [1] * 4 + [2] * 4
    assert column(run, "reward") == [1.0, 0.0, 0.0, 1.0] * 2
    assert column(run, "entropy") == [None] * 8  # of other responses: the ring is not filled at the same pace
    assert column(run, "advantage", 2) == pytest.approx([0.7, -0.7, -0.7, 0.7])
    assert any("not used: entropy, solution" in note for note in account.tally.notes)
    assert account.steps == 2


def test_every_number_of_a_real_training_is_there(tmp_path: Path) -> None:
    run, account = imported(SAMPLE, tmp_path)
    lines = [json.loads(text) for text in (SAMPLE / "completions.jsonl").read_text().splitlines()]
    expected, before = [], set[tuple[str, str]]()
    for row in lines[:-1]:  # the last one is the first line of step 40 again
        words = list(zip(row["prompt"], row["completion"], strict=True))
        told = zip(words, row["Letters"], row["advantages"], strict=True)
        expected += [(int(row["step"][0]), r, pytest.approx(a)) for word, r, a in told if word not in before]
        before = set(words)
    rows = run.responses().to_pylist()
    assert [(row["step"], row["reward"], row["advantage"]) for row in rows] == expected
    assert len(rows) == 80  # ten batches of eight, each used four times
    assert account.steps == 40
    assert [row.reward for row in run.observations() if row.step in (2, 3, 4)] == [None] * 3


def test_a_steps_further_lines_are_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "completions.jsonl", [line(1), line(1, "wxyz"), line(2, "efgh"), line(2, "efgh")])
    run, account = imported(path, tmp_path)
    assert len(run.responses()) == 8
    (why,) = [why for why in account.tally.dropped if "further line" in why]
    assert account.tally.dropped[why] == (2, f"{path}, line 2")


def test_megatron_counts_generations(tmp_path: Path) -> None:
    row = line(0)
    row = {"gen_step": [0] * 4, **{name: values for name, values in row.items() if name != "step"}}
    run, _ = imported(jsonl(tmp_path / "completions.jsonl", [row]), tmp_path)
    assert column(run, "step") == [0] * 4


def test_distillation_has_no_rewards(tmp_path: Path) -> None:
    row = {name: values for name, values in line(3).items() if name not in ("Right", "advantages")}
    run, _ = imported(jsonl(tmp_path / "completions.jsonl", [row]), tmp_path)
    assert column(run, "reward") == [None] * 4
    assert next(iter(run.observations())).responses == 4


def test_two_reward_functions_are_added_if_the_advantages_agree(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "completions.jsonl", [line(1, Right=[1.0, 0.5, 0.0, 0.5], Format=[0.5, 0.0, 0.0, None])])
    data = json.loads(path.read_text())
    order = ("step", "prompt", "completion", "Right", "Format", "advantages")
    jsonl(path, [{name: data[name] for name in order}])
    run, account = imported(path, tmp_path)
    assert column(run, "reward") == [1.5, 0.5, 0.0, 0.5]
    assert any("sum of Right, Format" in note and "agree" in note for note in account.tally.notes)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ('{"step": ["2", "2"], "prompt": ["p"', "breaks off or is no JSON"),
        ("[1, 2]", "names no step first"),
        ("nonsense", "names no step first"),
        ({"prompt": ["p"], "completion": ["a"], "step": ["2"]}, "names no step first"),
        (line(2, "abc"), "differ in length"),
        (line(2, advantages=[1.0]), "differ in length"),
        (line(2, prompt="text"), "differ in length"),
        ('{"step": ["2"], "prompt": ' + "[" * 100_000, "breaks off or is no JSON"),
    ],
)
def test_a_broken_line_costs_its_own_step(tmp_path: Path, broken: Any, why: str) -> None:
    run, account = imported(jsonl(tmp_path / "completions.jsonl", [line(1), broken, line(3, "efgh")]), tmp_path)
    assert sorted(set(column(run, "step"))) == [1, 3]
    assert any(why in reason for reason in account.tally.dropped), account.tally.dropped


@pytest.mark.parametrize("values", [["x", "y", "z", "w"], [[1], [2], [3], [4]], {"a": 1}, "text", [{}, {}, {}, {}]])
def test_lists_that_are_no_numbers_are_named(tmp_path: Path, values: Any) -> None:
    run, account = imported(jsonl(tmp_path / "completions.jsonl", [line(1, Right=values)]), tmp_path)
    assert column(run, "reward") == [None] * 4
    assert column(run, "correct") == [True, False, False, True]  # by the advantage
    assert any("not used: Right" in note for note in account.tally.notes)


def test_nothing_in_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "completions.jsonl", [{"step": ["1"], "prompt": [], "completion": []}])
    with pytest.raises(InputError, match="no usable step"):
        import_logs(path, tmp_path / "imported")
