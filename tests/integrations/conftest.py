"""What the tests of several trainers begin with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_verl import stand_in


@pytest.fixture
def verl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in, before anything of it is imported."""
    for name in [name for name in os.environ if name.startswith("LLDWATCH_")]:
        monkeypatch.delenv(name)
    with stand_in():
        yield


@pytest.fixture
def run(verl: None, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLDWATCH_RUN", str(run_dir))
    return run_dir
