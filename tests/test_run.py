from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import histories

from lldwatch import Run, RunNotFoundError, SchemaTooNewError, list_runs
from lldwatch.recorder import Recorder
from lldwatch.schema import SCHEMA_VERSION, Observation, Responses, RunInfo, arrow_schema, columns_of
from lldwatch.segments import Segment

TRAINING = Path(__file__).with_name("child_training.py")


def write(path: Path, steps: range, *, steps_per_part: int = 4, resume: bool = False, loss: float = 0.5) -> Path:
    recorder = Recorder(path, RunInfo(trainer="test"), steps_per_part=steps_per_part, resume=resume)
    for step in steps:
        recorder.record(Observation(step=step, loss=loss), [Responses(tokens=[step, step])])
        recorder.flush()  # a part is sealed when no step waits
    recorder.close()
    return path


@pytest.fixture
def run_path(run_dir: Path) -> Path:
    """Ten steps in three parts."""
    return write(run_dir, range(1, 11))


def steps_of(observations: list[Observation]) -> list[int]:
    return [observation.step for observation in observations]


def part(run: Path, number: int, table: str = "steps") -> Path:
    return Segment(0, 0, number).part(run / table)


@pytest.mark.parametrize("table", ["steps", "responses", "probes", "events"])
def test_tables_have_the_columns_of_the_contract_even_without_rows(run_path: Path, table: str) -> None:
    read: pa.Table = getattr(Run(run_path), table)()
    assert read.column_names == list(columns_of(table))
    assert read.schema.equals(arrow_schema(table), check_metadata=True)
    assert len(read) == {"steps": 10, "responses": 20}.get(table, 0)


def test_steps_and_observations_say_the_same(run_path: Path) -> None:
    run = Run(run_path)
    assert run.steps().to_pylist() == [observation.as_dict() for observation in run.observations()]


def test_poll_gives_each_step_once_and_observations_all_of_them_each_time(run_dir: Path) -> None:
    recorder = Recorder(run_dir, RunInfo(), steps_per_part=3)
    run, polled = Run(run_dir), []
    for step in range(1, 11):
        recorder.record(Observation(step=step))
        recorder.flush()
        polled.append(steps_of(run.poll()))
        assert run.poll() == []
        assert steps_of(run.observations()) == list(range(1, step + 1))
    assert polled == [[step] for step in range(1, 11)]
    assert not run.ended
    recorder.close()
    assert run.poll() == []
    assert run.ended


@given(history=histories(), data=st.data(), steps_per_part=st.integers(1, 4))
@settings(max_examples=25)
def test_poll_at_any_moment_gives_what_was_recorded(
    tmp_path_factory: pytest.TempPathFactory, history: list[Observation], data: st.DataObject, steps_per_part: int
) -> None:
    path = tmp_path_factory.mktemp("run")
    recorder = Recorder(path, RunInfo(), steps_per_part=steps_per_part)
    run, polled = Run(path), []
    for observation in history:
        recorder.record(observation)
        if data.draw(st.booleans()):
            polled += run.poll()  # while the recorder may be writing and sealing
    recorder.close()
    polled += run.poll()
    assert repr(polled) == repr(history)


@pytest.mark.parametrize("steps_per_part", [1, 3])
def test_poll_gives_each_step_once_while_a_thread_writes_and_seals(run_dir: Path, steps_per_part: int) -> None:
    recorder = Recorder(run_dir, RunInfo(), steps_per_part=steps_per_part)

    def train() -> None:
        for step in range(1, 121):
            recorder.record(Observation(step=step), [Responses(tokens=[step])])
        recorder.close()

    training = threading.Thread(target=train)
    training.start()
    run, polled, other = Run(run_dir), [], []
    while training.is_alive():
        polled += run.poll()
        complete = run.steps()["step"].to_pylist()
        responses = run.responses()["step"].to_pylist()
        assert set(complete) <= set(responses)  # a step that stands there has its rows
        other.append(len(responses))
    training.join()
    polled += run.poll()
    assert steps_of(polled) == list(range(1, 121))
    assert run.problems == []
    assert other == sorted(other)  # a reader never sees less than a reader before it


