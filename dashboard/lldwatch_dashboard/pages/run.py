"""One run: its panels on one axis of steps, why it is judged so, and what to do."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, Patch, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from lldwatch.diagnosis import Stage
from lldwatch.errors import RunNotFoundError
from lldwatch_dashboard import downloads, why, words
from lldwatch_dashboard.event_marks import event_marks
from lldwatch_dashboard.feed import Feed, Snapshot, Summary
from lldwatch_dashboard.figures import drawn, empty_figure
from lldwatch_dashboard.panels import Sheet
from lldwatch_dashboard.ruler import Ruler, ruler_of, stretch
from lldwatch_dashboard.run_controls import FILES, absent, glossary, key, titles, tools, ways
from lldwatch_dashboard.run_view import RunView
from lldwatch_dashboard.series import WINDOW, Span
from lldwatch_dashboard.shared import Component, attributes, clock, href, mark
from lldwatch_dashboard.traces import Canvas

_UNWANTED = ["lasso2d", "select2d", "toImage"]  # the picture of the button beside the panels has their titles


def page(name: str) -> Component:
    """The page of one run; `header`, `figures.run_figure` and `why` fill it."""
    column = html.Aside([html.Div(id="findings"), html.Div(id="about")], id="why", **attributes(aria_label="Why"))
    head = [
        html.Div([html.H1(name), html.Span(id="stage-badge")], className="name"),
        html.P(id="verdict", role="status"),
        html.P(id="facts"),
        html.P(dcc.Link("Every response, token by token", href=href(name, "responses"))),
    ]
    legend = html.Ul(key(WINDOW), className="legend", id="run-key")
    left_out = html.P(id="run-absent", className="muted absent")
    return html.Div(
        [
            *clock("run"),
            dcc.Location(id="run-url", refresh=False),
            dcc.Download(id="run-download"),
            dcc.Store(id="run-name", data=name),
            html.Div(head, className="head"),
            html.Div(
                [html.Div([tools(), legend, _panels(), left_out, glossary()], className="plots"), column],
                className="columns",
            ),
        ],
        className="run-page",
    )


def _panels() -> Component:
    graph = dcc.Graph(
        id="run-figure",
        figure=empty_figure(),
        style={"height": f"{Sheet().height}px"},
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": _UNWANTED},
    )
    about = (
        "Likelihood change, log-likelihood, entropy, gradient norm, reward and more by step, with the stages as bands"
    )
    return html.Div(
        [graph, html.Div(titles(Sheet()), id="run-titles")],
        role="group",
        className="figure",
        tabIndex="0",
        **attributes(aria_label=about),
    )


def header(summary: Summary, now: float) -> dict[str, Component]:
    """What stands above a run: properties of the badge, the verdict and the facts below it."""
    text, kind, meaning = words.stage(summary)
    state, since = words.liveness(summary, now)
    facts = [html.Span(words.progress(summary)), html.Span(f"{state}: {since}", className=f"state {state}")]
    if summary.diagnosis.first_warning is not None:
        facts.append(html.Span(f"first warning at step {summary.diagnosis.first_warning}"))
    if summary.diagnosis.collapse_probability is not None and summary.diagnosis.stage is not Stage.COLLAPSE:
        ahead = f"risk of collapse within {summary.diagnosis.horizon} steps: {words.risk(summary.diagnosis)}"
        facts.append(html.Span(ahead))
    return {
        "badge": text,
        "kind": f"badge {kind}",
        "meaning": meaning,
        "verdict": words.verdict(summary),
        "facts": [] if summary.error else facts,
    }


def register(app: Dash, feed: Feed) -> None:
    """Keep the page up to date."""

    def show_header(_: Any, name: str) -> dict[str, Any]:
        try:
            summary = feed.snapshot(name).summary
        except RunNotFoundError:
            summary = Summary(name=name, error="it was there a moment ago, and is gone now")
        return header(summary, time.time())

    def show_run(pulse: dict[str, Any] | None, search: str | None, name: str, shown: Any, relayout: Any) -> Any:
        try:
            return _run(feed.snapshot(name), pulse or {}, RunView.of(search), shown, relayout)
        except RunNotFoundError:
            raise PreventUpdate from None

    def steer(relayout: Any, smooth: Any, search: str | None, name: str) -> tuple[Any, Any]:
        view = RunView.of(search)
        if ctx.triggered_id not in ("run-figure", "run-smooth"):
            return no_update, view.smooth
        if ctx.triggered_id == "run-smooth":
            wanted = RunView.of(f"?mean={smooth}").smooth
            return replace(view, smooth=wanted).search if wanted != view.smooth else no_update, no_update
        snapshot = feed.snapshot(name)
        span = stretch(relayout, ruler_of(snapshot.observations, view.along))
        if span is None and not (relayout or {}).get("xaxis.autorange"):
            raise PreventUpdate
        if span is None and death(snapshot):
            return replace(view, span="all").search, no_update
        return replace(view, span=span).search, no_update

    def download(*clicks: Any) -> dict[str, Any]:
        *_, name, shown = clicks
        span = tuple(shown[-1]) if shown and shown[-1] else None
        kind = str(ctx.triggered_id).removeprefix("run-")
        return downloads.sent(kind, feed.locate(name), name, feed.snapshot(name).observations, span)

    _connect(app, show_header, show_run, steer, download)


def _connect(app: Dash, show_header: Any, show_run: Any, steer: Any, download: Any) -> None:
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
    name, address = State("run-name", "data"), Input("run-url", "search")
    seen = [State("run-shown", "data"), State("run-figure", "relayoutData")]
    app.callback(*_outputs(), Input("run-pulse", "data"), address, name, *seen)(show_run)
    app.callback(
        Output("run-url", "search"),
        Output("run-smooth", "value"),
        Input("run-figure", "relayoutData"),
        Input("run-smooth", "value"),
        address,
        name,
    )(steer)
    buttons = [Input(f"run-{kind}", "n_clicks") for kind in FILES]
    app.callback(Output("run-download", "data"), *buttons, name, seen[0], prevent_initial_call=True)(download)
    for namespace, function in (("lldwatch_compare", "share"), ("lldwatch_run", "png")):
        app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
            ClientsideFunction(namespace, function),
            Output("run-said", "children", allow_duplicate=True),
            Input(f"run-{function}", "n_clicks"),
            prevent_initial_call=True,
        )


def _outputs() -> list[Output]:
    figure = [Output("run-figure", "figure"), Output("run-figure", "style")]
    parts = ["findings", "about", "run-titles", "run-absent", "run-key", "run-ways"]
    return [*figure, *(Output(part, "children") for part in parts), Output("run-shown", "data")]


def death(snapshot: Snapshot) -> Span | None:
    """From some steps before the onset to some after the collapse; None if the run lives, or is being written."""
    diagnosis = snapshot.summary.diagnosis
    if snapshot.summary.info.ended is None or diagnosis.stage is not Stage.COLLAPSE:
        return None
    first, last = snapshot.observations[0].step - 0.5, snapshot.observations[-1].step + 0.5
    onset, known = min(diagnosis.onsets.values()), diagnosis.known[Stage.COLLAPSE]
    margin = max(10.0, 0.5 * (known - onset))
    return max(first, onset - margin), min(last, known + margin)


def _run(snapshot: Snapshot, pulse: dict[str, Any], view: RunView, shown: Any, relayout: Any) -> tuple[Any, ...]:
    """What has changed of the page; see `_outputs`."""
    about, summary = why.about(snapshot.summary), snapshot.summary
    before = shown or [None] * 5
    span = view.between
    if view.span is None:  # once a page is open, the end of the run moves nothing
        span = death(snapshot) if before[3] != view.search else before[4] and tuple(before[4])
    look = [bool(pulse.get("dark")), bool(pulse.get("narrow"))]
    marks = [snapshot.version, look, mark(about), view.search, span and list(span)]
    if marks == before:
        raise PreventUpdate
    figure, canvas = _figure(snapshot, replace(view, span=span), look)
    sheet, turned = canvas.sheet, before[3] != view.search
    patch = _all_but_the_view(figure)
    _turn(patch, span, before, view, stretch(relayout, canvas.ruler), canvas.ruler)
    return (
        patch,
        {"height": f"{sheet.height}px"},
        why.findings(summary.diagnosis, snapshot.observations, snapshot.events),
        no_update if marks[2] == before[2] else about,
        titles(sheet),
        absent(sheet) if snapshot.observations else "",
        key(view.smooth) if turned else no_update,
        ways(summary.name, view, span, death(snapshot)),
        marks,
    )


def _figure(snapshot: Snapshot, view: RunView, look: list[bool]) -> tuple[go.Figure, Canvas]:
    events = event_marks(snapshot.summary.diagnosis, snapshot.observations, snapshot.events)
    return drawn(
        snapshot.observations,
        snapshot.verdicts,
        events,
        view=view,
        revision=snapshot.summary.name,
        dark=look[0],
        narrow=look[1],
    )


def _turn(patch: Patch, span: Span | None, before: list[Any], view: RunView, chosen: Span | None, ruler: Ruler) -> None:
    """Move the x axis, if it is not where it belongs: a link was opened, or a button pressed."""
    was = before[4] and tuple(before[4])
    turned = RunView.of(before[3]).along != view.along
    if (span == was and not turned) or (span is not None and span == chosen and not turned):
        return
    axis = patch["layout"]["xaxis"]
    axis["uirevision"] = f"{view.search} {span}"
    axis["autorange"] = span is None
    if span is not None:
        axis["range"] = ruler.at(span).tolist()


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
