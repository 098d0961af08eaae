"""What stands around a run's panels: how they are looked at, what they are called, and what can be taken away."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from dash import dcc, html

from lldwatch_dashboard.panels import LEFT, PANELS, READINGS, SHORT, Sheet, left_out
from lldwatch_dashboard.ruler import ALONGS
from lldwatch_dashboard.run_view import SMOOTHEST, RunView
from lldwatch_dashboard.series import WINDOW, Span
from lldwatch_dashboard.shared import Component, attributes, href

SMOOTHING = (1, 5, 20)
FILES = {
    "html": ("HTML report", "The post-mortem of the whole run as one file"),
    "csv": ("CSV", "The steps on screen, every column that was recorded"),
    "parquet": ("Parquet", "The steps on screen, with units and meanings of the columns"),
}


def tools() -> Component:
    """Above the panels; `ways` fills the first part."""
    said: Any = attributes(aria_label="Mean of so many steps")
    slider = dcc.Input(type="range", id="run-smooth", min=1, max=SMOOTHEST, step=1, value=WINDOW)
    buttons = [html.Button(text, id=f"run-{kind}", title=title) for kind, (text, title) in FILES.items()]
    picture = html.Button("PNG", id="run-png", title="The panels as a picture")
    label = html.Label([html.Span("Smoother", className="unseen"), slider], className="smooth", **said)
    return html.Div(
        [
            html.Div(id="run-ways", className="view-ways"),
            label,
            html.Div([html.Button("Copy link", id="run-share"), *buttons, picture], className="files"),
            html.Span(id="run-said", role="status", className="muted"),
        ],
        className="tools",
    )


@lru_cache(256)
def ways(name: str, view: RunView, span: Span | None, death: Span | None) -> list[Component]:
    """How the panels are looked at: each way is an address.

    Args:
        name: of the run.
        view: that is shown.
        span: first and last step that are shown; None: all of them.
        death: the steps around the run's collapse; None: it lives.
    """

    def way(text: str, other: RunView, now: bool, id_: str) -> Component:
        marked: Any = attributes(aria_current="true") if now else {}
        link = dcc.Link(text, href=href(name) + other.search, id=id_)
        return html.Span(link, className="way now" if now else "way", **marked)

    means = []
    for size in SMOOTHING:
        text = "every step" if size == 1 else f"{size} steps"
        means.append(way(text, replace(view, smooth=size), view.smooth == size, f"mean-{size}"))
    if view.smooth not in SMOOTHING:
        means.append(html.Span(f"{view.smooth} steps", className="way now chosen"))
    groups = {
        "x": [way(along, replace(view, along=along), view.along == along, f"x-{along}") for along in ALONGS],
        "y": [
            way("all values", replace(view, clip=False), not view.clip, "y-all"),
            way("1\N{EN DASH}99 %", replace(view, clip=True), view.clip, "y-usual"),
        ],
        "Mean of": means,
    }
    if span is not None or death is not None:
        steps = [way("whole run", replace(view, span="all" if death else None), span is None, "steps-all")]
        if death is not None:
            steps.append(way("its death", replace(view, span=None), span == death, "steps-death"))
        groups = {"Steps": steps, **groups}
    return [
        html.Div([html.Span(title, className="muted"), *links], className="ways") for title, links in groups.items()
    ]


@lru_cache(64)
def titles(sheet: Sheet) -> list[Component]:
    """The panels' titles, laid behind the figure."""
    found = []
    for panel, top in zip(sheet.panels, sheet.tops(), strict=True):
        unit = "log scale" if panel.log else READINGS[panel.signals[0]].unit
        words_of = (SHORT[name] for name in panel.signals if len(panel.signals) > 1)
        lines = [html.Span(word, className=f"key line{place}") for place, word in enumerate(words_of)]
        parts = [html.B(panel.title), *lines, html.Span(unit, className="unit")]
        found.append(html.Div(parts, className="panel-title", style={"top": f"{top}px", "left": f"{LEFT}px"}))
    return found


@lru_cache(64)
def absent(sheet: Sheet) -> str:
    """The one line that says which panels have no place, and why."""
    said = left_out(sheet)
    lacking = [title for title in said if title not in {panel.absent for panel in PANELS}]
    others = [f"{reason}." for reason in said if reason not in lacking]
    return " ".join([*([f"Not recorded: {', '.join(lacking)}."] if lacking else []), *others])


@lru_cache(64)
def key(smooth: int) -> list[Component]:
    """What the lines and shades mean."""
    items = {
        "raw": "each step",
        "mean": f"mean of {smooth} steps",
        "error": "± 1 standard error",
        "noise": "noise floor",
        "onset": "a stage began",
        "mark": "0, NaN or infinite",
    }
    if smooth == 1:
        del items["mean"]
    return [html.Li(text, className=f"key {name}") for name, text in items.items()]


def glossary() -> Component:
    """What each plot shows; `terms` fills it when somebody opens it, for so many words hold up the page."""
    return html.Details(
        [html.Summary("How to read these plots"), html.Dl(id="run-terms")], className="glossary", id="run-glossary"
    )


def terms() -> list[Component]:
    """What each plot shows, what it does in a healthy run, and where that is known from."""
    told: list[Component] = []
    for signal in (READINGS[name] for panel in PANELS for name in panel.signals):
        told.append(html.Dt(signal.title))
        told.append(html.Dd([f"{signal.meaning} ", html.B("Healthy: "), f"{signal.healthy} ({signal.reference})"]))
    return told
