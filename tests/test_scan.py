from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_up import rows_of, scaled, shifted, together

import lldwatch.scan
import lldwatch.scan_cache
from lldwatch import InputError, Observation, Run, RunNotFoundError, Settings
from lldwatch.follow import Follower
from lldwatch.recorder import Recorder
from lldwatch.scan import Scanned, scan
from lldwatch.scan_cache import ScanCache
from lldwatch.scan_table import as_table, show_scan
from lldwatch.schema import RunInfo

ILL = together(shifted("cross_update_change", -0.06), scaled("entropy", 4.0), scaled("reward", 0.0))


def write(path: Path, rows: Sequence[Observation], *, resume: bool = False) -> Path:
    recorder = Recorder(path, RunInfo(trainer="test"), resume=resume)
    for row in rows:
        recorder.record(row)
    recorder.close()
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write(root / "well", rows_of(lambda columns, ago: {}))
    write(root / "deep" / "ill", rows_of(ILL))
    write(root / "bare", rows_of(lambda columns, ago: {}, without=["entropy", "kl"]))
    return root


@pytest.fixture
def root(recorded: Path, tmp_path: Path) -> Path:
    """Three runs of its own."""
    shutil.copytree(recorded, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def cache(tmp_path: Path) -> ScanCache:
    return ScanCache(tmp_path / "cache" / "scan.json")


def reopened(cache: ScanCache) -> ScanCache:
    return ScanCache(cache.path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were read rather than remembered."""
    names: list[str] = []
    real = lldwatch.scan.scan_run

    def noted(run: str, settings: Settings) -> Scanned:
        names.append(Path(run).name)
        return real(run, settings)

    monkeypatch.setattr(lldwatch.scan, "scan_run", noted)
    return names


def test_each_run_is_diagnosed_as_by_itself_and_the_worst_comes_first(root: Path) -> None:
    found = scan(root, jobs=1)
    assert Path(found[0].run).name == "ill"
    for one in found:
        follower = Follower(Run(one.run))
        follower.update()
        diagnosis = follower.diagnosis
        assert one.stage == diagnosis.stage.label
        assert one.family == diagnosis.family
        assert one.onset == min(diagnosis.onsets.values(), default=None)
        assert one.first_warning == diagnosis.first_warning
        assert one.collapse_probability == diagnosis.collapse_probability
        assert one.steps == 80
        assert one.ended == follower.run.info.ended
        assert one.missing == tuple(check.name for check in diagnosis.checks if check.status == "skipped")
    bare = next(one for one in found if one.run.endswith("bare"))
    assert {"entropy", "kl"} <= set(bare.missing)


def test_many_runs_in_two_processes_say_the_same_as_in_one(root: Path) -> None:
    for number in range(9):
        shutil.copytree(root / "well", root / f"copy-{number}")
    seen: list[tuple[int, int]] = []
    assert scan(root, jobs=2, progress=lambda done, of: seen.append((done, of))) == scan(root, jobs=1)
    assert seen[0] == (0, 12)
    assert seen[-1] == (12, 12)
    assert seen == sorted(seen)


def test_a_run_that_resumed_is_diagnosed_on_what_counts(root: Path) -> None:
    well = rows_of(lambda columns, ago: {})
    write(root / "deep" / "ill", well[30:], resume=True)  # it went back to before its illness
    healed = next(one for one in scan(root, jobs=1) if one.run.endswith("ill"))
    assert (healed.stage, healed.steps) == ("healthy", 80)


def test_what_cannot_be_read_is_a_line_and_ends_nothing(root: Path) -> None:
    (root / "empty" / "steps").mkdir(parents=True)
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text('{"schema_version": 99, "lldwatch_version": "9.0"}')
    shutil.copytree(root / "well", root / "torn")
    for part in (root / "torn" / "steps").iterdir():
        part.write_bytes(b"PAR1")
    found = {Path(one.run).name: one for one in scan(root, jobs=1)}
    assert list(found)[3:] == ["broken", "empty", "torn"]
    assert "update lldwatch" in str(found["broken"].error)
    assert "run.json is missing" in str(found["empty"].error)
    assert "cannot be read" in str(found["torn"].error)
    table = as_table(list(found.values()), root)
    assert len(table) == 1 + 6
    assert table[-1].startswith("torn: ")


def test_a_run_that_is_partly_read_says_so(root: Path) -> None:
    (root / "well" / "steps" / "notes.txt").touch()
    found = scan(root, jobs=1)
    well = next(one for one in found if one.run.endswith("well"))
    assert well.problems == ("steps/notes.txt is not a file of lldwatch: left out",)
    assert "1 files unread" in next(line for line in as_table(found, root) if line.startswith("well"))


def test_an_unforeseen_error_is_a_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, path: str) -> None:
            raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(lldwatch.scan, "Run", Broken)
    assert {one.error for one in scan(root, jobs=1)} == {"ZeroDivisionError: two lines"}


def test_paths_are_absolute_wherever_the_scan_is_started(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    found = scan("./runs", jobs=1)
    assert found == scan(root, jobs=1)
    assert [line.split()[0] for line in as_table(found, "runs")] == ["run", "deep/ill", "bare", "well"]


@pytest.mark.parametrize("there", [True, False])
def test_a_root_without_runs_says_what_to_do(tmp_path: Path, there: bool) -> None:
    root = tmp_path / "root"
    if there:
        root.mkdir()
    with pytest.raises(RunNotFoundError, match=r"give the folder (above|that holds)") as error:
        scan(root)
    assert str(root) in str(error.value)


def test_an_engine_that_is_not_known_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match="expected local or ray"):
        scan(root, engine="dask")  # type: ignore[arg-type]


def test_records_survive_json(root: Path) -> None:
    for one in scan(root, jobs=1):
        assert Scanned.from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_the_table_shows_paths_below_the_root_and_ages(root: Path) -> None:
    ill: dict[str, Any] = {"family": "lld_spiral", "onset": 3, "first_warning": 5, "collapse_probability": 0.834}
    missing = ("kl", "format", "reuse", "entropy")
    found = [
        Scanned(run=str(root / "deep" / "a"), stage="decay", steps=2000, last_time=1000.0, missing=missing, **ill),
        Scanned(run=str(root / "b"), stage="healthy", ended="2026-01-01T00:00:00+00:00"),
    ]
    lines = [" ".join(line.split()) for line in as_table(found, root, now=1000.0 + 3 * 3600)]
    assert lines == [
        "run stage family onset warned risk steps last step state missing",
        "deep/a decay lld_spiral 3 5 83% 2000 3 h ago open kl, format, reuse and 1 more",
        "b healthy - - - - 0 - ended -",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_shown(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setenv("LLDWATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    out = io.StringIO()
    show_scan(root, out, jobs=1)
    found = scan(root, jobs=1)
    assert out.getvalue().splitlines() == as_table(found, root)
    assert ("/3" in capsys.readouterr().err) is terminal  # the last line of the bar may come too late to be drawn
    out = io.StringIO()
    show_scan(root, out, as_json=True, jobs=1)
    assert json.loads(out.getvalue()) == {"root": str(root), "runs": [one.as_dict() for one in found]}
    assert (tmp_path / "cache" / "scan.json").is_file()
    monkeypatch.setenv("LLDWATCH_CACHE", str(tmp_path / "other"))
    show_scan(root, out, jobs=1, use_cache=False)
    assert not (tmp_path / "other").exists()


# what earlier scans have found


def test_runs_that_have_not_changed_are_not_read_again(root: Path, cache: ScanCache, read: list[str]) -> None:
    first = scan(root, jobs=1, cache=cache)
    assert len(read) == 3
    assert scan(root, jobs=1, cache=reopened(cache)) == first
    assert len(read) == 3
    assert scan(root, jobs=1) == first  # without the cache
    assert len(read) == 6


def test_a_run_that_has_changed_is_read_again(root: Path, cache: ScanCache, read: list[str]) -> None:
    scan(root, jobs=1, cache=cache)
    write(root / "well", [Observation(step=81, reward=0.5)], resume=True)
    found = scan(root, jobs=1, cache=reopened(cache))
    assert read[3:] == ["well"]
    assert next(one.steps for one in found if one.run.endswith("well")) == 81
    state = (root / "bare" / "run.json").stat()
    os.utime(root / "bare" / "run.json", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    scan(root, jobs=1, cache=reopened(cache))
    assert read[4:] == ["bare"]


def test_the_rows_of_responses_do_not_matter(root: Path, cache: ScanCache, read: list[str]) -> None:
    scan(root, jobs=1, cache=cache)
    (root / "well" / "responses").mkdir()
    (root / "well" / "responses" / "new").touch()
    scan(root, jobs=1, cache=reopened(cache))
    assert len(read) == 3


def test_a_run_that_is_being_written_is_read_again_with_each_step(
    tmp_path: Path, cache: ScanCache, read: list[str]
) -> None:
    recorder = Recorder(tmp_path / "runs" / "live", RunInfo())
    for step in (1, 2, 3):
        recorder.record(Observation(step=step, reward=0.5))
        recorder.flush()
        (live,) = scan(tmp_path / "runs", jobs=1, cache=reopened(cache))
        assert (live.steps, len(read)) == (step, step)
    recorder.close()


def test_other_settings_or_another_lldwatch_ask_again(
    root: Path, cache: ScanCache, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(root, jobs=1, cache=cache)
    scan(root, jobs=1, cache=reopened(cache), settings=Settings(warmup=20))
    assert len(read) == 6
    monkeypatch.setattr(lldwatch.scan_cache, "_sources", lambda: "another")
    scan(root, jobs=1, cache=reopened(cache), settings=Settings(warmup=20))
    assert len(read) == 9


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b"null\n{}", b"whole file but one byte"])
def test_a_damaged_cache_is_as_good_as_none(root: Path, cache: ScanCache, read: list[str], damage: bytes) -> None:
    first = scan(root, jobs=1, cache=cache)
    whole = cache.path.read_bytes()
    cache.path.write_bytes(whole.replace(b"healthy", b"healthi", 1) if damage.startswith(b"whole") else damage)
    assert scan(root, jobs=1, cache=reopened(cache)) == first
    assert len(read) == 6
    assert cache.path.read_bytes().partition(b"\n")[0] == whole.partition(b"\n")[0]  # mended


def test_a_cache_that_cannot_be_written_is_said_and_costs_nothing(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert len(scan(root, jobs=1, cache=ScanCache(tmp_path / "file" / "scan.json"))) == 3
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the next scan reads all runs again" in record.getMessage()


def test_the_cache_is_bounded_and_forgets_what_was_not_asked_for(
    root: Path, cache: ScanCache, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lldwatch.scan_cache, "_MOST", 2)
    scan(root / "deep", jobs=1, cache=cache)
    scan(root / "bare", jobs=1, cache=reopened(cache))
    scan(root / "well", jobs=1, cache=reopened(cache))
    assert len(reopened(cache)._entries) == 2
    scan(root / "bare", jobs=1, cache=reopened(cache))
    assert read == ["ill", "bare", "well"]
    scan(root / "deep", jobs=1, cache=reopened(cache))
    assert read[3:] == ["ill"]


def test_a_run_without_a_diagnosis_is_tried_again(root: Path, cache: ScanCache, read: list[str]) -> None:
    (root / "empty" / "steps").mkdir(parents=True)
    scan(root, jobs=1, cache=cache)
    scan(root, jobs=1, cache=reopened(cache))
    assert read[4:] == ["empty"]


def test_nothing_is_written_into_the_runs(root: Path, cache: ScanCache) -> None:
    def state() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob("*"))

    before = state()
    scan(root, jobs=1, cache=cache)
    assert state() == before


def test_the_cache_stands_in_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLDWATCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ScanCache().path == tmp_path / "lldwatch" / "scan.json"
    monkeypatch.setenv("LLDWATCH_CACHE", str(tmp_path / "own"))
    assert ScanCache().path == tmp_path / "own" / "scan.json"


# Ray


@pytest.mark.filterwarnings("ignore")  # of Ray's own: sockets and files that it leaves open
def test_ray_says_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (root / "empty" / "steps").mkdir(parents=True)
    assert scan(root, engine="ray", jobs=2) == scan(root, jobs=1)


def test_without_ray_the_engine_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"install lldwatch with its extra \[ray\]"):
        scan(root, engine="ray")
