"""Reads the responses of a run in bounded memory and time, however many there are.

A window of few rows is read from the parts that hold it, and kept: a further zoom reads nothing. Of a large run, counts
are made once, in the background, part by part (`heat.Counts`), and grow with it.

Rejected: the feed, which folds every step through the detector first: seconds, for a page that shows no diagnosis.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lldwatch.parts import Part
from lldwatch.run import Run
from lldwatch_dashboard import changes as numbers
from lldwatch_dashboard.changes import KINDS, Changes, Kind
from lldwatch_dashboard.heat import Counts

_FIRST_LOOK_S = 0.3
_KEPT_WINDOWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the steps of a run say of its responses.

    Attributes:
        version: another one whenever a step has been added.
        steps: how many parts of steps there are; 0 before the first step.
        kinds: of change that there are rows of, the headline first.
        noise: largest change of a response without an update, nats per token.
        token_noise: the same of a token, nats.
    """

    version: str
    steps: int
    kinds: tuple[Kind, ...]
    noise: float = 0.0
    token_noise: float = 0.0


class Book:
    """One run: its parts, the windows that were read last, and the counts.

    Args:
        run: to read.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._said: dict[Part, _Said] = {}
        self._windows: OrderedDict[tuple[str, tuple[int, int], tuple[Part, ...]], Changes] = OrderedDict()
        self._countings: dict[str, _Counting] = {}

    def parts(self, kind: Kind) -> list[Part]:
        """Those of the kind's table."""
        with self._lock:  # two requests would download from a store at once
            return self.run.parts(kind.table)

    def facts(self) -> Facts:
        """What the steps say; each sealed part of them is read once."""
        with self._lock:
            parts = self.run.parts("steps")
            said = {part: self._said.get(part) or _said_by(self.run, part) for part in parts}
            self._said = {part: one for part, one in said.items() if part.sealed}
        present = frozenset[str]().union(*(one.present for one in said.values()))
        return Facts(
            version=str(hash(tuple(parts))),
            steps=len(parts),
            kinds=tuple(numbers.recorded(present)),
            noise=max((one.noise for one in said.values()), default=0.0),
            token_noise=max((one.token_noise for one in said.values()), default=0.0),
        )

    def window(self, kind: Kind, parts: Sequence[Part], steps: tuple[int, int]) -> Changes:
        """All responses of some steps, with their uid."""
        signature = tuple(parts)
        with self._lock:
            for (name, (low, high), known), held in reversed(self._windows.items()):
                if name == kind.name and known == signature and low <= steps[0] and steps[1] <= high:
                    self._windows.move_to_end((name, (low, high), known))
                    return held if (low, high) == steps else held.at((held.step >= steps[0]) & (held.step <= steps[1]))
        chosen = list(numbers.read(self.run, kind, overlapping(parts, steps), steps, ("uid",)))
        read = numbers.joined(chosen, ("uid",))
        with self._lock:
            self._windows[kind.name, steps, signature] = read
            while len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return read

    def counts(self, kind: Kind, parts: Sequence[Part]) -> tuple[Counts, int]:
        """The counts of the whole run, and how many parts they still lack."""
        with self._lock:
            counting = self._countings.setdefault(kind.name, _Counting(self.run, kind))
        return counting.counts(parts)


class _Said(NamedTuple):
    """What one part of the steps says: the fields that are not None in some step, and the noise floors."""

    present: frozenset[str]
    noise: float
    token_noise: float


def _said_by(run: Run, part: Part) -> _Said:
    signs = list(dict.fromkeys(sign for kind in KINDS.values() for sign in kind.signs))
    present: set[str] = set()
    floors = {"noise_floor": 0.0, "token_noise_floor": 0.0}
    for batch in run.scan("steps", [*signs, *floors], parts=[part]):
        present |= {sign for sign in signs if not np.ma.getmaskarray(batch[sign]).all()}
        for name in floors:
            floor = np.ma.getdata(batch[name])[~np.ma.getmaskarray(batch[name])]
            floors[name] = max(floors[name], float(floor[np.isfinite(floor)].max(initial=0.0)))
    return _Said(frozenset(present), *floors.values())


class _Counting:
    """Counts made in the background: each sealed part is read once."""

    def __init__(self, run: Run, kind: Kind) -> None:
        self._run, self._kind = run, kind
        self._lock = threading.Lock()
        self._counts, self._done = Counts(), set[Part]()
        self._thread: threading.Thread | None = None

    def counts(self, parts: Sequence[Part]) -> tuple[Counts, int]:
        """What is counted so far, with the live parts, and how many sealed ones are not."""
        sealed = {part for part in parts if part.sealed}
        with self._lock:
            if self._done - sealed:  # a resumed training made some of their steps again
                self._counts, self._done = Counts(), set()
            missing = [part for part in parts if part.sealed and part not in self._done]
            if missing and (self._thread is None or not self._thread.is_alive()):
                arguments = (missing, self._counts, self._done)
                self._thread = threading.Thread(target=self._count, args=arguments, daemon=True)
                self._thread.start()
            thread = self._thread
        if missing and thread is not None:
            thread.join(_FIRST_LOOK_S)
        with self._lock:
            counts, left = self._counts.copy(), len(sealed - self._done)
        live = [part for part in parts if not part.sealed]
        for part in live:
            for found in numbers.read(self._run, self._kind, [part], (part.low, part.high)):
                counts.add(found)
        return counts, left

    def _count(self, parts: Sequence[Part], counts: Counts, done: set[Part]) -> None:
        for part in parts:
            for found in numbers.read(self._run, self._kind, [part], (part.low, part.high)):
                with self._lock:
                    counts.add(found)
            with self._lock:
                if done is not self._done:  # begun anew meanwhile
                    return
                done.add(part)


def overlapping(parts: Sequence[Part], steps: tuple[int, int]) -> list[Part]:
    """Those that hold some of the steps."""
    return [part for part in parts if part.low <= steps[1] and steps[0] <= part.high]


def rows_in(parts: Sequence[Part], steps: tuple[int, int]) -> int:
    """Rows that have to be read to see these steps."""
    return sum(part.rows for part in overlapping(parts, steps))
