"""Alerts on their way: a queue and a daemon thread for each channel, so that nobody waits for any of them.

What fails for a while is tried again, with pauses that grow; a queue that is full drops its oldest alert, for the
newest says where the run stands. What became of each alert is told to whoever keeps the records.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import PurePath

from lldwatch.alert_channels import Channel
from lldwatch.alerts import Alert
from lldwatch.errors import DeliveryError, InputError
from lldwatch.postmortem import printable

log = logging.getLogger("lldwatch")

Record = Callable[[int, str], object]
"""Keeps what became of an alert: its step (-1: before the first), and words."""

CLOSE_S = 5.0
"""How long the end of a training waits for what is on its way."""
QUEUE = 32
"""Alerts that wait for one channel."""
BURST, EVERY_S = 10, 30.0
"""So many at once, and then one in so many seconds: well below what Slack and Discord allow."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LONGEST_WISH_S = 300.0
"""As long as that a server may ask to wait."""
GIVE_UP_S = 1800.0
"""A network that is away for longer has made the news old."""


def check(channels: Sequence[Channel]) -> None:
    """Whether alerts can be sent at all, as far as can be known at the start.

    Raises:
        InputError: one of them is no channel, or lacks what it needs.
    """
    for channel in channels:
        getattr(channel, "check", lambda: None)()


def checked(channels: object) -> tuple[Channel, ...]:
    """The channels that a user gave.

    Raises:
        InputError: it is no list of functions, `Command`s and `Webhook`s.
    """
    if not isinstance(channels, Sequence) or isinstance(channels, str):
        raise InputError(f"alerts is a {type(channels).__name__}: expected a list, for instance [Webhook()]")
    for place, channel in enumerate(channels):
        if not callable(channel):
            kind = type(channel).__name__
            raise InputError(f"alerts[{place}] is a {kind}: expected a Webhook, a Command or a function of an Alert")
    return tuple(channels)


class Delivery:
    """Brings alerts to channels. Nothing in here waits, but for `close`.

    Args:
        channels: whom to tell.
        record: called with what became of each alert, from other threads.
    """

    def __init__(self, channels: Sequence[Channel], record: Record) -> None:
        self._lines = [_Line(channel, record) for channel in channels]
        self._process = os.getpid()

    def send(self, alert: Alert) -> None:
        """Put it on its way to each channel."""
        for line in self._lines:
            line.put(alert)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Wait for what is on its way, so long at most; the rest is said to be lost. A second call does nothing."""
        if os.getpid() != self._process:  # threads do not live on in a forked worker
            return
        for line in self._lines:
            line.close()
        end = time.monotonic() + timeout_s
        for line in self._lines:
            line.join(max(end - time.monotonic(), 0.0), timeout_s)
        self._lines = []


class _Line:
    """The way to one channel."""

    def __init__(self, channel: Channel, record: Record) -> None:
        self._channel, self._record, self._name = channel, record, _name(channel)
        self._waiting, self._dropped = deque[Alert](), list[Alert]()
        self._credit, self._credited = float(BURST), time.monotonic()
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._over = False
        self._current: Alert | None = None
        self._thread = threading.Thread(target=self._run, name=f"lldwatch-alerts: {self._name}", daemon=True)
        self._thread.start()

    def put(self, alert: Alert) -> None:
        with self._changed:
            if len(self._waiting) >= QUEUE:
                self._dropped.append(self._waiting.popleft())
            self._waiting.append(alert)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing.set()
            self._changed.notify()

    def join(self, seconds: float, whole: float) -> None:
        self._thread.join(seconds)
        with self._changed:
            lost, self._over = [*self._dropped, *filter(None, [self._current]), *self._waiting], True
            self._waiting.clear()
        if self._thread.is_alive():
            for alert in lost:
                self._tell(alert, f"not delivered: {whole:g} s after the end of the training it was still on its way")

    def _run(self) -> None:
        while (alert := self._next()) is not None:
            self._wait_for_turn()
            outcome = self._deliver(alert)
            with self._changed:
                over, self._current = self._over, None
                dropped, self._dropped = self._dropped, []
            if over:  # it was said to be lost
                return
            self._tell(alert, outcome)
            if dropped:
                titles = "; ".join(alert.title for alert in dropped[:5])
                more = f" and {len(dropped) - 5} more" if len(dropped) > 5 else ""
                words = f"dropped {len(dropped)}, since {QUEUE} were waiting: {titles}{more}"
                self._tell(dropped[-1], words, whole=False)

    def _next(self) -> Alert | None:
        """None: there is none, and there will be none."""
        with self._changed:
            while not self._waiting and not self._closing.is_set():
                self._changed.wait()
            self._current = self._waiting.popleft() if self._waiting else None
            return self._current

    def _wait_for_turn(self) -> None:
        """So that a run that changes its mind at each step does not flood a channel."""
        now = time.monotonic()
        self._credit, self._credited = min(self._credit + (now - self._credited) / EVERY_S, BURST), now
        self._credit -= 1.0
        if self._credit < 0.0:
            self._closing.wait(-self._credit * EVERY_S)

    def _deliver(self, alert: Alert) -> str:
        """What became of it, in words."""
        pause, until, tries = FIRST_PAUSE_S, time.monotonic() + GIVE_UP_S, 0
        while True:
            tries += 1
            problem = self._try(alert)
            times = f" at try {tries}" if tries > 1 else ""
            if problem is None:
                return f"delivered{times}"
            wait = max(pause, min(problem.wait_s or 0.0, LONGEST_WISH_S))
            late = self._closing.is_set() or time.monotonic() + wait > until
            if late or not problem.again:
                return f"failed{times}: {problem}"
            self._closing.wait(wait)  # at the end of the training it is tried at once, for the last time
            pause = min(2.0 * pause, LONGEST_PAUSE_S)

    def _try(self, alert: Alert) -> DeliveryError | None:
        try:
            self._channel(alert)
        except DeliveryError as error:
            return error
        except InputError as error:  # of a channel that lacks what it had at the start
            return DeliveryError(str(error))
        except BaseException as error:  # SystemExit as well: it would end this thread, and all that waits
            return DeliveryError(_where(error))
        return None

    def _tell(self, alert: Alert, outcome: str, *, whole: bool = True) -> None:
        words = printable(f"{alert.title} -> {self._name}: {outcome}" if whole else f"{self._name}: {outcome}")
        if not outcome.startswith("delivered"):
            log.warning("lldwatch: alert: %s", words)
        with contextlib.suppress(Exception):  # the records are closed, or broken
            self._record(-1 if alert.step is None else alert.step, words)


def _name(channel: Channel) -> str:
    named = getattr(channel, "name", None)
    return str(named) if named else f"function {getattr(channel, '__name__', type(channel).__name__)}"


def _where(error: BaseException) -> str:
    """Kind and place of a user's error, without its words: libraries put URLs with their secrets into them."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {PurePath(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    own = next((frame for frame in frames[1:] if frame.filename != frames[0].filename), None)
    called = f", called in {PurePath(own.filename).name}, line {own.lineno}" if own and own != frames[-1] else ""
    return f"it raised {type(error).__name__}{place}{called}"
