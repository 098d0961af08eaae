"""The run page's figure: panels on one shared step axis, with the stages behind all of them.

All panels hang on one x axis (not one each), so that zoom, grid and the hover box are shared by construction. The
titles stand in HTML above the panels, where they explain themselves; `panels.panel_tops` says where.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lldwatch.series import NOTHING, Band, Series, bands
from lldwatch_dashboard import event_marks
from lldwatch_dashboard.event_marks import EventMark
from lldwatch_dashboard.lines import STAGE, STEP
from lldwatch_dashboard.panels import (
    BOTTOM,
    DARK,
    LANE_HEIGHT,
    LEFT,
    LIGHT,
    PANELS,
    READINGS,
    RIGHT,
    STAGE_COLOURS,
    Palette,
    Sheet,
    axis,
    sheet_of,
)
from lldwatch_dashboard.ruler import IN_WORDS, PLAIN, Ruler, ruler_of
from lldwatch_dashboard.run_view import RunView
from lldwatch_dashboard.series import Span
from lldwatch_dashboard.traces import Canvas, all_traces

Figure = dict[str, Any]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
WIDE, NARROW = 760.0, 280.0
"""Pixels that the x axis is taken to have when labels are laid beside each other."""

_SHOWN = frozenset(name for panel in PANELS for name in panel.signals)


def drawn(
    signals: Mapping[str, Series],
    events: Sequence[EventMark] = (),
    *,
    view: RunView | None = None,
    revision: str = "",
    dark: bool = False,
    narrow: bool = False,
) -> tuple[Figure, Sheet]:
    """All panels of a run, as plotly's dictionary, and which they are.

    Args:
        signals: what was measured, and its stages, see `Lines.of`.
        events: what befell it.
        view: how it is looked at.
        revision: as long as it stays the same, a new figure keeps the user's zoom.
        dark: for a dark page.
        narrow: for a small screen.
    """
    view = view or RunView()
    sheet = sheet_of({name for name in _SHOWN if len(signals.get(name, NOTHING))}, events=bool(events))
    canvas = Canvas(DARK if dark else LIGHT, sheet, ruler_of(signals, view.along), view)
    layout = _layout(canvas, revision)
    layout["shapes"], layout["annotations"] = _above(canvas, signals, events, NARROW if narrow else WIDE)
    layout["xaxis"] |= _ends(canvas, signals)
    _fit(layout, canvas, signals)
    return {"data": all_traces(canvas, signals, events), "layout": layout}, sheet


def _fit(layout: dict[str, Any], canvas: Canvas, signals: Mapping[str, Series]) -> None:
    """The y axes to what was measured; a panel without anything says so."""
    for row, panel in enumerate(canvas.sheet.panels):
        measured = [signals.get(name, NOTHING) for name in panel.signals]
        ends = room([canvas.seen(line) for line in measured], panel.log)
        layout[axis(row).replace("y", "yaxis")] |= _scale(ends, panel.log, canvas)
        if not any(map(len, measured)):
            layout["annotations"].append(_not_recorded(row, canvas, started=len(signals[STEP]) > 0))
        elif row == 0:
            layout["shapes"].append(_zero_line(canvas.palette))


def empty_figure() -> Figure:
    """What stands there until the run has been read."""
    return {"data": [], "layout": _layout(Canvas(LIGHT), "")}


def _ends(canvas: Canvas, signals: Mapping[str, Series]) -> dict[str, Any]:
    """How far the x axis goes by itself: markers would push it far beyond the steps there are."""
    if not len(signals[STEP]):
        return {"visible": False}
    low, high = canvas.ruler.at(whole(signals)).tolist()
    return {"visible": True, "autorangeoptions": {"clipmin": low, "clipmax": high}}


def whole(signals: Mapping[str, Series]) -> Span:
    """From half a step before the first to half a step after the last."""
    steps = signals[STEP].steps
    return float(steps[0]) - 0.5, float(steps[-1]) + 0.5


def _above(
    canvas: Canvas, signals: Mapping[str, Series], events: Sequence[EventMark], width: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Stages and events: what goes through all panels, and the words above them."""
    if not len(signals[STEP]):
        return [], []
    stages, palette, ruler = bands(signals[STAGE]), canvas.palette, canvas.ruler
    shapes = [_band_shape(band, ruler, canvas.sheet.plot_height) for band in stages]
    ends = canvas.span or whole(signals)
    placed = event_marks.lanes(events, ruler, ends, width)
    shapes += event_marks.lines(events, placed, ruler, palette, canvas.sheet.plot_height)
    healthy = not stages and len(signals[STAGE]) == len(signals[STEP])
    words = stage_labels(stages, palette, ruler, canvas.span) or (_healthy(palette) if healthy else [])
    return shapes, words + event_marks.labels(placed, ruler, ends, width, palette)


