"""Disks that are full, read-only, gone or slow. Used by the tests and by `benchmarks/chaos.py`.

`python disks.py FOLDER RECOVERS` is what `full_disk` runs in a mount namespace of its own, on a small tmpfs that
vanishes with it.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from trainings import Trainings, steps_of

from lldwatch import Observation, Responses, Run
from lldwatch.recorder import Recorder
from lldwatch.schema import RunInfo

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
ROWS = 64


def may_mount() -> bool:
    """Whether a mount namespace can be made here."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = [*NAMESPACE, "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs "$0"', folder]
        return subprocess.run(command, capture_output=True).returncode == 0


def full_disk(folder: Path, recovers: bool) -> dict[str, Any]:
    """Record 600 steps on a tmpfs of 4 MB that soon is full, and has space again after 400 of them, or not."""
    folder.mkdir()
    script = 'mount -t tmpfs -o size=4m tmpfs "$1" && exec "$0" "$2" "$1" "$3"'
    command = [*NAMESPACE, "sh", "-c", script, sys.executable, str(folder), __file__, str(int(recovers))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _on_the_full_disk(folder: Path, recovers: bool) -> dict[str, Any]:
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lldwatch").addHandler(handler)
    ballast, run, ms = folder / "checkpoint", folder / "run", []
    ballast.write_bytes(bytes(3_700_000))
    recorder = Recorder(run, RunInfo(), steps_per_part=10)
    random = np.random.default_rng(0)
    for step in range(1, 601):
        if step == 401 and recovers:
            recorder.flush()
            ballast.unlink()
        rows = [Responses(tokens=np.full(ROWS, step), log_prob=random.normal(size=ROWS))]
        began = time.perf_counter()
        recorder.record(Observation(step=step), rows)
        ms.append(1000 * (time.perf_counter() - began))
        time.sleep(0.002)
    recorder.close()
    read = Run(run)
    steps = [observation.step for observation in read.observations()]
    return {
        "steps": steps,
        "rows": read.responses()["step"].to_pylist() == [step for step in steps for _ in range(ROWS)],
        "dropped": recorder.dropped_steps,
        "said": said,
        "problems": read.problems,
        "events": [row["detail"] for row in read.events().to_pylist() if row["kind"] == "dropped"],
        "ended": read.ended,
        "slowest_ms": max(ms),
        "torn": [path.name for path in run.glob("*/*.tmp")],
    }


def read_only(trainings: Trainings, folder: Path) -> dict[str, Any]:
    """A training whose run directory is made read-only for a while; root's rights are taken from it before."""
    run = folder / "read-only"
    training = trainings.start(run, bound=True, delay=0.004, steps=400, steps_per_part=10)
    training.reach(40)
    folders = [run, *(path for path in run.iterdir() if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    training.reach(200)
    refused = not list(run.glob("steps/*-00000015.parquet"))
    for path in folders:
        path.chmod(0o755)
    training.wait()
    return {
        "steps": steps_of(run),
        "dropped": training.said[-1].dropped,
        "refused": refused,
        "slowest_ms": max(each.ms for each in training.said[1:]),
        "problems": Run(run).problems,
    }


def slow_disk(trainings: Trainings, folder: Path, slow: tuple[float, float] | None) -> dict[str, Any]:
    """A training whose disk takes so long for a write and an fsync; and of another one on a disk as it is (None)."""
    run = folder / f"slow{slow}"
    training = trainings.start(run, steps=300, delay=0.002, slow=slow, queue_steps=40, steps_per_part=20)
    training.reach(150)
    while slow and not dropped_events(run) and training.lives:
        time.sleep(0.05)
    shown_while_it_ran = training.lives and bool(dropped_events(run))
    training.wait()
    ms = sorted(each.ms for each in training.said[1:])
    return {
        "steps": steps_of(run),
        "dropped": training.said[-1].dropped,
        "median_ms": ms[len(ms) // 2],
        "slowest_ms": ms[-1],
        "shown_while_it_ran": shown_while_it_ran,
        "events": dropped_events(run),
    }


def dropped_events(run: Path) -> list[str]:
    """What a run says of steps that it lacks."""
    return [row["detail"] for row in Run(run).events().to_pylist() if row["kind"] == "dropped"]


if __name__ == "__main__":
    print(json.dumps(_on_the_full_disk(Path(sys.argv[1]), sys.argv[2] == "1")))
