"""How soon does one long run stand in the browser with all its charts, beside TensorBoard with the same numbers?

python benchmarks/dashboard.py --steps 100000

The run is simulated: about 20 stationary series (lldwatch.simulate.null), into which one step is put whose gradient
norm is 1,000 times as large, and one whose entropy is NaN. The same numbers are written as TensorBoard events. Each
server is started anew, with nothing kept from before; then a headless Chromium with an empty cache opens the first
page, and again once the server has read everything. Measured are the times until the charts on the page are drawn,
whether the two odd steps are among the points that the page holds, and the server's memory. For the dashboard also what
one more step costs: bytes to the browser, and milliseconds from its request to the answer. Medians of --repeats.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from lldwatch.schema import Observation, RunInfo, arrow_schema
from lldwatch.segments import INFO_FILE, Segment, write_part
from lldwatch.simulate import null

STEPS_PER_PART = 1000
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
PLOT = "document.querySelector('#run-figure .js-plotly-plot')"
OURS_DRAWN = f"{PLOT}?.calcdata?.length > 3 && {PLOT}.querySelectorAll('.scatterlayer .trace').length > 3"
OURS_JUDGED = "!document.getElementById('stage-badge').textContent.includes('being judged')"
OURS_CHARTS = f"Object.keys({PLOT}._fullLayout).filter(name => /^yaxis[0-9]*$/.test(name)).length"
OURS_HOLD = f"""([meta, step]) => {PLOT}.calcdata.some(
    points => points[0].trace.meta === meta && points.some(point => point.x === step))"""
OURS_LAST = f"Math.max(...{PLOT}.data.map(trace => trace.x?.[trace.x.length - 1] ?? 0))"
THEIRS_CHARTS = """[...document.querySelectorAll('scalar-card')].filter(card => !card.querySelector('mat-spinner')
    && card.querySelector('line-chart svg, line-chart canvas')).length"""
THEIRS_DRAWN = f"{THEIRS_CHARTS} > 0 && !document.querySelector('scalar-card mat-spinner')"


@dataclass
class Times:
    """What was measured of one server, once an entry."""

    cold_s: list[float] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    charts: int = 0
    spike: bool = False
    nan: bool = False


def make_run(run: Path, steps: int, spike: int, nan: int) -> list[Observation]:
    """The run as a recorder seals it; gives its steps."""
    rows = list(null(0, steps).observations)
    rows[spike - 1] = replace(rows[spike - 1], grad_norm=1000.0)
    rows[nan - 1] = replace(rows[nan - 1], entropy=math.nan)
    (run / Observation.TABLE).mkdir(parents=True)
    (run / INFO_FILE).write_text(RunInfo(trainer="simulated", planned_steps=steps).to_json())
    for number, first in enumerate(range(0, steps, STEPS_PER_PART)):
        write_part(as_table(rows[first : first + STEPS_PER_PART]), Segment(0, 0, number).part(run / Observation.TABLE))
    return rows


def as_table(rows: list[Observation]) -> Any:
    """The rows column by column: one by one they take longer to write than all that is measured here."""
    import pyarrow as pa

    schema = arrow_schema(Observation.TABLE)
    return pa.table([pa.array([getattr(row, column.name) for row in rows], column.type) for column in schema], schema)


def make_events(folder: Path, rows: list[Observation]) -> int:
    """The same numbers for TensorBoard, all in one group; gives how many series there are."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    names = [column.name for column in fields(Observation) if column.name not in ("step", "time")]
    names = [name for name in names if isinstance(getattr(rows[0], name), float | int)]
    writer = EventFileWriter(str(folder), max_queue_size=10_000, flush_secs=600)
    for row in rows:
        values = [Summary.Value(tag=f"train/{name}", simple_value=getattr(row, name)) for name in names]
        writer.add_event(Event(step=row.step, wall_time=row.step, summary=Summary(value=values)))
    writer.close()
    return len(names)


