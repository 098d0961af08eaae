"""What a control of the responses page does to its address."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, ctx
from dash.exceptions import PreventUpdate

from lldwatch_dashboard.changes import KINDS, PANELS, Changes, Kind
from lldwatch_dashboard.heat import scaled, unscaled
from lldwatch_dashboard.response_address import ANY, BROKEN, COLOURS, Region, View, query_of, view_of
from lldwatch_dashboard.response_figures import panels_of
from lldwatch_dashboard.response_reader import Picture, Reader

BUTTONS = ("whole", "list", "zoom", "broken", "clear", "close")
_END = re.compile(r"([xy])axis\d*\.range\[([01])\]")
_WHOLE = re.compile(r"[xy]axis\d*\.autorange")


class Moves:
    """From what somebody did to the view that follows.

    Args:
        reader: of the runs' responses.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def register(self, app: Dash) -> None:
        """Connect the controls with the address."""
        app.callback(
            Output("responses-url", "search"),
            inputs={
                "kind": Input("responses-kind", "value"),
                "colour": Input("responses-colour", "value"),
                "relayout": Input("responses-figure", "relayoutData"),
                "click": Input("responses-figure", "clickData"),
                "rows": Input("responses-grid", "selectedRows"),
                "buttons": [Input(f"responses-{name}", "n_clicks") for name in BUTTONS],
            },
            state={
                "search": State("responses-url", "search"),
                "name": State("responses-name", "data"),
                "typed": [State(f"responses-{name}", "value") for name in ("low", "high", "bottom", "top")],
            },
            prevent_initial_call=True,
        )(self._move)

    def _move(
        self,
        *,
        kind: str | None,
        colour: str | None,
        relayout: Mapping[str, Any] | None,
        click: Mapping[str, Any] | None,
        rows: list[dict[str, Any]] | None,
        buttons: list[int | None],
        search: str | None,
        name: str,
        typed: list[float | None],
    ) -> str:
        view, wanted = view_of(search), str(ctx.triggered_id).removeprefix("responses-")
        moved: View | None = None
        if wanted == "kind" and kind is not None and kind in KINDS:
            moved = view if kind == self._kind(name, view).name else view.of_kind(kind)
        elif wanted == "colour" and colour in COLOURS:
            moved = replace(view, colour=colour)
        elif wanted == "figure" and "relayoutData" in ctx.triggered[0]["prop_id"]:
            moved = self._after_drag(name, view, relayout or {})
        elif wanted == "figure":
            moved = self._after_click(name, view, click or {})
        elif wanted == "grid" and rows:
            moved = after_row(view, rows[0])
        elif wanted in BUTTONS and any(buttons):
            moved = self._after_button(name, view, wanted, typed)
        if moved is None or query_of(moved) == query_of(view):
            raise PreventUpdate
        return query_of(moved)

    def _kind(self, name: str, view: View) -> Kind:
        kinds = self._reader.book(name).facts().kinds
        return KINDS[view.kind] if view.kind else kinds[0] if kinds else KINDS["in_batch"]

    def _picture(self, name: str, view: View) -> Picture | None:
        return self._reader.picture(name, self._kind(name, view), view.steps, view.change)

    def _after_drag(self, name: str, view: View, relayout: Mapping[str, Any]) -> View | None:
        if not any(key == "selections" or _END.fullmatch(key) or _WHOLE.fullmatch(key) for key in relayout):
            return None
        picture = self._picture(name, view)
        return None if picture is None else after_drag(view, relayout, picture)

    def _after_click(self, name: str, view: View, click: Mapping[str, Any]) -> View | None:
        points, picture = click.get("points") or [], self._picture(name, view)
        if not points or picture is None or picture.points is None:
            return None
        return after_click(view, points[0], picture.points)

    def _after_button(self, name: str, view: View, wanted: str, typed: list[float | None]) -> View | None:
        if wanted == "whole":
            return view.unzoomed()
        if wanted == "clear":
            return replace(view, region=None)
        if wanted == "close":
            return replace(view, response=None)
        picture = self._picture(name, view) if wanted in ("list", "zoom", "broken") else None
        if picture is None:
            return None
        if wanted == "broken":
            return replace(view, region=Region(BROKEN, *picture.steps))
        return after_typing(view, wanted, typed, picture)


