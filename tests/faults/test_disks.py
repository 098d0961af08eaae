from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from disks import dropped_events, full_disk, may_mount, read_only, slow_disk
from trainings import Trainings, steps_of

from lldwatch import Observation, Responses, Run
from lldwatch.recorder import Recorder
from lldwatch.schema import RunInfo
from lldwatch.segments import write_part
from lldwatch.unsealed import Unsealed


def record(recorder: Recorder, steps: range) -> None:
    for step in steps:
        recorder.record(Observation(step=step), [Responses(tokens=[step, step])])
    recorder.flush()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


mounts = pytest.mark.skipif(not may_mount(), reason="no mount namespace can be made here (unshare, tmpfs)")


@mounts
def test_a_disk_that_fills_up_costs_steps_and_each_is_counted(tmp_path: Path) -> None:
    found = full_disk(tmp_path / "disk", recovers=False)
    assert len(found["steps"]) + found["dropped"] == 600
    assert found["steps"] == list(range(1, len(found["steps"]) + 1))
    assert 0 < len(found["steps"]) < 500
    assert found["rows"]
    assert found["problems"] == []
    assert len(found["said"]) == 1
    assert "No space left on device" in found["said"][0]
    assert found["torn"] == []  # the training needs the space


@mounts
def test_a_disk_that_has_space_again_is_written_again(tmp_path: Path) -> None:
    found = full_disk(tmp_path / "disk", recovers=True)
    assert len(found["steps"]) + found["dropped"] == 600
    assert found["steps"][-200:] == list(range(401, 601))
    assert found["dropped"] > 0
    assert found["rows"]
    assert found["ended"]
    assert found["problems"] == []
    assert f"{found['dropped']} steps were not recorded" in found["events"][-1]


def test_a_directory_that_is_read_only_for_a_while(trainings: Trainings, tmp_path: Path) -> None:
    found = read_only(trainings, tmp_path)
    assert found["refused"]
    assert found["problems"] == []
    assert len(found["steps"]) + found["dropped"] == 400
    assert found["steps"][:20] == list(range(1, 21))
    assert found["steps"][-150:] == list(range(251, 401))


def test_a_slow_disk_costs_rows_and_not_time_and_says_so_while_it_runs(trainings: Trainings, tmp_path: Path) -> None:
    found = slow_disk(trainings, tmp_path, (0.02, 0.2))
    assert len(found["steps"]) + found["dropped"] == 300
    assert found["dropped"] > 0
    assert found["shown_while_it_ran"]
    assert f"{found['dropped']} steps were not recorded" in found["events"][-1]


# a directory that is removed


