from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from lldwatch.glance import Glance
from lldwatch_dashboard import create_app, rows, sparks, words
from lldwatch_dashboard.feed import Summary
from lldwatch_dashboard.listed import Listed, Look, summary_of
from lldwatch_dashboard.pages import overview
from lldwatch_dashboard.view import PAGE_SIZE, SORTS, View, in_order, part_of, query, search_of

WriteRun = Callable[..., Path]
NOW = 1000.0
HOSTILE = (
    "<script>alert(1)</script>",
    "a&b=c",
    "with space",
    "ümlaut/✓",
    "x" * 200,
    "100%",
    "=1+1",
    "quote\"'",
    "a\\b",
)


def listed(name: str, **told: Any) -> Listed:
    glance = Glance(run=f"/{name}", **({"stage": "healthy", "step": 9} | told))
    return Listed(summary_of(name, glance), glance)


DEAD = listed("c-dead", stage="collapse", onset=5, family="lld_spiral", reward=0.1, llds_coefficient=0.5, llds="auto")
ILL = listed("b-ill", stage="decay", onset=7, collapse_probability=0.8, last_time=900.0)
FINE = listed("a-fine", ended="2026-01-01", reward=0.9, collapse_probability=0.1, last_time=990.0)
BROKEN = Listed(Summary(name="d-broken", error="it is newer"), Glance(run="/d-broken", error="it is newer"))
UNREAD = Listed(Summary(name="e-unread", read=False), None)
ALL = (FINE, ILL, DEAD, BROKEN, UNREAD)


def order(view: View) -> list[str]:
    return [run.summary.name[0] for run in in_order(ALL, view)]


def test_dead_runs_stand_first_and_those_not_read_yet_last() -> None:
    assert order(View()) == ["c", "b", "d", "a", "e"]
    assert order(View(reverse=True)) == ["a", "d", "b", "c", "e"]
    running = listed("z-running")
    assert [run.summary.name for run in in_order([FINE, running], View())] == ["z-running", "a-fine"]


@pytest.mark.parametrize(
    ("sort", "first"),
    [("run", "a"), ("onset", "c"), ("family", "c"), ("risk", "b"), ("age", "a"), ("llds", "c"), ("reward", "a")],
)
def test_each_column_sorts_and_what_is_not_known_stands_last_either_way(sort: str, first: str) -> None:
    assert order(View(sort=sort))[0] == first
    for view in (View(sort=sort), View(sort=sort, reverse=True)):
        assert order(view)[-1] == "e"


@given(st.sampled_from(sorted(SORTS)), st.booleans(), st.permutations(ALL), st.floats())
def test_an_order_holds_every_run_once_whatever_the_values(
    sort: str, reverse: bool, runs: list[Listed], value: float
) -> None:
    odd = listed("odd", reward=value, collapse_probability=0.5, points=((1, value),), signal="reward")
    found = in_order([*runs, odd], View(sort=sort, reverse=reverse))
    assert sorted(run.summary.name for run in found) == sorted([*(run.summary.name for run in ALL), "odd"])


@given(st.text(), st.sampled_from(sorted(SORTS)), st.booleans(), st.integers(1, 9999))
def test_the_address_holds_the_view(text: str, sort: str, reverse: bool, page: int) -> None:
    view = View(text[:500], sort, reverse, page)
    assert View.of(view.search) == view


@pytest.mark.parametrize(
    "search", [None, "", "?sort=nothing", "?page=-1", "?page=x", "?page=\u00b2", "?sort=&filter=", "?="]
)
def test_a_wrong_address_shows_the_first_view(search: str | None) -> None:
    assert View.of(search) == View()


@pytest.mark.parametrize("name", [*HOSTILE, "\udcff-no-text"])
def test_names_survive_an_address(name: str) -> None:
    assert query(search_of({"run": [name, "other"]})) == {"run": [name, "other"]}


def test_filter_and_pages() -> None:
    runs = [listed(f"run-{number:04}") for number in range(120)]
    part = part_of(runs, View(sort="run", page=2))
    assert [len(part.rows), part.rows[0].summary.name, part.pages] == [PAGE_SIZE, "run-0030", 4]
    assert part_of(runs, View(page=99)).page == 4
    few = part_of(runs, View(text="-000[1-3]$"))
    assert [run.summary.name for run in few.matched] == ["run-0001", "run-0002", "run-0003"]
    assert few.expression
    assert not part_of(runs, View(text="run-(")).expression
    assert part_of(runs, View(text="no such")).pages == 1
    assert part_of([], View()).rows == []


def told(run: Listed, **more: Any) -> dict[str, Any]:
    return {column: fact[0] for column, fact in rows.facts(run, NOW, dark=False, **more).items()}


