"""Runs that earlier versions wrote stay readable; `old_runs/freeze.py` keeps one of each schema version."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lldwatch import Observation, Responses, Run, RunInfo, diagnose
from lldwatch.recorder import Recorder
from lldwatch.schema import SCHEMA_VERSION

OLD = Path(__file__).parent / "old_runs"


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_a_run_of_every_schema_version_is_kept_and_diagnosed(version: int) -> None:
    run = Run(OLD / f"schema{version}")
    assert run.info.schema_version == version
    assert len(run.observations()) == 6
    assert diagnose(run.observations())[-1].step == 6
    assert run.problems == []


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_no_column_is_lost_or_read_as_something_else(version: int) -> None:
    path = OLD / f"schema{version}"
    for folder in (folder for folder in path.iterdir() if folder.is_dir()):
        written = pq.read_table(folder)
        read = getattr(Run(path), folder.name)()
        assert read.select(written.column_names).to_pydict() == written.to_pydict(), folder.name
        assert read.select(written.column_names).schema.types == written.schema.types, folder.name


def test_a_run_of_schema_version_1_is_read_as_it_was_written() -> None:
    run = Run(Path(__file__).parent / "old_runs" / "schema1")
    assert run.info.schema_version == 1
    observations = run.observations()
    assert [step.step for step in observations] == list(range(1, 7))
    assert observations[-1].cross_update_change == pytest.approx(-0.06)
    assert observations[-1].post_update_correct is None  # a column that came later
    assert run.responses()["log_prob"].to_pylist() == 6 * [-1.0, -2.5, -3.0]
    assert run.responses()["low_confidence_tokens"].to_pylist() == 18 * [None]
    assert run.probes()["kind"].to_pylist() == 6 * ["cross_update", "cross_update", "noise"]
    assert len(run.tokens()) == len(run.actions()) == len(run.positions()) == len(run.gradients()) == 0
    assert len(run.events()) == 1
    assert run.problems == []


def test_a_run_of_schema_version_1_can_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(Path(__file__).parent / "old_runs" / "schema1", path)
    with contextlib.closing(Recorder(path, RunInfo(), resume=True)) as recorder:
        recorder.record(Observation(step=7, fixed_anchor_change=0.5), [Responses(low_confidence_tokens=[3])])
    run = Run(path)
    assert [step.fixed_anchor_change for step in run.observations()] == [None] * 6 + [0.5]
    assert run.responses()["low_confidence_tokens"].to_pylist() == 18 * [None] + [3]
    assert run.problems == []
