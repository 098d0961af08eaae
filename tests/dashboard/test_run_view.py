from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dash.development.base_component import Component
from drawn_figure import run_figure

from lldwatch import Diagnosis, Observation, RunInfo, Stage
from lldwatch.diagnosis import Check, Evidence
from lldwatch.series import Series
from lldwatch_dashboard import why
from lldwatch_dashboard.downloads import as_csv, file_name
from lldwatch_dashboard.event_marks import MOST_LABELS, EventMark, escaped, event_marks, lanes
from lldwatch_dashboard.feed import Snapshot, Summary
from lldwatch_dashboard.lines import lines_of
from lldwatch_dashboard.news import Drawn
from lldwatch_dashboard.pages.run import death, news_of
from lldwatch_dashboard.panels import ALWAYS, READINGS, left_out, sheet_of
from lldwatch_dashboard.ruler import PLAIN, ruler_of, stretch
from lldwatch_dashboard.run_view import RunView
from lldwatch_dashboard.series import MAX_POINTS, edge_marks, thin_around, usual, within
from lldwatch_dashboard.shared import Visit

STEPS = [Observation(step=step, reward=0.5, updates=4, time=1e9 + 10 * step) for step in range(1, 41)]


def trace(figure: Any, meta: str) -> Any:
    return next(trace for trace in figure.data if trace.meta == meta)


@pytest.mark.parametrize(
    "view",
    [
        RunView(),
        RunView("updates", 20, True, (10.0, 20.5)),
        RunView("time", 1, False, "all"),
        RunView(span=(-3.5, 1234567.25)),
    ],
)
def test_an_address_holds_the_whole_view(view: RunView) -> None:
    assert RunView.of(view.search) == view


@pytest.mark.parametrize(
    "search",
    [None, "", "?x=<b>&mean=-1&y=1&steps=5", "?steps=9~3", "?steps=nan~3", "?steps=1~inf", "?mean=99999", "?mean=²"],
)
def test_nonsense_in_an_address_is_left_out(search: str | None) -> None:
    assert RunView.of(search) == RunView()


def test_a_mean_is_held_within_bounds() -> None:
    assert [RunView.of(f"?mean={size}").smooth for size in ("0", "7", "5000")] == [1, 7, 100]


def test_rulers_of_updates_and_time() -> None:
    assert ruler_of(lines_of(STEPS), "updates").at([0, 1, 40, 20.5]).tolist() == [0, 4, 160, 82]
    assert ruler_of(lines_of(STEPS), "time").at([1, 2.5]).tolist() == [1000000010e3, 1000000025e3]
    assert ruler_of(lines_of(STEPS), "updates").back(82) == 20.5
    assert (
        ruler_of(lines_of(STEPS), "step")
        is ruler_of(lines_of([]), "time")
        is ruler_of(lines_of([Observation(step=1)]), "updates")
        is PLAIN
    )


def test_a_clock_that_was_set_back_does_not_turn_the_axis() -> None:
    times = [100.0, 110.0, None, 105.0, 120.0]
    ruler = ruler_of(lines_of([Observation(step=step, time=time) for step, time in enumerate(times)]), "time")
    assert (np.diff(ruler.places) >= 0).all()
    assert ruler_of(lines_of([Observation(step=3, time=7.0)]), "time").place(3) == 7000


def test_what_plotly_says_of_a_zoom_becomes_steps() -> None:
    time = ruler_of(lines_of(STEPS), "time")
    assert stretch({"xaxis.range[0]": 3.004, "xaxis.range[1]": 9}, PLAIN) == (3.0, 9.0)
    assert stretch({"xaxis.range": [9, 3]}, PLAIN) == (3.0, 9.0)
    dates = ["2001-09-09 01:47:10", "2001-09-09 01:48:20.5000"]
    assert stretch({"xaxis.range[0]": dates[0], "xaxis.range[1]": dates[1]}, time) == (3.0, 10.05)
    for nothing in (None, {}, {"autosize": True}, {"xaxis.autorange": True}, {"xaxis.range[0]": 3}):
        assert stretch(nothing, PLAIN) is None
    assert stretch({"xaxis.range[0]": "junk", "xaxis.range[1]": "2"}, time) is None
    assert stretch({"xaxis.range[0]": "2001-09-09", "xaxis.range[1]": "2001-09-10"}, PLAIN) is None


def test_a_stretch_is_drawn_from_every_step_and_the_rest_stays_coarse() -> None:
    values = np.random.default_rng(1).normal(size=50_000)
    values[[20_100, 20_200, 100]] = 50.0, math.nan, -50.0
    series = Series(np.arange(50_000), values)
    kept = thin_around(series, (20_000, 21_000))
    assert set(range(20_000, 21_001)) <= set(kept.tolist())
    assert {0, 100, 49_999} <= set(kept.tolist())
    assert len(kept) <= MAX_POINTS
    assert (np.diff(kept) > 0).all()
    assert {20_100, 20_200} <= set(thin_around(series, (10_000, 40_000)).tolist())
    assert thin_around(series, (60_000, 70_000)).max() < 50_000


