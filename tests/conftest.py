from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# a shared machine is slow at times, and the files of one example do not disturb the next: each makes its own folder
settings.register_profile("lldwatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lldwatch")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


# a shell's background jobs ignore Ctrl-C, and so would the processes that the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
