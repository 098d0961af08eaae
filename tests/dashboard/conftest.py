"""Runs made of few numbers, for the tests of the dashboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lldwatch import Monitor

pytest.importorskip("dash")

WriteRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept of runs that were read, away from the user's own."""
    monkeypatch.setenv("LLDWATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def write_run(root: Path) -> WriteRun:
    """Writes a finished run with these steps; `resume=True` goes on with one."""

    def write(name: str, steps: range, *, resume: bool = False, **columns: Any) -> Path:
        with Monitor(root / name, planned_steps=100, resume=resume) as monitor:
            for step in steps:
                monitor.step(step, reward=0.5, **columns)
        return root / name

    return write


@pytest.fixture
def change_info() -> Callable[..., None]:
    """Changes keys of a run's run.json."""

    def change(run: Path, **keys: Any) -> None:
        info = run / "run.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | keys))

    return change
