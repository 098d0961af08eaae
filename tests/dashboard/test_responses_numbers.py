"""The numbers of the responses page against slow, obvious twins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from response_rows import probes, responses, write

from lldwatch import Run
from lldwatch.schema import Probes, Responses
from lldwatch_dashboard.changes import (
    CORRECT,
    INCORRECT,
    KINDS,
    PANELS,
    UNKNOWN,
    ZERO,
    Changes,
    changes_of,
    joined,
    last_sight,
    read,
    recorded,
)
from lldwatch_dashboard.heat import (
    CHANGE_BUCKETS,
    LARGEST,
    STEP_BUCKETS,
    UNIT,
    Counts,
    edges_of_steps,
    heat_of,
    place_of,
    scaled,
    unscaled,
)

IN_BATCH, CROSS = KINDS["in_batch"], KINDS["cross_update"]

numbers = st.one_of(st.floats(-20, 20), st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e-9, 2e4]))


def some_changes(step: list[int], change: list[float], panel: list[int]) -> Changes:
    panels = np.array(panel, np.int8)
    return Changes(np.array(step, np.int64), np.array(change, np.float64), panels, panels == CORRECT)


changes = st.lists(st.tuples(st.integers(0, 5000), numbers, st.integers(0, 3)), max_size=40).map(
    lambda rows: some_changes([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
)


@given(change=st.floats(-1e4, 1e4))
def test_the_scale_can_be_read_back_and_is_linear_near_zero(change: float) -> None:
    assert unscaled(place_of(change)) == pytest.approx(change, rel=1e-9, abs=1e-12)
    assert scaled(np.array([change]))[0] == pytest.approx(place_of(change))
    if abs(change) < UNIT / 10:
        assert place_of(change) == pytest.approx(change / UNIT, rel=1e-2)


@given(low=st.integers(-50, 50), many=st.integers(1, 3000), most=st.integers(1, 300))
def test_steps_are_cut_into_few_equal_buckets_of_whole_steps(low: int, many: int, most: int) -> None:
    edges = edges_of_steps(low, low + many - 1, most)
    assert len(edges) - 1 <= most
    assert edges[0] == low - 0.5
    assert edges[-1] >= low + many - 1 + 0.5
    assert len(set(np.diff(edges))) == 1
    assert np.diff(edges)[0] % 1 == 0


@given(found=changes)
def test_a_heat_map_counts_each_response_once(found: Changes) -> None:
    steps, places = edges_of_steps(0, 5000, 50), np.linspace(-5, 4, 31)
    heat = heat_of(found, steps, places)
    counts, broken = np.zeros_like(heat.counts), np.zeros_like(heat.broken)
    for step, change, panel in zip(found.step, found.change, found.panel, strict=True):
        column = next(i for i in range(len(steps) - 1) if steps[i] < step < steps[i + 1])
        if math.isnan(change) or math.isinf(change):
            broken[panel, 0 if math.isnan(change) else 1 if change > 0 else 2, column] += 1
        elif places[0] <= place_of(change) <= places[-1]:
            row = min(int((place_of(change) - places[0]) / 0.3), 29)
            counts[panel, row, column] += 1
    assert heat.counts.sum() == counts.sum()
    np.testing.assert_array_equal(heat.counts.sum(axis=1), counts.sum(axis=1))
    np.testing.assert_array_equal(heat.counts, counts)
    np.testing.assert_array_equal(heat.broken, broken)


@given(
    pieces=st.lists(changes, max_size=6), factor=st.sampled_from([1, 7, 1000]), shift=st.sampled_from([0, -300, 10**6])
)
@settings(max_examples=40)
def test_counts_lose_no_response_in_whatever_order_the_steps_come(
    pieces: list[Changes], factor: int, shift: int
) -> None:
    counts = Counts()
    moved = [Changes(p.step * factor + shift, p.change, p.panel, p.correct) for p in pieces]
    for piece in moved:
        counts.add(piece)
    everything = joined(moved)
    assert counts.responses == len(everything)
    if not len(everything):
        assert counts.extent() is None
        return
    low, high = int(everything.step.min()), int(everything.step.max())
    heat = counts.heat((low, high), (-99, 99), (64, 4096))
    assert len(heat.steps) <= 65
    assert heat.steps[0] <= low - 0.5
    assert heat.steps[-1] >= high + 0.5
    finite = np.isfinite(everything.change)
    for panel in range(len(PANELS)):
        own = everything.panel == panel
        assert heat.counts[panel].sum() == (own & finite).sum()
        assert heat.broken[panel].sum() == (own & ~finite).sum()
        by_step = np.histogram(everything.step[own & finite], heat.steps)[0]
        np.testing.assert_array_equal(heat.counts[panel].sum(axis=0), by_step)
    within = np.clip(everything.change[finite], -LARGEST, LARGEST)
    width = 2 * math.asinh(LARGEST / UNIT) / CHANGE_BUCKETS
    if len(within):
        bottom, top = counts.extent() or (0, 0)
        assert bottom <= scaled(within).min() + 1e-9 <= bottom + width + 2e-9
        assert top - width - 2e-9 <= scaled(within).max() <= top + 1e-9


def test_counts_take_the_same_memory_however_many_steps_there_are() -> None:
    counts = Counts()
    for step in (0, 10, 1000, 10**5, 10**7, 10**9):
        counts.add(some_changes([step] * 3, [-1.0, 0.5, math.nan], [0, 1, 2]))
    assert counts._counts.shape == (len(PANELS), CHANGE_BUCKETS, STEP_BUCKETS)
    heat = counts.heat((0, 10**9), (-99, 99), (STEP_BUCKETS, CHANGE_BUCKETS))
    assert (heat.counts.sum(), heat.broken.sum()) == (12, 6)


def test_a_copy_of_counts_does_not_change_them() -> None:
    counts = Counts()
    counts.add(some_changes([1], [0.5], [0]))
    copied = counts.copy()
    copied.add(some_changes([2, 5000], [0.5, 0.1], [0, 1]))
    assert (counts.responses, copied.responses) == (1, 3)
    assert counts.heat((0, 10), (-99, 99), (10, 10)).counts.sum() == 1


def test_stretches_are_where_responses_lie() -> None:
    counts = Counts()
    counts.add(some_changes([3, 4, 9], [-1.0, -1.0, 0.5], [0, 1, 0]))
    counts.add(some_changes([7], [math.nan], [2]))
    every = (-math.inf, math.inf)
    assert counts.stretches(every, None) == [(3, 4), (9, 9)]
    assert counts.stretches(every, CORRECT) == [(3, 3), (9, 9)]
    assert counts.stretches((place_of(-1.1), place_of(-0.9)), None) == [(3, 4)]
    assert counts.stretches(every, None, broken=True) == [(7, 7)]


@given(
    rows=st.lists(
        st.tuples(
            st.integers(-1, 4),  # tokens
            st.one_of(st.none(), numbers),  # before
            st.one_of(st.none(), numbers),  # after
            st.sampled_from([True, False, None]),
            st.sampled_from([None, 0.0, 0.0099, -0.0099, 0.011, -1.0, math.nan]),
        ),
        max_size=12,
    )
)
def test_a_change_is_after_minus_before_per_token_and_nothing_is_lost(rows: list[tuple[Any, ...]]) -> None:
    def column(values: list[Any], dtype: str) -> Any:
        mask = [value is None for value in values]
        return np.ma.MaskedArray(np.array([0 if value is None else value for value in values], dtype), mask)

    tokens, before, after, correct, advantage = ([row[place] for row in rows] for place in range(5))
    table = {
        "step": np.arange(len(rows)),
        "tokens": column(tokens, "int32"),
        "old_log_prob": column(before, "float32"),
        "log_prob": column(after, "float32"),
        "correct": column(correct, "bool"),
        "advantage": column(advantage, "float32"),
    }
    found = changes_of(table, IN_BATCH)
    wanted = []
    for step, (count, old, new, right, push) in enumerate(rows):
        if count > 0 and old is not None and new is not None:
            with np.errstate(all="ignore"):
                change = (np.float64(np.float32(new)) - np.float64(np.float32(old))) / count
            zero = push is not None and abs(push) < 0.01
            panel = ZERO if zero else UNKNOWN if right is None else CORRECT if right else INCORRECT
            wanted.append((step, change, panel, bool(right)))
    assert found.unmeasured == len(rows) - len(wanted)
    for (step, change, panel, right), at in zip(wanted, range(len(found)), strict=True):
        assert (found.step[at], found.panel[at], found.correct[at]) == (step, panel, right)
        np.testing.assert_allclose(found.change[at], change, rtol=1e-6)


@given(rows=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3)), max_size=15))
def test_a_response_that_several_updates_saw_counts_at_the_last_of_them(rows: list[tuple[int, int, int]]) -> None:
    step, uid, update = (np.array([row[place] for row in rows], int) for place in range(3))
    found = last_sight(step, uid, update)
    if found is None:
        assert len({row[2] for row in rows}) <= 1
        return
    last: dict[tuple[int, int], int] = {}
    for s, u, v in rows:
        last[s, u] = max(v, last.get((s, u), -1))
    assert sorted((step[i], uid[i], update[i]) for i in found) == sorted((s, u, v) for (s, u), v in last.items())
    assert list(found) == sorted(found)


def test_responses_without_an_identity_all_count() -> None:
    no_uid = np.ma.MaskedArray([1, 1], [True, True])
    assert last_sight(np.array([1, 1]), no_uid, np.array([0, 1])) is None


def test_the_changes_of_a_resumed_run_are_those_of_its_last_attempt(run_dir: Path) -> None:
    write(run_dir, {step: [responses([step], [-1.0])] for step in range(1, 11)})
    write(run_dir, {step: [responses([step], [0.5])] for step in range(7, 9)}, resume=True)
    run = Run(run_dir)
    found = joined(list(read(run, IN_BATCH, run.parts("responses"), (0, 99))))
    assert found.step.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found.change.tolist() == [-1.0] * 6 + [0.5] * 2


def test_kinds_of_one_table_are_told_apart_and_updates_are_joined(run_dir: Path) -> None:
    rows = [
        probes([1], [-0.1]),
        probes([1], [-0.2], "post_update", lag=0),
        probes([1], [-0.3], "lagged", lag=5),
        Probes(kind=np.array(["in_batch"]), tokens=[5], log_prob_before=[-1], log_prob_after=[-2], correct=[True]),
        responses([1, 2], [0.0, 0.0], update=[0, 0]),
        responses([1], [-0.4], update=[3]),
    ]
    write(run_dir, {1: rows})
    run = Run(run_dir)

    def of(kind: str) -> list[float]:
        parts = run.parts(KINDS[kind].table)
        return [round(c, 6) for piece in read(run, KINDS[kind], parts, (1, 1)) for c in piece.change.tolist()]

    assert (of("cross_update"), of("post_update"), of("lagged"), of("fixed")) == ([-0.1], [-0.2], [-0.3], [])
    assert sorted(of("in_batch")) == [-0.4, 0.0]


def test_a_table_with_missing_columns_has_no_change_and_says_how_many(run_dir: Path) -> None:
    write(run_dir, {1: [Responses(uid=[1, 2], tokens=[3, 4])]})
    run = Run(run_dir)
    (found,) = read(run, IN_BATCH, run.parts("responses"), (1, 1))
    assert (len(found), found.unmeasured) == (0, 2)


def test_the_headline_is_the_first_kind() -> None:
    assert [kind.name for kind in recorded({"responses", "lagged_change_20", "cross_update_change"})] == [
        "cross_update",
        "lagged",
        "in_batch",
    ]
    assert recorded([]) == []
    assert all(kind.meaning for kind in KINDS.values())
