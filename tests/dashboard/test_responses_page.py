from __future__ import annotations

import base64
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from response_rows import probes, responses, write

from lldwatch.schema import Responses, Tokens
from lldwatch_dashboard import create_app
from lldwatch_dashboard.changes import KINDS, PANELS
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.heat import place_of
from lldwatch_dashboard.response_address import Region, View, query_of, view_of
from lldwatch_dashboard.response_figures import panels_of, response_figure, ticks
from lldwatch_dashboard.response_moves import after_click, after_drag, after_row, after_typing
from lldwatch_dashboard.response_reader import Picture, Reader
from lldwatch_dashboard.response_table import listing
from lldwatch_dashboard.shared import href


def picture(reader: Reader, kind: str = "cross_update", **window: Any) -> Picture:
    found = reader.picture("run", KINDS[kind], **window)
    assert found is not None
    return found


def drawn(figure: dict[str, Any], meta: str) -> dict[str, Any]:
    return next(trace for trace in figure["data"] if trace["meta"] == meta)


def unpacked(values: dict[str, str]) -> Any:
    return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])


@pytest.fixture
def reader(root: Path) -> Reader:
    """Ten steps of three responses, all kinds of misfortune among them."""
    steps: dict[int, Any] = {
        step: [
            probes([3 * step, 3 * step + 1, 3 * step + 2], [-0.1 * step, 0.05, -0.01], advantage=[1.0, 1.0, 0.0]),
            responses([3 * step + 3, 3 * step + 4], [0.2, -0.3], correct=[True, False], entropy=[0.5, 0.25]),
        ]
        for step in range(1, 11)
    }
    steps[5].append(probes([900, 901, 902], [math.nan, math.inf, -math.inf]))
    write(root / "run", steps, cross_update_change=-0.1, change_positive=0.2, noise_floor=0.001)
    return Reader(Feed(root))


def test_every_response_is_a_point_and_what_is_not_finite_a_mark(reader: Reader) -> None:
    seen = picture(reader)
    assert (seen.shown, seen.broken, seen.unmeasured) == ((20, 0, 10, 0), 3, 0)
    figure = response_figure(seen, View())
    points = drawn(figure, "points:correct")
    steps, heights = unpacked(points["x"]), unpacked(points["y"])
    assert sorted(steps.tolist()) == sorted([*range(1, 11), *range(1, 11)])
    np.testing.assert_allclose(sorted(heights)[0], place_of(-1.0), rtol=1e-6)
    assert min(unpacked(points["customdata"])) == pytest.approx(-1.0)
    assert len(unpacked(drawn(figure, "points:advantage 0")["x"])) == 10
    marks = drawn(figure, "broken:correct")
    assert marks["text"] == ["change: NaN", "change: +inf", "change: \N{MINUS SIGN}inf"]
    assert unpacked(marks["y"]).tolist() == [seen.places[1], seen.places[1], seen.places[0]]


def test_more_responses_than_can_be_drawn_are_counted(root: Path, reader: Reader) -> None:
    few = Reader(Feed(root), points=10)
    seen = picture(few)
    assert seen.points is None
    assert seen.heat is not None
    assert (seen.shown, seen.broken) == ((20, 0, 10, 0), 3)
    assert seen.heat.counts.sum() == 30
    assert seen.heat.broken[0].sum(axis=1).tolist() == [1, 1, 1]
    figure = response_figure(seen, View())
    shade = unpacked(drawn(figure, "heat:correct")["z"])
    assert np.nansum(10**shade) == pytest.approx(20)
    assert drawn(figure, "broken:correct")["text"] == [
        f"1 with change {word}" for word in ("NaN", "+inf", "\N{MINUS SIGN}inf")
    ]
    zoomed = picture(few, steps=(3, 5), change=(-1.0, 0.0))
    assert zoomed.points is not None, "a zoom on few of them shows each"
    assert zoomed.shown == (3, 0, 3, 0)


def test_a_large_run_is_counted_in_the_background_and_says_how_far_it_is(root: Path, reader: Reader) -> None:
    large = Reader(Feed(root), raw_rows=9, points=5)
    for _ in range(100):
        seen = picture(large, "in_batch")
        if not seen.progress:
            break
        assert "files are still to be read" in seen.progress
        time.sleep(0.05)
    assert (seen.shown, seen.broken) == ((10, 10, 0, 0), 0)
    assert seen.coarse
    exact = picture(large, "in_batch", steps=(2, 3))
    assert exact.shown == (2, 2, 0, 0)
    assert exact.points is not None


