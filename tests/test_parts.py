from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lldwatch import Run
from lldwatch.parts import Part, attempt_ends
from lldwatch.recorder import Recorder
from lldwatch.schema import Observation, Probes, Responses, RunInfo, Tokens
from lldwatch.segments import STEPS_KEY, Segment


def write(path: Path, steps: range, *, resume: bool = False, mark: float = 0.0, close: bool = True) -> Recorder:
    """Each step has two responses, two re-scored ones, and a token."""
    recorder = Recorder(path, RunInfo(trainer="test"), steps_per_part=4, resume=resume)
    for step in steps:
        rows = [
            Responses(uid=[2 * step, 2 * step + 1], tokens=[step, 3], log_prob=[mark, mark]),
            Probes(kind=np.array(["cross_update", "fixed"]), uid=[2 * step, 1], lag=[1, step], tokens=[4, 4]),
            Probes(kind=np.array(["in_batch"]), tokens=[7]),
            Tokens(kind=np.array(["cross_update"]), uid=[step], position=[0], text=np.array(["<b>"])),
        ]
        recorder.record(Observation(step=step, loss=mark), rows)
        recorder.flush()
    if close:
        recorder.close()
    return recorder


def rows_of(run: Run, table: str, columns: list[str], **asked: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for batch in run.scan(table, columns, **asked):
        assert list(batch) == columns
        found += zip(*(np.ma.asarray(batch[name]).tolist() for name in columns), strict=True)
    return found


def expected(run: Run, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    whole: pa.Table = getattr(run, table)()
    return [tuple(row[name] for name in columns) for row in whole.select(columns).to_pylist()]


COLUMNS = {
    "responses": ["step", "uid", "tokens", "log_prob", "reward"],
    "probes": ["step", "kind", "uid", "lag", "tokens"],
    "tokens": ["step", "uid", "text", "entropy"],
    "steps": ["step", "loss", "reward"],
}


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), back=st.lists(st.integers(0, 6), min_size=4))
@settings(max_examples=15)
def test_a_scan_gives_what_the_whole_table_does_however_often_it_was_resumed(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], back: list[int]
) -> None:
    path, first = tmp_path_factory.mktemp("runs") / "run", 1
    for attempt, (length, steps_back) in enumerate(zip(lengths, back, strict=False)):
        first = max(1, first - steps_back) if attempt else first
        write(path, range(first, first + length), resume=attempt > 0, mark=float(attempt))
        first += length
    run = Run(path)
    for table, columns in COLUMNS.items():
        assert rows_of(run, table, columns) == expected(run, table, columns)


def test_a_run_that_is_being_written_is_scanned_to_its_last_step(run_dir: Path) -> None:
    recorder = write(run_dir, range(1, 11), close=False)
    run = Run(run_dir)
    assert [part.sealed for part in run.parts("responses")] == [True, True, False]
    for table, columns in COLUMNS.items():
        assert rows_of(run, table, columns) == expected(run, table, columns)
    recorder.close()
    assert all(part.sealed for part in run.parts("responses"))
    assert rows_of(run, "responses", COLUMNS["responses"]) == expected(run, "responses", COLUMNS["responses"])


@pytest.mark.parametrize("steps", [(3, 7), (None, 2), (9, None), (4, 4), (50, None), (7, 3)])
def test_only_the_steps_that_are_asked_for(run_dir: Path, steps: tuple[int | None, int | None]) -> None:
    write(run_dir, range(1, 11))
    low, high = steps[0] or 0, steps[1] or 99
    wanted = [row for row in expected(Run(run_dir), "responses", ["step", "uid"]) if low <= row[0] <= high]
    assert rows_of(Run(run_dir), "responses", ["step", "uid"], steps=steps) == wanted


def test_only_the_rows_that_have_a_value_or_one_of_several(run_dir: Path) -> None:
    write(run_dir, range(1, 11))
    run = Run(run_dir)
    assert rows_of(run, "probes", ["uid"], where={"kind": "fixed"}) == [(1,)] * 10
    assert rows_of(run, "probes", ["kind"], where={"uid": [4, 6, 999]}) == [("cross_update",)] * 2
    assert rows_of(run, "probes", ["step"], where={"kind": "cross_update", "uid": 8}) == [(4,)]
    assert rows_of(run, "probes", ["step"], where={"uid": []}) == []


def test_the_parts_of_other_steps_are_not_opened(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run_dir, range(1, 13))
    run, opened = Run(run_dir), []
    parts = run.parts("responses")
    monkeypatch.setattr(pq, "ParquetFile", lambda path: opened.append(path) or pytest.fail("not asked for"))
    assert list(run.scan("responses", ["uid"], steps=(100, 200), parts=parts)) == []
    assert not opened


