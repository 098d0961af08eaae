from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lldwatch import Monitor, RunNotFoundError, portions
from lldwatch.run import Run
from lldwatch_dashboard import feed as feed_module
from lldwatch_dashboard import words
from lldwatch_dashboard.feed import Feed, Snapshot
from lldwatch_dashboard.lines import STAGE

WriteRun = Callable[..., Path]


def steps(snapshot: Snapshot) -> list[int]:
    return [seen.step for seen in snapshot.observations]


def test_new_steps_are_picked_up_while_the_run_is_written(root: Path) -> None:
    feed = Feed(root)
    with Monitor(root / "a") as monitor:
        monitor.step(1, reward=0.5)
        monitor._recorder.flush()
        first = feed.snapshot("a")
        assert steps(first) == [1]
        monitor.step(2, reward=0.5)
        monitor._recorder.flush()
        second = feed.snapshot("a")
        assert steps(second) == [1, 2]
        assert len(second.signals[STAGE]) == 2
        assert second.version != first.version
        assert second.summary.ending is None
    ended = feed.snapshot("a")
    assert steps(ended) == [1, 2]
    assert ended.summary.ending == "the training closed the run"


def test_what_has_not_changed_is_not_read_again(
    root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a", range(1, 4))
    feed = Feed(root)
    first = feed.snapshot("a")
    monkeypatch.setattr(Run, "poll_tables", lambda self: pytest.fail("it was read again"))
    assert feed.snapshot("a") is first


def test_a_resumed_training_replaces_the_steps_it_repeats(root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 9), entropy=1.0)
    feed = Feed(root)
    assert steps(feed.snapshot("a")) == list(range(1, 9))
    write_run("a", range(5, 7), resume=True, entropy=2.0)
    after = feed.snapshot("a")
    assert steps(after) == [1, 2, 3, 4, 5, 6]
    assert [seen.entropy for seen in after.observations] == [1.0] * 4 + [2.0] * 2
    assert len(after.signals[STAGE]) == 6


def test_a_deleted_run_is_gone_and_another_one_in_its_place_is_read_anew(
    root: Path, write_run: WriteRun, change_info: Callable[..., None]
) -> None:
    write_run("a", range(1, 9))
    feed = Feed(root, rescan_s=0)
    assert feed.names() == ["a"]
    shutil.rmtree(root / "a")
    assert feed.names() == []
    with pytest.raises(RunNotFoundError, match="no run 'a'"):
        feed.snapshot("a")
    change_info(write_run("a", range(1, 3)), started="2001-01-01T00:00:00+00:00")
    assert steps(feed.snapshot("a")) == [1, 2]


def test_a_run_replaced_between_two_looks_is_read_anew(
    root: Path, write_run: WriteRun, change_info: Callable[..., None]
) -> None:
    write_run("a", range(1, 9))
    feed = Feed(root)
    feed.snapshot("a")
    shutil.rmtree(root / "a")
    change_info(write_run("a", range(1, 3)), started="2001-01-01T00:00:00+00:00")
    assert steps(feed.snapshot("a")) == [1, 2]


def test_a_run_that_cannot_be_read_says_why(root: Path, write_run: WriteRun, change_info: Callable[..., None]) -> None:
    change_info(write_run("newer", range(1, 3)), schema_version=99)
    damaged = write_run("damaged", range(1, 3))
    next((damaged / "steps").glob("*.parquet")).write_bytes(b"not a table")
    feed = Feed(root)
    assert "update lldwatch" in str(feed.snapshot("newer").summary.error)
    assert feed.snapshot("damaged").summary.error is None
    assert "cannot be read" in feed.snapshot("damaged").summary.problems[0]


def test_an_error_nobody_thought_of_is_said_too(
    root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a", range(1, 3))

    def fail(self: Run) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(Run, "poll_tables", fail)
    assert Feed(root).snapshot("a").summary.error == "'surprise'"


def test_only_so_many_runs_are_kept_in_memory(root: Path, write_run: WriteRun) -> None:
    for number in range(5):
        write_run(f"run-{number}", range(1, 3))
    feed = Feed(root, kept=2)
    assert [steps(feed.snapshot(name)) for name in feed.names()] == [[1, 2]] * 5
    assert len(feed._tails) == 2


def test_a_folder_that_does_not_exist_yet_has_no_runs(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "later", rescan_s=0)
    assert feed.names() == []
    with Monitor(tmp_path / "later" / "a") as monitor:
        monitor.step(1, reward=0.5)
    assert feed.names() == ["a"]


@pytest.mark.parametrize("name", ["..", "../secret", "a/../../secret", "/etc", "nothing", "a\0b", "x" * 5000, "link"])
def test_nothing_outside_of_the_root_is_looked_at(name: str, root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    write_run("../secret", range(1, 3))
    (root / "link").symlink_to(root.parent / "secret")
    with pytest.raises(RunNotFoundError, match="no run"):
        Feed(root).snapshot(name)


def test_the_root_itself_may_be_a_run(root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    feed = Feed(root / "a")
    assert feed.names() == ["."]
    assert steps(feed.snapshot(".")) == [1, 2]


def test_many_threads_may_look_at_once(root: Path) -> None:
    feed, seen, failures = Feed(root, kept=1, rescan_s=0), [], []

    def look() -> None:
        try:
            for _ in range(30):
                feed.names()
                feed.snapshot("b")
                seen.append(len(feed.snapshot("a").observations))
        except Exception as error:
            failures.append(error)

    with Monitor(root / "a") as monitor, Monitor(root / "b") as other:
        monitor.step(reward=0.5)
        monitor._recorder.flush()
        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            monitor.step(reward=0.5)
            other.step(reward=0.5)
            monitor._recorder.flush()
        for thread in threads:
            thread.join()
    assert not failures
    assert max(seen) > 1


def test_versions_are_never_used_twice(root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    assert Feed(root).snapshot("a").version != Feed(root).snapshot("a").version
    assert feed_module.Summary(name="a").read


def test_a_long_run_is_shown_at_once_and_judged_in_portions(
    root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a", range(1, 24))
    write_run("a", range(20, 31), resume=True)
    whole = Feed(root).snapshot("a")
    assert (len(whole.signals[STAGE]), whole.summary.behind) == (30, False)
    monkeypatch.setattr(portions, "PORTION", 8)
    monkeypatch.setattr(portions, "FIRST", 8)
    monkeypatch.setattr(feed_module, "PAUSE_S", 0.0)
    feed = Feed(root)
    looks = [feed.snapshot("a") for _ in range(6)]
    assert [steps(look) for look in looks] == [list(range(1, 31))] * 6
    assert [len(look.signals[STAGE]) for look in looks[:3]] == [8, 16, 20]  # three of the third portion were replaced
    assert [look.summary.behind for look in looks] == [True, True, True, True, False, False]
    assert words.verdict(looks[0].summary) == "Judged up to step 8 so far."
    for name, series in whole.signals.items():
        np.testing.assert_array_equal(looks[-1].signals[name].values, series.values)
        np.testing.assert_array_equal(looks[-1].signals[name].steps, series.steps)
    assert looks[-1].summary.diagnosis == whole.summary.diagnosis
    assert looks[-1] is looks[-2], "nothing is read again"
