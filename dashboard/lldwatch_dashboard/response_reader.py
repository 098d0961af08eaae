"""What the responses page draws of a window of steps and changes: points, if they are few, or counts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from lldwatch.run import Run
from lldwatch_dashboard.changes import PANELS, Array, Changes, Kind
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.heat import Counts, Heat, edges_of_steps, heat_of, place_of, scaled
from lldwatch_dashboard.response_book import Book, rows_in

RAW_ROWS = 1_000_000
"""Rows of a table that are read at once, which takes less than a second."""

MOST_POINTS = 5_000
STEP_CELLS, CHANGE_CELLS = 240, 72
_KEPT_RUNS = 3


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
        points: responses that are drawn one by one; a browser draws 5,000 in about a second.
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
        run = Run(self._feed.locate(name))  # reads run.json alone; another run may have taken its place
        with self._lock:
            book = self._books.pop(name, None)
            if book is None or book.run.info.started != run.info.started:
                book = Book(run)
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
