from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from lldwatch.parting import Parting
from lldwatch.series import Series
from lldwatch_dashboard.compare_figures import MOST_IN_ONE_BOX, POINTS, figure, height
from lldwatch_dashboard.compare_traces import COLOURS, DASHES, key_picture, look, short
from lldwatch_dashboard.lanes import Lane, aligned


def lane(place: int, *, onset: int | None = None, steps: int = 40, name: str = "run", **signals: Any) -> Lane:
    given = {"reward": np.linspace(0.2, 0.8, steps) + 0.01 * place} | signals
    found = {key: Series(np.arange(1, len(values) + 1), np.asarray(values, float)) for key, values in given.items()}
    return Lane(place, name, 1, steps, steps - 1, onset, found)


def draw(*lanes: Lane, align: Any = "step", signals: Any = ("reward",), **more: Any) -> dict[str, Any]:
    drawn = figure(lanes, aligned(lanes, align), signals, **({"partings": {}} | more))
    go.Figure(drawn)  # plotly knows every key of it
    return drawn


def trace(drawn: dict[str, Any], meta: str) -> Any:
    return next(each for each in drawn["data"] if each["meta"] == meta)


def texts(drawn: dict[str, Any]) -> list[str]:
    return [note["text"] for note in drawn["layout"]["annotations"]]


def test_each_lane_is_drawn_raw_and_as_a_mean_in_its_own_look() -> None:
    drawn = draw(lane(0), lane(1))
    for letter in "AB":
        raw, mean = trace(drawn, f"{letter}:reward:raw"), trace(drawn, f"{letter}:reward:mean")
        np.testing.assert_allclose(raw["y"], mean["y"], atol=0.05)
        assert raw["opacity"] < mean.get("opacity", 1.0)
        assert mean["x"].tolist() == list(range(1, 41))
    assert trace(drawn, "A:reward:mean")["line"] != trace(drawn, "B:reward:mean")["line"]
    assert {"<b>A</b>", "<b>B</b>"} <= set(texts(drawn))


def test_twelve_runs_have_twelve_looks() -> None:
    assert len({tuple(look(place, False).values()) for place in range(12)}) == 12
    assert len({key_picture(place, True) for place in range(12)}) == 12
    assert len(COLOURS) * len(DASHES) >= 12


def test_without_smoothing_there_is_one_line() -> None:
    metas = [each["meta"] for each in draw(lane(0), smooth=1)["data"]]
    assert metas == ["A:reward:mean"]


def test_what_was_set_is_not_smoothed() -> None:
    drawn = draw(lane(0, llds_coefficient=[0.0] * 20 + [4.0] * 20), signals=("llds_coefficient",))
    assert set(trace(drawn, "A:llds_coefficient:mean")["y"].tolist()) == {0.0, 4.0}


def test_nan_and_infinite_values_are_marked_at_the_top_of_the_panel() -> None:
    values = [0.5] * 38 + [math.nan, math.inf]
    marks = trace(draw(lane(0, reward=values), lane(1)), "A:reward:marks")
    assert (marks["x"].tolist(), marks["text"]) == ([39, 40], ["NaN", "+inf"])
    assert marks["y"].min() > 0.8, "above the other lane's line too"