@contextmanager
def served(command: list[str], port: int, scratch: Path) -> Iterator[psutil.Process]:
    """A server in a process of its own, from the moment that it answers."""
    environment = {**os.environ, "LLDWATCH_CACHE": str(scratch)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).close()
                break
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.terminate()
        process.terminate()
        process.wait(30)


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    """A page with an empty cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)  # waits use eval
    page = context.new_page()
    page.set_default_timeout(600_000)
    yield page
    context.close()


def until_drawn(page: Page, address: str, drawn: str) -> float:
    """Seconds from the click to the charts."""
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(drawn)
    return time.perf_counter() - began


def until_known(tags: str) -> None:
    """Wait until TensorBoard knows of a series: a page that is opened sooner stays empty until somebody reloads it."""
    while True:
        with urllib.request.urlopen(tags, timeout=60) as answer:
            if b"grad_norm" in answer.read():
                return
        time.sleep(0.1)


def memory_mb(server: psutil.Process) -> float:
    """Of the server and what it started."""
    return sum(each.memory_info().rss for each in [server, *server.children(recursive=True)]) / 2**20


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ours(browser: Browser, root: Path, rows: list[Observation], odd: tuple[int, int], ticks: int, times: Times) -> Any:
    """One start of the dashboard; gives bytes and milliseconds of each tick that brought a step."""
    port, spent = free_port(), []
    command = [sys.executable, "-m", "lldwatch", "dashboard", str(root), "--port", str(port)]
    with tempfile.TemporaryDirectory() as kept, served(command, port, Path(kept)) as server:
        address = f"http://127.0.0.1:{port}/run/run"
        with opened(browser) as page:
            times.cold_s.append(until_drawn(page, address, OURS_DRAWN))
            page.wait_for_function(OURS_JUDGED)
        with opened(browser) as page:
            times.read_s.append(until_drawn(page, address, OURS_DRAWN))
            times.charts = page.evaluate(OURS_CHARTS)
            asked = zip(("grad_norm:raw", "entropy:marks"), odd, strict=True)
            times.spike, times.nan = (page.evaluate(OURS_HOLD, [meta, step]) for meta, step in asked)
            for tick in range(ticks):
                page.wait_for_timeout(1500)
                spent.append(grow(page, root / "run", rows, tick))
        times.memory_mb.append(memory_mb(server))
    return spent


def grow(page: Page, run: Path, rows: list[Observation], tick: int) -> tuple[int, float]:
    """Close one more step, and wait until it is drawn; gives the bytes that came, and the server's milliseconds."""
    part = max(int(path.stem.rsplit("-", 1)[1]) for path in (run / Observation.TABLE).glob("*.parquet")) + 1
    step = len(rows) + part  # never one that is there
    came: list[Any] = []
    page.on("requestfinished", lambda request: came.append(request) if "_dash-update" in request.url else None)
    write_part(as_table([replace(rows[tick], step=step)]), Segment(0, 0, part).part(run / Observation.TABLE))
    page.wait_for_function(f"{OURS_LAST} === {step}")
    news = [each for each in came if (each.post_data_json or {}).get("output") == "run-news.data"]
    size, timing = max(((each.sizes()["responseBodySize"], each.timing) for each in news), key=lambda each: each[0])
    return size, timing["responseStart"] - timing["requestStart"]


def theirs(browser: Browser, folder: Path, odd: tuple[int, int], times: Times) -> None:
    """One start of TensorBoard."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    with tempfile.TemporaryDirectory() as kept, served(command, port, Path(kept)) as server:
        address = f"http://127.0.0.1:{port}/"
        with opened(browser) as page:
            began = time.perf_counter()
            until_known(f"{address}data/plugin/timeseries/tags")
            times.cold_s.append(time.perf_counter() - began + until_drawn(page, address, THEIRS_DRAWN))
        time.sleep(20)  # it reads on while it serves
        with opened(browser) as page:
            bodies: list[str] = []
            page.on("response", lambda got: bodies.append(got.text()) if "timeSeries" in got.url else None)
            times.read_s.append(until_drawn(page, address, THEIRS_DRAWN))
            times.charts = page.evaluate(THEIRS_CHARTS)
            asked = zip(("train/grad_norm", "train/entropy"), odd, strict=True)
            times.spike, times.nan = (holds(bodies, tag, step) for tag, step in asked)
        times.memory_mb.append(memory_mb(server))


def holds(bodies: list[str], tag: str, step: int) -> bool:
    """Whether TensorBoard sent this step of this series to the page."""
    told = [series for body in bodies for series in json.loads(body)]
    runs = [points for series in told if series["tag"] == tag for points in series["runToSeries"].values()]
    return any(point["step"] == step for points in runs for point in points)


def table(mine: Times, other: Times, series: int, spent: list[tuple[int, float]], steps: int) -> Iterator[str]:
    """The table for the README."""
    machine = f"load of the machine {os.getloadavg()[0]:.0f}, {os.cpu_count()} cores"
    yield f"One simulated run, {steps:,} steps x {series} series; {machine}."
    yield ""
    yield "| | dashboard | TensorBoard | TensorBoard / dashboard |"
    yield "|---|---|---|---|"
    for what, unit, name in (
        ("charts drawn, server just started", "s", "cold_s"),
        ("charts drawn, server has read the run", "s", "read_s"),
        ("memory of the server", "MB", "memory_mb"),
    ):
        first, second = median(getattr(mine, name)), median(getattr(other, name))
        yield f"| {what} | {first:.3g} {unit} | {second:.3g} {unit} | {second / first:.2f} |"
    yield f"| charts drawn without scrolling | {mine.charts} | {other.charts} of {series} | |"
    for what, a, b in (("one-step spike", mine.spike, other.spike), ("one NaN", mine.nan, other.nan)):
        yield f"| {what} is among the points | {'yes' if a else 'no'} | {'yes' if b else 'no'} | |"
    if spent:
        size, wait = (median(each) for each in zip(*spent, strict=True))
        yield f"| one more step: to the browser | {size / 1000:.1f} kB | | |"
        yield f"| one more step: until the answer | {wait:.0f} ms | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ticks", type=int, default=5, help="steps that are closed while the page is open")
    given = parser.parse_args()
    odd = (int(given.steps * 0.4) + 1, int(given.steps * 0.7) + 1)
    mine, other, spent = Times(), Times(), []
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        root, events = Path(scratch) / "runs", Path(scratch) / "events"
        rows = make_run(root / "run", given.steps, *odd)
        series = make_events(events, rows)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET.split())
        for _ in range(given.repeats):
            theirs(browser, events, odd, other)
            spent += ours(browser, root, rows, odd, given.ticks, mine)
        browser.close()
    print("\n".join(table(mine, other, series, spent, given.steps)))


if __name__ == "__main__":
    main()
