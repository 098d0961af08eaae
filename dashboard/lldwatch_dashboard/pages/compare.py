"""Runs side by side: the same signals on one axis, laid upon each other by step, by onset, or by share of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.exceptions import PreventUpdate

from lldwatch.compare import Comparison
from lldwatch.errors import RunNotFoundError
from lldwatch.signals import SIGNALS
from lldwatch_dashboard import beside, news
from lldwatch_dashboard.beside import Comparisons, is_drawn
from lldwatch_dashboard.choice import ALIGNED, MOST, PANELS, SMOOTHING, Choice
from lldwatch_dashboard.compare_figures import figure, height
from lldwatch_dashboard.feed import Feed, Snapshot, Summary
from lldwatch_dashboard.lanes import Alignment, Lane, aligned, lane_of
from lldwatch_dashboard.news import Content, Drawn, Marks
from lldwatch_dashboard.shared import Component, attributes, bind, chart_config, clock, mark
from lldwatch_dashboard.view import search_of

PLACES = ["compare-figure.figure", "compare-figure.style"]
PLACES += [f"compare-{part}.children" for part in ("runs", "words", "ways", "notes", "details")]
"""What changes of the page while it is open."""

_BARE = {"visible": False}
NOTHING: dict[str, Any] = {
    "data": [],
    "layout": {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "xaxis": _BARE, "yaxis": _BARE},
}
"""What stands there until the runs have been read."""


def page(search: str | None) -> Component:
    """The page of a comparison; `register` keeps it filled."""
    graph = dcc.Graph(
        id="compare-figure",
        figure=NOTHING,
        config=chart_config(["lasso2d", "select2d"]),
    )
    about = "The signals of the runs, one panel each, all on the same axis"
    panels = html.Div(graph, role="group", tabIndex="0", className="figure", **attributes(aria_label=about))
    return html.Div(
        [
            *clock("compare"),
            dcc.Location(id="compare-url", refresh=False),
            dcc.Store(id="compare-focus"),
            dcc.Download(id="compare-download"),
            html.H1("Compare"),
            html.Div(id="compare-runs", className="wide"),
            html.Div(id="compare-words"),
            html.Div(_tools(search), className="tools"),
            html.Ul(id="compare-notes", className="muted notes"),
            html.Div([_key(), panels], className="plots", id="compare-plots"),
            html.Div(id="compare-details"),
        ],
        className="compare-page",
    )


def _tools(search: str | None) -> list[Component]:
    options = [{"label": signal.title, "value": name} for name, signal in SIGNALS.items()]
    chosen = list(Choice.of(search).signals)
    usual = "Signals: the usual ones"
    signals = dcc.Dropdown(options, chosen, multi=True, id="compare-signals", placeholder=usual)
    return [
        html.Div(id="compare-ways"),
        html.Div(signals, className="signals"),
        html.Button("Copy link", id="compare-share"),
        html.Button("CSV", id="compare-csv", title="Every measured value of the panels"),
        html.Span(id="compare-said", role="status", className="muted"),
    ]


def _key() -> Component:
    items = {"parting": "parts from A", "begin": "onset", "mark": "0, NaN or infinite"}
    return html.Ul([html.Li(text, className=f"key {name}") for name, text in items.items()], className="legend")


def ways(choice: Choice) -> list[Component]:
    """How the runs are laid upon each other and smoothed: each way is an address."""
    by = [
        _way(text, replace(choice, align=align), choice.align == align, f"align-{align}")
        for align, text in ALIGNED.items()
    ]
    means = [
        _way(
            "every step" if size == 1 else f"{size} steps",
            replace(choice, smooth=size),
            choice.smooth == size,
            f"mean-{size}",
        )
        for size in SMOOTHING
    ]
    other = dcc.Link("Choose other runs", href=f"/{search_of({'run': choice.runs})}", id="compare-others")
    groups: list[Component] = [html.Div([html.Span("Align by", className="muted"), *by], className="ways")]
    groups += [html.Div([html.Span("Mean of", className="muted"), *means], className="ways"), other]
    return groups


def _way(text: str, choice: Choice, now: bool, name: str) -> Component:
    current: dict[str, Any] = attributes(aria_current="true") if now else {}
    # dcc.Link takes no aria attributes: the mark stands around it
    return html.Span(dcc.Link(text, href=choice.href, id=name), className="way now" if now else "way", **current)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is drawn for a choice."""

    snapshots: tuple[Snapshot, ...]
    comparison: Comparison | None
    lanes: tuple[Lane, ...]
    alignment: Alignment
    signals: tuple[str, ...]
    lacking: tuple[str, ...]