def after_drag(view: View, relayout: Mapping[str, Any], picture: Picture) -> View | None:
    """A box was drawn, or the axes were moved.

    Args:
        view: before.
        relayout: what plotly says.
        picture: that was drawn on.
    """
    if "selections" in relayout:
        boxes = relayout["selections"]
        return replace(view, region=region_of(boxes[-1], picture)) if boxes else None
    if any(_WHOLE.fullmatch(key) for key in relayout):
        return view.unzoomed()
    ends: dict[str, dict[str, float]] = {"x": {}, "y": {}}
    for key, value in relayout.items():
        found = _END.fullmatch(key)
        if found:
            ends[found[1]][found[2]] = float(value)
    if len(ends["x"]) == 2:
        low, high = sorted(ends["x"].values())
        first, last = math.ceil(low), math.floor(high)
        view = replace(view, steps=(first, max(first, last)))
    if len(ends["y"]) == 2:
        low, high = sorted(map(unscaled, ends["y"].values()))
        view = replace(view, change=(low, high)) if low < high else view
    return view


def region_of(box: Mapping[str, Any], picture: Picture) -> Region | None:
    """The responses below a box that was drawn; None if it is none."""
    try:
        left, right = sorted((float(box["x0"]), float(box["x1"])))
        bottom, top = sorted(map(unscaled, (float(box["y0"]), float(box["y1"]))))
        row = int(str(box.get("yref", "y")).removeprefix("y") or 1) - 1
    except (KeyError, TypeError, ValueError):
        return None
    panels = panels_of(picture.kind, picture.shown)
    panel = PANELS[panels[row]] if row < len(panels) else ANY
    low = math.ceil(left)
    return Region(panel, low, max(low, math.floor(right)), float(f"{bottom:.6g}"), float(f"{top:.6g}"))


def after_click(view: View, point: Mapping[str, Any], points: Changes) -> View | None:
    """A point was clicked: the response that lies there; None if its identity was not recorded."""
    try:
        step, place = round(float(point["x"])), float(point["y"])
    except (KeyError, TypeError, ValueError):
        return None
    here = points.at(points.step == step)
    uid = here.more["uid"]
    far = np.abs(scaled(here.change) - place)
    if np.isnan(far).all():
        return None
    nearest = int(np.nanargmin(far))
    if np.ma.getmaskarray(uid)[nearest]:
        return None
    return replace(view, response=(int(uid[nearest]), step))


def after_row(view: View, row: Mapping[str, Any]) -> View | None:
    """A row of the table was chosen; None if its identity was not recorded."""
    if row.get("uid") is None:
        return None
    return replace(view, response=(int(row["uid"]), int(row["step"])))


def after_typing(view: View, wanted: str, typed: list[float | None], picture: Picture) -> View | None:
    """A region was typed; what was left empty is as in the picture."""
    low, high = (int(end if value is None else value) for value, end in zip(typed[:2], picture.steps, strict=True))
    if low > high:
        low, high = high, low
    if wanted == "zoom":
        seen = [end if value is None else float(value) for value, end in zip(typed[2:], _ends(picture), strict=True)]
        bottom, top = min(seen), max(seen)
        return replace(view, steps=(low, high), change=(bottom, top) if bottom < top else view.change)
    bottom, top = (-math.inf if typed[2] is None else typed[2]), (math.inf if typed[3] is None else typed[3])
    return replace(view, region=Region(ANY, low, high, min(bottom, top), max(bottom, top)))


def _ends(picture: Picture) -> tuple[float, float]:
    return unscaled(picture.places[0]), unscaled(picture.places[1])
