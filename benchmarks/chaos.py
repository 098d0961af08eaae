"""Faults that happen to real trainings, each many times: what is lost, and what the training notices of it.

make chaos, or: python benchmarks/chaos.py [--kills 200] [--only kill sigterm full ...]

The faults are those of `tests/faults`, which the tests make a few times. What is simulated is said: the slow disk
(functions of the recorder that sleep) and the object store (moto's server behind a connection that is cut; its ten
minutes are ten seconds, with lldwatch's own pauses divided by 60). The full disk is a tmpfs of 4 MB in a
mount namespace, the read-only directory is one whose permissions bind (root gives up its rights), all signals are real.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "faults"), str(ROOT / "tests")]

from disks import full_disk, may_mount, read_only, slow_disk  # noqa: E402 - the faults of the tests
from kills import Killed, kill_at_random, look, preempt  # noqa: E402 - likewise
from trainings import Trainings, steps_of  # noqa: E402 - likewise

from lldwatch import Run, RunExistsError  # noqa: E402 - after the path is set
from lldwatch.recorder import Recorder  # noqa: E402 - likewise
from lldwatch.schema import Observation, RunInfo  # noqa: E402 - likewise

STORE_SECONDS, SCALE = 10.0, 60.0


def kill(trainings: Trainings, folder: Path, kills: int) -> str:
    """Kill -9."""
    for name in ("fast", "slow"):
        (folder / name).mkdir()
    fast = kill_at_random(trainings, folder / "fast", kills // 2, (0.0, 0.002), seed=1)
    slow = kill_at_random(trainings, folder / "slow", kills - kills // 2, (0.02, 0.05), seed=2)
    lost, waiting = [*fast.lost, *slow.lost], [*fast.waiting, *slow.waiting]
    beyond = max(max(0, each - waited) for each, waited in zip(lost, waiting, strict=True))
    return (
        f"{kills} kills, {len(lost)} of them after the first step: no file unreadable, no gap, each resume went on "
        f"with the next number; nothing lost in {lost.count(0)}, at most {beyond} beyond what waited for the disk "
        f"(of steps of 20 or 50 ms {max(slow.lost)}, of 2 ms or less {max(fast.lost)})"
    )


def sigterm(trainings: Trainings, folder: Path, kills: int) -> str:
    """SIGTERM with no handler, and as Slurm does it, while the training's own handler works."""
    seconds, killed, times = [], Killed(), max(kills // 20, 2)
    for number in range(times):
        alone = trainings.start(folder / f"alone{number}", delay=0.02)
        alone.reach(5 + number)
        alone.kill(signal.SIGTERM)
        alone.wait(5)
        look(alone, [], killed)
        for way in ("exit", "save"):
            training = trainings.start(folder / f"{way}{number}", delay=0.02, on_sigterm=way)
            training.reach(5 + number)
            seconds.append(preempt(training, 3.0))
    return (
        f"{3 * times} times: the training's own handler ran; all that was recorded was in the files "
        f"{median(seconds):.2f} s (worst {max(seconds):.2f}) after the SIGTERM; where it has none, {max(killed.lost)} "
        f"steps that waited were lost at most"
    )


def full(trainings: Trainings, folder: Path, kills: int) -> str:
    """A full disk, for good or for a while."""
    if not may_mount():
        return "not tried: no mount namespace can be made here"
    stays, recovers = full_disk(folder / "stays", recovers=False), full_disk(folder / "recovers", recovers=True)
    for found in (stays, recovers):
        assert len(found["steps"]) + found["dropped"] == 600
        assert found["rows"]
        assert not found["problems"]
    assert recovers["steps"][-200:] == list(range(401, 601))
    return (
        f"600 steps: {len(stays['steps'])} stand and {stays['dropped']} are counted as dropped; with space again after "
        f"400, {len(recovers['steps'])} and {recovers['dropped']}, and no later one is missing; said once; the slowest "
        f"`record` took {max(stays['slowest_ms'], recovers['slowest_ms']):.1f} ms"
    )


def permissions(trainings: Trainings, folder: Path, kills: int) -> str:
    """A directory that is read-only for a while."""
    found = read_only(trainings, folder)
    assert len(found["steps"]) + found["dropped"] == 400
    assert not found["problems"]
    return f"400 steps, read-only during 160: {len(found['steps'])} stand, {found['dropped']} are counted as dropped"


def removed(trainings: Trainings, folder: Path, kills: int) -> str:
    """A directory that is moved away under the training; then one in whose place another training begins."""
    run = folder / "run"
    training = trainings.start(run, steps=300, delay=0.004)
    training.reach(100)
    run.rename(folder / "away")
    training.wait()
    before, after = steps_of(folder / "away"), steps_of(run)
    assert sorted({*before, *after}) == list(range(1, 301))
    taken = folder / "taken"
    first = trainings.start(taken, steps=300, delay=0.004)
    first.reach(100)
    taken.rename(folder / "taken away")
    other = Recorder(taken, RunInfo(trainer="other"))
    other.record(Observation(step=1))
    other.close()
    first.wait()
    assert steps_of(taken) == [1]
    dropped, kept = first.said[-1].dropped, len(steps_of(folder / "taken away"))
    return (
        f"moved away: 300 of 300 steps stand, {len(before)} there and {len(after)} in a new directory; another "
        f"training in its place: {kept} stand where they were moved, {dropped} are counted as dropped, "
        f"none is in the other's run"
    )


def slow(trainings: Trainings, folder: Path, kills: int) -> str:
    """A slow disk. Simulated."""
    slow, normal = slow_disk(trainings, folder, (0.02, 0.2)), slow_disk(trainings, folder, None)
    assert len(slow["steps"]) + slow["dropped"] == 300
    return (
        f"a write takes 20 ms and an fsync 200 (simulated), a step 2: {slow['dropped']} of 300 steps dropped, counted, "
        f"and shown while it runs; `observe` and `step` take {slow['median_ms']:.2f} ms (slowest "
        f"{slow['slowest_ms']:.1f}), on the disk as it is {normal['median_ms']:.2f} ({normal['slowest_ms']:.1f})"
    )


def writers(trainings: Trainings, folder: Path, kills: int) -> str:
    """A second writer."""
    training, refused = trainings.start(folder / "run", delay=0.005), 0
    training.reach(3)
    for number in range(20):
        try:
            Recorder(folder / "run", RunInfo(), resume=number % 2 == 0)
        except RunExistsError:
            refused += 1
    training.reach(training.said[-1].step + 20)
    training.kill()
    steps = steps_of(folder / "run")
    assert steps == list(range(1, len(steps) + 1))
    assert Run(folder / "run").info.attempt == 0
    return f"{refused} of 20 refused, the first goes on"


def store(trainings: Trainings, folder: Path, kills: int) -> str:
    """An object store that is gone. Simulated."""
    from moto.server import ThreadedMotoServer
    from object_store import Connection
    from pyarrow.fs import FileSystem

    import lldwatch.stores.store as at
    import lldwatch.stores.upload as upload

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    upload._POLL_SECONDS, upload._MOST_SECONDS = upload._POLL_SECONDS / SCALE, upload._MOST_SECONDS / SCALE
    at._STALL_SECONDS, at._ATTEMPTS = 0.5, 1
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "{}:{}".format(*server.get_host_and_port())
    connection = Connection(address)
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ |= {**keys, "AWS_ENDPOINT_URL": f"http://{connection.address}", "LLDWATCH_STAGING": str(folder)}
    FileSystem.from_uri(f"s3://bucket?endpoint_override={address}&scheme=http&allow_bucket_creation=true")[
        0
    ].create_dir("bucket")
    try:
        return _gone(connection)
    finally:
        connection.close()
        server.stop()


def _gone(connection: object) -> str:
    url, spent, step = "s3://bucket/run", [], 0
    recorder = Recorder(url, RunInfo(), steps_per_part=10)
    half = STORE_SECONDS / 2
    for state, seconds in (("open", 2.0), ("refused", half), ("hanging", half), ("open", 2.0)):
        connection.set(state)  # type: ignore[attr-defined]  # of the tests' helper, which mypy is not shown
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step += 1
            began = time.perf_counter()
            recorder.record(Observation(step=step))
            spent.append(1000 * (time.perf_counter() - began))
            time.sleep(0.02)
    recorder.close()
    assert [observation.step for observation in Run(url).observations()] == list(range(1, step + 1))
    return (
        f"gone for ten minutes (simulated in {STORE_SECONDS:.0f} s: half refused, half hanging): all {step} steps are "
        f"there in the end, {recorder.dropped_steps} dropped; the slowest `record` took {max(spent):.1f} ms"
    )


FAULTS: dict[str, tuple[str, Callable[[Trainings, Path, int], str]]] = {
    "kill": ("kill -9 at random moments", kill),
    "sigterm": ("SIGTERM, and preemption with SIGKILL after 3 s", sigterm),
    "full": ("disk full", full),
    "read-only": ("directory read-only", permissions),
    "removed": ("directory moved or replaced", removed),
    "slow": ("slow disk", slow),
    "writers": ("a second writer", writers),
    "store": ("object store gone", store),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    arguments = parser.parse_args()
    logging.getLogger("lldwatch").setLevel(logging.CRITICAL)
    print("| fault | found |\n|---|---|", flush=True)
    trainings = Trainings(quiet=True)
    try:
        with tempfile.TemporaryDirectory(prefix="lldwatch-chaos-") as folder:
            for name in arguments.only:
                title, fault = FAULTS[name]
                place = Path(folder) / name
                place.mkdir()
                print(f"| {title} | {fault(trainings, place, arguments.kills)} |", flush=True)
    finally:
        trainings.close()


if __name__ == "__main__":
    main()
