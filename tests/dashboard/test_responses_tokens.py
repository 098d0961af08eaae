from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash.development.base_component import Component
from hypothesis import given
from hypothesis import strategies as st
from response_rows import probes, responses, write

from lldwatch import Run
from lldwatch.schema import Actions, Tokens
from lldwatch_dashboard.changes import KINDS
from lldwatch_dashboard.one_response import one_response
from lldwatch_dashboard.response_book import Book
from lldwatch_dashboard.response_detail import Tokens as Kept
from lldwatch_dashboard.response_detail import detail, number
from lldwatch_dashboard.token_view import MOST_TOKENS, said, tint, token_view, visible, word

CROSS = KINDS["cross_update"]
HOSTILE = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "[a](javascript:window.hit=1) ![b](http://example.com/c.png)",
    "`${window.hit=1}` $x^2$ **bold** # head\n---",
    "\u202eevil\u202c\u2066\u2069\u200b\ufeff",
    "\x00\x07\x1b[31m\x7f\x85\u2028",
    "\ud800 half",
    "<style>*{display:none}</style><iframe src=//example.com>",
    "z" * 5000,
]


def row(**columns: Any) -> dict[str, Any]:
    usual = {"position": 3, "action": 0, "token": 42, "text": "word"}
    return {**usual, "log_prob_before": -1.0, "log_prob_after": -1.5, "entropy": 0.2, **columns}


def kept(*rows: dict[str, Any]) -> Kept:
    return Kept(kind=CROSS, step=4, rows=rows)


def parts(tree: Any) -> Iterator[Component]:
    """A component and all below it."""
    if isinstance(tree, (list, tuple)):
        for each in tree:
            yield from parts(each)
    elif isinstance(tree, Component):
        yield tree
        yield from parts(getattr(tree, "children", None))


def tokens_in(tree: Any) -> list[Component]:
    return [part for part in parts(tree) if "token" in str(getattr(part, "className", "")).split()]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("colour", ["change", "entropy", "log-prob"])
def test_hostile_text_is_only_ever_the_text_of_an_element(text: str, colour: str) -> None:
    tree = token_view(kept(row(text=text), row(text=text, action=-1)), colour)
    names = {part._type for part in parts(tree)}
    assert names <= {"P", "Span", "Div", "H3", "Details", "Summary", "Table", "Thead", "Tbody", "Tr", "Th", "Td"}
    for part in parts(tree):
        for name in part.available_properties:
            value = getattr(part, name, None)
            if name != "children" and isinstance(value, str):
                assert "hit" not in value, f"{name} holds what a model wrote"
    json.dumps([token.children for token in tokens_in(tree)]).encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_text_is_hidden_or_turns_it_round(text: str) -> None:
    shown = visible(text)
    assert not set(shown) & set("\u202e\u202c\u2066\u2069\u200b\ufeff\x00\x07\x1b\x7f\x85\u2028\ud800")
    assert len(shown) < 2500


@given(text=st.text(max_size=60))
def test_a_plain_text_is_shown_as_it_is_and_any_other_can_be_sent(text: str) -> None:
    shown = visible(text)
    shown.encode()
    if text.isascii() and text.isprintable():
        assert shown == text


def test_a_line_break_is_seen_and_breaks_the_line() -> None:
    assert visible("a\nb\tc") == "a\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\nb\N{RIGHTWARDS ARROW TO BAR}\tc"


def test_a_token_without_words_is_its_number() -> None:
    assert word(row(text=None)) == "#42 "
    assert word(row(text=None, token=None)).strip()
    assert word(row(text="")) == "\N{EMPTY SET}"


def test_the_ground_says_rise_or_fall_and_how_much() -> None:
    assert tint("change", -1.0) == tint("change", -50.0) == "rgba(213, 94, 0, 0.62)"
    assert tint("change", 0.25) == "rgba(0, 114, 178, 0.31)"
    assert tint("change", 0.0) is tint("change", math.nan) is tint("change", None) is tint("log-prob", 0.0) is None
    assert tint("entropy", 4.0) == "rgba(204, 121, 167, 0.62)"
    assert tint("log-prob", -5.0) == "rgba(213, 94, 0, 0.62)"


def test_what_fell_is_underlined_and_what_is_not_finite_is_framed() -> None:
    cases = {
        (-1.0, -1.05): "token fell",
        (-1.0, -1.5): "token fell far",
        (-1.0, -1.0005): "token",
        (-1.0, -0.5): "token",
        (-1.0, -math.inf): "token fell far broken",
        (-1.0, math.nan): "token broken",
        (None, -1.0): "token",
    }
    for (before, after), names in cases.items():
        (token,) = tokens_in(token_view(kept(row(log_prob_before=before, log_prob_after=after)), "change", noise=0.001))
        assert token.className == names, (before, after)


