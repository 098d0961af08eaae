from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from child_rank import PROBE_STEPS, SPIRAL_STEPS, SPREAD_STEPS, TROUBLE, Launcher, Rank, step_of, together, watch

from lldwatch import InputError, Monitor, Run
from lldwatch.detector import diagnose
from lldwatch.diagnosis import Stage
from lldwatch.probe_plan import PRESETS
from lldwatch.ranks import Ranks
from lldwatch.schema import TABLES, arrow_schema
from lldwatch.segments import list_segments, read_segment


@dataclass
class World:
    """A training on several ranks, which has ended."""

    path: Path
    ranks: list[Rank]

    @property
    def run(self) -> Run:
        return Run(self.path)

    @property
    def returned(self) -> list[Any]:
        """What the job returned on each rank; all must have ended well."""
        for rank in self.ranks:
            assert rank.raised is None, rank.raised
            assert rank.exit == 0
        return [rank.returned for rank in self.ranks]

    def of_rank(self, rank: int, table: str) -> pa.Table:
        """What one rank wrote, of all attempts."""
        folder = self.path / table
        own = [read_segment(segment, folder) for segment in list_segments(folder)[0] if segment.rank == rank]
        return pa.concat_tables([arrow_schema(table).empty_table(), *own])

    def events(self, rank: int, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.of_rank(rank, "events").to_pylist() if row["kind"] == kind]


