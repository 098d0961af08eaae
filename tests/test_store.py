from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up import rows_of
from object_store import Connection

import lldwatch.stores.store
from lldwatch import InputError, Observation, Responses, Run, RunError, RunNotFoundError, list_runs
from lldwatch.follow import Follower
from lldwatch.recorder import Recorder
from lldwatch.report import as_json
from lldwatch.scan import scan
from lldwatch.scan_cache import ScanCache
from lldwatch.schema import RunInfo
from lldwatch.stores.mirror import fetched
from lldwatch.stores.store import Store, is_url


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lldwatch.stores.store, "_STALL_SECONDS", 0.5)
    monkeypatch.setattr(lldwatch.stores.store, "_ATTEMPTS", 1)


@pytest.fixture
def connection(s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    made = Connection(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{made.address}")
    yield made
    made.close()


def write(path: Path, steps: range = range(1, 11), *, resume: bool = False) -> Path:
    recorder = Recorder(path, RunInfo(trainer="test"), steps_per_part=4, resume=resume)
    for step in steps:
        recorder.record(Observation(step=step, loss=0.5), [Responses(tokens=[step, step])])
        recorder.flush()
    recorder.close()
    return path


def put(run: Path, url: str) -> str:
    """Copy a local run to the store, as any tool would."""
    store = Store(url)
    for file in sorted(run.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            store.write(file.relative_to(run).as_posix(), file.read_bytes())
    return url


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    return write(tmp_path / "local")


def steps_of(observations: list[Observation]) -> list[int]:
    return [observation.step for observation in observations]


def test_what_a_url_is() -> None:
    assert is_url("s3://bucket/run")
    assert not is_url("runs/search")
    assert not is_url("C:\\runs")
    assert not is_url(Path("s3://bucket/run"))


def test_a_run_in_a_store_says_the_same_as_the_local_one(run_path: Path, s3: str) -> None:
    local, run = Run(run_path), Run(put(run_path, f"{s3}/run"))
    assert run.path == f"{s3}/run"
    assert run.info == local.info
    assert run.ended
    assert run.observations() == local.observations()
    for table in ("steps", "responses", "probes", "events"):
        assert getattr(run, table)().equals(getattr(local, table)())
    assert run.problems == []


def test_a_run_in_a_store_is_diagnosed_like_the_local_one(tmp_path: Path, s3: str) -> None:
    recorder = Recorder(tmp_path / "local", RunInfo(trainer="test"))
    for row in rows_of(lambda columns, ago: {}):
        recorder.record(row)
    recorder.close()
    followers = [Follower(Run(tmp_path / "local")), Follower(Run(put(tmp_path / "local", f"{s3}/run")))]
    for follower in followers:
        follower.update()
    local, there = (as_json(follower) for follower in followers)
    assert there | {"run": ""} == local | {"run": ""}
    assert there["run"] == f"{s3}/run"
    json.dumps(there)


def test_the_endpoint_may_stand_in_the_url(
    run_path: Path, s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = f"?endpoint_override={s3_server}&scheme=http"
    put(run_path, f"{s3}/deep/run{options}")
    assert list_runs(f"{s3}/{options}") == [f"{s3}/deep/run{options}"]
    assert len(Run(f"{s3}/deep/run{options}").observations()) == 10


def test_only_what_is_asked_for_is_downloaded_and_only_once(
    run_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    real = Store.read

    def noted(store: Store, name: str) -> bytes:
        names.append(name)
        return real(store, name)

    run = put(run_path, f"{s3}/run")
    monkeypatch.setattr(Store, "read", noted)
    opened = Run(run)
    for _ in range(2):
        opened.observations()
    parts = [name for name in names if name != "run.json"]
    assert sorted(parts) == sorted(f"steps/{file.name}" for file in (run_path / "steps").iterdir())


def test_poll_gives_what_has_come(run_path: Path, s3: str) -> None:
    run = Run(put(run_path, f"{s3}/run"))
    assert steps_of(run.poll()) == list(range(1, 11))
    assert run.poll() == []
    put(write(run_path, range(9, 14), resume=True), f"{s3}/run")
    assert steps_of(run.poll()) == list(range(9, 14))
    assert steps_of(run.observations()) == list(range(1, 14))
    assert run.info.attempt == 1


def test_a_part_that_was_written_anew_is_read_anew(run_path: Path, tmp_path: Path, s3: str) -> None:
    run = Run(put(run_path, f"{s3}/run"))
    assert len(run.steps()) == 10
    Store(f"{s3}/run").write("steps/r00000-a000-00000002.parquet", b"PAR1")
    assert len(run.steps()) == 8
    assert run.problems[0].startswith("steps/r00000-a000-00000002.parquet cannot be read")


def test_the_local_copy_goes_with_the_run(
    run_path: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    run = Run(put(run_path, f"{s3}/run"))
    run.observations()
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    del run
    assert list((tmp_path / "temporary").iterdir()) == []


def test_runs_are_found_at_any_depth_and_not_inside_runs(run_path: Path, s3: str) -> None:
    for name in ("b", "a/deep/run", "a/deep/run/checkpoints/inner", ".hidden/run"):
        put(run_path, f"{s3}/{name}")
    Store(s3).write("notes/steps.txt", b"no run")
    assert list_runs(s3) == [f"{s3}/a/deep/run", f"{s3}/b"]
    assert list_runs(f"{s3}/b/") == [f"{s3}/b"]
    assert list_runs(f"{s3}/nothing") == []


def test_a_prefix_is_scanned_and_what_has_not_changed_costs_a_listing(
    run_path: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b/c"):
        put(run_path, f"{s3}/{name}")
    first = scan(s3, jobs=1, cache=ScanCache(tmp_path / "scan.json"))
    assert [(one.run, one.stage, one.steps) for one in first] == [
        (f"{s3}/a", "healthy", 10), (f"{s3}/b/c", "healthy", 10)
    ]  # fmt: skip
    monkeypatch.setattr(Store, "read", lambda store, name: pytest.fail(f"{name} was read"))
    assert scan(s3, jobs=1, cache=ScanCache(tmp_path / "scan.json")) == first
    with pytest.raises(RunNotFoundError, match="holds no run"):
        scan(f"{s3}/nothing")


# what can go wrong


def test_what_is_no_run_is_said_in_one_line(s3: str) -> None:
    with pytest.raises(RunNotFoundError, match=r"is not a run: it has no run\.json") as error:
        Run(f"{s3}/missing")
    assert f"{s3}/missing" in str(error.value)


@pytest.mark.parametrize("root", ["s3://no-such-bucket/runs", "s3://no-such-bucket/a/b"])
def test_a_bucket_that_is_not_there_is_said_in_one_line(s3: str, root: str) -> None:
    for use in (lambda: list_runs(root), lambda: Run(root), lambda: scan(root)):
        with pytest.raises(RunError, match="no such bucket: check the name, or make it first") as error:
            use()
        assert str(error.value).startswith(root)
        assert "\n" not in str(error.value)


def test_a_store_that_refuses_is_said_in_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(store: Store, *_: object) -> object:
        raise OSError("When listing objects: AWS Error ACCESS_DENIED during ListObjectsV2 operation: Access\nDenied")

    store = Store(s3)
    monkeypatch.setattr(store, "_files", type("Refusing", (), {"get_file_info": refuses})())
    with pytest.raises(RunError, match=r"refuses these credentials: set AWS_ACCESS_KEY_ID .*Access Denied\)$"):
        store.files()


@pytest.mark.parametrize("state", ["refused", "hanging"])
def test_a_store_that_cannot_be_reached_is_said_in_one_line(s3: str, connection: Connection, state: str) -> None:
    connection.set(state)  # type: ignore[arg-type]
    for use in (lambda: Run(f"{s3}/run"), lambda: list_runs(s3)):
        with pytest.raises(RunError, match="cannot be reached: check the connection, and the endpoint") as error:
            use()
        assert str(error.value).startswith(s3)
        assert "\n" not in str(error.value)


def test_a_connection_that_is_lost_while_a_run_is_followed_is_said_and_mended(
    run_path: Path, s3: str, connection: Connection
) -> None:
    run = Run(put(run_path, f"{s3}/run"))
    assert len(run.poll()) == 10
    put(write(run_path, range(11, 14), resume=True), f"{s3}/run")
    connection.set("refused")
    assert run.poll() == []
    assert steps_of(run.observations()) == list(range(1, 11))  # what came before
    (problem,) = run.problems
    assert "cannot be reached" in problem
    connection.set("open")
    assert steps_of(run.poll()) == [11, 12, 13]
    assert run.problems == []


@pytest.mark.parametrize("url", ["foo://bucket/run", "s3://bucket/run?nonsense=1", "http://bucket/run"])
def test_a_url_that_pyarrow_does_not_know_is_said_in_one_line(s3: str, url: str) -> None:
    with pytest.raises(InputError) as error:
        Run(url)
    assert str(error.value).startswith(url)
    assert "\n" not in str(error.value)


def test_a_store_with_folders_of_its_own_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/store")
    store.write("steps/a", b"1")
    store.write("steps/a", b"22")
    assert store.files().keys() == {"steps/a"}
    assert os.listdir(tmp_path / "store" / "steps") == ["a"]
    assert store.read("steps/a") == b"22"
    assert fetched(store, "steps/a", tmp_path / "copy" / "a")
    assert not fetched(store, "steps/b", tmp_path / "copy" / "b")
    assert (tmp_path / "copy" / "a").read_bytes() == b"22"
    shutil.rmtree(tmp_path / "store")
    assert store.files() == {}


def test_a_url_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="must not hold a key or password") as caught:
        Store("s3://key:secret@bucket/run")
    assert "secret" not in str(caught.value)
