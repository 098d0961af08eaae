"""The column beside the figure: what to do, what was asked of the run, and what the answer rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dash import html

from lldwatch.diagnosis import Check, Diagnosis, Evidence
from lldwatch.signals import SIGNALS
from lldwatch_dashboard import words
from lldwatch_dashboard.feed import Summary

Component = Any  # dash ships no types


def findings(diagnosis: Diagnosis) -> list[Component]:
    """What changes from step to step; what to do stands first."""
    return [
        *_advice(diagnosis.advice),
        html.H2("What was checked"),
        _checks(diagnosis),
        html.H2("Evidence"),
        _evidence(diagnosis.evidence),
    ]


def _advice(advice: Sequence[str]) -> list[Component]:
    steps: Component = html.P("Nothing to do.", className="muted", id="advice")
    if advice:
        steps = html.Ol([html.Li(_sentence(line)) for line in advice], id="advice")
    return [html.H2("What to do"), steps]


def _checks(diagnosis: Diagnosis) -> Component:
    if not diagnosis.checks:
        return html.P("No step has been seen yet.", className="muted", id="checks")
    return html.Ul([_check(check) for check in diagnosis.checks], id="checks")


def _check(check: Check) -> Component:
    status = html.Span(f"{words.STATUS_ICON[check.status]} {check.status}", className=f"status {check.status}")
    name = html.B(_sentence(check.name.replace("_", " ")))
    return html.Li([html.Div([name, status], className="check-name"), html.Div(check.reason, className="reason")])


def _evidence(evidence: Sequence[Evidence]) -> Component:
    if not evidence:
        return html.P("Nothing speaks for a collapse.", className="muted", id="evidence")
    heads = ("Signal", "Value", "Baseline", "Limit", "Since")
    body = [
        html.Tr(
            [
                html.Th([_title(item.signal), html.Small(item.reference)], scope="row"),
                *(html.Td(words.number(number)) for number in (item.value, item.baseline, item.limit, item.since)),
            ]
        )
        for item in evidence
    ]
    head = html.Thead(html.Tr([html.Th(word, scope="col") for word in heads]))
    return html.Table([head, html.Tbody(body)], id="evidence")


def _title(signal: str) -> str:
    return SIGNALS[signal].title if signal in SIGNALS else signal.replace("_", " ")


def _problems(problems: Sequence[str]) -> list[Component]:
    if not problems:
        return []
    return [html.H2("Files that could not be read"), html.Ul([html.Li(line) for line in problems], id="problems")]


def about(summary: Summary) -> list[Component]:
    """What hardly ever changes: files that could not be read, trainer and configuration."""
    info = summary.info
    facts = {
        "Trainer": info.trainer or "unknown",
        "Started": info.started or "unknown",
        "Ended": info.ended or "not yet, or it was killed",
        "Attempt": f"{info.attempt + 1}",
        "lldwatch": info.lldwatch_version or "unknown",
    }
    terms = [part for key, text in facts.items() for part in (html.Dt(key), html.Dd(text))]
    config = html.Pre(json.dumps(info.config, indent=2, default=repr)) if info.config else html.P("None was recorded.")
    return [
        *_problems(summary.problems),
        html.H2("About the run"),
        html.Dl(terms),
        html.Details([html.Summary("Configuration"), config]),
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
