"""The slow lane of the fuzzing: hostile input for the readers, the command line and the dashboard, for some minutes.

python tests/fuzz/fuzz_lane.py [--minutes 5] [--only runs schema cli dashboard importers] [--seed 0]

Each target gets its share of the time, in a process of its own: what ends or hangs it is a finding as well. A finding
is named with the number of its case, which `--from NUMBER` begins with.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import logging
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("fuzz", "importers", "dashboard", "")]

HANG_S = 60.0
"""A case that takes longer than that is a finding."""

Case = Callable[[random.Random], object]


@contextlib.contextmanager
def runs(folder: Path) -> Iterator[Case]:
    """Damaged run directories."""
    from damaged_runs import one_run, write_sample

    sample = folder / "sample"
    write_sample(sample)
    yield lambda choose: one_run(sample, choose)


@contextlib.contextmanager
def schema(folder: Path) -> Iterator[Case]:
    """Rows of any table, written and read again; fifty that Hypothesis chooses make a case."""
    import any_rows
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    def case(choose: random.Random) -> None:
        checked = given(any_rows.runs(), st.integers(1, 4), st.booleans())(any_rows.round_trip)
        quiet = settings(
            max_examples=50,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        quiet(seed(choose.randrange(2**63))(checked))()

    yield case


@contextlib.contextmanager
def cli(folder: Path) -> Iterator[Case]:
    """Command lines."""
    from cli_arguments import folder_of_runs, one_command

    with folder_of_runs(folder) as here:
        yield lambda choose: one_command(here, choose)


@contextlib.contextmanager
def dashboard(folder: Path) -> Iterator[Case]:
    """Bodies that are posted to the dashboard."""
    from dashboard_bodies import posting

    os.environ["LLDWATCH_CACHE"] = str(folder / "cache")
    with posting(folder) as post:
        yield post


@contextlib.contextmanager
def importers(folder: Path) -> Iterator[Case]:
    """Damaged logs of all formats (`tests/importers/fuzz.py` tries one of them many times)."""
    from fuzz_target import ALL, Seed, feed, put, seeds
    from mutations import changed, some_changes

    from lldwatch.errors import LldwatchError

    everything = [one for group in seeds().values() for one in group]

    def case(choose: random.Random) -> None:
        fmt = choose.choice(ALL)
        chosen = choose.choice(seeds().get(fmt.name) or everything)
        data = changed(chosen.data, some_changes(choose), [one.data for one in everything])
        with tempfile.TemporaryDirectory(dir=folder) as place, contextlib.suppress(LldwatchError):
            feed(fmt, put(Path(place), Seed(chosen.name, data)))

    yield case


TARGETS = {"runs": runs, "schema": schema, "cli": cli, "dashboard": dashboard, "importers": importers}


def inside(target: str, seed: int, first: int, most: int, seconds: float) -> None:
    """In a child: one case after the other; a line for each, and for what it found."""
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    end = time.monotonic() + seconds
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, TARGETS[target](Path(folder)) as case:
        number = first
        while time.monotonic() < end and number < most:
            print(f"case {number}", flush=True)
            try:
                case(random.Random(f"{seed} {target} {number}"))
            except (Exception, SystemExit) as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                words = " ".join(f"{type(error).__name__}: {error}".split())[:150]
                print(f"found {number} {Path(place.filename).name}:{place.lineno} {words}", flush=True)
            number += 1


class Findings:
    """What one target found: how many cases, and of each sort of finding how often and the first case."""

    def __init__(self) -> None:
        self.cases, self.sorts = 0, collections.Counter[str]()
        self.first: dict[str, int] = {}

    def add(self, number: int, words: str) -> None:
        """One finding."""
        self.sorts[words] += 1
        self.first.setdefault(words, number)


def watched(target: str, seed: int, first: int, most: int, seconds: float) -> Findings:
    """Run a target in children, a new one behind each that died or hung."""
    findings, number, end = Findings(), first, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and number < most and findings.sorts.total() < 1000:
        command = [sys.executable, __file__, "--child", target, "--seed", str(seed)]
        command += ["--from", str(number), "--to", str(most), "--minutes", str(left / 60)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            number, hung = follow(child, findings, number)
            assert child.stderr is not None
            errors = child.stderr.read()
        if child.returncode:
            words = "hangs" if hung else f"ends with {child.returncode}: {' '.join(errors.split())[:300]}"
            findings.add(number, words)
        number += 1
    return findings


def follow(child: subprocess.Popen[str], findings: Findings, number: int) -> tuple[int, bool]:
    """Read what the child says until it ends; the last case, and whether it hung."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert child.stdout is not None

    def pump(stream: Iterator[str]) -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    threading.Thread(target=pump, args=(child.stdout,), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=HANG_S)
        except queue.Empty:
            child.kill()
            return number, True
        word, _, rest = line.partition(" ")
        if word == "case":
            number, findings.cases = int(rest), findings.cases + 1
        elif word == "found":
            case, _, words = rest.partition(" ")
            findings.add(int(case), words.strip())
        elif not line:
            return number, False


def main() -> int:
    """Zero if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", type=int, default=0, dest="first", help="number of the first case")
    parser.add_argument("--to", type=int, default=10**9, dest="most", help="and of the last one, plus 1")
    parser.add_argument("--child", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        inside(options.child, options.seed, options.first, options.most, 60 * options.minutes)
        return 0
    found = 0
    for target in options.only:
        seconds = 60 * options.minutes / len(options.only)
        findings = watched(target, options.seed, options.first, options.most, seconds)
        print(f"{target:<10} {findings.cases:>8,} cases {findings.sorts.total():>6,} findings", flush=True)
        for words, times in findings.sorts.most_common():
            print(f"    {times} x, first at {findings.first[words]}: {words}", flush=True)
        found += findings.sorts.total()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