def test_a_row_says_what_is_known() -> None:
    dead = told(DEAD)
    assert dead["stage"] == "✖ collapse"
    assert (dead["onset"], dead["family"], dead["risk"], dead["llds"]) == (
        "5",
        "LLD death spiral",
        "\N{EN DASH}",
        "auto: 0.5",
    )
    ill = told(replace_glance(ILL, pace=1.0, planned_steps=20))
    assert (ill["stage"], ill["risk"], ill["step"], ill["age"]) == ("▲ decay", "80%", "9 of 20", "stalled, 2 min ago")
    assert told(FINE)["age"] == "finished"
    assert told(BROKEN) == {"stage": "? unreadable", "reason": "it is newer"}
    assert told(UNREAD)["reason"] == "being read …"


def replace_glance(run: Listed, **more: Any) -> Listed:
    assert run.glance is not None
    glance = replace(run.glance, **more)
    return Listed(summary_of(run.summary.name, glance), glance)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "off"),
        ({"llds": "on", "llds_coefficient": 0.2}, "on: 0.2"),
        ({"llds": "auto", "llds_coefficient": 0.0}, "auto: 0"),
        ({"llds": "auto", "llds_coefficient": 0.0, "dry_run": True, "would_have": 3}, "dry run: 3 would-have"),
        ({"llds": "auto", "llds_coefficient": 0.0, "dry_run": True}, "dry run: nothing yet"),
    ],
)
def test_llds_in_words(given: dict[str, Any], said: str) -> None:
    assert words.llds(Glance(run="x", **given))[0] == said


def test_marks_tell_what_has_changed_and_nothing_else() -> None:
    before, after = (rows.facts(replace_glance(ILL, step=step), NOW, dark=False) for step in (9, 10))
    changed = [column for column in before if rows.mark(before[column]) != rows.mark(after[column])]
    assert changed == ["step"]


def test_counts_above_the_table() -> None:
    look = Look(ALL, 4)
    around = overview.around(look, part_of(ALL, View()), View(), NOW)
    assert around["facts"] == "5 runs · 4 of 5 read · 1 collapse · 1 decay · 1 healthy · 1 stalled · 1 unreadable"
    assert around["note"] == ""
    view = View(text="(")
    assert "plain text" in overview.around(look, part_of(ALL, view), view, NOW)["note"]
    view = View(text="-f")
    assert overview.around(look, part_of(ALL, view), view, NOW)["note"] == "1 of 5 runs match."


def test_the_head_says_how_the_table_is_sorted() -> None:
    table = repr(overview.table([], View(sort="reward"), []))
    assert table.count("'ascending'") == 1
    assert table.count("'none'") == len(rows.HEADS) - 1
    assert "href='/?sort=-reward'" in table, "another click turns it round"
    assert "href='/?sort=risk'" in table
    assert "'descending'" in repr(overview.table([], View(sort="reward", reverse=True), []))


def test_the_way_to_the_comparison() -> None:
    assert "Tick runs" in repr(overview.compare_link([]))
    assert "tick another" in repr(overview.compare_link(["a"]))
    link = overview.compare_link(["a b", "<c>"])
    assert link.href == "/compare?run=a%20b&run=%3Cc%3E"
    assert "at most 12" in repr(overview.compare_link([str(number) for number in range(13)]))


def test_the_rows_as_csv() -> None:
    read = list(csv.DictReader(io.StringIO(overview.as_csv(ALL, NOW))))
    assert [row["run"] for row in read] == [run.summary.name for run in ALL]
    assert (read[2]["stage"], read[2]["onset"], read[2]["llds_coefficient"]) == ("collapse", "5", "0.5")
    assert (read[3]["error"], read[4]["error"]) == ("it is newer", "not read yet")


POINTS = ((1, 0.0), (2, -0.5), (3, math.nan), (4, math.inf), (5, 1.0))


def test_a_sparkline_keeps_gaps_and_marks_what_is_not_finite() -> None:
    lines, broken, zero = sparks.layout(POINTS, with_zero=True)
    assert [len(line) for line in lines] == [2, 1]
    assert len(broken) == 2
    assert lines[0][0] == (sparks.MARGIN, zero)
    assert lines[1][0] == (sparks.WIDTH - sparks.MARGIN, sparks.MARGIN)


@pytest.mark.parametrize("points", [(), ((1, 0.5),), ((1, 0.5), (2, 0.5)), ((1, math.nan),), ((3, -1e38), (9, 1e38))])
def test_a_sparkline_of_any_points_is_a_picture(points: Any) -> None:
    glance = Glance(run="x", signal="reward", points=points)
    picture = sparks.svg(glance, dark=False)
    assert picture.startswith("<svg ")
    assert not re.search("nan|inf", picture)
    address = sparks.address(glance, dark=True)
    assert unquote(address).startswith("data:image/svg+xml,<svg ")
    assert "#" not in address, "what follows it would be left out"


