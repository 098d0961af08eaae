"""The alerts of a run that is being written: what begins with a step goes on its way, and a stall is looked for.

Rank 0 alone has this. A training that hangs makes no step that could say so: a daemon thread looks at the clock. While
somebody holds Python's lock it cannot, nor when the machine is gone: `lldwatch watch` looks from outside.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Sequence

from lldwatch import alerts
from lldwatch.alert_channels import Channel
from lldwatch.alert_delivery import Delivery
from lldwatch.alerts import Onset, Onsets
from lldwatch.diagnosis import Diagnosis, Verdict
from lldwatch.schema import Observation

log = logging.getLogger("lldwatch")

LOOK_S = 10.0
"""Seconds between two looks at the clock."""


class LiveAlerts:
    """Tells people of one run.

    Args:
        run: its name.
        channels: whom to tell; without any nothing is done at all.
        event: keeps an event of the run: step, kind, detail.
    """

    def __init__(self, run: str, channels: Sequence[Channel], event: Callable[[int, str, str], None]) -> None:
        self._run, self._onsets, self._on = run, Onsets(), bool(channels)
        self._diagnosis, self._seen_at, self._lock = Diagnosis(), time.monotonic(), threading.Lock()
        self._started = False
        if self._on:
            self._delivery = Delivery(channels, lambda step, words: event(step, "alert", words))
            self._ended = threading.Event()
            threading.Thread(target=self._look_for_stalls, name="lldwatch-stalls", daemon=True).start()
            atexit.register(self.close)

    def begin_anew(self) -> None:
        """Before the past is folded once more."""
        with self._lock:
            self._onsets = Onsets()

    def fold(self, observation: Observation, verdict: Verdict) -> list[Onset]:
        """A step of the past: what began with it was told then."""
        if not self._on:
            return []
        with self._lock:
            self._seen_at = time.monotonic()
            return self._onsets.update(observation, verdict)

    def step(self, observation: Observation, verdict: Verdict, diagnosis: Diagnosis) -> None:
        """A step has ended: what begins with it is told."""
        begun = self.fold(observation, verdict)
        self._diagnosis, self._started = diagnosis, True
        for onset in begun:
            self._delivery.send(onset.alert(diagnosis, self._run))

    def close(self) -> None:
        """Wait a few seconds for what is on its way. A second call does nothing."""
        if self._on:
            atexit.unregister(self.close)
            self._ended.set()
            self._delivery.close()

    def _look_for_stalls(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                with self._lock:
                    waited_s = time.monotonic() - self._seen_at
                    early = not self._started and waited_s < alerts.FIRST_STALL_S  # a resumed one loads its model, too
                    onset = None if early else self._onsets.stalled(waited_s)
                if onset is not None:
                    self._delivery.send(onset.alert(self._diagnosis, self._run))
            except Exception:  # of ours: the training goes on, and so does this
                log.warning("lldwatch: looking for a stall failed", exc_info=True)
