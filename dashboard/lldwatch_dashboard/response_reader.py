"""Reads what the responses page shows, in bounded memory and time, however many responses a run has.

A window of few rows is read from the parts that hold it, and kept: a further zoom or a brush reads nothing. Of a larger
one, counts are shown that are made once, in the background, part by part (`heat.Counts`), and grow with the run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lldwatch.parts import Part
from lldwatch.run import Run
from lldwatch_dashboard import changes as numbers
from lldwatch_dashboard.changes import PANELS, Array, Changes, Kind
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.heat import Counts, Heat, edges_of_steps, heat_of, place_of, scaled

RAW_ROWS = 1_000_000
"""Rows of a table that are read at once, which takes less than a second."""

MOST_POINTS = 20_000
STEP_CELLS, CHANGE_CELLS = 240, 72
_FIRST_LOOK_S = 0.3
_KEPT_RUNS, _KEPT_WINDOWS = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """What is drawn.

    Attributes:
        kind: of change.
        bounds: first and last step that there are rows of.
        steps: first and last step that are shown.
        places: lower and upper end that are shown, on the scale.
        points: the responses, with their uid; None if there are too many.
        heat: counts, then.
        shown: (panels,) responses in the window.
        broken: responses in the window whose change is not finite.
        unmeasured: rows without a change, in what was read.
        coarse: the buckets are larger than the window could have.
        progress: what is still to be done, in words; empty when all is there.
    """

    kind: Kind
    bounds: tuple[int, int]
    steps: tuple[int, int]
    places: tuple[float, float]
    points: Changes | None = None
    heat: Heat | None = None
    shown: tuple[int, ...] = (0,) * len(PANELS)
    broken: int = 0
    unmeasured: int = 0
    coarse: bool = False
    progress: str = ""


class Reader:
    """The responses of the runs of a feed. Safe to use from many threads.

    Args:
        feed: which runs there are.
        raw_rows: rows of a table that are read at once.
        points: responses that are drawn one by one.
    """

    def __init__(self, feed: Feed, *, raw_rows: int = RAW_ROWS, points: int = MOST_POINTS) -> None:
        self._feed, self.raw_rows, self._points = feed, raw_rows, points
        self._lock = threading.Lock()
        self._books: OrderedDict[str, Book] = OrderedDict()

    def book(self, name: str) -> Book:
        """What has been read of a run.

        Raises:
            RunNotFoundError: there is no such run below the root.
            RunError: it cannot be read.
        """
        path = self._feed.locate(name)
        started = self._feed.snapshot(name).summary.info.started
        with self._lock:
            book = self._books.pop(name, None)
            if book is None or book.started != started:
                book = Book(Run(path), started)
            self._books[name] = book
            while len(self._books) > _KEPT_RUNS:
                self._books.popitem(last=False)
            return book

    def picture(
        self,
        name: str,
        kind: Kind,
        steps: tuple[int, int] | None = None,
        change: tuple[float, float] | None = None,
    ) -> Picture | None:
        """What is to be drawn; None if there is no row of that kind.

        Args:
            name: of the run.
            kind: of change.
            steps: first and last step; None: all of them.
            change: lowest and highest change, nats per token; None: as far as there are any.

        Raises:
            RunNotFoundError: there is no such run below the root.
            RunError: it cannot be read.
        """
        book = self.book(name)
        parts = book.parts(kind)
        if not parts:
            return None
        bounds = min(part.low for part in parts), max(part.high for part in parts)
        window = bounds if steps is None else (max(steps[0], bounds[0]), min(steps[1], bounds[1]))
        if window[0] > window[1]:
            window = bounds
        places = None if change is None else (place_of(change[0]), place_of(change[1]))
        if rows_in(parts, window) <= self.raw_rows:
            return _exact(book.window(kind, parts, window), kind, bounds, window, places, self._points)
        counts, left = book.counts(kind, parts)
        progress = f"counting the responses: {left} of {len(parts)} files are still to be read" if left else ""
        return _counted(counts, kind, bounds, window, places, progress)


class Book:
    """One run: its parts, the windows that were read last, and the counts.

    Args:
        run: to read.
        started: what its `run.json` says; another one means another run.
    """

    def __init__(self, run: Run, started: str | None) -> None:
        self.run, self.started = run, started
        self._lock = threading.Lock()
        self._windows: OrderedDict[tuple[str, tuple[int, int], tuple[Part, ...]], Changes] = OrderedDict()
        self._countings: dict[str, _Counting] = {}

    def parts(self, kind: Kind) -> list[Part]:
        """Those of the kind's table."""
        with self._lock:  # two requests would download from a store at once
            return self.run.parts(kind.table)

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


def _exact(
    read: Changes,
    kind: Kind,
    bounds: tuple[int, int],
    steps: tuple[int, int],
    places: tuple[float, float] | None,
    most: int,
) -> Picture:
    finite = np.isfinite(read.change)
    if places is None:
        heights = scaled(read.change[finite])
        places = padded((float(heights.min()), float(heights.max())) if len(heights) else None)
    inside = finite & (scaled(np.where(finite, read.change, 0.0)) >= places[0])
    inside &= scaled(np.where(finite, read.change, 0.0)) <= places[1]
    few = int(inside.sum() + (~finite).sum()) <= most
    heights = np.linspace(*places, CHANGE_CELLS + 1)
    return Picture(
        kind=kind,
        bounds=bounds,
        steps=steps,
        places=places,
        points=read.at(inside | ~finite) if few else None,
        heat=None if few else heat_of(read, edges_of_steps(*steps, STEP_CELLS), heights),
        shown=_by_panel(read.panel[inside]),
        broken=int((~finite).sum()),
        unmeasured=read.unmeasured,
    )


def _by_panel(panel: Array) -> tuple[int, ...]:
    return tuple(np.bincount(panel, minlength=len(PANELS)).tolist())


def _counted(
    counts: Counts,
    kind: Kind,
    bounds: tuple[int, int],
    steps: tuple[int, int],
    places: tuple[float, float] | None,
    progress: str,
) -> Picture:
    places = padded(counts.extent()) if places is None else places
    heat = counts.heat(steps, places, (STEP_CELLS, CHANGE_CELLS))
    return Picture(
        kind=kind,
        bounds=bounds,
        steps=steps,
        places=places,
        heat=heat,
        shown=tuple(heat.counts.sum(axis=(1, 2)).tolist()),
        broken=int(heat.broken.sum()),
        unmeasured=counts.unmeasured,
        coarse=len(heat.places) - 1 < CHANGE_CELLS // 2 or len(heat.steps) - 1 < STEP_CELLS // 4,
        progress=progress,
    )


def padded(extent: tuple[float, float] | None) -> tuple[float, float]:
    """A range on the scale that holds all changes, and 0, with some room."""
    low, high = (min(extent[0], 0.0), max(extent[1], 0.0)) if extent else (-1.0, 1.0)
    room = max(0.05 * (high - low), 0.1)
    return low - room, high + room
