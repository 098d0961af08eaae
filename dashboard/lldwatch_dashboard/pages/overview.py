"""All runs below the folder, the worst first: filtered and sorted as the address says, chosen ones to be compared."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate

from lldwatch.diagnosis import Stage
from lldwatch_dashboard import words
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.glances import Glances
from lldwatch_dashboard.listed import Listed, Look
from lldwatch_dashboard.rows import ABOUT, HEADS, Facts, cell, cell_id, facts, mark, row
from lldwatch_dashboard.shared import Component, Visit, attributes, bind, clock
from lldwatch_dashboard.view import PAGE_SIZE, Part, View, part_of, query, search_of

MOST_CHOSEN = 12
"""More lines than that nobody tells apart."""


def page(glances: Glances, root: Path, visit: Visit) -> Component:
    """The page of all runs, as they are known now; `register` keeps it up to date."""
    view, chosen = View.of(visit.search), query(visit.search).get("run", [])
    body, shown, facts, note, ways = _show({"dark": visit.dark}, view, {}, chosen, glances, root)
    box = dcc.Input(
        id="list-filter",
        type="search",
        value=view.text,
        debounce=0.25,
        placeholder="Filter by name: text or regular expression",
        autoComplete="off",
    )
    tools = [
        html.Label([html.Span("Filter the runs by name", className="unseen"), box], htmlFor="list-filter"),
        html.Div(compare_link([]), id="list-compare"),
        html.Button("CSV", id="list-csv", title="The rows that the filter lets pass, in this order"),
    ]
    return html.Div(
        [
            *clock("list", shown=shown),
            dcc.Location(id="list-url", refresh=False),  # a filter changes the address, and reloads nothing
            dcc.Store(id="list-chosen", data=chosen),
            dcc.Store(id="list-focus"),
            dcc.Download(id="list-download"),
            html.H1("Runs"),
            html.P(str(root), className="muted path"),
            html.Div(tools, className="tools"),
            html.P(note, id="list-note", role="status"),
            html.P(facts, id="list-facts", className="muted"),
            html.Div(body, id="list-body"),
            html.Nav(ways, id="list-pager", **attributes(aria_label="Pages of the list")),
        ],
        className="list-page",
    )


def compare_link(chosen: Sequence[str]) -> Component:
    """The way to the page where the chosen runs stand side by side."""
    if not chosen:
        return html.Span("Tick runs to compare them", className="muted")
    if len(chosen) > MOST_CHOSEN:
        return html.Span(f"{len(chosen)} runs are ticked: at most {MOST_CHOSEN} can be compared", className="muted")
    several = f"Compare {len(chosen)} runs" if len(chosen) > 1 else "1 run ticked: tick another"
    if len(chosen) == 1:
        return html.Span(several, className="muted")
    return dcc.Link(several, href=f"/compare{search_of({'run': chosen})}", className="button", id="list-compare-link")


def table(rows: Sequence[tuple[str, Facts]], view: View, chosen: Sequence[str]) -> Component:
    """The table of one page of runs."""
    heads = [_head(column, view) for column in HEADS]
    return html.Table(
        [
            html.Caption("All runs below the folder", className="unseen"),
            html.Thead(html.Tr(heads)),
            html.Tbody([row(name, told, chosen=name in chosen) for name, told in rows]),
        ],
        id="run-list",
    )


def _head(column: str, view: View) -> Component:
    """A column's head; a click sorts by it, and another one the other way round."""
    now = column == view.sort
    arrow = html.Span((" ▲" if view.reverse else " ▼") if now else "", **attributes(aria_hidden="true"))
    search = view.sorted_by(column).search
    link = dcc.Link([HEADS[column], arrow], href=f"/{search}", id=f"sort-{column}", title=ABOUT.get(column))
    order: Any = ("descending" if view.reverse else "ascending") if now else "none"
    return html.Th(link, scope="col", **attributes(aria_sort=order))


def no_runs(root: Path) -> Component:
    """What to do when there is none."""
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


def nothing_matches(view: View, total: int) -> Component:
    """The filter lets no run pass."""
    parts: list[Any] = [f"None of {total:,} runs has a name with ", html.Code(view.text), "."]
    clear = dcc.Link("Show all runs", href=f"/{replace(view, text='', page=1).search}")
    return html.Div([html.H2("No such run"), html.P(parts), html.P(clear)], id="run-list", className="empty")


def around(look: Look, part: Part, view: View, now: float) -> dict[str, Any]:
    """What stands above and below the table: plain text, and the pages there are."""
    total = len(look.runs)
    stages = Counter(run.summary.diagnosis.stage for run in look.runs if run.glance and not run.summary.error)
    ill = [f"{stages[stage]:,} {stage.label}" for stage in reversed(Stage) if stages[stage]]
    stalled = sum(words.liveness(run.summary, now)[0] == "stalled" for run in look.runs if run.glance)
    unreadable = sum(run.summary.error is not None for run in look.runs)
    told = [f"{total:,} run{'s' if total != 1 else ''}"]
    if look.read < total:
        told.append(f"{look.read:,} of {total:,} read")
    told += [
        *ill,
        *([f"{stalled:,} stalled"] if stalled else []),
        *([f"{unreadable:,} unreadable"] if unreadable else []),
    ]
    note = ""
    if view.text and part.matched:
        note = f"{len(part.matched):,} of {total:,} runs match." if len(part.matched) < total else ""
    if not part.expression:
        note = f"This is no regular expression: it is looked for as plain text. {note}"
    return {"facts": " · ".join(told) if total else "", "note": note, "pages": [part.page, part.pages]}


