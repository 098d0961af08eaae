from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from child_training import ROWS
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import histories

import lldwatch.recorder
import lldwatch.unsealed
from lldwatch import Monitor, Run, RunExistsError
from lldwatch.errors import RunError, SchemaTooNewError
from lldwatch.recorder import Recorder
from lldwatch.schema import (
    TABLES,
    Actions,
    Gradients,
    Observation,
    Positions,
    Probes,
    Responses,
    RunInfo,
    Tokens,
    arrow_schema,
)
from lldwatch.segments import Segment, write_part

TRAINING = Path(__file__).with_name("child_training.py")


@contextlib.contextmanager
def started(run: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(TRAINING), str(run), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def killed(run: Path, after_steps: int, *options: str) -> tuple[int, int]:
    """Kill -9 a training; the last step it announced, and how many steps then waited for the disk."""
    with started(run, *options) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(after_steps)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.readlines()  # what it still said before it died
    step, waiting = lines[-1].split()
    return int(step), int(waiting)


def steps_of(run: Path) -> list[int]:
    return [observation.step for observation in Run(run).observations()]


def record(recorder: Recorder, steps: range, rows: int = 0) -> None:
    for step in steps:
        table = [Responses(tokens=np.full(rows, 3), log_prob=np.full(rows, -float(step)))] if rows else []
        recorder.record(Observation(step=step, loss=step / 8), table)


def parts(run: Path) -> list[Path]:
    return sorted(run.glob("*/*.parquet"))


@pytest.fixture
def recorder(run_dir: Path) -> Iterator[Recorder]:
    recorder = Recorder(run_dir, RunInfo(trainer="test"), steps_per_part=4)
    yield recorder
    recorder.close()


# what is written is what is read


@given(histories(), st.integers(1, 5), st.data())
@settings(max_examples=40)
def test_observations_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, history: list[Observation], steps_per_part: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("run")
    recorder = Recorder(path, RunInfo(), steps_per_part=steps_per_part)
    for observation in history:
        recorder.record(observation)
        if data.draw(st.booleans()):
            recorder.flush()
    recorder.flush()
    assert repr(Run(path).observations()) == repr(history)  # repr tells NaN from None, and -0.0 from 0.0
    recorder.close()
    run = Run(path)
    assert repr(run.observations()) == repr(history)
    assert run.problems == []


def test_rows_come_back_with_their_step_and_missing_columns_are_null(run_dir: Path, recorder: Recorder) -> None:
    first = Responses(reward=[1.0, np.nan], correct=[True, False], tokens=[4, 2**31 - 1], uid=[2**62, 0])
    second = Responses(tokens=[7], log_prob=[-np.inf])
    probes = Probes(kind=["cross_update", "noise"], tokens=[1, 2], log_prob_before=[-1.0, -2.0])
    recorder.record(Observation(step=5), [first, second, probes])
    recorder.record(Observation(step=6))
    recorder.close()
    run = Run(run_dir)
    responses = run.responses()
    assert responses.schema.equals(arrow_schema("responses"), check_metadata=True)
    assert responses["step"].to_pylist() == [5, 5, 5]
    assert responses["tokens"].to_pylist() == [4, 2**31 - 1, 7]
    assert responses["correct"].to_pylist() == [True, False, None]
    assert responses["uid"].to_pylist() == [2**62, 0, None]
    assert repr(responses["reward"].to_pylist()) == "[1.0, nan, None]"
    assert responses["log_prob"].to_pylist() == [None, None, -np.inf]
    assert run.probes().select(["step", "kind", "tokens"]).to_pylist() == [
        {"step": 5, "kind": "cross_update", "tokens": 1},
        {"step": 5, "kind": "noise", "tokens": 2},
    ]
    assert run.steps()["step"].to_pylist() == [5, 6]


@given(st.integers(1, 40), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_booleans_and_words_survive_at_any_length(
    tmp_path_factory: pytest.TempPathFactory, size: int, choose: random.Random
) -> None:
    path = tmp_path_factory.mktemp("run")
    correct = [choose.random() < 0.5 for _ in range(size)]
    kind = [choose.choice(["noise", "cross_update", "", "ä€"]) for _ in range(size)]
    with_rows = Recorder(path, RunInfo())
    with_rows.record(Observation(step=1), [Responses(correct=correct), Probes(kind=kind, correct=correct)])
    with_rows.close()
    probes = Run(path).probes()
    assert probes["correct"].to_pylist() == correct == Run(path).responses()["correct"].to_pylist()
    assert probes["kind"].to_pylist() == kind


def test_events_come_back_even_with_half_a_character_in_them(run_dir: Path, recorder: Recorder) -> None:
    recorder.event(-1, "start", "ready")
    recorder.event(3, "error", "file caf\udce9.txt is missing\nsecond line")
    recorder.close()
    events = Run(run_dir).events()
    assert events["kind"].to_pylist() == ["start", "error"]
    assert events["detail"].to_pylist() == ["ready", "file caf?.txt is missing\nsecond line"]
    assert events["step"].to_pylist() == [-1, 3]
    assert recorder.dropped_steps == 0


def test_sealing_by_steps_makes_parts_and_removes_the_live_segments(run_dir: Path, recorder: Recorder) -> None:
    for step in range(1, 11):
        record(recorder, range(step, step + 1), rows=2)
        recorder.flush()
    recorder.flush()
    assert [pq.read_metadata(path).num_rows for path in parts(run_dir)] == [8, 8, 4, 4]
    assert sorted(path.name for path in (run_dir / "steps").glob(".*.arrows")) == [".r00000-a000-00000002.arrows"]
    assert steps_of(run_dir) == list(range(1, 11))
    recorder.close()
    assert [pq.read_metadata(path).num_rows for path in parts(run_dir)] == [8, 8, 4, 4, 4, 2]
    assert list(run_dir.glob("*/.*")) == []


def test_sealing_by_time(run_dir: Path) -> None:
    recorder = Recorder(run_dir, RunInfo(), seconds_per_part=0.0)
    record(recorder, range(1, 4))
    recorder.flush()
    assert len(parts(run_dir)) == 3
    recorder.close()


@pytest.mark.parametrize("reader", ["pyarrow", "pandas"])
def test_any_parquet_tool_reads_a_folder_while_it_is_written(run_dir: Path, recorder: Recorder, reader: str) -> None:
    record(recorder, range(1, 11), rows=2)
    recorder.flush()
    for table, rows in (("steps", 8), ("responses", 16)):
        if reader == "pyarrow":
            read = pq.read_table(run_dir / table)
            assert read.schema.field("step").metadata[b"meaning"]
            steps = read["step"].to_pylist()
        else:
            import pandas as pd

            steps = pd.read_parquet(run_dir / table)["step"].tolist()
        assert sorted(steps) == sorted([*range(1, 9)] * (rows // 8))


def test_run_json_says_what_the_run_is_and_when_it_ended(run_dir: Path) -> None:
    recorder = Recorder(run_dir, RunInfo(trainer="mine", config={"lr": 1e-6}, planned_steps=7))
    said = json.loads((run_dir / "run.json").read_text())
    assert (said["trainer"], said["config"], said["planned_steps"], said["attempt"]) == ("mine", {"lr": 1e-6}, 7, 0)
    assert said["started"]
    assert said["ended"] is None
    assert not Run(run_dir).ended
    recorder.close()
    recorder.close()  # a second time does nothing
    assert Run(run_dir).ended


def test_what_comes_after_the_end_is_counted_and_said(
    run_dir: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    record(recorder, range(1, 3))
    recorder.close()
    record(recorder, range(3, 5))
    recorder.flush()
    assert recorder.dropped_steps == 2
    assert steps_of(run_dir) == [1, 2]
    assert "the run is closed: step 3" in caplog.text


# a killed training


@pytest.mark.parametrize("seed", range(5))
def test_kill_9_loses_only_steps_that_still_waited_for_the_disk(tmp_path: Path, seed: int) -> None:
    """Lost are at most the steps in the queue and the one that is just being written."""
    choose = random.Random(seed)
    run = tmp_path / "run"
    step, waiting = killed(run, choose.randint(1, 60), "--delay", str(choose.choice([0, 0.001, 0.004])))
    read = Run(run)
    steps = [observation.step for observation in read.observations()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= step - waiting - 1
    assert read.problems == []
    responses = read.responses()
    assert responses["step"].to_pylist() == [step for step in steps for _ in range(ROWS)]
    assert responses["log_prob"].to_pylist() == [-float(step) for step in steps for _ in range(ROWS)]
    for part in parts(run):
        pq.read_table(part)


def test_kill_9_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    step, _ = killed(tmp_path / "run", 17, "--flush")
    assert steps_of(tmp_path / "run")[:step] == list(range(1, step + 1))


def test_resuming_after_kill_9_goes_on_with_the_numbers_and_seals_what_was_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(run, 13, "--flush")
    before = repr(Run(run).observations())
    last = len(Run(run).observations())
    assert list(run.glob("*/.*.arrows"))
    with Monitor(run, resume=True) as monitor:
        assert not list(run.glob("*/.*.arrows"))
        assert monitor.step(loss=1.0).step == last + 1
        assert monitor.step(loss=2.0).step == last + 2
    read = Run(run)
    assert repr(read.observations()[:last]) == before
    assert [observation.step for observation in read.observations()] == list(range(1, last + 3))
    assert read.info.attempt == 1
    assert read.info.trainer == "custom loop"
    assert len(pq.read_table(run / "steps")) == last + 2
    assert read.problems == []


def test_resuming_twice_without_a_step_in_between_loses_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(run, 7, "--flush")
    before = steps_of(run)
    for attempt in (1, 2):
        Monitor(run, resume=True).close()
        assert Run(run).info.attempt == attempt
    assert steps_of(run) == before


def test_killed_between_the_parts_of_one_sealing_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """The files as they stand before and after each part are copied, as if the process had been killed there."""
    run, moments = tmp_path / "run", []

    def stopping_write_part(table: pa.Table, path: Path) -> None:
        shutil.copytree(run, tmp_path / f"moment{len(moments)}")
        moments.append(tmp_path / f"moment{len(moments)}")
        write_part(table, path)
        shutil.copytree(run, tmp_path / f"moment{len(moments)}")
        moments.append(tmp_path / f"moment{len(moments)}")

    recorder = Recorder(run, RunInfo(), steps_per_part=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lldwatch.unsealed, "write_part", stopping_write_part)
        record(recorder, range(1, 4), rows=2)
        recorder.flush()
    recorder.close()
    assert len(moments) == 4  # before and after responses, before and after steps
    for moment in moments:
        read = Run(moment)
        assert [observation.step for observation in read.observations()] == [1, 2, 3]
        assert read.responses()["step"].to_pylist() == [1, 1, 2, 2, 3, 3]
        assert read.problems == []
        Recorder(moment, RunInfo(), resume=True).close()
        assert steps_of(moment) == [1, 2, 3]
        assert Run(moment).responses()["step"].to_pylist() == [1, 1, 2, 2, 3, 3]
        assert not list(moment.glob("*/.*.arrows"))


def test_rows_of_a_step_that_was_not_completed_are_left_out(tmp_path: Path) -> None:
    run, killed_run = tmp_path / "run", tmp_path / "killed"
    recorder = Recorder(run, RunInfo())
    record(recorder, range(1, 4), rows=2)
    recorder.flush()
    shutil.copytree(run, killed_run)
    recorder.close()
    live = Segment(0, 0, 0).live(killed_run / "steps")
    live.write_bytes(live.read_bytes()[:-200])  # killed while the row of step 3 was written; its responses stand there
    assert steps_of(killed_run) == [1, 2]
    assert Run(killed_run).responses()["step"].to_pylist() == [1, 1, 2, 2]
    with Monitor(killed_run, resume=True) as monitor:
        monitor.observe(Responses(tokens=[9]))
        monitor.step()
    assert Run(killed_run).responses().select(["step", "tokens"]).to_pylist() == [
        *({"step": step, "tokens": 3} for step in (1, 1, 2, 2)),
        {"step": 3, "tokens": 9},
    ]


# going on with a run


def test_going_back_lets_the_newer_attempt_win_everywhere(run_dir: Path, recorder: Recorder) -> None:
    record(recorder, range(1, 8), rows=1)
    recorder.new_attempt(resumed_from=4)
    for step in range(5, 7):
        recorder.record(Observation(step=step, loss=100.0), [Responses(tokens=[9, 9])])
    recorder.flush()
    for closed in (False, True):
        if closed:
            recorder.close()
        run = Run(run_dir)
        assert [(o.step, o.loss) for o in run.observations()] == [
            *((step, step / 8) for step in range(1, 5)),
            (5, 100.0),
            (6, 100.0),
        ]
        assert run.steps()["step"].to_pylist() == [1, 2, 3, 4, 5, 6]
        assert run.responses()["step"].to_pylist() == [1, 2, 3, 4, 5, 5, 6, 6]
        assert (run.info.attempt, run.info.resumed_from) == (1, 4)


def test_an_existing_run_is_refused_and_left_as_it_is(run_dir: Path) -> None:
    first = Recorder(run_dir, RunInfo(trainer="first"))
    record(first, range(1, 3))
    first.close()
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(RunExistsError, match=r"holds a run already.*resume=True"):
        Recorder(run_dir, RunInfo(trainer="second"))
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for resume in (False, True):
        with pytest.raises(RunExistsError, match=r"not a run \(thesis\.tex"):
            Recorder(tmp_path, RunInfo(), resume=resume)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_is_refused_as_a_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="cannot be used as a run directory"):
            Recorder(path, RunInfo())


def test_a_directory_that_cannot_be_locked_is_refused(run_dir: Path) -> None:
    (run_dir / ".lock").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot be written"):
        Recorder(run_dir, RunInfo())


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(run, "--delay", "0.005") as child:
        assert child.stdout is not None
        child.stdout.readline()
        for resume in (False, True):
            with pytest.raises(RunExistsError, match=r"already|written by another process"):
                Recorder(run, RunInfo(), resume=resume)
        assert child.poll() is None
    Recorder(run, RunInfo(), resume=True).close()


def test_two_recorders_of_one_process_cannot_write_one_run(run_dir: Path, recorder: Recorder) -> None:
    with pytest.raises(RunExistsError, match="being written by another process"):
        Recorder(run_dir, RunInfo(), resume=True)


def test_a_torn_run_json_is_said_before_anything_is_written(run_dir: Path) -> None:
    Recorder(run_dir, RunInfo()).close()
    (run_dir / "run.json").write_text('{"trainer": "mi')
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        Recorder(run_dir, RunInfo(), resume=True)
    assert (run_dir / "run.json").read_text() == '{"trainer": "mi'


def test_a_run_of_a_newer_version_is_not_resumed(run_dir: Path) -> None:
    Recorder(run_dir, RunInfo(schema_version=99)).close()
    before = (run_dir / "run.json").read_text()
    with pytest.raises(SchemaTooNewError, match="schema version 99"):
        Recorder(run_dir, RunInfo(), resume=True)
    assert (run_dir / "run.json").read_text() == before


def test_a_damaged_leftover_does_not_stop_the_resuming(
    run_dir: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    record(recorder, range(1, 4))
    recorder.close()
    segment = Segment(0, 0, 0)
    segment.part(run_dir / "steps").write_bytes(b"PAR1 torn")
    segment.live(run_dir / "steps").touch()
    resumed = Recorder(run_dir, RunInfo(), resume=True)
    record(resumed, range(4, 6))
    resumed.close()
    assert steps_of(run_dir) == [4, 5]
    assert len(caplog.records) == 1


def test_an_attempt_never_writes_over_the_files_of_another(run_dir: Path, recorder: Recorder) -> None:
    """`run.json` may be older than the files, when the disk failed while it was written."""
    old = (run_dir / "run.json").read_text()
    record(recorder, range(1, 4))
    recorder.new_attempt(resumed_from=3)
    record(recorder, range(4, 7))
    recorder.close()
    (run_dir / "run.json").write_text(old)
    resumed = Recorder(run_dir, RunInfo(), resume=True)
    record(resumed, range(7, 9))
    resumed.close()
    assert steps_of(run_dir) == list(range(1, 9))
    assert Run(run_dir).info.attempt == 2


# a disk that fails, or is slow


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_full_disk_is_said_once_and_nothing_is_lost_when_it_has_space_again(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(run_dir, RunInfo(), steps_per_part=4)
    first = Segment(0, 0, 0)
    (run_dir / "steps").mkdir()
    first.live(run_dir / "steps").symlink_to("/dev/full")
    part = first.part(run_dir / "steps")
    part.with_name(f".{part.name}.tmp").symlink_to("/dev/full")
    record(recorder, range(1, 12))
    recorder.flush()
    assert len(said(caplog)) == 1
    assert os.strerror(errno.ENOSPC) in said(caplog)[0]
    recorder.close()
    assert recorder.dropped_steps == 0
    assert steps_of(run_dir) == list(range(1, 12))
    assert len(said(caplog)) == 1


def test_a_folder_that_cannot_be_written_for_a_while_loses_nothing(
    run_dir: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir / "steps").touch()  # a file where a folder should be
    record(recorder, range(1, 13), rows=2)
    recorder.flush()
    (run_dir / "steps").unlink()
    record(recorder, range(13, 16), rows=2)
    recorder.close()
    assert steps_of(run_dir) == list(range(1, 16))
    assert Run(run_dir).responses()["step"].to_pylist() == [step for step in range(1, 16) for _ in range(2)]
    assert recorder.dropped_steps == 0
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("healed", [False, True])
def test_a_disk_that_fails_for_long_loses_steps_and_each_is_counted(
    run_dir: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture, healed: bool
) -> None:
    (run_dir / "steps").touch()
    record(recorder, range(1, 40))
    recorder.flush()
    if healed:
        (run_dir / "steps").unlink()
    record(recorder, range(40, 43))
    recorder.close()
    recorder_lost = recorder.dropped_steps
    if not healed:
        (run_dir / "steps").unlink()
        assert recorder_lost == 42
        assert Run(run_dir).observations() == []
        return
    kept = steps_of(run_dir)
    assert kept == list(range(43 - len(kept), 43))
    assert len(kept) + recorder_lost == 42
    assert recorder_lost % 16 == 0  # four parts at a time
    assert len(said(caplog)) == 1
    assert f"{recorder_lost} steps were not recorded" in Run(run_dir).events()["detail"].to_pylist()[-1]


def test_parts_that_cannot_be_written_leave_the_live_segments_to_be_read(
    run_dir: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(table: pa.Table, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(lldwatch.unsealed, "write_part", full)
        record(recorder, range(1, 41), rows=1)
        recorder.flush()
        assert parts(run_dir) == []
        assert steps_of(run_dir) == list(range(1, 41))
    record(recorder, range(41, 43), rows=1)
    recorder.close()
    assert recorder.dropped_steps == 0
    assert steps_of(run_dir) == list(range(1, 43))
    assert Run(run_dir).responses()["step"].to_pylist() == list(range(1, 43))
    assert len(said(caplog)) == 1


def test_an_error_of_pyarrow_neither_ends_the_thread_nor_piles_up_steps(
    run_dir: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(table: pa.Table, path: Path) -> None:
        raise pa.ArrowNotImplementedError("no zstd in this build")

    monkeypatch.setattr(lldwatch.unsealed, "write_part", broken)
    record(recorder, range(1, 41))
    recorder.close()
    assert recorder._unsealed.rows == 0
    assert recorder.dropped_steps == 0
    assert steps_of(run_dir) == list(range(1, 41))
    assert "no zstd" in said(caplog)[0]


def test_a_run_json_that_cannot_be_written_is_said_and_the_steps_are_kept(
    run_dir: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir / ".run.json.tmp").mkdir()
    record(recorder, range(1, 4))
    recorder.close()
    assert len(said(caplog)) == 1
    assert steps_of(run_dir) == [1, 2, 3]
    assert not Run(run_dir).ended


def test_going_back_while_the_disk_fails_mixes_no_attempts(run_dir: Path, recorder: Recorder) -> None:
    (run_dir / "steps").touch()
    record(recorder, range(1, 4))
    recorder.new_attempt(resumed_from=1)
    recorder.flush()
    (run_dir / "steps").unlink()
    record(recorder, range(2, 5))
    recorder.close()
    assert steps_of(run_dir) == [2, 3, 4]
    assert Run(run_dir).steps()["step"].to_pylist() == [2, 3, 4]
    assert recorder.dropped_steps == 3


@contextlib.contextmanager
def hanging(run: Path, table: str, **options: Any) -> Iterator[tuple[Recorder, threading.Event]]:
    """A recorder whose live segment of a table hangs when it is opened, until the event is set.

    As on a network disk that is gone.
    """
    recorder = Recorder(run, RunInfo(), **options)
    (run / table).mkdir()
    pipe = Segment(0, 0, 0).live(run / table)
    os.mkfifo(pipe)
    healed = threading.Event()

    def heal() -> None:
        healed.wait(60)
        os.close(os.open(pipe, os.O_RDONLY))
        pipe.unlink(missing_ok=True)

    healer = threading.Thread(target=heal)
    healer.start()
    try:
        yield recorder, healed
    finally:
        healed.set()
        healer.join(10)
        recorder.close()
        recorder._thread.join(10)


def test_a_step_stands_there_only_when_its_rows_do(run_dir: Path) -> None:
    with hanging(run_dir, "responses") as (recorder, _):
        record(recorder, range(1, 3), rows=2)
        recorder.flush(timeout=0.3)
        assert steps_of(run_dir) == []
    assert steps_of(run_dir) == [1, 2]
    assert Run(run_dir).responses()["step"].to_pylist() == [1, 1, 2, 2]


def test_steps_that_a_slow_disk_does_not_take_are_counted(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with hanging(run_dir, "steps", queue_steps=5) as (recorder, healed):
        record(recorder, range(1, 31))
        assert recorder.dropped_steps in (24, 25)  # five wait, and one may be on its way
        assert len(said(caplog)) == 1
        assert "the disk is too slow: step " in said(caplog)[0]
        healed.set()
    steps = steps_of(run_dir)
    assert len(steps) + recorder.dropped_steps == 30
    assert steps == sorted(set(steps))
    assert steps[:5] == [1, 2, 3, 4, 5]
    assert f"{recorder.dropped_steps} steps were not recorded" in Run(run_dir).events()["detail"].to_pylist()[-1]


def test_a_disk_that_hangs_does_not_keep_the_training_from_ending(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lldwatch.recorder, "_CLOSE_SECONDS", 0.05)
    with hanging(run_dir, "steps") as (recorder, _):
        record(recorder, range(1, 4))
        recorder.close()
        assert len(said(caplog)) == 1
        assert "could not be written" in said(caplog)[0]
        assert not Run(run_dir).ended
    assert steps_of(run_dir) == [1, 2, 3]  # what it had in hand is written, should the disk come back


# what recording costs in imports


def test_recording_loads_neither_torch_nor_pandas_nor_dash(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(TRAINING.parent)!r})
from child_training import responses
from lldwatch import Monitor, Probes, Run
run = sys.argv[1]
with Monitor(run) as monitor:
    for step in (1, 2, 3):
        monitor.observe(responses(step))
        monitor.probe(Probes(kind=["noise"], tokens=[3], log_prob_before=[-1.0], log_prob_after=[-1.0]))
        monitor.step(loss=1.0)
assert len(Run(run).observations()) == 3
print([name for name in ("torch", "pandas", "dash", "plotly") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_every_table_is_written_by_one_step(run_dir: Path, recorder: Recorder) -> None:
    rows = [
        Responses(tokens=[3]),
        Probes(kind=["noise"], tokens=[3], log_prob_before=[-1.0], log_prob_after=[-1.0]),
        Actions(kind=["post_update"], action=[0], tokens=[3]),
        Positions(after_feedback=[True], position=[2], tokens=[3]),
        Tokens(kind=["cross_update"], token=[7], text=["</s>"], action=[-1]),
        Gradients(update=[0], module=["block 3"], grad_norm=[math.inf], parameters=[2**40]),
    ]
    recorder.record(Observation(step=1), rows)
    recorder.event(1, "start", "x")
    recorder.close()
    assert sorted(path.parent.name for path in parts(run_dir)) == sorted(TABLES)
    run = Run(run_dir)
    for table in rows:
        (row,) = getattr(run, table.TABLE)().to_pylist()
        given = {name: column[0] for name, column in table.columns().items() if column is not None}
        assert {name: value for name, value in row.items() if value is not None} == {"step": 1, **given}
