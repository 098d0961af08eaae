"""Put a diagnosis into words: for a terminal, and as one JSON object."""

from __future__ import annotations

from typing import Any, TextIO

from lldwatch.diagnosis import Diagnosis, Family, Stage, Status
from lldwatch.follow import Follower

FAMILIES = {
    Family.LLD_SPIRAL: "death spiral of lazy likelihood displacement",
    Family.NUMERICAL: "broken arithmetic",
}
_STAGES = {
    Stage.HEALTHY: "nothing points to a collapse",
    Stage.STAGNATION: "correct responses lose likelihood, nothing else has moved yet",
    Stage.DECAY: "a collapse is to be expected",
    Stage.COLLAPSE: "the run has collapsed",
}
_MARKS: dict[Status, str] = {"ok": "ok", "warning": "WARN", "critical": "CRIT", "skipped": "skip"}


def verdict(diagnosis: Diagnosis) -> str:
    """One sentence: stage, since when, what kind, and when a live user would have been warned."""
    if diagnosis.step is None:
        return "no steps yet"
    stage = diagnosis.stage
    words = f"{stage.name}: {_STAGES[stage]}"
    if stage in diagnosis.onsets:
        words = f"{stage.name} since step {diagnosis.onsets[stage]}: {_STAGES[stage]}"
    if diagnosis.family is not None:
        words += f" ({FAMILIES[diagnosis.family]})"
    if diagnosis.first_warning is not None:
        words += f"; first warned at step {diagnosis.first_warning}"
    return words


def as_json(follower: Follower) -> dict[str, Any]:
    """What `lldwatch diagnose --json` prints; what is not known is None."""
    info, diagnosis = follower.run.info, follower.diagnosis.as_dict()
    return {
        "run": str(follower.run.path),
        "steps": len(follower.observations),
        "trainer": info.trainer,
        "ended": info.ended,
        **diagnosis,
        "problems": follower.run.problems,
    }


def write_text(follower: Follower, out: TextIO) -> None:
    """The whole diagnosis for a person at a terminal; ends with one plain line.

    Args:
        follower: of the run, up to date.
        out: where the lines go.
    """
    run, diagnosis = follower.run, follower.diagnosis
    state = f"ended {run.info.ended}" if run.ended else "still running, or killed"
    print(f"{run.path}: {len(follower.observations)} steps, {run.info.trainer or 'unknown trainer'}, {state}", file=out)
    for line in _timeline(diagnosis):
        print(line, file=out)
    if diagnosis.evidence:
        print("\nEvidence", file=out)
        _table([_evidence_row(item.signal, item) for item in diagnosis.evidence], _EVIDENCE_HEAD, out)
    print("\nChecks", file=out)
    for check in diagnosis.checks:
        print(f"  [{_MARKS[check.status]:>4}] {check.name}: {check.reason}", file=out)
    if diagnosis.advice:
        print("\nWhat to do, what helped most first", file=out)
        for number, line in enumerate(diagnosis.advice, 1):
            print(f"  {number}. {line}", file=out)
    if run.problems:
        print("\nFiles that could not be used", file=out)
        for line in run.problems:
            print(f"  {line}", file=out)
    print(f"\n{verdict(diagnosis)}", file=out)


_EVIDENCE_HEAD = ("signal", "value", "baseline", "limit", "since", "reference")


def _evidence_row(signal: str, item: Any) -> tuple[str, ...]:
    numbers = ["-" if number is None else f"{number:.4g}" for number in (item.value, item.baseline, item.limit)]
    return (signal, *numbers, f"step {item.since}", item.reference)


def _timeline(diagnosis: Diagnosis) -> list[str]:
    stages = [stage for stage in Stage if stage in diagnosis.onsets]
    return [
        f"  {stage.label:<10} from step {diagnosis.onsets[stage]:>5}, known at step {diagnosis.known[stage]:>5}"
        for stage in stages
    ]


def _table(rows: list[tuple[str, ...]], head: tuple[str, ...], out: TextIO) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=out)
