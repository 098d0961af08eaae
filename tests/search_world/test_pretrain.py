import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lldwatch.search_world import task
from lldwatch.search_world.pretrain import PretrainSettings, base_policy, cache_path, demonstrations, schedule

TINY = PretrainSettings(steps=3, batch_size=4, warmup_steps=1)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_second_call_reads_the_cache(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = base_policy(TINY, tmp_path, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    second = base_policy(TINY, tmp_path, lambda done, total: calls.append((done, total)))
    assert len(calls) == 3
    assert same(first, second)
    assert [path.name for path in tmp_path.iterdir()] == [cache_path(TINY, tmp_path).name]


def test_training_is_reproducible_without_the_cache(tmp_path: Path) -> None:
    assert same(base_policy(TINY, tmp_path / "a"), base_policy(TINY, tmp_path / "b"))


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_damaged_cache_file_is_rebuilt_with_one_line_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    good = base_policy(TINY, tmp_path)
    path = cache_path(TINY, tmp_path)
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    with caplog.at_level(logging.WARNING, logger="lldwatch"):
        assert same(good, base_policy(TINY, tmp_path))
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    caplog.clear()
    assert same(good, base_policy(TINY, tmp_path))
    assert not caplog.records


def test_a_checkpoint_of_other_shapes_is_rebuilt(tmp_path: Path) -> None:
    good = base_policy(TINY, tmp_path)
    torch.save({"head.weight": torch.zeros(2, 2)}, cache_path(TINY, tmp_path))
    assert same(good, base_policy(TINY, tmp_path))


def test_every_setting_and_the_task_version_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache_path(TINY, "x").name
    for name, value in vars(TINY).items():
        assert cache_path(replace(TINY, **{name: value + 1}), "x").name != key
    monkeypatch.setattr(task, "VERSION", task.VERSION + 1)
    assert cache_path(TINY, "x").name != key


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLDWATCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path(TINY).parent == tmp_path / ".cache" / "lldwatch"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_path(TINY).parent == tmp_path / "xdg" / "lldwatch"
    monkeypatch.setenv("LLDWATCH_CACHE", str(tmp_path / "own"))
    assert cache_path(TINY).parent == tmp_path / "own"


def test_schedule_warms_up_and_ends_at_a_tenth() -> None:
    settings = PretrainSettings()
    assert schedule(0, settings) == pytest.approx(0.02)
    assert schedule(49, settings) == schedule(50, settings) == 1.0
    assert schedule(500, settings) == pytest.approx(0.1)


def test_first_half_practises_more() -> None:
    settings = PretrainSettings(batch_size=200)

    def practice(step: int) -> float:
        _, trained = demonstrations(settings, step, np.random.default_rng(0))
        return float((trained.sum(1) == 6).float().mean())

    assert practice(0) == pytest.approx(0.5, abs=0.1)
    assert practice(400) == pytest.approx(0.1, abs=0.1)