def _gather(choice: Choice, feed: Feed, comparisons: Comparisons) -> _Shown:
    snapshots = tuple(_snapshot(feed, name) for name in choice.runs[:MOST])
    drawn = [snapshot for snapshot in snapshots if is_drawn(snapshot)]
    wanted = choice.signals or PANELS
    lanes = tuple(lane_of(place, snapshot, wanted) for place, snapshot in enumerate(drawn))
    measured = tuple(name for name in wanted if any(name in lane.signals for lane in lanes))
    lacking = tuple(name for name in wanted if name not in measured and (choice.signals or name != "llds_coefficient"))
    return _Shown(snapshots, comparisons.of(drawn), lanes, aligned(lanes, choice.align), measured, lacking)


def _snapshot(feed: Feed, name: str) -> Snapshot:
    try:
        return feed.snapshot(name)
    except RunNotFoundError:
        return Snapshot(version=0, summary=Summary(name=name, error="there is no such run, or not any more"))


def register(app: Dash, feed: Feed, lately: Drawn) -> None:
    """Keep the page up to date."""
    comparisons = Comparisons()

    def show(pulse: dict[str, Any] | None, search: str | None, shown: Marks | None) -> Content:
        choice = Choice.of(search)
        return _news(lately, _gather(choice, feed, comparisons), choice, pulse or {}, shown)

    def download(_: Any, search: str | None) -> dict[str, Any]:
        now = _gather(Choice.of(search), feed, comparisons)
        content = beside.as_csv(now.lanes, now.alignment, now.signals)
        return {"content": content, "filename": "comparison.csv", "type": "text/csv"}

    _connect(app, show, download)


def _connect(app: Dash, show: Any, download: Any) -> None:
    address = Input("compare-url", "search")
    shown = State("compare-shown", "data")
    app.callback(Output("compare-news", "data"), Input("compare-pulse", "data"), address, shown)(show)
    news.show(app, "compare", PLACES)
    bind(app, "compare-signals", "compare", "signals")
    app.callback(
        Output("compare-download", "data"),
        Input("compare-csv", "n_clicks"),
        State("compare-url", "search"),
        prevent_initial_call=True,
    )(download)
    for function, output, trigger in (
        ("share", Output("compare-said", "children"), Input("compare-share", "n_clicks")),
        ("refresh", Output("compare-focus", "data"), Input("compare-shown", "data")),
    ):
        app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
            ClientsideFunction("lldwatch_compare", function), output, trigger, prevent_initial_call=True
        )


def _news(lately: Drawn, now: _Shown, choice: Choice, pulse: dict[str, Any], shown: Marks | None) -> Content:
    """What the page lacks."""
    dark, columns = bool(pulse.get("dark")), 1 if pulse.get("narrow") else 2
    versions = [snapshot.version for snapshot in now.snapshots]
    marks = [[choice.search, dark, columns], list(now.signals), versions, mark(_judged(now.comparison))]
    if marks == shown:
        raise PreventUpdate
    # another view begins at the whole axis; the same panels of the same runs keep the reader's zoom
    anew = shown is None or marks[:2] != shown[:2]
    return lately.news(shown, marks, lambda: _content(now, choice, dark, columns), anew=anew)


def _content(now: _Shown, choice: Choice, dark: bool, columns: int) -> Content:
    """All that stands in `PLACES`."""
    parts = [
        _figure(now, choice, dark, columns),
        {"height": f"{height(len(now.signals), columns)}px"} if now.signals else {"display": "none"},
        beside.runs_table(now.snapshots, choice, now.comparison, dark=dark) if choice.runs else beside.empty(),
        beside.sentences(now.comparison),
        ways(choice),
        [html.Li(line) for line in beside.notes(choice, now.alignment, now.lanes, now.lacking)],
        beside.details(now.comparison),
    ]
    return dict(zip(PLACES, parts, strict=True))


def _figure(now: _Shown, choice: Choice, dark: bool, columns: int) -> dict[str, Any]:
    pairs = now.comparison.pairs if now.comparison else ()
    return figure(
        now.lanes,
        now.alignment,
        now.signals,
        partings={pair.other: pair.partings for pair in pairs},
        smooth=choice.smooth,
        columns=columns,
        dark=dark,
        revision=f"{choice.search} {columns}",
    )


def _judged(comparison: Comparison | None) -> Any:
    return comparison and (comparison.pairs, comparison.settings)
