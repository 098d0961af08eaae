"""The signals of a run as arrays, however they came: as observations, as tables, little by little."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from drawn_figure import run_figure
from hypothesis import given
from hypothesis import strategies as st

from lldwatch import SIGNALS, Observation
from lldwatch.portions import Steps
from lldwatch.schema import arrow_schema
from lldwatch.series import Series, measured
from lldwatch.simulate import null
from lldwatch_dashboard.lines import HIGH, LOW, NOISE, TAIL, UPDATES, Lines, lines_of
from lldwatch_dashboard.panels import READINGS
from lldwatch_dashboard.series import MAX_POINTS, odd

NAN, INF = math.nan, math.inf
VALUES = st.none() | st.sampled_from([NAN, INF, -INF, 0.0, 0.25, -1.5])
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(("entropy", "grad_norm", "noise_floor"), VALUES)), max_size=9)


def table(rows: Sequence[Observation]) -> pa.Table:
    schema = arrow_schema(Observation.TABLE)
    columns = [pa.array([getattr(row, column.name) for row in rows], column.type) for column in schema]
    return pa.table(columns, schema)


def assert_same(lines: Lines, run: Sequence[Observation], wanted: Sequence[Observation]) -> None:
    found, expected = lines.of(run), lines_of(wanted)
    for name in expected:
        np.testing.assert_array_equal(found[name].steps, expected[name].steps)
        np.testing.assert_array_equal(found[name].values, expected[name].values)
        np.testing.assert_array_equal(found[name].odd, expected[name].odd)


def test_steps_that_wait_stand_behind_those_that_were_judged() -> None:
    rows = [Observation(step=step, reward=step / 4) for step in range(1, 10)]
    judged = rows[:4]
    steps = Steps(judged, table(rows[4:]))
    judged.append(Observation(step=99))
    assert len(steps) == 9
    assert list(steps) == rows
    assert [steps[place] for place in range(-9, 9)] == rows + rows
    for part in (slice(2, 6), slice(-3, None), slice(None, 3), slice(7, 2), slice(None, None, 2)):
        assert list(steps[part]) == rows[part]
    with pytest.raises(IndexError):
        steps[9]
    assert list(Steps([])) == []


def test_a_step_that_comes_again_takes_the_place_of_all_from_there_on() -> None:
    judged = [Observation(step=step, reward=0.0) for step in range(1, 9)]
    waiting = [Observation(step=step, reward=1.0) for step in (9, 10, 7, 8, 9, 8)]
    steps = Steps(judged, table(waiting))
    assert [(seen.step, seen.reward) for seen in steps] == [(step, 0.0) for step in range(1, 7)] + [(7, 1.0), (8, 1.0)]


@given(ROWS, st.integers(0, 9), st.integers(0, 9))
def test_a_table_says_what_its_observations_say(rows: list[dict[str, float]], first: int, more: int) -> None:
    run = [Observation(step=step, updates=step, cross_update_change=0.5, **row) for step, row in enumerate(rows)]
    lines = Lines()
    for end in sorted({min(first, len(run)), min(first + more, len(run)), len(run)}):
        judged = run[: end // 2]
        assert_same(lines, Steps(judged, table(run[end // 2 : end])), run[:end])


def test_every_signal_is_made_of_tables_as_of_observations() -> None:
    noise = np.random.default_rng(0)
    columns = {column for signal in READINGS.values() for column in signal.requires} - {"updates", "updates_per_batch"}
    columns |= {"cross_update_error", "noise_floor"}
    run = [
        Observation(step=step, updates=step % 3, **{name: noise.normal() for name in columns if noise.random() < 0.8})
        for step in range(300)
    ]
    found = Lines().of(Steps([], table(run)))
    for name, signal in SIGNALS.items():
        expected = measured(run, signal)
        assert 100 < len(expected) < 300
        np.testing.assert_array_equal(found[name].steps, expected.steps)
        np.testing.assert_array_equal(found[name].values, expected.values)
    assert found[UPDATES].values.tolist() == [step % 3 for step in range(300)]
    assert len(found[LOW]) == len(found[HIGH]) > 100
    assert (np.diff(found[NOISE].values) >= 0).all()


@pytest.mark.parametrize("count", [MAX_POINTS + 1, 3000, 3001, 12_345, 100_000])
def test_few_points_keep_the_picture_of_a_long_line(count: int) -> None:
    noise = np.random.default_rng(count)
    values = np.float32(noise.normal(size=count))
    values[noise.choice(count, 30, replace=False)] = NAN
    lines = _grown(values, [count])
    for name, log in (("entropy", False), ("grad_norm", True)):
        series = lines[name]
        assert series.few is not None
        assert 700 < len(series.few) <= MAX_POINTS
        assert (np.diff(series.few) > 0).all()
        assert {0, count - 1} <= set(series.few.tolist())
        np.testing.assert_array_equal(series.odd, np.flatnonzero(odd(series.values, log=log)))
        drawn, kept = values[~odd(values, log=log)], values[series.few]
        assert {drawn.min(), drawn.max()} <= set(kept[~odd(kept, log=log)].tolist())
        block = 2 ** math.ceil(math.log2(3 * count / (MAX_POINTS - TAIL)))
        for first in range(0, count - block, block):
            there = first + np.flatnonzero(~odd(values[first : first + block], log=log))
            wanted = {there[values[there].argmin()], there[values[there].argmax()]} if len(there) else set()
            broken = [place for place in range(first, first + block) if place not in set(there.tolist())]
            assert wanted | set(broken[:1]) <= set(series.few.tolist())


def test_short_lines_are_drawn_from_all_of_their_points() -> None:
    assert _grown(np.arange(float(MAX_POINTS)), [MAX_POINTS])["entropy"].few is None


@pytest.mark.parametrize("portions", [(1, 62, 2, 900, 1035, 1, 500, 31, 1, 967), (3499, 1), (1,) * 3500])
def test_what_keeps_the_picture_does_not_depend_on_how_the_line_grew(portions: tuple[int, ...]) -> None:
    values = np.float32(np.sin(np.arange(3500.0) ** 2))
    values[[7, 2100, 3499]] = NAN
    grown, whole = _grown(values, portions)["entropy"], _grown(values, [3500])["entropy"]
    np.testing.assert_array_equal(grown.few, whole.few)
    np.testing.assert_array_equal(grown.odd, whole.odd)
    np.testing.assert_array_equal(grown.values, values)


def _grown(values: npt.NDArray[np.float32], portions: Sequence[int]) -> Mapping[str, Series]:
    """Two lines of these values, one of them on a log axis, after so many more of them each time."""
    rows = [Observation(step=step, entropy=value, grad_norm=value) for step, value in enumerate(values.tolist())]
    lines = Lines()
    for end in np.cumsum(portions).tolist():
        found = lines.of(rows[:end])
    return found


def test_one_step_among_many_is_in_the_figure() -> None:
    run = list(null(0, 12_000).observations)
    run[4001] = replace(run[4001], grad_norm=1e4)
    run[5003] = replace(run[5003], grad_norm=0.0)
    run[6007] = replace(run[6007], entropy=NAN)
    traces = {trace.meta: trace for trace in run_figure(run, []).data}
    assert 1e4 in traces["grad_norm:raw"].y
    assert run[5003].step in traces["grad_norm:marks"].x
    assert run[6007].step in traces["entropy:marks"].x
    assert all(len(trace.x) <= 2000 for trace in traces.values())