def test_counts_follow_a_run_that_grows_and_one_that_is_resumed(root: Path, reader: Reader) -> None:
    large = Reader(Feed(root), raw_rows=3, points=2)

    def counted() -> int:
        for _ in range(100):
            seen = picture(large, "in_batch")
            if not seen.progress:
                return sum(seen.shown)
            time.sleep(0.05)
        raise AssertionError("it never ends")

    assert counted() == 20
    write(root / "run", {step: [responses([step], [0.1])] for step in range(6, 8)}, resume=True, change_positive=0.2)
    assert counted() == 12
    growing = write(root / "run", {8: [responses([8, 9], [0.1, 0.1])]}, resume=True, close=False, change_positive=0.2)
    assert counted() == 14
    growing.close()
    assert counted() == 14


def test_a_zoom_reads_nothing_that_was_read_before(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(reader)
    monkeypatch.setattr("lldwatch.run.read_columns", lambda *_: pytest.fail("read again"))
    assert picture(reader, steps=(4, 6), change=(-0.2, 0.2)).shown == (3, 0, 3, 0)


@pytest.mark.parametrize("steps", [(500, 600), (-9, -3)])
def test_steps_that_the_run_does_not_have_show_all_of_it(reader: Reader, steps: tuple[int, int]) -> None:
    assert picture(reader, steps=steps).steps == (1, 10)


def listed(reader: Reader, region: Region, kind: str = "cross_update", **more: Any) -> Any:
    return listing(reader.book("run"), KINDS[kind], region, **{"raw_rows": 10**6, **more})


def test_a_region_lists_its_responses_the_lowest_first(reader: Reader) -> None:
    found = listed(reader, Region("correct", 3, 6, -9.0, 0.0))
    assert [(row["step"], row["change"]) for row in found.rows] == [(6, -0.6), (5, -0.5), (4, -0.4), (3, -0.3)]
    assert (found.found, found.until, found.joined) == (4, None, True)
    assert {row["uid"] for row in found.rows} == {"9", "12", "15", "18"}


def test_reward_and_entropy_come_from_the_step_in_which_it_was_written(reader: Reader) -> None:
    (row,) = listed(reader, Region("correct", 4, 4, -9.0, 0.0)).rows  # uid 12, written in step 3
    assert (row["uid"], row["entropy"], row["reward"], row["lag"]) == ("12", 0.5, 1.0, 1)
    assert row["old_log_prob"] == -20.0


def test_a_region_of_broken_changes(reader: Reader) -> None:
    found = listed(reader, Region("broken", 1, 10))
    assert [(row["uid"], row["change"]) for row in found.rows] == [("900", "nan"), ("902", "-inf"), ("901", "inf")]


def test_any_panel_and_the_ends_of_a_region_belong_to_it(reader: Reader) -> None:
    assert listed(reader, Region("any", 2, 2, -0.2, 0.05)).found == 3
    assert listed(reader, Region("advantage 0", 1, 10)).found == 10
    assert listed(reader, Region("incorrect", 1, 10), "in_batch").found == 10
    assert listed(reader, Region("unknown", 1, 10)).found == 0


def test_a_table_is_limited_and_says_how_many_there_are(reader: Reader) -> None:
    found = listed(reader, Region("any", 1, 10), most=4)
    assert (len(found.rows), found.found) == (4, 32)  # the one that is NaN lies nowhere
    assert [row["change"] for row in found.rows] == ["-inf", -1.0, -0.9, -0.8]


def test_a_region_of_too_many_rows_says_up_to_which_step_it_was_looked_at(reader: Reader) -> None:
    found = listed(reader, Region("any", 1, 10), raw_rows=20)
    assert (found.until, found.found) == (4, 12)


def test_of_many_rows_only_those_steps_are_read_that_hold_some(root: Path, reader: Reader) -> None:
    while picture(Reader(Feed(root), raw_rows=1)).progress:
        time.sleep(0.05)
    book = reader.book("run")
    while book.counts(KINDS["cross_update"], book.parts(KINDS["cross_update"]))[1]:
        time.sleep(0.05)
    found = listed(reader, Region("any", 1, 10, -2.0, -0.85), raw_rows=12)
    assert (found.until, [row["step"] for row in found.rows]) == (None, [10, 9])


@pytest.mark.parametrize("uid", [2**63 - 1, 2**53 + 1, 0])
def test_an_identity_survives_the_way_to_the_browser_and_back(root: Path, uid: int) -> None:
    write(root / "run", {1: [responses([uid, 5], [-0.5, 0.0])]}, change_positive=0.1)
    reader = Reader(Feed(root))
    (row,) = json.loads(json.dumps(listed(reader, Region("any", 1, 1, -1, -0.2), "in_batch").rows))
    view = after_row(View(), row)
    assert view is not None
    assert view_of(query_of(view)).response == (uid, 1)


def test_responses_whose_correctness_or_identity_is_unknown_are_shown(root: Path) -> None:
    rows = Responses(tokens=[10], old_log_prob=[-20.0], log_prob=[-25.0])
    write(root / "run", {1: [rows]}, change_positive=0.1)
    reader = Reader(Feed(root))
    seen = picture(reader, "in_batch")
    assert seen.shown == (0, 0, 0, 1)
    assert PANELS[panels_of(seen.kind, seen.shown)[-1]] == "unknown"
    assert len(response_figure(seen, View())["data"]) == 5
    (row,) = listed(reader, Region("unknown", 1, 1), "in_batch").rows
    assert (row["uid"], row["correct"], row["change"]) == (None, None, -0.5)
    assert after_row(View(), row) is None
    assert seen.points is not None
    assert after_click(View(), {"x": 1, "y": place_of(-0.5)}, seen.points) is None


# the address


views = st.builds(
    View,
    kind=st.sampled_from([None, *KINDS]),
    steps=st.none() | st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(lambda p: (min(p), max(p))),
    change=st.none() | st.sampled_from([(-0.5, 0.25), (-1e-06, 20.0)]),
    region=st.none()
    | st.builds(
        Region,
        panel=st.sampled_from([*PANELS, "any", "broken"]),
        low=st.integers(0, 5),
        high=st.integers(5, 9),
        bottom=st.sampled_from([-math.inf, -0.5]),
        top=st.sampled_from([math.inf, 0.125]),
    ),
    response=st.none() | st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**9)),
    colour=st.sampled_from(["change", "entropy", "log-prob"]),
)


