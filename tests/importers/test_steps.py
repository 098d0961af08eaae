from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lldwatch.errors import InputError
from lldwatch.importers.format import Entry
from lldwatch.importers.names import lookup, parse_map, step_of
from lldwatch.importers.steps import MOST_RETURNS, Step, Steps
from lldwatch.importers.tally import Tally

NAMES = {"reward": "reward", "kl": "kl", "new_length": "response_length", "old_length": "response_length"}


def entry(step: int | None, run: str = "", **values: Any) -> Entry:
    return Entry(step, values, f"row {step}", run)


def put_together(*entries: Entry, tally: Tally | None = None, at_once: bool = False) -> list[Step]:
    return list(Steps(lookup([NAMES]), tally or Tally(), at_once=at_once).of(entries))


def short(steps: list[Step]) -> list[tuple[str, int, int, float | None]]:
    return [(run, attempt, observation.step, observation.reward) for run, attempt, observation in steps]


def test_entries_of_one_step_become_one_observation() -> None:
    steps = put_together(entry(1, reward=0.5), entry(1, kl=2), entry(2, reward=1.0))
    assert [(s.observation.step, s.observation.reward, s.observation.kl) for s in steps] == [(1, 0.5, 2), (2, 1, None)]


def test_the_name_that_stands_first_in_the_table_holds_wherever_it_stands_in_the_row() -> None:
    for row in ({"new_length": 10, "old_length": 20}, {"old_length": 20, "new_length": 10}):
        [step] = put_together(Entry(1, row, "row"))
        assert step.observation.response_length == 10
    [step] = put_together(entry(1, old_length=20), entry(1, new_length=10), entry(1, old_length=30))
    assert step.observation.response_length == 10


def test_without_a_number_the_steps_are_counted() -> None:
    assert short(put_together(*(entry(None, reward=r) for r in (0.0, 1.0)))) == [("", 0, 1, 0.0), ("", 0, 2, 1.0)]


def test_a_row_without_a_step_among_rows_that_have_one_is_counted() -> None:
    tally = Tally()
    assert [s.observation.step for s in put_together(entry(1, reward=1), entry(None, reward=2), tally=tally)] == [1]
    assert tally.dropped == {"row without a step among rows that have one": (1, "row None")}


def test_a_step_that_goes_back_to_the_beginning_is_another_run() -> None:
    tally = Tally()
    steps = put_together(*(entry(s, reward=s) for s in (1, 2, 3, 1, 2)), tally=tally)
    assert [(s.run, s.observation.step) for s in steps] == [("", 1), ("", 2), ("", 3), ("run-2", 1), ("run-2", 2)]
    assert tally.notes == ["row 1: the step goes back from 3 to 1: another run begins"]


def test_a_step_that_goes_back_less_far_is_a_resumed_training() -> None:
    tally = Tally()
    steps = put_together(*(entry(s, reward=s) for s in (1, 2, 3, 4, 3, 4, 5)), tally=tally)
    assert [(s.attempt, s.observation.step) for s in steps][3:] == [(0, 4), (1, 3), (1, 4), (1, 5)]
    assert "resumed from a checkpoint" in tally.notes[0]


def test_rows_in_no_order_do_not_become_endless_attempts() -> None:
    tally = Tally()
    steps = put_together(*(entry(s, reward=0) for s in range(10_000, 1, -1)), tally=tally)
    assert len({(s.run, s.attempt) for s in steps}) == MOST_RETURNS + 1
    assert tally.notes[5:] == [f"the step goes back {MOST_RETURNS} times in all: are the rows in no order?"]
    assert tally.dropped["step that goes back, after many that did: the rows are in no order"][0] == 9998 - MOST_RETURNS


def test_runs_side_by_side_are_kept_apart() -> None:
    rows = [entry(s, run, reward=s + offset) for s in (1, 2) for run, offset in (("a", 0), ("b", 10))]
    assert sorted(short(put_together(*rows))) == [("a", 0, 1, 1), ("a", 0, 2, 2), ("b", 0, 1, 11), ("b", 0, 2, 12)]


