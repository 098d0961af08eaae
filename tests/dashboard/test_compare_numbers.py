from __future__ import annotations

import csv
import io
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lldwatch import SIGNALS, Diagnosis, Observation, RunInfo, Stage
from lldwatch.diagnosis import Episode
from lldwatch.series import Series
from lldwatch_dashboard import beside
from lldwatch_dashboard.beside import Comparisons
from lldwatch_dashboard.choice import MOST, PANELS, Choice
from lldwatch_dashboard.feed import Snapshot, Summary
from lldwatch_dashboard.lanes import Alignment, Lane, aligned, lane_of, lines, onset_of, spread
from lldwatch_dashboard.lines import lines_of


def snapshot(name: str, steps: range, *, onset: int | None = None, info: dict[str, Any] | None = None) -> Snapshot:
    seen = tuple(Observation(step=step, reward=step / 100, entropy=1.0) for step in steps)
    stage = Stage.HEALTHY if onset is None else Stage.DECAY
    onsets = {} if onset is None else {Stage.DECAY: onset}
    told = Diagnosis(step=steps[-1], stage=stage, onsets=onsets, known=onsets)
    summary = Summary(name=name, info=RunInfo(**({"ended": "2026-01-01"} | (info or {}))), diagnosis=told)
    return Snapshot(version=hash(name), summary=summary, observations=seen, signals=lines_of(seen))


def lanes(*snapshots: Snapshot) -> list[Lane]:
    return [lane_of(place, each, ("reward", "kl")) for place, each in enumerate(snapshots)]


TWO_ILL_ONE_NOT = lanes(
    snapshot("a", range(1, 101), onset=20), snapshot("b", range(1, 101), onset=60), snapshot("c", range(1, 51))
)


def test_a_lane_has_what_was_measured() -> None:
    first = TWO_ILL_ONE_NOT[0]
    assert (first.letter, first.first, first.last, first.length, first.onset) == ("A", 1, 100, 99, 20)
    assert list(first.signals) == ["reward"]


def test_by_step_nothing_moves() -> None:
    assert aligned(TWO_ILL_ONE_NOT, "step").x(1, [1, 60]).tolist() == [1, 60]


def test_by_onset_each_run_has_its_own_zero_and_one_without_has_the_median_of_the_others() -> None:
    by = aligned(TWO_ILL_ONE_NOT, "onset")
    assert [by.x(place, [step]).item() for place, step in ((0, 20), (1, 60), (2, 40))] == [0, 0, 0]
    assert by.guessed == {2}
    assert by.note == "C has no onset: 0 is step 40, the median onset of the others."


def test_without_any_onset_they_lie_by_step_and_it_is_said() -> None:
    by = aligned(lanes(snapshot("a", range(1, 9)), snapshot("b", range(1, 9))), "onset")
    assert by.align == "step"
    assert "No run has an onset" in by.note
    assert aligned([], "onset").note == ""


def test_by_share_each_run_goes_from_0_to_1_and_one_that_goes_on_to_its_plan() -> None:
    running = snapshot("b", range(1, 51), info={"ended": None, "planned_steps": 101})
    by = aligned(lanes(snapshot("a", range(1, 101)), running), "share")
    assert by.x(0, [1, 100]).tolist() == [0, 1]
    assert by.x(1, [1, 51]).tolist() == [0, 0.5]
    assert aligned(lanes(snapshot("a", range(7, 8))), "share").x(0, [7]).tolist() == [0]


def test_the_onset_of_a_run_that_has_recovered_is_that_of_its_first_dip() -> None:
    dips = tuple(Episode(Stage.DECAY, None, onset, onset + 3, onset + 9) for onset in (11, 40))
    assert onset_of(Diagnosis(step=80, episodes=dips)) == (11, True)
    assert onset_of(Diagnosis(step=80, episodes=dips, onsets={Stage.DECAY: 70})) == (70, False)
    assert onset_of(Diagnosis(step=80))[0] is None


def test_smoothing_keeps_the_raw_line_and_a_nan_of_one_step() -> None:
    values = np.ones(5000)
    values[3333] = math.nan
    values[777] = 9.0
    raw, mean = lines(Series(np.arange(5000), values), 5, 500)
    assert len(raw) <= 500
    np.testing.assert_array_equal(raw.steps, mean.steps)
    assert {777, 3333} <= set(raw.steps.tolist())
    assert mean.values[raw.steps.tolist().index(777)] == pytest.approx((4 + 9) / 5)
    unsmoothed = lines(Series(np.arange(5000), values), 1, 500)[1]
    np.testing.assert_array_equal(unsmoothed.values, raw.values)


@given(st.lists(st.floats(-0.5, 1.5), max_size=12), st.floats(0.01, 0.2))
def test_letters_do_not_lie_on_each_other(heights: list[float], gap: float) -> None:
    found = spread(heights, gap)
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in found)
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    assert all(after - before >= gap - 1e-9 for before, after in itertools.pairwise(sorted(found)))
    for (one, placed), (two, other) in itertools.combinations(zip(heights, found, strict=True), 2):
        assert one >= two or placed < other, "the order stays"


