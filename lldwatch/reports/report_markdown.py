"""The post-mortem of a run as Markdown: for an issue, a wiki, a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TextIO

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
    printable,
    run_name,
    worst_first,
)
from lldwatch.report import facts, headline
from lldwatch.reports.axes import number
from lldwatch.series import all_measured, summary
from lldwatch.signals import SIGNALS

LONGEST = 300
"""Characters of one cell; more are cut off."""
ROWS = 200
"""Rows of one table; how many more there are is said."""

Cells = Sequence[str]


def write_markdown(follower: Follower, out: TextIO, name: str | None = None) -> None:
    """The report in Markdown, with the signals in a few numbers each instead of charts.

    Args:
        follower: of the run, up to date.
        out: where the text goes.
        name: what to call the run, if not by its directory.
    """
    print(f"# {plain(name or run_name(follower.run))}\n\n**{plain(headline(follower.diagnosis))}**\n", file=out)
    for title, lines in _sections(follower):
        written = [*lines]
        if written:
            print(f"## {title}\n", file=out)
            print("\n".join(written), file=out, end="\n\n")


def _sections(follower: Follower) -> Iterator[tuple[str, Iterator[str] | list[str]]]:
    diagnosis, observations, run = follower.diagnosis, follower.observations, follower.run
    events = events_of(run)
    course = [(number(item.step), item.what, item.words) for item in milestones(diagnosis, observations, events)]
    yield "The run", table(("", ""), list(facts(follower).items()))
    yield "What to do", [f"{place}. {plain(line, 2000)}" for place, line in enumerate(diagnosis.advice, 1)]
    yield "What is looked for", [ABOUT_LLD, "", ABOUT_NATS]
    yield "The course of the run", table(("step", "what", "in words"), course)
    yield "Signals", table(_SIGNALS_HEAD, _signals(follower))
    evidence = [
        (item.signal, number(item.value), number(item.baseline), number(item.limit), str(item.since), item.reference)
        for item in diagnosis.evidence
    ]
    yield "Evidence", table(("signal", "value", "normal", "limit", "since step", "reference"), evidence)
    checks = [(STATUS_WORDS[item.status], item.name, item.reason) for item in worst_first(diagnosis.checks)]
    yield "All checks", table(("result", "check", "value and limit"), checks)
    missing = [(item.title, ", ".join(item.requires), item.meaning) for item in lacking(observations)]
    yield "What was not recorded", table(("signal", "needs", "what it would have told"), missing)
    settings = [(key, in_words(value)) for key, value in flat(run.info.config).items()]
    yield "Configuration", table(("setting", "value"), settings)
    yield "Events", table(("step", "kind", "what happened"), [_event(event) for event in events])
    yield "Files that could not be used", [f"- {plain(line)}" for line in run.problems[:ROWS]]


_SIGNALS_HEAD = ("signal", "unit", "first", "last", "least", "largest", "steps", "not finite")


def _signals(follower: Follower) -> list[Cells]:
    """First and last are means of ten steps."""
    rows: list[Cells] = []
    for name, series in all_measured(follower.observations).items():
        told = summary(series)
        numbers = [number(told[key]) for key in ("first", "last", "least", "largest", "steps", "not_finite")]
        rows.append((SIGNALS[name].title, SIGNALS[name].unit, *numbers))
    return rows


def _event(event: dict[str, object]) -> Cells:
    return str(event["step"]), str(event["kind"]), str(event["detail"]).partition("\n")[0]


def table(head: Cells, rows: Sequence[Cells]) -> Iterator[str]:
    """Lines of a table; none if it has no rows."""
    if not rows:
        return
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows[:ROWS]:
        yield f"| {' | '.join(plain(cell) for cell in row)} |"
    if len(rows) > ROWS:
        yield f"| … {len(rows) - ROWS:,} more{' |' * len(head)}"


def plain(words: str, longest: int = LONGEST) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no link, no end of a cell."""
    cut = words if len(words) <= longest else f"{words[:longest]}\N{HORIZONTAL ELLIPSIS}"
    line = printable(" ".join(cut.split()))
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$@])", r"\\\1", line).replace("://", "\\://").replace("www.", "www\\.")
