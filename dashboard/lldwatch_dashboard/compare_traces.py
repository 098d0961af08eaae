"""The lines, marks and letters of a comparison's panels, as plotly's dictionaries.

A line is told by its colour, its dashes and the letter at its end. `meta` names what a trace shows:
`<letter>:<signal>:raw`, `:mean`, `:marks`, `:parts` or `:onset`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

import numpy as np

from lldwatch.parting import Parting
from lldwatch.series import Series
from lldwatch_dashboard.lanes import Alignment, Lane, last_finite, lines, spread
from lldwatch_dashboard.panels import ALERT, DARK, LIGHT
from lldwatch_dashboard.series import edge_marks

COLOURS = ("#0072B2", "#D55E00", "#008060", "#A8467F", "#8A6A00", "#57606a")
COLOURS_DARK = ("#56B4E9", "#F28E4B", "#35C79B", "#D98AB8", "#E3C13A", "#B4BCC6")
DASHES = ("solid", "7px,3px", "2px,2px", "9px,3px,2px,3px")
"""With as many colours and dashes 12 runs have a look of their own each."""
LOG = ("grad_norm",)
SET = ("llds_coefficient",)
"""What was set, not measured, has no noise that a mean would take away."""
PANEL = 132
LETTER = 13

Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the figure.

    Attributes:
        index: its place, from 0.
        signal: key in SIGNALS.
        alignment: how the lanes lie upon each other.
        ends: of the y axis; None: there is nothing to draw.
        smooth: mean of so many steps.
        points: of a line, at most.
        dark: for a dark page.
    """

    index: int
    signal: str
    alignment: Alignment
    ends: tuple[float, float] | None
    smooth: int
    points: int
    dark: bool

    @property
    def mean_of(self) -> int:
        """Steps that a point of the thick line is the mean of."""
        return 1 if self.signal in SET else self.smooth

    @property
    def log(self) -> bool:
        """The y axis is logarithmic."""
        return self.signal in LOG

    def axis(self, which: str) -> str:
        """The panel's x or y axis as plotly calls it in a trace."""
        return f"{which}{self.index + 1 if self.index else ''}"

    def share(self, value: float) -> float:
        """Height of a value as a share of the panel's."""
        assert self.ends is not None
        low, high, here = (math.log10(each) if self.log else each for each in (*self.ends, value))
        return (here - low) / (high - low)

    def value(self, share: float) -> float:
        """The value at a share of the panel's height."""
        assert self.ends is not None
        low, high = (math.log10(each) if self.log else each for each in self.ends)
        here = low + share * (high - low)
        return float(10.0**here if self.log else here)


def look(place: int, dark: bool) -> dict[str, str]:
    """Colour and dashes of a lane."""
    colours = COLOURS_DARK if dark else COLOURS
    return {"color": colours[place % len(colours)], "dash": DASHES[place % len(DASHES)]}


def key_picture(place: int, dark: bool) -> str:
    """A sample of a lane's line, as an address that loads nothing."""
    line = look(place, dark)
    dashes = "" if line["dash"] == "solid" else f" stroke-dasharray='{line['dash'].replace('px', '')}'"
    path = f"<path d='M0 6H30' stroke='{line['color']}' stroke-width='2.5'{dashes}/>"
    picture = f"<svg xmlns='http://www.w3.org/2000/svg' width='30' height='12'>{path}</svg>"
    return "data:image/svg+xml," + quote(picture, safe=" =:/',")


def traces(lanes: Sequence[Lane], panel: Panel, partings: Mapping[int, Sequence[Parting]]) -> Iterator[Trace]:
    """Everything that is drawn in one panel, from back to front.

    Args:
        lanes: those that have measured the panel's signal.
        panel: where they are drawn.
        partings: place of a lane -> where its signals part from those of the first.
    """
    if panel.ends is None:
        return
    for lane in lanes:
        yield from _lines(lane, panel)
        yield from _marks(lane, panel)
    for index, lane in enumerate(lanes):
        before = sum(other.onset == lane.onset for other in lanes[:index])
        yield from _onset(lane, panel, before)
        yield from _parted(lane, panel, partings.get(lane.place, ()))


def _trace(lane: Lane, panel: Panel, kind: str, series: Series, **more: Any) -> Trace:
    drawn = np.isfinite(series.values) & ((series.values > 0) | (not panel.log))
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": f"{lane.letter}:{panel.signal}:{kind}",
        "x": panel.alignment.x(lane.place, series.steps).astype(np.float32),
        "y": np.where(drawn, series.values, np.nan).astype(np.float32),
        "xaxis": panel.axis("x"),
        "yaxis": panel.axis("y"),
        "showlegend": False,
        **more,
    }


def _lines(lane: Lane, panel: Panel) -> Iterator[Trace]:
    """Every step as a thin line, and the mean as a thick one; a lane whose place is guessed is paler."""
    raw, mean = lines(lane.signals[panel.signal], panel.mean_of, panel.points)
    line = look(lane.place, panel.dark)
    if panel.mean_of > 1:
        behind = {"color": line["color"], "width": 1}
        yield _trace(lane, panel, "raw", raw, line=behind, opacity=0.28, hoverinfo="skip")
    few = {"mode": "lines+markers", "marker": {"size": 4, "color": line["color"]}} if len(raw) < 3 else {}
    opacity = 0.55 if lane.place in panel.alignment.guessed else 1.0
    width = {"width": 2.2 if panel.mean_of > 1 else 1.5}
    hover = {"hovertemplate": f"%{{y:.4~g}}<extra>{lane.letter} {short(lane.name)}</extra>"}
    yield _trace(lane, panel, "mean", mean, line=line | width, opacity=opacity, **hover, **few)


