"""A log may be larger than the memory: what is held is a line, a step and what waits to be written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MB = 1000**2
SIZE = 300 * MB
MOST = 260 * MB
"""Resident at the peak; Python with numpy, pyarrow and lldwatch alone takes some 130 MB of it."""

CHILD = """
import json, re, resource, sys
from pathlib import Path
from lldwatch.errors import LldwatchError
from lldwatch.importers.job import import_logs

try:
    runs, _ = import_logs(sys.argv[1], Path(sys.argv[2]))
    told = {"steps": runs[0].steps, "last": runs[0].last}
except LldwatchError as error:
    told = {"error": str(error)}
try:  # ru_maxrss of Linux begins with what the process held that started this one
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status)[1])
except FileNotFoundError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({**told, "peak": peak}))
"""


def in_a_child(source: Path, out: Path) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", CHILD, str(source), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_a_large_console_log(tmp_path: Path) -> None:
    noise = b"(WorkerDict pid=4711) " + b"INFO 01-01 00:00:00 a line that says nothing of the training. " * 60 + b"\n"
    step, written = 0, 0
    with open(tmp_path / "console.log", "wb") as file:
        while written < SIZE:
            step += 1
            line = f"(TaskRunner pid=7) step:{step} - actor/entropy:0.{step:05d} - critic/score/mean:0.5\n".encode()
            written += file.write(noise * 60 + line)
    told = in_a_child(tmp_path / "console.log", tmp_path / "run")
    (tmp_path / "console.log").unlink()
    assert (told["steps"], told["last"]) == (step, step)
    assert isinstance(told["peak"], int)
    assert told["peak"] < MOST


@pytest.mark.parametrize("name", ["console.log", "metrics.jsonl", "completions.jsonl", "train_data_step1.jsonl"])
def test_a_large_file_without_a_line_end(tmp_path: Path, name: str) -> None:
    block = b'{"step": 1, "prompt": [], "completion": ["' + b"x" * (MB - 43)
    with open(tmp_path / name, "wb") as file:
        file.write(block)
        for _ in range(SIZE // MB):
            file.write(b"x" * MB)
    told = in_a_child(tmp_path / name, tmp_path / "run")
    (tmp_path / name).unlink()
    assert "error" in told
    assert isinstance(told["peak"], int)
    assert told["peak"] < MOST
