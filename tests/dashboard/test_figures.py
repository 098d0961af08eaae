from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from drawn_figure import run_figure

from lldwatch import Observation, Stage
from lldwatch.diagnosis import Verdict
from lldwatch.series import Band, Series
from lldwatch_dashboard.figures import empty_figure, log_ticks, room, stage_labels
from lldwatch_dashboard.panels import ALWAYS, LIGHT, PANELS, READINGS, Sheet, axis, left_out, sheet_of
from lldwatch_dashboard.series import MAX_POINTS


def trace(figure: go.Figure, meta: str) -> Any:
    return next(trace for trace in figure.data if trace.meta == meta)


def observation(step: int, **columns: Any) -> Observation:
    healthy = {"reward": 0.5, "entropy": 0.3, "log_prob_correct": -0.2, "log_prob_incorrect": -0.5, "grad_norm": 1.0}
    change = {
        "post_update_zero_advantage": -0.02,
        "cross_update_change": -0.01,
        "cross_update_error": 0.002,
        "noise_floor": 0.001,
        "llds_coefficient": 0.0,
        **dict.fromkeys(("post_update_correct", "post_update_incorrect", "lagged_change_10"), -0.01),
        **dict.fromkeys(("fixed_anchor_change", "kl", "clip_fraction"), 0.1),
        "response_length": 20.0,
        "updates_per_batch": 4,
    }
    return Observation(step=step, **{**healthy, **change, **columns})


OBSERVATIONS = [observation(step) for step in range(1, 41)]
VERDICTS = [Verdict(step, Stage.DECAY if step > 30 else Stage.HEALTHY, None, None) for step in range(1, 41)]


def test_every_signal_of_every_panel_is_drawn_raw_and_as_a_mean() -> None:
    figure = run_figure(OBSERVATIONS, VERDICTS)
    for row, panel in enumerate(PANELS):
        for name in panel.signals:
            for kind in ("raw", "mean"):
                drawn = trace(figure, f"{name}:{kind}")
                assert drawn.yaxis == ("y" if row == 0 else f"y{row + 1}")
                assert drawn.x.tolist() == list(range(1, 41))


def test_panels_name_known_signals_and_the_headline_is_the_tallest() -> None:
    assert {name for panel in PANELS for name in panel.signals} <= set(READINGS)
    assert PANELS[0].signals[0] == "cross_update_change"
    assert PANELS[0].height > max(panel.height for panel in PANELS[1:])


def test_panels_lie_below_each_other_within_the_figure() -> None:
    sheet = Sheet(PANELS)
    places = sheet.domains()
    assert places[0][1] <= 1
    assert places[-1][0] == pytest.approx(0)
    assert all(below[1] < above[0] for above, below in itertools.pairwise(places))
    assert sheet.tops()[0] == sheet.top < Sheet(PANELS, events=True).top
    assert sheet.tops()[-1] + PANELS[-1].height < sheet.height


def test_the_stage_is_a_band_behind_all_panels_and_is_named() -> None:
    figure = run_figure(OBSERVATIONS, VERDICTS)
    band = next(shape for shape in figure.layout.shapes if shape.name == "decay")
    assert (band.x0, band.x1, band.y0, band.layer) == (30.5, 40.5, 0, "below")
    assert [note.text for note in figure.layout.annotations] == ["decay, known at 31"]
    assert trace(figure, "stage").text == ("decay",) * 10


def test_labels_of_flickering_stages_do_not_lie_on_each_other() -> None:
    flicker = [Band(Stage.STAGNATION, step, step + 1) for step in range(100, 140, 2)]
    labels = stage_labels([*flicker, Band(Stage.DECAY, 141, 143)], LIGHT)
    assert [label["text"] for label in labels] == [
        "stagnation, known at 100",
        "stagnation, known at 136",
        "decay, known at 142",
    ]
    assert labels[1]["yshift"] != labels[2]["yshift"]


