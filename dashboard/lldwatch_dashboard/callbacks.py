"""Which page an address opens, and what all pages need: ticks, and errors said in one line."""

from __future__ import annotations

import logging
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, set_props
from dash.exceptions import PreventUpdate
from flask import request

from lldwatch.errors import RunNotFoundError
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.glances import Glances
from lldwatch_dashboard.news import Drawn
from lldwatch_dashboard.pages import compare, overview, responses, run
from lldwatch_dashboard.shared import Visit, address, no_such_page

PAGES = ("list", "compare", "run", "responses")
PATIENCE_S = 0.5
"""A page whose run takes longer to read opens without it: something stands there at least."""

log = logging.getLogger("lldwatch.dashboard")


def register(app: Dash, feed: Feed) -> None:
    """Connect the pages with the runs."""
    glances, lately = Glances(feed), Drawn()

    def open_page(told: dict[str, Any] | None) -> Any:
        if not told:
            raise PreventUpdate
        visit, pathname = Visit.of(told), str(told.get("pathname") or "/")
        page, name = address(pathname)
        if page == "":
            return overview.page(glances, feed.root, visit)
        if (page, name) == ("compare", "."):
            return compare.page(visit.search)
        if page not in ("run", "responses"):
            return no_such_page(f"There is no page {pathname}.")
        try:
            feed.locate(name)
            return responses.page(name) if page == "responses" else open_run(name, visit)
        except RunNotFoundError as error:
            return no_such_page(str(error))

    def open_run(name: str, visit: Visit) -> Any:
        reading = feed.read_ahead(name)
        reading.join(PATIENCE_S)
        return run.page(name, None if reading.is_alive() else run.news_of(lately, feed.snapshot(name), visit))

    def read_ahead() -> None:
        """What the page of a run will show is read and drawn while the browser still starts its scripts.

        The list is not: many a probe of a server asks for its first page, and would have all runs read.
        """
        page, name = address(request.path)
        if page == "run" and request.method == "GET":
            visit = Visit(request.query_string.decode(errors="replace"))
            feed.read_ahead(name, lambda snapshot: run.news_of(lately, snapshot, visit))

    app.server.before_request(read_ahead)
    app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
        ClientsideFunction("lldwatch_visit", "visit"),
        Output("visit", "data"),
        Input("url", "pathname"),
        State("url", "search"),
    )
    app.callback(Output("page", "children"), Input("visit", "data"))(open_page)
    overview.register(app, feed, glances)
    compare.register(app, feed, lately)
    run.register(app, feed, lately)
    responses.register(app, feed)
    for name in PAGES:
        app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
            ClientsideFunction("lldwatch", "pulse"),
            Output(f"{name}-pulse", "data"),
            Input(f"{name}-tick", "n_intervals"),
        )


def say_failed(error: Exception) -> None:
    """An error of ours is told in one line on the page; its traceback goes to the log."""
    log.error("the dashboard failed", exc_info=error)
    text = (
        f"The dashboard failed ({type(error).__name__}): what you see may be old. Its log says more; reload to retry."
    )
    set_props("notice", {"children": text})