def stage_labels(
    stages: Sequence[Band], palette: Palette, ruler: Ruler = PLAIN, span: Span | None = None
) -> list[dict[str, Any]]:
    """The stages in words above the panels, each stage in its own lane; a band close to a labelled one has none."""
    if not stages:
        return []
    first, last = span or (0.0, stages[-1].end)
    labels, labelled = [], dict.fromkeys(STAGE_COLOURS, -np.inf)
    for band in stages:
        begin = max(band.begin, first)
        if band.end <= first or begin >= last or begin - labelled[band.stage] < 0.25 * (last - first):
            continue
        labelled[band.stage] = begin
        late = begin > first + 0.7 * (last - first)
        labels.append(
            {
                "text": f"{band.stage.label}, known at {band.begin + 0.5:.0f}",
                "x": ruler.place(begin),
                "xref": "x",
                "y": 1,
                "yref": "paper",
                "yshift": LANE_HEIGHT * (3 - band.stage),
                "xanchor": "right" if late else "left",
                "xshift": -3 if late else 3,
                "yanchor": "bottom",
                "showarrow": False,
                "borderpad": 0,
                "font": {"size": 11, "color": palette.ink},
            }
        )
    return labels


def _healthy(palette: Palette) -> list[dict[str, Any]]:
    """Where there is no stage to name, its place says so."""
    text, font = "✓ healthy at every step", {"size": 11, "color": palette.muted}
    place = {"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": 1, "yanchor": "bottom"}
    return [{"text": text, "font": font, "showarrow": False, "borderpad": 0, "yshift": LANE_HEIGHT, **place}]


def room(lines: Sequence[Series], log: bool) -> list[float]:
    """Two values that the lines' axis has to include, so that thick lines and marks are not cut in half at its edge."""
    values = np.concatenate([line.values for line in lines])
    values = values[np.isfinite(values) & (values > 0)] if log else values[np.isfinite(values)]
    if not len(values):
        return []
    low, high = float(values.min()), float(values.max())
    if log:
        return [low / 2, high * 2]
    margin = 0.08 * max(high - low, 1e-9)
    return [low - margin, high + margin]


