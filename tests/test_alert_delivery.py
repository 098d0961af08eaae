"""Alerts on their way: nobody waits, what fails for a while is tried again, what is dropped is counted and named."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from alert_server import SECRET, Answer, hook, wait_until
from test_alert_channels import ALERT, VARIABLE

from lldwatch import Alert, Command, DeliveryError, InputError, Webhook, alert_delivery
from lldwatch.alert_delivery import BURST, QUEUE, Delivery, checked


class Kept:
    """What became of the alerts."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def __call__(self, step: int, words: str) -> None:
        self.lines.append((step, words))

    @property
    def outcomes(self) -> list[str]:
        return [words.partition(" -> ")[2] for _, words in self.lines]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of a test, not of a training."""
    monkeypatch.setattr(alert_delivery, "FIRST_PAUSE_S", 0.01)


def numbered(step: int) -> Alert:
    return replace(ALERT, step=step, title=f"DECAY at step {step}")


def test_whoever_sends_does_not_wait_for_a_channel_that_does_not_end() -> None:
    free, got, kept = threading.Event(), [], Kept()

    def slow(alert: Alert) -> None:
        free.wait(60)

    delivery = Delivery([slow, got.append], kept)
    delivery.send(ALERT)
    wait_until(lambda: got)  # another channel does not wait for it either
    assert not free.is_set()
    assert kept.outcomes == ["function append: delivered"]
    free.set()
    delivery.close()
    assert sorted(kept.outcomes) == ["function append: delivered", "function slow: delivered"]
    assert kept.lines[0] == (32, "COLLAPSE at step 32, LLD death spiral -> function append: delivered")


def test_a_callback_that_raises_says_kind_and_place_and_not_its_words(caplog: pytest.LogCaptureFixture) -> None:
    def notify(alert: Alert) -> None:
        if alert.step == 1:
            raise RuntimeError(f"https://host/{SECRET}")
        if alert.step == 2:
            sys.exit(SECRET)
        int(SECRET)

    kept = Kept()
    delivery = Delivery([notify], kept)
    for step in (1, 2, 3):
        delivery.send(numbered(step))
    delivery.close()
    kinds = ("RuntimeError", "SystemExit", "ValueError")
    for outcome, kind in zip(kept.outcomes, kinds, strict=True):
        assert outcome.startswith(f"function notify: failed: it raised {kind} in test_alert_delivery.py, line ")
    assert len(caplog.records) == 3
    assert SECRET not in caplog.text


@pytest.mark.usefixtures("quick")
def test_a_server_that_comes_back_gets_the_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    with hook(500, "garbage", "hang", "close", Answer(429, {"Retry-After": "0.05"})) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        delivery = Delivery([Webhook(timeout_s=3.0)], kept)
        delivery.send(ALERT)
        wait_until(lambda: kept.lines)
        delivery.close()
    assert kept.outcomes == ["webhook json (LLDWATCH_WEBHOOK): delivered at try 6"]
    assert [request["title"] for request in server.requests] == [ALERT.title] * 6


@pytest.mark.usefixtures("quick")
def test_a_server_that_asks_to_wait_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    kept = Kept()
    with hook(Answer(429, {"Retry-After": "0.3"}), Answer(503, {"Retry-After": "1e9"})) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        delivery = Delivery([Webhook()], kept)
        closing = delivery._lines[0]._closing
        monkeypatch.setattr(closing, "wait", lambda seconds: waited.append(seconds) or False)
        delivery.send(ALERT)
        wait_until(lambda: kept.lines)
        delivery.close()
    assert waited == [0.3, alert_delivery.LONGEST_WISH_S], "but not for ever"


@pytest.mark.usefixtures("quick")
def test_pauses_grow_and_there_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    now = [0.0]

    def fails(alert: Alert) -> None:
        raise DeliveryError("no network", again=True)

    kept = Kept()
    monkeypatch.setattr(alert_delivery, "time", SimpleNamespace(monotonic=lambda: now[0]))
    delivery = Delivery([fails], kept)

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        now[0] += seconds
        return False

    monkeypatch.setattr(alert_delivery, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(delivery._lines[0]._closing, "wait", wait)
    delivery.send(ALERT)
    wait_until(lambda: kept.lines)
    assert waited[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(waited[7:]) == {60.0}
    assert alert_delivery.GIVE_UP_S - 60 < sum(waited) <= alert_delivery.GIVE_UP_S
    assert kept.outcomes == [f"function fails: failed at try {len(waited) + 1}: no network"]
    delivery.close()


@pytest.mark.parametrize("status", [400, 404])
def test_what_will_not_work_later_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    kept = Kept()
    with hook(status) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        delivery = Delivery([Webhook(shape="slack")], kept)
        delivery.send(ALERT)
        delivery.close()
    assert kept.outcomes == [f"webhook slack (LLDWATCH_WEBHOOK): failed: HTTP {status}"]
    assert len(server.requests) == 1


def test_a_full_queue_drops_the_oldest_and_counts_and_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_delivery, "EVERY_S", 1e-9)
    free, begun, got, kept = threading.Event(), threading.Event(), list[int | None](), Kept()

    def slow(alert: Alert) -> None:
        begun.set()
        free.wait(60)
        got.append(alert.step)

    delivery = Delivery([slow], kept)
    delivery.send(numbered(0))
    assert begun.wait(60)
    for step in range(1, QUEUE + 8):
        delivery.send(numbered(step))
    free.set()
    delivery.close(60.0)
    assert got == [0, *range(8, QUEUE + 8)]
    (dropped,) = [words for _, words in kept.lines if "dropped" in words]
    named = "; ".join(f"DECAY at step {step}" for step in range(1, 6))
    assert dropped == f"function slow: dropped 7, since {QUEUE} were waiting: {named} and 2 more"


def test_a_flood_is_spread_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    got, kept = list[Alert](), Kept()
    delivery = Delivery([got.append], kept)
    line = delivery._lines[0]
    monkeypatch.setattr(line._closing, "wait", lambda seconds: waited.append(seconds) or False)
    for step in range(BURST + 2):
        delivery.send(numbered(step))
    wait_until(lambda: len(kept.lines) == BURST + 2)
    delivery.close()
    assert len(waited) == 2
    assert waited[0] == pytest.approx(alert_delivery.EVERY_S, abs=10.0)
    assert waited[1] == pytest.approx(2 * alert_delivery.EVERY_S, abs=10.0), "this clock stood still meanwhile"


def test_the_end_waits_a_bounded_time_and_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    free, kept = threading.Event(), Kept()

    def slow(alert: Alert) -> None:
        free.wait(60)

    delivery = Delivery([slow], kept)
    for step in (1, 2):
        delivery.send(numbered(step))
    delivery.close(0.2)
    assert [words for _, words in kept.lines] == [
        f"DECAY at step {step} -> function slow: not delivered: 0.2 s after the end of the training it was still on "
        "its way"
        for step in (1, 2)
    ]
    free.set()
    time.sleep(0.1)
    delivery.close()
    assert len(kept.lines) == 2, "and it is not said to be delivered after that"
    assert len(caplog.records) == 2


def test_at_the_end_what_waits_for_its_next_try_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    with hook(Answer(503, {"Retry-After": "200"})) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        delivery = Delivery([Webhook()], kept)
        delivery.send(ALERT)
        server.wait_for(1)
        time.sleep(0.1)  # until it waits
        delivery.close(30.0)
    assert kept.outcomes == ["webhook json (LLDWATCH_WEBHOOK): delivered at try 2"]


def test_records_that_are_closed_do_not_end_the_delivery() -> None:
    got = list[Alert]()

    def broken(step: int, words: str) -> None:
        raise OSError("disk full")

    delivery = Delivery([got.append], broken)
    for step in (1, 2):
        delivery.send(numbered(step))
    delivery.close()
    assert len(got) == 2


def test_a_variable_that_goes_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    kept = Kept()
    delivery = Delivery([Webhook()], kept)
    delivery.send(ALERT)
    delivery.close()
    assert "failed: LLDWATCH_WEBHOOK is not set" in kept.outcomes[0]


def test_no_thread_is_left_and_none_holds_up_the_end() -> None:
    before = set(threading.enumerate())
    delivery = Delivery([print, Command("true")], Kept())
    own = set(threading.enumerate()) - before
    assert len(own) == 2
    assert all(thread.daemon for thread in own)
    delivery.close()
    assert not any(thread.is_alive() for thread in own)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (print, "alerts is a builtin_function_or_method: expected a list"),
        ("notify.sh", "alerts is a str"),
        (["notify.sh"], r"alerts\[0\] is a str: expected a Webhook, a Command or a function"),
        ([print, None], r"alerts\[1\] is a NoneType"),
    ],
)
def test_what_is_no_channel_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        checked(given)
