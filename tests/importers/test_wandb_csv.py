from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from imports import FOREIGN, column, imported, one

from lldwatch.importers import wandb_csv


def panel(path: Path, axis: str, columns: Mapping[str, Any], bounds: bool = True) -> Path:
    """As the web page writes it: all cells in quotes, and minimum and maximum beside each column."""
    head = [axis]
    for name in list(columns)[1:]:
        head += [name, f"{name}__MIN", f"{name}__MAX"] if bounds else [name]
    lines = [",".join(f'"{name}"' for name in head)]
    for row in zip(*columns.values(), strict=True):
        cells = [row[0], *(cell for value in row[1:] for cell in [value] * (3 if bounds else 1))]
        lines.append(",".join("" if cell is None else f'"{cell}"' for cell in cells))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_one_panel_with_one_run(tmp_path: Path) -> None:
    columns = {"x": [1, 2, 3], "hearty-leaf-10 - train/reward": [0.25, "NaN", 0.5]}
    run = one(panel(tmp_path / "wandb_export.csv", "train/global_step", columns))
    assert (run.format, run.name) == ("wandb-csv", "hearty-leaf-10")
    assert run.why == 'its columns are named as W&B exports them, "hearty-leaf-10 - train/reward"'
    assert column(run, "step") == [1, 2, 3]
    assert column(run, "reward")[::2] == [0.25, 0.5]
    assert math.isnan(column(run, "reward")[1])


def test_several_runs_side_by_side(tmp_path: Path) -> None:
    columns = {"x": [0, 1, 2], "a - train/kl": [None, 0.5, 1.0], "b - 2 - train/kl": [0.25, 0.5, None]}
    runs, _, out = imported(panel(tmp_path / "a.csv", "Step", columns))
    told = {run.name: (column(run, "step"), column(run, "kl")) for run in runs}
    assert told == {"a": ([1, 2], [0.5, 1.0]), "b - 2": ([0, 1], [0.25, 0.5])}
    assert sorted(path.name for path in out.iterdir()) == ["a", "b---2"]


def test_panels_of_a_folder_are_of_the_same_runs(tmp_path: Path) -> None:
    names = {"reward": "reward", "entropy": "entropy", "completions/mean_length": "response_length"}
    folder = tmp_path / "panels"
    folder.mkdir()
    for number, tag in enumerate(names):
        steps = [*range(10, 0, -1)] if number == 1 else [*range(1, 11)]
        values = {
            f"{run} - train/{tag}": [step * (1 + number) * sign for step in steps]
            for run, sign in (("a", 1), ("b", -1))
        }
        panel(folder / f"{number}.csv", "train/global_step", {"x": steps, **values})
    runs, tally, _ = imported(folder)
    assert [(run.name, run.steps, sorted(run.measured)) for run in runs] == [
        (name, 10, ["entropy", "response_length", "reward"]) for name in ("a", "b")
    ]
    assert column(runs[0], "entropy") == [2.0 * step for step in range(1, 11)]
    assert (tally.notes, runs[0].tally.notes, runs[0].tally.dropped) == ([], [], {})


def test_the_same_panel_exported_twice(tmp_path: Path) -> None:
    folder = tmp_path / "panels"
    folder.mkdir()
    panel(folder / "a.csv", "Step", {"x": [1, 2], "r - train/reward": [0.5, 0.75]})
    panel(folder / "a (1).csv", "Step", {"x": [1, 2], "r - train/reward": [0.5, 1.0]})
    run = one(folder)
    assert column(run, "reward") == [0.5, 0.75]
    assert list(run.tally.dropped) == ["train/reward given again for the same step: the last one holds"]


def test_an_axis_that_is_a_time(tmp_path: Path) -> None:
    columns = {"x": ["12.5", "13.5"], "r - _step": [1, 2], "r - train/reward": [0.5, 0.75]}
    run = one(panel(tmp_path / "a.csv", "Relative Time (Process)", columns))
    assert (column(run, "step"), column(run, "reward")) == ([1, 2], [0.5, 0.75])


def test_without_any_step_nothing_is_made_up(tmp_path: Path) -> None:
    path = panel(tmp_path / "a.csv", "Relative Time (Process)", {"x": [1.5, 2], "r - train/reward": [0.5, 0.75]})
    with pytest.raises(ValueError, match=r"row without a step \(Relative Time \(Process\) is none\)"):
        imported(path)
    axis = "Relative Time (Process)"
    assert column(
        one(panel(tmp_path / "b.csv", axis, {"x": [1, 2], "r - train/reward": [1, 2]}), step_column=axis), "step"
    ) == [1, 2]


def test_a_sign_within_a_tag(tmp_path: Path) -> None:
    columns = {"x": [1], "my - run - eval - score": [3.0], "my - run - train/grad_norm": [2.0]}
    runs, _, _ = imported(panel(tmp_path / "a.csv", "Step", columns))
    assert [(run.name, column(run, "grad_norm")) for run in runs] == [("my - run", [2.0])]
    assert list(runs[0].tally.unmapped) == ["score"]


def test_rows_that_are_damaged(tmp_path: Path) -> None:
    path = panel(tmp_path / "a.csv", "Step", {"x": [1, "x", 3], "r - reward": [0.5, 0.5, "words"]})
    with path.open("a") as file:
        file.write('"4","0.5"')
    run = one(path)
    assert column(run, "step") == [1]
    assert list(run.tally.dropped) == [
        "row without a step (Step is none)",
        "reward that is not a number",
        "row with more or fewer cells than the head",
        "row without anything that lldwatch measures",
    ]


def test_more_cells_than_an_export_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_csv, "MOST_CELLS", 2)
    run = one(panel(tmp_path / "a.csv", "Step", {"x": [1, 2, 3], "r - reward": [1, 2, 3]}))
    assert column(run, "step") == [1, 2]
    assert run.tally.notes == ["more than 2 cells: what stands after these was left out"]


def test_the_sample() -> None:
    folder = FOREIGN / "wandb"
    if not folder.is_dir():
        pytest.skip("no sample")
    runs = one_of_each(folder)
    assert sorted(runs) == ["hearty-leaf-10", "solar-dew-11"]
    assert runs["solar-dew-11"] == (30, ["grad_norm", "reward"])


def one_of_each(folder: Path) -> dict[str, tuple[int, list[str]]]:
    import tempfile

    from lldwatch.importers.job import Options, import_logs

    with tempfile.TemporaryDirectory() as out:
        runs, _ = import_logs(folder, Path(out, "out"), Options(format="wandb-csv", progress=False))
        return {run.name: (run.steps, sorted(run.measured)) for run in runs}


def test_numbers_of_the_sample_are_those_of_the_file(tmp_path: Path) -> None:
    source = FOREIGN / "wandb" / "wandb_export_grad_norm.csv"
    if not source.is_file():
        pytest.skip("no sample")
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    runs, _, _ = imported(path)
    lines = [[cell.strip('"') for cell in line.split(",")] for line in path.read_text().splitlines()]
    for run, place in zip(sorted(runs, key=lambda one: one.name), (1, 4), strict=True):
        theirs = [float(line[place]) for line in lines[1:] if line[place]]
        assert column(run, "grad_norm") == pytest.approx(theirs, rel=1e-6)
