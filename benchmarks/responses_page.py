"""How long does the dashboard's responses page take on a run with ten million responses, and how much memory?

python benchmarks/responses_page.py --steps 20000 --responses 512

The run is simulated: made-up numbers in the columns of a real one, in parts of 100 steps as `Recorder` seals them, in a
temporary folder that is removed. Every figure is what the server takes to answer the browser's request (reading, figure
and JSON), the median of --repeats different views; the drawing in the browser comes on top. The files are in the
machine's memory when they are read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from lldwatch.batches import one_row, rows_batch
from lldwatch.columns import RowTable
from lldwatch.schema import Observation, Probes, Responses, RunInfo, Tokens, arrow_schema
from lldwatch.segments import INFO_FILE, Segment, write_part

STEPS_PER_PART = 100
SUMMARY = "responses-summary.children"


def responses_of(step: int, count: int, share: float, noise: np.random.Generator) -> Responses:
    """A step's batch: `share` of the way into a collapse."""
    tokens = noise.integers(20, 400, count)
    correct = noise.random(count) < 0.6 - 0.5 * share
    change = noise.normal(np.where(correct, 0.02 - 0.3 * share, -0.03 - share), 0.02 + 0.3 * share)
    old = -tokens * noise.gamma(2.0, 0.2, count)
    return Responses(
        uid=step * count + np.arange(count),
        group=step * (count // 8) + np.arange(count) // 8,
        update=np.zeros(count),
        reward=correct.astype(float),
        advantage=np.where(np.arange(count) % 4 == 0, 0.0, noise.normal(0, 1, count)),
        correct=correct,
        tokens=tokens,
        actions=noise.integers(1, 5, count),
        old_log_prob=old,
        log_prob=old + change * tokens,
        entropy=noise.gamma(2.0, 0.2, count),
        min_log_prob=-noise.gamma(2.0, 2.0, count),
        clipped_tokens=noise.integers(0, 5, count),
    )


def probes_of(step: int, count: int, scored: int, share: float, noise: np.random.Generator) -> Probes:
    """Correct responses of the step before, scored again."""
    tokens = noise.integers(20, 400, scored)
    before = -tokens * noise.gamma(2.0, 0.2, scored)
    change = noise.normal(-0.01 - 0.3 * share, 0.01 + 0.2 * share, scored)
    return Probes(
        kind=np.full(scored, "cross_update"),
        uid=(step - 1) * count + np.arange(scored),
        group=(step - 1) * (count // 8) + np.arange(scored) // 8,
        correct=np.ones(scored),
        advantage=noise.normal(0, 1, scored),
        lag=np.ones(scored),
        tokens=tokens,
        log_prob_before=before,
        log_prob_after=before + change * tokens,
    )


def tokens_of(step: int, count: int, noise: np.random.Generator) -> Tokens:
    """One response of 300 tokens."""
    before = -noise.gamma(1.0, 0.3, 300)
    return Tokens(
        kind=np.full(300, "cross_update"),
        uid=np.full(300, (step - 1) * count),
        position=np.arange(300),
        action=np.arange(300) // 100,
        token=noise.integers(0, 50_000, 300),
        text=np.array([f" word{number}" for number in range(300)]),
        log_prob_before=before,
        log_prob_after=before + noise.normal(-0.05, 0.2, 300),
        entropy=noise.gamma(1.0, 0.5, 300),
    )


def make_run(run: Path, steps: int, count: int, scored: int) -> None:
    """A run directory as a recorder leaves it."""
    noise = np.random.default_rng(0)
    for table in ("steps", "responses", "probes", "tokens"):
        (run / table).mkdir(parents=True)
    info = RunInfo(trainer="simulated", planned_steps=steps, ended="2026-01-01T00:00:00+00:00")
    (run / INFO_FILE).write_text(info.to_json())
    for number, first in enumerate(range(1, steps + 1, STEPS_PER_PART)):
        rows: dict[str, list[pa.RecordBatch]] = {table: [] for table in ("steps", "responses", "probes", "tokens")}
        for step in range(first, min(first + STEPS_PER_PART, steps + 1)):
            share = max(0.0, step / steps - 0.6) / 0.4
            own: list[RowTable] = [
                responses_of(step, count, share, noise),
                probes_of(step, count, scored, share, noise),
            ]
            own += [tokens_of(step, count, noise)] if step % 10 == 0 else []
            for table in own:
                batch = rows_batch(table.TABLE, step, [table])
                assert batch is not None
                rows[table.TABLE].append(batch)
            seen = {"reward": 0.6 - 0.5 * share, "change_positive": 0.02, "cross_update_change": -0.01 - 0.3 * share}
            rows["steps"].append(one_row(Observation(step=step, time=float(step), noise_floor=1e-4, **seen)))
        for table, batches in rows.items():
            if batches:
                whole = pa.Table.from_batches(batches, arrow_schema(table))
                write_part(whole, Segment(0, 0, number).part(run / table))


class Browser:
    """Asks what a browser would ask, without drawing it."""

    def __init__(self, root: Path) -> None:
        from lldwatch_dashboard import create_app

        self._client = create_app(root).server.test_client()
        self._known = json.loads(self._client.get("/_dash-dependencies").data)

    def ask(self, output: str, search: str) -> dict[str, Any]:
        """One callback of the page, by an output of it, for an address."""
        asked = next(each for each in self._known if output in each["output"])
        values = {"responses-url.search": search, "responses-name.data": "run", "responses-drag.value": "select"}

        def given(item: dict[str, str]) -> dict[str, Any]:
            return {**item, "value": values.get(f"{item['id']}.{item['property']}")}

        names = asked["output"].strip(".").split("...")
        outputs = [dict(zip(("id", "property"), name.rsplit(".", 1), strict=True)) for name in names]
        body = {
            "output": asked["output"],
            "outputs": outputs if len(outputs) > 1 else outputs[0],
            "inputs": [given(item) for item in asked["inputs"]],
            "state": [given(item) for item in asked["state"]],
            "changedPropIds": ["responses-url.search"],
        }
        answer = self._client.post("/_dash-update-component", json=body)
        assert answer.status_code == 200, answer.data
        found: dict[str, Any] = json.loads(answer.data)
        assert "notice" not in found.get("sideUpdate", {}), found["sideUpdate"]
        self.bytes = len(answer.data)
        return found


def memory() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def said(answer: dict[str, Any]) -> str:
    return " ".join(span["props"]["children"] for span in answer["response"]["responses-summary"]["children"])


def measure(root: Path, steps: int, count: int, repeats: int) -> None:
    browser = Browser(root)
    print(f"{'the server before the first request':<88}{memory():5.0f} MB")
    for kind in ("cross_update", "in_batch"):
        print(f"\n{kind}")
        open_first(browser, f"?kind={kind}")
        for what, output, searches in interactions(f"?kind={kind}", steps, count, repeats):
            times = []
            for search in searches:
                began = time.perf_counter()
                browser.ask(output, search)
                times.append(time.perf_counter() - began)
            took = f"{median(times):7.2f} s   (longest {max(times):.2f} s)"
            print(f"{what:<56}{took:<32}{memory():5.0f} MB   {browser.bytes / 1000:5.0f} kB", flush=True)


def open_first(browser: Browser, search: str) -> None:
    began = time.perf_counter()
    answer = browser.ask(SUMMARY, search)
    first = time.perf_counter() - began
    while "are still to be read" in said(answer):
        time.sleep(1.0)  # as often as the page asks
        answer = browser.ask(SUMMARY, search)
    took = time.perf_counter() - began
    print(f"first open: something is shown after {first:.2f} s, all of it after {took:.1f} s")
    print(said(answer))


def interactions(kind: str, steps: int, count: int, repeats: int) -> Iterator[tuple[str, str, list[str]]]:
    """What is done, the output that is asked for, and the addresses: none is asked for twice where that would help."""
    wide, narrow, brush = steps // 5, steps // 100, steps // 50
    times = range(repeats)
    middle = f"region=correct_{steps // 2}_{steps // 2 + brush}_-9_0.{{}}1"
    for what, width in ((f"zoom on {wide:,} steps", wide), (f"zoom on {narrow:,} steps", narrow)):
        lows = [1 + (number * 37 * width) % (steps - width) for number in times]
        yield what, SUMMARY, [f"{kind}&steps={low}_{low + width}" for low in lows]
    yield "overview, all steps", SUMMARY, [f"{kind}&colour=change{number}" for number in times]
    yield "overview, changes below -0.1", SUMMARY, [f"{kind}&change=-9.{number}_-0.1" for number in times]
    yield f"brush {brush:,} steps", "responses-found.children", [f"{kind}&{middle.format(n)}" for n in times]
    rare = f"region=any_1_{steps}_-9{{}}_-2.1"
    yield "brush what fell most, all steps", "responses-found.children", [f"{kind}&{rare.format(n)}" for n in times]
    later = kind == "?kind=cross_update"  # it is scored again a step after it was written
    found = [f"response={(step - 1) * count}_{step - 1 + later}" for step in range(steps // 2, steps, 10)[:repeats]]
    yield "one response with its tokens", "responses-detail.children", [f"{kind}&{one}" for one in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--responses", type=int, default=512, help="a step")
    parser.add_argument("--scored", type=int, default=64, help="responses of cross_update, a step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make_run(given.make, given.steps, given.responses, given.scored)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        began = time.perf_counter()
        # in a process of its own: what it leaves in memory is not the server's
        subprocess.run([sys.executable, __file__, "--make", str(run), *sys.argv[1:]], check=True)
        size = sum(path.stat().st_size for path in run.rglob("*.parquet")) / 2**20
        many = given.steps * given.responses
        print(f"simulated run: {many:,} responses, {given.steps * given.scored:,} re-scored ones, {size:.0f} MB")
        print(f"made in {time.perf_counter() - began:.0f} s; load of the machine {os.getloadavg()[0]:.1f}\n")
        measure(Path(folder), given.steps, given.responses, given.repeats)


if __name__ == "__main__":
    main()
