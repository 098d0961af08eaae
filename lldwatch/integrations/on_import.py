"""Do something when a module is imported that is not imported yet: for processes that start with a set-up call of ours.

Rejected: importing the module at once. A ray worker that serves vLLM must not load a trainer's DeepSpeed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    """Call a function with a module, once: now if it is there, else right after its import.

    Args:
        name: of the module.
        then: it must not raise, since that would break the import.
    """
    module = sys.modules.get(name)
    if module is not None:
        then(module)
    else:
        sys.meta_path.insert(0, _Finder(name, then))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as the others would, and calls a function after it has been executed."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then, self._looking = name, then, False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name or self._looking:  # another of our kind asks us in turn
            return None
        self._looking = True
        try:
            others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
            found = (finder.find_spec(fullname, path, target) for finder in others)
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self._looking = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_tell(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:  # an import that failed may be tried again
                sys.meta_path.remove(self)
                self._then(module)

        spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]  # of this loader alone
        return spec
