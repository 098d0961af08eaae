from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lldwatch.integrations.on_import import when_imported


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a module that is not imported yet, and none of it afterwards."""
    folder = tmp_path / "a_trainer"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in ("a_trainer", "a_trainer.actor"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_it_waits_for_the_import_and_calls_once(package: Path) -> None:
    (package / "actor.py").write_text("value = 7\n")
    seen: list[ModuleType] = []
    finders = len(sys.meta_path)
    when_imported("a_trainer.actor", seen.append)
    assert seen == []
    module = importlib.import_module("a_trainer.actor")
    assert seen == [module]
    assert module.value == 7, "after the module's own code"
    importlib.reload(module)
    assert seen == [module]
    assert len(sys.meta_path) == finders


def test_a_module_that_is_there_is_given_at_once(package: Path) -> None:
    (package / "actor.py").touch()
    module = importlib.import_module("a_trainer.actor")
    seen: list[ModuleType] = []
    when_imported("a_trainer.actor", seen.append)
    assert seen == [module]


def test_an_import_that_failed_may_be_tried_again(package: Path) -> None:
    (package / "actor.py").write_text("raise RuntimeError('no GPU')\n")
    seen: list[ModuleType] = []
    when_imported("a_trainer.actor", seen.append)
    with pytest.raises(RuntimeError, match="no GPU"):
        importlib.import_module("a_trainer.actor")
    assert seen == []
    (package / "actor.py").write_text("value = 'another length'\n")
    importlib.invalidate_caches()
    module = importlib.import_module("a_trainer.actor")
    assert seen == [module]


def test_two_that_wait_for_the_same_module_are_both_told(package: Path) -> None:
    (package / "actor.py").touch()
    seen: list[str] = []
    when_imported("a_trainer.actor", lambda module: seen.append("first"))
    when_imported("a_trainer.actor", lambda module: seen.append("second"))
    importlib.import_module("a_trainer.actor")
    assert sorted(seen) == ["first", "second"]


def test_a_module_that_is_nowhere_is_still_missing(package: Path) -> None:
    when_imported("a_trainer.actor", lambda module: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("a_trainer.actor")
