from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from object_store import Connection

import lldwatch.stores.store
import lldwatch.stores.upload
import lldwatch.unsealed
from lldwatch import Monitor, Observation, Responses, Run, RunError, RunExistsError, RunNotFoundError
from lldwatch.recorder import Recorder
from lldwatch.schema import RunInfo
from lldwatch.segments import INFO_FILE, segment_of
from lldwatch.stores.staging import local_folder, staging_folder
from lldwatch.stores.store import Store
from lldwatch.stores.upload import upload_run

TRAINING = Path(__file__).with_name("child_training.py")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lldwatch.stores.store, "_STALL_SECONDS", 0.5)
    monkeypatch.setattr(lldwatch.stores.store, "_ATTEMPTS", 1)
    monkeypatch.setattr(lldwatch.stores.upload, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(lldwatch.stores.upload, "_MOST_SECONDS", 0.2)


@pytest.fixture
def url(s3: str) -> str:
    return f"{s3}/run"


@pytest.fixture
def connection(s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    made = Connection(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{made.address}")
    yield made
    made.close()


def recorder_at(url: str, **options: Any) -> Recorder:
    return Recorder(url, RunInfo(trainer="test"), steps_per_part=4, **options)


def record(recorder: Recorder, steps: range, *, wait: bool = True) -> None:
    for step in steps:
        recorder.record(Observation(step=step, loss=0.5), [Responses(tokens=[step, step])])
        if wait:
            recorder.flush()


def steps_at(url: str) -> list[int]:
    """The steps in the store; none while there is no run yet."""
    with contextlib.suppress(RunNotFoundError):
        return [observation.step for observation in Run(url).observations()]
    return []


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_where_a_run_is_written_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLDWATCH_STAGING", str(tmp_path))
    first = staging_folder("s3://bucket/deep/run")
    assert first.parent == tmp_path
    assert first.name.startswith("s3-bucket-deep-run-")
    assert staging_folder("s3://bucket/deep/run/") == first
    assert staging_folder("s3://bucket/deep-run") != first
    assert local_folder("s3://bucket/deep/run") == first
    assert local_folder("runs/deep") == Path("runs/deep")
    assert "secret" not in staging_folder("s3://key:secret@bucket/run").name
    monkeypatch.delenv("LLDWATCH_STAGING")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert staging_folder("s3://bucket/run").parent == tmp_path / "cache" / "lldwatch" / "staging"


def test_a_run_is_in_the_store_and_the_local_files_are_gone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor(url, trainer="test") as monitor:
        for step in range(1, 11):
            monitor.observe(Responses(tokens=[step], log_prob=[-1.0], old_log_prob=[-1.0]))
            monitor.step(loss=0.5)
        assert staging_folder(url).is_dir()
    assert not staging_folder(url).exists()
    assert capsys.readouterr().err == (
        f"lldwatch: {url} is written to {staging_folder(url)} first, and uploaded from there\n"
    )
    run = Run(url)
    assert run.ended
    assert [observation.step for observation in run.observations()] == list(range(1, 11))
    assert run.responses()["step"].to_pylist() == list(range(1, 11))
    assert [event["kind"] for event in run.events().to_pylist()] == ["start", "finish"]
    assert all(segment_of(name) is not None or name == INFO_FILE for name in Store(url).files())


def test_parts_go_up_while_the_training_runs(url: str) -> None:
    recorder = recorder_at(url)
    until(lambda: INFO_FILE in Store(url).files())
    record(recorder, range(1, 10))
    until(lambda: steps_at(url) == list(range(1, 9)))
    assert not Run(url).ended
    until(lambda: os.listdir(staging_folder(url) / "responses") == [".r00000-a000-00000002.arrows"])
    assert [row.step for row in Run(staging_folder(url)).observations()] == list(range(1, 10))
    recorder.close()
    assert steps_at(url) == list(range(1, 10))


def test_a_step_that_is_in_the_store_has_its_rows_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    real = Store.write

    def noted(store: Store, name: str, data: bytes) -> None:
        real(store, name, data)
        sent.append(name)

    monkeypatch.setattr(Store, "write", noted)
    recorder = recorder_at(url)
    record(recorder, range(1, 14))
    recorder.close()
    assert sent[-1] == INFO_FILE
    parts = [name for name in sent if name != INFO_FILE]
    assert len(parts) == len(set(parts)) == 8
    for steps in (name for name in parts if name.startswith("steps/")):
        assert parts.index(steps.replace("steps/", "responses/")) < parts.index(steps)


def test_a_run_that_is_there_is_not_overwritten(url: str) -> None:
    recorder = recorder_at(url)
    record(recorder, range(1, 3))
    recorder.close()
    with pytest.raises(RunExistsError, match="choose another URL, or resume=True"):
        recorder_at(url)
    assert not staging_folder(url).exists()


def test_a_bucket_that_is_not_there_is_said_before_the_training_begins(s3: str) -> None:
    with pytest.raises(RunError, match="no such bucket: check the name, or make it first"):
        Monitor("s3://no-such-bucket/runs/a")


# a connection that is lost


@pytest.mark.parametrize("state", ["refused", "hanging"])
def test_a_lost_connection_loses_nothing_and_is_said_once(
    url: str, connection: Connection, caplog: pytest.LogCaptureFixture, state: Any
) -> None:
    recorder = recorder_at(url)
    record(recorder, range(1, 6))
    until(lambda: steps_at(url) == [1, 2, 3, 4])
    connection.set(state)
    began = time.monotonic()
    record(recorder, range(6, 200), wait=False)
    assert time.monotonic() - began < 5  # the training waits for nothing
    recorder.flush(60)
    assert recorder.dropped_steps == 0
    until(lambda: any("cannot be reached" in words for words in said(caplog)))
    time.sleep(1.5)  # it is tried again and again
    assert len(said(caplog)) == 1
    assert str(staging_folder(url)) in said(caplog)[0]
    connection.set("open")
    until(lambda: len(said(caplog)) == 2)
    assert "is reachable again" in said(caplog)[1]
    recorder.close()
    assert steps_at(url) == list(range(1, 200))
    assert Run(url).responses()["step"].to_pylist() == [step for step in range(1, 200) for _ in range(2)]
    assert not staging_folder(url).exists()
    assert len(said(caplog)) == 2


@pytest.mark.parametrize("state", ["refused", "hanging"])
def test_a_store_that_stays_away_does_not_keep_the_training_from_ending(
    url: str, connection: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, state: Any
) -> None:
    monkeypatch.setattr(lldwatch.stores.upload, "_CLOSE_SECONDS", 0.3)
    recorder = recorder_at(url)
    record(recorder, range(1, 6))
    until(lambda: steps_at(url) == [1, 2, 3, 4])
    connection.set(state)
    record(recorder, range(6, 8))
    began = time.monotonic()
    recorder.close()
    assert time.monotonic() - began < 3
    folder = staging_folder(url)
    (words,) = [words for words in said(caplog) if "could not be uploaded" in words]
    assert f"lldwatch upload {folder} '{url}'" in words
    assert words.startswith("lldwatch: 2 parts and run.json of")  # steps and responses
    connection.set("open")
    time.sleep(0.6)  # it has given up for good
    assert not Run(url).ended
    assert len(upload_run(folder, url)) == 3
    assert Run(url).ended
    assert steps_at(url) == list(range(1, 8))
    assert upload_run(folder, url) == [INFO_FILE]  # what is there is not sent again, but for run.json


def test_a_store_that_hangs_does_not_fill_the_recorders_queue(
    url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lldwatch.stores.upload, "_CLOSE_SECONDS", 0.1)
    recorder = recorder_at(url, queue_steps=20)
    connection.set("hanging")
    for step in range(1, 101):
        record(recorder, range(step, step + 1))
    assert recorder.dropped_steps == 0
    recorder.close()
    assert [row.step for row in Run(staging_folder(url)).observations()] == list(range(1, 101))


def test_an_error_of_ours_neither_ends_the_thread_nor_the_training(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lambda store, name, data: 1 / 0)
        recorder = recorder_at(url)
        record(recorder, range(1, 6))
        until(lambda: said(caplog))
    assert "ZeroDivisionError" in str(caplog.records[-1].exc_info)
    recorder.close()
    assert steps_at(url) == [1, 2, 3, 4, 5]


def test_a_part_that_the_disk_did_not_take_at_once_goes_up_as_it_became(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows and steps of a part are sealed one after the other; should the second fail, both are written anew later."""
    recorder, fails = recorder_at(url), True
    real = lldwatch.unsealed.write_part

    def full(table: pa.Table, path: Path) -> None:
        if fails and path.parent.name == "steps":
            until(lambda: any(name.startswith("responses/") for name in Store(url).files()))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(table, path)

    monkeypatch.setattr(lldwatch.unsealed, "write_part", full)
    record(recorder, range(1, 6))
    until(lambda: said(caplog))
    assert any(name.startswith("responses/") for name in Store(url).files())
    assert steps_at(url) == []
    fails = False
    record(recorder, range(6, 9))
    recorder.close()
    assert steps_at(url) == list(range(1, 9))
    assert Run(url).responses()["step"].to_pylist() == [step for step in range(1, 9) for _ in range(2)]
    assert not staging_folder(url).exists()


# going on with a run


def test_a_finished_run_is_gone_on_with_on_another_machine(url: str) -> None:
    recorder = recorder_at(url)
    record(recorder, range(1, 8))
    recorder.close()
    assert not staging_folder(url).exists()
    recorder = recorder_at(url, resume=True)
    assert recorder.attempt == 1
    record(recorder, range(6, 11))
    recorder.close()
    assert steps_at(url) == list(range(1, 11))
    run = Run(url)
    assert (run.info.attempt, run.problems) == (1, [])
    assert run.responses()["step"].to_pylist() == [step for step in range(1, 11) for _ in range(2)]


def test_a_monitor_that_resumes_knows_the_past(url: str) -> None:
    with Monitor(url) as monitor:
        for _ in range(12):
            monitor.step(reward=0.5, grad_norm=1.0)
        before = monitor.diagnosis
    with Monitor(url, resume=True) as monitor:
        assert monitor.diagnosis.step in (None, 12)
        after = monitor.step(reward=0.5, grad_norm=1.0)
        assert (after.step, monitor.attempt) == (13, 1)
    assert before.step == 12
    assert steps_at(url) == list(range(1, 14))
    assert "resume" in [event["kind"] for event in Run(url).events().to_pylist()]


def test_going_back_without_a_new_process_goes_up_as_well(url: str) -> None:
    with Monitor(url) as monitor:
        for step in (1, 2, 3, 4, 2, 3):
            monitor.step(step, reward=0.5)
    assert steps_at(url) == [1, 2, 3]
    assert Run(url).info.attempt == 1


def test_what_a_killed_training_left_is_sent_when_it_is_resumed(url: str) -> None:
    options = ["--flush", "--steps-per-part", "5"]
    command = [sys.executable, str(TRAINING), url, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line.split()[0]) == 12:
                break
        child.send_signal(signal.SIGKILL)
    last = len(Run(staging_folder(url)).observations())
    assert last >= 12
    recorder = recorder_at(url, resume=True)
    assert recorder.attempt == 1
    record(recorder, range(last + 1, last + 3))
    recorder.close()
    assert steps_at(url) == list(range(1, last + 3))
    assert Run(url).problems == []
    assert not staging_folder(url).exists()


def test_a_new_attempt_never_takes_the_name_of_parts_that_are_there(url: str) -> None:
    """run.json goes up last: an attempt that was killed early may be seen in the names of its parts alone."""
    recorder = recorder_at(url)
    record(recorder, range(1, 4))
    recorder.close()
    Store(url).write("responses/r00003-a004-00000000.parquet", b"whatever it is")
    recorder = recorder_at(url, resume=True)
    assert recorder.attempt == 5
    recorder.close()


def test_a_damaged_run_json_is_not_gone_on_with(url: str) -> None:
    recorder = recorder_at(url)
    record(recorder, range(1, 4))
    recorder.close()
    Store(url).write(INFO_FILE, b"{")
    with pytest.raises(RunError, match=r"run\.json cannot be read .*: repair it to resume"):
        recorder_at(url, resume=True)


# ranks


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_rank_sends_its_own_parts(url: str, order: tuple[int, int]) -> None:
    first = recorder_at(url)
    ranks = [first, Recorder(url, first.info, rank=1, steps_per_part=4)]
    for recorder in ranks:
        record(recorder, range(1, 7))
    for rank in order:
        ranks[rank].close()
    assert not staging_folder(url).exists()
    run = Run(url)
    assert run.responses()["step"].to_pylist() == [step for step in range(1, 7) for _ in range(2)] * 2
    assert [row.step for row in run.observations()] == list(range(1, 7))
    assert {segment.rank for name in Store(url).files() if (segment := segment_of(name))} == {0, 1}


def test_a_rank_that_cannot_reach_the_store_at_first_begins_all_the_same(url: str, connection: Connection) -> None:
    first = recorder_at(url)
    connection.set("refused")
    second = Recorder(url, first.info, rank=1, steps_per_part=4)
    record(second, range(1, 3))
    connection.set("open")
    second.close()
    first.close()
    assert any("r00001" in name for name in Store(url).files())


# sending later


def test_any_local_run_can_be_sent(tmp_path: Path, url: str) -> None:
    recorder = recorder_at(str(tmp_path / "local"))
    record(recorder, range(1, 7))
    with pytest.raises(RunExistsError, match="being written by another process"):
        upload_run(tmp_path / "local", url)
    recorder.close()
    sent = upload_run(tmp_path / "local", url)
    assert len(sent) == len(set(sent)) == 5
    assert sent[-1] == INFO_FILE
    assert Run(url).steps().equals(Run(tmp_path / "local").steps())
    assert Run(tmp_path / "local").ended


def test_another_run_at_the_url_is_not_mixed_with(tmp_path: Path, url: str) -> None:
    for name, started in (("a", "2026-01-01"), ("b", "2026-01-02")):
        with contextlib.closing(Recorder(tmp_path / name, RunInfo(started=started))) as recorder:
            record(recorder, range(1, 3))
    upload_run(tmp_path / "a", url)
    with pytest.raises(RunExistsError, match="holds another run, begun 2026-01-01: choose another URL"):
        upload_run(tmp_path / "b", url)


def test_what_was_left_behind_does_not_overwrite_what_came_after(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine is lost with its last part, the run is resumed on another, and then the first one comes back."""
    recorder = recorder_at(url)
    record(recorder, range(1, 6))
    recorder.close()
    lost = tmp_path / "lost"
    with contextlib.closing(recorder_at(str(lost))) as other:
        record(other, range(1, 10))
    started = Run(url).info.started
    info = (lost / INFO_FILE).read_text()
    (lost / INFO_FILE).write_text(info.replace(str(Run(lost).info.started), str(started)))
    recorder = recorder_at(url, resume=True)
    record(recorder, range(6, 8))
    recorder.close()
    sent = upload_run(lost, url)
    assert INFO_FILE not in sent
    assert "steps/r00000-a000-00000002.parquet" in sent
    run = Run(url)
    assert run.info.attempt == 1
    assert [row.step for row in run.observations()] == list(range(1, 8))


def test_only_a_run_can_be_sent(tmp_path: Path, url: str) -> None:
    with pytest.raises(RunNotFoundError, match="is not a run"):
        upload_run(tmp_path, url)


def test_a_local_run_starts_no_second_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    recorder = Recorder(tmp_path / "run", RunInfo())
    assert [thread.name for thread in set(threading.enumerate()) - before] == ["lldwatch-recorder"]
    recorder.close()


def test_a_process_ends_soon_after_a_store_that_hangs(url: str, connection: Connection, tmp_path: Path) -> None:
    script = """
import sys
import lldwatch.stores.store, lldwatch.stores.upload
from lldwatch import Observation, RunInfo
from lldwatch.recorder import Recorder
lldwatch.stores.store._STALL_SECONDS, lldwatch.stores.store._ATTEMPTS = 1.0, 1
lldwatch.stores.upload._CLOSE_SECONDS = 0.5
recorder = Recorder(sys.argv[1], RunInfo())
print("begun", flush=True)
sys.stdin.readline()
recorder.record(Observation(step=1))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "begun\n"
        until(lambda: INFO_FILE in Store(url).files())
        connection.set("hanging")
        began = time.monotonic()
        _, errors = child.communicate("\n", timeout=60)
    assert time.monotonic() - began < 15
    assert child.returncode == 0
    assert "could not be uploaded" in errors
