"""The figure of a comparison: a panel for each signal, all on the same x; numbers in, plotly's dictionary out.

The y axes are fixed and hold all that was measured; the x axis is the reader's to zoom, in all panels at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lldwatch.parting import Parting
from lldwatch.reports.axes import number, ticks
from lldwatch.series import Series
from lldwatch.signals import SIGNALS
from lldwatch_dashboard.compare_traces import LOG, PANEL, Panel, letters, traces
from lldwatch_dashboard.figures import FONT
from lldwatch_dashboard.lanes import Alignment, Lane
from lldwatch_dashboard.panels import DARK, LIGHT, Palette

TITLE, TOP, BOTTOM, LEFT, RIGHT = 40, 0, 46, 52, 22
GAP = 0.075
"""Between two panels side by side, as a share of the plot's width."""
POINTS = 6000
"""In a panel, at most, whatever the number of runs."""
NARROW = 36
"""Characters of a title that a telephone has room for."""
MOST_IN_ONE_BOX = 6
"""A hover box with more lines covers the panel: then only the nearest line is told."""
X_TITLES = {"step": "step", "onset": "steps from the onset", "share": "share of the run"}


def height(panels: int, columns: int) -> int:
    """Of the figure, in pixels."""
    return TOP + BOTTOM + math.ceil(panels / columns) * (PANEL + TITLE)


def figure(
    lanes: Sequence[Lane],
    alignment: Alignment,
    signals: Sequence[str],
    *,
    partings: Mapping[int, Sequence[Parting]],
    smooth: int = 5,
    columns: int = 2,
    dark: bool = False,
    revision: str = "",
) -> dict[str, Any]:
    """All panels.

    Args:
        lanes: the runs.
        alignment: how they lie upon each other.
        signals: keys in SIGNALS, one panel each.
        partings: place of a lane -> where its signals part from those of the first.
        smooth: mean of so many steps.
        columns: panels side by side.
        dark: for a dark page.
        revision: as long as it stays the same, a new figure keeps the reader's zoom.
    """
    palette = DARK if dark else LIGHT
    layout = _layout(palette, revision, height(len(signals), columns), len(lanes))
    data: list[dict[str, Any]] = []
    points = POINTS // max(len(lanes), 1)
    for index, name in enumerate(signals):
        shown = [lane for lane in lanes if name in lane.signals]
        ends = room([lane.signals[name] for lane in shown], log=name in LOG)
        panel = Panel(index, name, alignment, ends, smooth, points, dark)
        suffix = index + 1 if index else ""
        layout[f"xaxis{suffix}"] = _x_axis(panel, len(signals), columns, palette) | _limits(lanes, alignment)
        layout[f"yaxis{suffix}"] = _y_axis(panel, len(signals), columns, palette)
        layout["annotations"] += [_title(panel, palette, wide=columns > 1), *letters(shown, panel)]
        if alignment.align == "onset":
            layout["shapes"].append(_onset_line(panel, palette))
        data += traces(shown, panel, partings)
    return {"data": data, "layout": layout}


def room(lines: Sequence[Series], *, log: bool) -> tuple[float, float] | None:
    """The ends of an axis that holds every value of these lines, a spike too; None if no value has a place on it."""
    values = np.concatenate([np.zeros(0), *(line.values for line in lines)])
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if log:
        return low / 2, high * 2
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _x_axis(panel: Panel, panels: int, columns: int, palette: Palette) -> dict[str, Any]:
    column = panel.index % columns
    width = (1 - GAP * (columns - 1)) / columns
    lowest = panel.index + columns >= panels
    align = panel.alignment.align
    axis: dict[str, Any] = {
        **_line(palette),
        "domain": [column * (width + GAP), column * (width + GAP) + width],
        "anchor": panel.axis("y"),
        "zeroline": False,
        "showticklabels": lowest,
        "title": {"text": X_TITLES[align] if lowest else "", "standoff": 6},
        "tickformat": ".0%" if align == "share" else ",d",
        "hoverformat": ".0%" if align == "share" else ",d",
    }
    return axis | ({"matches": "x"} if panel.index else {})


def _limits(lanes: Sequence[Lane], alignment: Alignment) -> dict[str, Any]:
    """Marks would push the axis far beyond the steps there are."""
    ends = [x for lane in lanes for x in alignment.x(lane.place, [lane.first, lane.last]).tolist()]
    if not ends:
        return {}
    margin = 0.01 * max(max(ends) - min(ends), 1e-9)
    return {"autorangeoptions": {"clipmin": min(ends) - margin, "clipmax": max(ends) + margin}}


def _y_axis(panel: Panel, panels: int, columns: int, palette: Palette) -> dict[str, Any]:
    plot = math.ceil(panels / columns) * (PANEL + TITLE)
    top = panel.index // columns * (PANEL + TITLE) + TITLE
    axis: dict[str, Any] = {
        **_line(palette),
        "domain": [max(1 - (top + PANEL) / plot, 0.0), 1 - top / plot],
        "anchor": panel.axis("x"),
        "fixedrange": True,
        "zeroline": "change" in panel.signal,
        "zerolinecolor": palette.muted,
        "nticks": 5,
    }
    if panel.ends is None:
        return axis | {"visible": False}
    if not panel.log:
        return axis | {"range": list(panel.ends)}
    scale = {"type": "log", "range": [math.log10(end) for end in panel.ends]}
    marks = ticks(*panel.ends, log=True)
    return axis | scale | {"tickvals": marks, "ticktext": [number(mark) for mark in marks]}


def _line(palette: Palette) -> dict[str, Any]:
    return {"gridcolor": palette.grid, "linecolor": palette.grid, "tickfont": {"color": palette.muted}}


def _title(panel: Panel, palette: Palette, *, wide: bool) -> dict[str, Any]:
    signal = SIGNALS[panel.signal]
    unit = "log scale" if panel.log else signal.unit if wide else ""
    title = signal.title if wide or len(signal.title) <= NARROW else f"{signal.title[: NARROW - 1].rstrip()}…"
    text = f"<b>{title}</b>" + (f"  <span style='color:{palette.muted}'>{unit}</span>" if unit else "")
    place = {"xref": f"{panel.axis('x')} domain", "x": 0, "yref": f"{panel.axis('y')} domain", "y": 1}
    font = {"size": 12, "color": palette.ink}
    return {
        "text": text,
        "font": font,
        "showarrow": False,
        **place,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 2,
    }


def _onset_line(panel: Panel, palette: Palette) -> dict[str, Any]:
    line = {"color": palette.muted, "width": 1, "dash": "dot"}
    place = {"xref": panel.axis("x"), "yref": f"{panel.axis('y')} domain", "x0": 0, "x1": 0, "y0": 0, "y1": 1}
    return {"type": "line", **place, "line": line, "layer": "below"}


def _layout(palette: Palette, revision: str, pixels: int, lanes: int) -> dict[str, Any]:
    return {
        "height": pixels,
        "margin": {"t": TOP, "b": BOTTOM, "l": LEFT, "r": RIGHT},
        "uirevision": revision or True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11, "color": palette.ink},
        "hovermode": "x unified" if lanes <= MOST_IN_ONE_BOX else "closest",
        "hoverlabel": {"bgcolor": palette.paper, "bordercolor": palette.muted, "font": {"color": palette.ink}},
        "dragmode": "zoom",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.ink},
        "showlegend": False,
        "shapes": [],
        "annotations": [],
    }