def test_a_sparkline_says_which_signal_it_is() -> None:
    change = Glance(run="x", signal="cross_update_change", points=POINTS)
    assert sparks.name(change) == "likelihood change"
    assert "from step 1 to 5, last 1" in sparks.alt(change)


# through the server, as the browser asks


@pytest.fixture
def client(root: Path) -> FlaskClient:
    return create_app(root).server.test_client()


def prop(id_: str, name: str, value: Any = None) -> dict[str, Any]:
    return {"id": id_, "property": name, "value": value}


def show(client: FlaskClient, search: str = "", shown: Any = None, chosen: Any = None, **pulse: Any) -> Any:
    names = ("body.children", "shown.data", "facts.children", "note.children", "pager.children")
    outputs = [prop(*f"list-{name}".split(".")) for name in names]
    known = [each["output"] for each in json.loads(client.get("/_dash-dependencies").data)]
    body = {
        "output": next(output for output in known if "list-body.children" in output),
        "outputs": outputs,
        "inputs": [prop("list-pulse", "data", pulse), prop("list-url", "search", search)],
        "state": [prop("list-shown", "data", shown), prop("list-chosen", "data", chosen)],
        "changedPropIds": ["list-pulse.data"],
    }
    answer = client.post("/_dash-update-component", json=body)
    assert answer.status_code in (200, 204)
    return json.loads(answer.data) if answer.data else {}


def shown_when_read(client: FlaskClient, search: str = "") -> Any:
    deadline = time.monotonic() + 60
    while True:
        answer = show(client, search)["response"]
        if " read" not in answer["list-facts"]["children"] or time.monotonic() > deadline:
            return answer


def test_the_table_comes_once_and_then_only_what_has_changed(client: FlaskClient, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    first = shown_when_read(client)
    assert "run-list" in json.dumps(first["list-body"])
    marks = first["list-shown"]["data"]
    assert show(client, shown=marks) == {}
    marks["rows"][0][1]["step"] = "another"
    again = show(client, shown=marks)
    assert "list-body" not in again["response"]
    (changed,) = again["sideUpdate"]
    assert json.loads(changed) == {"run": "a", "cell": "step"}


def test_rows_stay_in_place_while_somebody_points_at_them(client: FlaskClient, write_run: WriteRun) -> None:
    for name in ("a", "b"):
        write_run(name, range(1, 3))
    marks = shown_when_read(client)["list-shown"]["data"]
    assert [name for name, _ in marks["rows"]] == ["a", "b"]
    marks["rows"].reverse()
    assert show(client, shown=marks, held=True) == {}
    moved = show(client, shown=marks)["response"]["list-shown"]["data"]
    assert [name for name, _ in moved["rows"]] == ["a", "b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_and_has_an_address(name: str, client: FlaskClient, write_run: WriteRun) -> None:
    write_run(name, range(1, 3))
    answer = shown_when_read(client)
    assert [row[0] for row in answer["list-shown"]["data"]["rows"]] == [name]
    assert "dangerously" not in json.dumps(answer)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there alone")
def test_a_name_that_is_no_text_is_listed(client: FlaskClient, root: Path, write_run: WriteRun) -> None:
    try:
        write_run("plain", range(1, 3)).rename(os.fsdecode(os.fsencode(root) + b"/\xff-run"))
    except OSError:
        pytest.skip("this file system has no such names")
    answer = shown_when_read(client)
    assert [row[0] for row in answer["list-shown"]["data"]["rows"]] == ["\udcff-run"]


def test_ticked_runs_stay_ticked_when_the_table_is_built_anew(client: FlaskClient, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    write_run("b", range(1, 3))
    shown_when_read(client)
    body = json.dumps(show(client, chosen=["b"])["response"]["list-body"])
    assert '"value": ["b"]' in body
    assert '"value": ["a"]' not in body


def test_without_runs_it_says_what_to_do_next(client: FlaskClient) -> None:
    assert "lldwatch demo" in json.dumps(show(client)["response"]["list-body"])


def test_a_filter_that_nothing_passes_says_so(client: FlaskClient, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    body = json.dumps(shown_when_read(client, "?filter=zzz")["list-body"])
    assert "Show all runs" in body
    assert "lldwatch demo" not in body


def test_a_thousand_runs_are_sorted_filtered_and_told_for_a_tick() -> None:
    many = [
        listed(f"run-{number}", collapse_probability=number / 1000, points=POINTS, signal="reward")
        for number in range(1000)
    ]
    part = part_of(many, View(text="run-[0-9]+$", sort="risk"))
    assert len(part.matched) == 1000
    told = [(run.summary.name, rows.facts(run, NOW, dark=False)) for run in part.rows]
    assert all(rows.mark(fact) for _, facts in told for fact in facts.values())
    assert [name for name, _ in told][:2] == ["run-999", "run-998"]