def test_every_number_of_a_token_can_be_read_without_colour() -> None:
    assert said(row()) == (
        "token 3, action 0: change \N{MINUS SIGN}0.5, before \N{MINUS SIGN}1, after \N{MINUS SIGN}1.5, entropy 0.2"
    )
    assert said(row(action=-1)) == "token 3: tool feedback, not the policy's"
    assert said(row(entropy=None, log_prob_after=math.nan)).endswith("change NaN, before \N{MINUS SIGN}1, after NaN")
    table = [part for part in parts(token_view(kept(row()), "change")) if part._type == "Td"]
    assert [text for cell in table for text in [cell.children] if isinstance(text, str)] == [
        "3",
        "0",
        *("\N{MINUS SIGN}1", "\N{MINUS SIGN}1.5", "\N{MINUS SIGN}0.5", "0.2"),
    ]


def test_feedback_stands_apart_and_has_no_colour() -> None:
    rows = [
        row(text="a"),
        row(text="b", action=-1, log_prob_before=0.0),
        row(text="c", action=1),
        row(text="d", action=1),
    ]
    tree = token_view(kept(*rows), "change")
    blocks = [part.className for part in parts(tree) if getattr(part, "className", "") in ("action", "feedback")]
    assert blocks == ["action", "feedback", "action"]
    feedback = tokens_in(tree)[1]
    assert (feedback.children, getattr(feedback, "style", None)) == ("b", None)


def test_before_and_after_stand_side_by_side() -> None:
    tree = token_view(kept(row(log_prob_before=0.0, log_prob_after=-5.0)), "log-prob")
    assert [part.children for part in parts(tree) if part._type == "H3"] == ["Before", "After"]
    before, after = tokens_in(tree)
    assert (before.style, after.style) == ({}, {"backgroundColor": "rgba(213, 94, 0, 0.62)"})


def test_a_very_long_response_is_cut_and_says_so() -> None:
    tree = token_view(kept(*[row(position=at) for at in range(MOST_TOKENS + 5)]), "change")
    assert len(tokens_in(tree)) == MOST_TOKENS
    assert any(f"{MOST_TOKENS + 5:,} tokens" in str(getattr(part, "children", "")) for part in parts(tree))


@pytest.fixture
def book(run_dir: Path) -> Book:
    """Response 8, written in step 2, scored again at step 3 with its actions and tokens."""
    steps: dict[int, Any] = {
        1: [],
        2: [responses([8, 9], [0.0, 0.0]), responses([8], [-0.1], update=[1], reward=[0.5])],
        3: [
            probes([8, 10], [-0.4, 0.1]),
            Actions(
                kind=np.full(2, "cross_update"), uid=[8, 8], action=[1, 0], tokens=[4, 6], log_prob_before=[-2, -3]
            ),
            Tokens(
                kind=np.full(3, "cross_update"),
                uid=[8, 8, 8],
                position=[2, 0, 1],
                action=[1, 0, -1],
                text=np.array(["c", "a", "b"]),
                log_prob_before=[-1.0, -1.0, 0.0],
                log_prob_after=[-2.0, np.nan, 0.0],
            ),
        ],
        4: [probes([8], [-0.9], "lagged", lag=2)],
    }
    write(run_dir, steps, cross_update_change=-0.1)
    return Book(Run(run_dir))


def test_all_that_is_known_of_a_response_is_found(book: Book) -> None:
    seen = detail(book, CROSS, 8, 3)
    assert seen.probe is not None
    assert (seen.own_step, [one["update"] for one in seen.seen]) == (2, [0, 1])
    assert [one["action"] for one in seen.actions] == [0, 1]
    assert seen.tokens is not None
    assert [one["text"] for one in seen.tokens.rows] == ["a", "b", "c"]
    text = json.dumps([part.to_plotly_json() for part in one_response(seen, "change")], default=str)
    assert "Response 8" in text
    assert "NaN" in text


def test_tokens_are_found_from_the_other_kinds_of_change_too(book: Book) -> None:
    for kind, step in (("in_batch", 2), ("lagged", 4)):
        seen = detail(book, KINDS[kind], 8, step)
        assert seen.tokens is not None
        assert (seen.tokens.kind, seen.tokens.step) == (CROSS, 3)


def test_a_response_without_tokens_says_how_to_keep_them(book: Book) -> None:
    seen = detail(book, CROSS, 10, 3)
    assert (seen.tokens, seen.sampled, seen.found) == (None, True, True)
    assert "tokens_every" in json.dumps([part.to_plotly_json() for part in one_response(seen, "change")], default=str)
    assert not detail(book, CROSS, 777, 3).found


def test_numbers_in_words() -> None:
    assert [number(value) for value in (None, True, 12345, -0.5, math.nan, math.inf, -math.inf)] == [
        *("\N{EN DASH}", "yes", "12,345", "\N{MINUS SIGN}0.5", "NaN", "inf", "\N{MINUS SIGN}inf")
    ]