@given(view=views)
def test_an_address_restores_the_view(view: View) -> None:
    assert view_of(query_of(view)) == view


@pytest.mark.parametrize(
    "query",
    [
        *("", "?", None, "?kind=nothing&colour=red", "?steps=9_1", "?steps=1", "?steps=a_b", "?change=nan_1"),
        *("?change=1_1", "?change=-inf_inf", "?region=correct_1_2_nan_nan", "?region=other_1_2_0_1"),
        *("?region=correct_2_1_0_1", f"?response={2**63}_1", "?response=1_" + "9" * 400, "?response=x_1"),
        *("?steps=1e9_2e9", "?%00=%ff", "?steps=1_2_3", "?region=<script>", "?" + "steps=1_2&" * 5000),
    ],
)
def test_an_address_that_cannot_be_read_shows_the_run(query: str | None) -> None:
    view = view_of(query)
    assert view.unzoomed() == View()


def test_a_zoom_a_box_and_the_way_back(reader: Reader) -> None:
    seen, view = picture(reader), View(kind="cross_update")
    relayout = {"xaxis.range[0]": 2.4, "xaxis.range[1]": 6.6, "yaxis2.range[0]": -3.0, "yaxis2.range[1]": 1.0}
    zoomed = after_drag(view, relayout, seen)
    assert zoomed is not None
    assert zoomed.steps == (3, 6)
    assert zoomed.change is not None
    assert zoomed.change[0] == pytest.approx(0.01 * math.sinh(-3))
    assert after_drag(zoomed, {"xaxis.autorange": True}, seen) == view
    box = {"x0": 6.2, "x1": 1.7, "y0": 1.0, "y1": -4.0, "yref": "y2", "xref": "x2"}
    boxed = after_drag(view, {"selections": [box]}, seen)
    assert boxed is not None
    assert boxed.region is not None
    assert (boxed.region.panel, boxed.region.low, boxed.region.high) == ("advantage 0", 2, 6)
    assert boxed.region.bottom == pytest.approx(0.01 * math.sinh(-4), rel=1e-5)
    assert after_drag(view, {"selections": []}, seen) is None
    assert after_drag(view, {"selections": [{"x0": "a"}]}, seen) == view