def test_poll_gives_each_step_once_while_another_process_writes_and_seals(run_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(TRAINING), str(run_dir), "--steps", "300", "--steps-per-part", "3"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        drain = threading.Thread(target=child.stdout.read)
        drain.start()
        run, polled = Run(run_dir), []
        while child.poll() is None:
            polled += run.poll()
            steps = [observation.step for observation in run.observations()]
            assert steps == list(range(1, len(steps) + 1))
        drain.join()
    polled += run.poll()
    assert steps_of(polled) == list(range(1, 301))
    assert run.problems == []
    assert run.ended


def test_poll_gives_repeated_steps_again_after_going_back(run_dir: Path) -> None:
    run = Run(write(run_dir, range(1, 6)))
    assert steps_of(run.poll()) == [1, 2, 3, 4, 5]
    write(run_dir, range(4, 8), resume=True, loss=9.0)
    assert steps_of(run.poll()) == [4, 5, 6, 7]
    assert [(o.step, o.loss) for o in run.observations()] == [(s, 0.5 if s < 4 else 9.0) for s in range(1, 8)]


def test_three_attempts_of_which_a_middle_one_went_furthest(run_dir: Path) -> None:
    write(run_dir, range(1, 6), loss=0.0)
    write(run_dir, range(4, 12), resume=True, loss=1.0)
    run = Run(write(run_dir, range(2, 5), resume=True, loss=2.0))
    expected = [(1, 0.0), (2, 2.0), (3, 2.0), (4, 2.0)]
    assert [(o.step, o.loss) for o in run.observations()] == expected
    assert [(row["step"], row["loss"]) for row in run.steps().to_pylist()] == expected
    assert run.responses()["step"].to_pylist() == [step for step, _ in expected for _ in range(2)]


# files that are not as they should be


def test_a_torn_part_is_named_and_the_others_are_read(run_path: Path) -> None:
    torn = part(run_path, 1)
    torn.write_bytes(torn.read_bytes()[:-20])
    run = Run(run_path)
    assert steps_of(run.observations()) == [1, 2, 3, 4, 9, 10]
    assert steps_of(run.poll()) == [1, 2, 3, 4, 9, 10]
    assert run.poll() == []
    assert run.steps()["step"].to_pylist() == [1, 2, 3, 4, 9, 10]
    (problem,) = run.problems
    assert problem.startswith(f"steps/{torn.name} cannot be read (")
    assert "\n" not in problem


@pytest.mark.parametrize("content", [b"", b"PAR1", b"step,loss\n1,2\n", bytes(range(256)) * 2])
def test_a_part_that_is_no_parquet_is_named_and_left_out(run_path: Path, content: bytes) -> None:
    part(run_path, 2).write_bytes(content)
    run = Run(run_path)
    assert steps_of(run.observations()) == list(range(1, 9))
    assert len(run.problems) == 1
    assert part(run_path, 2).name in run.problems[0]


def test_a_part_that_another_tool_wrote_is_named_and_left_out(run_path: Path) -> None:
    pq.write_table(pa.table({"step": [99]}), part(run_path, 3))
    run = Run(run_path)
    assert steps_of(run.observations()) == list(range(1, 11))
    assert "not written by lldwatch" in run.problems[0]


def test_a_part_of_a_newer_version_is_named_and_left_out(run_path: Path) -> None:
    metadata = {"lldwatch.table": "steps", "lldwatch.schema_version": str(SCHEMA_VERSION + 1)}
    pq.write_table(pa.table({"step": [99]}).replace_schema_metadata(metadata), part(run_path, 3))
    run = Run(run_path)
    assert steps_of(run.observations()) == list(range(1, 11))
    assert run.problems == [
        f"steps/{part(run_path, 3).name} cannot be read (its schema version {SCHEMA_VERSION + 1} is newer than "
        f"{SCHEMA_VERSION}: update lldwatch): left out, with its rows"
    ]


def test_foreign_files_are_named_once(run_path: Path) -> None:
    (run_path / "steps" / "notes.txt").write_text("hello")
    (run_path / "steps" / "mine.parquet").write_text("not parquet")
    run = Run(run_path)
    for _ in range(2):
        assert steps_of(run.observations()) == list(range(1, 11))
    assert run.problems == [
        "steps/mine.parquet is not a file of lldwatch: left out",
        "steps/notes.txt is not a file of lldwatch: left out",
    ]


def test_a_part_that_cannot_be_read_for_a_while_does_not_come_out_of_order(run_path: Path) -> None:
    """Given after later steps, its steps would look like a training that went back."""
    run, whole = Run(run_path), part(run_path, 1).read_bytes()
    part(run_path, 1).write_bytes(b"")
    assert steps_of(run.poll()) == [1, 2, 3, 4, 9, 10]
    part(run_path, 1).write_bytes(whole)
    write(run_path, range(11, 13), resume=True)
    assert steps_of(run.poll()) == [11, 12]
    assert steps_of(run.observations()) == list(range(1, 13))


def test_a_last_part_that_cannot_be_read_for_a_while_is_tried_again(run_path: Path) -> None:
    run, whole = Run(run_path), part(run_path, 2).read_bytes()
    part(run_path, 2).write_bytes(b"")
    assert steps_of(run.poll()) == list(range(1, 9))
    part(run_path, 2).write_bytes(whole)
    assert steps_of(run.poll()) == [9, 10]


def test_a_missing_run_json_is_said_and_the_steps_are_read(run_path: Path) -> None:
    (run_path / "run.json").unlink()
    run = Run(run_path)
    assert len(run.observations()) == 10
    assert run.problems == ["run.json is missing: trainer, configuration and end of the run are unknown"]
    assert run.info == RunInfo()


@pytest.mark.parametrize("text", ["", '{"trainer": "mi', "[]", '{"schema_version": "two"}', "\ud800"])
def test_a_torn_run_json_is_said_and_the_steps_are_read(run_path: Path, text: str) -> None:
    (run_path / "run.json").write_text(text, errors="surrogatepass")
    run = Run(run_path)
    assert len(run.observations()) == 10
    (problem,) = run.problems
    assert problem.startswith("run.json cannot be read (")
    assert "\n" not in problem


def test_a_run_json_that_is_torn_while_it_is_followed_keeps_what_was_known(run_path: Path) -> None:
    run = Run(run_path)
    (run_path / "run.json").write_text("{")
    run.poll()
    assert run.info.trainer == "test"


def test_a_run_of_a_newer_version_is_refused_in_one_line(run_path: Path) -> None:
    info = RunInfo(schema_version=SCHEMA_VERSION + 1, lldwatch_version="9.0")
    (run_path / "run.json").write_text(info.to_json())
    with pytest.raises(SchemaTooNewError, match=r"update lldwatch .*9\.0") as error:
        Run(run_path)
    assert "\n" not in str(error.value)


def test_what_is_no_run_is_refused_in_one_line_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, words in (
        ("missing", "does not exist"),
        ("empty", "is not a run"),
        ("file", "is a file, not a run directory"),
    ):
        with pytest.raises(RunNotFoundError, match=words) as error:
            Run(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)
        assert isinstance(error.value, FileNotFoundError)


def test_a_run_without_steps_yet_is_a_run(run_dir: Path) -> None:
    recorder = Recorder(run_dir, RunInfo())
    run = Run(run_dir)
    assert run.observations() == run.poll() == run.problems == []
    assert len(run.steps()) == 0
    recorder.close()


# finding runs


def test_runs_are_found_at_any_depth_and_not_inside_runs(tmp_path: Path) -> None:
    for name in ("b", "a/deep/run", "a/deep/run/checkpoints/inner", ".hidden/run"):
        write(tmp_path / name, range(1, 2))
    (tmp_path / "nothing" / "here").mkdir(parents=True)
    assert list_runs(tmp_path) == [tmp_path / "a" / "deep" / "run", tmp_path / "b"]
    assert list_runs(tmp_path / "b") == [tmp_path / "b"]
    assert list_runs(str(tmp_path / "nothing")) == []


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="missing does not exist"):
        list_runs(tmp_path / "missing")
