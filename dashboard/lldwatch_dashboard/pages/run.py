"""One run: its panels on one axis of steps, why it is judged so, and what to do."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html
from dash.exceptions import PreventUpdate

from lldwatch.diagnosis import Stage
from lldwatch.errors import RunNotFoundError
from lldwatch.postmortem import spans_of
from lldwatch_dashboard import downloads, news, why, words
from lldwatch_dashboard.event_marks import event_marks
from lldwatch_dashboard.feed import Feed, Snapshot, Summary
from lldwatch_dashboard.figures import drawn, empty_figure
from lldwatch_dashboard.lines import STEP
from lldwatch_dashboard.news import Content, Drawn, Marks
from lldwatch_dashboard.panels import Sheet
from lldwatch_dashboard.ruler import Ruler, ruler_of, stretch
from lldwatch_dashboard.run_controls import FILES, absent, glossary, key, terms, titles, tools, ways
from lldwatch_dashboard.run_view import RunView
from lldwatch_dashboard.series import WINDOW, Span
from lldwatch_dashboard.shared import Component, Visit, attributes, bind, chart_config, clock, href

PLACES = ["run-figure.figure", "run-figure.style"]
PLACES += [f"{part}.children" for part in ("findings", "about", "run-titles", "run-absent", "run-key", "run-ways")]
"""What changes of the page while it is open, but for its header."""

SEARCH, SPAN = 3, 4
"""Places in the marks of what the page shows."""

_UNWANTED = ["lasso2d", "select2d", "toImage"]  # the picture of the button beside the panels has their titles


def page(name: str, first: Content | None) -> Component:
    """The page of one run; `register` keeps it filled.

    Args:
        name: of the run.
        first: what it shows at once, see `news_of`; None: the run is still being read.
    """
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
            *clock("run", first),
            dcc.Location(id="run-url", refresh=False),
            dcc.Download(id="run-download"),
            dcc.Store(id="run-name", data=name),
            dcc.Store(id="run-zoom"),
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
        config=chart_config(_UNWANTED),
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
    known = summary.diagnosis.collapse_probability is not None and not summary.behind
    if known and summary.diagnosis.stage is not Stage.COLLAPSE:
        ahead = f"risk of collapse within {summary.diagnosis.horizon} steps: {words.risk(summary.diagnosis)}"
        facts.append(html.Span(ahead))
    return {
        "badge": text,
        "kind": f"badge {kind}",
        "meaning": meaning,
        "verdict": words.verdict(summary),
        "facts": [] if summary.error else facts,
    }


def register(app: Dash, feed: Feed, lately: Drawn) -> None:
    """Keep the page up to date."""

    def show_header(_: Any, name: str) -> dict[str, Any]:
        try:
            summary = feed.snapshot(name).summary
        except RunNotFoundError:
            summary = Summary(name=name, error="it was there a moment ago, and is gone now")
        return header(summary, time.time())

    def show_run(pulse: dict[str, Any] | None, search: str | None, name: str, shown: Any, zoom: Any) -> Any:
        try:
            return news_of(lately, feed.snapshot(name), Visit.of({**(pulse or {}), "search": search}), shown, zoom)
        except RunNotFoundError:
            raise PreventUpdate from None

    def steer(zoom: dict[str, Any] | None, search: str | None, name: str) -> str:
        view, snapshot = RunView.of(search), feed.snapshot(name)
        span = stretch(zoom, ruler_of(snapshot.signals, view.along))
        if span is None and not (zoom or {}).get("xaxis.autorange"):
            raise PreventUpdate
        if span is None and death(snapshot):
            return replace(view, span="all").search
        return replace(view, span=span).search

    def download(*clicks: Any) -> dict[str, Any]:
        *_, name, shown = clicks
        span = tuple(shown[SPAN]) if shown and shown[SPAN] else None
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
    seen = [State("run-shown", "data"), State("run-zoom", "data")]
    app.callback(Output("run-news", "data"), Input("run-pulse", "data"), address, name, *seen)(show_run)
    news.show(app, "run", PLACES)
    zoom, search = Input("run-zoom", "data"), State("run-url", "search")
    app.callback(Output("run-url", "search"), zoom, search, name, prevent_initial_call=True)(steer)
    bind(app, "run-smooth", "run", "smooth", initially=True)
    opened = Input("run-glossary", "n_clicks")
    app.callback(Output("run-terms", "children"), opened, prevent_initial_call=True)(lambda _: terms())
    buttons = [Input(f"run-{kind}", "n_clicks") for kind in FILES]
    app.callback(Output("run-download", "data"), *buttons, name, seen[0], prevent_initial_call=True)(download)
    for namespace, function, output, trigger in (
        ("lldwatch_compare", "share", _said(), Input("run-share", "n_clicks")),
        ("lldwatch_run", "png", _said(), Input("run-png", "n_clicks")),
        ("lldwatch_run", "zoom", Output("run-zoom", "data"), Input("run-figure", "relayoutData")),
    ):
        app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
            ClientsideFunction(namespace, function), output, trigger, prevent_initial_call=True
        )


def _said() -> Output:
    return Output("run-said", "children", allow_duplicate=True)


def death(snapshot: Snapshot) -> Span | None:
    """From some steps before the onset to some after the collapse; None if the run lives, or is not yet all judged."""
    diagnosis = snapshot.summary.diagnosis
    if snapshot.summary.info.ended is None or snapshot.summary.behind or diagnosis.stage is not Stage.COLLAPSE:
        return None
    first, last = snapshot.observations[0].step - 0.5, snapshot.observations[-1].step + 0.5
    onset, known = min(diagnosis.onsets.values()), diagnosis.known[Stage.COLLAPSE]
    margin = max(10.0, 0.5 * (known - onset))
    return max(first, onset - margin), min(last, known + margin)


def news_of(
    lately: Drawn, snapshot: Snapshot, visit: Visit, shown: Marks | None = None, zoom: dict[str, Any] | None = None
) -> Content:
    """What the page lacks.

    Args:
        lately: what was drawn of this run and others.
        snapshot: of the run.
        visit: how the page is looked at.
        shown: marks of what it shows; None: nothing yet.
        zoom: what the reader last did to the x axis, as plotly tells it.

    Raises:
        PreventUpdate: nothing.
    """
    view = RunView.of(visit.search)
    was = RunView.of(shown[SEARCH]) if shown else RunView()
    before: Span | None = tuple(shown[SPAN]) if shown and shown[SPAN] else None
    span = view.between
    if view.span is None:  # once a page is open, and the run is judged, its end moves nothing
        span = before if shown and was == view and shown[5:] != [True] else death(snapshot)
    look = [visit.dark, visit.narrow]
    marks = [snapshot.summary.name, snapshot.version, look, view.search, span and list(span), snapshot.summary.behind]
    if marks == shown:
        raise PreventUpdate
    told = lately.news(shown, marks, lambda: _content(snapshot, view, span, look))
    ruler = ruler_of(snapshot.signals, view.along)
    unmoved = span == before or (span is not None and span == stretch(zoom, ruler))
    if was.along != view.along or not unmoved:
        told["moves"] = {"run-figure.figure": {"layout": {"xaxis": _moved(view, span, ruler)}}}
    return told


def _moved(view: RunView, span: Span | None, ruler: Ruler) -> dict[str, Any]:
    """The x axis where it belongs: a link was opened, or a button pressed."""
    axis = {"uirevision": [f"{view.search} {span}"], "autorange": [span is None]}
    return axis if span is None else axis | {"range": [ruler.at(span).tolist()]}


def _content(snapshot: Snapshot, view: RunView, span: Span | None, look: list[bool]) -> Content:
    """All that stands in `PLACES`. The figure has no ranges of the x axis: they are the reader's."""
    summary = snapshot.summary
    signals = snapshot.signals
    figure, sheet = drawn(
        signals,
        event_marks(summary.diagnosis, signals, snapshot.events),
        view=replace(view, span=span),
        revision=summary.name,
        dark=look[0],
        narrow=look[1],
    )
    acting = spans_of(signals[STEP].steps, signals["llds_coefficient"])
    parts = [
        figure,
        {"height": f"{sheet.height}px"},
        why.findings(summary.diagnosis, snapshot.observations, snapshot.events, acting),
        why.about(summary),
        titles(sheet),
        absent(sheet) if snapshot.observations else "",
        key(view.smooth),
        ways(summary.name, view, span, death(snapshot)),
    ]
    return dict(zip(PLACES, parts, strict=True))
