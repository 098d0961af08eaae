"""What an import made, in words and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from lldwatch.importers.tally import Tally, one_line
from lldwatch.importers.trainers import TABLES
from lldwatch.importers.write import Written
from lldwatch.signals import SIGNALS

_LOGGED = {ours for table in TABLES for ours in table.values()}


@dataclass
class Imported:
    """One run that was imported.

    Attributes:
        path: its directory; None where nothing could be used.
        name: in the source.
        source: the files it comes from.
        format: name of the format.
        why: it was recognised.
        steps: observations.
        first: smallest step.
        last: largest step.
        measured: fields of `Observation` that had a value.
        tables: table of rows -> how many rows.
        tally: what was left out; runs of one file share it.
    """

    path: Path | None
    name: str
    source: str
    format: str
    why: str
    steps: int = 0
    first: int | None = None
    last: int | None = None
    measured: set[str] = field(default_factory=set)
    tables: dict[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def take(self, written: Written) -> None:
        """What was written."""
        self.steps, (self.first, self.last) = len(written), written.ends
        self.measured = written.measured - {"step", "time"}

    @property
    def lacking(self) -> list[str]:
        """Signals that cannot be told from this log."""
        return [signal.name for signal in SIGNALS.values() if not self.measured.issuperset(signal.requires)]

    @property
    def lacking_here(self) -> list[str]:
        """Those of them that a trainer's own log can hold; the others only hooks of lldwatch can record."""
        return [name for name in self.lacking if _LOGGED.issuperset(SIGNALS[name].requires)]

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        names = ("name", "source", "format", "why", "steps", "first", "last", "tables", "lacking")
        return {
            "run": None if self.path is None else str(self.path),
            **{name: getattr(self, name) for name in names},
            "measured": sorted(self.measured),
            **self.tally.as_dict(),
        }


def account_of(run: Imported) -> str:
    """Where a run comes from and what was left out, for its event."""
    lost = "; ".join((*run.tally.reasons, *run.tally.notes)) or "nothing"
    return one_line(f"from {run.source}, read as {run.format}; left out or worth knowing: {lost}")


def write_account(runs: list[Imported], tally: Tally, out: TextIO) -> None:
    """The summary of an import for a person at a terminal."""
    last: Tally | None = None
    for run in runs:
        print(one_line(f"{run.source}: {run.format}, because {run.why}"), file=out)
        rows = "".join(f", {count:,} rows of {table}" for table, count in run.tables.items())
        print(f"  run       {run.path}: {_steps(run)}{rows}", file=out)
        print(f"  found     {', '.join(sorted(run.measured))}", file=out)
        hooks = len(run.lacking) - len(run.lacking_here)
        more = f" and {hooks} signals that only lldwatch's own hooks record" if hooks else ""
        print(f"  missing   {', '.join(run.lacking_here) or 'nothing'}{more}", file=out)
        if run.tally is not last:
            _write_tally(run.tally, out)
        last = run.tally
    _write_tally(tally, out)


def _steps(run: Imported) -> str:
    if not run.steps:
        return "no step"
    return f"{run.steps:,} steps, {run.first} to {run.last}" if run.steps > 1 else f"1 step, {run.first}"


def _write_tally(tally: Tally, out: TextIO) -> None:
    if tally.unmapped:
        more = f" and {tally.more_unmapped} more" if tally.more_unmapped else ""
        print(f"  not used  {', '.join(map(one_line, tally.unmapped))}{more}", file=out)
        print("            (--map ours=theirs uses one of them, for instance --map reward=...)", file=out)
    for line in tally.reasons:
        print(f"  dropped   {line}", file=out)
    for line in tally.notes:
        print(f"  note      {line}", file=out)
