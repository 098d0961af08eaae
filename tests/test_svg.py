"""Axes, thinning and drawing: numbers in, numbers out; that it looks well is seen in the browser."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lldwatch.diagnosis import Stage
from lldwatch.reports.axes import extent, number, ticks
from lldwatch.reports.svg import FLOOR, LEFT, POINTS, RIGHT, TOP, WIDTH, Chart, draw, notes, stages
from lldwatch.series import Band, Series, middles, pieces, summary, thin

WEIRD = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 3e38])


def series(values: list[float], first: int = 1) -> Series:
    return Series(np.arange(first, first + len(values)), np.array(values, dtype=np.float64))


def chart(values: list[float], **more: object) -> Chart:
    lines = [series(values)]
    return Chart(label="x", lines=lines, first=1, last=max(len(values), 1), **more)  # type: ignore[arg-type]


def points(drawing: str) -> list[tuple[float, float]]:
    """Where all lines go."""
    found = []
    for path in re.findall(r'class="line[^"]*" d="([^"]*)"', drawing):
        found += [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
    return found


@given(st.lists(WEIRD, max_size=60), st.booleans())
def test_any_series_is_drawn_inside_of_its_chart(values: list[float], log: bool) -> None:
    made = chart(values, log=log)
    drawing = draw(made)
    ElementTree.fromstring(drawing)
    assert "nan" not in drawing.lower()
    assert "inf" not in drawing.lower()
    for x, y in points(drawing):
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= FLOOR
    for note in notes(made):
        assert note


@given(st.lists(WEIRD, min_size=1, max_size=400), st.integers(5, 60))
def test_thinning_keeps_extremes_ends_and_what_is_not_finite(values: list[float], limit: int) -> None:
    array = np.array(values)
    kept = thin(array, limit)
    assert len(kept) <= limit
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    assert (np.diff(kept) > 0).all()
    finite = array[np.isfinite(array)]
    if len(finite):
        left = array[kept][np.isfinite(array[kept])]
        assert left.min() == finite.min()
        assert left.max() == finite.max()
    assert np.isfinite(array[kept]).all() == np.isfinite(array).all()


def test_a_spike_of_one_step_in_a_hundred_thousand_is_drawn_at_its_height() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000)
    values[70_000] = 12.0
    drawing = draw(chart(values.tolist()))
    assert len(drawing) < 15_000
    assert min(y for _, y in points(drawing)) < TOP + 10
    assert len(points(drawing)) < 3 * POINTS


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_marked_and_told(value: float) -> None:
    values = [1.0 + place / 1000 for place in range(10_000)]
    values[5000] = value
    made = chart(values)
    assert 'class="cross"' in draw(made)
    assert notes(made) == [f"\N{MULTIPLICATION SIGN} not finite: {number(value)} at step 5,001"]
    assert 'class="cross"' not in draw(chart([1.0, 2.0]))


def test_one_far_value_does_not_flatten_the_others_and_is_told() -> None:
    values = [math.sin(place) for place in range(100)]
    values[40] = 1e6
    made = chart(values)
    ends = extent(made.lines, log=False)
    assert ends is not None
    assert ends[1] < 2
    assert notes(made) == ["▲ above the axis: 1e6 at step 41"]
    assert 'class="beyond"' in draw(made)


def test_zero_on_a_logarithmic_axis_stands_below_it() -> None:
    made = chart([1.0, 0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 100.0], log=True)
    assert notes(made) == ["▼ below the axis: 0 at step 2, 0 at step 4, 0 at step 5, 0 at step 6, and at 1 more"]
    assert extent(made.lines, log=True) == pytest.approx((1 / 1.5, 150.0))


def test_a_hole_breaks_the_line_and_a_point_alone_is_a_dot() -> None:
    broken = Series(np.array([1, 2, 3, 50, 51]), np.array([1.0, 2.0, 3.0, 4.0, math.nan]))
    assert pieces(broken).tolist() == [0, 0, 0, 1, 2]
    drawing = draw(Chart(label="x", lines=[broken], first=1, last=51))
    (path,) = re.findall(r'class="line l0" d="([^"]*)"', drawing)
    assert path.count("M") == 2
    assert path.count("h0") == 2
    regular = Series(np.arange(10, 200, 10), np.ones(19))
    assert set(pieces(regular).tolist()) == {0}


def test_the_worst_stage_of_a_pixel_is_drawn_and_named_where_there_is_room() -> None:
    bands = [Band(Stage.DECAY, 100.5, 50_000.5), Band(Stage.COLLAPSE, 60_000.5, 60_001.5)]
    drawing = stages(bands, 1, 100_000)
    assert 'class="collapse"' in drawing
    assert ">decay</text>" in drawing
    assert "collapse</text>" not in drawing
    assert stages([], 1, 1) == ""


def test_many_short_stages_stay_small() -> None:
    bands = [Band(Stage.DECAY, step - 0.5, step + 0.5) for step in range(1, 100_000, 2)]
    assert len(stages(bands, 1, 100_000)) < 1000


@given(st.floats(-1e30, 1e30), st.floats(1e-3, 1e3), st.booleans())
def test_ticks_are_few_round_and_inside(low: float, factor: float, log: bool) -> None:
    low = abs(low) + 1e-30 if log else low
    high = low + factor * (abs(low) or 1.0)
    marks = ticks(low, high, log=log)
    assert 1 <= len(marks) <= 12
    assert all(low - 1e-9 * abs(low) <= mark <= high + 1e-9 * abs(high) for mark in marks)
    assert marks == sorted(marks)


def test_ticks_are_those_that_a_person_would_write() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.5, 1.0]
    assert ticks(1, 80) == [20, 40, 60, 80]
    assert ticks(0.01, 100, log=True) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert ticks(0.3, 4.0, log=True) == pytest.approx([0.5, 1, 2])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (0.0, "0"),
        (-0.05, "\N{MINUS SIGN}0.05"),
        (12345, "12,345"),
        (1.5e-7, "1.5e\N{MINUS SIGN}7"),
        (2e9, "2e9"),
        (math.nan, "NaN"),
        (math.inf, "+inf"),
        (-math.inf, "\N{MINUS SIGN}inf"),
        (0.123456, "0.1235"),
    ],
)
def test_numbers_are_short_and_have_a_real_minus_sign(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_label_cannot_leave_its_attribute() -> None:
    drawing = draw(Chart(label='"><script>', lines=[series([1.0])], first=1, last=1))
    assert "<script" not in drawing


def test_a_summary_has_the_ends_and_the_extremes() -> None:
    told = summary(series([1.0, math.nan, 5.0, 3.0]))
    assert told == {
        "steps": 4,
        "first_step": 1,
        "last_step": 4,
        "first": 3.0,
        "last": 3.0,
        "least": 1.0,
        "largest": 5.0,
        "not_finite": 1,
    }
    assert summary(series([math.nan]))["least"] is None


def test_the_middle_of_a_long_line_is_its_median() -> None:
    middle = middles(series([0.0, 1.0, 100.0, 4.0, 5.0, 6.0]), 2)
    assert middle.steps.tolist() == [2, 5]
    assert middle.values.tolist() == [1.0, 5.0]
