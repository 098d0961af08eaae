"""The run page's figure: panels on one shared step axis, with the stages behind all of them.

All panels hang on one x axis (not one each), so that zoom, grid and the hover box are shared by construction. The
titles stand in HTML above the panels, where they explain themselves; `panels.panel_tops` says where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lldwatch.diagnosis import Verdict
from lldwatch.schema import Observation
from lldwatch.signals import SIGNALS
from lldwatch_dashboard import series as numbers
from lldwatch_dashboard.panels import (
    BOTTOM,
    DARK,
    HEIGHT,
    LANE_HEIGHT,
    LEFT,
    LIGHT,
    PANELS,
    PLOT_HEIGHT,
    RIGHT,
    STAGE_COLOURS,
    TOP,
    Palette,
    axis,
    domain,
)
from lldwatch_dashboard.series import Band, Series
from lldwatch_dashboard.traces import all_traces

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def run_figure(
    observations: Sequence[Observation], verdicts: Sequence[Verdict], *, revision: str = "", dark: bool = False
) -> go.Figure:
    """All panels of a run.

    Args:
        observations: its steps.
        verdicts: one for each of them.
        revision: as long as it stays the same, a new figure keeps the user's zoom.
        dark: for a dark page.
    """
    palette = DARK if dark else LIGHT
    stages = numbers.bands(verdicts)
    signals = {name: numbers.measured(observations, SIGNALS[name]) for panel in PANELS for name in panel.signals}
    layout = _layout(palette, revision)
    layout["shapes"] = [_band_shape(band) for band in stages]
    layout["annotations"] = stage_labels(stages, palette) or _healthy(verdicts, palette)
    layout["xaxis"]["visible"] = bool(observations)
    if observations:  # markers would push the axis far beyond the steps there are
        ends = {"clipmin": observations[0].step - 0.5, "clipmax": observations[-1].step + 0.5}
        layout["xaxis"]["autorangeoptions"] = ends
    for row, panel in enumerate(PANELS):
        lines = [signals[name] for name in panel.signals]
        layout[axis(row).replace("y", "yaxis")] |= _scale(room(lines, panel.log), panel.log)
        if not any(map(len, lines)):
            layout["annotations"].append(_not_recorded(row, bool(observations), palette))
        elif row == 0:
            layout["shapes"].append(_zero_line(palette))
    return go.Figure(data=all_traces(signals, observations, verdicts, palette), layout=layout)


def empty_figure() -> go.Figure:
    """What stands there until the run has been read."""
    return go.Figure(layout=_layout(LIGHT, ""))


def stage_labels(stages: Sequence[Band], palette: Palette) -> list[dict[str, Any]]:
    """The stages in words above the panels, each stage in its own lane; a band close to a labelled one has none."""
    if not stages:
        return []
    last_step = stages[-1].end
    labels, labelled = [], dict.fromkeys(STAGE_COLOURS, -np.inf)
    for band in stages:
        if band.begin - labelled[band.stage] < 0.25 * last_step:
            continue
        labelled[band.stage] = band.begin
        late = band.begin > 0.7 * last_step
        labels.append(
            {
                "text": f"{band.stage.label}, known at {band.begin + 0.5:.0f}",
                "x": band.begin,
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


def _healthy(verdicts: Sequence[Verdict], palette: Palette) -> list[dict[str, Any]]:
    """Where there is no stage to name, its place says so."""
    if not verdicts:
        return []
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


def _scale(ends: list[float], log: bool) -> dict[str, Any]:
    if not ends:
        return {"visible": False}
    scale: dict[str, Any] = {"visible": True, "autorangeoptions": {"include": ends}}
    if log:
        scale |= {"tickvals": log_ticks(*ends), "ticktext": [f"{tick:g}" for tick in log_ticks(*ends)]}
    return scale


def _layout(palette: Palette, revision: str) -> dict[str, Any]:
    """Axes and manners of the figure; the empty ones too, so that nothing jumps when the first step comes."""
    last = axis(len(PANELS) - 1)
    line = {"gridcolor": palette.grid, "linecolor": palette.grid, "tickfont": {"color": palette.muted}}
    layout: dict[str, Any] = {
        "height": HEIGHT,
        "margin": {"t": TOP, "b": BOTTOM, "l": LEFT, "r": RIGHT},
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
        "xaxis": {
            **line,
            "anchor": last,
            "title": {"text": "step"},
            "zeroline": False,
            "unifiedhovertitle": {},
            "tickformat": ",d",
        },
    }
    layout["xaxis"] |= {"showspikes": True, "spikemode": "across", "spikesnap": "hovered data", "spikethickness": 1}
    layout["xaxis"] |= {"spikecolor": palette.muted, "spikedash": "dot", "unifiedhovertitle": {"text": "step %{x}"}}
    for row, panel in enumerate(PANELS):
        scale = {"type": "log"} if panel.log else {"nticks": 5 if panel.height > 60 else 3}
        name = axis(row).replace("y", "yaxis")
        layout[name] = {**line, **scale, "domain": domain(row), "anchor": "x", "zeroline": False}
    return layout


def _zero_line(palette: Palette) -> dict[str, Any]:
    line = {"color": palette.ink, "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": 0, "y1": 0, "line": line, "name": "0"}


def _band_shape(band: Band) -> dict[str, Any]:
    """From its lane above the panels down through all of them."""
    lanes = LANE_HEIGHT * (4 - band.stage) / PLOT_HEIGHT
    return {
        "type": "rect",
        "name": band.stage.label,
        "layer": "below",
        "xref": "x",
        "x0": band.begin,
        "x1": band.end,
        "yref": "paper",
        "y0": 0,
        "y1": 1 + lanes,
        "fillcolor": STAGE_COLOURS[band.stage],
        "opacity": 0.2,
        "line": {"width": 0},
    }


def _not_recorded(row: int, started: bool, palette: Palette) -> dict[str, Any]:
    """An empty panel says which columns it lacks."""
    needed = sorted({column for name in PANELS[row].signals for column in SIGNALS[name].requires})
    lacking = PANELS[row].absent or f"not recorded: needs {' or '.join(needed)}"
    text = lacking if started else "waiting for the first step"
    place = {"xref": "paper", "x": 0.5, "yref": "paper", "y": sum(domain(row)) / 2}
    return {"text": text, "showarrow": False, "font": {"size": 12, "color": palette.muted}, **place}
