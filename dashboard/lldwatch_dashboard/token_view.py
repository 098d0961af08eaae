"""The tokens of a response as HTML: coloured by what happened to them, with the same said without colour.

What a model wrote is only ever the text of an element: it is never read as HTML, Markdown or an address. Characters
that are not seen, or that change the direction of what follows them, are shown by their number.

Rejected: drawing the tokens with plotly (no text search, no screen reader, and its labels read some HTML).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dash import html

from lldwatch_dashboard.response_detail import Row, Tokens, change_of, number

Component = Any  # dash ships no types

MOST_TOKENS = 2000
"""Elements of a page, above which a browser becomes slow."""

FAR = 0.25
"""A token whose log-prob fell by more than this, in nats, is underlined twice."""

_MOST_CHARACTERS = 200  # of a single token; no tokenizer has longer ones, but a log may
_FELL, _ROSE, _UNSURE = "213, 94, 0", "0, 114, 178", "204, 121, 167"
_DEEPEST = 0.62  # a darker ground would take the contrast from the text
_LEGENDS = {
    "change": [-1.0, -0.25, -0.05, 0.0, 0.05, 0.25, 1.0],
    "entropy": [0.0, 0.25, 1.0, 2.0, 4.0],
    "log-prob": [0.0, -0.25, -1.0, -2.5, -5.0],
}
_UNITS = {"change": "change of the log-prob, nats", "entropy": "entropy, nats", "log-prob": "log-prob, nats"}


def tint(colour: str, value: float | None) -> str | None:
    """The ground of a token, as CSS; None for none.

    Blue rose and orange fell, the deeper the more: the square root of the share of 1 nat, the same for all responses.

    Args:
        colour: `change`, `entropy` or `log-prob`.
        value: in nats.
    """
    if value is None or not math.isfinite(value):
        return None
    hue, full = {"change": (_FELL if value < 0 else _ROSE, 1.0), "entropy": (_UNSURE, 4.0)}.get(colour, (_FELL, 5.0))
    depth = _DEEPEST * math.sqrt(min(abs(value) / full, 1.0))
    return f"rgba({hue}, {depth:.2f})" if depth >= 0.03 else None


def visible(text: str) -> str:
    """The text with everything in it to be seen: control characters and marks of direction by their number."""
    shown = []
    for letter in text[:_MOST_CHARACTERS]:
        if letter == "\n":
            shown.append("\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n")
        elif letter == "\t":
            shown.append("\N{RIGHTWARDS ARROW TO BAR}\t")
        elif unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            shown.append(f"\N{LEFT CEILING}U+{ord(letter):04X}\N{RIGHT CEILING}")
        else:
            shown.append(letter)
    return "".join(shown) + ("\N{HORIZONTAL ELLIPSIS}" if len(text) > _MOST_CHARACTERS else "")


def word(row: Row) -> str:
    """A token in words; its number, if its text was not recorded."""
    text = row.get("text")
    if text is None:
        return f"#{row['token']} " if row.get("token") is not None else "\N{MIDDLE DOT} "
    return visible(str(text)) or "\N{EMPTY SET}"


def said(row: Row) -> str:
    """All numbers of a token, for the mouse and for a screen reader."""
    if row.get("action") == -1:
        return f"token {number(row['position'])}: tool feedback, not the policy's"
    numbers = {
        "change": change_of(row),
        "before": row.get("log_prob_before"),
        "after": row.get("log_prob_after"),
        "entropy": row.get("entropy"),
    }
    parts = [f"{name} {number(value)}" for name, value in numbers.items() if value is not None]
    return f"token {number(row['position'])}, action {number(row.get('action'))}: {', '.join(parts)}"


def token_view(tokens: Tokens, colour: str, noise: float = 0.0) -> list[Component]:
    """All tokens of a response.

    Args:
        tokens: what was recorded.
        colour: `change`, `entropy` or `log-prob`; the last is shown before and after, side by side.
        noise: a token fell if its log-prob fell by more than this.
    """
    rows = tokens.rows[:MOST_TOKENS]
    more = []
    if len(tokens.rows) > len(rows):
        more = [html.P(f"The first {len(rows):,} of {len(tokens.rows):,} tokens.", className="muted")]
    if colour == "log-prob":
        before, after = (_text(rows, colour, _column(f"log_prob_{moment}"), noise) for moment in ("before", "after"))
        sides = [("Before", before), ("After", after)]
        body = html.Div([html.Div([html.H3(head), text]) for head, text in sides], className="sides")
    else:
        value = change_of if colour == "change" else _column("entropy")
        body = html.Div(_text(rows, colour, value, noise))
    return [_legend(colour, noise), body, *more, _as_table(rows)]


def _column(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


def _text(rows: Sequence[Row], colour: str, value: Callable[[Row], float | None], noise: float) -> Component:
    blocks = []
    for action, some in _runs(rows):
        if action == -1:
            head, name = "tool feedback", "feedback"
            spans = [html.Span(word(row), title=said(row), className="token") for row in some]
        else:
            head, name = f"action {number(action)}", "action"
            spans = [_token(row, colour, value(row), noise) for row in some]
        blocks.append(
            html.Div([html.Span(head, className="tag"), html.Div(spans, className="written")], className=name)
        )
    return html.Div(blocks, className="tokens")


def _runs(rows: Sequence[Row]) -> Iterator[tuple[int | None, list[Row]]]:
    """Neighbours of one action."""
    some: list[Row] = []
    for row in rows:
        if some and row["action"] != some[-1]["action"]:
            yield some[-1]["action"], some
            some = []
        some.append(row)
    if some:
        yield some[-1]["action"], some


def _token(row: Row, colour: str, value: float | None, noise: float) -> Component:
    change = change_of(row)
    fell = change is not None and change < -noise
    odd = value is not None and not math.isfinite(value)
    far = fell and change is not None and change < -FAR
    names = ["token", *["fell"] * fell, *["far"] * far, *["broken"] * odd]
    ground = tint(colour, value)
    style = {"backgroundColor": ground} if ground else {}
    return html.Span(word(row), title=said(row), className=" ".join(names), style=style)


def _legend(colour: str, noise: float) -> Component:
    steps = []
    for value in _LEGENDS[colour]:
        sign = "+" if colour == "change" and value > 0 else ""
        ground = tint(colour, value)
        steps.append(html.Span(f"{sign}{number(value)}", style={"backgroundColor": ground} if ground else {}))
    floor = f" by more than the noise of a token, {number(noise)}" if noise else ""
    twice = html.Span("twice", className="fell far")
    fell = html.Span("underlined", className="fell")
    underlined = html.Span([fell, f": its log-prob fell{floor}; ", twice, f": by more than {FAR:g}"])
    boxed = html.Span([html.Span("framed", className="broken"), ": NaN or infinite"])
    ramp = html.Span(steps, className="ramp")
    return html.P([html.Span(_UNITS[colour]), ramp, underlined, boxed], className="token-legend")


def _as_table(rows: Sequence[Row]) -> Component:
    """The same for whoever reads numbers, or hears them."""
    heads = ("Token", "Action", "Text", "Before", "After", "Change", "Entropy")
    body = []
    for row in rows:
        own = row["action"] != -1
        numbers = [row["log_prob_before"], row["log_prob_after"], change_of(row), row["entropy"]]
        cells = [number(value) if own else "" for value in numbers]
        action = number(row["action"]) if own else "feedback"
        text = html.Td(html.Span(word(row), className="written"))
        body.append(html.Tr([html.Td(number(row["position"])), html.Td(action), text, *map(html.Td, cells)]))
    head = html.Thead(html.Tr([html.Th(head, scope="col") for head in heads]))
    table = html.Div(html.Table([head, html.Tbody(body)]), className="wide")
    return html.Details([html.Summary("The tokens as a table"), table])
