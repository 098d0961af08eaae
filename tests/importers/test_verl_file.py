from __future__ import annotations

from pathlib import Path

from texts import FOREIGN, auto, column, put, read, told

from lldwatch.importers import verl_console, verl_file
from lldwatch.importers.verl_file import FORMAT

ROW = '{"step":1,"data":{"actor/entropy":0.2056,"actor/grad_norm":0.485,"critic/score/mean":null,"actor/lr":1e-6}}\n'


def test_a_row(tmp_path: Path) -> None:
    name, why, [step], tally = auto(put(tmp_path, ROW, "gsm8k.jsonl"))
    assert (name, told(step)) == (
        "verl-file", {"step": 1, "entropy": 0.2056, "grad_norm": 0.485, "learning_rate": 1e-06},
    )  # fmt: skip
    assert why == 'its lines are objects of "step" and "data", as verl\'s file logger writes them'
    assert (list(tally.unmapped), tally.dropped) == ([], {})


def test_what_is_no_row_is_counted(tmp_path: Path) -> None:
    bad = ['{"step":2,"data":[]}', '{"step":-1,"data":{}}', "[1]", '{"data":{"actor/entropy":1}}', "[" * 100_000]
    validation = '{"step":2,"data":{"val-core/gsm8k/acc/mean@1":0.5}}\n'
    text = ROW + "\n".join(bad) + "\n" + validation + ROW.replace('"step":1', '"step":3')[:-20]
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert column(steps, "step") == [1]
    assert tally.reasons == [
        "6 x line that breaks off, or is not as verl writes it (first: line 2)",
        "1 x validation without training metrics (first: line 7)",
    ]


def test_the_rate_of_a_file_is_never_taken_for_a_rounded_one(tmp_path: Path) -> None:
    assert column(read(FORMAT, put(tmp_path, '{"step":1,"data":{"actor/lr":0.0}}'))[0], "learning_rate") == [0.0]


def test_the_same_names_as_on_the_console() -> None:
    assert verl_file.METRICS is verl_console.METRICS


def test_a_file_that_verl_wrote() -> None:
    name, _, steps, _ = auto(FOREIGN / "verl" / "file.jsonl")
    _, _, console, _ = auto(FOREIGN / "verl" / "console.log")
    assert name == "verl-file"
    assert [told(step) for step in steps] == [told(step) for step in console]
