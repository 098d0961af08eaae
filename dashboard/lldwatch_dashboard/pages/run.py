"""One run: its panels on one axis of steps, why it is judged so, and what to do."""

from __future__ import annotations

import time
from typing import Any

import plotly.graph_objects as go
from dash import Dash, Input, Output, Patch, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from lldwatch.diagnosis import Stage
from lldwatch.errors import RunNotFoundError
from lldwatch.signals import SIGNALS
from lldwatch_dashboard import why, words
from lldwatch_dashboard.feed import Feed, Summary
from lldwatch_dashboard.figures import empty_figure, run_figure
from lldwatch_dashboard.panels import HEIGHT, LEFT, PANELS, SHORT, panel_tops
from lldwatch_dashboard.shared import Component, attributes, clock, href, mark


def page(name: str) -> Component:
    """The page of one run; `header`, `figures.run_figure` and `why` fill it."""
    graph = dcc.Graph(
        id="run-figure",
        figure=empty_figure(),
        style={"height": f"{HEIGHT}px"},
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]},
    )
    about = "Likelihood change, log-likelihood, entropy, gradient norm and reward by step, with the stages as bands"
    figure = html.Div(
        [graph, *_titles()], role="group", className="figure", tabIndex="0", **attributes(aria_label=about)
    )
    column = html.Aside([html.Div(id="findings"), html.Div(id="about")], id="why", **attributes(aria_label="Why"))
    head = [
        html.Div([html.H1(name), html.Span(id="stage-badge")], className="name"),
        html.P(id="verdict", role="status"),
        html.P(id="facts"),
        html.P(dcc.Link("Every response, token by token", href=href(name, "responses"))),
    ]
    return html.Div(
        [
            *clock("run"),
            dcc.Store(id="run-name", data=name),
            html.Div(head, className="head"),
            html.Div([html.Div([_key(), figure, _glossary()], className="plots"), column], className="columns"),
        ],
        className="run-page",
    )


def _titles() -> list[Component]:
    """The panels' titles, laid behind the figure."""
    titles = []
    for panel, top in zip(PANELS, panel_tops(), strict=True):
        unit = "log scale" if panel.log else SIGNALS[panel.signals[0]].unit
        words_of = (SHORT[name] for name in panel.signals if len(panel.signals) > 1)
        lines = [html.Span(word, className=f"key line{place}") for place, word in enumerate(words_of)]
        parts = [html.B(panel.title), *lines, html.Span(unit, className="unit")]
        titles.append(html.Div(parts, className="panel-title", style={"top": f"{top}px", "left": f"{LEFT}px"}))
    return titles


def _glossary() -> Component:
    """What each plot shows, what it does in a healthy run, and where that is known from."""
    terms: list[Component] = []
    for signal in (SIGNALS[name] for panel in PANELS for name in panel.signals):
        terms.append(html.Dt(signal.title))
        terms.append(html.Dd([f"{signal.meaning} ", html.B("Healthy: "), f"{signal.healthy} ({signal.reference})"]))
    return html.Details([html.Summary("How to read these plots"), html.Dl(terms)], className="glossary")


def _key() -> Component:
    """What the lines and shades mean."""
    items = {
        "raw": "each step",
        "mean": "mean of 5 steps",
        "error": "± 1 standard error",
        "noise": "noise floor",
        "mark": "0, NaN or infinite",
    }
    return html.Ul([html.Li(text, className=f"key {name}") for name, text in items.items()], className="legend")


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

    def show_run(pulse: dict[str, Any] | None, name: str, shown: list[Any] | None) -> tuple[Any, Any, Any, Any]:
        dark = bool((pulse or {}).get("dark"))
        try:
            snapshot = feed.snapshot(name)
        except RunNotFoundError:
            raise PreventUpdate from None
        about = why.about(snapshot.summary)
        marks = [snapshot.version, dark, mark(about)]
        before = shown or [None] * len(marks)
        if marks == before:
            raise PreventUpdate
        figure = run_figure(snapshot.observations, snapshot.verdicts, revision=name, dark=dark)
        findings = why.findings(snapshot.summary.diagnosis)
        return _all_but_the_view(figure), findings, no_update if marks[2] == before[2] else about, marks

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