def test_a_directory_that_is_removed_is_made_again_and_loses_what_was_sealed(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(run_dir, RunInfo(trainer="test"), steps_per_part=4)
    record(recorder, range(1, 7))  # 1 to 4 are sealed, or all of them
    shutil.rmtree(run_dir)
    record(recorder, range(7, 12))
    assert steps_of(run_dir)[-5:] == [7, 8, 9, 10, 11]
    record(recorder, range(12, 15))
    recorder.close()
    run = Run(run_dir)
    steps = steps_of(run_dir)
    assert steps == list(range(steps[0], 15))
    assert steps[0] <= 7
    assert run.responses()["step"].to_pylist() == [step for step in steps for _ in range(2)]
    assert (run.info.trainer, run.ended) == ("test", True)
    assert [row["kind"] for row in run.events().to_pylist()] == ["error"]
    assert "was removed" in said(caplog)[-1]
    assert recorder.dropped_steps == 0
    Recorder(run_dir, RunInfo(), resume=True).close()  # it is let go


@pytest.mark.parametrize("other_ended", [False, True])
def test_where_another_training_has_begun_in_its_place_nothing_is_written(
    run_dir: Path, caplog: pytest.LogCaptureFixture, other_ended: bool
) -> None:
    recorder = Recorder(run_dir, RunInfo(started="2026-01-01T00:00:00+00:00"), steps_per_part=4)
    record(recorder, range(1, 4))
    shutil.rmtree(run_dir)
    other = Recorder(run_dir, RunInfo(trainer="other"))
    record(other, range(100, 103))
    if other_ended:
        other.close()
    record(recorder, range(4, 20))
    recorder.event(19, "note", "x")
    recorder.close()
    other.close()
    assert steps_of(run_dir) == [100, 101, 102]
    run = Run(run_dir)
    assert run.info.trainer == "other"
    assert len(run.events()) == 0
    assert run.problems == []
    assert recorder.dropped_steps == 19
    assert len([words for words in said(caplog) if "no further step is recorded" in words]) == 1


def test_a_lock_that_somebody_swept_away_is_taken_again(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(run_dir, RunInfo(), steps_per_part=4)
    record(recorder, range(1, 3))
    (run_dir / ".lock").unlink()
    record(recorder, range(3, 10))
    recorder.close()
    assert steps_of(run_dir) == list(range(1, 10))
    assert recorder.dropped_steps == 0


def test_a_disk_that_takes_no_rows_does_not_fill_the_memory(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lldwatch.recorder._MOST_ROWS", 100)
    recorder = Recorder(run_dir, RunInfo(), steps_per_part=1000)
    (run_dir / "responses").touch()  # a file where a folder should be
    record(recorder, range(1, 400))
    assert recorder._unsealed.rows <= 300
    (run_dir / "responses").unlink()
    record(recorder, range(400, 403))
    recorder.close()
    steps = steps_of(run_dir)
    assert len(steps) + recorder.dropped_steps == 402
    assert steps[-3:] == [400, 401, 402]
    assert dropped_events(run_dir)


def test_rows_that_wait_for_a_slow_disk_are_bounded(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lldwatch.recorder._MOST_ROWS", 50)
    recorder, healed = Recorder(run_dir, RunInfo()), threading.Event()
    record(recorder, range(1, 3))  # two rows and a step each
    recorder.soon(lambda: healed.wait(30) and None)
    for step in range(3, 103):
        recorder.record(Observation(step=step), [Responses(tokens=[step, step])])
    assert 70 < recorder.dropped_steps < 100
    healed.set()
    recorder.close()
    assert len(steps_of(run_dir)) + recorder.dropped_steps == 102


def test_a_part_without_its_steps_does_not_hide_what_is_still_added_to_its_live_segment(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk takes the rows, and is full before it takes the steps."""

    def full(table: pa.Table, path: Path) -> None:
        if path.parent.name == "steps":
            raise OSError(errno.ENOSPC, "full")
        write_part(table, path)

    recorder = Recorder(run_dir, RunInfo(), steps_per_part=4)
    with monkeypatch.context() as patch:
        patch.setattr("lldwatch.unsealed.write_part", full)
        record(recorder, range(1, 5))
        assert len(said(caplog)) == 1
        record(recorder, range(5, 8))
        assert Run(run_dir).responses()["step"].to_pylist() == [step for step in range(1, 8) for _ in range(2)]
    recorder.close()
    assert Run(run_dir).responses()["step"].to_pylist() == [step for step in range(1, 8) for _ in range(2)]


def test_rows_of_a_step_that_the_disk_took_in_part_do_not_stand_without_it(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Step 3's rows are in the live segment when the disk is full, and later steps follow in another one."""
    recorder, real = Recorder(run_dir, RunInfo(), steps_per_part=2), Unsealed._append_live

    def full(unsealed: Unsealed, table: str, batch: pa.RecordBatch) -> None:
        if table == "steps":
            raise OSError(errno.ENOSPC, "full")
        real(unsealed, table, batch)

    def never(table: pa.Table, path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    record(recorder, range(1, 3))
    with monkeypatch.context() as patch:
        patch.setattr(Unsealed, "_append_live", full)
        patch.setattr("lldwatch.unsealed.write_part", never)
        record(recorder, range(3, 11))
    record(recorder, range(11, 13))
    recorder.close()
    steps = steps_of(run_dir)
    assert steps == [1, 2, 11, 12]
    assert recorder.dropped_steps == 8
    assert Run(run_dir).responses()["step"].to_pylist() == [step for step in steps for _ in range(2)]


def test_half_a_part_is_removed_when_the_disk_fails_and_when_a_killed_run_is_resumed(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(run_dir, RunInfo(), steps_per_part=4)

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("lldwatch.segments.os.replace", full)
        record(recorder, range(1, 5))
        assert said(caplog)
        while list(run_dir.glob("*/*.tmp")):  # it may be in the middle of another try
            time.sleep(0.01)
    recorder.close()
    torn = run_dir / "steps" / ".r00000-a000-00000009.parquet.tmp"
    torn.write_bytes(b"PAR1")
    Recorder(run_dir, RunInfo(), resume=True).close()
    assert not torn.exists()
    assert steps_of(run_dir) == [1, 2, 3, 4]
