"""The rows of the list: first as plain facts, which are cheap to compare, then as what stands on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import dcc, html

from lldwatch_dashboard import sparks, words
from lldwatch_dashboard.listed import Listed
from lldwatch_dashboard.shared import Component, attributes, href

HEADS: Mapping[str, str] = {
    "run": "Run",
    "stage": "Stage",
    "onset": "Onset",
    "family": "Family",
    "risk": "Risk",
    "step": "Step",
    "age": "Last step",
    "llds": "LLDS",
    "signal": "Signal",
    "reward": "Reward",
}
"""Column -> what stands above it. `run` heads the row, the others are its cells."""
ABOUT = {
    "onset": "Step at which the first thing that is wrong now is estimated to have begun",
    "risk": "Probability of a sustained collapse within the forecast's horizon",
    "age": "Whether the training runs, and how long ago it closed a step",
    "llds": "Whether the likelihood-preserving term is in use, and its coefficient in the last step",
    "signal": "Likelihood change of earlier correct responses where it was recorded, else the reward",
    "reward": "Mean reward of the last step",
}

Facts = dict[str, tuple[Any, ...]]


def facts(run: Listed, now: float, *, dark: bool) -> Facts:
    """What stands in a run's row beside its name; in the row of a run that cannot be read, the reason."""
    summary, glance = run
    badge = (*words.stage(summary), summary.problems)
    if glance is None or summary.error:
        return {"stage": badge, "reason": (summary.error or "being read …",)}
    diagnosis, (state, since) = summary.diagnosis, words.liveness(summary, now)
    running = state in ("live", "stalled")
    return {
        "stage": badge,
        "onset": (words.number(min(diagnosis.onsets.values(), default=None)),),
        "family": (diagnosis.family.label if diagnosis.family else words.UNKNOWN,),
        "risk": (words.risk(diagnosis),),
        "step": (words.progress(summary).removeprefix("step "),),
        "age": (f"{state}, {since.removeprefix('last step ')}" if running else state, state, since),
        "llds": words.llds(glance),
        "signal": (glance, dark) if glance.points else (None, dark),
        "reward": (words.number(summary.last.reward if summary.last else None),),
    }


def mark(fact: tuple[Any, ...]) -> str:
    """The same for what looks the same."""
    seen = (fact[0].signal, fact[0].points, *fact[1:]) if fact and hasattr(fact[0], "points") else fact
    return f"{hash(repr(seen)) & 0xFFFFFFFF:x}"


def cell(column: str, fact: tuple[Any, ...]) -> Component:
    """What stands in a cell."""
    if column == "stage":
        text, kind, meaning, problems = fact
        badge = html.Span(text, className=f"badge {kind}", title=meaning)
        damaged = html.Span("files damaged", className="damaged", title="\n".join(problems))
        return [badge, damaged] if problems else badge
    if column == "age":
        text, state, since = fact
        return html.Span(text, className=f"state {state}", title=since)
    if column == "llds":
        text, meaning = fact
        return html.Span(text, title=meaning, className="muted" if text == "off" else None)
    if column == "signal":
        return _spark(*fact)
    return fact[0]


def _spark(glance: Any, dark: bool) -> Component:
    if glance is None:
        return words.UNKNOWN
    size: dict[str, Any] = {"width": sparks.WIDTH, "height": sparks.HEIGHT}
    picture = html.Img(src=sparks.address(glance, dark), alt=sparks.alt(glance), **size)
    return html.Span([picture, html.Small(sparks.name(glance))], className="spark")


def cell_id(name: str, column: str) -> dict[str, str]:
    """The id of a cell of the table, so that it can be changed alone."""
    return {"run": name, "cell": column}


def row(name: str, told: Facts, *, chosen: bool) -> Component:
    """One run."""
    label = html.Span(f"Compare {name}", className="unseen")
    choice = dcc.Checklist([{"label": label, "value": name}], [name] if chosen else [], id={"choose": name})
    link = dcc.Link(name, href=href(name), id=cell_id(name, "link"))
    head = html.Th(html.Div([choice, link], className="run-name"), scope="row")
    cells = []
    for column, fact in told.items():
        wide: dict[str, Any] = {"colSpan": len(HEADS) - 2, "className": "reason"} if column == "reason" else {}
        about = attributes(data_label=HEADS.get(column, "Reason"))
        cells.append(html.Td(cell(column, fact), id=cell_id(name, column), **wide, **about))
    return html.Tr([head, *cells], id=cell_id(name, "row"))
