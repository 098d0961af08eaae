"""The examples, as their docstrings say to run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lldwatch import Run

pytest.importorskip("accelerate")


@pytest.mark.parametrize("processes", [1, 2])
def test_the_accelerate_loop_learns_and_is_recorded(tmp_path: Path, processes: int) -> None:
    run_dir = tmp_path / "run"
    start = [sys.executable, "-W", "ignore", "-m"]
    if processes > 1:
        rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        start += ["torch.distributed.run", f"--nproc_per_node={processes}", *rendezvous, "-m"]
    done = subprocess.run(
        [*start, "lldwatch.examples.accelerate_loop", str(run_dir)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "at step 30; more: lldwatch diagnose" in done.stdout
    run = Run(run_dir)
    steps = run.observations()
    assert len(steps) == 30
    assert {step.updates for step in steps} == {4}
    assert {step.responses for step in steps} == {32 * processes}
    assert sum(step.cross_update_change is not None for step in steps) > 10
    first, last = (sum(step.reward or 0 for step in part) for part in (steps[:5], steps[-5:]))
    assert last > first + 1, "it learns"
    assert not [event for event in run.events().to_pylist() if event["kind"] in ("error", "bad_input")]