def test_parts_of_a_series() -> None:
    series = Series(np.arange(1, 102), np.array([*range(100), 1e6]))
    assert within(series, (3, 5)).steps.tolist() == [3, 4, 5]
    assert within(series, None) is series
    assert usual(series).values.max() == 99
    nothing = Series(np.arange(1), np.array([math.nan]))
    assert usual(nothing) is nothing


def test_marks_stand_at_the_edge_of_what_is_seen() -> None:
    series = Series(np.arange(4), np.array([1.0, 100.0, math.nan, 2.0]))
    assert edge_marks(series, log=False, seen=series.at(np.array([0, 3])))[0].height == 2.0


def test_the_mean_is_of_as_many_steps_as_the_view_says() -> None:
    observations = [Observation(step=step, reward=float(step)) for step in range(1, 41)]
    assert trace(run_figure(observations, [], view=RunView(smooth=20)), "reward:mean").y[-1] == 30.5
    alone = run_figure(observations, [], view=RunView(smooth=1))
    assert "reward:mean" not in [drawn.meta for drawn in alone.data]
    assert trace(alone, "reward:raw").y.tolist() == list(range(1, 41))


def test_the_y_axis_is_cut_to_the_usual_values_or_to_those_in_view() -> None:
    observations = [Observation(step=step, reward=1e6 if step == 7 else step / 400) for step in range(1, 401)]

    def top(view: RunView) -> Any:
        return run_figure(observations, [], view=view).layout.yaxis5.autorangeoptions

    assert top(RunView()).clipmax is None
    assert top(RunView(clip=True)).clipmax < 2
    assert top(RunView(span=(100, 200))).clipmax < 0.6
    assert top(RunView(span=(1, 200))).clipmax > 1e6


def test_axes_of_updates_and_time_carry_everything() -> None:
    marks = [EventMark(30, "resume", "resume")]
    updates = run_figure(STEPS, [], marks, view=RunView("updates"))
    assert trace(updates, "reward:raw").x.tolist() == [4.0 * step for step in range(1, 41)]
    assert [shape.x0 for shape in updates.layout.shapes if shape.name == "resume"] == [120]
    time = run_figure(STEPS, [], marks, view=RunView("time"))
    assert time.layout.xaxis.type == "date"
    assert trace(time, "reward:raw").x[0] == 1000000010e3
    assert run_figure([Observation(step=1, reward=0.5)], [], view=RunView("updates")).layout.xaxis.title.text == "step"


def test_panels_of_what_was_never_recorded_become_one_line() -> None:
    assert len(sheet_of(()).panels) == ALWAYS
    assert left_out(sheet_of(())) == [
        "Likelihood change of the batch trained on",
        "Likelihood change over many steps",
        "Response length",
        "KL from the reference policy",
        "Clip fraction",
        "Updates per batch",
        "LLDS was not in use",
    ]
    assert left_out(sheet_of(READINGS)) == []


EVENTS: list[dict[str, Any]] = [
    {"step": -1, "time": 0.0, "kind": "import", "detail": "from <b>a log</b>\nmore"},
    {"step": 3, "time": 0.0, "kind": "probe", "detail": "probes"},
    {"step": 8, "time": 0.0, "kind": "llds", "detail": "engaged up to 4; coefficient 0 -> 2"},
    {"step": 9, "time": 0.0, "kind": "llds", "detail": "coefficient 2 -> 4"},
    {"step": 20, "time": 0.0, "kind": "resume", "detail": "resume"},
    {"step": 30, "time": 0.0, "kind": "llds", "detail": "coefficient 4 -> 0"},
]


def test_events_onsets_and_the_warning_are_marks() -> None:
    ill = Diagnosis(step=40, stage=Stage.DECAY, onsets={Stage.DECAY: 5}, known={Stage.DECAY: 7}, first_warning=7)
    marks = event_marks(ill, lines_of(STEPS), EVENTS)
    assert [(mark.step, mark.label) for mark in marks] == [
        (1, "import"),
        (5, "decay began, 5"),
        (7, "first warning"),
        (8, "LLDS on"),
        (9, "LLDS 4"),
        (20, "resume"),
        (30, "LLDS off"),
    ]
    figure = run_figure(STEPS, [], marks)
    dotted = [shape.x0 for shape in figure.layout.shapes if shape.line.dash == "dot"]
    assert dotted == [5]
    assert "from &lt;b>a log" in trace(figure, "events").text[0]
    assert event_marks(ill, lines_of([]), EVENTS) == []


def test_llds_without_events_is_read_off_its_coefficient() -> None:
    steps = [Observation(step=step, llds_coefficient=float(10 <= step < 20)) for step in range(1, 41)]
    assert [(m.step, m.label) for m in event_marks(Diagnosis(), lines_of(steps), [])] == [
        (10, "LLDS on"),
        (20, "LLDS off"),
    ]