def test_a_box_between_two_steps_takes_one_of_them_and_a_narrow_zoom_too(reader: Reader) -> None:
    seen = picture(reader)
    boxed = after_drag(View(), {"selections": [{"x0": 2.1, "x1": 2.3, "y0": 0, "y1": 1}]}, seen)
    assert boxed is not None
    assert boxed.region is not None
    assert (boxed.region.low, boxed.region.high) == (3, 3)
    zoomed = after_drag(View(), {"xaxis.range[0]": 2.1, "xaxis.range[1]": 2.3}, seen)
    assert zoomed is not None
    assert zoomed.steps == (3, 3)


def test_a_click_finds_the_response_that_lies_there(reader: Reader) -> None:
    points = picture(reader).points
    assert points is not None
    found = after_click(View(), {"x": 4, "y": np.float32(place_of(-0.4))}, points)
    assert found is not None
    assert found.response == (12, 4)
    assert after_click(View(), {"x": 77, "y": 0.0}, points) is None
    assert after_click(View(), {}, points) is None


def test_a_region_can_be_typed(reader: Reader) -> None:
    seen = picture(reader)
    view = after_typing(View(), "list", [None, 4, None, -0.2], seen)
    assert view is not None
    assert view.region == Region("any", 1, 4, -math.inf, -0.2)
    view = after_typing(View(), "zoom", [8, 2, -0.5, None], seen)
    assert view is not None
    assert view.steps == (2, 8)
    assert view.change is not None
    assert view.change[0] == -0.5
    assert view.change[1] > 0.05


def test_ticks_across_stand_on_steps_and_zero_is_in_every_panel(reader: Reader) -> None:
    layout = response_figure(picture(reader, steps=(3, 3)), View(), noise=0.001)["layout"]
    assert (layout["xaxis"]["dtick"], layout["xaxis"]["range"]) == (1, [2.5, 3.5])
    assert layout["xaxis2"]["matches"] == "x"
    assert layout["xaxis2"]["title"] == {"text": "step"}
    assert [shape["yref"] for shape in layout["shapes"]] == ["y", "y", "y2", "y2"]
    assert "dtick" not in response_figure(picture(reader), View())["layout"]["xaxis"]


def test_the_region_and_the_response_are_marked(reader: Reader) -> None:
    region = Region("correct", 2, 4, -math.inf, -0.1)
    figure = response_figure(picture(reader), View(region=region, response=(12, 4)))
    (box,) = (shape for shape in figure["layout"]["shapes"] if shape.get("name") == "region")
    assert (box["yref"], box["x0"], box["x1"], box["y1"]) == ("y", 1.5, 4.5, place_of(-0.1))
    assert box["y0"] == figure["layout"]["yaxis"]["range"][0]
    ring = drawn(figure, "chosen")
    assert (ring["x"], ring["y"]) == ([4], [pytest.approx(place_of(-0.4), rel=1e-6)])


def test_dark_and_light_differ_in_colour_alone(reader: Reader) -> None:
    light, dark = (response_figure(picture(reader), View(), dark=dark) for dark in (False, True))
    assert light["layout"]["font"]["color"] != dark["layout"]["font"]["color"]
    assert [trace.get("y") for trace in light["data"]] == [trace.get("y") for trace in dark["data"]]


@given(low=st.floats(-12, 11.9), width=st.floats(1e-3, 20))
def test_there_are_always_ticks_and_never_too_many(low: float, width: float) -> None:
    marks = ticks((low, min(low + width, 13)))
    assert 2 <= len(marks) <= 14
    assert [place for place, _ in marks] == sorted({place for place, _ in marks})


# the page


@pytest.fixture
def client(root: Path) -> FlaskClient:
    return create_app(root).server.test_client()


