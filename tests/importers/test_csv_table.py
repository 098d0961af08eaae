from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from imports import column, imported, one, rounded

from lldwatch.errors import InputError
from lldwatch.importers.csv_table import FORMAT
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally


def table(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding, newline="")
    return path


ROWS = [(1, 0.25, -0.5, 1.5), (2, 0.5, 0.0, 2.5), (3, 0.75, 1e-06, 3.5)]
NAMES = ("step", "reward", "loss", "grad_norm")


def written(sign: str, end: str = "\n") -> str:
    return "".join(sign.join(map(str, row)) + end for row in (NAMES, *ROWS))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("sign", [",", "\t", ";", "|", " ", ", ", "   "])
def test_signs_that_part_the_cells(tmp_path: Path, sign: str, end: str) -> None:
    run = one(table(tmp_path / "log.csv", written(sign, end)))
    assert run.format == "csv"
    assert run.why == "line 1 is the head of a table with reward and grad_norm"
    assert column(run, "step") == [1, 2, 3]
    assert column(run, "reward") == [0.25, 0.5, 0.75]
    assert rounded(run, "loss") == [-0.5, 0.0, 1e-06]
    assert column(run, "grad_norm") == [1.5, 2.5, 3.5]
    assert (run.tally.rows, run.tally.dropped, run.tally.notes) == (3, {}, [])


def test_a_table_of_markdown(tmp_path: Path) -> None:
    text = "| Step | Mean Reward | KL |\n|:---|---:|---|\n| 1 | 0.5 | 0.25 |\n| 2 | 0.75 | No Log |\n"
    run = one(table(tmp_path / "log.md.txt", "# Results\n\nOf the run:\n\n" + text))
    assert (column(run, "reward"), column(run, "kl")) == ([0.5, 0.75], [0.25, None])
    assert run.tally.dropped == {"line above the head of the table": (2, "line 1")}


def test_the_decimal_comma_of_a_table_with_semicolons(tmp_path: Path) -> None:
    run = one(table(tmp_path / "log.csv", "step;reward;kl\n1;0,25;1,5e-3\n2;0,5;-0,5\n"))
    assert (column(run, "reward"), rounded(run, "kl")) == ([0.25, 0.5], [0.0015, -0.5])


def test_a_head_that_is_not_on_top_units_and_quoted_cells(tmp_path: Path) -> None:
    text = (
        "# exported, by hand\n"
        "experiment,7\n"
        "\n"
        'step,"reward","completions / mean_length",comment\n'
        '-,reward,tokens,""\n'
        '1,"0.5",12,"a cell\nwith a line end, a comma and a ""quote"""\n'
        "2,0.75,,\n"
    )
    run = one(table(tmp_path / "log.csv", text))
    assert (column(run, "reward"), column(run, "response_length")) == ([0.5, 0.75], [12.0, None])
    assert run.tally.dropped == {
        "line above the head of the table": (2, "line 1"),
        "row without numbers (units, or a remark)": (1, "line 5"),
    }
    assert list(run.tally.unmapped) == ["comment"]


def test_numbers_in_all_spellings(tmp_path: Path) -> None:
    text = "step,reward,kl,entropy\n1.0,nan,inf,np.float64(0.5)\n2,tensor(0.25),-Infinity,No Log\n3,abc,1E-3,\n"
    run = one(table(tmp_path / "log.csv", text))
    assert math.isnan(column(run, "reward")[0])
    assert column(run, "reward")[1:] == [0.25, None]
    assert column(run, "kl")[:2] == [math.inf, -math.inf]
    assert column(run, "entropy") == [0.5, None, None]
    assert run.tally.dropped == {"reward that is not a number": (1, "line 4")}


def test_two_runs_one_after_the_other_with_the_same_head(tmp_path: Path) -> None:
    runs, _, _ = imported(table(tmp_path / "log.csv", written(",") + written(",").replace("0.", "1.")))
    assert [column(run, "reward") for run in runs] == [[0.25, 0.5, 0.75], [1.25, 1.5, 1.75]]
    assert "line 5: another head, another table begins" in runs[0].tally.notes


