from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

import lldwatch

MODULES = (
    "lldwatch",
    "lldwatch.gradients",
    "lldwatch.hooks",
    "lldwatch.importers.job",
    "lldwatch.integrations.openrlhf",
    "lldwatch.integrations.search_r1",
    "lldwatch.integrations.trl",
    "lldwatch.intervention",
    "lldwatch.llds",
    "lldwatch.logits",
    "lldwatch.probes",
    "lldwatch.ranks",
    "lldwatch.references",
    "lldwatch.scoring",
    "lldwatch.simulate",
)
"""What the README's section on versions promises to keep."""

KNOWN = Path(__file__).parent / "golden" / "public_api.txt"


def _signature(name: str, found: object) -> str:
    if not callable(found) or (inspect.isclass(found) and issubclass(found, Exception | Enum)):
        return name
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in inspect.signature(found).parameters.values()]
    return f"{name}{inspect.Signature(bare)}"


def test_the_public_names_and_their_arguments_are_exactly_these() -> None:
    lines = []
    for module in MODULES:
        names = importlib.import_module(module).__all__
        found = {name: getattr(importlib.import_module(module), name) for name in names}
        assert all(one.__doc__ for one in found.values()), module
        lines += [module, *(f"  {_signature(name, one)}" for name, one in found.items())]
    text = "\n".join(lines) + "\n"
    if os.environ.get("LLDWATCH_UPDATE"):
        KNOWN.write_text(text)
    assert text == KNOWN.read_text(), "the public interface has changed: see the README's section on versions"


def test_importing_lldwatch_loads_neither_torch_nor_pandas_nor_the_dashboard() -> None:
    heavy = ("torch", "pandas", "dash", "plotly", "tqdm", "hypothesis")
    script = f"import sys, lldwatch, lldwatch.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [("InputError", ValueError), ("RunNotFoundError", FileNotFoundError), ("RunExistsError", FileExistsError)],
)
def test_every_error_is_ours_and_the_builtin_one_a_user_expects(error: str, builtin: type[Exception]) -> None:
    ours = getattr(lldwatch, error)
    assert issubclass(ours, lldwatch.LldwatchError)
    assert issubclass(ours, builtin)


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert lldwatch.__version__ == version("lldwatch")