Worlds = Callable[..., World]


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def worlds(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Job, ranks, options -> the world; a second test that wants the same one only looks at it."""
    made: dict[str, World] = {}

    def world(name: str, size: int, **options: Any) -> World:
        key = repr((name, size, options))
        if key not in made:
            path = tmp_path_factory.mktemp(name) / "run"
            made[key] = World(path, launcher(name, size, path, **options))
        return made[key]

    return world


def rows_by(table: pa.Table, *columns: str) -> Counter[tuple[Any, ...]]:
    """How many rows there are of each value of the columns."""
    return Counter(zip(*(table[column].to_pylist() for column in columns), strict=True))


def expected_rows(phases: dict[int, list[int]], ranks: list[int], each: int) -> Counter[tuple[Any, ...]]:
    """The same for `tagged` rows: phase -> its steps that stand."""
    return Counter({(step, rank, phase): each for phase, steps in phases.items() for step in steps for rank in ranks})


# who writes what

RESUMED = {1: [1, 2, 3, 4], 3: [5, 6, 7]}
"""Phases of the job `resumed` and their steps that stand in the end."""


@pytest.mark.parametrize("size", [2, 4])
def test_every_rank_writes_its_own_rows_and_the_run_has_them_all(worlds: Worlds, size: int) -> None:
    world = worlds("resumed", size)
    assert world.returned
    ranks = list(range(size))
    assert rows_by(world.run.responses(), "step", "group", "reward") == expected_rows(RESUMED, ranks, 3)
    rescored = [1, 2, 3, 4, 6, 7]  # in step 5 the training went back: a probe over that says nothing
    assert rows_by(world.run.probes(), "step", "group") == Counter(
        {(step, rank): 1 for step in rescored for rank in ranks}
    )
    for table in ("responses", "probes"):
        for rank in ranks:
            assert set(world.of_rank(rank, table)["group"].to_pylist()) == {rank}
    assert world.run.problems == []


@pytest.mark.parametrize("size", [2, 4])
def test_the_steps_are_those_of_rank_0_one_row_a_step(worlds: Worlds, size: int) -> None:
    world = worlds("resumed", size)
    assert [observation.step for observation in world.run.observations()] == [1, 2, 3, 4, 5, 6, 7]
    assert {observation.responses for observation in world.run.observations()} == {3 * size}
    assert {segment.rank for segment in list_segments(world.path / "steps")[0]} == {0}
    assert rows_by(world.run.steps(), "step") == Counter({(step,): 1 for step in range(1, 8)})
    assert (world.run.info.config, world.run.ended) == ({"seed": 1}, True)


def test_gradient_norms_are_written_once_not_by_every_rank(worlds: Worlds) -> None:
    world = worlds("resumed", 2)
    assert rows_by(world.run.gradients(), "step") == Counter({(step,): 1 for step in range(1, 8)})


def test_every_rank_says_when_it_began_and_ended(worlds: Worlds) -> None:
    world = worlds("resumed", 2)
    for rank in range(2):
        assert [event["step"] for event in world.events(rank, "start")] == [-1]
        assert [event["step"] for event in world.events(rank, "finish")] == [6, 7]


# the same numbers as one process


@dataclass
class Compared:
    """The same steps, watched by several ranks and by one process."""

    world: World
    one: Run
    said: list[dict[str, Any]]


@pytest.fixture(scope="module", params=["responses", "rows"])
def split(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", params=[2, 4])
def compared(
    request: pytest.FixtureRequest, split: str, worlds: Worlds, tmp_path_factory: pytest.TempPathFactory
) -> Compared:
    size = request.param
    path = tmp_path_factory.mktemp("one") / "run"
    with Monitor(path) as monitor:
        steps = [together(step_of(number, size, split)) for number in range(1, SPREAD_STEPS + 1)]
        said = [watch(monitor, step) for step in steps]
    return Compared(worlds("spread", size, split=split), Run(path), said)


def test_the_observation_of_many_ranks_is_that_of_one_process_with_all_rows(compared: Compared) -> None:
    assert compared.world.returned
    found, expected = compared.world.run.observations(), compared.one.observations()
    assert len(found) == len(expected) == SPREAD_STEPS
    differ: dict[str, list[Any]] = {}
    for ours, one in zip(found, expected, strict=True):
        for name, value in one.as_dict().items():
            mine = getattr(ours, name)
            same = mine is None if value is None else mine == pytest.approx(value, rel=1e-6, abs=1e-12)
            if name != "time" and not same:
                differ.setdefault(name, []).append((one.step, mine, value))
    assert differ == {}
    measured = {name for one in expected for name, value in one.as_dict().items() if value is not None}
    missing = set(expected[0].as_dict()) - measured
    assert missing <= {
        "probe_seconds",
        "updates_per_batch",
        "rollout_kl",
        "llds_loss",
        "format_valid_share",
        "truncated_share",
    }
    assert sum(one.cross_update_error is not None for one in expected) > 30


def test_the_rows_of_all_ranks_are_those_of_one_process(compared: Compared) -> None:
    for table in ("responses", "probes"):
        ours, one = (getattr(run, table)() for run in (compared.world.run, compared.one))
        keys = [(name, "ascending") for name in ("step", "uid", "update", "kind", "log_prob_after")]
        order = [key for key in keys if key[0] in one.column_names]
        ours, one = (rows.filter(pa.compute.is_valid(rows["uid"])).sort_by(order) for rows in (ours, one))
        assert len(one) > 100
        assert ours.equals(one)


def test_the_in_batch_change_of_all_ranks_adds_up_to_that_of_one_process(compared: Compared) -> None:
    sums = []
    for run in (compared.one, compared.world.run):
        rows = [row for row in run.probes().to_pylist() if row["kind"] == "in_batch"]
        nats: dict[tuple[Any, ...], Any] = {}
        for row in rows:
            key = row["step"], row["update"], row["correct"]
            values = [row["tokens"], row["log_prob_before"], row["log_prob_after"]]
            nats[key] = np.add(nats.get(key, 0.0), values)
        sums.append(nats)
    one, ours = sums
    assert len(one) > 20
    short = {key: (ours.get(key), wanted) for key, wanted in one.items() if ours.get(key, [0])[0] != wanted[0]}
    assert short == {}
    for key, wanted in one.items():
        assert ours[key].tolist() == pytest.approx(wanted.tolist(), rel=1e-5)


def test_a_rank_without_rows_is_among_the_steps_that_are_compared() -> None:
    for size in (2, 4):
        lacking = [
            rank
            for number in range(1, SPREAD_STEPS + 1)
            for rank, step in enumerate(step_of(number, size, "responses"))
            if not any(part.responses for part in step.updates) and not any(len(rows) for rows in step.probes)
        ]
        assert set(lacking) == set(range(size))


def test_a_number_that_one_rank_alone_gives_is_taken(worlds: Worlds) -> None:
    world = worlds("uneven_numbers", 2)
    assert world.returned[0] == world.returned[1]
    steps = world.run.observations()
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert [step.loss for step in steps] == [0.5, None, None, None, 0.5]
    assert (steps[1].kl, steps[1].learning_rate) == (0.5, pytest.approx(1e-6))
    assert (steps[2].grad_norm, steps[3].grad_norm) == (2.0, 2.0)
    assert [rank.warnings for rank in world.ranks] == [[], []]


# one diagnosis for all


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_get_the_diagnosis_of_the_whole_run_from_healthy_to_decay(worlds: Worlds, size: int) -> None:
    world = worlds("spiralling", size)
    said = world.returned
    for of_rank in said[1:]:
        assert of_rank == said[0]
    assert [diagnosis["step"] for diagnosis in said[0]] == list(range(1, SPIRAL_STEPS + 1))
    assert said[0] == [diagnosis.as_dict() for diagnosis in diagnose(world.run.observations())]
    assert said[0][39]["stage"] == Stage.HEALTHY.label
    assert said[0][-1]["stage"] == Stage.DECAY.label


def test_all_ranks_get_the_same_diagnosis_when_the_training_goes_on_or_back(worlds: Worlds) -> None:
    for size in (2, 4):
        said = worlds("resumed", size).returned
        assert [diagnosis["step"] for diagnosis in said[0]] == [*range(1, 10), 5, 6, 7]
        for of_rank in said[1:]:
            assert of_rank == said[0]


# one decision for all


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_are_told_the_same_coefficient_when_the_training_goes_on_or_back(worlds: Worlds, size: int) -> None:
    world = worlds("corrected", size)
    first, *others = world.returned
    assert first["told"] == [
        *[(1, 0.0, False), (2, 0.0, False), (3, 0.0, False), (4, 1.0, True), (5, 2.0, True), (6, 3.0, True)],
        *[(7, 3.0, True), (8, 2.0, False), (9, 3.0, True)],  # resumed: as if there had been no pause
        *[(5, 3.0, True), (6, 3.0, True)],  # what step 5 goes back to was known to nobody before it ended
    ]
    assert first["asked"] == [True, True, False, True, False]  # the second one: the process is new
    assert all(answers == first for answers in others)


def test_rank_0_alone_records_the_changes_of_the_coefficient(worlds: Worlds) -> None:
    world = worlds("corrected", 2)
    assert world.returned
    assert world.events(1, "llds") == []
    changes = [(event["step"], event["detail"].rpartition("coefficient ")[2]) for event in world.events(0, "llds")]
    assert changes == [
        *[(3, "0 -> 1"), (4, "1 -> 2"), (5, "2 -> 3")],
        *[(7, "3 -> 2"), (8, "2 -> 3")],
        *[(5, "3 -> 2: as of the step before"), (5, "2 -> 3"), (6, "3 -> 2")],
    ]
    told = {step.step: step.llds_coefficient for step in world.run.observations()}
    assert told == {1: 0, 2: 0, 3: 0, 4: 1, 5: 3, 6: 3}


# identities


@pytest.mark.parametrize("size", [2, 4])
def test_identities_are_different_on_all_ranks_and_in_all_attempts(worlds: Worlds, size: int) -> None:
    world = worlds("resumed", size)
    uids = [uid for rank in range(size) for uid in world.of_rank(rank, "responses")["uid"].to_pylist()]
    assert len(set(uids)) == len(uids) == size * 3 * (6 + 3 + 3)


def test_an_identity_that_stands_on_two_ranks_in_one_update_is_said(worlds: Worlds) -> None:
    world = worlds("twice", 2)
    assert world.returned == [None, None]
    (event,) = world.events(0, "bad_input")
    assert event["detail"].startswith("uid 77 stands 2 times in update 0")
    assert (event["step"], world.events(1, "bad_input")) == (2, [])
    assert [len(rank.warnings) for rank in world.ranks] == [1, 0]


# going on, and going back


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_write_the_same_attempts(worlds: Worlds, size: int) -> None:
    world = worlds("resumed", size)
    phases = {1: (0, range(1, 7)), 2: (1, range(7, 10)), 3: (2, range(5, 8))}
    expected = {(attempt, step, phase) for phase, (attempt, steps) in phases.items() for step in steps}
    for rank in range(size):
        folder = world.path / "responses"
        written = set()
        for segment in list_segments(folder)[0]:
            if segment.rank == rank:
                rows = read_segment(segment, folder)
                written |= {(segment.attempt, step, int(phase)) for step, phase in rows_by(rows, "step", "reward")}
        assert written == expected
    assert (world.run.info.attempt, world.run.info.resumed_from) == (2, 4)


def test_what_an_earlier_attempt_recorded_of_repeated_steps_is_replaced_on_all_ranks(worlds: Worlds) -> None:
    world = worlds("resumed_earlier", 2)
    said = world.returned
    assert said[0] == said[1]
    assert rows_by(world.run.responses(), "step", "group", "reward") == expected_rows(
        {1: [1, 2, 3], 2: [4, 5]}, [0, 1], 3
    )
    assert [observation.step for observation in world.run.observations()] == [1, 2, 3, 4, 5]
    assert (world.run.info.attempt, world.run.info.resumed_from) == (1, 3)


def test_rank_0_alone_says_that_the_training_was_resumed(worlds: Worlds) -> None:
    world = worlds("resumed", 2)
    words = [event["detail"] for event in world.events(0, "resume")]
    assert words == ["resumed at step 7, the last recorded one was 6", "went back from step 9 to step 5"]
    assert world.events(1, "resume") == []


# mistakes and refusals


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rank_0_decides_on_what_all_ranks_have_and_all_get_its_answer(worlds: Worlds, size: int) -> None:
    for rank, answers in enumerate(worlds("decided", size).returned):
        assert answers["place"] == (rank, size)
        assert answers["order"] == list(range(size))
        assert (answers["nothing"], answers["other"]) == (None, size - 1)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_decision_that_fails_reaches_all_ranks_and_the_next_one_works(worlds: Worlds, size: int) -> None:
    first, *others = worlds("decided", size).returned
    classes, words = first["failed"]
    assert (classes[0], words) == ("KeyError", "'no such prompt'")
    for answers in others:
        classes, words = answers["failed"]
        assert classes[0] == "LldwatchError"
        assert words == "on rank 0: KeyError: 'no such prompt'"
    assert {answers["after"] for answers in (first, *others)} == {sum(range(size))}


def test_a_bug_of_ours_on_rank_0_reaches_no_training_and_the_next_step_is_diagnosed(worlds: Worlds) -> None:
    world = worlds("broken_detector", 2)
    said = [answers["said"] for answers in world.returned]
    assert [[diagnosis["step"] for diagnosis in of_rank] for of_rank in said] == [[1, 2, 2, 4, 5]] * 2
    assert said[0] == said[1]
    assert [step.step for step in world.run.observations()] == [1, 2, 3, 4, 5]
    (event,) = world.events(0, "error")
    assert "a bug of ours" in event["detail"]
    assert event["step"] == 3
    assert [len(rank.warnings) <= 1 for rank in world.ranks] == [True, True]


def test_a_rank_that_breaks_before_it_has_sent_its_part_keeps_in_step_with_rank_0(worlds: Worlds) -> None:
    world = worlds("broken_part", 2)
    warnings = [warning for rank in world.ranks for warning in rank.warnings]
    assert [warning for warning in warnings if "ranks do not answer" in warning] == []
    assert len([warning for warning in warnings if "a broken number" in warning]) == 1
    assert [of_rank[-1]["step"] for of_rank in world.returned] == [5, 5]
    assert [observation.step for observation in world.run.observations()] == [1, 2, 3, 4, 5]
    rows = rows_by(world.run.responses(), "step", "group", "reward")
    assert [found for found in rows if found[0] != found[2]] == []  # no rows of one step stand with another


def test_a_step_that_rank_0_records_keeps_the_rows_of_all_ranks_whatever_comes_after(worlds: Worlds) -> None:
    world = worlds("broken_detector", 2)
    assert [answers["dropped"] for answers in world.returned] == [0, 0]
    assert rows_by(world.run.responses(), "step", "group", "reward") == expected_rows({1: [1, 2, 3, 4, 5]}, [0, 1], 3)


@pytest.mark.parametrize("size", [2, 4])
def test_a_run_that_is_there_is_refused_on_all_ranks(worlds: Worlds, size: int) -> None:
    (classes, words), *others = worlds("refused", size).returned
    assert classes[0] == "RunExistsError"
    assert "resume=True" in words
    for classes, said in others:
        assert "LldwatchError" in classes
        assert said == f"on rank 0: RunExistsError: {words}"


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_second_process_that_forgets_ranks_is_told_of_it(worlds: Worlds, steps_before: int) -> None:
    world = worlds("forgotten", 2, steps_before=steps_before)
    classes, words = world.returned[1]
    assert classes[0] == "RunExistsError"
    assert "ranks=" in words
    assert len(world.run.observations()) == steps_before + 1  # the first one is not disturbed


def test_a_mistake_of_all_ranks_in_the_first_step_raises_on_all_of_them(worlds: Worlds) -> None:
    world = worlds("mistaken", 2)
    first, second = world.returned
    for of_rank in (first, second):
        for (classes, words), wanted in zip(of_rank[:2], ("gradnorm is not a field", "response_mask has"), strict=True):
            assert classes[0] == "InputError"
            assert wanted in words
        assert of_rank[4]["step"] == 1
        assert of_rank[5] == ([], "")  # and in later steps never
    for found, wanted in zip((2, 3), ("updates=nan is not a number", "step='first' is not a number"), strict=True):
        assert first[found][0][0] == "InputError"
        assert wanted in first[found][1]
        assert "LldwatchError" in second[found][0]
        assert second[found][1] == f"on rank 0: InputError: {first[found][1]}"
    assert [len(rank.warnings) for rank in world.ranks] == [1, 1]


def test_a_mistake_of_one_rank_in_the_first_step_ends_that_rank_and_holds_up_no_other(worlds: Worlds) -> None:
    world = worlds("left_in_first_step", 2)
    other, mistaken = world.ranks
    assert mistaken.raised is not None
    assert "gradnorm is not a field" in mistaken.raised
    assert other.raised is None, other.raised
    said, seconds = other.returned
    assert [diagnosis["step"] for diagnosis in said] == [1, 2, 3]
    assert seconds < 10
    assert len(other.warnings) == 1


# ranks that are lost


def check_lost(world: World, *, gone: int, survivors: list[int], rows: Counter[tuple[Any, ...]]) -> None:
    """The others went on, said once that they are alone, and kept what they saw."""
    size = len(world.ranks)
    for rank in survivors:
        found = world.ranks[rank]
        assert found.raised is None, found.raised
        assert found.exit == 0  # and came to an end
        assert len(found.returned["said"]) == 8
        assert found.returned["dropped"] == 0
        (warning,) = found.warnings
        assert "ranks do not answer each other any more" in warning
        assert "the training goes on" in warning
        (event,) = world.events(rank, "error")
        assert (event["step"], event["detail"].startswith("ranks do not answer")) == (4, True)
    steps = world.run.observations()
    assert [step.step for step in steps] == list(range(1, 9))
    assert [step.responses for step in steps] == [3 * size] * 3 + [3] * 5
    assert [diagnosis["step"] for diagnosis in world.ranks[0].returned["said"]] == list(range(1, 9))
    assert rows_by(world.run.responses(), "step", "group", "reward") == rows
    assert world.run.info.attempt == 0
    assert world.events(0, "resume") == []
    if gone not in survivors:
        assert world.ranks[gone].returned is None


def rows_of_lost(size: int, gone: int) -> Counter[tuple[Any, ...]]:
    survivors = [rank for rank in range(size) if rank != gone]
    return expected_rows({1: list(range(1, 9))}, survivors, 3) + expected_rows({1: [1, 2, 3]}, [gone], 3)


LOST = {"tidy": True, "gone": 1, "timeout_s": 3.0}


@pytest.mark.parametrize("how", ["leaves", "is killed"])
def test_a_rank_that_dies_costs_its_own_rows_and_no_training(worlds: Worlds, how: str) -> None:
    world = worlds("lost", 2, **LOST, how=how)
    check_lost(world, gone=1, survivors=[0], rows=rows_of_lost(2, 1))
    assert max(world.ranks[0].returned["seconds"]) < 2.5  # who is gone is not waited for


def test_the_others_of_four_ranks_go_on_each_alone_when_one_is_killed(worlds: Worlds) -> None:
    options = {**LOST, "gone": 2}
    world = worlds("lost", 4, **options, how="is killed")
    check_lost(world, gone=2, survivors=[0, 1, 3], rows=rows_of_lost(4, 2))
    for rank in (0, 1, 3):
        seconds = world.ranks[rank].returned["seconds"]
        assert seconds[3] < 2 * LOST["timeout_s"]
        assert max(seconds[4:]) < 2.0  # and never again


def test_a_rank_that_hangs_is_waited_for_once_and_goes_on_alone_as_well(worlds: Worlds) -> None:
    world = worlds("lost", 2, **LOST, how="hangs")
    check_lost(world, gone=1, survivors=[0, 1], rows=expected_rows({1: list(range(1, 9))}, [0, 1], 3))
    assert LOST["timeout_s"] <= world.ranks[0].returned["seconds"][3] < 2 * LOST["timeout_s"]
    assert max(world.ranks[0].returned["seconds"][4:]) < 2.0
    said = [diagnosis["step"] for diagnosis in world.ranks[1].returned["said"]]
    assert said == [1, 2, 3, 3, 3, 3, 3, 3]  # alone, a rank above 0 knows too little


@pytest.mark.parametrize("how", ["dies before the answer", "decides too slowly"])
def test_a_step_that_was_decided_is_not_recorded_again_when_its_answer_reaches_nobody(worlds: Worlds, how: str) -> None:
    world = worlds("lost", 2, **LOST, how=how)
    survivors = [0] if how.startswith("dies") else [0, 1]
    steps = world.run.observations()
    assert [step.step for step in steps] == list(range(1, 9))
    assert world.run.info.attempt == 0
    assert world.events(0, "resume") == []
    kept = rows_by(world.run.responses(), "step", "group")
    for rank in survivors:
        assert world.ranks[rank].raised is None, world.ranks[rank].raised
        assert {step: count for (step, group), count in kept.items() if group == rank} == dict.fromkeys(range(1, 9), 3)


def test_ranks_that_are_alone_and_go_back_still_replace_what_they_repeat(worlds: Worlds) -> None:
    world = worlds("lost", 2, **LOST, how="hangs", back=6)
    assert [len(answers["said"]) for answers in world.returned] == [11, 11]
    phases = {1: [1, 2, 3, 4, 5], 2: [6, 7, 8]}
    assert rows_by(world.run.responses(), "step", "group", "reward") == expected_rows(phases, [0, 1], 3)


def test_one_process_can_go_on_with_a_run_that_lost_a_rank(worlds: Worlds, tmp_path: Path) -> None:
    world = worlds("lost", 2, **LOST, how="is killed")
    path = tmp_path / "run"
    shutil.copytree(world.path, path)
    left = list(path.glob("*/.r00001-*.arrows"))
    assert left  # it was killed while it wrote
    with Monitor(path, resume=True) as monitor:
        assert monitor.step().step == 9
    assert list(path.glob("*/.r00001-*.arrows")) == []
    assert rows_by(Run(path).responses(), "step", "group", "reward") == rows_of_lost(2, 1)


# groups


def test_ranks_of_a_group_work_without_the_other_processes(worlds: Worlds) -> None:
    world = worlds("subgroup", 4)
    first, second = (world.returned[place] for place in (0, 2))
    assert [(rank, size) for rank, size, _ in (first, second)] == [(0, 2), (1, 2)]
    assert first[2] == second[2]
    assert [diagnosis["step"] for diagnosis in first[2]] == [1, 2, 3]
    assert rows_by(world.run.responses(), "step", "group") == Counter(
        {(step, rank): 3 for step in (1, 2, 3) for rank in (0, 1)}
    )
    assert {segment.rank for table in TABLES for segment in list_segments(world.path / table)[0]} == {0, 1}


def test_a_process_outside_of_the_group_is_told_so(worlds: Worlds) -> None:
    returned = worlds("subgroup", 4).returned
    for place in (1, 3):
        classes, words = returned[place]
        assert classes[0] == "InputError", (classes, words)
        assert "not in the group" in words


def test_ranks_find_each_other_though_they_are_in_different_numbers_of_groups(worlds: Worlds) -> None:
    assert worlds("other_groups", 2, members=[0]).returned == [1, 1]


def test_ranks_want_torch_distributed_to_run(worlds: Worlds) -> None:
    with pytest.raises(InputError, match="call init_process_group first"):
        Ranks()
    for classes, words in worlds("no_torch_distributed", 2).returned:
        assert classes[0] == "InputError"
        assert "call init_process_group first" in words


# probes


VARIANTS: dict[str, dict[str, Any]] = {
    f"{preset} {micro_batch}": {"preset": preset, "micro_batch": micro_batch}
    for preset in PRESETS
    for micro_batch in (None, 3)
}
SHARDED = {name: {**options, "sharded": True} for name, options in VARIANTS.items() if options["preset"] == "full"}
TROUBLES: dict[str, dict[str, Any]] = {
    f"{trouble}, {micro_batch}": {"preset": "full", "micro_batch": micro_batch, "trouble": trouble}
    for trouble in ("the score fails", "no responses", "a wrong shape", "anchors of one's own")
    for micro_batch in (None, 3)
}


def differing(returned: list[dict[str, Any]]) -> dict[int, list[Any]]:
    """Step -> (calls before, calls after the update) of each rank, where the ranks differ."""
    counts = [answers["calls"] for answers in returned]
    assert all(len(of_rank) >= PROBE_STEPS for of_rank in counts)
    first = PROBE_STEPS - len(counts[0])  # step 0: anchors of one's own, before the training
    pairs = enumerate(zip(*counts, strict=True), 1 + first)
    return {step: list(of_ranks) for step, of_ranks in pairs if len(set(of_ranks)) > 1}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_rank_makes_the_same_number_of_passes_whatever_it_has(worlds: Worlds, variant: str) -> None:
    returned = [answers[variant] for answers in worlds("probed", 2, variants=VARIANTS).returned]
    assert differing(returned) == {}
    assert all(calls >= 2 for _, calls in returned[0]["calls"][1:])  # after the first step: before and now


@pytest.mark.parametrize("variant", TROUBLES)
def test_trouble_on_one_rank_does_not_change_its_number_of_passes(worlds: Worlds, variant: str) -> None:
    world = worlds("probed", 2, variants=TROUBLES)
    assert differing([answers[variant] for answers in world.returned]) == {}


def test_a_score_that_fails_on_one_rank_is_said_there_and_costs_its_rows_alone(worlds: Worlds) -> None:
    world = worlds("probed", 2, variants=TROUBLES)
    assert world.returned
    name = "the score fails, None"
    part = World(world.path / name, world.ranks)
    (event,) = part.events(1, "error")
    assert (event["step"], "out of memory" in event["detail"]) == (TROUBLE, True)
    assert part.events(0, "error") == []
    correct = [[len(answers[name]["correct"][step]) for step in range(1, PROBE_STEPS)] for answers in world.returned]
    correct[1][TROUBLE - 2 : TROUBLE] = [0, 0]  # its previous responses, and those that it could not take
    found = [step.cross_update_responses or 0 for step in part.run.observations()[1:]]
    assert found == np.add(*correct).tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_that_only_stand_in_are_not_recorded(worlds: Worlds, variant: str) -> None:
    world = worlds("probed", 2, variants=VARIANTS)
    correct = {
        step: sorted(uid for answers in world.returned for uid in answers[variant]["correct"][step])
        for step in range(1, PROBE_STEPS + 1)
    }
    assert [] in [answers[variant]["correct"][step] for answers in world.returned for step in correct]
    rows = Run(world.path / variant).probes().to_pylist()
    plan = PRESETS[VARIANTS[variant]["preset"]]
    for step in range(1, PROBE_STEPS + 1):
        now = [row for row in rows if row["step"] == step]
        headline = sorted(row["uid"] for row in now if row["kind"] == "cross_update")
        assert headline == (correct[step - 1] if step > 1 else [])
        noise = sorted(row["uid"] for row in now if row["kind"] == "noise")
        assert noise == (correct[step] if (step - 1) % plan.noise_every == 0 else [])
        for row in now:
            if row["kind"] == "lagged":
                assert row["uid"] in correct[step - row["lag"]]
            if row["kind"] == "post_update":
                assert any(row["uid"] in answers[variant]["uids"][step] for answers in world.returned)
            assert row["correct"] or row["kind"] == "post_update"
            assert not math.isnan(row["log_prob_before"])
    assert len(rows) == sum(sum(answers[variant]["rows"]) for answers in world.returned)
    assert {row["kind"] for row in rows} == {kind for kind, price in plan.price().items() if price}


@pytest.mark.parametrize("variant", [name for name in TROUBLES if "anchors" not in name])
def test_what_stands_in_where_a_rank_has_trouble_is_not_recorded_either(worlds: Worlds, variant: str) -> None:
    world = worlds("probed", 2, variants=TROUBLES)
    first, second = (answers[variant] for answers in world.returned)
    for row in Run(world.path / variant).probes().to_pylist():
        taken = row["step"] - (row["lag"] if row["kind"] != "fixed" else 0)
        if row["kind"] == "post_update":
            assert row["uid"] in first["uids"][taken] + second["uids"][taken]
        elif row["kind"] != "fixed":
            assert row["uid"] in first["correct"][taken] + second["correct"][taken]
        if taken == TROUBLE and row["kind"] != "fixed":
            assert row["uid"] not in second["uids"][taken]


def test_a_sharded_model_is_scored_without_a_hang(worlds: Worlds) -> None:
    world = worlds("probed", 2, variants=SHARDED)
    for variant in SHARDED:
        assert differing([answers[variant] for answers in world.returned]) == {}
        sharded, whole = (Run(path / variant).observations() for path in (world.path, unsharded(worlds).path))
        assert len(sharded) == PROBE_STEPS
        for ours, expected in zip(sharded, whole, strict=True):
            assert ours.cross_update_change == expected.cross_update_change


def unsharded(worlds: Worlds) -> World:
    return worlds("probed", 2, variants=VARIANTS)


def test_a_probe_keeps_ranks_in_step_unless_it_is_told_otherwise(worlds: Worlds) -> None:
    first, second = worlds("default_of_every_rank", 2).returned
    assert first == [
        4,
        2,
    ]  # 8 at a time: two passes for the 16 that it may have, twice, since the first is scored again
    assert second == [4, 0]


# the training itself


def test_watching_a_data_parallel_training_changes_no_bit_of_it(worlds: Worlds) -> None:
    world = worlds("trained", 2, steps=12)
    for answers in world.returned:
        assert answers["watched"] == answers["unwatched"]
    first, second = (answers["watched"] for answers in world.returned)
    assert first[-1] == second[-1]  # the same weights on both
    assert first[:-1] != second[:-1]  # other batches
    steps = world.run.observations()
    assert len(steps) == 12
    assert {(step.responses, step.updates) for step in steps} == {(16, 2)}
    assert any(step.cross_update_change for step in steps)


# alerts


def test_rank_0_alone_tells_and_all_are_asked_to_stop_at_the_same_step(worlds: Worlds) -> None:
    world = worlds("alerting", 2)
    first, second = world.returned
    assert first == second
    assert first == sorted(first), "from one step on"
    assert first[-1]
    assert diagnose(world.run.observations())[first.index(True)].stage is Stage.COLLAPSE
    told = world.path.with_name(f"told-{world.path.name}")
    assert sorted(file.name for file in told.iterdir()) == ["0"]
    stages = [line.split()[1] for line in (told / "0").read_text().splitlines()]
    assert stages[-2:] == ["decay", "collapse"]
    assert len(world.events(0, "alert")) == len(stages)
    assert len(world.events(0, "stop")) == 1
    assert world.events(1, "alert") == world.events(1, "stop") == []


def test_a_rank_that_has_lost_the_others_does_not_stop_alone(worlds: Worlds) -> None:
    first, _ = worlds("stopping_alone", 2).returned
    *asked, collapsed = first
    assert collapsed
    assert not any(asked)


def test_what_keeps_rank_0_from_telling_ends_all_ranks_at_the_start(worlds: Worlds) -> None:
    world = worlds("misconfigured", 2)
    for _, words in world.returned:
        assert "LLDWATCH_WEBHOOK is not set" in words
    assert not (world.path / "run.json").exists()
