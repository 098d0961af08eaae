"""Switch LLDS on or off in a training that runs: one small file in the run directory, read once a step.

It is read in the recorder's thread, on rank 0 alone, and what it says goes to all ranks with the decision of the next
step: a slow disk costs the training nothing, no collective runs in a loss, and no rank acts before another.
Rejected: a socket, which a cluster's network keeps from the person who wants to act.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lldwatch.errors import InputError, RunNotFoundError
from lldwatch.intervention import MODES, Correct, Mode
from lldwatch.segments import INFO_FILE

log = logging.getLogger("lldwatch")

CONTROL_FILE = "control.json"


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants of LLDS from now on.

    Attributes:
        llds: "off", "on" or "auto".
        strength: the coefficient when it is fully on; None: the one that the training was started with.

    Raises:
        InputError: there is no such mode, or the strength is not a coefficient.
    """

    llds: Mode
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.llds not in MODES:
            raise InputError(f"llds={self.llds!r}: expected one of {', '.join(MODES)}")
        self.applied_to(Correct())

    def applied_to(self, settings: Correct) -> Correct:
        """The settings with what was ordered instead of what they said."""
        strength = settings.strength if self.strength is None else self.strength
        return replace(settings, mode=self.llds, strength=strength)

    @property
    def in_words(self) -> str:
        """For an event."""
        return f"LLDS {self.llds}" + ("" if self.strength is None else f", strength {self.strength:g}")


def give_order(run_dir: str | os.PathLike[str], order: Order) -> None:
    """Write the order for a training that runs, whole or not at all.

    Raises:
        RunNotFoundError: there is no run.
    """
    path = Path(run_dir)
    if not (path / INFO_FILE).is_file():
        raise RunNotFoundError(f"{path} is not a run: expected a folder with {INFO_FILE}")
    hidden = path / f".{CONTROL_FILE}.tmp"
    hidden.write_text(json.dumps(asdict(order)) + "\n")
    os.replace(hidden, path / CONTROL_FILE)


class Orders:
    """The orders of one run as they come in.

    Args:
        run_dir: of the run.

    Attributes:
        latest: the order that stands; None: none was given.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self._file = Path(run_dir) / CONTROL_FILE
        self._seen: tuple[int, int] | None = None
        self.latest: Order | None = None

    def poll(self) -> None:
        """Look whether there is a new one. A file that cannot be read is said once and changes nothing."""
        try:
            state = self._file.stat()
        except OSError:
            return
        if (state.st_mtime_ns, state.st_ino) == self._seen:
            return
        try:
            text = self._file.read_text()
        except OSError:  # the next time, perhaps
            return
        self._seen = (state.st_mtime_ns, state.st_ino)
        try:
            given = json.loads(text)
            self.latest = Order(given["llds"], given.get("strength"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            words = "%s is no order (%s: %s): LLDS stays as it is; write it with `lldwatch llds RUN on|off|auto`"
            log.warning(f"lldwatch: {words}", self._file, type(error).__name__, error)
