"""The column beside the figure: what to do, what was asked of the run, and what the answer rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from dash import html

from lldwatch.advice import advise
from lldwatch.diagnosis import Check, Diagnosis, Evidence, Family, Stage
from lldwatch.postmortem import Milestone, milestones, printable, worst_first
from lldwatch.schema import Observation, RunInfo
from lldwatch.signals import SIGNALS
from lldwatch_dashboard import words
from lldwatch_dashboard.feed import Summary

Component = Any  # dash ships no types


REMEDY = {
    "likelihood_displacement": Family.LLD_SPIRAL,
    "bystanders": Family.LLD_SPIRAL,
    "likelihood_of_correct": Family.LLD_SPIRAL,
    "grad_norm": Family.OPTIMISER_BLOW_UP,
    "rollout_mismatch": Family.MISMATCH,
    "format": Family.FORMAT_LOSS,
    "truncation": Family.FORMAT_LOSS,
    "equal_rewards": Family.GRADIENT_STARVATION,
    "learning_signal": Family.GRADIENT_STARVATION,
    "reuse": Family.OFF_POLICY_OVERUSE,
    "clip_fraction": Family.OFF_POLICY_OVERUSE,
    "numerical": Family.NUMERICAL,
    "reward": None,
}
"""Check -> the kind of collapse whose first remedy is told beside it; the others have none of their own."""

MOST_MILESTONES = 60


def findings(
    diagnosis: Diagnosis,
    observations: Sequence[Observation] = (),
    events: Sequence[Mapping[str, Any]] = (),
    acting: Sequence[tuple[int, int]] | None = None,
) -> list[Component]:
    """What changes from step to step; what to do stands first.

    Args:
        diagnosis: as of the last step.
        observations: of the run.
        events: see `lldwatch.postmortem.events_of`.
        acting: see `lldwatch.postmortem.llds_spans`, if they are known already.
    """
    return [
        *_advice(diagnosis.advice),
        *_forecast(diagnosis),
        *_course(milestones(diagnosis, observations, events, acting) if observations else [], events),
        html.H2("What was checked"),
        _checks(diagnosis, observations[-1] if observations else None),
        html.H2("Evidence"),
        _evidence(diagnosis.evidence),
    ]


def _advice(advice: Sequence[str]) -> list[Component]:
    steps: Component = html.P("Nothing to do.", className="muted", id="advice")
    if advice:
        steps = html.Ol([html.Li(_sentence(line)) for line in advice], id="advice")
    return [html.H2("What to do"), steps]


def _forecast(diagnosis: Diagnosis) -> list[Component]:
    """How likely a collapse is, and when; nothing once it has come."""
    if diagnosis.collapse_probability is None or diagnosis.stage is Stage.COLLAPSE:
        return []
    facts = {f"Collapse within {diagnosis.horizon} steps": f"{diagnosis.collapse_probability:.0%}"}
    if diagnosis.steps_to_collapse is None:
        facts["Steps to it"] = "it is less likely than not"
    else:
        early, median, late = diagnosis.steps_to_collapse
        facts["Steps to it"] = f"{median} (median); 10 %: {early}, 90 %: {late}"
    return [html.H2("Forecast"), _facts(facts, id="forecast")]


def _facts(facts: Mapping[str, str], **more: Any) -> Component:
    return html.Dl([part for key, text in facts.items() for part in (html.Dt(key), html.Dd(text))], **more)


def _course(course: Sequence[Milestone], events: Sequence[Mapping[str, Any]]) -> list[Component]:
    """What befell the run, and what was known of it when."""
    if any(event["kind"] == "llds" for event in events):  # they say the same, and why
        course = [milestone for milestone in course if not milestone.what.startswith("LLDS o")]
    if not course:
        return []
    rows = [
        html.Li([html.B(f"{step}"), html.Span([html.B(printable(what)), f" {printable(said)}"])])
        for step, what, said in course[:MOST_MILESTONES]
    ]
    if len(course) > MOST_MILESTONES:
        rows.append(html.Li(f"and {len(course) - MOST_MILESTONES} more"))
    return [html.H2("What happened, and when it was known (step)"), html.Ol(rows, id="course")]


def _checks(diagnosis: Diagnosis, last: Observation | None) -> Component:
    if not diagnosis.checks:
        return html.P("No step has been seen yet.", className="muted", id="checks")
    found, rows = paired(diagnosis), []
    for check in worst_first(diagnosis.checks):
        evidence = found.get(check.name)
        rows.append(_check(check, evidence, evidence and _remedy(check.name, evidence.since, last)))
    speaking = sum(check.status in ("warning", "critical") for check in diagnosis.checks)
    if not speaking or speaking == len(rows):
        return html.Ul(rows, id="checks")
    quiet = html.Details([html.Summary(f"Passed or skipped: {len(rows) - speaking}"), html.Ul(rows[speaking:])])
    return html.Div([html.Ul(rows[:speaking]), quiet], id="checks")


def paired(diagnosis: Diagnosis) -> dict[str, Evidence]:
    """Check -> its evidence: both stand in the same order, and a check that does not speak has none."""
    speaking = [check for check in diagnosis.checks if check.status in ("warning", "critical")]
    if len(speaking) != len(diagnosis.evidence):
        return {}
    return {check.name: item for check, item in zip(speaking, diagnosis.evidence, strict=True)}


@lru_cache(1024)
def _check(check: Check, evidence: Evidence | None, remedy: str | None) -> Component:
    status = html.Span(f"{words.STATUS_ICON[check.status]} {check.status}", className=f"status {check.status}")
    name = html.B(_sentence(check.name.replace("_", " ")))
    parts: list[Component] = [
        html.Div([name, status], className="check-name"),
        html.Div(check.reason, className="reason"),
    ]
    if evidence is not None:
        facts = {
            "Value": words.number(evidence.value),
            "Limit": words.number(evidence.limit),
            "Since step": words.number(evidence.since),
            "Reference": evidence.reference,
        }
        if remedy is not None:
            facts["Remedy"] = _sentence(remedy)
        parts.append(html.Details([html.Summary("Value, limit, remedy"), _facts(facts)]))
    return html.Li(parts)


def _remedy(check: str, since: int, last: Observation | None) -> str | None:
    """What helped most against the kind of collapse that a check is a sign of."""
    if check not in REMEDY or last is None:
        return None
    return advise(Stage.DECAY, REMEDY[check], since, last)[0]


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
    return _about(summary.info.to_json(), summary.problems)


@lru_cache(64)
def _about(info_json: str, problems: tuple[str, ...]) -> list[Component]:
    info = RunInfo.from_json(info_json)
    facts = {
        "Trainer": info.trainer or "unknown",
        "Started": info.started or "unknown",
        "Ended": info.ended or "not yet, or it was killed",
        "Attempt": f"{info.attempt + 1}",
        "lldwatch": info.lldwatch_version or "unknown",
    }
    config = html.Pre(json.dumps(info.config, indent=2, default=repr)) if info.config else html.P("None was recorded.")
    return [
        *_problems(problems),
        html.H2("About the run"),
        _facts(facts),
        html.Details([html.Summary("Configuration"), config]),
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
