"""The efficacy benchmark trains what is missing, reads what is there, and says what each arm came to."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from lldwatch import Run
from lldwatch.search_world.correction import Correction
from lldwatch.search_world.outcome import judge
from lldwatch.search_world.policy import Policy

FILE = Path(__file__).parents[1] / "benchmarks" / "llds.py"
ARMS = ["vanilla", "batch-1", "auto-fewer-updates", "auto-replay-1-fifth"]


@pytest.fixture(scope="module")
def llds() -> Iterator[ModuleType]:
    """The benchmark, with an untrained policy, tiny batches, and a machine on which everything takes as long."""
    spec = importlib.util.spec_from_file_location("benchmark_of_llds", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        patch.setattr(module, "base_policy", lambda settings: Policy(72, 66, seed=settings.seed))
        patch.setattr(module, "seconds_a_step", lambda arm: 1.0)
        for name, arm in module.ARMS.items():
            small = replace(arm.scenario, prompts=1, responses=2, mini_batches=1)
            module.ARMS[name] = replace(arm, scenario=small)
        for group in module.GROUPS.values():
            group.update({name: module.ARMS[name] for name in group})
        yield module


@pytest.fixture(scope="module")
def trained(llds: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    call(llds, folder)
    return folder


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> Path:
    """A copy of what was trained."""
    return Path(shutil.copytree(trained, tmp_path / "out"))


def call(module: ModuleType, out: Path, *more: str) -> None:
    module.main(["--out", str(out), "--steps", "10", "--seeds", "0", "5", "--arms", *ARMS, *more])


def test_what_is_there_is_read_and_only_what_is_missing_is_trained(
    llds: ModuleType, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ARMS:
        for base, seed in ((0, 0), (1, 5)):
            assert len(Run(out / f"{name}-base{base}-seed{seed}").observations()) == 10
    again: list[tuple[str, int]] = []
    whole = llds.train_one

    def train_one(arm: str, base_seed: int, seed: int, steps: int, out: Path) -> None:
        again.append((arm, seed))
        whole(arm, base_seed, seed, steps, out)

    monkeypatch.setattr(llds, "train_one", train_one)
    call(llds, out)
    assert again == []
    table = capsys.readouterr().out
    (out / "batch-1-base1-seed5.json").unlink()  # as if it had been interrupted
    call(llds, out)
    assert again == [("batch-1", 5)]
    assert capsys.readouterr().out == table  # the same numbers


def test_each_arm_that_was_trained_has_its_line(
    llds: ModuleType, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in out.glob("auto-*.json"):
        file.unlink()
    call(llds, out, "--only-read")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "**16 updates on each rollout batch, unless said otherwise**"
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert head == list(llds.TITLES)
    assert [(row[0], row[1], row[4], row[6], row[7]) for row in rows] == [
        ("vanilla GRPO", "2", "-", "0%", "x 1.00"),
        ("batch LLDS 1 from the start", "2", "from the start", "0%", "x 1.00"),
    ]


def test_what_a_remedy_costs_is_measured_once_while_it_is_on(
    llds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def seconds(arm: object) -> float:
        asked.append("plain" if arm.plain else "remedy")  # type: ignore[attr-defined]
        return 2.0 if arm.plain else 3.0  # type: ignore[attr-defined]

    monkeypatch.setattr(llds, "seconds_a_step", seconds)
    for _ in range(2):
        assert llds.price(llds.ARMS["auto-replay-1"], tmp_path) == 1.5
        assert llds.price(llds.ARMS["replay-1"], tmp_path) == 1.5  # the same once it is on
        assert llds.price(llds.ARMS["vanilla"], tmp_path) == 1.0
    assert asked == ["remedy", "plain"] * 3


def test_a_run_of_other_settings_is_not_taken_for_this_one(
    llds: ModuleType, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = ("batch-1", 0, 0, 10, out)
    assert llds.read(*of) is not None
    assert llds.read("batch-1", 0, 0, 11, out) is None
    arm = llds.ARMS["batch-1"]
    monkeypatch.setitem(llds.ARMS, "batch-1", replace(arm, title="other words"))
    assert llds.read(*of) is not None
    other = replace(arm.scenario, correction=Correction(gate="token"))
    monkeypatch.setitem(llds.ARMS, "batch-1", replace(arm, scenario=other))
    assert llds.read(*of) is None
    assert "batch-1-base0-seed0.json is of other settings" in capsys.readouterr().err
    monkeypatch.setitem(llds.ARMS, "batch-1", arm)
    record = out / "batch-1-base0-seed0.json"
    found = json.loads(record.read_text())
    del found["key"]["scenario"]["fewer_epochs"]  # recorded before there was such a setting
    record.write_text(json.dumps(found))
    assert llds.read(*of) is not None


def test_when_a_remedy_was_engaged(llds: ModuleType, out: Path) -> None:
    for arm, change, expected in [
        ("auto-replay-1-fifth", {"coefficient": 4}, 4),
        ("auto-fewer-updates", {"updates": 7}, 7),
        ("auto-fewer-updates", {}, None),
        ("batch-1", {"coefficient": 4}, None),  # from the start: nothing waited for a prediction
    ]:
        record = out / f"{arm}-base0-seed0.json"
        found = json.loads(record.read_text())
        found["coefficients"] = [float(step >= change.get("coefficient", 99)) for step in range(1, 11)]
        full = llds.ARMS[arm].scenario.updates_per_batch
        for step in found["steps"]:
            step["updates"] = 1 if step["step"] >= change.get("updates", 99) else full
        record.write_text(json.dumps(found))
        done = llds.read(arm, 0, 0, 10, out)
        assert done.engaged == expected
        assert done.outcome == judge([step["reward"] for step in found["steps"]])


def test_the_interval_is_the_same_each_time_and_holds_the_mean(llds: ModuleType) -> None:
    values = [0.1, 0.7, 0.6, 0.65, 0.7]
    low, high = llds.interval(values)
    assert (low, high) == llds.interval(values)
    assert low < sum(values) / 5 < high
    assert llds.interval([0.5]) == (0.5, 0.5)


def test_every_arm_is_another_one_and_an_auto_arm_knows_only_the_monitor(llds: ModuleType) -> None:
    settings = [(arm.scenario, arm.llds) for arm in llds.ARMS.values()]
    assert len(set(settings)) == len(settings)
    assert sum(map(len, llds.GROUPS.values())) == len(llds.ARMS)
    for name, arm in llds.ARMS.items():
        assert ("auto" in name) == (arm.llds.mode == "auto")
        assert arm.scenario.correction.llds == 0
    assert set(llds.PICTURE) <= set(llds.ARMS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "3"], "a run is judged on at least 10"),
        (["--seeds", "1", "2", "3", "--base-seeds", "1", "2"], "2 base seeds for 3 seeds"),
        (["--arms", "hope"], "hope"),
        (["--picture", "arms.svg"], "arms.svg does not end in .png"),
    ],
)
def test_a_mistake_in_the_call_is_said(
    llds: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit):
        llds.main(["--out", str(tmp_path), *arguments])
    assert words in capsys.readouterr().err
