"""One response in full: how it changed, how each update saw it, its actions, its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import html

from lldwatch_dashboard.response_detail import Detail, Row, change_of, number, per_token
from lldwatch_dashboard.response_words import no_tokens
from lldwatch_dashboard.token_view import token_view

Component = Any  # dash ships no types


def one_response(seen: Detail, colour: str, noise: float = 0.0) -> list[Component]:
    """Everything that was recorded of it.

    Args:
        seen: what was recorded.
        colour: what its tokens are coloured by.
        noise: largest change of a token without an update, nats.
    """
    name = html.P([html.B(f"Response {seen.uid}"), f", step {seen.step:,}, {seen.kind.label}"])
    if not seen.found:
        text = "It is not in the run: the address is of another run, or a resumed training made the step again."
        return [name, html.P(text, className="empty small")]
    parts = [name, _facts(seen)]
    if seen.tokens is not None:
        head = f"Tokens, before and after ({seen.tokens.kind.label}, step {seen.tokens.step:,})"
        parts += [html.H3(head), *token_view(seen.tokens, colour, noise)]
    if seen.actions:
        parts += [html.H3("Actions"), _actions(seen.actions)]
    if seen.tokens is None:
        parts += [html.H3("Tokens"), no_tokens(seen.sampled)]
    if len(seen.seen) > 1:
        parts += [html.H3(f"As the updates of step {seen.own_step:,} saw it"), _updates(seen.seen)]
    return parts


def _facts(seen: Detail) -> Component:
    probe, last = seen.probe or {}, (seen.seen[-1] if seen.seen else {})
    either = {**last, **{name: value for name, value in probe.items() if value is not None}}
    before, after = probe.get("log_prob_before"), probe.get("log_prob_after")
    if seen.probe is None:
        before, after = last.get("old_log_prob"), last.get("log_prob")
    tokens = either.get("tokens")
    change = change_of({"log_prob_before": before, "log_prob_after": after})
    facts: dict[str, str] = {
        "Change": f"{number(per_token(change, tokens))} nats/token",
        "Log-prob before": f"{number(before, 4)} nats",
        "Log-prob after": f"{number(after, 4)} nats",
        "Correct": _yes(either.get("correct")),
        "Reward": number(last.get("reward")),
        "Advantage": number(either.get("advantage")),
        "Prompt": _plain(either.get("group")),
        "Tokens": number(tokens),
        "Fallen tokens": number(probe.get("fallen_tokens")),
        "Actions": number(last.get("actions")),
        "Entropy": f"{number(last.get('entropy'))} nats",
        "Least likely token": f"{number(last.get('min_log_prob'))} nats",
        "Written in step": _plain(seen.own_step),
    }
    dash = number(None)
    terms = [part for term, text in facts.items() for part in ((html.Div([html.Dt(term), html.Dd(text)]),))]
    return html.Dl([term for term, text in zip(terms, facts.values(), strict=True) if text.split(" ")[0] != dash])


def _yes(value: Any) -> str:
    return number(None if value is None else bool(value))


def _plain(value: Any) -> str:
    """An identity, without commas."""
    return number(None) if value is None else str(value)


def _actions(rows: Sequence[Row]) -> Component:
    heads = ("Action", "Tokens", "Before", "After", "Change", "Change per token")
    body = []
    for row in rows:
        change = change_of(row)
        values = (
            row["tokens"],
            row["log_prob_before"],
            row["log_prob_after"],
            change,
            per_token(change, row["tokens"]),
        )
        body.append([_plain(row["action"]), *map(number, values)])
    return _table(heads, body)


def _updates(rows: Sequence[Row]) -> Component:
    heads = ("Update", "Log-prob", "Change per token", "Entropy", "Clipped tokens")
    body = []
    for row in rows:
        change = change_of({"log_prob_before": row["old_log_prob"], "log_prob_after": row["log_prob"]})
        values = (row["log_prob"], per_token(change, row["tokens"]), row["entropy"], row["clipped_tokens"])
        body.append([_plain(row["update"]), *map(number, values)])
    return _table(heads, body)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Component:
    head = html.Thead(html.Tr([html.Th(head, scope="col") for head in heads]))
    body = html.Tbody([html.Tr([html.Th(row[0], scope="row"), *map(html.Td, row[1:])]) for row in rows])
    return html.Div(html.Table([head, body]), className="wide")