def _points(lane: Lane, panel: Panel, kind: str, marker: dict[str, Any], at: Series, text: Sequence[str]) -> Trace:
    said = {"text": list(text), "hovertemplate": f"%{{text}}<extra>{lane.letter}</extra>"}
    return _trace(lane, panel, kind, at, mode="markers", marker=marker, cliponaxis=False, **said)


def _marks(lane: Lane, panel: Panel) -> Iterator[Trace]:
    """What has no place on the axis, at its edge."""
    marks = edge_marks(lane.signals[panel.signal], log=panel.log)[-200:]
    if not marks:
        return
    colour = look(lane.place, panel.dark)["color"]
    symbols = ["x-thin" if mark.top else "triangle-down" for mark in marks]
    marker = {"symbol": symbols, "size": 8, "color": colour, "line": {"color": ALERT, "width": 2}}
    heights = [panel.value(0.96 if mark.top else 0.04) for mark in marks]  # of the panel, not of this lane's own line
    at = Series(np.array([mark.step for mark in marks]), np.array(heights))
    yield _points(lane, panel, "marks", marker, at, [mark.text for mark in marks])


def _onset(lane: Lane, panel: Panel, before: int) -> Iterator[Trace]:
    """A triangle at the panel's foot, above those of the same step; an axis of onsets has a line at 0 instead."""
    if lane.onset is None or panel.ends is None or panel.alignment.align == "onset":
        return
    marker = {"symbol": "triangle-up", "size": 9, "color": look(lane.place, panel.dark)["color"]}
    at = Series(np.array([lane.onset]), np.array([panel.value(0.04 + 0.07 * before)]))
    yield _points(lane, panel, "onset", marker, at, [f"onset at step {lane.onset:,}"])


def _parted(lane: Lane, panel: Panel, partings: Sequence[Parting]) -> Iterator[Trace]:
    """A diamond where the lane parts from the first one."""
    found = next((each for each in partings if each.signal == panel.signal and each.step is not None), None)
    if found is None or found.step is None or panel.ends is None:
        return
    series = lines(lane.signals[panel.signal], panel.mean_of, len(lane.signals[panel.signal]))[1]
    value = float(series.values[min(int(np.searchsorted(series.steps, found.step)), len(series) - 1)])
    drawn = math.isfinite(value) and (value > 0 or not panel.log)
    paper = (DARK if panel.dark else LIGHT).paper
    line = {"color": look(lane.place, panel.dark)["color"], "width": 2}
    marker = {"symbol": "diamond", "size": 9, "color": paper, "line": line}
    at = Series(np.array([found.step]), np.array([value if drawn else panel.ends[1]]))
    words = f"parts from A at step {found.step:,}, certain at {found.certain or found.step:,}"
    yield _points(lane, panel, "parts", marker, at, [words])


def letters(lanes: Sequence[Lane], panel: Panel) -> list[dict[str, Any]]:
    """The letter of each lane at the end of its line; letters that end at a like height are moved apart."""
    found = []
    for lane in lanes:
        series = lines(lane.signals[panel.signal], panel.mean_of, panel.points)[1]
        drawn = Series(series.steps, np.where(series.values > 0, series.values, np.nan)) if panel.log else series
        end = last_finite(drawn)
        if end is not None and panel.ends is not None:
            found.append((lane, float(panel.alignment.x(lane.place, end[0])), panel.share(end[1])))
    found.sort(key=lambda each: each[1])
    heights = []
    for group in _neighbours([x for _, x, _ in found], _reach(lanes, panel)):
        heights += spread([found[index][2] for index in group], LETTER / PANEL)
    return [
        {
            "text": f"<b>{lane.letter}</b>",
            "name": lane.letter,
            "x": x,
            "xref": panel.axis("x"),
            "y": share,
            "yref": f"{panel.axis('y')} domain",
            "xanchor": "left",
            "yanchor": "middle",
            "xshift": 3,
            "showarrow": False,
            "borderpad": 0,
            "font": {"size": 11, "color": look(lane.place, panel.dark)["color"]},
        }
        for (lane, x, _), share in zip(found, heights, strict=True)
    ]


def _reach(lanes: Sequence[Lane], panel: Panel) -> float:
    """What a letter takes of the x axis, amply."""
    ends = [x for lane in lanes for x in panel.alignment.x(lane.place, [lane.first, lane.last]).tolist()]
    return 0.035 * (max(ends, default=0.0) - min(ends, default=0.0))


def _neighbours(places: Sequence[float], reach: float) -> Iterator[list[int]]:
    """Indices of places, which rise, in groups that lie so close that they get into each other's way."""
    group: list[int] = []
    for index, place in enumerate(places):
        if group and place - places[group[-1]] > reach:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def short(name: str) -> str:
    """A run's name in a hover box: plotly reads some HTML and its own templates there."""
    text = name if len(name) <= 30 else f"…{name[-29:]}"
    return escape(text).replace("%{", "% {")
