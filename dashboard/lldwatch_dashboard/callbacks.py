"""Which page an address opens, and what all pages need: ticks, and errors said in one line."""

from __future__ import annotations

import logging
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, set_props

from lldwatch.errors import RunNotFoundError
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.glances import Glances
from lldwatch_dashboard.pages import compare, overview, responses, run
from lldwatch_dashboard.shared import address, no_such_page

PAGES_OF_A_RUN = {"run": run, "responses": responses}
"""First part of the address -> the page; the rest of the address names the run."""

log = logging.getLogger("lldwatch.dashboard")


def register(app: Dash, feed: Feed) -> None:
    """Connect the pages with the runs."""

    def open_page(pathname: str | None, search: str | None = None) -> Any:
        page, name = address(pathname or "/")
        if page == "":
            return overview.page(feed.root, search)
        if (page, name) == ("compare", "."):
            return compare.page(search)
        if page not in PAGES_OF_A_RUN:
            return no_such_page(f"There is no page {pathname}.")
        try:
            feed.locate(name)
        except RunNotFoundError as error:
            return no_such_page(str(error))
        return PAGES_OF_A_RUN[page].page(name)

    app.callback(Output("page", "children"), Input("url", "pathname"), State("url", "search"))(open_page)
    overview.register(app, feed, Glances(feed))
    compare.register(app, feed)
    for module in PAGES_OF_A_RUN.values():
        module.register(app, feed)
    for name in ("list", "compare", *PAGES_OF_A_RUN):
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