def test_another_head_with_other_columns(tmp_path: Path) -> None:
    text = written(",") + "step,kl,reward\n4,0.5,1.0\n5,0.25,1.25\n"
    run = one(table(tmp_path / "log.csv", text))
    assert column(run, "reward") == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert column(run, "kl") == [None, None, None, 0.5, 0.25]


def test_rows_that_do_not_fit_the_head(tmp_path: Path) -> None:
    text = written(",") + "4,0.9,0.1,1,5\n5,1.0,0.1,1,,\n6,1.0\n"
    run = one(table(tmp_path / "log.csv", text))
    assert column(run, "step") == [1, 2, 3, 5]
    assert run.tally.dropped == {"row with more or fewer cells than the head": (2, "line 5")}


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    rest = "".join(f"{step},0.5,1\n" for step in range(3, 3003))
    run = one(table(tmp_path / "log.csv", 'step,reward,kl\n1,0.5,1\n2,0.5,"1\n' + rest))
    assert (run.steps, run.last) == (3002, 3002)
    assert run.tally.dropped == {}


def test_a_column_that_stands_there_twice(tmp_path: Path) -> None:
    run = one(table(tmp_path / "log.csv", "step,reward,kl,reward\n1,0.5,1,9\n2,0.25,1,9\n"))
    assert column(run, "reward") == [0.5, 0.25]
    assert run.tally.notes == ["column reward stands there twice: the first one is used"]


def test_newest_first_and_steps_twice(tmp_path: Path) -> None:
    text = "step,reward,kl\n" + "".join(f"{step},0.{step},\n{step},,0.5\n" for step in range(9, 0, -1))
    run = one(table(tmp_path / "log.csv", text))
    assert column(run, "step") == list(range(1, 10))
    assert rounded(run, "reward") == [step / 10 for step in range(1, 10)]
    assert column(run, "kl") == [0.5] * 9


def test_rows_of_an_evaluation_and_without_metrics(tmp_path: Path) -> None:
    text = "step,split,reward,val_reward\n1,train,0.5,\n1,test,0.75,\n1,train,,0.75\n2,train,0.25,\n"
    run = one(table(tmp_path / "log.csv", text))
    assert column(run, "reward") == [0.5, 0.25]
    assert run.tally.dropped["row whose split is test"] == (1, "line 3")


def test_the_column_of_the_step_is_the_users_choice(tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv", "step,batch,reward\n1,10,0.5\n1,20,0.75\n")
    assert column(one(path, step_column="batch"), "step") == [10, 20]


def test_names_that_only_the_user_knows(tmp_path: Path) -> None:
    path = table(tmp_path / "log.csv", "n,result\n1,0.5\n2,0.75\n")
    with pytest.raises(InputError, match="has nothing in it that a known trainer or logger writes"):
        imported(path)
    assert column(one(path, format="csv", own={"reward": "result"}, step_column="n"), "reward") == [0.5, 0.75]


def test_wide_characters_and_a_byte_order_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        assert column(one(table(tmp_path / f"{encoding}.csv", written(","), encoding)), "step") == [1, 2, 3]
    path = tmp_path / "latin.csv"
    path.write_bytes("step,reward,Länge\n1,0.5,3\n2,0.5,3\n".encode("latin-1"))
    assert column(one(path), "reward") == [0.5, 0.5]


@pytest.mark.parametrize(
    "text",
    [
        "name,age\nAda,36\n",
        "the reward is what\nwe want 1 day\n",
        "step,loss\n1,0.5\n2,0.25\n",
        "prompt,completion,reward\na,b,0.5\n",
        "step,action,reward\n1,left,0.5\n2,right,0.25\n",
        "step,reward,kl\n",
        "reward,reward\n",
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="name its format, one of"):
        imported(table(tmp_path / "a.csv", text))


def test_a_stream_gives_each_row_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BufferedReader(io.BytesIO(written(",").encode()))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    source = Source(None)
    assert FORMAT.recognise(source)
    assert [entry.step for entry in FORMAT.read(source, Tally())] == [1, 2, 3]
