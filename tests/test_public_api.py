from __future__ import annotations

import subprocess
import sys

import pytest

import lldwatch


def test_the_public_names_are_exactly_these() -> None:
    assert lldwatch.__all__ == [
        "SIGNALS",
        "CollapseDetector",
        "Diagnosis",
        "Family",
        "InputError",
        "LldwatchError",
        "Monitor",
        "Observation",
        "Probes",
        "RanksError",
        "Responses",
        "Run",
        "RunError",
        "RunExistsError",
        "RunInfo",
        "RunNotFoundError",
        "SchemaTooNewError",
        "ScoreError",
        "Settings",
        "Stage",
        "diagnose",
        "list_runs",
    ]
    assert all(getattr(lldwatch, name).__doc__ for name in lldwatch.__all__)


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
