"""The post-mortem of a run as one HTML file: for somebody who has never heard of lldwatch, and for the printer.

Rejected: a plotting library's HTML (megabytes of script for lines that need none); pictures (no dark page, no text).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

from lldwatch import __version__
from lldwatch.diagnosis import Check, Diagnosis, Stage
from lldwatch.follow import Follower
from lldwatch.postmortem import (
    ABOUT_LLD,
    ABOUT_NATS,
    STATUS_WORDS,
    events_of,
    flat,
    in_words,
    lacking,
    milestones,
    run_name,
    worst_first,
)
from lldwatch.report import facts, verdict
from lldwatch.reports.axes import number
from lldwatch.reports.charts import figures
from lldwatch.reports.page import list_of, marked_up, page, paragraph, section, table, text
from lldwatch.reports.timeline import timeline
from lldwatch.series import all_measured, bands, stages_of

_READING = (
    "One chart for each signal that was measured, over the steps of the training. Shaded and named above the plot: "
    "the stages, as a live user would have seen them. Long runs are thinned without losing a spike: the thin line "
    "holds the least and the largest of neighbouring steps, the thick one their median. Dotted: the limit that was "
    "passed. \N{MULTIPLICATION SIGN} marks what is NaN or infinite, \N{BLACK UP-POINTING TRIANGLE} and "
    "\N{BLACK DOWN-POINTING TRIANGLE} what lies beyond the axis."
)


def write_html(follower: Follower, out: TextIO, name: str | None = None) -> None:
    """The report as one HTML document that needs nothing else.

    Args:
        follower: of the run, up to date.
        out: where the document goes; to be encoded as UTF-8.
        name: what to call the run, if not by its directory.
    """
    run, diagnosis = follower.run, follower.diagnosis
    name = name or run_name(run)
    events = events_of(run)
    body = [
        f'<p class="over">lldwatch {text(__version__)}, post-mortem of a GRPO training</p>',
        f"<h1>{text(name)}</h1>",
        _head(follower),
        section("What to do", list_of(diagnosis.advice, ordered=True), id_="advice"),
        section("What is looked for", paragraph(ABOUT_LLD), paragraph(ABOUT_NATS), id_="about"),
        _course(follower, events),
        _charts(follower),
        section("Evidence: what the verdict rests on", _evidence(diagnosis), id_="evidence"),
        section("All checks", _checks(diagnosis.checks), id_="checks"),
        section("What was not recorded, and what it would have told", _lacking(follower), id_="lacking"),
        section("Configuration of the run", _configuration(follower), id_="configuration"),
        section("Events", _events(events), id_="events"),
        section("Files that could not be used", list_of(run.problems), id_="problems"),
    ]
    out.write(page(f"{name}: {diagnosis.stage.label} - lldwatch", body))


def _head(follower: Follower) -> str:
    """The verdict, and what one asks next."""
    diagnosis = follower.diagnosis
    stage = diagnosis.stage
    label = f"{stage.sign} {stage.label}" if diagnosis.step is not None else "no step yet"
    name = stage.label if diagnosis.step is not None else ""
    items = "".join(f"<div><dt>{text(what)}</dt><dd>{text(said)}</dd></div>" for what, said in facts(follower).items())
    return (
        f'<div class="verdict {name}"><span class="badge {name}">{label}</span>'
        f'<p>{text(verdict(diagnosis), 2000)}</p></div>\n<dl class="facts">{items}</dl>'
    )


def _course(follower: Follower, events: Sequence[dict[str, Any]]) -> str:
    """The time line, and the same in words."""
    if not follower.observations:
        return ""
    found = milestones(follower.diagnosis, follower.observations, events)
    rows = [(f"step {number(item.step)}", _named(item.what), text(item.words)) for item in found]
    glossary = [f"{stage.label}: {stage.meaning}" for stage in Stage]
    return section(
        "The course of the run",
        timeline(follower.observations, follower.verdicts, follower.diagnosis, events),
        table(("When", "What", "In words"), rows, "steps"),
        paragraph(f"The stages. {' '.join(line[0].upper() + line[1:] for line in glossary)}", "small"),
        id_="course",
    )


def _named(what: str) -> str:
    return f'<span class="badge {text(what)}">{text(what)}</span>' if what in _STAGES else f"<b>{text(what)}</b>"


_STAGES = {stage.label for stage in Stage}


def _charts(follower: Follower) -> str:
    seen = follower.observations
    if not seen:
        return ""
    found = figures(
        all_measured(seen), (seen[0].step, seen[-1].step), bands(stages_of(follower.verdicts)), follower.diagnosis
    )
    groups = [
        f'<h3>{text(question)}</h3>\n<div class="charts">\n{chr(10).join(charts)}\n</div>'
        for question, charts in found.items()
    ]
    return section("The signals", paragraph(_READING, "small") if groups else "", *groups, id_="signals")


def _evidence(diagnosis: Diagnosis) -> str:
    rows = [
        (
            text(item.signal),
            f"<b>{number(item.value)}</b>",
            number(item.baseline),
            number(item.limit),
            f"step {number(item.since)}",
            text(item.reference),
        )
        for item in diagnosis.evidence
    ]
    return table(("Signal", "Value", "Normal", "Limit", "Since", "Reference"), rows)


def _checks(checks: Sequence[Check]) -> str:
    """The worst first, the passed and the skipped too."""
    rows = [
        (
            f'<span class="badge {check.status}">{STATUS_WORDS[check.status]}</span>',
            text(check.name.replace("_", " ")),
            text(check.reason),
        )
        for check in worst_first(checks)
    ]
    return table(("Result", "Check", "Value and limit; what a skipped one lacks"), rows, "steps")


def _lacking(follower: Follower) -> str:
    if not follower.observations:
        return ""
    rows = [
        (text(signal.title), f"<code>{text(', '.join(signal.requires))}</code>", marked_up(signal.meaning))
        for signal in lacking(follower.observations)
    ]
    return table(("Signal", "Columns it needs", "What it would have told"), rows)


def _configuration(follower: Follower) -> str:
    rows = [
        (f"<code>{text(key)}</code>", text(in_words(value))) for key, value in flat(follower.run.info.config).items()
    ]
    empty = "" if rows else paragraph("No configuration was recorded.", "muted")
    return empty or table(("Setting", "Value"), rows, "same")


def _events(events: Sequence[dict[str, Any]]) -> str:
    """Their first lines; what follows, a traceback say, can be opened."""
    rows = []
    for event in events:
        first, _, more = event["detail"].partition("\n")
        opened = f"<details><summary>more</summary><pre>{text(more, 4000)}</pre></details>" if more.strip() else ""
        rows.append((f"step {number(event['step'])}", f"<b>{text(event['kind'])}</b>", text(first) + opened))
    return table(("When", "Kind", "What happened"), rows, "steps")
