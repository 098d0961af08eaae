"""Diagnose all runs below a folder or an object-store prefix: `lldwatch scan`.

A run costs about as long as its steps take to read and to fold, and runs do not depend on each other: they are dealt
out to processes, many at a time. What a run said is kept (`lldwatch.scan_cache`), outside of the run, so that runs that
have not changed since cost a look at their folder. A run that cannot be read is an answer like any other.

Rejected: threads (the fold is Python); a task a run (a process that reads a run takes less time than Ray takes to start
the task).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lldwatch.checks import Settings
from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Stage
from lldwatch.errors import InputError, LldwatchError, RunNotFoundError
from lldwatch.run import Run, list_runs
from lldwatch.scan_cache import ScanCache, stamp
from lldwatch.scan_ray import on_ray
from lldwatch.schema import Observation
from lldwatch.segments import INFO_FILE
from lldwatch.stores.mirror import runs_in
from lldwatch.stores.store import Store, is_url

Engine = Literal["local", "ray"]

_ALONE = 8
"""So many runs are read sooner than a second process has started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What a scan says of one run.

    Attributes:
        run: its absolute path, or its URL.
        stage: label of the stage as of its last step; None where nothing can be said.
        family: which kind of collapse.
        onset: step at which the first thing that is wrong now is estimated to have begun.
        first_warning: first step at which a live user was warned.
        collapse_probability: of a sustained collapse within the forecast's horizon.
        steps: steps that were recorded.
        last_time: when the last of them was closed, Unix time in s.
        ended: when the training closed the run, ISO 8601; None: it is running, or was killed.
        trainer: as `run.json` has it.
        missing: checks that could not be made, since their signals were not recorded or not for long enough.
        problems: files that could not be read.
        error: why there is no diagnosis; None where there is one.
    """

    run: str
    stage: str | None = None
    family: str | None = None
    onset: int | None = None
    first_warning: int | None = None
    collapse_probability: float | None = None
    steps: int = 0
    last_time: float | None = None
    ended: str | None = None
    trainer: str = ""
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types; what is not known is None."""
        return asdict(self) | {"missing": list(self.missing), "problems": list(self.problems)}

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Scanned:
        """What `as_dict` made."""
        return cls(**kept | {"missing": tuple(kept["missing"]), "problems": tuple(kept["problems"])})


def scan(
    root: str | os.PathLike[str],
    *,
    engine: Engine = "local",
    jobs: int | None = None,
    cache: ScanCache | None = None,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scanned]:
    """Diagnose all runs below a folder or a prefix, the worst first.

    Args:
        root: folder, or URL in an object store.
        engine: "local": processes of this machine; "ray": tasks on a Ray cluster, or a local one (extra `ray`).
        jobs: processes; None: one for each core.
        cache: what earlier scans have found; None: read every run.
        settings: of the detector; None: the default ones.
        progress: called as ``progress(runs done, all runs)``.

    Returns:
        One record a run: the worst stage first, then the higher probability; those without a diagnosis last.

    Raises:
        RunNotFoundError: there is no such folder, or no run in it.
        RunError: the object store cannot be reached.
        InputError: there is no such engine, or Ray is not installed.
    """
    settings = settings or Settings()
    stamps = find(root)
    if not stamps:
        words = "give the folder above your run directories (lldwatch import makes runs of the logs of other tools)"
        raise RunNotFoundError(f"{root} holds no run: {words}")
    found = [] if cache is None else list(map(Scanned.from_dict, cache.known(stamps, settings).values()))
    done = {one.run for one in found}
    todo, fresh = [run for run in stamps if run not in done], list[Scanned]()
    if progress:
        progress(len(found), len(stamps))
    for part in _dealt_out(todo, engine, jobs or os.cpu_count() or 1, settings):
        fresh += part
        if progress:
            progress(len(found) + len(fresh), len(stamps))
    if cache is not None:
        cache.keep({one.run: one.as_dict() for one in fresh if one.error is None}, stamps, settings)
    return sorted([*found, *fresh], key=_by_trouble)


