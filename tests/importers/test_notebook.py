from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from imports import column, imported, one

from lldwatch.errors import InputError
from lldwatch.importers import notebook

NAMES = ["Step", "Training Loss", "reward", "reward_std", "completions / mean_length", "kl"]


def shown(rows: list[list[Any]], names: list[str] | None = None) -> str:
    """As transformers' progress bar for notebooks shows it."""
    head = "".join(f"      <th>{name}</th>\n" for name in names or NAMES)
    body = "".join("    <tr>\n" + "".join(f"      <td>{cell}</td>\n" for cell in row) + "    </tr>\n" for row in rows)
    return (
        "\n    <div>\n      \n      <progress value='3' max='3' style='width:300px; height:20px;'></progress>\n"
        "      [3/3 00:21, Epoch 1/1]\n    </div>\n"
        '    <table border="1" class="dataframe">\n  <thead>\n <tr style="text-align: left;">\n'
        f"{head}    </tr>\n  </thead>\n  <tbody>\n{body}  </tbody>\n</table><p>"
    )


ROWS: list[list[Any]] = [
    [1, "0.012500", "0.500000", "0.250000", "128.500000", "0.000100"],
    [2, "-0.025000", "nan", "No Log", "130.000000", "0.000200"],
    [3, "No Log", "0.750000", "0.125000", "131.250000", "nan"],
]


def ipynb(path: Path, *outputs: dict[str, Any], cut: int | None = None) -> Path:
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "source": ["# Training\n"], "metadata": {}}]
    cells += [{"cell_type": "code", "source": ["trainer.train()"], "outputs": [one], "metadata": {}} for one in outputs]
    text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)
    path.write_text(text[:cut])
    return path


def html(text: str, as_list: bool = True) -> dict[str, Any]:
    data = text.splitlines(keepends=True) if as_list else text
    return {"output_type": "display_data", "data": {"text/html": data, "text/plain": ["<IPython...>"]}, "metadata": {}}


@pytest.mark.parametrize("as_list", [True, False])
def test_a_table_in_a_notebook(tmp_path: Path, as_list: bool) -> None:
    run = one(ipynb(tmp_path / "train.ipynb", html(shown(ROWS), as_list)))
    assert (run.format, run.why) == ("notebook", "it has the cells of a notebook")
    assert column(run, "step") == [1, 2, 3]
    assert column(run, "loss") == pytest.approx([0.0125, -0.025, None])
    assert column(run, "reward")[::2] == [0.5, 0.75]
    assert math.isnan(column(run, "reward")[1])
    assert column(run, "reward_std") == [0.25, None, 0.125]
    assert column(run, "response_length") == [128.5, 130.0, 131.25]
    assert run.tally.unmapped == {}


def test_several_tables_are_several_runs(tmp_path: Path) -> None:
    later = [[4, "0.1", "0.9", "0.1", "5", "0.3"], [5, "0.1", "0.8", "0.1", "6", "0.3"]]
    other = "<table><tr><th>name</th><th>size</th></tr><tr><td>a</td><td>3</td></tr></table>"
    path = ipynb(tmp_path / "train.ipynb", html(shown(ROWS)), html(other), html(shown(later)))
    runs, _, _ = imported(path)
    assert [(run.name, column(run, "step")) for run in runs] == [("train", [1, 2, 3]), ("train-table 2", [4, 5])]
    assert runs[0].tally.dropped == {"table without a metric of a training": (1, "table headed name, size")}


def test_a_saved_page(tmp_path: Path) -> None:
    page = f"<!DOCTYPE html>\n<html><head><title>train</title></head><body>{shown(ROWS)}</body></html>"
    path = tmp_path / "train.html"
    path.write_text(page)
    run = one(path)
    assert run.why == "it is a page with a table of steps"
    assert column(run, "response_length") == [128.5, 130.0, 131.25]


def test_a_page_whose_table_stands_far_down(tmp_path: Path) -> None:
    path = tmp_path / "train.html"
    path.write_text(f"<!DOCTYPE html><html><!-- made by nbconvert -->{'<style>x</style>' * 9000}{shown(ROWS)}")
    assert column(one(path), "step") == [1, 2, 3]


def test_tables_without_closed_tags_and_with_other_cells(tmp_path: Path) -> None:
    text = (
        "<table><tr><th>Step<th>Training Loss<th>reward &amp; more<th><b>reward</b>"
        "<tr><td>1<td>0.5<td>9<td><i>0.25</i><tr><td>2<td>0.5<td>9<tr><td>...<td>...<td>...<td>..."
    )
    run = one(ipynb(tmp_path / "train.ipynb", html(text)))
    assert (column(run, "step"), column(run, "reward")) == ([1], [0.25])
    assert list(run.tally.unmapped) == ["reward & more"]
    assert run.tally.dropped["row with more or fewer cells than the head"] == (1, "table 1, row 2")


def test_dicts_that_were_printed(tmp_path: Path) -> None:
    lines = ["{'loss': 0.5, 'reward': 0.25, 'kl': np.float64(0.5), 'epoch': 0.1}\n", "loading...\n", "{'a': 1}\n"]
    lines += ["{'loss': '0.25', 'reward': '0.5', 'kl': nan, 'epoch': '0.2'}\n"]
    run = one(ipynb(tmp_path / "train.ipynb", {"output_type": "stream", "name": "stdout", "text": lines}))
    assert (column(run, "step"), column(run, "reward")) == ([1, 2], [0.25, 0.5])


def test_a_notebook_that_breaks_off(tmp_path: Path) -> None:
    path = ipynb(tmp_path / "train.ipynb", html(shown(ROWS)), html(shown(ROWS)), cut=-1400)
    runs, _, _ = imported(path)
    assert column(runs[0], "reward")[::2] == [0.5, 0.75]
    assert any("the notebook breaks off" in note for note in runs[0].tally.notes)


def test_a_notebook_without_metrics(tmp_path: Path) -> None:
    sft = shown([[1, "0.5"]], ["Step", "Training Loss"])
    with pytest.raises(InputError, match="holds no usable step: 1 x table without a metric of a training"):
        imported(ipynb(tmp_path / "sft.ipynb", html(sft)))


def test_an_error_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text("<!DOCTYPE html><html><title>404</title><body>Not found</body></html>")
    with pytest.raises(InputError, match=r"is a web page without a table of metrics \(an error page, perhaps\)"):
        imported(path)


def test_a_table_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "LARGEST_TABLE", 500)
    path = ipynb(tmp_path / "train.ipynb", html(shown(ROWS)))
    with pytest.raises(InputError, match="table of more than 0 MiB"):
        imported(path)


def test_pages_made_to_be_slow_are_not(tmp_path: Path) -> None:
    for text in ("<table " * 20_000, "<table>" + "<td " * 100_000, "<table>" + "<!--" * 50_000, "<table><tr>" * 20_000):
        path = tmp_path / "a.html"
        path.write_text("<html>jupyter" + text)
        with pytest.raises(InputError):
            imported(path)
