"""The lines, shades and marks of the run page's figure, as plotly's dictionaries; each at most MAX_POINTS long.

`meta` names what a trace shows: `<signal>:raw`, `:mean`, `:marks`, or the edge of a shade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lldwatch.diagnosis import Stage, Verdict
from lldwatch.schema import Observation
from lldwatch_dashboard import series as numbers
from lldwatch_dashboard.panels import ALERT, PANELS, SHORT, Palette, Panel, axis
from lldwatch_dashboard.series import Series

Trace = dict[str, Any]


def all_traces(
    signals: Mapping[str, Series],
    observations: Sequence[Observation],
    verdicts: Sequence[Verdict],
    palette: Palette,
) -> list[Trace]:
    """Everything that is drawn, from back to front; the hover box lists it in reverse, so the top panel is last."""
    # an axis exists only if it has a trace, be it empty
    axes = [_line("axis", Series(np.zeros(0, np.int64), np.zeros(0)), row) for row in range(len(PANELS))]
    back, lines, front = [*axes, *_background(observations, palette)], [], []
    for row, panel in reversed(list(enumerate(PANELS))):
        for place, name in reversed(list(enumerate(panel.signals))):
            seen = signals[name]
            if len(seen):
                look = {"color": palette.lines[place], "dash": ("solid", "6px,3px")[place]}
                lines += _raw_and_mean(name, seen, panel, row, look)
                front += _marks(name, seen, panel, row)
    return [*back, *lines, *front, *_stages(verdicts)]


def _line(meta: str, series: Series, row: int, **more: Any) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": meta,
        "x": series.steps.astype(np.int32),
        "y": series.values.astype(np.float32),
        "yaxis": axis(row),
        "hoverinfo": "skip",
        "showlegend": False,
        **more,
    }


def _raw_and_mean(name: str, seen: Series, panel: Panel, row: int, look: dict[str, Any]) -> list[Trace]:
    """Every step as a thin line, which the hover box reads, and the mean of 5 steps as a thick one."""
    keep = numbers.thin(seen.values)
    raw, mean = seen.at(keep), Series(seen.steps, numbers.running_mean(seen.values)).at(keep)
    if panel.log:
        raw, mean = (Series(part.steps, np.where(part.values > 0, part.values, np.nan)) for part in (raw, mean))
    few = {"mode": "lines+markers", "marker": {"size": 4, "color": look["color"]}} if len(seen) < 3 else {}
    hover = {"hoverinfo": "all", "hovertemplate": f"%{{y:.4~g}}<extra>{SHORT.get(name, name)}</extra>"}
    return [
        _line(f"{name}:raw", raw, row, line={"color": look["color"], "width": 1}, opacity=0.5, **hover, **few),
        _line(f"{name}:mean", mean, row, line={**look, "width": 2.2}),
    ]


def _marks(name: str, seen: Series, panel: Panel, row: int) -> list[Trace]:
    """What has no place on the axis, as markers at its edge."""
    marks = numbers.edge_marks(seen, log=panel.log)[-numbers.MAX_POINTS :]
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
    return [_line(f"{name}:marks", places, row, mode="markers", marker=look, cliponaxis=False, text=text, **hover)]


def _background(observations: Sequence[Observation], palette: Palette) -> list[Trace]:
    """Noise floor and standard error, behind the headline."""
    floor = numbers.noise_floor(observations)
    shades = _shade("noise_floor", Series(floor.steps, -floor.values), floor, palette.noise_band)
    return shades + _shade("standard_error", *numbers.standard_error(observations), palette.error_band)


def _shade(name: str, lower: Series, upper: Series, colour: str) -> list[Trace]:
    keep = numbers.thin(lower.values)
    if not len(keep):
        return []
    edge = {"width": 0}
    return [
        _line(f"{name}:lower", lower.at(keep), 0, line=edge),
        _line(f"{name}:upper", upper.at(keep), 0, line=edge, fill="tonexty", fillcolor=colour),
    ]


def _stages(verdicts: Sequence[Verdict]) -> list[Trace]:
    """Nothing to be seen, but the hover box reads the stage from it; healthy steps are not named."""
    ill = [verdict for verdict in verdicts if verdict.stage is not Stage.HEALTHY][-numbers.MAX_POINTS :]
    if not ill:
        return []
    steps = np.array([verdict.step for verdict in ill])
    text = [verdict.stage.label for verdict in ill]
    hover = {"hoverinfo": "all", "hovertemplate": "%{text}<extra>stage</extra>"}
    return [_line("stage", Series(steps, np.zeros(len(ill))), 0, line={"width": 0}, text=text, **hover)]
