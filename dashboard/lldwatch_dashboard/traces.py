"""The lines, shades and marks of the run page's figure, as plotly's dictionaries; each at most MAX_POINTS long.

`meta` names what a trace shows: `<signal>:raw`, `:mean`, `:marks`, or the edge of a shade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lldwatch.diagnosis import Stage
from lldwatch.series import NOTHING, Series
from lldwatch_dashboard import series as numbers
from lldwatch_dashboard.event_marks import EventMark, escaped
from lldwatch_dashboard.lines import HIGH, LOW, NOISE, STAGE
from lldwatch_dashboard.panels import ALERT, SHORT, Palette, Panel, Sheet, axis
from lldwatch_dashboard.ruler import PLAIN, Ruler
from lldwatch_dashboard.run_view import RunView
from lldwatch_dashboard.series import Span

Trace = dict[str, Any]
_LABELS = {stage: stage.label for stage in Stage}


@dataclass(frozen=True, slots=True)
class Canvas:
    """On what, and how, the traces are drawn."""

    palette: Palette
    sheet: Sheet = field(default_factory=Sheet)
    ruler: Ruler = PLAIN
    view: RunView = field(default_factory=RunView)

    @property
    def span(self) -> Span | None:
        """First and last step that are shown; None: all of them."""
        return self.view.between

    def seen(self, series: Series) -> Series:
        """The points that the y axis makes room for."""
        inside = numbers.within(series, self.span)
        if self.view.clip:
            return numbers.usual(inside)
        return inside if inside.few is None else inside.at(inside.few)

    def line(self, meta: str, series: Series, row: int, **more: Any) -> Trace:
        """A trace of a panel."""
        places = self.ruler.at(series.steps)
        return {
            "type": "scatter",
            "mode": "lines",
            "meta": meta,
            "x": places.astype(np.int32) if self.ruler.along == "step" else places,
            "y": series.values.astype(np.float32),
            "yaxis": axis(row),
            "hoverinfo": "skip",
            "showlegend": False,
            **more,
        }


def all_traces(
    canvas: Canvas,
    signals: Mapping[str, Series],
    events: Sequence[EventMark] = (),
) -> list[Trace]:
    """Everything that is drawn, from back to front; the hover box lists it in reverse, so the top panel is last."""
    # an axis exists only if it has a trace, be it empty
    panels = canvas.sheet.panels
    axes = [canvas.line("axis", Series(np.zeros(0, np.int64), np.zeros(0)), row) for row in range(len(panels))]
    back, lines, front = [*axes, *_background(canvas, signals)], [], []
    for row, panel in reversed(list(enumerate(panels))):
        for place, name in reversed(list(enumerate(panel.signals))):
            seen = signals.get(name, NOTHING)
            if len(seen):
                look = {"color": canvas.palette.lines[place], "dash": ("solid", "6px,3px")[place]}
                lines += _raw_and_mean(canvas, name, seen, row, look)
                front += _marks(canvas, name, seen, row)
    return [*back, *lines, *front, *_events(canvas, events), *_stages(canvas, signals.get(STAGE, NOTHING))]


def _raw_and_mean(canvas: Canvas, name: str, seen: Series, row: int, look: dict[str, Any]) -> list[Trace]:
    """Every step as a thin line, which the hover box reads, and the mean of some steps as a thick one."""
    panel, window = canvas.sheet.panels[row], canvas.view.smooth
    keep = numbers.thin_around(seen, canvas.span)
    raw, mean = seen.at(keep), Series(seen.steps[keep], numbers.running_mean(seen.values, window, keep))
    if panel.log:
        raw, mean = (Series(part.steps, np.where(part.values > 0, part.values, np.nan)) for part in (raw, mean))
    few = {"mode": "lines+markers", "marker": {"size": 4, "color": look["color"]}} if len(seen) < 3 else {}
    hover = {"hoverinfo": "all", "hovertemplate": f"%{{y:.4~g}}<extra>{SHORT.get(name, name)}</extra>"}
    if window == 1:
        return [canvas.line(f"{name}:raw", raw, row, line={**look, "width": 1.4}, **hover, **few)]
    thin = {"color": look["color"], "width": 1}
    return [
        canvas.line(f"{name}:raw", raw, row, line=thin, opacity=0.5, **hover, **few),
        canvas.line(f"{name}:mean", mean, row, line={**look, "width": 2.2}),
    ]


def _marks(canvas: Canvas, name: str, seen: Series, row: int) -> list[Trace]:
    """What has no place on the axis, as markers at its edge."""
    panel: Panel = canvas.sheet.panels[row]
    inside = numbers.within(seen, canvas.span)
    inside = inside if inside.odd is None else inside.at(inside.odd)
    marks = numbers.edge_marks(inside, log=panel.log, seen=canvas.seen(seen))
    marks = marks[numbers.stale(len(marks)) :]
    if not marks:
        return []
    places = Series(np.array([mark.step for mark in marks]), np.array([mark.height for mark in marks]))
    look = {
        "symbol": ["x-thin" if mark.top else "triangle-down" for mark in marks],
        "size": 8,
        "color": ALERT,
        "line": {"color": ALERT, "width": [2 if mark.top else 0 for mark in marks]},
    }
    hover = {"hoverinfo": "all", "hovertemplate": f"%{{text}}<extra>{SHORT.get(name, name)}</extra>"}
    text = [mark.text for mark in marks]
    return [
        canvas.line(f"{name}:marks", places, row, mode="markers", marker=look, cliponaxis=False, text=text, **hover)
    ]


def _background(canvas: Canvas, signals: Mapping[str, Series]) -> list[Trace]:
    """Noise floor and standard error, behind the headline."""
    floor, palette = signals.get(NOISE, NOTHING), canvas.palette
    under = Series(floor.steps, -floor.values, floor.few)
    edges = signals.get(LOW, NOTHING), signals.get(HIGH, NOTHING)
    shades = _shade(canvas, "noise_floor", under, floor, palette.noise_band)
    return shades + _shade(canvas, "standard_error", *edges, palette.error_band)


def _shade(canvas: Canvas, name: str, lower: Series, upper: Series, colour: str) -> list[Trace]:
    keep = numbers.thin_around(lower, canvas.span)
    if not len(keep):
        return []
    edge = {"width": 0}
    return [
        canvas.line(f"{name}:lower", lower.at(keep), 0, line=edge),
        canvas.line(f"{name}:upper", upper.at(keep), 0, line=edge, fill="tonexty", fillcolor=colour),
    ]


def _events(canvas: Canvas, events: Sequence[EventMark]) -> list[Trace]:
    """Nothing to be seen, but the hover box reads from it what happened at a step."""
    told: dict[int, list[str]] = {}
    for event in events[numbers.stale(len(events)) :]:
        told.setdefault(event.step, []).append(escaped(event.detail)[:90])
    if not told:
        return []
    steps = np.array(list(told))
    hover = {"hoverinfo": "all", "hovertemplate": "%{text}<extra>event</extra>"}
    text = ["; ".join(words[:3]) for words in told.values()]
    look = {"mode": "markers", "marker": {"opacity": 0, "size": 1}, "text": text, **hover}
    return [canvas.line("events", Series(steps, np.zeros(len(steps))), 0, **look)]


def _stages(canvas: Canvas, stages: Series) -> list[Trace]:
    """Nothing to be seen, but the hover box reads the stage from it; healthy steps are not named."""
    ill = stages.at(np.flatnonzero(stages.values != Stage.HEALTHY))
    ill = ill.at(np.arange(numbers.stale(len(ill)), len(ill)))
    if not len(ill):
        return []
    text = [_LABELS[Stage(int(stage))] for stage in ill.values]
    hover = {"hoverinfo": "all", "hovertemplate": "%{text}<extra>stage</extra>"}
    return [canvas.line("stage", Series(ill.steps, np.zeros(len(ill))), 0, line={"width": 0}, text=text, **hover)]
