"""What happens when: an address is opened, a second has passed. Everything shown is made elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, set_props
from dash.exceptions import PreventUpdate

from lldwatch.errors import RunNotFoundError
from lldwatch_dashboard import layout
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.figures import run_figure
from lldwatch_dashboard.why import why

log = logging.getLogger("lldwatch.dashboard")


def register(app: Dash, feed: Feed) -> None:
    """Connect the pages with the runs."""

    def open_page(pathname: str | None) -> Any:
        name = layout.run_name(pathname or "/")
        if name is None:
            known = pathname in (None, "/")
            return layout.list_page(feed.root) if known else layout.no_such_page(f"There is no page {pathname}.")
        try:
            feed.locate(name)
        except RunNotFoundError as error:
            return layout.no_such_page(str(error))
        return layout.run_page(name)

    def show_list(_: Any, shown: str | None) -> tuple[Any, str]:
        now = time.time()
        summaries = feed.summaries()
        table = layout.rows(summaries, feed.root, now)
        version = str(hash(repr(table)))
        if version == shown:
            raise PreventUpdate
        return table, version

    def show_header(_: Any, name: str) -> Any:
        try:
            return layout.header(feed.snapshot(name).summary, time.time())
        except RunNotFoundError as error:
            return layout.no_such_page(f"It was there a moment ago: {error}.")

    def show_run(pulse: dict[str, Any] | None, name: str, shown: str | None) -> tuple[Any, Any, str]:
        dark = bool((pulse or {}).get("dark"))
        try:
            snapshot = feed.snapshot(name)
        except RunNotFoundError:
            raise PreventUpdate from None
        version = f"{snapshot.version} {dark}"
        if version == shown:
            raise PreventUpdate
        figure = run_figure(snapshot.observations, snapshot.diagnoses, revision=name, dark=dark)
        return figure, why(snapshot.summary), version

    app.callback(Output("page", "children"), Input("url", "pathname"))(open_page)
    app.callback(
        Output("list-body", "children"),
        Output("list-shown", "data"),
        Input("list-pulse", "data"),
        State("list-shown", "data"),
    )(show_list)
    app.callback(Output("run-header", "children"), Input("run-pulse", "data"), State("run-name", "data"))(show_header)
    app.callback(
        Output("run-figure", "figure"),
        Output("why", "children"),
        Output("run-shown", "data"),
        Input("run-pulse", "data"),
        State("run-name", "data"),
        State("run-shown", "data"),
    )(show_run)
    for page in ("list", "run"):
        app.clientside_callback(  # type: ignore[no-untyped-call]
            ClientsideFunction("lldwatch", "pulse"),
            Output(f"{page}-pulse", "data"),
            Input(f"{page}-tick", "n_intervals"),
        )


def say_failed(error: Exception) -> None:
    """An error of ours is told in one line on the page; its traceback goes to the log."""
    log.error("the dashboard failed", exc_info=error)
    text = (
        f"The dashboard failed ({type(error).__name__}): what you see may be old. Its log says more; reload to retry."
    )
    set_props("notice", {"children": text})
