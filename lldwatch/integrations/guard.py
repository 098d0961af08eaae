"""An exception of lldwatch never reaches the training: it is kept with its traceback, and what fails again is left out.

`Monitor` looks after itself; this is for what an integration does around it, in trainers whose insides change.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TypeVar

from lldwatch.monitor import Monitor

log = logging.getLogger("lldwatch")

Result = TypeVar("Result")

GIVE_UP_AFTER = 3
"""Failures of a part in a row after which it is not tried again."""


class Guard:
    """Runs the parts of an integration.

    Args:
        monitor: keeps what goes wrong as events; None while there is no run yet.
    """

    def __init__(self, monitor: Monitor | None = None) -> None:
        self.monitor = monitor
        self._failures: dict[str, int] = {}

    def works(self, part: str) -> bool:
        """The part has not failed so often that it was left out."""
        return self._failures.get(part, 0) < GIVE_UP_AFTER

    def run(self, part: str, function: Callable[[], Result], *, always: bool = False) -> Result | None:
        """What the function returns; None if it failed, or is not tried any more.

        Args:
            part: what is being done, in words: each is given up by itself.
            function: what to do.
            always: do not give it up, since other ranks wait for it.
        """
        if not (always or self.works(part)):
            return None
        try:
            result = function()
        except Exception as error:  # whatever it is, it is ours: the training has no part in it
            self._failures[part] = count = self._failures.get(part, 0) + 1
            words = f"{part} failed: {type(error).__name__}: {error}"
            if count == 1:
                self._say(f"{words}; the training goes on\n{traceback.format_exc()}")
            if count == GIVE_UP_AFTER and not always:
                self._say(f"{words}, for the {count}rd time: it is left out from now on; the training goes on")
            return None
        self._failures.pop(part, None)
        return result

    def _say(self, words: str) -> None:
        log.warning("lldwatch: %s", words)
        if self.monitor is not None:
            self.monitor.event("error", words)