def test_a_sealed_part_keeps_its_identity_and_an_attempt_that_is_cut_off_changes_it(run_dir: Path) -> None:
    write(run_dir, range(1, 11))
    before = Run(run_dir).parts("responses")
    assert before == Run(run_dir).parts("responses")
    assert [(part.low, part.high, part.rows) for part in before] == [(1, 4, 8), (5, 8, 8), (9, 10, 4)]
    write(run_dir, range(7, 9), resume=True)
    after = Run(run_dir).parts("responses")
    assert after[0] == before[0]
    assert after[1] == Part(Segment(0, 0, 1), True, 8, 5, 6)
    assert [part.low for part in after] == [1, 5, 7]


def test_missing_is_masked_and_nan_is_not(run_dir: Path) -> None:
    with_nan = Responses(uid=[1, 2], tokens=[3, 4], log_prob=[np.nan, -1.0])
    recorder = Recorder(run_dir, RunInfo())
    recorder.record(Observation(step=1), [with_nan, Responses(uid=[3], tokens=[5])])
    recorder.close()
    (batch,) = Run(run_dir).scan("responses", ["log_prob", "correct", "tokens"])
    assert np.ma.getmaskarray(batch["log_prob"]).tolist() == [False, False, True]
    assert np.isnan(batch["log_prob"][0])
    assert np.ma.getmaskarray(batch["correct"]).all()
    assert not np.ma.isMaskedArray(batch["tokens"])


@pytest.mark.parametrize("content", [b"not a table", b"", b"PAR1" + bytes(40) + b"PAR1"])
def test_a_part_that_cannot_be_read_is_named_and_the_others_are_scanned(run_dir: Path, content: bytes) -> None:
    write(run_dir, range(1, 11))
    Segment(0, 0, 1).part(run_dir / "responses").write_bytes(content)
    run = Run(run_dir)
    assert {step for (step,) in rows_of(run, "responses", ["step"])} == {1, 2, 3, 4, 9, 10}
    assert any("responses/r00000-a000-00000001.parquet cannot be read" in line for line in run.problems)


def test_a_part_of_another_tool_is_named(run_dir: Path) -> None:
    write(run_dir, range(1, 11))
    pq.write_table(pa.table({"step": [5, 6], "uid": [1, 2]}), Segment(0, 0, 1).part(run_dir / "responses"))
    run = Run(run_dir)
    assert {step for (step,) in rows_of(run, "responses", ["step"])} == {1, 2, 3, 4, 9, 10}
    assert "was not written by lldwatch" in " ".join(run.problems)


def test_a_part_that_vanishes_after_it_was_listed_is_named(run_dir: Path) -> None:
    write(run_dir, range(1, 11))
    run = Run(run_dir)
    parts = run.parts("responses")
    Segment(0, 0, 1).part(run_dir / "responses").unlink()
    assert {step for (step,) in rows_of(run, "responses", ["step"], parts=parts)} == {1, 2, 3, 4, 9, 10}
    assert run.problems


def test_a_table_that_was_not_recorded_has_no_parts(run_dir: Path) -> None:
    Recorder(run_dir, RunInfo()).close()
    assert Run(run_dir).parts("responses") == []
    assert list(Run(run_dir).scan("gradients", ["module"])) == []


def test_events_are_of_all_attempts(run_dir: Path) -> None:
    write(run_dir, range(1, 4))
    write(run_dir, range(2, 3), resume=True)
    run = Run(run_dir)
    assert rows_of(run, "events", ["step", "kind"]) == expected(run, "events", ["step", "kind"])


def test_a_scan_imports_no_pandas(run_dir: Path) -> None:
    """Another thread may be drawing with plotly, which takes a half imported pandas for a whole one."""
    write(run_dir, range(1, 11))
    code = (
        "import sys; from lldwatch import Run; run = Run(sys.argv[1]); run.parts('probes')\n"
        "for table in ('responses', 'probes', 'tokens', 'steps'):\n"
        "    list(run.scan(table, ['step'], where={'step': [2, 3]}))\n"
        "list(run.scan('probes', ['kind', 'uid', 'correct', 'lag'], where={'kind': 'fixed'}))\n"
        "sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run_dir)], check=True)


def test_where_attempts_end() -> None:
    assert attempt_ends([]) == {}
    assert attempt_ends([(0, 1, 4), (0, 5, 10), (1, 7, 12), (2, 9, 9)]) == {0: 7, 1: 9, 2: 10}


def test_the_steps_of_a_part_of_an_older_version_are_read_from_its_rows(run_dir: Path) -> None:
    write(run_dir, range(1, 11))
    parts = Run(run_dir).parts("responses")
    for path in run_dir.glob("*/*.parquet"):
        table = pq.read_table(path)
        metadata = {name: value for name, value in table.schema.metadata.items() if name != STEPS_KEY}
        assert len(metadata) == len(table.schema.metadata) - 1
        pq.write_table(table.replace_schema_metadata(metadata), path)
    run = Run(run_dir)
    assert run.parts("responses") == parts
    for table_name, columns in COLUMNS.items():
        assert rows_of(run, table_name, columns) == expected(run, table_name, columns)
