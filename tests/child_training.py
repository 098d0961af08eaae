"""A training in a process of its own, to be killed, watched or locked out by a test. A simulation: nothing learns.

Run as `python child_training.py RUN --steps 1000`. After each step it prints the step and how many steps still wait for
the disk.
"""

from __future__ import annotations

import argparse
import functools
import os
import time

import numpy as np

import lldwatch.monitor
from lldwatch import Monitor, Responses
from lldwatch.recorder import Recorder

ROWS = 8
"""Responses of a step."""


def responses(step: int) -> Responses:
    """Rows that say which step they belong to."""
    return Responses(
        tokens=np.full(ROWS, 10),
        log_prob=np.full(ROWS, -float(step)),
        old_log_prob=np.full(ROWS, -float(step)),
        reward=np.arange(ROWS) % 2,
        correct=np.arange(ROWS) % 2 == 1,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="directory or URL")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--steps-per-part", type=int, default=5)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--flush", action="store_true", help="wait after each step until it is in the files")
    options = parser.parse_args()
    # the monitor is the real one; only the parts are smaller than in a real run
    lldwatch.monitor.Recorder = functools.partial(Recorder, steps_per_part=options.steps_per_part)  # type: ignore[misc]
    with Monitor(options.run, resume=options.resume) as monitor:
        for _ in range(options.steps):
            monitor.observe(responses((monitor.diagnosis.step or 0) + 1))
            diagnosis = monitor.step(grad_norm=1.0)
            if options.flush:
                monitor._recorder.flush()
            os.write(1, f"{diagnosis.step} {monitor._recorder._queue.qsize()}\n".encode())
            time.sleep(options.delay)


if __name__ == "__main__":
    main()
