"""How fast is a large console log read, and in how much memory?

python benchmarks/importers.py --gib 2 --repeats 1

Makes verl's console as Ray prints it: one line in twenty is a step of some 40 numbers, the others are what workers say,
progress bars that overwrite themselves, and warnings. It is imported by a process of its own, as `lldwatch import` does
it; timed is the import with the writing of the run, and the peak of the resident memory is that of the process. Quoted
is the median over the repeats. The log lies in a folder that is removed at the end, and was read once before the clock
starts, so that a fast disk is assumed. "Python alone" goes through the same lines and does nothing with them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

GIB, MB, STEPS = 1024**3, 1000**2, 1000
_WORKER = "\x1b[36m(WorkerDict pid=4711)\x1b[0m"
_WORDS = "loading checkpoint shards engine sleeping woke up cache blocks prefill decode tokens requests running waiting"
_METRICS = (
    *(f"actor/{name}" for name in ("entropy", "kl_loss", "pg_loss", "pg_clipfrac", "ppo_kl", "grad_norm", "lr")),
    *(f"critic/{name}/{part}" for name in ("score", "rewards", "advantages") for part in ("mean", "max", "min")),
    *(f"response_length/{name}" for name in ("mean", "max", "min", "clip_ratio")),
    *(f"timing_s/{name}" for name in ("gen", "reward", "old_log_prob", "ref", "adv", "update_actor", "step")),
    *(f"perf/{name}" for name in ("mfu/actor", "max_memory_allocated_gb", "total_num_tokens", "throughput")),
    *(f"prompt_length/{name}" for name in ("mean", "max", "min", "clip_ratio")),
    *(f"training/{name}" for name in ("rollout_probs_diff_mean", "rollout_probs_diff_max", "epoch")),
)
_IMPORT = """
import json, resource, sys, time
from pathlib import Path
from lldwatch.importers.job import import_logs
began = time.perf_counter()
runs, _ = import_logs(sys.argv[1], Path(sys.argv[2]))
took, steps = time.perf_counter() - began, runs[0].steps
"""
_ALONE = """
import json, resource, sys, time
began, steps = time.perf_counter(), 0
with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
    for line in file:
        pass
took = time.perf_counter() - began
"""
_TELL = """
used = resource.getrusage(resource.RUSAGE_SELF)
cpu_s, peak = used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss
print(json.dumps({"steps": steps, "s": took, "cpu_s": cpu_s, "peak": peak}))
"""


def noise(random: np.random.Generator) -> list[str]:
    """What stands before each step of a block."""
    words, pieces = _WORDS.split(), []
    for number in range(STEPS):
        lines = []
        for place in range(19):
            said = " ".join(random.choice(words, 14).tolist())
            lines.append(f"{_WORKER} INFO 01-01 12:00:{place:02d} {said}: {number}\n")
        bar = "".join(f"\rProcessed prompts: {part:3d}%|{'#' * (part // 10):10s}|" for part in (5, 50, 100))
        lines[number % 19] = f"{_WORKER} {bar}\n"
        pieces.append("".join(lines))
    return pieces


def told(step: int, values: list[float]) -> str:
    """The line of a step."""
    items = (f"{name}:np.float64({value!r})" for name, value in zip(_METRICS, values, strict=True))
    return f"\x1b[36m(TaskRunner pid=46086)\x1b[0m step:{step} - {' - '.join(items)}\n"


def write_log(path: Path, size: int) -> int:
    """A log of that size; the number of steps in it."""
    random, written, step = np.random.default_rng(0), 0, 0
    before = noise(random)
    with open(path, "wb") as file:
        while written < size:
            rows = random.normal(1.0, 0.2, (STEPS, len(_METRICS))).tolist()
            lines = "".join(before[number] + told(step + number + 1, row) for number, row in enumerate(rows))
            written += file.write(lines.encode())
            step += STEPS
    return step


def in_a_child(script: str, log: Path, folder: Path) -> dict[str, Any]:
    out = folder / "run"
    command = [sys.executable, "-c", script + _TELL, str(log), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(out, ignore_errors=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lldwatch-importers-") as name:
        folder = Path(name)
        free, size = shutil.disk_usage(folder).free, int(options.gib * GIB)
        if free < 1.5 * size:
            sys.exit(
                f"{folder} has {free / GIB:.1f} GiB left, {1.5 * options.gib:.1f} are needed: set TMPDIR, or --gib"
            )
        log = folder / "console.log"
        steps = write_log(log, size)
        size = log.stat().st_size
        print(f"{size / GIB:.2f} GiB, {steps:,} steps among {20 * steps:,} lines; median of {options.repeats}\n")
        print(f"{'':<16} {'s':>8} {'CPU s':>8} {'MB/s':>8} {'steps/s':>9} {'peak MB':>8}")
        for title, script in (("Python alone", _ALONE), ("lldwatch", _IMPORT)):
            runs = [in_a_child(script, log, folder) for _ in range(options.repeats)]
            assert all(run["steps"] in (0, steps) for run in runs), runs
            s, cpu, peak = (statistics.median(run[key] for run in runs) for key in ("s", "cpu_s", "peak"))
            print(
                f"{title:<16} {s:8.1f} {cpu:8.1f} {size / MB / s:8.0f} {steps / s:9,.0f} {peak / MB:8.0f}", flush=True
            )


if __name__ == "__main__":
    main()
