"""A comparison in words and tables: the runs one below the other, how their settings differ, where they part."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from lldwatch.compare import Comparison, Contender, compare
from lldwatch.parting import FALSE_ALARMS
from lldwatch.postmortem import final_reward
from lldwatch.reports import compare_report
from lldwatch.signals import SIGNALS
from lldwatch_dashboard import words
from lldwatch_dashboard.choice import MOST, Choice
from lldwatch_dashboard.compare_traces import key_picture
from lldwatch_dashboard.feed import Snapshot
from lldwatch_dashboard.lanes import Alignment, Lane, onset_of
from lldwatch_dashboard.shared import Component, attributes, badge, href

FEW = 4
"""More sentences than that push the panels off the screen."""
SETTINGS = 4
"""So many columns of settings have room beside the others."""


class Comparisons:
    """Compares runs, and again when they have grown, but for a tenth of the time at most. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[tuple[str, ...], tuple[tuple[int, ...], float, float, Comparison]] = {}

    def of(self, snapshots: Sequence[Snapshot]) -> Comparison | None:
        """The comparison of these runs, perhaps of a moment ago; None of fewer than two."""
        if len(snapshots) < 2:
            return None
        names = tuple(snapshot.summary.name for snapshot in snapshots)
        versions = tuple(snapshot.version for snapshot in snapshots)
        with self._lock:
            before, at, took, made = self._made.pop(names, ((), 0.0, 0.0, None))
            if made is None or (before != versions and time.monotonic() - at > 10 * took):
                began = time.monotonic()
                made = compare([_contender(snapshot) for snapshot in snapshots])
                before, at = versions, time.monotonic()
                took = at - began
            self._made[names] = (before, at, took, made)
            while len(self._made) > 8:
                self._made.pop(next(iter(self._made)))
        return made


def _contender(snapshot: Snapshot) -> Contender:
    summary = snapshot.summary
    return Contender(summary.name, summary.info, tuple(snapshot.observations), summary.diagnosis)


HEADS = ("Run", "Stage", "Onset", "Known", "First warning", "Family", "Final reward")


def runs_table(
    snapshots: Sequence[Snapshot], choice: Choice, comparison: Comparison | None, *, dark: bool
) -> Component:
    """One row for each run; the sample of its line stands before its name, and it is highlighted from there."""
    settings = compare_report.setting_rows(comparison)[:SETTINGS] if comparison else []
    heads = [*HEADS, *(key for key, *_ in settings)]
    body, place = [], 0
    for snapshot in snapshots:
        drawn = is_drawn(snapshot)
        own = [(key, cells[place]) for key, *cells in settings] if drawn else []
        body.append(_row(snapshot, choice, place if drawn else None, own, dark))
        place += drawn
    return html.Table(
        [
            html.Caption("The runs that are compared", className="unseen"),
            html.Thead(html.Tr([html.Th(head, scope="col") for head in heads])),
            html.Tbody(body),
        ],
        id="compare-table",
        className="cards",
    )


def is_drawn(snapshot: Snapshot) -> bool:
    """It could be read, and has a step."""
    return snapshot.summary.error is None and bool(snapshot.observations)


def _row(
    snapshot: Snapshot, choice: Choice, place: int | None, settings: Sequence[tuple[str, str]], dark: bool
) -> Component:
    summary, diagnosis = snapshot.summary, snapshot.summary.diagnosis
    name = html.Div([*_key(summary.name, place, dark), *_ways(summary.name, choice, place)], className="run-name")
    head = html.Th(name, scope="row")
    if place is None:
        reason = html.Td(summary.error or "no step yet", className="reason", colSpan=len(HEADS) - 2)
        return html.Tr([head, html.Td(badge(summary)), reason])
    onset, healed = onset_of(diagnosis)
    cells = [
        ("Stage", badge(summary)),
        ("Onset", words.number(onset) + (", healed" if healed and onset is not None else "")),
        ("Known", words.number(diagnosis.known.get(diagnosis.stage))),
        ("First warning", words.number(diagnosis.first_warning)),
        ("Family", diagnosis.family.label if diagnosis.family else words.UNKNOWN),
        ("Final reward", words.number(final_reward(snapshot.observations))),
    ]
    own = [(key, html.Span(text, className="setting", title=text)) for key, text in settings]
    return html.Tr([head, *(html.Td(cell, **attributes(data_label=key)) for key, cell in [*cells, *own])])


