from __future__ import annotations

from pathlib import Path

import pytest

from lldwatch import Monitor, Run
from lldwatch.integrations.guard import GIVE_UP_AFTER, Guard


def broken() -> int:
    raise KeyError("advantages")


def test_what_fails_is_kept_with_its_traceback_and_given_up_after_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Monitor(tmp_path / "run") as monitor:
        guard, calls = Guard(monitor), 0

        def counted() -> int:
            nonlocal calls
            calls += 1
            return broken()

        assert [guard.run("reading the loss", counted) for _ in range(10)] == [None] * 10
        assert calls == GIVE_UP_AFTER
        assert guard.run("another part", lambda: 7) == 7, "one part is given up, the others go on"
        monitor.step(reward=0.5)
    errors = [event["detail"] for event in Run(tmp_path / "run").events().to_pylist() if event["kind"] == "error"]
    assert len(errors) == 2
    assert "reading the loss failed: KeyError: 'advantages'; the training goes on" in errors[0]
    assert "in broken" in errors[0]
    assert "left out from now on" in errors[1]
    assert len(caplog.messages) == 2


def test_before_there_is_a_run_it_is_logged_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert Guard().run("attaching", broken) is None
    assert "attaching failed: KeyError" in caplog.messages[0]


def test_a_success_in_between_begins_the_count_anew_and_what_others_wait_for_is_never_given_up() -> None:
    guard, calls = Guard(), 0

    def now_and_then() -> None:
        nonlocal calls
        calls += 1
        if calls % GIVE_UP_AFTER:
            broken()

    for _ in range(30):
        guard.run("a part", now_and_then)
    assert calls == 30
    for _ in range(30):
        guard.run("awaited", broken, always=True)
    assert not guard.works("awaited")
    assert guard.run("awaited", lambda: 7, always=True) == 7
