"""Runs when Python starts in a training begun by `lldwatch run`: waits for a trainer to be imported.

Python looks for a module of this name on PYTHONPATH. One that it would have found without us runs first. Nothing but
the standard library is imported until a trainer is (`on_import` would bring lldwatch, and pyarrow with it, into every
Python process of the training), and whatever goes wrong is one line on standard error.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

TRAINERS = {
    "transformers.trainer": "lldwatch.integrations.startup_trl:watch_every_trainer",
    "verl": "lldwatch.integrations.verl:register",
    "openrlhf": "lldwatch.integrations.openrlhf:setup",
}
"""Module that is waited for -> what is called once it was imported."""


def _say(words: str) -> None:
    sys.stderr.write(f"lldwatch: {words}\n")


class _Waiting(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it lets the others find, and is told when one of the modules has been imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the others find it, with a loader that calls ours afterwards."""
        if name not in TRAINERS:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            _call_after(spec.loader, name)
        return spec


def _call_after(loader: importlib.abc.Loader, name: str) -> None:
    own = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        own(module)
        where, _, function = TRAINERS[name].partition(":")
        try:
            getattr(importlib.import_module(where), function)()
        except Exception as error:  # raised here it would break the import of the trainer
            _say(f"{name} is not watched ({type(error).__name__}: {error}); the training goes on without lldwatch")

    loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one module's loader


def _other_sitecustomize() -> None:
    """Run the one that Python would have run."""
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [path for path in sys.path if os.path.abspath(path or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", paths)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _at_the_end() -> None:
    """Of the command itself: nobody shall find out days later that nothing was recorded."""
    run = os.environ["LLDWATCH_RUN"]
    if not os.path.exists(os.path.join(run, "run.json")):
        seen = [name for name in TRAINERS if name in sys.modules]
        why = f"{' and '.join(seen)} was imported, but no GRPO training began" if seen else "no trainer was imported"
        _say(f"nothing was recorded in {run}: {why} in this process or those that it started")


if os.environ.get("LLDWATCH_RUN"):
    sys.meta_path.insert(0, _Waiting())
    if os.environ.get("LLDWATCH_LAUNCHED") == str(os.getpid()):
        atexit.register(_at_the_end)
_other_sitecustomize()  # last: whatever it raises is said by Python, as it would have been
