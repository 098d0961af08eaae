"""What the responses page says in words: how many there are, what is missing, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import html

from lldwatch_dashboard.changes import CORRECT, INCORRECT, UNKNOWN, ZERO, Kind
from lldwatch_dashboard.response_address import BROKEN, Region
from lldwatch_dashboard.response_book import Facts
from lldwatch_dashboard.response_detail import number
from lldwatch_dashboard.response_reader import Picture
from lldwatch_dashboard.response_table import Listing

Component = Any  # dash ships no types

HOW_TO_READ: Mapping[str, str] = {
    "Up": "The change of the response's log-prob, after minus before, divided by its policy tokens (nats per token). "
    "Below 0 it was displaced: it has become less likely. The scale is logarithmic on both sides of 0, and linear "
    "below 0.01, so that a drift and a collapse fit on one axis.",
    "Across": "The step after whose updates the change was measured.",
    "Advantage 0": "All answers to the prompt were rewarded alike, so the response pushed nothing itself. If it moves, "
    "others have moved it: the plainest sign of displacement.",
    "Points or cells": "Few responses are points; of many the cells are shaded by their number, on a log scale. A zoom "
    "counts again, in finer cells.",
}
_KNOWN = {CORRECT: "correct", INCORRECT: "incorrect", ZERO: "with advantage 0", UNKNOWN: "not known whether correct"}


def summary(kind: Kind, picture: Picture | None, *, probed: bool = True) -> list[Component]:
    """What was compared, and how many responses are in the picture.

    Args:
        kind: of change.
        picture: what is drawn; None: there are no such rows.
        probed: the run has responses that were scored again.
    """
    meaning = f"{kind.meaning[:1].upper()}{kind.meaning[1:]}."
    if picture is None:
        return [html.Span(f"{meaning} The run has no responses of this kind: choose another.")]
    low, high = picture.steps
    parts = [f"{count:,} {_KNOWN[panel]}" for panel, count in enumerate(picture.shown) if count]
    steps = f"Step {low:,}" if low == high else f"Steps {low:,} to {high:,}"
    said = [meaning, f"{steps}: {', '.join(parts) or 'no response in this view'}."]
    if picture.heat is not None and picture.heat.counts.any():
        said.append(f"A cell holds 1 to {int(picture.heat.counts.max()):,} responses, by its shade on a log scale.")
    if picture.broken:
        said.append(f"{picture.broken:,} with a change that is NaN or infinite.")
    if picture.unmeasured:
        said.append(f"{picture.unmeasured:,} have no change: a log-prob or their tokens were not recorded.")
    if picture.coarse and not picture.progress:
        said.append(
            "The cells are as fine as they are kept for so many responses: zoom in on fewer steps for finer ones."
        )
    if not probed:
        said.append(
            "This change is what the updates pushed. What they displaced shows when responses are scored again: "
            "add a LikelihoodProbe to the training loop."
        )
    lines = [html.Span(f"{text} ") for text in said]
    if picture.progress:
        lines.append(html.Span(f"{picture.progress} …", className="progress"))
    return lines


def found(listed: Listing, region: Region) -> str:
    """How many responses a region has, and which of them are listed."""
    many, shown = listed.found, len(listed.rows)
    where = f"steps {region.low:,} to {region.high:,}"
    change = (
        "NaN or infinite" if region.panel == BROKEN else f"{number(region.bottom)} to {number(region.top)} nats/token"
    )
    who = "" if region.panel in (BROKEN, "any") else f"{region.panel}, "
    head = f"{many:,} response{'s' * (many != 1)} ({who}{where}, change {change})"
    said = [f"{head}." if many == shown else f"The {shown:,} that fell most of {head}."]
    if listed.until is not None:
        said.append(f"Looked at up to step {listed.until:,}: choose fewer steps for the others.")
    if not listed.joined:
        said.append("Reward and entropy stand in too many other parts to be looked up: choose fewer responses.")
    if shown:
        said.append("Choose a row to see the response.")
    return " ".join(said)


def gone(reason: str) -> Component:
    """The run cannot be read any more."""
    return html.Div([html.H2("This run cannot be read"), html.P(reason)], className="empty")


def nothing_recorded(facts: Facts) -> Component:
    """Why there is nothing to be seen, and what to do."""
    if not facts.steps:
        return html.Div(
            [html.H2("No step yet"), html.P("The responses of the first step will show here by themselves.")],
            className="empty",
        )
    return html.Div(
        [
            html.H2("No likelihood change of single responses"),
            html.P(
                "This run has means by step, but no rows with a response's log-prob under two states of the policy."
            ),
            html.P(
                [
                    "To record each response as its updates see it: ",
                    html.Code("monitor.observe(per_response(...))"),
                    ".",
                ]
            ),
            html.P(
                [
                    "To have responses scored again after the updates, which shows displacement: ",
                    html.Code("probe = LikelihoodProbe(policy)"),
                    " and ",
                    html.Code("monitor.probe(probe.after_update(batch, **about))"),
                    ".",
                ]
            ),
            html.P("A log that was imported from another tool does not hold them."),
        ],
        className="empty",
    )


def no_tokens(sampled: bool) -> Component:
    """A response without its tokens: why, and how to have them recorded."""
    why = (
        "Of this response no tokens were kept: only of those that fell most, every few steps."
        if sampled
        else "This run kept no tokens."
    )
    return html.Div(
        [
            html.P(why),
            html.P(
                [
                    "To keep more of them: ",
                    html.Code("Plan(tokens=16, tokens_every=1)"),
                    " as the probe's preset (",
                    html.Code('"full"'),
                    " keeps 4 responses every 5 steps), with ",
                    html.Code("tokens="),
                    " the token ids in ",
                    html.Code("after_update"),
                    " and ",
                    html.Code("text=lambda token: tokenizer.decode([token])"),
                    " for their words.",
                ]
            ),
        ],
        className="empty small",
    )