def pager(shown: int, pages: int, view: View) -> list[Component]:
    """Ways to the pages before and after this one."""
    if pages == 1:
        return []
    ways = []
    for text, goal in (("Previous", shown - 1), ("Next", shown + 1)):
        there = 1 <= goal <= pages
        target = f"/{replace(view, page=goal).search}"
        ways.append(
            dcc.Link(text, href=target, id=f"page-{text.lower()}") if there else html.Span(text, className="muted")
        )
    return [ways[0], html.Span(f"page {shown} of {pages}, {PAGE_SIZE} runs each"), ways[1]]


def as_csv(runs: Sequence[Listed], now: float) -> str:
    """The rows as a table for other programs; what is not known is empty."""
    out = io.StringIO()
    columns = ("run", "stage", "onset", "known", "family", "first_warning", "collapse_probability", "step")
    more = ("planned_steps", "last_time", "training", "llds", "llds_coefficient", "would_have", "signal", "signal_last")
    writer = csv.writer(out)
    writer.writerow([*columns, *more, "reward", "trainer", "error"])
    for summary, glance in runs:
        told = glance.as_dict() if glance else {}
        told |= {"run": summary.name, "error": summary.error or ("" if glance else "not read yet")}
        told["training"] = words.liveness(summary, now)[0] if glance and not summary.error else ""
        told["signal_last"] = glance.points[-1][1] if glance and glance.points else None
        writer.writerow([told.get(name) for name in (*columns, *more, "reward", "trainer", "error")])
    return out.getvalue()


def register(app: Dash, feed: Feed, glances: Glances) -> None:
    """Keep the table up to date."""

    def show(pulse: Any, search: str | None, shown: Any, chosen: list[str] | None) -> tuple[Any, ...]:
        return _show(pulse or {}, View.of(search), shown or {}, chosen or [], glances, feed.root)

    def choose(_: Any, ids: list[dict[str, str]], chosen: list[str] | None) -> tuple[Any, Any]:
        ticked = {each["id"]["choose"]: bool(each.get("value")) for each in ctx.inputs_list[0]}
        now = [name for name in chosen or [] if ticked.get(name, True)]
        now += [name for name, is_ticked in ticked.items() if is_ticked and name not in now]
        return (no_update if now == chosen else now), compare_link(now)

    def download(_: Any, search: str | None) -> dict[str, Any]:
        runs = part_of(glances.look().runs, View.of(search)).matched
        return {"content": as_csv(runs, time.time()), "filename": "runs.csv", "type": "text/csv"}

    _connect(app, show, choose, download)


def _connect(app: Dash, show: Any, choose: Any, download: Any) -> None:
    outputs = [Output("list-body", "children"), Output("list-shown", "data"), Output("list-facts", "children")]
    outputs += [Output("list-note", "children"), Output("list-pager", "children")]
    inputs = [Input("list-pulse", "data"), Input("list-url", "search")]
    app.callback(*outputs, *inputs, State("list-shown", "data"), State("list-chosen", "data"))(show)
    app.callback(
        Output("list-chosen", "data"),
        Output("list-compare", "children"),
        Input({"choose": ALL}, "value"),
        State({"choose": ALL}, "id"),
        State("list-chosen", "data"),
    )(choose)
    bind(app, "list-filter", "list", "filter")
    app.callback(
        Output("list-download", "data"),
        Input("list-csv", "n_clicks"),
        State("list-url", "search"),
        prevent_initial_call=True,
    )(download)
    app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
        ClientsideFunction("lldwatch_list", "keep_focus"), Output("list-focus", "data"), Input("list-shown", "data")
    )


def _show(
    pulse: dict[str, Any], view: View, shown: dict[str, Any], chosen: list[str], glances: Glances, root: Path
) -> tuple[Any, ...]:
    """Only what has changed since `shown`: while the rows stay, the table is not built anew."""
    now, look = time.time(), glances.look()
    part = part_of(look.runs, view)
    glances.prefer(run.summary.name for run in part.rows)
    rows = _held(part.rows, look, shown) if pulse.get("held") and shown.get("view") == view.search else part.rows
    told = [(run.summary.name, facts(run, now, dark=bool(pulse.get("dark")))) for run in rows]
    marks: list[Any] = [[name, {column: mark(fact) for column, fact in cells.items()}] for name, cells in told]
    beside = around(look, part, view, now)
    fresh = {"view": view.search, "rows": marks, "beside": beside, "empty": [bool(look.runs), root.is_dir()]}
    if fresh == shown:
        raise PreventUpdate
    body: Any = no_update
    if _shape(shown) != _shape(fresh):
        body = (
            table(told, view, chosen) if told else nothing_matches(view, len(look.runs)) if look.runs else no_runs(root)
        )
    else:
        for (name, cells), (_, before), (_, after) in zip(told, shown["rows"], marks, strict=True):
            for column in (column for column in cells if before[column] != after[column]):
                set_props(cell_id(name, column), {"children": cell(column, cells[column])})
    ways = no_update if shown.get("beside") == beside and body is no_update else pager(part.page, part.pages, view)
    return body, fresh, beside["facts"], beside["note"], ways


def _held(rows: Sequence[Listed], look: Look, shown: dict[str, Any]) -> Sequence[Listed]:
    """The rows as they stand while somebody points at them: nobody clicks on a row that moves away."""
    there = {run.summary.name: run for run in look.runs}
    names = [name for name, _ in shown.get("rows", [])]
    return [there[name] for name in names] if names and all(name in there for name in names) else rows


def _shape(shown: dict[str, Any]) -> Any:
    """Which rows with which cells, in which view."""
    rows = [[name, sorted(cells)] for name, cells in shown.get("rows", [])]
    return [shown.get("view"), rows, None if rows else shown.get("empty")]