def ask(client: FlaskClient, output: str, **values: Any) -> dict[str, Any]:
    """One callback, as the browser asks for it."""
    asked = next(each for each in json.loads(client.get("/_dash-dependencies").data) if output in each["output"])
    known = {"responses-name.data": "run", "responses-drag.value": "select"}
    known |= {f"responses-{name.replace('__', '.')}": value for name, value in values.items()}

    def given_(item: Any) -> Any:
        if isinstance(item, list):
            return [given_(each) for each in item]
        return {**item, "value": known.get(f"{item['id']}.{item['property']}")}

    names = asked["output"].strip(".").split("...")
    outputs = [dict(zip(("id", "property"), name.rsplit(".", 1), strict=True)) for name in names]
    body = {
        "output": asked["output"],
        "outputs": outputs if len(outputs) > 1 else outputs[0],
        "inputs": [given_(item) for item in asked["inputs"]],
        "state": [given_(item) for item in asked["state"]],
        "changedPropIds": [f"responses-{next(iter(values)).replace('__', '.')}"],
    }
    answer = client.post("/_dash-update-component", json=body)
    assert answer.status_code in (200, 204), answer.data
    found: dict[str, Any] = json.loads(answer.data) if answer.data else {}
    return found


def draw(client: FlaskClient, search: str = "", **more: Any) -> dict[str, Any]:
    return ask(client, "responses-summary.children", url__search=search, **more)


def text_of(part: Any) -> str:
    """All words of a component."""
    if isinstance(part, dict):
        return text_of(part.get("props", {}).get("children"))
    return "".join(map(text_of, part)) if isinstance(part, list) else str(part if part is not None else "")


def test_the_page_says_what_it_shows_and_is_not_sent_again(client: FlaskClient, reader: Reader) -> None:
    answer = draw(client)["response"]
    assert "20 correct, 10 with advantage 0" in text_of(answer["responses-summary"]["children"])
    assert "3 with a change that is NaN or infinite" in text_of(answer["responses-summary"]["children"])
    assert [option["value"] for option in answer["responses-kind"]["options"]] == ["cross_update", "in_batch"]
    assert answer["responses-figure"]["figure"]["layout"]["dragmode"] == "select"
    shown = answer["responses-shown"]["data"]
    assert draw(client, shown__data=shown) == {}
    assert draw(client, "?kind=in_batch", shown__data=shown)["response"]["responses-summary"]


def test_controls_follow_the_address_and_only_where_they_differ(client: FlaskClient, reader: Reader) -> None:
    answer = draw(client, "?kind=in_batch&colour=entropy", kind__value="in_batch", colour__value="change")
    assert answer["sideUpdate"].keys() == {"responses-colour", "responses-whole"}
    assert answer["sideUpdate"]["responses-colour"] == {"value": "entropy"}


def test_what_is_done_changes_the_address(client: FlaskClient, reader: Reader) -> None:
    def moved(search: str = "", **done: Any) -> str | None:
        answer = ask(client, "responses-url.search", **done, url__search=search)
        found: str | None = answer["response"]["responses-url"]["search"] if answer else None
        return found

    assert moved(kind__value="in_batch") == "?kind=in_batch"
    assert moved(kind__value="cross_update") is None, "it is shown already"
    assert (
        moved("?steps=1_5&region=any_1_2_0_1&kind=in_batch", kind__value="cross_update")
        == "?kind=cross_update&steps=1_5"
    )
    assert moved(colour__value="entropy") == "?colour=entropy"
    assert moved(figure__relayoutData={"autosize": True}) is None
    assert moved(figure__relayoutData={"xaxis.range[0]": 1.5, "xaxis.range[1]": 4.5}) == "?steps=2_4"
    assert moved(figure__clickData={"points": [{"x": 4, "y": place_of(-0.4)}]}) == "?response=12_4"
    assert moved(grid__selectedRows=[{"uid": "7", "step": 2}]) == "?response=7_2"
    assert moved(grid__selectedRows=[]) is None
    assert moved("?steps=2_4", whole__n_clicks=1) == ""
    assert moved("?response=1_1", close__n_clicks=1) == ""
    assert moved("?region=any_1_2_0_1", clear__n_clicks=1) == ""
    assert moved(list__n_clicks=1, low__value=2, top__value=-0.1) == "?region=any_2_10_-inf_-0.1"
    assert moved("?steps=2_5", broken__n_clicks=1) == "?steps=2_5&region=broken_2_5_-inf_inf"
    assert moved(whole__n_clicks=None) is None


