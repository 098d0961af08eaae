"""What stands on the pages: the list of runs, the page of one run, and what to say when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from dash import dcc, html

from lldwatch.diagnosis import Stage
from lldwatch.signals import SIGNALS
from lldwatch_dashboard import words
from lldwatch_dashboard.feed import Summary
from lldwatch_dashboard.figures import empty_figure
from lldwatch_dashboard.panels import HEIGHT, LEFT, PANELS, SHORT, panel_tops

Component = Any  # dash ships no types
TICK_MS = 1000


def shell() -> Component:
    """What all pages share."""
    return html.Div(
        [
            dcc.Location(id="url"),
            html.Header(dcc.Link("lldwatch", href="/", className="brand"), className="top"),
            html.Div(id="notice", role="alert"),
            html.Main(id="page"),
        ]
    )


def href(name: str) -> str:
    """The address of a run's page."""
    return "/run/" if name == "." else f"/run/{quote(name)}"


def run_name(pathname: str) -> str | None:
    """The run that an address means; None if it means none. The name is not yet known to be harmless."""
    prefix, _, name = pathname.partition("/run/")
    return None if prefix or "/run/" not in pathname else unquote(name).rstrip("/") or "."


def clock(page: str) -> list[Component]:
    """Ticks that stop while nobody looks, and what was shown last."""
    return [
        dcc.Interval(id=f"{page}-tick", interval=TICK_MS),
        dcc.Store(id=f"{page}-pulse"),
        dcc.Store(id=f"{page}-shown"),
    ]


def list_page(root: Path) -> Component:
    """The page of all runs; `table` fills it."""
    return html.Div(
        [*clock("list"), html.H1("Runs"), html.P(str(root), className="muted path"), html.Div(id="list-body")],
        className="list-page",
    )


HEADS = ("Run", "Stage", "Step", "Onset", "Family", "First warning", "Risk", "Reward", "Training")


def table(summaries: Sequence[Summary], root: Path, now: float) -> Component:
    """The table of runs, or what to do when there is none."""
    if not summaries:
        return _no_runs(root)
    return html.Table(
        [
            html.Caption("All runs below the folder, the worst first", className="unseen"),
            html.Thead(html.Tr([html.Th(head, scope="col") for head in HEADS])),
            html.Tbody([_row(summary, now) for summary in summaries]),
        ],
        id="run-list",
    )


def _row(summary: Summary, now: float) -> Component:
    name = html.Th(dcc.Link(summary.name, href=href(summary.name)), scope="row")
    shown = cells(summary, now)
    wide: dict[str, Any] = {"colSpan": len(HEADS) - 2, "className": "reason"}
    more = []
    for head, cell in shown.items():
        attributes: dict[str, Any] = _attributes(data_label=head) | (wide if head == "Reason" else {})
        more.append(html.Td(cell, id=cell_id(summary.name, head), **attributes))
    return html.Tr([name, *more])


def cell_id(name: str, head: str) -> dict[str, str]:
    """The id of a cell of the table, so that it can be changed alone."""
    return {"run": name, "cell": head}


def cells(summary: Summary, now: float) -> dict[str, Component]:
    """What stands in a run's row beside its name; in the row of a run that cannot be read, the reason."""
    if summary.error or not summary.read:
        return {"Stage": badge(summary), "Reason": summary.error or "being read …"}
    diagnosis, (state, since) = summary.diagnosis, words.liveness(summary, now)
    damaged = html.Span("files damaged", className="damaged", title="\n".join(summary.problems))
    training = f"{state}, {since.removeprefix('last step ')}" if state in ("live", "stalled") else state
    return {
        "Stage": [badge(summary), damaged] if summary.problems else badge(summary),
        "Step": words.progress(summary).removeprefix("step "),
        "Onset": words.number(min(diagnosis.onsets.values(), default=None)),
        "Family": diagnosis.family.label if diagnosis.family else words.UNKNOWN,
        "First warning": words.number(diagnosis.first_warning),
        "Risk": words.risk(diagnosis),
        "Reward": words.number(summary.last.reward if summary.last else None),
        "Training": html.Span(training, className=f"state {state}", title=since),
    }


def _attributes(**attributes: str) -> dict[str, Any]:
    """HTML attributes with a hyphen, which Python's keywords cannot have."""
    return {name.replace("_", "-"): text for name, text in attributes.items()}


def badge(summary: Summary) -> Component:
    """The stage as icon, word and colour."""
    text, kind, meaning = words.stage(summary)
    return html.Span(text, className=f"badge {kind}", title=meaning)


def _no_runs(root: Path) -> Component:
    missing = "" if root.is_dir() else " The folder does not exist yet."
    return html.Div(
        [
            html.H2("No run here yet"),
            html.P(["There is no run below ", html.Code(str(root)), f".{missing}"]),
            html.P(["To see one that collapses, in a minute and without a GPU: ", html.Code("lldwatch demo")]),
            html.P(["To record your own: ", html.Code(f'Monitor("{root}/my-run")'), " in the training loop."]),
            html.P("This page shows new runs by itself."),
        ],
        id="run-list",
        className="empty",
    )


def no_such_page(what: str) -> Component:
    """Nothing is there, and the way back."""
    return html.Div([html.H1("No such run"), html.P(what), dcc.Link("All runs", href="/")], className="empty")


def run_page(name: str) -> Component:
    """The page of one run; `header`, `figures.run_figure` and `why` fill it."""
    graph = dcc.Graph(
        id="run-figure",
        figure=empty_figure(),
        style={"height": f"{HEIGHT}px"},
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]},
    )
    about = "Likelihood change, log-likelihood, entropy, gradient norm and reward by step, with the stages as bands"
    figure = html.Div(
        [graph, *_titles()], role="group", className="figure", tabIndex="0", **_attributes(aria_label=about)
    )
    column = html.Aside([html.Div(id="findings"), html.Div(id="about")], id="why", **_attributes(aria_label="Why"))
    head = [
        html.Div([html.H1(name), html.Span(id="stage-badge")], className="name"),
        html.P(id="verdict", role="status"),
        html.P(id="facts"),
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
