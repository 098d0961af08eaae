"""Runs with responses, probes and tokens for the tests of the responses page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lldwatch.columns import RowTable
from lldwatch.recorder import Recorder
from lldwatch.schema import Observation, Probes, Responses, RunInfo


def responses(uid: list[int], change: list[float], **more: Any) -> Responses:
    """Responses of 10 tokens, whose log-prob was -20 when they were written; `change` is in nats per token."""
    count = len(uid)
    columns: dict[str, Any] = {
        "group": np.array(uid) // 4,
        "update": np.zeros(count),
        "reward": np.ones(count),
        "advantage": np.ones(count),
        "correct": np.ones(count, bool),
        "tokens": np.full(count, 10),
        "old_log_prob": np.full(count, -20.0),
        "log_prob": -20.0 + 10 * np.array(change),
    }
    return Responses(uid=uid, **{**columns, **more})


def probes(uid: list[int], change: list[float], kind: str = "cross_update", lag: int = 1, **more: Any) -> Probes:
    """The same, scored again."""
    count = len(uid)
    columns: dict[str, Any] = {
        "group": np.array(uid) // 4,
        "correct": np.ones(count, bool),
        "advantage": np.ones(count),
        "lag": np.full(count, lag),
        "tokens": np.full(count, 10),
        "log_prob_before": np.full(count, -20.0),
        "log_prob_after": -20.0 + 10 * np.array(change),
    }
    return Probes(kind=np.full(count, kind), uid=uid, **{**columns, **more})


def write(
    run: Path, steps: dict[int, list[RowTable]], *, resume: bool = False, close: bool = True, **columns: Any
) -> Recorder:
    """A run with these rows; parts of four steps."""
    recorder = Recorder(run, RunInfo(trainer="test"), steps_per_part=4, resume=resume)
    for step, rows in steps.items():
        recorder.record(Observation(step=step, **columns), rows)
        recorder.flush()
    if close:
        recorder.close()
    return recorder
