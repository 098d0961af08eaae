from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# a shared machine is slow at times, and the files of one example do not disturb the next: each makes its own folder
settings.register_profile("lldwatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lldwatch")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"
