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
from lldwatch_dashboard.panels import HEIGHT, LEFT, PANELS, panel_tops

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
    """The page of all runs; `rows` fills it."""
    return html.Div(
        [*clock("list"), html.H1("Runs"), html.P(str(root), className="muted path"), html.Div(id="list-body")],
        className="list-page",
    )


def rows(summaries: Sequence[Summary], root: Path, now: float) -> Component:
    """The table of runs, or what to do when there is none."""
    if not summaries:
        return _no_runs(root)
    heads = ("Run", "Stage", "Step", "Onset", "Family", "First warning", "Reward", "Training")
    return html.Table(
        [
            html.Caption("All runs below the folder, the worst first", className="unseen"),
            html.Thead(html.Tr([html.Th(head, scope="col") for head in heads])),
            html.Tbody([_row(summary, now) for summary in summaries]),
        ],
        id="run-list",
    )


def _row(summary: Summary, now: float) -> Component:
    name = html.Th(dcc.Link(summary.name, href=href(summary.name)), scope="row")
    if summary.error or not summary.read:
        reason = html.Td(summary.error or "being read …", colSpan=6, className="reason")
        return html.Tr([name, html.Td(badge(summary)), reason], key=summary.name)
    diagnosis, (state, since) = summary.diagnosis, words.liveness(summary, now)
    cells: dict[str, Component] = {
        "Step": words.progress(summary).removeprefix("step "),
        "Onset": words.number(min(diagnosis.onsets.values(), default=None)),
        "Family": words.FAMILY[diagnosis.family] if diagnosis.family else words.UNKNOWN,
        "First warning": words.number(diagnosis.first_warning),
        "Reward": words.number(summary.last.reward if summary.last else None),
        "Training": html.Span(
            state if state == "finished" else f"{state}, {since}", className=f"state {state}", title=since
        ),
    }
    damaged = html.Span("files damaged", className="damaged", title="\n".join(summary.problems))
    stage = html.Td([badge(summary), damaged] if summary.problems else badge(summary))
    more = [html.Td(cell, **_attributes(data_label=head)) for head, cell in cells.items()]
    return html.Tr([name, stage, *more], key=summary.name)


def _attributes(**attributes: str) -> dict[str, Any]:
    """HTML attributes with a hyphen, which Python's keywords cannot have."""
    return {name.replace("_", "-"): text for name, text in attributes.items()}


def badge(summary: Summary, **more: Any) -> Component:
    """The stage as icon, word and colour."""
    if summary.error:
        return html.Span("? unreadable", className="badge unreadable", **more)
    if not summary.read or summary.diagnosis.step is None:
        return html.Span("… no step yet" if summary.read else "…", className="badge waiting", **more)
    stage = summary.diagnosis.stage
    text = f"{words.STAGE_ICON[stage]} {stage.label}"
    return html.Span(text, className=f"badge {stage.label}", title=words.STAGE_MEANING[stage], **more)


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
    """The page of one run; `header`, the figure and `panel.why` fill it."""
    graph = dcc.Graph(
        id="run-figure",
        style={"height": f"{HEIGHT}px"},
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]},
    )
    label = "Likelihood change, log-likelihood, entropy, gradient norm and reward by step, with the stages as bands"
    figure = html.Div(
        [graph, *_titles()], role="group", className="figure", tabIndex="0", **_attributes(aria_label=label)
    )
    return html.Div(
        [
            *clock("run"),
            dcc.Store(id="run-name", data=name),
            html.Div(id="run-header"),
            html.Div(
                [html.Div([_key(), figure], className="plots"), html.Aside(id="why", **_attributes(aria_label="Why"))],
                className="columns",
            ),
        ],
        className="run-page",
    )


def _titles() -> list[Component]:
    """The panels' titles, laid over the figure; what to know about a signal is their tooltip."""
    titles = []
    for panel, top in zip(PANELS, panel_tops(), strict=True):
        signals = [SIGNALS[name] for name in panel.signals]
        unit = "log scale" if panel.log else signals[0].unit
        about = "\n".join(f"{signal.title}: {signal.meaning} {signal.healthy}" for signal in signals)
        lines = [html.Span(word, className=f"key line{place}") for place, word in enumerate(("correct", "incorrect"))]
        parts = [html.B(panel.title), *(lines if len(signals) > 1 else ()), html.Span(unit, className="unit")]
        place = {"top": f"{top}px", "left": f"{LEFT}px"}
        titles.append(html.Div(parts, className="panel-title", style=place, title=about))
    return titles


def _key() -> Component:
    """What the lines and shades mean."""
    items = {
        "raw": "each step",
        "mean": "mean of 5 steps",
        "error": "± 1 standard error",
        "noise": "noise floor",
        "batch": "in-batch change (no warning sign)",
        "mark": "0, NaN or infinite",
    }
    return html.Ul([html.Li(text, className=f"key {name}") for name, text in items.items()], className="legend")


def header(summary: Summary, now: float) -> Component:
    """Name, stage, verdict and progress of a run."""
    state, since = words.liveness(summary, now)
    facts = [html.Span(words.progress(summary)), html.Span(f"{state}: {since}", className=f"state {state}")]
    if summary.diagnosis.first_warning is not None:
        facts.append(html.Span(f"first warning at step {summary.diagnosis.first_warning}"))
    stage = Stage.HEALTHY.label if summary.error else summary.diagnosis.stage.label
    return html.Div(
        [
            html.Div([html.H1(summary.name), badge(summary, id="stage-badge")], className="name"),
            html.P(words.verdict(summary), id="verdict", role="status"),
            html.P([] if summary.error else facts, className="facts"),
        ],
        className=f"head {stage}",
    )