def log_ticks(low: float, high: float) -> list[float]:
    """At most about six round values: digits times powers of ten, or only the powers, or some of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 3, 5, 7) if high < 12 * low else (1, 2, 5) if high < 60 * low else (1,)
    every = math.ceil((last - first) / 6)
    ticks = [float(f"{digit}e{power}") for power in range(first, last + 1, every) for digit in digits]
    return [tick for tick in ticks if low <= tick <= high]


def _scale(ends: list[float], log: bool, canvas: Canvas) -> dict[str, Any]:
    """Of a y axis; where the reader sees a part, the part fills it."""
    if not ends:
        return {"visible": False}
    part = canvas.span is not None or canvas.view.clip
    wide = part and ends[1] - ends[0] > 1e-6 * max(map(abs, ends))  # a line that does not move has no height to fill
    bounds: dict[str, Any] = {"include": ends}
    if wide:  # not minallowed and maxallowed, which plotly 3 gets wrong on a log axis
        bounds |= {"clipmin": ends[0], "clipmax": ends[1]}
    scale: dict[str, Any] = {"visible": True, "autorangeoptions": bounds}
    if log:
        scale |= {"tickvals": log_ticks(*ends), "ticktext": [f"{tick:g}" for tick in log_ticks(*ends)]}
    return scale


def _layout(canvas: Canvas, revision: str) -> dict[str, Any]:
    """Axes and manners of the figure; the empty ones too, so that nothing jumps when the first step comes."""
    palette, sheet, along = canvas.palette, canvas.sheet, canvas.ruler.along
    line: dict[str, Any] = {"gridcolor": palette.grid, "linecolor": palette.grid, "tickfont": {"color": palette.muted}}
    line["automargin"] = False  # the titles in the page stand where the panels are said to be
    layout: dict[str, Any] = {
        "height": sheet.height,
        "margin": {"t": sheet.top, "b": BOTTOM, "l": LEFT, "r": RIGHT},
        "uirevision": revision or True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11, "color": palette.ink},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "hoverlabel": {"bgcolor": palette.paper, "bordercolor": palette.muted, "font": {"color": palette.ink}},
        "dragmode": "zoom",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.ink},
        "showlegend": False,
        "xaxis": {**line, "anchor": axis(len(sheet.panels) - 1), "title": {"text": IN_WORDS[along]}, "zeroline": False},
    }
    layout["xaxis"] |= {"type": "date", "tickformat": ""} if along == "time" else {"type": "linear", "tickformat": ",d"}
    layout["xaxis"] |= {"showspikes": True, "spikemode": "across", "spikesnap": "hovered data", "spikethickness": 1}
    over = "%{x|%Y-%m-%d %H:%M:%S}" if along == "time" else f"{along} %{{x}}"
    layout["xaxis"] |= {"spikecolor": palette.muted, "spikedash": "dot", "unifiedhovertitle": {"text": over}}
    for row, (panel, domain) in enumerate(zip(sheet.panels, sheet.domains(), strict=True)):
        scale: dict[str, Any] = {"type": "log"}
        if not panel.log:
            scale = {"type": "linear", "nticks": 5 if panel.height > 60 else 3}
        name = axis(row).replace("y", "yaxis")
        scale |= {"ticklabeloverflow": "allow", "tickangle": 0}  # else the browser measures every label, for 0.1 s
        layout[name] = {**line, **scale, "domain": [*domain], "anchor": "x", "zeroline": False}
    return layout


def _zero_line(palette: Palette) -> dict[str, Any]:
    line = {"color": palette.ink, "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": 0, "y1": 0, "line": line, "name": "0"}


def _band_shape(band: Band, ruler: Ruler, height: int) -> dict[str, Any]:
    """From its lane above the panels down through all of them."""
    lanes = LANE_HEIGHT * (4 - band.stage) / height
    return {
        "type": "rect",
        "name": band.stage.label,
        "layer": "below",
        "xref": "x",
        "x0": ruler.place(band.begin),
        "x1": ruler.place(band.end),
        "yref": "paper",
        "y0": 0,
        "y1": 1 + lanes,
        "fillcolor": STAGE_COLOURS[band.stage],
        "opacity": 0.2,
        "line": {"width": 0},
    }


def _not_recorded(row: int, canvas: Canvas, *, started: bool) -> dict[str, Any]:
    """An empty panel says which columns it lacks."""
    panel = canvas.sheet.panels[row]
    needed = sorted({column for name in panel.signals for column in READINGS[name].requires})
    lacking = panel.absent or f"not recorded: needs {' or '.join(needed)}"
    text = lacking if started else "waiting for the first step"
    place = {"xref": "paper", "x": 0.5, "yref": "paper", "y": sum(canvas.sheet.domains()[row]) / 2}
    return {"text": text, "showarrow": False, "font": {"size": 12, "color": canvas.palette.muted}, **place}
