"""How many runs a second does `lldwatch scan` read, the first time and later?

python benchmarks/scan.py --runs 300 --steps 2000 --jobs 2

The runs are simulated (lldwatch.simulate, one of each scenario) and recorded in parts of 100 steps, as `Recorder` seals
them; further runs are copies under other names, which cost as much to read and to diagnose. The files are in the
machine's memory when they are read: a disk or an object store adds its own time to the first scan. A later scan finds
no run changed, and looks at each folder. Every figure is the median of --repeats. On a machine that does other things
as well, the processor time (of all processes together) says more than the seconds on the clock.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pyarrow as pa

from lldwatch import CollapseDetector
from lldwatch.scan import find, scan
from lldwatch.scan_cache import ScanCache
from lldwatch.schema import Observation, RunInfo, arrow_schema, observations_of
from lldwatch.segments import INFO_FILE, Segment, list_segments, read_segment, write_part
from lldwatch.simulate import SCENARIOS, simulate

STEPS_PER_PART = 100


def record(observations: Sequence[Observation], run: Path) -> None:
    """A run directory as a recorder leaves it."""
    (run / Observation.TABLE).mkdir(parents=True)
    (run / INFO_FILE).write_text(RunInfo(trainer="simulated", ended="2026-01-01T00:00:00+00:00").to_json())
    for number, first in enumerate(range(0, len(observations), STEPS_PER_PART)):
        rows = [row.as_dict() for row in observations[first : first + STEPS_PER_PART]]
        table = pa.Table.from_pylist(rows, schema=arrow_schema(Observation.TABLE))
        write_part(table, Segment(0, 0, number).part(run / Observation.TABLE))


def make_runs(root: Path, runs: int, steps: int) -> None:
    names = list(SCENARIOS)
    for number in range(runs):
        name = names[number % len(names)]
        if number < len(names):
            record(simulate(name, 0, steps).observations, root / f"{name}-0")
        else:
            shutil.copytree(root / f"{name}-0", root / f"{name}-{number // len(names)}")


def seconds(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """On the clock, and of processors."""
    clock, processor = [], []
    for _ in range(repeats):
        began, used = time.perf_counter(), sum(os.times()[:4])
        function()
        clock.append(time.perf_counter() - began)
        processor.append(sum(os.times()[:4]) - used)
    return median(clock), median(processor)


def stages(run: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """Where the time of one run goes, on one core: what is done -> `seconds`."""
    folder = run / Observation.TABLE
    segments = list_segments(folder)[0]
    tables = [read_segment(segment, folder) for segment in segments]
    rows = [row for table in tables for row in observations_of(table)]

    def fold() -> None:
        detector = CollapseDetector()
        for row in rows:
            detector.fold(row)

    return {
        "read the Parquet parts": seconds(lambda: [read_segment(segment, folder) for segment in segments], repeats),
        "make observations": seconds(lambda: [observations_of(table) for table in tables], repeats),
        "fold the detector": seconds(fold, repeats),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--steps", type=int, default=2000, help="steps of a run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="lldwatch-scan-") as folder:
        root, file = Path(folder) / "runs", Path(folder) / "scan.json"
        make_runs(root, options.runs, options.steps)
        print(f"{options.runs} simulated runs of {options.steps} steps, {options.jobs} processes, ", end="")
        print(f"load of the machine {os.getloadavg()[0]:.1f}\n", flush=True)
        print("| one run, one core | ms | processor ms |\n|---|---|---|")
        for what, (clock, processor) in stages(root / "healthy-0", options.repeats).items():
            print(f"| {what} | {1e3 * clock:.0f} | {1e3 * processor:.0f} |", flush=True)
        print("\n| all runs | s | runs/s | processor s |\n|---|---|---|---|", flush=True)

        def scanned(cache: ScanCache | None) -> None:
            found = scan(root, engine=options.engine, jobs=options.jobs, cache=cache)
            assert len(found) == options.runs
            assert all(one.error is None for one in found)

        def show(what: str, took: tuple[float, float]) -> None:
            print(f"| {what} | {took[0]:.2f} | {options.runs / took[0]:.1f} | {took[1]:.2f} |", flush=True)

        show("first scan: every run is read and folded", seconds(lambda: scanned(None), options.repeats))
        scanned(ScanCache(file))
        show("later scan: no run has changed", seconds(lambda: scanned(ScanCache(file)), options.repeats))
        show("of which: look at the folders", seconds(lambda: find(root), options.repeats))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
