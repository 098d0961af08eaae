"""All runs below the folder, the worst first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update, set_props

from lldwatch_dashboard import words
from lldwatch_dashboard.feed import Feed, Summary
from lldwatch_dashboard.shared import Component, attributes, badge, clock, href, mark


def page(root: Path) -> Component:
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
        own: dict[str, Any] = attributes(data_label=head) | (wide if head == "Reason" else {})
        more.append(html.Td(cell, id=cell_id(summary.name, head), **own))
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


def register(app: Dash, feed: Feed) -> None:
    """Keep the table up to date."""

    def show_list(_: Any, shown: list[Any] | None) -> tuple[Any, Any]:
        now, summaries = time.time(), feed.summaries()
        rows = [(summary.name, cells(summary, now)) for summary in summaries]
        marks: list[Any] = [[name, {head: mark(cell) for head, cell in cells.items()}] for name, cells in rows]
        if shown is None or _shape(shown) != _shape(marks):
            return table(summaries, feed.root, now), marks
        for (name, cells), (_, before), (_, after) in zip(rows, shown, marks, strict=True):
            for head in (head for head in cells if before[head] != after[head]):
                set_props(cell_id(name, head), {"children": cells[head]})
        return no_update, no_update if shown == marks else marks

    app.callback(
        Output("list-body", "children"),
        Output("list-shown", "data"),
        Input("list-pulse", "data"),
        State("list-shown", "data"),
    )(show_list)


def _shape(marks: list[Any]) -> list[Any]:
    """Which rows with which cells; while it stays, the table is not built anew: a remounted link loses the focus."""
    return [[name, list(cells)] for name, cells in marks]
