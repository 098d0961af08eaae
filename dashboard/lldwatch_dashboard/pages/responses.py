"""Every response of a run by its change of likelihood; a region of them as a table; one of them token by token.

All that is looked at stands in the address, so what a control does is to change the address, and what is shown follows
from it alone. A click does not carry the response's identity: it is looked up where the point lies.
"""

from __future__ import annotations

import time
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate

from lldwatch.errors import LldwatchError
from lldwatch_dashboard import response_words as words
from lldwatch_dashboard.changes import KINDS, Kind
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.one_response import one_response
from lldwatch_dashboard.response_address import View, query_of, view_of
from lldwatch_dashboard.response_book import Facts
from lldwatch_dashboard.response_detail import detail
from lldwatch_dashboard.response_figures import empty_figure, response_figure
from lldwatch_dashboard.response_layout import body
from lldwatch_dashboard.response_moves import Moves
from lldwatch_dashboard.response_reader import Reader
from lldwatch_dashboard.response_table import column_definitions, listing
from lldwatch_dashboard.shared import Component, clock, href

_EVERY_S, _SHARE = 5.0, 20.0
"""A run that grows is drawn again after so many seconds, or so many times what drawing it took."""


def page(name: str) -> Component:
    """The page of one run; `draw`, `list_region` and `show_response` fill it."""
    return html.Div(
        [
            *clock("responses"),
            dcc.Location(id="responses-url", refresh=False),
            dcc.Store(id="responses-name", data=name),
            html.Div(
                [
                    html.H1(name),
                    html.P([dcc.Link("\N{LEFTWARDS ARROW} The run", href=href(name)), " Responses"], className="way"),
                ],
                className="head",
            ),
            html.Div(id="responses-empty"),
            html.Div(body(), id="responses-body", hidden=True),
        ],
        className="responses-page",
    )


def register(app: Dash, feed: Feed) -> None:
    """Keep the page up to date, and its address."""
    show = _Shown(Reader(feed))
    _connect_figure(app, show)
    name, search = State("responses-name", "data"), Input("responses-url", "search")
    app.callback(
        Output("responses-table", "hidden"),
        Output("responses-grid", "rowData"),
        Output("responses-grid", "columnDefs"),
        Output("responses-found", "children"),
        Output("responses-listed", "data"),
        search,
        name,
        State("responses-listed", "data"),
    )(show.list_region)
    app.callback(
        Output("responses-one", "hidden"),
        Output("responses-detail", "children"),
        search,
        name,
    )(show.one_response)
    Moves(show.reader).register(app)


def _connect_figure(app: Dash, show: _Shown) -> None:
    app.callback(
        Output("responses-figure", "figure"),
        Output("responses-figure", "style"),
        Output("responses-summary", "children"),
        Output("responses-kind", "options"),
        Output("responses-empty", "children"),
        Output("responses-body", "hidden"),
        Output("responses-shown", "data"),
        Input("responses-url", "search"),
        Input("responses-pulse", "data"),
        Input("responses-drag", "value"),
        State("responses-name", "data"),
        State("responses-shown", "data"),
        State("responses-kind", "value"),
        State("responses-colour", "value"),
    )(show.draw)


class _Shown:
    """What the callbacks show; it holds nothing but where to read."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def draw(
        self,
        search: str | None,
        pulse: dict[str, Any] | None,
        drag: str | None,
        name: str,
        shown: dict[str, Any] | None,
        kind: str | None,
        colour: str | None,
    ) -> tuple[Any, ...]:
        """The figure and the line above it; nothing if nothing has changed."""
        dark, view = bool((pulse or {}).get("dark")), view_of(search)
        try:
            facts = self.reader.book(name).facts()
            asked, began = {"search": query_of(view), "dark": dark, "drag": drag}, time.time()
            if _is_shown(shown or {}, asked, facts.version, began):
                raise PreventUpdate
            chosen = _kind(facts, view)
            picture = None if chosen is None else self.reader.picture(name, chosen, view.steps, view.change)
        except LldwatchError as error:
            return self._nothing(words.gone(str(error)))
        state = {**asked, "version": facts.version, "next": began + max(_EVERY_S, _SHARE * (time.time() - began))}
        if chosen is None or (picture is None and {*facts.kinds} <= {chosen}):
            return self._nothing(words.nothing_recorded(facts), state)
        if picture is not None and picture.progress:  # soon again, and also if the run does not change
            state |= {"version": None, "next": began + 1.0}
        self._set(chosen, view, kind, colour)
        figure = response_figure(picture, view, noise=facts.noise, dark=dark) if picture else empty_figure()
        figure["layout"]["dragmode"] = drag
        options = [{"label": each.label, "value": each.name} for each in dict.fromkeys([*facts.kinds, chosen])]
        size = {"height": f"{figure['layout'].get('height', 120)}px"}
        line = words.summary(chosen, picture, probed=any(each.table == "probes" for each in facts.kinds))
        return figure, size, line, options, None, False, state

    def _nothing(self, empty: Component, state: Any = no_update) -> tuple[Any, ...]:
        return no_update, no_update, None, [], empty, True, state

    def _set(self, chosen: Kind, view: View, kind: str | None, colour: str | None) -> None:
        """The controls as the address says, when it was opened by a link or with the browser's way back.

        Only then: a drawing that began before somebody moved a control, and ends after it, would move it back.
        """
        if "responses-url.search" not in ctx.triggered_prop_ids:
            return
        if kind != chosen.name:
            set_props("responses-kind", {"value": chosen.name})
        if colour != view.colour:
            set_props("responses-colour", {"value": view.colour})
        set_props("responses-whole", {"disabled": view == view.unzoomed()})

    def list_region(self, search: str | None, name: str, listed: list[Any] | None) -> tuple[Any, ...]:
        """The table of the region."""
        view = view_of(search)
        asked = [view.kind, query_of(View(region=view.region))]
        if asked == listed:
            raise PreventUpdate
        book = self.reader.book(name)
        kind = _kind(book.facts(), view)
        if view.region is None or kind is None:
            return True, [], no_update, "", asked
        found = listing(book, kind, view.region, raw_rows=self.reader.raw_rows)
        return False, found.rows, column_definitions(kind), words.found(found, view.region), asked

    def one_response(self, search: str | None, name: str) -> tuple[bool, Any]:
        """One response with its tokens."""
        view = view_of(search)
        book = self.reader.book(name)
        kind = _kind(book.facts(), view)
        if view.response is None or kind is None:
            return True, None
        found = detail(book, kind, *view.response)
        return False, one_response(found, view.colour, book.facts().token_noise)


def _is_shown(shown: dict[str, Any], asked: dict[str, Any], version: str, now: float) -> bool:
    """What is on the page is what is asked for, and it is too early for a newer one."""
    same = all(shown.get(key) == value for key, value in asked.items())
    return same and (shown["version"] == version or now < shown["next"])


def _kind(facts: Facts, view: View) -> Kind | None:
    """The kind that is looked at; None if none was recorded."""
    if view.kind:
        return KINDS[view.kind]
    return facts.kinds[0] if facts.kinds else None