def test_what_is_told_twice_at_a_step_has_one_mark() -> None:
    told = ["decay since step 3: told to webhook", "decay since step 3: told to command", "collapse: told to webhook"]
    events = [
        {"step": step, "time": 0.0, "kind": "alert", "detail": told[place]} for place, step in enumerate((7, 7, 9))
    ]
    marks = event_marks(Diagnosis(), lines_of(STEPS), events)
    assert [(mark.step, mark.label) for mark in marks] == [(7, "alert"), (9, "alert")]
    assert all(detail in marks[0].detail for detail in told[:2])


def test_labels_are_few_and_do_not_lie_on_each_other() -> None:
    many = [EventMark(step, f"event {step}", "", rank=1 + step % 2) for step in range(1, 1001)]
    placed = lanes(many, PLAIN, (0.5, 1000.5), 4000)
    assert len(placed) == MOST_LABELS
    assert {mark.rank for mark, _ in placed} == {1}
    narrow = lanes(many, PLAIN, (0.5, 1000.5), 200)
    assert 2 <= len(narrow) < 8
    assert lanes(many, PLAIN, (2000, 3000), 760) == []
    figure = run_figure([Observation(step=step, reward=0.5) for step in range(1, 1001)], [], many)
    assert len(figure.layout.shapes) <= 150


def test_words_of_anybodys_are_no_markup() -> None:
    assert escaped("<a href='x'>%{y}&lt;") == "&lt;a href='x'>% {y}&amp;lt;"


def test_the_stretch_around_a_death() -> None:
    observations = [Observation(step=step, reward=0.5) for step in range(1, 401)]
    dead = Diagnosis(
        step=400,
        stage=Stage.COLLAPSE,
        onsets={Stage.DECAY: 100, Stage.COLLAPSE: 150},
        known={Stage.DECAY: 110, Stage.COLLAPSE: 160},
    )
    ended = RunInfo(ended="2026-01-01T00:00:00+00:00")

    def snapshot(info: RunInfo, diagnosis: Diagnosis) -> Snapshot:
        summary = Summary(name="a", info=info, diagnosis=diagnosis)
        return Snapshot(version=1, summary=summary, observations=observations, signals=lines_of(observations))

    assert death(snapshot(ended, dead)) == (70, 190)
    assert death(snapshot(RunInfo(), dead)) is None, "it is being written"
    assert death(snapshot(ended, Diagnosis(step=400))) is None

    def looked_at(shown: Any, *, behind: bool, search: str = "", version: int = 1) -> tuple[Any, Any]:
        """What the page shows then, and what the news make of the axis' range."""
        seen = snapshot(ended, dead)
        seen = replace(seen, version=version, summary=replace(seen.summary, behind=behind))
        told = news_of(lately, seen, Visit(search), shown)
        return told["after"], told.get("moves", {}).get("run-figure.figure", {}).get("layout", {}).get("xaxis")

    lately = Drawn()
    shown, axis = looked_at(None, behind=True)
    assert axis is None, "as long as it is being judged nobody knows where it died"
    shown, axis = looked_at(shown, behind=False, version=2)
    assert axis["range"] == [[70, 190]]
    shown, axis = looked_at(shown, behind=False, version=3)
    assert axis is None, "it is moved once"
    zoomed, _ = looked_at(None, behind=True, search="?steps=10~20")
    _, axis = looked_at(zoomed, behind=False, search="?steps=10~20", version=4)
    assert axis is None, "a reader who has chosen a stretch is left there"


def words_of(parts: Any) -> str:
    """All text below dash's components."""
    if isinstance(parts, list | tuple):
        return " ".join(map(words_of, parts))
    return words_of(parts.children) if isinstance(parts, Component) else str(parts or "")


def test_the_column_tells_forecast_course_and_remedies() -> None:
    diagnosis = Diagnosis(
        step=40,
        stage=Stage.DECAY,
        onsets={Stage.DECAY: 5},
        known={Stage.DECAY: 7},
        collapse_probability=0.62,
        horizon=20,
        steps_to_collapse=(2, 9, 30),
        checks=(Check("entropy", "ok", "fine"), Check("reuse", "warning", "24.7%")),
        evidence=(Evidence("clip_fraction", 0.25, None, 0.1, 6, "arXiv:1707.06347 (PPO)"),),
    )
    said = words_of(why.findings(diagnosis, STEPS, EVENTS))
    for text in (
        "Collapse within 20 steps 62%",
        "9 (median); 10 %: 2, 90 %: 30",
        "was known: a live user saw it",
        "Limit 0.1 Since step 6 Reference arXiv:1707.06347 (PPO) Remedy Make fewer optimizer updates",
        "Passed or skipped: 1",
    ):
        assert text in said


def test_csv_has_the_steps_in_view_and_only_columns_that_were_measured() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(STEPS, (9.5, 12.0)))))
    assert [row["step"] for row in rows] == ["10", "11", "12"]
    assert list(rows[0]) == ["step", "time", "updates", "reward"]
    assert len(as_csv(STEPS).splitlines()) == 41
    assert as_csv([]).splitlines() == ["step"]


def test_names_of_files_are_harmless(tmp_path: Any) -> None:
    assert file_name("qwen 3b/../a", tmp_path) == "qwen-3b-..-a"
    assert file_name("...", tmp_path) == "run"
    assert file_name(".", tmp_path / "here") == "here"
