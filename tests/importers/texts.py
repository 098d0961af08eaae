"""What the tests of the trainers' own logs share: read a text as a format, and look at the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lldwatch.importers.format import Format
from lldwatch.importers.job import Options, steps_of
from lldwatch.importers.recognise import recognise
from lldwatch.importers.source import Source
from lldwatch.importers.steps import Step
from lldwatch.importers.tally import Tally

FOREIGN = Path(__file__).resolve().parents[2] / "sample_logs" / "foreign"
NOISE = "(raylet) [2026-01-01 00:00:00,000 E 1 1] node_manager.cc:3069: 1 Workers (tasks / actors) killed {'a': 1}\n"


def put(folder: Path, text: str | bytes, name: str = "console.log") -> Path:
    """A file with that text."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(fmt: Format, path: Path) -> tuple[list[Step], Tally]:
    """All steps of a file of that format."""
    tally, source = Tally(), Source(path)
    steps = list(steps_of(fmt, fmt.read(source, tally), Options(), tally))
    return steps, tally


def auto(path: Path) -> tuple[str, str, list[Step], Tally]:
    """The name of the format that is recognised, why, and what is read."""
    tally, source = Tally(), Source(path)
    fmt, why = recognise(source, tally)
    steps = list(steps_of(fmt, fmt.read(source, tally), Options(), tally))
    return fmt.name, why, steps, tally


def about(fmt: Format, path: Path) -> dict[str, Any]:
    """What the file says of the run as a whole."""
    return fmt.about(Source(path))


def column(steps: list[Step], name: str) -> list[Any]:
    """One field, with the six digits that a float32 has."""
    values = [getattr(step.observation, name) for step in steps]
    return [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]


def told(step: Step) -> dict[str, Any]:
    """What an observation holds."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in step.observation.as_dict().items()
        if value is not None
    }
