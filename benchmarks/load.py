"""How much a run may hold, how many may write it, and what readers cost its writer.

make chaos, or: python benchmarks/load.py [--steps 10000 --responses 512] [--only steps ranks readers] [--json]

* steps: a monitor is given so many steps, as fast as its recorder keeps up, in a process of its own. Its memory is what
  it holds beyond what it held after the imports and the first step; the largest of a look each 100 steps.
* ranks: 64 real processes over gloo write one run of few steps, are started anew, and go back to an earlier checkpoint
  (the job `resumed` of the tests). On few cores that takes its time.
* readers: a training makes a step of 64 responses each 20 ms, alone and beside three readers that poll each 0.2 s and
  the dashboard's feed with a snapshot each 0.5 s, one after the other, three times. Behind is a reader by the time from
  a step's end to the poll that gives it. Nothing learns anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lldwatch import Monitor, Responses, Run  # noqa: E402 - the helpers of the tests are beside them

RANKS, READERS, READ_SECONDS = 64, 3, 12


def resident_mb() -> float:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def made_up(responses: int, seed: int) -> dict[str, Any]:
    """The columns of a step that a GRPO loop has."""
    random = np.random.default_rng(seed)
    tokens = random.integers(100, 4000, responses)
    reward = random.choice([0.0, 1.0], responses)
    return {
        "group": np.arange(responses) // 8,
        "reward": reward,
        "advantage": reward - reward.mean(),
        "correct": reward == 1.0,
        "tokens": tokens,
        "log_prob": -tokens * random.gamma(4.0, 0.08, responses),
        "old_log_prob": -tokens * random.gamma(4.0, 0.08, responses),
        "entropy": random.gamma(4.0, 0.08, responses),
        "clipped_tokens": random.poisson(0.002 * tokens),
    }


def many_steps(run: Path, steps: int, responses: int) -> dict[str, Any]:
    """In a process of its own: record them, and watch the memory."""
    batches = [made_up(responses, seed) for seed in range(20)]
    spent: list[float] = []
    random = np.random.default_rng(0)
    began, base, most = time.monotonic(), 0.0, 0.0
    with Monitor(run) as monitor:
        for step in range(1, steps + 1):
            while monitor._recorder._queue.qsize() > 100:  # a training is slower than that
                time.sleep(0.001)
            batch, noise = batches[step % 20], random.normal(0, 1, (2, responses))
            batch |= {"log_prob": batch["old_log_prob"] + noise[0], "entropy": np.exp(noise[1])}
            at = time.perf_counter()
            monitor.observe(Responses(**batch))
            monitor.step(grad_norm=1.0, loss=0.1)
            spent.append(1000 * (time.perf_counter() - at))
            if step == 1:
                monitor._recorder.flush()
                base = resident_mb()
            elif step % 100 == 0:
                most = max(most, resident_mb() - base)
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    return {
        "steps": steps,
        "responses": steps * responses,
        "memory_mb": most,
        "median_ms": median(spent),
        "last_tenth_ms": median(spent[-len(spent) // 10 :]),
        "seconds": time.monotonic() - began,
        "disk_mb": size / 1e6,
        "dropped": monitor.dropped_steps,
        "parts": len(list(run.glob("steps/*.parquet"))),
    }


def look_back(run: Path) -> dict[str, Any]:
    """In a process of its own: read the steps again, and count the rows without reading them."""
    base, began = resident_mb(), time.monotonic()
    read = Run(run)
    observations = read.observations()
    seconds, memory = time.monotonic() - began, resident_mb() - base
    rows = sum(part.rows for part in read.parts("responses"))
    whole = [observation.step for observation in observations] == list(range(1, len(observations) + 1))
    return {"read": len(observations), "rows": rows, "whole": whole, "read_s": seconds, "read_mb": memory}


def many_ranks(folder: Path) -> dict[str, Any]:
    """Processes that write one run.

    Raises:
        AssertionError: other steps or rows stand than were made; the message has what tells why.
    """
    from child_rank import Launcher

    path, launcher = folder / "ranks", Launcher()
    try:
        began = time.monotonic()
        ranks = launcher("resumed", RANKS, path, seconds=240.0)
        seconds = time.monotonic() - began
    finally:
        launcher.close()
    run, expected = Run(path), Counter(dict.fromkeys(range(1, 8), 3 * RANKS))
    steps, rows = [observation.step for observation in run.observations()], Counter(run.responses()["step"].to_pylist())
    failed = [rank.raised or rank.exit for rank in ranks if rank.raised or rank.exit]
    warnings = Counter(words for rank in ranks for words in rank.warnings)
    events = [event for event in run.events().to_pylist() if event["kind"] not in ("start", "finish")]
    right = steps == list(range(1, 8)) and rows == expected and not (failed or run.problems)
    assert right, f"{steps} {rows} {failed[:2]} {run.problems} {warnings} {events} {sorted(path.glob('steps/*'))}"
    return {"steps": steps, "rows": rows.total(), "warnings": warnings.total(), "seconds": seconds}


def reader(run: Path, seconds: int) -> dict[str, Any]:
    """In a process of its own: poll, and see how far behind the writer that is."""
    while not (run / "run.json").exists():
        time.sleep(0.01)
    read, behind, steps, end = Run(run), [], [], time.monotonic() + seconds
    while time.monotonic() < end and not read.ended:
        polled, now = read.poll(), time.time()
        behind += [now - observation.time for observation in polled if observation.time]
        steps += [observation.step for observation in polled]
        time.sleep(0.2)
    torn = steps != list(range(1, len(steps) + 1))
    return {"behind": behind, "torn": torn, "problems": read.problems, "steps": len(steps)}


def feed(run: Path, seconds: int) -> dict[str, Any]:
    """In a process of its own: what the dashboard does for an open page."""
    from lldwatch_dashboard.feed import Feed

    while not (run / "run.json").exists():
        time.sleep(0.01)
    shown, behind, problems, torn, last, end = Feed(run.parent), [], [], False, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        snapshot, now = shown.snapshot(run.name), time.time()
        steps = [observation.step for observation in snapshot.observations]
        torn |= steps != list(range(1, len(steps) + 1))
        behind += [now - (observation.time or now) for observation in snapshot.observations[last:]]
        last, problems = len(steps), list(snapshot.summary.problems)
        if snapshot.summary.info.ended:
            break
        time.sleep(0.5)
    return {"behind": behind, "torn": torn, "problems": problems, "steps": last}


def writer(run: Path, seconds: int) -> dict[str, Any]:
    """In a process of its own: a training; milliseconds of `observe` and `step`, and of a whole step."""
    batch, spent, whole = made_up(64, 0), [], []
    end, weights = time.monotonic() + seconds, np.ones((200, 200), np.float32)
    with Monitor(run) as monitor:
        while time.monotonic() < end:
            began = time.perf_counter()
            while time.perf_counter() < began + 0.01:
                weights @ weights
            time.sleep(0.01)
            at = time.perf_counter()
            monitor.observe(Responses(**batch))
            monitor.step(grad_norm=1.0)
            spent.append(1000 * (time.perf_counter() - at))
            whole.append(1000 * (time.perf_counter() - began))
    return {"ms": median(spent), "whole_ms": median(whole), "dropped": monitor.dropped_steps, "steps": len(spent)}


LOADS = ("steps", "ranks", "readers")
PARTS = {"many_steps": many_steps, "look_back": look_back, "reader": reader, "feed": feed, "writer": writer}


def start(part: str, run: Path, *options: int) -> subprocess.Popen[str]:
    """One of the above in a process of its own."""
    command = [sys.executable, __file__, "--child", part, str(run), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    """What it found."""
    text = child.communicate()[0]
    assert child.returncode == 0
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def beside_readers(folder: Path) -> dict[str, Any]:
    """The same writer alone and beside readers, in turns."""
    alone, beside, read = [], [], []
    for turn in range(3):
        alone.append(answer(start("writer", folder / f"alone{turn}", READ_SECONDS)))
        run = folder / f"beside{turn}" / "run"
        children = [start("reader", run, READ_SECONDS + 30) for _ in range(READERS)]
        children.append(start("feed", run, READ_SECONDS + 30))
        time.sleep(3)  # what they import is not the writer's to pay
        beside.append(answer(start("writer", run, READ_SECONDS)))
        read += [answer(child) for child in children]
    behind = sorted(seconds for each in read for seconds in each["behind"])
    return {
        "torn": sum(each["torn"] for each in read),
        "problems": [line for each in read for line in each["problems"]],
        "polled": sum(each["steps"] for each in read),
        "behind_median_s": median(behind),
        "behind_worst_s": behind[-1],
        "ratio": median(each["ms"] for each in beside) / median(each["ms"] for each in alone),
        "whole_ratio": median(each["whole_ms"] for each in beside) / median(each["whole_ms"] for each in alone),
        "alone_ms": median(each["ms"] for each in alone),
        "beside_ms": median(each["ms"] for each in beside),
        "dropped": sum(each["dropped"] for each in (*alone, *beside)),
    }


def in_words(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    if name == "steps":
        each = found["responses"] // found["steps"]
        words = (
            f"{found['memory_mb']:.0f} MB more than after the first step, {found['dropped']} steps dropped, "
            f"{found['median_ms']:.1f} ms a step (last tenth {found['last_tenth_ms']:.1f}), {found['disk_mb']:,.0f} MB "
            f"on disk, {found['seconds']:,.0f} s; {found['rows']:,} rows stand, the steps are read in "
            f"{found['read_s']:.1f} s"
        )
        return f"| {found['steps']:,} steps of {each} responses | {words} |"
    if name == "ranks":
        words = (
            f"the {len(found['steps'])} steps made last stand, with just their {found['rows']:,} rows, no rank "
            f"failed, {found['warnings']} warnings, {found['seconds']:.0f} s"
        )
        return f"| {RANKS} ranks write one run, are started anew and go back | {words} |"
    words = (
        f"{found['polled']:,} steps read, {found['torn']} torn, behind {found['behind_median_s']:.2f} s (worst "
        f"{found['behind_worst_s']:.2f}); `observe` and `step` take {found['beside_ms']:.2f} ms, alone "
        f"{found['alone_ms']:.2f} (x {found['ratio']:.2f}), the whole step x {found['whole_ratio']:.2f}"
    )
    return f"| a writer beside {READERS} readers and the dashboard's feed | {words} |"


def measure(name: str, folder: Path, steps: int, responses: int) -> dict[str, Any]:
    """One row."""
    if name == "ranks":
        return many_ranks(folder)
    if name == "readers":
        return beside_readers(folder)
    run = folder / "steps"
    found = answer(start("many_steps", run, steps, responses))
    found |= answer(start("look_back", run))
    shutil.rmtree(run)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--responses", type=int, default=512)
    parser.add_argument(
        "--only", nargs="+", choices=("steps", "ranks", "readers"), default=["steps", "ranks", "readers"]
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        part, run, *options = arguments.child
        print(json.dumps(PARTS[part](Path(run), *map(int, options))))
        return
    if not arguments.json:
        print("| load | found |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="lldwatch-load-") as folder:
        for name in arguments.only:
            found = measure(name, Path(folder), arguments.steps, arguments.responses)
            print(json.dumps({name: found}) if arguments.json else in_words(name, found), flush=True)


if __name__ == "__main__":
    main()