def find(root: str | os.PathLike[str]) -> dict[str, str]:
    """Absolute path or URL of each run below a folder or prefix -> a stamp that changes with its steps and `run.json`.

    Raises:
        RunNotFoundError: there is no such folder.
        RunError: the object store cannot be reached.
    """
    if is_url(root):
        store = Store(root)
        return {store.at(name): stamp(files) for name, files in runs_in(store).items()}
    # what is remembered, and what other processes read, must not depend on the working directory
    folder = Path(os.path.abspath(root))
    return {str(run): stamp(_files_of(run)) for run in list_runs(folder)}


def scan_run(run: str, settings: Settings) -> Scanned:
    """Diagnose one run; never raises what a run can cause.

    Args:
        run: path or URL.
        settings: of the detector.
    """
    try:
        opened = Run(run)
        observations = opened.observations()
        info, problems = opened.info, tuple(opened.problems)
        facts: dict[str, Any] = {"run": run, "ended": info.ended, "trainer": info.trainer, "problems": problems}
        if not observations:
            return Scanned(**facts, error="; ".join(problems) or "no step has been recorded yet")
        return Scanned(**facts, **_diagnosed(observations, settings))
    except LldwatchError as error:
        return Scanned(run=run, error=str(error))
    except Exception as error:  # one run of thousands must not end the scan
        return Scanned(run=run, error=f"{type(error).__name__}: {' '.join(str(error).split())}")


def scan_runs(runs: Sequence[str], settings: Settings) -> list[Scanned]:
    """The same for many, in one process."""
    return [scan_run(run, settings) for run in runs]


def _diagnosed(observations: Sequence[Observation], settings: Settings) -> dict[str, Any]:
    detector = CollapseDetector(settings)
    for observation in observations:
        detector.fold(observation)
    diagnosis = detector.diagnosis
    return {
        "stage": diagnosis.stage.label,
        "family": diagnosis.family.value if diagnosis.family else None,
        "onset": min(diagnosis.onsets.values(), default=None),
        "first_warning": diagnosis.first_warning,
        "collapse_probability": diagnosis.collapse_probability,
        "steps": len(observations),
        "last_time": observations[-1].time,
        "missing": tuple(check.name for check in diagnosis.checks if check.status == "skipped"),
    }


def _dealt_out(todo: Sequence[str], engine: Engine, jobs: int, settings: Settings) -> Iterator[list[Scanned]]:
    """The runs, a few at a time, in the order in which they are done."""
    # small enough that all have work until the end, large enough that a task costs nothing beside it
    size = max(1, min(32, len(todo) // (4 * jobs)))
    parts = [todo[first : first + size] for first in range(0, len(todo), size)]
    if engine == "ray":
        yield from on_ray(scan_runs, parts, settings, failed=_lost, jobs=jobs)
    elif engine != "local":
        raise InputError(f"engine={engine!r}: expected local or ray")
    elif jobs == 1 or len(todo) <= _ALONE:
        for run in todo:
            yield [scan_run(run, settings)]
    else:
        yield from _in_processes(parts, min(jobs, len(parts)), settings)


def _in_processes(parts: Sequence[Sequence[str]], jobs: int, settings: Settings) -> Iterator[list[Scanned]]:
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of pyarrow's and the store's threads
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_one_thread) as pool:
        futures = {pool.submit(scan_runs, part, settings): part for part in parts}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                why = "a process that reads runs died (out of memory?): try again with fewer jobs"
                yield [_lost(run, why) for run in futures[future]]


def _lost(run: str, why: str) -> Scanned:
    return Scanned(run=run, error=why)


def _one_thread() -> None:
    """There is a process for each core already."""
    import pyarrow as pa

    pa.set_cpu_count(1)


def _files_of(run: Path) -> dict[str, tuple[int, int]]:
    """Name -> size and time of writing of what the diagnosis rests on: `run.json` and all of `steps/`."""
    files = {}
    for name in (INFO_FILE, Observation.TABLE):
        try:
            with os.scandir(run / name) as entries:
                for entry in entries:
                    state = entry.stat()
                    files[f"{name}/{entry.name}"] = (state.st_size, state.st_mtime_ns)
        except NotADirectoryError:
            state = os.stat(run / name)
            files[name] = (state.st_size, state.st_mtime_ns)
        except OSError:  # the run's own reading will say why
            continue
    return files


def _by_trouble(one: Scanned) -> tuple[int, float, str]:
    stage = -1 if one.stage is None else Stage[one.stage.upper()].value
    return (-stage, -(one.collapse_probability or 0.0), one.run)