def test_what_is_not_used_is_named_and_counted() -> None:
    tally = Tally()
    rows = [entry(1, reward=1, epoch=0.1), entry(2, reward="high", kl=1), entry(3, epoch=0.3), entry(4, reward=None)]
    steps = put_together(*rows, tally=tally)
    assert [s.observation.step for s in steps] == [1, 2]
    assert list(tally.unmapped) == ["epoch"]
    assert tally.dropped == {
        "reward that is not a number": (1, "row 2"),
        "row without anything that lldwatch measures": (2, "row 3"),
    }
    assert tally.rows == 2


def test_a_value_given_twice_for_a_step_is_counted_and_the_last_one_holds() -> None:
    tally = Tally()
    [step] = put_together(entry(1, reward=1), entry(1, reward=1), entry(1, reward=2), tally=tally)
    assert step.observation.reward == 2
    assert tally.dropped == {"reward given again for the same step: the last one holds": (1, "row 1")}


def test_live_each_entry_comes_at_once_and_a_repeated_step_is_counted() -> None:
    tally = Tally()
    given_so_far = []

    def entries() -> Any:
        for step in (1, 2, 2, 3):
            yield entry(step, reward=step)
            given_so_far.append(len(seen))

    seen: list[Step] = []
    for step in Steps(lookup([NAMES]), tally, at_once=True).of(entries()):
        seen.append(step)
    assert given_so_far == [1, 2, 2, 3]
    assert tally.dropped == {"step given again": (1, "row 2")}


def test_nan_and_inf_are_evidence_and_stay() -> None:
    steps = put_together(entry(1, reward="nan"), entry(2, reward=float("inf")), entry(3, reward=1e300))
    rewards = [s.observation.reward for s in steps]
    assert math.isnan(rewards[0] or 0)
    assert rewards[1:] == [math.inf, math.inf]


def test_more_fields_come_from_their_numbers() -> None:
    def derive(theirs: Mapping[str, float]) -> Mapping[str, float]:
        return {"zero_advantage_share": theirs["all"] + theirs["none"]} if {"all", "none"} <= theirs.keys() else {}

    steps = list(Steps(lookup([NAMES]), Tally(), derive).of([entry(1, all=0.25), entry(1, none="0.5")]))
    assert [s.observation.zero_advantage_share for s in steps] == [0.75]


def test_prefixes_of_loggers_and_our_own_names_are_known() -> None:
    of = lookup([NAMES])
    found = {name: of(name) for name in ("train/kl", "entropy", "train/entropy", "responses_per_second", "step")}
    assert {name: pair and pair[1] for name, pair in found.items()} == {
        "train/kl": "kl",
        "entropy": "entropy",
        "train/entropy": "entropy",
        "responses_per_second": None,
        "step": None,
    }


def test_the_users_own_name_holds_before_all_others() -> None:
    of = lookup([NAMES], parse_map(["reward=mean_return"]))
    assert of("reward") is None
    assert of("mean_return") == (0, "reward")


@pytest.mark.parametrize(
    ("pair", "words"),
    [("reward", "give it as ours=theirs"), ("reward=", "as ours=theirs"), ("rewrd=x", "did you mean reward")],
)
def test_a_wrong_map_says_what_to_do(pair: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_map([pair])


def test_the_step_is_found_by_its_names() -> None:
    assert step_of({"_step": 900, "train/global_step": 7}) == 7
    assert step_of({"round": 3, "step": 9}, "round") == 3
    assert step_of({"reward": 3}) is None


steps_given = st.one_of(st.none(), st.integers(0, 20))


@given(st.lists(st.tuples(steps_given, st.sampled_from(["reward", "kl", "x"]), st.floats() | st.text(max_size=5))))
def test_every_row_is_used_or_counted(rows: list[tuple[int | None, str, Any]]) -> None:
    tally = Tally()
    steps = put_together(*(Entry(s, {name: value}, "here") for s, name, value in rows), tally=tally)
    whole_rows = ("row without anything that lldwatch measures", "step that goes back")
    lost = sum(count for why, (count, _) in tally.dropped.items() if why.startswith(whole_rows))
    assert tally.rows + lost == len(rows)
    for before, after in itertools.pairwise(steps):
        if (before.run, before.attempt) == (after.run, after.attempt):
            assert before.observation.step < after.observation.step
