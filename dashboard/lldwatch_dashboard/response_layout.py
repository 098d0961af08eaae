"""What stands on the responses page, without what has been read."""

from __future__ import annotations

from typing import Any

import dash_ag_grid as dag  # type: ignore[import-untyped]  # ships no types
from dash import dcc, html

from lldwatch_dashboard.response_address import COLOURS
from lldwatch_dashboard.response_figures import empty_figure
from lldwatch_dashboard.response_words import HOW_TO_READ
from lldwatch_dashboard.shared import Component, attributes

NUMBERS = (
    ("low", "First step", 1),
    ("high", "Last step", 1),
    ("bottom", "Lowest change", "any"),
    ("top", "Highest change", "any"),
)
"""Fields of a region that is typed: name, label, and what the number is a multiple of."""


def body() -> list[Component]:
    """The controls, the figure, the region's table, and one response."""
    about = (
        "Every response: its step across, its likelihood change in nats per token up. "
        "Drag a box to list the responses in it; the numbers can also be typed below the figure."
    )
    graph = dcc.Graph(
        id="responses-figure",
        figure=empty_figure(),
        config={
            "displaylogo": False,
            "responsive": True,
            "doubleClick": False,
            "modeBarButtons": [["toImage"]],
            "displayModeBar": "hover",
        },
    )
    figure = html.Div(graph, role="group", className="figure", tabIndex="0", **attributes(aria_label=about))
    return [
        _controls(),
        html.P(id="responses-summary", role="status"),
        html.Div([_key(), figure, _by_numbers(), _how_to_read()], className="plots"),
        _table(),
        _one(),
        dcc.Store(id="responses-listed"),
    ]


def _choice(name: str, legend: str, options: list[Any], value: str | None) -> Component:
    radio = dcc.RadioItems(id=f"responses-{name}", options=options, value=value, inline=True, className="choices")
    return html.Fieldset([html.Legend(legend), radio], className="choice")


def _controls() -> Component:
    drag = [{"label": "lists responses", "value": "select"}, {"label": "zooms", "value": "zoom"}]
    buttons = [html.Button("Whole run", id="responses-whole", title="Undo the zoom")]
    return html.Div(
        [
            _choice("kind", "Likelihood change", [], None),
            _choice("drag", "Dragging a box", drag, "select"),
            html.Div(buttons, className="buttons"),
        ],
        className="controls",
    )


def _key() -> Component:
    """What shades, lines and marks mean."""
    items = {
        "noise": "noise floor: no change",
        "odd": "NaN or infinite",
        "region": "listed below",
    }
    return html.Ul([html.Li(text, className=f"key {name}") for name, text in items.items()], className="legend")


def _by_numbers() -> Component:
    fields = []
    for name, label, step in NUMBERS:
        box = dcc.Input(id=f"responses-{name}", type="number", step=step, debounce=True)
        fields.append(html.Label([label, box]))
    buttons = [
        html.Button("List these responses", id="responses-list"),
        html.Button("Zoom to them", id="responses-zoom"),
        html.Button("List those with NaN or infinite change", id="responses-broken"),
    ]
    form = html.Div([*fields, *buttons], className="form")
    return html.Details([html.Summary("Choose responses by numbers"), form], className="by-numbers")


def _how_to_read() -> Component:
    terms: list[Component] = []
    for term, meaning in HOW_TO_READ.items():
        terms += [html.Dt(term), html.Dd(meaning)]
    return html.Details([html.Summary("How to read this plot"), html.Dl(terms)], className="glossary")


def _table() -> Component:
    grid = dag.AgGrid(
        id="responses-grid",
        columnDefs=[],
        rowData=[],
        defaultColDef={"sortable": True, "resizable": True, "filter": True, "floatingFilter": True},
        dashGridOptions={
            "rowSelection": {"mode": "singleRow", "enableClickSelection": True, "checkboxes": False},
            "animateRows": False,
            "tooltipShowDelay": 300,
            "rowHeight": 32,
            "enableCellTextSelection": True,
        },
        className="grid",
        style={"height": "380px"},
    )
    clear = html.Button("Close", id="responses-clear", title="Forget the region")
    head = html.Div([html.H2("Responses in the region"), clear], className="bar")
    found = html.P(id="responses-found", role="status")
    about = attributes(aria_label="Responses in the region")
    return html.Section([head, found, grid], id="responses-table", hidden=True, **about)


def _one() -> Component:
    colour = _choice("colour", "Tokens coloured by", [{"label": name, "value": name} for name in COLOURS], COLOURS[0])
    close = html.Button("Close", id="responses-close", title="Forget the response")
    head = html.Div([html.H2("One response"), colour, close], className="bar")
    about = attributes(aria_label="One response")
    return html.Section([head, html.Div(id="responses-detail")], id="responses-one", hidden=True, **about)
