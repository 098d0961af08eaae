"""The comparison of detectors runs, and its naive rules are what they are called."""

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lldwatch import Observation

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    recorded = tmp_path_factory.mktemp("miniature")
    for scenario in ("healthy", "collapse"):
        shutil.copytree(ROOT / "sample_logs" / scenario, recorded / f"{scenario}-base0-seed0")
    counts = ["--runs", "2", "--null-steps", "60", "--simulated", "2", "--steps", "60", "--jobs", "2"]
    command = [sys.executable, "benchmarks/detector.py", *counts, "--miniature", str(recorded)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_table_is_rectangular(document: str) -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", document, re.MULTILINE)
    assert len(tables) >= 9
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_every_set_of_runs_is_there_and_counted(document: str) -> None:
    for phi in ("0", "0.5", "0.8", "0.95"):
        assert re.search(rf"^\| {re.escape(phi)} \| \d/2", document, re.MULTILINE)
    assert re.search(r"^\| numerical \| [12]/2, lead ", document, re.MULTILINE)
    assert re.search(r"^\| spikes \| \d/2", document, re.MULTILINE)
    miniature = document[document.index("## Recorded trainings") :]
    assert re.search(r"^\| collapse \| \d/1, lead ", miniature, re.MULTILINE)
    assert re.search(r"^\| healthy \| \d/1 ", miniature, re.MULTILINE)


def test_absent_packages_are_named(document: str) -> None:
    absent = [name for name, module in PEERS.items() if not installed(module)]
    for name in PEERS:
        assert (re.search(rf"^Left out.*\b{name}\b", document, re.MULTILINE) is not None) == (name in absent)


PEERS = {"rldoctor": "rl_doctor", "rlprobe": "rlprobe", "rlwatch": "rlwatch"}


def installed(module: str) -> bool:
    tried = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
    return tried.returncode == 0


@pytest.fixture
def watchers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import watchers

    return watchers


def rows(**columns: list[float | None]) -> list[Observation]:
    count = len(next(iter(columns.values())))
    return [
        Observation(step=10 + index, **{name: series[index] for name, series in columns.items()})
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("later", "alarm"),
    [
        ([2.1, 2.1, 2.1], 32),  # the third row above twice the median of the first twenty
        ([2.1, 2.1, 1.9, 2.1, 2.1, 2.1], 35),
        ([2.1, 2.1, None, 2.1], 33),  # a row that lacks it says nothing
        ([2.1, 2.1, float("nan"), 2.1, 2.1], None),
        ([1.9] * 30, None),
    ],
)
def test_naive_rule(watchers, later: list[float | None], alarm: int | None) -> None:
    watch = watchers.NAIVE["entropy > 2x"]
    assert watch(rows(entropy=[0.9, 1.1] * 5 + [1.0] * 10 + later), 0.0).warned == alarm


def test_reward_rule_is_that_of_the_miniature(watchers) -> None:
    from miniature import reward_alarm

    noise = random.Random(0)
    alarms = set()
    for _ in range(60):
        level = noise.uniform(0.3, 0.9)
        exact = [level * (1.0 if step < 25 else noise.uniform(0.5, 1.0)) for step in range(60)]
        rewards = [round(64 * reward) / 64 for reward in exact]  # that a floor shifts without rounding
        observed = rows(reward=rewards)
        steps = [SimpleNamespace(step=row.step, reward=row.reward) for row in observed]
        expected = reward_alarm(SimpleNamespace(steps=steps))
        assert watchers.reward_alarm(observed, 0.0).warned == expected
        shifted = rows(reward=[reward - 1.0 for reward in rewards])
        assert watchers.reward_alarm(shifted, -1.0).warned == expected
        alarms.add(expected)
    assert None in alarms
    assert len(alarms) > 3


def test_family_of_a_step(watchers) -> None:
    said = watchers.Said(5, families=((5, "mismatch"), (9, "lld_spiral")))
    assert [said.family_by(step) for step in (4, 5, 8, 9, 100)] == [
        None,
        "mismatch",
        "mismatch",
        "lld_spiral",
        "lld_spiral",
    ]


def test_diagnoses_of_the_packages_come_as_often_as_their_own(watchers) -> None:
    assert list(watchers.checkpoints(range(80), 30)) == [50, 75, 80]
    assert list(watchers.checkpoints(range(75), 60)) == [75]