def test_zeros_of_the_gradient_norm_are_marked_and_not_drawn_as_a_line() -> None:
    observations = [*OBSERVATIONS, observation(41, grad_norm=0.0), observation(42, grad_norm=math.inf)]
    figure = run_figure(observations, [])
    marks = trace(figure, "grad_norm:marks")
    assert marks.x.tolist() == [41, 42]
    assert marks.text == ("0", "+inf")
    assert marks.y[0] < 1 < marks.y[1]
    assert math.isnan(trace(figure, "grad_norm:raw").y[40])
    assert figure.layout[f"yaxis{[panel.log for panel in PANELS].index(True) + 1}"].type == "log"


def test_a_nan_on_a_linear_axis_is_marked() -> None:
    figure = run_figure([*OBSERVATIONS, observation(41, entropy=math.nan)], [])
    assert trace(figure, "entropy:marks").text == ("NaN",)


def test_no_trace_is_longer_than_the_limit() -> None:
    many = [observation(step, grad_norm=float(step % 7)) for step in range(5000)]
    figure = run_figure(many, [Verdict(seen.step, Stage.DECAY, None, None) for seen in many])
    assert max(len(drawn.x) for drawn in figure.data) <= MAX_POINTS


def test_what_was_not_recorded_is_said_in_its_panel() -> None:
    figure = run_figure([Observation(step=1, reward=0.5)], [])
    said = [note.text for note in figure.layout.annotations]
    assert "not recorded: needs cross_update_change or post_update_zero_advantage" in said
    assert "not recorded: needs log_prob_correct or log_prob_incorrect" in said
    assert not any("reward" in text for text in said)


def test_a_run_without_steps_has_a_figure() -> None:
    assert [note.text for note in run_figure([], []).layout.annotations] == ["waiting for the first step"] * ALWAYS
    assert go.Figure(empty_figure()).data == ()


def test_axes_leave_room_for_lines_at_the_edge_and_stand_nan() -> None:
    line = Series(np.arange(3), np.array([0.0, 1.0, math.nan]))
    assert room([line], log=False) == pytest.approx([-0.08, 1.08])
    assert room([line], log=True) == [0.5, 2.0]
    assert room([line.at(np.array([2]))], log=False) == []


def test_zoom_belongs_to_the_user() -> None:
    figure = run_figure(OBSERVATIONS, VERDICTS, revision="search/first")
    assert figure.layout.uirevision == "search/first"
    assert figure.layout.xaxis.range is None
    assert figure.layout.hovermode == "x unified"


def test_dark_and_light_differ_in_colour_alone() -> None:
    light, dark = (run_figure(OBSERVATIONS, VERDICTS, dark=dark) for dark in (False, True))
    assert light.layout.font.color != dark.layout.font.color
    for one, other in zip(light.data, dark.data, strict=True):
        np.testing.assert_array_equal(one.y, other.y)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.25, 0.9, [0.3, 0.5, 0.7]),
        (0.4, 12.0, [0.5, 1, 2, 5, 10]),
        (0.1, 100.0, [0.1, 1, 10, 100]),
        (1e-9, 1e9, [1e-9, 1e-6, 1e-3, 1, 1e3, 1e6, 1e9]),
    ],
)
def test_ticks_of_a_log_axis_are_few_and_round(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == ticks


def test_a_healthy_run_says_so_where_the_stages_would_stand() -> None:
    figure = run_figure(OBSERVATIONS, [Verdict(seen.step, Stage.HEALTHY, None, None) for seen in OBSERVATIONS])
    assert [note.text for note in figure.layout.annotations] == ["✓ healthy at every step"]


def test_an_empty_panel_shows_no_axis_and_keeps_its_place() -> None:
    figure = run_figure([Observation(step=3, reward=0.5)], [])
    assert [figure.layout[f"yaxis{row + 1 if row else ''}"].visible for row in range(5)] == [False] * 4 + [True]
    assert {drawn.yaxis for drawn in figure.data} == {axis(row) for row in range(ALWAYS)}


def test_a_run_without_llds_is_not_said_to_lack_a_column() -> None:
    without = [observation(step, llds_coefficient=None) for step in range(1, 5)]
    notes = [note.text for note in run_figure(without, VERDICTS[:4]).layout.annotations]
    assert not any("not recorded" in note for note in notes)
    assert left_out(sheet_of(set(READINGS) - {"llds_coefficient"})) == ["LLDS was not in use"]