def _key(name: str, place: int | None, dark: bool) -> list[Component]:
    link = dcc.Link(name, href=href(name))
    if place is None:
        return [html.Span(words.UNKNOWN, className="lane"), link]
    letter = compare_report.letter(place)
    sample = html.Img(src=key_picture(place, dark), alt="")
    button = html.Button(
        [sample, html.B(letter)],
        className="lane",
        title="Highlight its lines",
        id=f"lane-{letter}",
        **attributes(data_lane=letter, aria_label=f"Highlight {letter}, {name}", aria_pressed="false"),
    )
    return [button, link]


def _ways(name: str, choice: Choice, place: int | None) -> list[Component]:
    first = dcc.Link("make A", href=choice.first(name).href, title="Hold the others against this run", className="way")
    gone = dcc.Link("✕", href=choice.without(name).href, title=f"Leave out {name}", className="way")
    return [*([first] if place else []), gone]


def notes(choice: Choice, alignment: Alignment, lanes: Sequence[Lane], lacking: Sequence[str]) -> list[str]:
    """What a reader has to know to read the panels."""
    said = [alignment.note] if alignment.note else []
    if len(choice.runs) > MOST:
        said.append(f"{len(choice.runs)} runs were asked for: the first {MOST} are shown.")
    if lacking and lanes:
        said.append(f"Measured in none of these runs: {', '.join(SIGNALS[name].title for name in lacking)}.")
    return said


def sentences(comparison: Comparison | None) -> Component:
    """What the comparison came to, a line for each run but the first."""
    if comparison is None:
        return None
    lines = [html.Li(compare_report.sentence(comparison, pair)) for pair in comparison.pairs]
    told = html.Ul(lines, className="sentences")
    if len(lines) <= FEW:
        return told
    return html.Details([html.Summary(f"How the {len(lines)} others differ from A"), told])


def details(comparison: Comparison | None) -> list[Component]:
    """Where each signal parts, and all settings that differ."""
    if comparison is None:
        return []
    letters = [compare_report.letter(place) for place in range(len(comparison.runs))]
    rows = []
    for name in SIGNALS:
        steps = [{found.signal: found.step for found in pair.parted}.get(name) for pair in comparison.pairs]
        if any(step is not None for step in steps):
            rows.append((SIGNALS[name].title, *(words.number(step) for step in steps)))
    rule = (
        f"A signal parts from run {letters[0]} at the first step from which on it differs by more than the noise of "
        f"both runs; false alarms on normal noise: {FALSE_ALARMS:g} in 1,000 steps, a side and a signal. Other seeds "
        "see other prompts and part as well."
    )
    parted = [html.P(rule, className="muted"), _table(("Signal", *letters[1:]), rows)] if rows else [html.P("Nowhere.")]
    parts = [html.Details([html.Summary(f"Where each signal parts from {letters[0]}"), *parted])]
    settings = compare_report.setting_rows(comparison)
    if settings:
        words_of = f"{len(settings)} settings differ" if len(settings) > 1 else "1 setting differs"
        parts.append(html.Details([html.Summary(words_of), _table(("Setting", *letters), settings)]))
    return parts


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Component:
    body = [html.Tr([html.Th(first, scope="row"), *map(html.Td, rest)]) for first, *rest in rows]
    head = html.Thead(html.Tr([html.Th(text, scope="col") for text in heads]))
    return html.Div(html.Table([head, html.Tbody(body)], className="plain"), className="wide")


def as_csv(lanes: Sequence[Lane], alignment: Alignment, signals: Sequence[str]) -> str:
    """Every measured value of the panels: one row for each run, signal and step."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["run", "signal", "step", f"x ({alignment.align})", "value"])
    for lane in lanes:
        for name in signals:
            if name in lane.signals:
                series = lane.signals[name]
                places = alignment.x(lane.place, series.steps).tolist()
                for step, x, value in zip(series.steps.tolist(), places, series.values.tolist(), strict=True):
                    writer.writerow([lane.name, name, step, f"{x:.6g}", repr(value)])
    return out.getvalue()


def empty() -> Component:
    """No run was chosen."""
    ways: list[Any] = [dcc.Link("Open the list", href="/"), " and tick at least two runs."]
    return html.Div([html.H2("No run is chosen"), html.P(ways)], className="empty")