def test_the_gradient_norm_has_a_log_axis_and_marks_zeros() -> None:
    drawn = draw(lane(0, grad_norm=[1.0] * 38 + [0.0, 100.0]), signals=("grad_norm",))
    axis = drawn["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert axis["range"] == pytest.approx([math.log10(0.5), math.log10(200)])
    assert trace(drawn, "A:grad_norm:marks")["text"] == ["0"]
    assert math.isnan(trace(drawn, "A:grad_norm:raw")["y"][38])


def test_panels_share_the_reader_s_zoom_and_the_y_axes_are_fixed() -> None:
    many = lane(0, kl=[0.1] * 40, entropy=[1.0] * 40)
    layout = draw(many, signals=("reward", "kl", "entropy"))["layout"]
    assert [layout[f"xaxis{suffix}"].get("matches") for suffix in ("", 2, 3)] == [None, "x", "x"]
    assert all(layout[f"yaxis{suffix}"]["fixedrange"] for suffix in ("", 2, 3))
    assert not any("range" in layout[f"xaxis{suffix}"] for suffix in ("", 2, 3))
    assert [layout[f"xaxis{suffix}"]["showticklabels"] for suffix in ("", 2, 3)] == [False, True, True]


@pytest.mark.parametrize("columns", [1, 2])
def test_panels_lie_beside_and_below_each_other(columns: int) -> None:
    many = lane(0, kl=[0.1] * 40, entropy=[1.0] * 40)
    layout = draw(many, signals=("reward", "kl", "entropy"), columns=columns)["layout"]
    boxes = [(layout[f"xaxis{suffix}"]["domain"], layout[f"yaxis{suffix}"]["domain"]) for suffix in ("", 2, 3)]
    for place, (x, y) in enumerate(boxes):
        assert 0 <= x[0] < x[1] <= 1 + 1e-9
        assert 0 <= y[0] < y[1] <= 1
        for other_x, other_y in boxes[:place]:
            assert x[0] >= other_x[1] or x[1] <= other_x[0] or y[1] <= other_y[0]
    assert layout["height"] == height(3, columns)


def test_the_onset_stands_at_the_foot_and_is_a_line_where_all_lie_by_it() -> None:
    drawn = draw(lane(0, onset=11), lane(1, onset=11), lane(2))
    feet = [trace(drawn, f"{letter}:reward:onset") for letter in "AB"]
    assert [foot["x"].tolist() for foot in feet] == [[11], [11]]
    low, high = drawn["layout"]["yaxis"]["range"]
    assert low < feet[0]["y"][0] < feet[1]["y"][0] < high, "one above the other"
    assert not any(each["meta"] == "C:reward:onset" for each in drawn["data"])
    by = draw(lane(0, onset=11), lane(1, onset=21), lane(2), align="onset")
    assert not any(each["meta"].endswith(":onset") for each in by["data"])
    assert [shape["x0"] for shape in by["layout"]["shapes"]] == [0]
    assert trace(by, "B:reward:mean")["x"][20] == 0
    assert trace(by, "C:reward:mean")["opacity"] < 1, "its place is guessed"


def test_where_a_run_parts_from_the_first_is_marked_on_its_line() -> None:
    parting = Parting("reward", 40, step=15, certain=17)
    drawn = draw(lane(0), lane(1), partings={1: [parting]}, align="share")
    mark = trace(drawn, "B:reward:parts")
    assert mark["x"].tolist() == pytest.approx([14 / 39])
    assert mark["text"] == ["parts from A at step 15, certain at 17"]
    assert mark["y"][0] == trace(drawn, "B:reward:mean")["y"][14]


def test_a_letter_stands_where_its_line_ends_and_not_upon_another() -> None:
    drawn = draw(lane(0), lane(1), lane(2, steps=20))
    found = {note["name"]: note for note in drawn["layout"]["annotations"] if "name" in note}
    assert [found[letter]["x"] for letter in "ABC"] == [40, 40, 20]
    assert abs(found["A"]["y"] - found["B"]["y"]) > 0.09


def test_letters_that_end_far_from_each_other_stay_at_their_lines() -> None:
    drawn = draw(lane(0, steps=10), lane(1, steps=25), lane(2, steps=40))
    low, high = drawn["layout"]["yaxis"]["range"]
    for note in (note for note in drawn["layout"]["annotations"] if "name" in note):
        line = trace(drawn, f"{note['name']}:reward:mean")
        assert note["x"] == line["x"][-1]
        assert note["y"] == pytest.approx((line["y"][-1] - low) / (high - low), abs=1e-6)


def test_a_signal_of_one_run_alone_is_drawn_for_it_alone_and_none_leaves_an_empty_panel() -> None:
    drawn = draw(lane(0), lane(1, kl=[0.1] * 40), signals=("kl", "entropy"))
    assert {each["meta"][0] for each in drawn["data"]} == {"B"}
    assert drawn["layout"]["yaxis2"]["visible"] is False


@pytest.mark.parametrize("values", [[math.nan] * 3, [0.5], [0.0, 0.0], [-1e30, 1e30], []])
def test_odd_signals_have_a_figure(values: list[float]) -> None:
    drawn = draw(lane(0, reward=values, grad_norm=values), signals=("reward", "grad_norm"))
    assert {"yaxis", "yaxis2"} <= drawn["layout"].keys()


def test_long_runs_are_thinned_and_many_have_small_hover_boxes() -> None:
    many = [lane(place, steps=20_000) for place in range(12)]
    drawn = draw(*many)
    assert max(len(each["x"]) for each in drawn["data"]) <= POINTS // 12
    assert drawn["layout"]["hovermode"] == "closest"
    assert draw(*many[:MOST_IN_ONE_BOX])["layout"]["hovermode"] == "x unified"


def test_no_run_has_a_figure_too() -> None:
    assert draw(signals=())["data"] == []


def test_dark_and_light_differ_in_colour_alone() -> None:
    light, dark = (draw(lane(0), lane(1), dark=dark) for dark in (False, True))
    assert light["layout"]["font"] != dark["layout"]["font"]
    for one, other in zip(light["data"], dark["data"], strict=True):
        np.testing.assert_array_equal(one["y"], other["y"])


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "%{x}", "x" * 200, "a & b"])
def test_a_hostile_name_is_text_in_a_hover_box(name: str) -> None:
    assert "<" not in short(name)
    assert "%{" not in short(name)
    assert len(short(name)) < 80
    assert name not in str(draw(lane(0, name=name))["data"])
