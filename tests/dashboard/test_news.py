"""After any number of ticks a page shows what would stand there if it were drawn whole."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from dash import dcc, html
from hypothesis import given
from hypothesis import strategies as st
from plotly.utils import PlotlyJSONEncoder

from lldwatch import Observation
from lldwatch.detector import CollapseDetector
from lldwatch.simulate import simulate
from lldwatch_dashboard.feed import Snapshot, Summary
from lldwatch_dashboard.lines import Lines
from lldwatch_dashboard.news import Drawn, difference, packed, plain
from lldwatch_dashboard.pages import run as run_page
from lldwatch_dashboard.run_view import RunView
from lldwatch_dashboard.series import MAX_POINTS
from lldwatch_dashboard.shared import Visit


def unpacked(value: Any, arrays: list[dict[str, str]]) -> Any:
    """As assets/news.js reads it."""
    if isinstance(value, list):
        return [unpacked(each, arrays) for each in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        packed_array = arrays[value["$array"]]
        return np.frombuffer(base64.b64decode(packed_array["bdata"]), packed_array["dtype"])
    return {key: unpacked(each, arrays) for key, each in value.items()}


def changed(old: Any, change: Any, arrays: list[dict[str, str]]) -> Any:
    """As assets/news.js lays a change into what is shown."""
    if isinstance(change, list):
        if len(change) == 1:
            return unpacked(change[0], arrays)
        first, tail = change[0], unpacked(change[1], arrays)
        if isinstance(old, list):
            return old[:first] + list(tail)
        numbers = np.array([math.nan if number is None else number for number in tail], old.dtype)
        return np.concatenate([old[:first], numbers])
    copy = list(old) if isinstance(old, list) else dict(old)
    for key, each in change.items():
        if each == []:
            del copy[key]
        else:
            place = int(key) if isinstance(copy, list) else key
            copy[place] = changed(copy[place] if isinstance(copy, list) else copy.get(key), each, arrays)
    return copy


def received(told: dict[str, Any]) -> dict[str, Any]:
    """What goes over the wire is JSON, and no NaN is in it."""
    return dict(json.loads(json.dumps(told, allow_nan=False)))


def same(one: Any, other: Any) -> bool:
    return difference(one, other) is None and difference(other, one) is None


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=3)
LAST = np.array([np.nan, 7], np.float32)
NUMBERS = st.lists(st.floats(-2, 2, width=32) | st.just(math.nan), max_size=40)
ARRAYS = NUMBERS.map(lambda numbers: np.array(numbers, np.float32))
TREES = st.recursive(
    SCALARS | ARRAYS,
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.sampled_from("abcd"), each, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("abcd"), TREES), st.dictionaries(st.sampled_from("abcd"), TREES))
def test_a_difference_makes_one_of_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    told = received(packed("change", difference(before, after) or {}))
    assert same(changed(before, told["change"], told["arrays"]), after)


@given(TREES)
def test_nothing_has_no_difference_from_itself(tree: Any) -> None:
    told = received(packed("content", tree))
    assert same(unpacked(told["content"], told["arrays"]), tree)


def test_one_more_number_costs_one_number() -> None:
    line = np.arange(2000, dtype=np.float32)
    change = difference({"y": line, "text": ["a"] * 2000}, {"y": np.append(line, LAST), "text": ["a"] * 2001})
    assert packed("change", change) == {"change": {"y": [2000, [None, 7.0]], "text": [2000, ["a"]]}, "arrays": []}


def test_equal_arrays_are_sent_once() -> None:
    told = packed(
        "content", [{"x": np.arange(50, dtype="i4")}, {"x": np.arange(50, dtype="i4")}, {"x": np.arange(50.0)}]
    )
    assert told["content"] == [{"x": {"$array": 0}}, {"x": {"$array": 0}}, {"x": {"$array": 1}}]
    assert [each["dtype"] for each in told["arrays"]] == ["i4", "f8"]


def test_components_become_what_dash_makes_of_them() -> None:
    aria: Any = {"aria-label": "What", "data-lane": "A"}
    tree = [html.Div([html.P("text", id="x", className="y"), dcc.Link("a", href="/b"), None, "c"], **aria)]
    pages = [tree, run_page.page("a", None), run_page.titles(run_page.Sheet())]
    assert json.loads(json.dumps(plain(pages))) == json.loads(json.dumps(pages, cls=PlotlyJSONEncoder))


def snapshots(rows: list[Observation], ends: Iterator[int]) -> Iterator[Snapshot]:
    """The run as it stands after so many rows; fewer than before: a resumed training has gone back."""
    lines, version = Lines(), 0
    for end in ends:
        detector, version = CollapseDetector(), version + 1
        verdicts = [detector.fold(row) for row in rows[:end]]
        summary = Summary(name="a", diagnosis=detector.diagnosis, last=rows[end - 1] if end else None)
        seen = tuple(rows[:end])
        yield Snapshot(version=version, summary=summary, observations=seen, signals=lines.of(seen, verdicts))


@pytest.mark.parametrize(
    ("scenario", "ends"),
    [
        ("lld_spiral", [0, 1, 2, 3, 30, 31, 60, 61, 62, 100, 150, 149, 151, 200]),
        ("numerical", [100, 101, 150, 200, 201]),
        ("healthy", [MAX_POINTS - 1, MAX_POINTS, MAX_POINTS + 1, MAX_POINTS + 2, MAX_POINTS + 700]),
    ],
)
@pytest.mark.parametrize("view", [RunView(), RunView("time", 20, True), RunView(span=(50.0, 120.0))])
def test_after_any_ticks_the_page_is_as_if_drawn_whole(scenario: str, ends: list[int], view: RunView) -> None:
    rows = [*simulate(scenario, 0, max(ends)).observations]
    lately, shown, page = Drawn(), None, {}
    for snapshot in snapshots(rows, iter(ends)):
        told = received(run_page.news_of(lately, snapshot, Visit(view.search), shown))
        shown = told["after"]
        if "content" in told:
            page = unpacked(told["content"], told["arrays"])
        else:
            page = changed(page, told["change"], told["arrays"])
        whole = received(run_page.news_of(Drawn(), snapshot, Visit(view.search)))
        assert same(page, unpacked(whole["content"], whole["arrays"]))
    assert "change" in told


def test_a_tick_of_a_long_run_is_small() -> None:
    rows = [*simulate("healthy", 0, 1510).observations]
    lately, shown, sizes = Drawn(), None, []
    for snapshot in snapshots(rows, iter((1500, 1501, 1502, 1503, 1504))):
        told = run_page.news_of(lately, snapshot, Visit(), shown)
        shown = told["after"]
        sizes.append(len(json.dumps(told)))
    assert sizes[0] > 100_000
    assert max(sizes[1:]) < 8_000
