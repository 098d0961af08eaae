"""The figure of the responses page, as plotly's dictionaries: a panel for correct, incorrect and advantage-0 responses.

Up to some thousand responses are points, whose shape says the same as their colour; more are a heat map. `meta` names
what a trace shows: `points:<panel>`, `heat:<panel>`, or `broken:<panel>`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lldwatch_dashboard.changes import CORRECT, INCORRECT, PANELS, UNKNOWN, ZERO, Array, Changes, Kind
from lldwatch_dashboard.figures import FONT
from lldwatch_dashboard.heat import NOT_FINITE, Heat, place_of, scaled, unscaled, which
from lldwatch_dashboard.panels import ALERT, DARK, LIGHT, Palette
from lldwatch_dashboard.response_address import ANY, BROKEN, View
from lldwatch_dashboard.response_reader import Picture

Trace = dict[str, Any]

PANEL_HEIGHT, GAP, TOP, BOTTOM, LEFT, RIGHT = 200, 34, 30, 46, 62, 14
TITLES = {
    "correct": "● Correct",
    "incorrect": "✕ Incorrect",
    "advantage 0": "○ Advantage 0",
    "unknown": "◆ Not known whether correct",
}
# light and dark page: points, and the ends of the heat map's ramp, for one response and for many
COLOURS = {
    "correct": (("#0072B2", "#cfe3f1", "#00395c"), ("#56B4E9", "#17384d", "#b5e1ff")),
    "incorrect": (("#D55E00", "#fbdcc4", "#7a3300"), ("#E8803A", "#4d2a10", "#ffcba3")),
    "advantage 0": (("#A8467F", "#efd5e4", "#5e1f44"), ("#CC79A7", "#43283a", "#f7c6e0")),
    "unknown": (("#57606a", "#dfe3e8", "#24292f"), ("#a3acb7", "#2c323a", "#e6e8eb")),
}
_SYMBOLS = {(CORRECT, True): "circle", (INCORRECT, False): "x", (ZERO, True): "circle-open", (ZERO, False): "x-thin"}
_HOVER = "step %{x}<br>%{customdata:.4~g} nats/token<extra>%{fullData.name}</extra>"


def panels_of(kind: Kind, shown: Sequence[int]) -> list[int]:
    """The panels that are drawn, also where one of them is empty: a zoom must not move the others."""
    both = kind.name in ("post_update", "in_batch")
    wanted = [CORRECT, INCORRECT, ZERO] if both or shown[INCORRECT] else [CORRECT, ZERO]
    return wanted + [UNKNOWN] * bool(shown[UNKNOWN])


def height(panels: int) -> int:
    """Of the figure, in pixels."""
    return TOP + panels * (PANEL_HEIGHT + GAP) - GAP + BOTTOM


def axes(row: int) -> tuple[str, str]:
    """The axes of a panel, from 0, as plotly calls them in a trace."""
    return ("x", "y") if row == 0 else (f"x{row + 1}", f"y{row + 1}")


def response_figure(picture: Picture, view: View, *, noise: float | None = None, dark: bool = False) -> dict[str, Any]:
    """All panels of a picture.

    Args:
        picture: what is drawn.
        view: with the region and the response that are marked in it.
        noise: changes up to this, in nats per token, are noise.
        dark: for a dark page.
    """
    palette = DARK if dark else LIGHT
    panels = panels_of(picture.kind, picture.shown)
    layout = _layout(picture, panels, palette)
    data: list[Trace] = []
    for row, panel in enumerate(panels):
        colours = COLOURS[PANELS[panel]][dark]
        data.append(_axis_trace(row))
        if picture.points is not None:
            data += _points(picture.points, panel, row, colours[0])
            data += _broken_points(picture.points, panel, row, picture.places)
        elif picture.heat is not None:
            largest = int(picture.heat.counts.max(initial=1))
            data.append(_heat_map(picture.heat, panel, row, colours[1:], largest))
            data += _broken_counts(picture.heat, panel, row, picture.places)
        layout["annotations"] += _title(panel, row, picture.shown[panel], palette, colours[0])
        layout["shapes"] += [*_background(row, noise, palette), *_region(view, panel, row, picture.places, palette)]
    data += _chosen(picture, view, panels, palette)
    return {"data": data, "layout": layout}


def empty_figure() -> dict[str, Any]:
    """What stands there until the responses have been read."""
    hidden = {"visible": False}
    clear = "rgba(0,0,0,0)"
    return {"data": [], "layout": {"xaxis": hidden, "yaxis": hidden, "paper_bgcolor": clear, "plot_bgcolor": clear}}


def packed(values: Array) -> dict[str, str]:
    """An array as plotly.js reads it without parsing numbers."""
    kinds = {"f": "f", "i": "i", "u": "u"}
    name = f"{kinds[values.dtype.kind]}{values.dtype.itemsize}"
    spec = {"dtype": name, "bdata": base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()}
    return spec if values.ndim == 1 else {**spec, "shape": ", ".join(map(str, values.shape))}


def ticks(places: tuple[float, float]) -> list[tuple[float, str]]:
    """Place on the scale and label: powers of ten on both sides of 0, or equal distances where it is nearly linear."""
    low, high = map(unscaled, places)
    powers = [sign * 10.0**power for power in range(-2, 5) for sign in (-1, 1)]
    apart = 0.085 * (places[1] - places[0])
    found: list[float] = []
    for value in sorted([0.0, *powers], key=abs):
        if low <= value <= high and all(abs(place_of(value) - place_of(other)) > apart for other in found):
            found.append(value)
    if len(found) < 4:
        width = 10.0 ** math.floor(math.log10((high - low) / 3))
        width *= max(step for step in (1, 2, 5) if step * width <= (high - low) / 3)
        found = [number * width for number in range(math.ceil(low / width), math.floor(high / width) + 1)]
    return [(place_of(value), f"{value:.12g}".replace("-", "\N{MINUS SIGN}")) for value in sorted(found)]


def _layout(picture: Picture, panels: Sequence[int], palette: Palette) -> dict[str, Any]:
    line = {"gridcolor": palette.grid, "linecolor": palette.grid, "tickfont": {"color": palette.muted}, "ticks": ""}
    marks = ticks(picture.places)
    whole = height(len(panels)) - TOP - BOTTOM
    layout: dict[str, Any] = {
        "height": height(len(panels)),
        "margin": {"t": TOP, "b": BOTTOM, "l": LEFT, "r": RIGHT},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11, "color": palette.ink},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": palette.paper, "bordercolor": palette.muted, "font": {"color": palette.ink}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.ink},
        "showlegend": False,
        "selections": [],
        "newselection": {"line": {"color": palette.ink, "width": 1.5, "dash": "dot"}},
        "shapes": [],
        "annotations": [],
    }
    for row in range(len(panels)):
        across, up = (name.replace("x", "xaxis").replace("y", "yaxis") for name in axes(row))
        top = 1 - row * (PANEL_HEIGHT + GAP) / whole
        steps = {"range": [picture.steps[0] - 0.5, picture.steps[1] + 0.5], "tickformat": ",d", "zeroline": False}
        if picture.steps[1] - picture.steps[0] < 8:  # plotly would put ticks between the steps
            steps |= {"tick0": 0, "dtick": 1}
        layout[across] = {**line, **steps, "anchor": axes(row)[1], "showticklabels": row == len(panels) - 1}
        heights = {"tickvals": [place for place, _ in marks], "ticktext": [text for _, text in marks]}
        domain = [max(0.0, top - PANEL_HEIGHT / whole), min(1.0, top)]
        layout[up] = {**line, **heights, "range": list(picture.places), "zeroline": False, "domain": domain}
        layout[up]["anchor"] = axes(row)[0]
        if row:
            layout[across]["matches"], layout[up]["matches"] = "x", "y"
    layout[axes(len(panels) - 1)[0].replace("x", "xaxis")]["title"] = {"text": "step"}
    return layout


def _axis_trace(row: int) -> Trace:
    """An axis exists only if it has a trace, and a box is drawn only where something could be chosen."""
    across, up = axes(row)
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": "axis",
        "x": [None],
        "y": [None],
        "xaxis": across,
        "yaxis": up,
    }


def _title(panel: int, row: int, shown: int, palette: Palette, colour: str) -> list[dict[str, Any]]:
    across, up = axes(row)
    place = {"xref": f"{across} domain", "yref": f"{up} domain", "showarrow": False}
    head = {
        "text": f"<b>{TITLES[PANELS[panel]]}</b>  {shown:,}",
        "x": 0,
        "y": 1,
        "xanchor": "left",
        "yanchor": "bottom",
        "borderpad": 3,
        "font": {"size": 12.5, "color": colour if palette is DARK else palette.ink},
    }
    none = {"text": "none in this view", "x": 0.5, "y": 0.5, "font": {"size": 12, "color": palette.muted}}
    return [{**place, **head}, *([] if shown else [{**place, **none}])]


def _points(points: Changes, panel: int, row: int, colour: str) -> list[Trace]:
    traces = []
    across, up = axes(row)
    for correct in (True, False):
        chosen = (points.panel == panel) & (points.correct == correct) & np.isfinite(points.change)
        if not chosen.any():
            continue
        some = points.at(chosen)
        size = 6 if len(some) < 3000 else 4
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "meta": f"points:{PANELS[panel]}",
                "name": "correct" if correct else "incorrect",
                "x": packed(some.step.astype(np.int32)),
                "y": packed(scaled(some.change).astype(np.float32)),
                "customdata": packed(some.change.astype(np.float32)),
                "xaxis": across,
                "yaxis": up,
                "marker": {"color": colour, "size": size, "symbol": _SYMBOLS.get((panel, correct), "diamond")}
                | ({"line": {"color": colour, "width": 1.5}} if panel == ZERO else {}),
                "opacity": 0.65,
                "selected": {"marker": {"opacity": 1}},
                "unselected": {"marker": {"opacity": 1}},
                "hovertemplate": _HOVER,
            }
        )
    return traces


def _heat_map(heat: Heat, panel: int, row: int, ramp: tuple[str, ...], largest: int) -> Trace:
    across, up = axes(row)
    counts = heat.counts[panel]
    with np.errstate(divide="ignore"):
        shade = np.where(counts > 0, np.log10(counts), np.nan).astype(np.float32)
    width = heat.steps[1] - heat.steps[0]
    steps = "step %{x:.0f}" if width == 1 else f"{width:.0f} steps around %{{x:.0f}}"
    middles = (heat.places[:-1] + heat.places[1:]) / 2
    change = np.broadcast_to(np.array([unscaled(place) for place in middles])[:, None], counts.shape)
    return {
        "type": "heatmap",
        "meta": f"heat:{PANELS[panel]}",
        "x": packed((heat.steps[:-1] + heat.steps[1:]) / 2),
        "y": packed(middles),
        "z": packed(shade),
        "customdata": packed(np.stack([counts.astype(np.float32), change.astype(np.float32)], axis=-1)),
        "xaxis": across,
        "yaxis": up,
        "zmin": 0,
        "zmax": max(math.log10(largest), 0.3),
        "colorscale": [[0, ramp[0]], [1, ramp[1]]],
        "showscale": False,
        "hoverongaps": False,
        "hovertemplate": f"{steps}<br>about %{{customdata[1]:.3~g}} nats/token<br>"
        "%{customdata[0]:,d} responses<extra></extra>",
    }


def _marks(panel: int, row: int, steps: Array, kinds: Array, text: list[str], places: tuple[float, float]) -> Trace:
    across, up = axes(row)
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": f"broken:{PANELS[panel]}",
        "x": packed(steps.astype(np.float64)),
        "y": packed(np.where(kinds == 2, places[0], places[1]).astype(np.float64)),
        "text": text,
        "xaxis": across,
        "yaxis": up,
        "cliponaxis": False,
        "marker": {"symbol": "x-thin", "size": 9, "color": ALERT, "line": {"color": ALERT, "width": 2}},
        "unselected": {"marker": {"opacity": 1}},
        "hovertemplate": "step %{x}<br>%{text}<extra></extra>",
    }


def _broken_points(points: Changes, panel: int, row: int, places: tuple[float, float]) -> list[Trace]:
    odd = points.at((points.panel == panel) & ~np.isfinite(points.change))
    if not len(odd):
        return []
    kinds = which(odd.change)
    text = [f"change: {NOT_FINITE[kind]}" for kind in kinds]
    return [_marks(panel, row, odd.step, kinds, text, places)]


def _broken_counts(heat: Heat, panel: int, row: int, places: tuple[float, float]) -> list[Trace]:
    kinds, columns = np.nonzero(heat.broken[panel])
    if not len(kinds):
        return []
    numbers = heat.broken[panel][kinds, columns].tolist()
    text = [f"{number:,} with change {NOT_FINITE[kind]}" for number, kind in zip(numbers, kinds, strict=True)]
    middles = (heat.steps[:-1] + heat.steps[1:]) / 2
    return [_marks(panel, row, middles[columns], kinds, text, places)]


def _background(row: int, noise: float | None, palette: Palette) -> list[dict[str, Any]]:
    across, up = axes(row)
    span = {"xref": f"{across} domain", "x0": 0, "x1": 1, "yref": up}
    zero = {**span, "type": "line", "y0": 0, "y1": 0, "line": {"color": palette.ink, "width": 1}, "opacity": 0.6}
    if not noise or not math.isfinite(noise):
        return [zero]
    end = place_of(noise)
    band = {"type": "rect", "y0": -end, "y1": end, "fillcolor": palette.noise_band, "line": {"width": 0}}
    return [{**span, **band, "layer": "below", "name": "noise floor"}, zero]


def _region(view: View, panel: int, row: int, places: tuple[float, float], palette: Palette) -> list[dict[str, Any]]:
    """The region in its panel; an end that it does not have is that of the panel."""
    seen = view.region
    if seen is None or seen.panel not in (PANELS[panel], ANY, BROKEN):
        return []
    across, up = axes(row)
    ends = [place_of(seen.bottom), place_of(seen.top)]
    bottom, top = (end if math.isfinite(end) else edge for end, edge in zip(ends, places, strict=True))
    shape = {"type": "rect", "name": "region", "xref": across, "yref": up, "fillcolor": "rgba(0,0,0,0)"}
    line = {"color": palette.ink, "width": 1.5, "dash": "dot"}
    return [{**shape, "x0": seen.low - 0.5, "x1": seen.high + 0.5, "y0": bottom, "y1": top, "line": line}]


def _chosen(picture: Picture, view: View, panels: Sequence[int], palette: Palette) -> list[Trace]:
    """A ring around the response that is shown in full."""
    if picture.points is None or view.response is None:
        return []
    uid, step = view.response
    points = picture.points
    same = (points.step == step) & (np.ma.getdata(points.more["uid"]) == uid)
    found = points.at(same & ~np.ma.getmaskarray(points.more["uid"]) & np.isfinite(points.change))
    if not len(found) or int(found.panel[0]) not in panels:
        return []
    across, up = axes(panels.index(int(found.panel[0])))
    ring = {"symbol": "circle-open", "size": 16, "color": palette.ink, "line": {"width": 2.5}}
    place = {"x": [step], "y": [place_of(float(found.change[0]))], "xaxis": across, "yaxis": up}
    return [{"type": "scatter", "mode": "markers", "meta": "chosen", **place, "marker": ring, "hoverinfo": "skip"}]
