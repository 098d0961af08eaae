from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lldwatch import Monitor, Stage
from lldwatch.glance import Glance, Reader
from lldwatch_dashboard import glances as module
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.glances import Glances
from lldwatch_dashboard.listed import Look, summary_of
from lldwatch_dashboard.readers import ReaderProcess

WriteRun = Callable[..., Path]


def glances(root: Path, processes: int = 0) -> Glances:
    """One that works only when it is told to."""
    made = Glances(Feed(root, rescan_s=0), processes)
    made._thread = None
    made._work = lambda: None  # type: ignore[method-assign]
    return made


def read_all(each: Glances) -> Look:
    while each.round():
        pass
    return each.look(0)


def test_the_names_stand_at_once_and_the_rest_follows(root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    each = glances(root)
    first = each.look(0)
    assert [(run.summary.name, run.summary.read, run.glance) for run in first.runs] == [("a", False, None)]
    assert first.read == 0
    then = read_all(each)
    assert then.read == 1
    assert then.runs[0].summary.last is not None
    assert then.runs[0].summary.last.step == 2
    assert then.runs[0].summary.info.planned_steps == 100


def test_runs_in_sight_are_read_first(root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        write_run(f"run-{number}", range(1, 3))
    each = glances(root)
    each.look(0)
    each.prefer(["run-1", "run-3"])
    monkeypatch.setattr(module, "ROUND_S", 0.0)  # one run a round
    order = []
    while each.round():
        order.append({run.summary.name for run in each.look(0).runs if run.glance})
    assert order[1] == {"run-1", "run-3"}


def test_what_has_not_changed_is_not_read_again(
    root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a", range(1, 4))
    each = glances(root)
    first = read_all(each)
    monkeypatch.setattr(Reader, "glance", lambda self, path: pytest.fail("it was read again"))
    assert read_all(each) == first
    assert read_all(glances(root)) == first, "a later dashboard takes it from the disk"


def test_what_was_kept_does_not_count_once_the_run_goes_on(root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 4))
    each = glances(root)
    read_all(each)
    write_run("a", range(4, 9), resume=True)
    for one in (each, glances(root)):
        last = read_all(one).runs[0].summary.last
        assert last is not None
        assert last.step == 8


def test_a_growing_run_is_followed(root: Path) -> None:
    each = glances(root)
    with Monitor(root / "a") as monitor:
        for step in (1, 2, 3):
            monitor.step(step, reward=0.5)
            monitor._recorder.flush()
            found = read_all(each).runs[0]
            assert found.glance is not None
            assert (found.glance.step, found.glance.ended) == (step, None)
    assert read_all(each).runs[0].summary.ending == "the training closed the run"


def test_a_deleted_run_is_gone(root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    write_run("b", range(1, 3))
    each = glances(root)
    assert len(read_all(each).runs) == 2
    shutil.rmtree(root / "a")
    assert [run.summary.name for run in read_all(each).runs] == ["b"]
    shutil.rmtree(root)
    assert read_all(each) == Look((), 0)


def test_a_run_that_cannot_be_read_leaves_the_others_alone(
    root: Path, write_run: WriteRun, change_info: Callable[..., None]
) -> None:
    write_run("good", range(1, 3))
    change_info(write_run("newer", range(1, 3)), schema_version=99)
    damaged = write_run("damaged", range(1, 3))
    next((damaged / "steps").glob("*.parquet")).write_bytes(b"not a table")
    found = {run.summary.name: run.summary for run in read_all(glances(root)).runs}
    assert found["good"].error is None
    assert "update lldwatch" in str(found["newer"].error)
    assert "cannot be read" in found["damaged"].problems[0]


def test_growing_runs_come_first_and_then_the_newest(root: Path, write_run: WriteRun) -> None:
    each = glances(root)
    monitor = Monitor(root / "growing")
    monitor.step(1, reward=0.5)
    monitor._recorder.flush()
    read_all(each)
    for name in ("older", "newer"):
        write_run(name, range(1, 3))
    monitor.step(2, reward=0.5)
    monitor._recorder.flush()
    assert [due.name for due in each._due()] == ["growing", "newer", "older"]
    monitor.close()


def test_large_runs_are_read_last(root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in (("small", 3), ("large", 300), ("middle", 5)):
        write_run(name, range(1, steps))
    each = glances(root)
    monkeypatch.setattr(module, "LARGE", sum(file.stat().st_size for file in (root / "middle" / "steps").iterdir()) * 2)
    each.prefer(["large"])
    assert [due.name for due in each._due()] == ["middle", "small", "large"]


def test_with_many_runs_a_process_reads_them(root: Path, write_run: WriteRun) -> None:
    for number in range(module.ALONE + 1):
        write_run(f"run {number}", range(1, 4))
    each = glances(root, processes=1)
    assert read_all(each).read == module.ALONE + 1
    (process,) = each._readers
    assert isinstance(process, ReaderProcess)
    process._process.kill()
    process._process.wait()
    again = process.glance(str(root / "run 0"))
    assert (again.step, again.error) == (3, None), "it is started once more"
    process.close()
    assert process._process.poll() is not None


def test_a_run_over_which_the_process_dies_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lldwatch_dashboard.readers._COMMAND", "import sys; sys.exit(3)")
    process = ReaderProcess()
    assert "died" in str(process.glance("/anywhere").error)
    process.close()


def test_without_a_process_the_thread_goes_on(root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(module.ALONE + 1):
        write_run(f"run {number}", range(1, 3))
    monkeypatch.setattr("sys.executable", "")
    assert read_all(glances(root, processes=1)).read == module.ALONE + 1


def test_it_works_in_the_background_and_rests_when_nobody_looks(
    root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.2)
    monkeypatch.setattr(module, "ROUND_S", 0.05)
    write_run("a", range(1, 3))
    each = Glances(Feed(root), processes=0)
    assert each.look(60).read == 1, "the first look waits for a few runs"
    thread = each._thread
    assert thread is not None
    thread.join(30)
    assert not thread.is_alive()
    assert each.look(0).read == 1, "it is started again"


def test_the_page_reads_a_glance_like_a_diagnosis() -> None:
    glance = Glance(run="/x", stage="decay", family="lld_spiral", onset=7, known=9, step=12, last_time=time.time())
    summary = summary_of("x", glance)
    assert summary.diagnosis.stage is Stage.DECAY
    assert dict(summary.diagnosis.onsets) == {Stage.DECAY: 7}
    assert summary_of("x", Glance(run="/x")).last is None
    assert summary_of("x", Glance(run="/x", error="no")).error == "no"
