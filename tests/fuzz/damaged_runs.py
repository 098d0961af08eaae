"""Run directories that somebody has damaged, and all that can be done with one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
from mutations import changed, some_changes

from lldwatch import Observation, Probes, Responses, Run
from lldwatch.detector import diagnose
from lldwatch.errors import LldwatchError
from lldwatch.recorder import Recorder
from lldwatch.schema import TABLES, Actions, Gradients, Positions, RunInfo, Tokens, columns_of

Tables = dict[str, list[dict[str, object]]]


class SilentError(AssertionError):
    """A value was read that nobody wrote, and nothing was said."""


def rows_of_step(step: int) -> list[object]:
    """Some rows of each table."""
    uid = np.arange(4) + 4 * step
    return [
        Responses(uid=uid, reward=uid % 2, tokens=uid + 3, log_prob=-uid / 7, correct=uid % 2 == 1),
        Probes(kind=["cross_update", "noise"], uid=uid[:2], tokens=[3, 4], log_prob_before=[-1.0, -2.0 - step]),
        Actions(kind=["post_update"], uid=uid[:1], action=[0], tokens=[3]),
        Positions(after_feedback=[True, False], position=[2, step], tokens=[3, 5]),
        Tokens(kind=["cross_update"] * 2, token=[7, step], text=["</s>", f"ä{step}"], action=[-1, 0]),
        Gradients(update=[0], module=[f"block {step}"], grad_norm=[0.5], parameters=[2**40]),
    ]


def write_sample(path: Path) -> None:
    """A run that went back once and was killed: sealed parts of two attempts, and live segments."""
    whole = path.with_name("whole")
    for attempt, steps in enumerate((range(1, 5), range(4, 8))):
        recorder = Recorder(whole, RunInfo(trainer="fuzz", planned_steps=20), resume=attempt > 0, steps_per_part=3)
        for step in steps:
            recorder.record(Observation(step=step, loss=1 / step, reward=attempt), rows_of_step(step))
            recorder.event(step, "note", f"step {step} of attempt {attempt}")
            recorder.flush()
        if attempt:
            shutil.copytree(whole, path)  # killed here
        recorder.close()
    shutil.rmtree(whole)


def damage(run: Path, choose: random.Random) -> tuple[set[str], bool]:
    """Do something bad to one to three of its files.

    Returns:
        The tables that were touched, and whether a reader can know it: a sealed part was changed, not exchanged.
    """
    touched, told = set[str](), True
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
        if not files:
            break
        one, other = choose.choice(files), choose.choice(files)
        kind = choose.choice(DAMAGES)
        kind(one, other, choose)
        touched |= {one.parent.name, other.parent.name} & TABLES.keys()
        told &= kind in (_flip, _truncate, _garble, _zero) and one.suffix == ".parquet"
    return touched, told


def _flip(one: Path, other: Path, choose: random.Random) -> None:
    data = bytearray(one.read_bytes())
    for _ in range(choose.choice((1, 1, 2, 8))):
        if data:
            # the footer of a small file is most of it, and the pages come first
            data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    one.write_bytes(data)


def _truncate(one: Path, other: Path, choose: random.Random) -> None:
    one.write_bytes(one.read_bytes()[: choose.randrange(one.stat().st_size + 1)])


def _garble(one: Path, other: Path, choose: random.Random) -> None:
    one.write_bytes(changed(one.read_bytes(), some_changes(choose), [other.read_bytes()]))


def _zero(one: Path, other: Path, choose: random.Random) -> None:
    """As a power cut leaves a file of which only the length was written."""
    data = bytearray(one.read_bytes())
    start = choose.randrange(len(data) + 1)
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    one.write_bytes(data)


def _delete(one: Path, other: Path, choose: random.Random) -> None:
    one.unlink()


def _swap(one: Path, other: Path, choose: random.Random) -> None:
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def _rename(one: Path, other: Path, choose: random.Random) -> None:
    attempt, number = choose.choice(("000", "001", "007", "99999")), choose.choice((0, 1, 5, 99_999_999))
    one.rename(one.with_name(f"{choose.choice(('', '.'))}r00000-a{attempt}-{number:08d}{one.suffix}"))


def _folder(one: Path, other: Path, choose: random.Random) -> None:
    one.unlink()
    one.mkdir()


def _link(one: Path, other: Path, choose: random.Random) -> None:
    one.unlink()
    one.symlink_to(choose.choice((one, other, one.parent, Path("/nowhere"), Path("/dev/null"))))


def _no_table(one: Path, other: Path, choose: random.Random) -> None:
    """A file where a table should be, or no table."""
    if one.parent.name in TABLES:
        shutil.rmtree(one.parent)
        if choose.random() < 0.5:
            one.parent.write_bytes(b"PAR1")


Damage = Callable[[Path, Path, random.Random], None]
DAMAGES: tuple[Damage, ...] = (
    *(_flip, _flip, _flip, _truncate, _garble, _zero),
    *(_delete, _swap, _rename, _folder, _link, _no_table),
)


def read(path: Path, names: Iterable[str] = TABLES) -> tuple[Tables, list[str]]:
    """All that can be read of some tables, in each way, and what is said of what cannot.

    Raises:
        LldwatchError: it is no run any more.
    """
    run = Run(path)
    steps = [observation.step for observation in run.observations()]
    polled = [observation.step for observation in run.poll()]
    assert len(polled) >= len(steps)
    assert run.poll() == []
    assert steps == sorted(set(steps))
    diagnose(run.observations())
    tables = {name: getattr(run, name)().to_pylist() for name in names}
    for name in tables:
        run.parts(name)
        for batch in run.scan(name, list(columns_of(name)), steps=(2, 12)):
            assert len({len(column) for column in batch.values()}) == 1
    assert all(line and "\n" not in line for line in run.problems)
    return tables, run.problems


@cache
def undamaged(path: Path) -> Tables:
    """What stands in the sample."""
    return read(path)[0]


def one_run(sample: Path, choose: random.Random) -> None:
    """Damage a copy of the sample, look at it, and go on with it.

    Raises:
        AssertionError: something was read that should not have been.
        Exception: whatever else it is, it is a finding.
    """
    path = sample.with_name("damaged")
    shutil.copytree(sample, path)
    try:
        touched, told = damage(path, choose)
        with contextlib.suppress(LldwatchError):
            tables, problems = read(path, touched | {"steps"})
            known = {name: undamaged(sample)[name] for name in tables}
            if told and not problems and repr(tables) != repr(known):
                raise SilentError("other values than were written, and nothing was said")
        with contextlib.suppress(LldwatchError):
            recorder = Recorder(path, RunInfo(), resume=True)
            recorder.record(Observation(step=99), rows_of_step(99))
            recorder.close()
            if not recorder.dropped_steps:
                assert Run(path).observations()[-1].step == 99
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path)
    assert not os.path.lexists(path)
