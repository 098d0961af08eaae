"""How soon does the dashboard's list of many runs stand, and what does it cost while it is open?

python benchmarks/overview.py --runs 1000 --steps 200

The runs are simulated (lldwatch.simulate, one of each scenario) and recorded as `Recorder` seals them; further runs are
copies under other names, which cost as much to read and to diagnose. A headless Chromium with an empty cache opens the
list. Measured are the time until the first rows stand in the page, and until every run has been read, the first time
and with what an earlier dashboard has kept; and the CPU time that the server and its readers take meanwhile, and for
each second that the page is open after that: with no run growing, and with ten that close a step each second (that of
writing these in the background is in it). The readers give way to everything else (nice 5): on a busy machine the last
row takes long, the first ones do not. Times are medians of --repeats, the CPU times a tick means over --watch seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from lldwatch import Monitor
from lldwatch.batches import one_row
from lldwatch.schema import Observation, RunInfo
from lldwatch.segments import INFO_FILE, Segment, write_part
from lldwatch.simulate import SCENARIOS, simulate
from lldwatch_dashboard import make_server

STEPS_PER_PART = 100
ROWS = "document.querySelectorAll('#run-list tbody tr').length"
FACTS = "(document.getElementById('list-facts')?.textContent ?? '')"
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"


def record(observations: Sequence[Observation], run: Path) -> None:
    """A run directory as a recorder leaves it."""
    import pyarrow as pa

    (run / Observation.TABLE).mkdir(parents=True)
    (run / INFO_FILE).write_text(RunInfo(trainer="simulated", ended="2026-01-01T00:00:00+00:00").to_json())
    for number, first in enumerate(range(0, len(observations), STEPS_PER_PART)):
        rows = [one_row(row) for row in observations[first : first + STEPS_PER_PART]]
        write_part(pa.Table.from_batches(rows), Segment(0, 0, number).part(run / Observation.TABLE))


def make_runs(root: Path, runs: int, steps: int) -> None:
    names = list(SCENARIOS)
    for number in range(runs):
        name = names[number % len(names)]
        if number < len(names):
            record(simulate(name, 0, steps).observations, root / f"{name}-0000")
        else:
            shutil.copytree(root / f"{name}-0000", root / f"{name}-{number // len(names):04}")


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The dashboard in a thread of this process, as beside a training."""
    server = make_server(root, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """The list in a new browser context: nothing is cached."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(600_000)
    page.goto(address, wait_until="commit")
    yield page
    context.close()


def until(page: Page, expression: str, every_s: float = 0.5) -> None:
    """Wait until it holds; playwright's own `wait_for_function` evaluates text in the page, which our pages forbid."""
    while not page.evaluate(expression):
        time.sleep(every_s)


def until_read(browser: Browser, root: Path, runs: int) -> tuple[float, float, float]:
    """Seconds from opening the page until its rows stand, until all runs have been read, and CPU seconds of that."""
    with served(root) as address:
        began, spent = time.perf_counter(), cpu_s()
        with opened(browser, address) as page:
            until(page, f"{ROWS} > 0", 0.02)
            stands = time.perf_counter() - began
            until(page, f"{FACTS}.startsWith('{runs:,} runs') && !{FACTS}.includes(' read')")
            return stands, time.perf_counter() - began, cpu_s() - spent


SPENT: dict[int, float] = {}
"""CPU seconds of each reader that was seen: one that has ended since still counts."""


def cpu_s() -> float:
    """CPU seconds so far of this process and of those that it started, but for the browser's."""
    me = psutil.Process()
    for child in me.children(recursive=True):
        try:
            if "lldwatch.glance" in " ".join(child.cmdline()):
                SPENT[child.pid] = sum(child.cpu_times()[:2])
        except psutil.Error:
            continue
    return sum(me.cpu_times()[:2]) + sum(SPENT.values())


def per_tick(browser: Browser, root: Path, runs: int, watch_s: float, live: int) -> float:
    """CPU seconds that each second takes while the list is open and `live` runs close a step each second."""
    monitors = [Monitor(root / f"live-{number}") for number in range(live)]
    rows = simulate("healthy", 1, 400).observations
    with served(root) as address, opened(browser, address) as page:
        until(page, f"{ROWS} > 0")
        until(page, f"{FACTS}.startsWith('{runs + live:,} runs') && !{FACTS}.includes(' read')")
        warm = 3
        spent_while_writing(monitors, rows[:warm], warm - 0.5)
        spent, wall = spent_while_writing(monitors, rows[warm:], watch_s)
    for monitor in monitors:
        monitor.close()
        shutil.rmtree(monitor._recorder.path)
    return spent / wall


def spent_while_writing(
    monitors: Sequence[Monitor], rows: Sequence[Observation], seconds: float
) -> tuple[float, float]:
    """CPU seconds but for those of the writing itself, and the seconds that went by."""
    before, began, own, index = cpu_s(), time.monotonic(), 0.0, 0
    while time.monotonic() - began < seconds:
        writing = time.thread_time()
        for monitor in monitors:
            columns = rows[index].as_dict()
            monitor.step(**{name: value for name, value in columns.items() if name != "time" and value is not None})
        own += time.thread_time() - writing
        index += 1
        time.sleep(max(began + index - time.monotonic(), 0.0))
    return cpu_s() - before - own, time.monotonic() - began


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=200, help="steps of a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--watch", type=float, default=20.0, help="seconds over which CPU time is taken")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="lldwatch-list-") as folder, sync_playwright() as playwright:
        root = Path(folder) / "runs"
        make_runs(root, options.runs, options.steps)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET.split())
        print(f"{options.runs} simulated runs of {options.steps} steps, {os.cpu_count()} cores, ", end="")
        print(f"load of the machine {os.getloadavg()[0]:.1f}\n", flush=True)
        print(f"| list of {options.runs} runs | s |\n|---|---|", flush=True)
        first, later = [], []
        for repeat in range(options.repeats):
            os.environ["LLDWATCH_CACHE"] = str(Path(folder) / f"cache-{repeat}")
            first.append(until_read(browser, root, options.runs))
            later.append(until_read(browser, root, options.runs))
        for what, found in (("first opened", first), ("opened later", later)):
            stands, read, spent = (median(times) for times in zip(*found, strict=True))
            print(f"| {what}: rows stand | {stands:.2f} |\n| {what}: all runs read | {read:.1f} |")
            print(f"| of which CPU of the server and its readers | {spent:.1f} |", flush=True)
        print("\n| page open, all read | server CPU, ms a tick |\n|---|---|", flush=True)
        for live in (0, 10):
            spent = per_tick(browser, root, options.runs, options.watch, live)
            print(f"| {live} runs growing | {1e3 * spent:.0f} |", flush=True)
        browser.close()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
