"""Small line charts as inline SVG, without a plotting library and without scripts.

Colours are classes of the page's style sheet, so that one drawing suits a light, a dark and a printed page. What has
no place on the axis (NaN, infinite, far outside, zero on a logarithmic axis) is marked at its edge and told in a note:
nothing that was measured is left out.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lldwatch.reports.axes import Scale, extent, number, ticks
from lldwatch.series import Band, Indices, Series, middles, pieces, thin

WIDTH, HEIGHT = 360, 150
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 14, 20
FLOOR = HEIGHT - BOTTOM
POINTS = 600
"""A line holds at most so many: about two in each column of pixels, and one that is not finite."""
LONG = 150
"""A line of more points is drawn thin, and its medians thick."""
TOLD = 4
"""So many steps are named of values that have no place on the axis."""

CROSS, UP, DOWN = "\N{MULTIPLICATION SIGN}", "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Chart:
    """What is drawn on one pair of axes.

    Attributes:
        label: what it shows, for a reader who cannot see it.
        lines: at least one; the place of a line decides how it looks.
        first: the step at the left end.
        last: the step at the right end.
        log: the vertical axis is logarithmic.
        backdrop: what stands behind the lines, see `stages`.
        limit: a level that is marked: passed, it is a finding.
        marked: a step that is marked by a vertical line.
        names: of the lines, where there are several.
    """

    label: str
    lines: Sequence[Series]
    first: int
    last: int
    log: bool = False
    backdrop: str = ""
    limit: float | None = None
    marked: float | None = None
    names: Sequence[str] = ()


def draw(chart: Chart) -> str:
    """The chart as an `<svg>` element."""
    across, up = _axes(chart)
    parts = [chart.backdrop, _steps(chart, across)]
    if extent(chart.lines, log=chart.log) is None:
        place = f'x="{(LEFT + WIDTH) / 2:g}" y="{(TOP + FLOOR) / 2:g}" text-anchor="middle"'
        parts.append(f'<text class="none" {place}>no value that an axis can hold</text>')
    else:
        parts.append(_levels(chart, up))
    if chart.marked is not None:
        parts.append(f'<path class="marked" d="M{across.of(chart.marked):.1f} {TOP}V{FLOOR}"/>')
    parts += [_line(line, place, across, up) for place, line in enumerate(chart.lines)]
    label = html.escape(chart.label)
    body = "".join([*parts, _marks(chart.lines, across, up)])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}{_limit(chart.limit, up)}</svg>'


def notes(chart: Chart) -> list[str]:
    """What stands at the edges of the chart, in words: one entry for each kind and line."""
    _, up = _axes(chart)
    kinds: tuple[tuple[str, Callable[[Series], Mask]], ...] = (
        (f"{CROSS} not finite", lambda line: ~np.isfinite(line.values)),
        (f"{UP} above the axis", lambda line: (line.values > up.high) & np.isfinite(line.values)),
        (f"{DOWN} below the axis", lambda line: (line.values < up.low) & np.isfinite(line.values)),
    )
    found = []
    for what, chosen in kinds:
        for place, line in enumerate(chart.lines):
            told = line.at(np.flatnonzero(chosen(line)))
            if len(told):
                whose = f" in {chart.names[place]}" if chart.names else ""
                found.append(f"{what}{whose}: {_first_ones(told)}")
    return found


def _first_ones(told: Series) -> str:
    pairs = zip(told.values[:TOLD].tolist(), told.steps[:TOLD].tolist(), strict=True)
    words = ", ".join(f"{number(value)} at step {number(step)}" for value, step in pairs)
    return words + (f", and at {number(len(told) - TOLD)} more" if len(told) > TOLD else "")


def _axes(chart: Chart) -> tuple[Scale, Scale]:
    ends = extent(chart.lines, log=chart.log) or (0.1, 1.0)
    return _across(chart.first, chart.last), Scale(*ends, FLOOR, TOP, chart.log)


def _across(first: int, last: int) -> Scale:
    return Scale(first - 0.5, last + 0.5, LEFT, WIDTH - RIGHT)


def stages(bands: Sequence[Band], first: int, last: int) -> str:
    """The stages as shades behind the plot, and as a strip with their names above it; the worst of a pixel wins.

    Args:
        bands: the stages.
        first: the step at the left end of the charts that they stand in.
        last: the step at the right end.
    """
    across = _across(first, last)
    worst = np.zeros(int(across.end - across.start), dtype=np.int64)
    begins = np.floor(across(np.array([band.begin for band in bands])) - across.start).astype(np.int64)
    ends = np.ceil(across(np.array([band.end for band in bands])) - across.start).astype(np.int64)
    for band, left, right in zip(bands, begins.tolist(), ends.tolist(), strict=True):
        part = worst[left : max(right, left + 1)]
        np.maximum(part, int(band.stage), out=part)
    names = {int(band.stage): band.stage.label for band in bands}
    edges = [0, *(np.flatnonzero(np.diff(worst)) + 1).tolist(), len(worst)]
    shades, strips, words = dict.fromkeys(sorted(names), ""), dict.fromkeys(sorted(names), ""), ""
    for left, right in itertools.pairwise(edges):
        if stage := int(worst[left]):
            start, width = f"M{across.start + left:g} 0h{right - left}", f"h{left - right}z"
            shades[stage] += f"{start}v{FLOOR}{width}"
            strips[stage] += f"{start}v{TOP - 3}{width}"
            words += _stage_name(names[stage], across.start + left + 2, right - left)
    if not bands:
        return ""
    shade = "".join(f'<path class="{names[stage]}" d="{path}"/>' for stage, path in shades.items() if path)
    strip = "".join(f'<path class="{names[stage]}" d="{path}"/>' for stage, path in strips.items() if path)
    return f'<g class="shade">{shade}</g><g class="strip">{strip}{words}</g>'


def _stage_name(name: str, left: float, width: int) -> str:
    """The name where it fits, its initial where that fits; a thinner strip has neither."""
    word = name if width > 5.5 * len(name) else name[0].upper() if width > 8 else ""
    return f'<text x="{left:g}" y="8.5">{word}</text>' if word else ""


def _steps(chart: Chart, across: Scale) -> str:
    """The axis of the steps."""
    low, high = float(chart.first), float(chart.last)
    marks = [mark for mark in ticks(low, high, about=5) if mark == int(mark)] if high > low else [low]
    texts = f'<text x="{LEFT - 5}" y="{FLOOR + 13}" text-anchor="end">step</text>'
    for mark in marks:
        x = across.of(mark)
        anchor = "end" if x > WIDTH - RIGHT - 12 else "start" if x < LEFT + 8 else "middle"
        texts += f'<text x="{x:.1f}" y="{FLOOR + 13}" text-anchor="{anchor}">{number(mark)}</text>'
    return f'<g class="axis"><path class="grid" d="M{LEFT} {FLOOR}H{WIDTH - RIGHT}"/>{texts}</g>'


def _levels(chart: Chart, up: Scale) -> str:
    """The vertical axis: grid, numbers, and the zero."""
    across, parts = f"H{WIDTH - RIGHT}", ""
    for mark in ticks(up.low, up.high, log=chart.log, about=5):
        y = up.of(mark)
        parts += f'<path class="{"zero" if mark == 0.0 else "grid"}" d="M{LEFT} {y:.1f}{across}"/>'
        parts += f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{number(mark)}</text>'
    return f'<g class="axis">{parts}</g>'


def _limit(limit: float | None, up: Scale) -> str:
    """Named at the left, where a run is still far from it."""
    if limit is None or not up.low < limit < up.high:
        return ""
    y = up.of(limit)
    text = f'<text class="halo" x="{LEFT + 3}" y="{y - 3 if y > TOP + 12 else y + 10:.1f}">limit {number(limit)}</text>'
    return f'<path class="limit" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>{text}'


def _line(line: Series, place: int, across: Scale, up: Scale) -> str:
    """One signal, thinned; a long one thin, with its medians on top."""
    shown: Mask = np.isfinite(line.values) & ((line.values > 0) | (not up.log))
    keep = thin(np.where(shown, line.values, np.nan), POINTS)
    path = _path(line.at(keep), pieces(line)[keep], shown[keep], across, up)
    if len(line) <= LONG:
        return f'<path class="line l{place}" d="{path}"/>'
    middle = middles(line.at(np.flatnonzero(shown)), 60)
    thick = _path(middle, pieces(middle), np.ones(len(middle), dtype=np.bool_), across, up)
    return f'<path class="line thin l{place}" d="{path}"/><path class="line l{place}" d="{thick}"/>'


def _path(points: Series, piece: Indices, shown: Mask, across: Scale, up: Scale) -> str:
    """The drawing commands; a piece of one point becomes a dot."""
    x, y = across(points.steps.astype(np.float64)), up(np.where(shown, points.values, up.low))
    path, before = [], None
    for left, height, which, visible in zip(x.tolist(), y.tolist(), piece.tolist(), shown.tolist(), strict=True):
        if not visible:
            before = None
            continue
        point = f"{left:.1f} {height:.1f}"
        path.append(point if which == before else f"M{point}h0L{point}")  # the round cap turns h0 into a dot
        before = which
    return " ".join(path)


def _marks(lines: Sequence[Series], across: Scale, up: Scale) -> str:
    """Crosses for what is not finite, triangles for what lies beyond the axis; one a column of pixels."""
    crosses: set[tuple[int, bool]] = set()
    beyond: set[tuple[int, bool]] = set()
    for line in lines:
        with np.errstate(invalid="ignore"):
            odd = line.at(np.flatnonzero(~((line.values >= up.low) & (line.values <= up.high))))
        pixels = np.round(across(odd.steps.astype(np.float64))).astype(np.int64).tolist()
        for pixel, value in zip(pixels, odd.values.tolist(), strict=True):
            (beyond if math.isfinite(value) else crosses).add((pixel, not value < up.low))
    high, low = TOP + 4, FLOOR - 4
    cross = "".join(f"M{x - 3} {(high if top else low) - 3}l6 6m0-6l-6 6" for x, top in sorted(crosses))
    arrow = "".join(f"M{x} {high - 4}l-4 7h8z" if top else f"M{x} {low + 4}l-4-7h8z" for x, top in sorted(beyond))
    drawn = f'<path class="cross" d="{cross}"/>' if cross else ""
    return drawn + (f'<path class="beyond" d="{arrow}"/>' if arrow else "")
