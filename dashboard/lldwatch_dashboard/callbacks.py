"""What happens when: an address is opened, a second has passed. Everything shown is made elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Any

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, Patch, State, no_update, set_props
from dash.exceptions import PreventUpdate

from lldwatch.errors import RunNotFoundError
from lldwatch_dashboard import layout, why
from lldwatch_dashboard.feed import Feed, Summary
from lldwatch_dashboard.figures import run_figure

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

    def show_list(_: Any, shown: list[Any] | None) -> tuple[Any, Any]:
        now, summaries = time.time(), feed.summaries()
        rows = [(summary.name, layout.cells(summary, now)) for summary in summaries]
        marks: list[Any] = [[name, {head: _mark(cell) for head, cell in cells.items()}] for name, cells in rows]
        if shown is None or _shape(shown) != _shape(marks):
            return layout.table(summaries, feed.root, now), marks
        for (name, cells), (_, before), (_, after) in zip(rows, shown, marks, strict=True):
            for head in (head for head in cells if before[head] != after[head]):
                set_props(layout.cell_id(name, head), {"children": cells[head]})
        return no_update, no_update if shown == marks else marks

    def show_header(_: Any, name: str) -> dict[str, Any]:
        try:
            summary = feed.snapshot(name).summary
        except RunNotFoundError:
            summary = Summary(name=name, error="it was there a moment ago, and is gone now")
        return layout.header(summary, time.time())

    def show_run(pulse: dict[str, Any] | None, name: str, shown: list[Any] | None) -> tuple[Any, Any, Any, Any]:
        dark = bool((pulse or {}).get("dark"))
        try:
            snapshot = feed.snapshot(name)
        except RunNotFoundError:
            raise PreventUpdate from None
        about = why.about(snapshot.summary)
        marks = [snapshot.version, dark, _mark(about)]
        before = shown or [None] * len(marks)
        if marks == before:
            raise PreventUpdate
        figure = run_figure(snapshot.observations, snapshot.verdicts, revision=name, dark=dark)
        findings = why.findings(snapshot.summary.diagnosis)
        return _all_but_the_view(figure), findings, no_update if marks[2] == before[2] else about, marks

    app.callback(Output("page", "children"), Input("url", "pathname"))(open_page)
    app.callback(
        Output("list-body", "children"),
        Output("list-shown", "data"),
        Input("list-pulse", "data"),
        State("list-shown", "data"),
    )(show_list)
    app.callback(
        {
            "badge": Output("stage-badge", "children"),
            "kind": Output("stage-badge", "className"),
            "meaning": Output("stage-badge", "title"),
            "verdict": Output("verdict", "children"),
            "facts": Output("facts", "children"),
        },
        Input("run-pulse", "data"),
        State("run-name", "data"),
    )(show_header)
    app.callback(
        Output("run-figure", "figure"),
        Output("findings", "children"),
        Output("about", "children"),
        Output("run-shown", "data"),
        Input("run-pulse", "data"),
        State("run-name", "data"),
        State("run-shown", "data"),
    )(show_run)
    for page in ("list", "run"):
        app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
            ClientsideFunction("lldwatch", "pulse"),
            Output(f"{page}-pulse", "data"),
            Input(f"{page}-tick", "n_intervals"),
        )


def _mark(content: Any) -> str:
    """The same for what looks the same."""
    return str(hash(repr(content)))


def _shape(marks: list[Any]) -> list[Any]:
    """Which rows with which cells; while it stays, the table is not built anew: a remounted link loses the focus."""
    return [[name, list(cells)] for name, cells in marks]


def _all_but_the_view(figure: go.Figure) -> Patch:
    """The figure as a change of the one on the page, without the ranges of the axes, which are the user's.

    Sent as a whole figure it would lose the zoom: dash 4.4 notes the user's ranges in the figure on the page, and
    plotly takes the next figure, which lacks them, for a wish to reset them in spite of `uirevision`.
    """
    patch = Patch()
    content = figure.to_dict()
    patch["data"] = content["data"]
    for name, part in content["layout"].items():
        if "axis" in name:
            for key, setting in part.items():
                patch["layout"][name][key] = setting
        else:
            patch["layout"][name] = part
    return patch


def say_failed(error: Exception) -> None:
    """An error of ours is told in one line on the page; its traceback goes to the log."""
    log.error("the dashboard failed", exc_info=error)
    text = (
        f"The dashboard failed ({type(error).__name__}): what you see may be old. Its log says more; reload to retry."
    )
    set_props("notice", {"children": text})
