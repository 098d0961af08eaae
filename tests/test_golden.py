"""The sample logs, diagnosed: what a user reads of three real runs. LLDWATCH_UPDATE=1 writes the files anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lldwatch import Run
from lldwatch.follow import Follower
from lldwatch.report import as_json

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "stage"), [("healthy", "healthy"), ("collapse", "collapse"), ("collapse-with-llds", "healthy")]
)
def test_a_sample_log_is_diagnosed_as_before(name: str, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    follower = Follower(Run(f"sample_logs/{name}"))
    follower.update()
    found = json.loads(json.dumps(as_json(follower)))
    golden = ROOT / "tests" / "golden" / f"{name}.json"
    if os.environ.get("LLDWATCH_UPDATE"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(golden.read_text())
    assert found["stage"] == stage
    assert found["problems"] == []


def test_the_sample_logs_stay_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "sample_logs").rglob("*") if path.is_file())
    assert size < 7e6