def test_letters_that_are_apart_stay_where_they_are() -> None:
    assert spread([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.9, 0.1, 0.5])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.5, 0.6])
    assert spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])


@given(
    st.lists(st.text(min_size=1), max_size=20, unique=True),
    st.sampled_from(["step", "onset", "share"]),
    st.sets(st.sampled_from(sorted(SIGNALS))),
    st.sampled_from([1, 5, 20]),
)
def test_the_address_holds_the_choice(runs: list[str], align: Any, signals: set[str], smooth: int) -> None:
    choice = Choice(tuple(runs), align, tuple(name for name in SIGNALS if name in signals), smooth)
    assert Choice.of(choice.search) == choice
    assert Choice.of(choice.href.removeprefix("/compare")) == choice


@pytest.mark.parametrize("search", [None, "", "?align=x", "?smooth=-5", "?smooth=7", "?signal=x", "?run="])
def test_a_wrong_address_is_the_usual_choice(search: str | None) -> None:
    assert Choice.of(search) == Choice()


def test_another_first_run_and_one_less() -> None:
    choice = Choice(("a", "b", "c"))
    assert choice.first("c").runs == ("c", "a", "b")
    assert choice.without("b").runs == ("a", "c")
    assert Choice.of("?run=a&run=b&run=a").runs == ("a", "b")
    assert set(PANELS) <= set(SIGNALS)


def test_a_comparison_is_made_once_and_again_when_a_run_has_grown() -> None:
    comparisons = Comparisons()
    pair = [snapshot("a", range(1, 41)), snapshot("b", range(1, 41))]
    first = comparisons.of(pair)
    assert first is not None
    assert comparisons.of(pair) is first
    grown = Snapshot(version=-1, summary=pair[1].summary, observations=pair[1].observations)
    comparisons._made[("a", "b")] = (*comparisons._made[("a", "b")][:2], 0.0, first)
    assert comparisons.of([pair[0], grown]) is not first
    assert comparisons.of(pair[:1]) is None


def test_a_long_comparison_is_not_made_again_at_each_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    comparisons = Comparisons()
    pair = [snapshot("a", range(1, 41)), snapshot("b", range(1, 41))]
    first = comparisons.of(pair)
    assert first is not None
    versions, at, _, _ = comparisons._made[("a", "b")]
    comparisons._made[("a", "b")] = (versions, at, 1e6, first)
    grown = Snapshot(version=-1, summary=pair[1].summary, observations=pair[1].observations)
    assert comparisons.of([pair[0], grown]) is first


def test_the_table_tells_the_runs_and_their_settings_apart() -> None:
    pair = [
        snapshot("a", range(1, 41), onset=20, info={"config": {"lr": 1e-6, "same": 1}}),
        snapshot("b", range(1, 41), info={"config": {"lr": 1e-5, "same": 1}}),
    ]
    gone = Snapshot(version=0, summary=Summary(name="gone", error="there is no such run"))
    comparison = Comparisons().of(pair)
    shown = repr(beside.runs_table([pair[0], gone, pair[1]], Choice(("a", "gone", "b")), comparison, dark=False))
    for part in ("▲ decay", "✓ healthy", "there is no such run", "'lane-A'", "'lane-B'", "lr", "1e-06", "1e-05"):
        assert part in shown
    assert "same" not in shown
    assert "lane-C" not in shown
    assert "A and B" in repr(beside.sentences(comparison))
    many = Comparisons().of([snapshot(str(number), range(1, 41)) for number in range(beside.FEW + 2)])
    assert "How the 5 others differ from A" in repr(beside.sentences(many))
    assert "1 setting differs" in repr(beside.details(comparison))
    assert beside.details(None) == []


def test_what_a_reader_has_to_know_is_said() -> None:
    many = Choice(tuple(map(str, range(MOST + 2))))
    said = beside.notes(
        many, Alignment("step", (), (), note="No run has an onset: they lie by step."), TWO_ILL_ONE_NOT, ["kl"]
    )
    assert said[0].startswith("No run has an onset")
    assert "the first 12 are shown" in said[1]
    assert said[2] == "Measured in none of these runs: KL from the reference policy."


def test_the_numbers_as_csv() -> None:
    by = aligned(TWO_ILL_ONE_NOT, "onset")
    rows = list(csv.reader(io.StringIO(beside.as_csv(TWO_ILL_ONE_NOT, by, ("reward", "kl")))))
    assert rows[0] == ["run", "signal", "step", "x (onset)", "value"]
    assert rows[1][:4] == ["a", "reward", "1", "-19"]
    assert float(rows[1][4]) == pytest.approx(0.01)
    assert len(rows) == 1 + 250