def test_a_region_and_a_response_are_shown(client: FlaskClient, reader: Reader) -> None:
    search = "?region=correct_3_6_-9_0&response=12_4"
    table = ask(client, "responses-found.children", url__search=search)["response"]
    assert "4 responses (correct, steps 3 to 6" in table["responses-found"]["children"]
    assert [row["change"] for row in table["responses-grid"]["rowData"]] == [-0.6, -0.5, -0.4, -0.3]
    assert not table["responses-table"]["hidden"]
    assert (
        ask(client, "responses-found.children", url__search=search, listed__data=table["responses-listed"]["data"])
        == {}
    )
    one = ask(client, "responses-detail.children", url__search=search)["response"]
    said = text_of(one["responses-detail"]["children"])
    assert "Response 12, step 4" in said
    assert "\N{MINUS SIGN}0.4 nats/token" in said
    assert "Plan(tokens=16, tokens_every=1)" in said
    missing = ask(client, "responses-detail.children", url__search="?response=777_4")["response"]
    assert "It is not in the run" in text_of(missing["responses-detail"]["children"])


def test_numbers_that_json_does_not_know_reach_the_browser(client: FlaskClient, reader: Reader) -> None:
    answer = ask(client, "responses-found.children", url__search="?region=broken_1_10_-inf_inf")
    assert [row["change"] for row in answer["response"]["responses-grid"]["rowData"]] == ["nan", "-inf", "inf"]


def empty_of(client: FlaskClient) -> str:
    answer = draw(client)["response"]
    assert answer["responses-body"]["hidden"]
    return text_of(answer["responses-empty"]["children"])


def test_a_run_without_a_step_without_rows_and_without_log_probs(client: FlaskClient, root: Path) -> None:
    write(root / "run", {})
    assert "No step yet" in empty_of(client)
    write(root / "run", {1: []}, resume=True, reward=0.5)
    assert "LikelihoodProbe(policy)" in empty_of(client)
    write(root / "run", {2: [Responses(uid=[1], reward=[0.5])]}, resume=True, responses=1)
    answer = draw(client)["response"]
    assert not answer["responses-body"]["hidden"]
    assert "1 have no change" in text_of(answer["responses-summary"]["children"])


def test_a_run_without_probes_shows_its_batches(client: FlaskClient, root: Path) -> None:
    write(root / "run", {1: [responses([1], [0.1])]}, change_positive=0.1)
    answer = draw(client)["response"]
    assert [option["label"] for option in answer["responses-kind"]["options"]] == ["in batch"]
    assert "add a LikelihoodProbe" in text_of(answer["responses-summary"]["children"])
    said = text_of(draw(client, "?kind=fixed")["response"]["responses-summary"]["children"])
    assert "no responses of this kind: choose another" in said


def test_a_run_that_is_gone_says_so(client: FlaskClient) -> None:
    assert "there is no run" in empty_of(client)


def test_a_run_of_a_newer_version_says_so(client: FlaskClient, root: Path) -> None:
    write(root / "run", {1: []})
    info = root / "run" / "run.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"schema_version": 99}))
    assert "update lldwatch" in empty_of(client)


def test_the_page_has_an_address_and_a_way_back(client: FlaskClient, root: Path) -> None:
    write(root / "deep" / "run", {1: []})
    body = {
        "output": "page.children",
        "outputs": {"id": "page", "property": "children"},
        "inputs": [{"id": "visit", "property": "data", "value": {"pathname": href("deep/run", "responses")}}],
        "changedPropIds": ["visit.data"],
    }
    page = json.dumps(json.loads(client.post("/_dash-update-component", json=body).data))
    assert f'"href": "{href("deep/run")}"' in page
    assert "responses-figure" in page


def test_tokens_that_were_kept_are_told_in_the_table(root: Path) -> None:
    kept = Tokens(kind=np.array(["cross_update"]), uid=[3], position=[0])
    write(root / "run", {1: [probes([3, 4], [-0.1, -0.2]), kept]}, cross_update_change=-0.1)
    found = listed(Reader(Feed(root)), Region("any", 1, 1))
    assert {row["uid"]: row["kept"] for row in found.rows} == {"3": "yes", "4": "no"}
