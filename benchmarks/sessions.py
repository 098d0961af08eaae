"""What do many browsers at once cost one dashboard? Sessions that ask over HTTP as the run page does.

python benchmarks/sessions.py --sessions 20 --steps 2000

A server is started on a simulated run (lldwatch.simulate.null) that closes a step every --every seconds. Each session
asks once a second what is new, with the marks of what it was told last, and for the header, on one connection, as a
browser does. Measured are the milliseconds until the answer, of ticks that bring a step and of those that bring
nothing, and the server's CPU and memory. The sessions are threads of one process, which takes CPU time too.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from dashboard import as_table, free_port, make_run, memory_mb, served
from lldwatch.schema import Observation
from lldwatch.segments import Segment, write_part

HEADER = ["stage-badge.children", "stage-badge.className", "stage-badge.title", "verdict.children", "facts.children"]


@dataclass
class Session:
    """One page that is open; `told` and `idle`: milliseconds of ticks that brought something, and of the others."""

    port: int
    shown: Any = None
    told: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def open(self) -> None:
        """Connect, and take what is drawn first; it does not count."""
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.tick()
        self.told, self.idle, self.sizes = [], [], []

    def tick(self) -> None:
        """What the page asks once a second."""
        pulse, name = prop("run-pulse.data", {"tick": 1, "dark": False, "narrow": False}), prop("run-name.data", "run")
        self._ask(f"..{'...'.join(HEADER)}..", [prop(each) for each in HEADER], [pulse], [name])
        state = [name, prop("run-shown.data", self.shown), prop("run-zoom.data")]
        began = time.perf_counter()
        size, answer = self._ask("run-news.data", prop("run-news.data"), [pulse, prop("run-url.search", "")], state)
        took = 1e3 * (time.perf_counter() - began)
        (self.told if answer else self.idle).append(took)
        if answer:
            self.sizes.append(size)
            self.shown = answer["response"]["run-news"]["data"]["after"]

    def _ask(self, output: str, outputs: Any, inputs: list[Any], state: list[Any]) -> tuple[int, Any]:
        asked = {"output": output, "outputs": outputs, "inputs": inputs, "state": state}
        body = json.dumps(asked | {"changedPropIds": ["run-pulse.data"]})
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
        self._connection.request("POST", "/_dash-update-component", body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status not in (200, 204):
            raise SystemExit(f"{answer.status}: {content[:200]!r}")
        text = gzip.decompress(content) if answer.headers["Content-Encoding"] == "gzip" else content
        return len(content), json.loads(text) if text else None


def prop(place: str, value: Any = None) -> dict[str, Any]:
    name, property_ = place.split(".")
    return {"id": name, "property": property_, "value": value}


def watch(session: Session, until: float, start: float) -> None:
    """Tick once a second, each session at another moment of it."""
    session.open()
    while time.monotonic() < until:
        time.sleep(max(start - time.monotonic(), 0.0))
        session.tick()
        start = max(start + 1.0, time.monotonic())


def grow(run: Path, rows: Sequence[Observation], every_s: float, until: float) -> None:
    number = 1_000_000
    while time.monotonic() < until:
        row = replace(rows[number % len(rows)], step=len(rows) + number - 999_999)
        write_part(as_table([row]), Segment(0, 0, number).part(run / Observation.TABLE))
        number += 1
        time.sleep(every_s)


def tell(what: str, times: Sequence[float]) -> str:
    if len(times) < 2:
        return f"| {what} | - | - |"
    return f"| {what} | {median(times):.0f} ms | {quantiles(times, n=20)[-1]:.0f} ms |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two steps")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, port = Path(scratch) / "runs", free_port()
        rows = make_run(root / "run", given.steps, given.steps // 3, given.steps // 2)
        command = [sys.executable, "-m", "lldwatch", "dashboard", str(root), "--port", str(port)]
        with served(command, port, Path(scratch)) as server:
            sessions = [Session(port) for _ in range(given.sessions)]
            now = time.monotonic()
            until, first = now + given.seconds, now + 5.0
            work = [(grow, (root / "run", rows, given.every, until))]
            work += [(watch, (each, until, first + place / given.sessions)) for place, each in enumerate(sessions)]
            threads = [threading.Thread(target=target, args=arguments) for target, arguments in work]
            spent = sum(server.cpu_times()[:2])
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            spent, memory = sum(server.cpu_times()[:2]) - spent, memory_mb(server)
    told, idle = ([each for session in sessions for each in getattr(session, kind)] for kind in ("told", "idle"))
    sizes = [size for session in sessions for size in session.sizes]
    print(f"{given.sessions} sessions, {given.steps:,} steps, a step every {given.every:g} s; ", end="")
    print(f"load of the machine {os.getloadavg()[0]:.0f}, {os.cpu_count()} cores.\n")
    print("| until the answer | median | 95 % |\n|---|---|---|")
    print(f"{tell('tick that brings a step', told)}\n{tell('tick that brings nothing', idle)}\n")
    print(f"Bytes of a tick that brings a step: {median(sizes) if sizes else 0:.0f}; ", end="")
    print(f"CPU of the server: {100 * spent / given.seconds:.0f} % of a core; its memory: {memory:.0f} MB.")


if __name__ == "__main__":
    main()
