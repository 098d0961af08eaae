"""The headline of a run as a picture of a line of text: SVG in an address that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from lldwatch.glance import MEAN_OF, Glance
from lldwatch_dashboard import words
from lldwatch_dashboard.panels import ALERT, DARK, LIGHT

WIDTH, HEIGHT, MARGIN = 96, 24, 3
NAMES = {"cross_update_change": "likelihood change", "reward": "reward"}

Point = tuple[float, float]


def address(glance: Glance, dark: bool) -> str:
    """The picture as a `data:` address."""
    return "data:image/svg+xml," + quote(svg(glance, dark), safe=" =:/'")


def name(glance: Glance) -> str:
    """Which signal it is."""
    return NAMES.get(glance.signal or "", glance.signal or "")


def alt(glance: Glance) -> str:
    """What a reader is told who does not see it."""
    first, last = glance.points[0], glance.points[-1]
    return f"{name(glance)} from step {first[0]} to {last[0]}, last {words.number(last[1])}, means of {MEAN_OF} steps"


def svg(glance: Glance, dark: bool) -> str:
    """The picture: the line, 0 if it is a change, a cross for each value that is not finite, and a dot at its end."""
    palette = DARK if dark else LIGHT
    lines, broken, zero = layout(glance.points, with_zero=glance.signal == "cross_update_change")
    parts = []
    if zero is not None:
        parts.append(f"<path d='M0 {zero:.1f}H{WIDTH}' stroke='{palette.muted}' stroke-dasharray='2 2' opacity='.7'/>")
    for line in lines:
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
        parts.append(f"<path d='{d}' stroke='{palette.lines[0]}' stroke-width='1.5' stroke-linejoin='round'/>")
    for x in broken:
        parts.append(f"<path d='M{x - 2:.1f} 1l4 4m0 -4l-4 4' stroke='{ALERT}' stroke-width='1.4'/>")
    if lines:
        x, y = lines[-1][-1]
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2' fill='{palette.lines[0]}'/>")
    size = f"width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}'"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} fill='none'>{''.join(parts)}</svg>"


def layout(points: Sequence[Point], *, with_zero: bool) -> tuple[list[list[Point]], list[float], float | None]:
    """Lines in pixels, the places of values that are not finite, and the height of 0 (None: it is not drawn).

    Args:
        points: step and value.
        with_zero: 0 belongs into the picture.
    """
    finite = [value for _, value in points if math.isfinite(value)]
    steps = [step for step, _ in points]
    first, reach = (steps[0], max(steps[-1] - steps[0], 1)) if steps else (0.0, 1.0)
    low = min([*finite, *([0.0] if with_zero else [])], default=0.0)
    high = max([*finite, *([0.0] if with_zero else [])], default=0.0)
    room = high - low or 1.0

    def x_of(step: float) -> float:
        return MARGIN + (step - first) / reach * (WIDTH - 2 * MARGIN)

    def y_of(value: float) -> float:
        return HEIGHT - MARGIN - (value - low) / room * (HEIGHT - 2 * MARGIN)

    lines = [[(x_of(step), y_of(value)) for step, value in line] for line in _unbroken(points)]
    broken = [x_of(step) for step, value in points if not math.isfinite(value)]
    return lines, broken, y_of(0.0) if with_zero else None


def _unbroken(points: Sequence[Point]) -> Iterator[list[Point]]:
    line: list[Point] = []
    for step, value in points:
        if math.isfinite(value):
            line.append((step, value))
        elif line:
            yield line
            line = []
    if line:
        yield line
