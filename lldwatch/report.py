"""Put a diagnosis into words: for a terminal, and as one JSON object."""

from __future__ import annotations

import json
from typing import Any, TextIO

from lldwatch.diagnosis import Diagnosis, Family, Stage, Status
from lldwatch.follow import Follower
from lldwatch.postmortem import events_of, final_reward, finite_json, lacking, moment, planned, state_of
from lldwatch.series import all_measured, summary

_MARKS: dict[Status, str] = {"ok": "ok", "warning": "WARN", "critical": "CRIT", "skipped": "skip"}

_DYING = {
    Family.LLD_SPIRAL: "correct answers are being unlearnt",
    Family.OFF_POLICY_OVERUSE: "each batch is used too often, and correct answers are being unlearnt",
    Family.SHARPENING: "the policy grows certain of one answer",
    Family.FORMAT_LOSS: "responses lose their format",
    Family.MISMATCH: "rollout engine and trainer disagree about the same weights",
    Family.NUMERICAL: "values are NaN or infinite",
    Family.GRADIENT_STARVATION: "nearly all groups are all right or all wrong, so that nothing is learnt",
    Family.OPTIMISER_BLOW_UP: "the gradient norm has exploded",
    None: "several signals at once have left what was normal",
}
"""What is going on, to be read after "since step N"."""


def verdict(diagnosis: Diagnosis) -> str:
    """One sentence: what the run looks like, since when, and what to expect."""
    if diagnosis.step is None:
        return "No step has been recorded yet."
    if diagnosis.stage is Stage.HEALTHY:
        return _healthy(diagnosis)
    since = min(diagnosis.onsets.values(), default=diagnosis.step)
    family = diagnosis.family
    if diagnosis.stage is Stage.STAGNATION:
        if family is None and any(check.name == "reward" and check.status == "critical" for check in diagnosis.checks):
            alone = "but nothing else has moved: look at the reward function first"
            return f"The reward is lost since about step {since}, {alone}."
        return f"Since about step {since}, {_STAGNATING[family]}. Nothing else yet."
    if diagnosis.stage is Stage.DECAY:
        return f"Since about step {since}, {_DYING[family]}: expect a collapse{_when(diagnosis)}, and act now."
    lost = diagnosis.onsets.get(Stage.COLLAPSE, diagnosis.step)
    if family is Family.NUMERICAL:
        return f"The arithmetic broke at about step {lost}: the run computes NaN or infinite values."
    if family is None:
        return f"The reward is lost since about step {lost}, of no kind that is known: look at the reward first."
    return f"The run has collapsed ({family.label}): the reward is lost since about step {lost}."


_STAGNATING = _DYING | {
    Family.LLD_SPIRAL: "correct answers of earlier batches become less likely",
    None: "the reward is below its peak by more than noise",
}


def _when(diagnosis: Diagnosis) -> str:
    """The forecast in words; empty where a collapse is less likely than not."""
    if diagnosis.steps_to_collapse is None:
        return ""
    low, middle, high = diagnosis.steps_to_collapse
    return f" in about {middle} steps ({low} to {high})"


def _healthy(diagnosis: Diagnosis) -> str:
    skipped = sum(check.status == "skipped" for check in diagnosis.checks)
    if skipped == len(diagnosis.checks):
        return "Too early to say: no check has the data it needs yet."
    if diagnosis.first_warning is not None:
        dips = "; ".join(f"steps {episode.onset} to {episode.until}" for episode in diagnosis.episodes[-3:])
        healed = f" A dip has healed: {dips}." if dips else ""
        return f"Nothing points to a collapse any more; there was a warning at step {diagnosis.first_warning}.{healed}"
    moved = [check.name.replace("_", " ") for check in diagnosis.checks if check.status == "warning"]
    if moved:
        return f"Nothing points to a collapse yet, but {' and '.join(moved)} left what was normal in the warm-up."
    if skipped:
        made = f"{len(diagnosis.checks) - skipped} of {len(diagnosis.checks)}"
        return f"Nothing points to a collapse so far, but only {made} checks could be made."
    return "Nothing points to a collapse."


def headline(diagnosis: Diagnosis) -> str:
    """The stage, the verdict, and when a live user would have been warned: the last line on a terminal."""
    warned = "" if diagnosis.first_warning is None else f" First warning: step {diagnosis.first_warning}."
    basis = _BASIS[diagnosis.confidence] if diagnosis.step is not None else ""
    return f"{diagnosis.stage.name}. {verdict(diagnosis)}{warned}{basis}"


_BASIS = {"high": "", "medium": " Confidence: medium, no response was re-scored.", "low": " Confidence: low."}


def facts(follower: Follower) -> dict[str, str]:
    """What one asks of a run after the verdict, in words: the head of a report."""
    info, diagnosis, observations = follower.run.info, follower.diagnosis, follower.observations
    first = [("first warning", diagnosis.first_warning), *((f"{s.label} known", diagnosis.known.get(s)) for s in Stage)]
    reward, chance = final_reward(observations), diagnosis.collapse_probability
    told = {
        "steps": f"{len(observations):,}{planned(info)}",
        "last step": "" if diagnosis.step is None else f"{diagnosis.step:,}",
        **{name: "" if step is None else f"step {step:,}" for name, step in first},
        "kind of collapse": diagnosis.family.label if diagnosis.family else "",
        "forecast": ""
        if chance is None or diagnosis.stage is Stage.COLLAPSE
        else f"{chance:.0%} to collapse within {diagnosis.horizon} steps",
        "final reward, mean of 10": "" if reward is None else f"{reward:.3g}",
        "confidence": diagnosis.confidence if diagnosis.step is not None else "",
        "trainer": info.trainer or "unknown",
        "started": moment(info.started),
        "ended": moment(info.ended) or state_of(info),
        "attempts": str(info.attempt + 1) if info.attempt else "",
        "resumed from step": "" if info.resumed_from is None else str(info.resumed_from),
    }
    return {name: said for name, said in told.items() if said}


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


def write_json(follower: Follower, out: TextIO, name: str | None = None) -> None:
    """What `as_json` says, and what else a report tells: configuration, events, the signals in a few numbers.

    Args:
        follower: of the run, up to date.
        out: where the object goes.
        name: what to call the run, if not by its directory.
    """
    info, observations = follower.run.info, follower.observations
    told = {
        **as_json(follower),
        "run": name or str(follower.run.path),
        "verdict": verdict(follower.diagnosis),
        "started": info.started,
        "planned_steps": info.planned_steps,
        "attempt": info.attempt,
        "config": finite_json(info.config),
        "signals": {name: summary(series) for name, series in all_measured(observations).items()},
        "lacking": {signal.name: list(signal.requires) for signal in lacking(observations)},
        "events": events_of(follower.run),
    }
    print(json.dumps(told, indent=2), file=out)


def write_text(follower: Follower, out: TextIO, name: str | None = None) -> None:
    """The whole diagnosis for a person at a terminal; ends with one plain line.

    Args:
        follower: of the run, up to date.
        out: where the lines go.
        name: what to call the run, if not by its directory.
    """
    run, diagnosis = follower.run, follower.diagnosis
    steps = f"{len(follower.observations)}{planned(run.info)} steps"
    print(f"{name or run.path}: {steps}, {run.info.trainer or 'unknown trainer'}, {state_of(run.info)}", file=out)
    for line in _timeline(diagnosis):
        print(line, file=out)
    for line in _outlook(diagnosis):
        print(line, file=out)
    if diagnosis.evidence:
        print("\nEvidence", file=out)
        _table([_evidence_row(item.signal, item) for item in diagnosis.evidence], _EVIDENCE_HEAD, out)
    print("\nChecks", file=out)
    for check in diagnosis.checks:
        print(f"  [{_MARKS[check.status]:>4}] {check.name}: {check.reason}", file=out)
    if diagnosis.advice:
        print("\nWhat to do", file=out)
        for number, line in enumerate(diagnosis.advice, 1):
            print(f"  {number}. {line}", file=out)
    events = events_of(run)
    if events:
        print("\nEvents", file=out)
        for event in events:
            print(f"  step {event['step']:>5}  {event['kind']}: {event['detail'].partition(chr(10))[0]}", file=out)
    if run.problems:
        print("\nFiles that could not be used", file=out)
        for line in run.problems:
            print(f"  {line}", file=out)
    print(f"\n{headline(diagnosis)}", file=out)


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


def _outlook(diagnosis: Diagnosis) -> list[str]:
    """What has healed, and the forecast."""
    lines = [
        f"  dip        from step {episode.onset:>5}, known at step {episode.known:>5}, over at step {episode.until:>5}"
        for episode in diagnosis.episodes
    ]
    if diagnosis.collapse_probability is not None and diagnosis.stage is not Stage.COLLAPSE:
        chance = f"{diagnosis.collapse_probability:.0%} within {diagnosis.horizon} steps"
        lines.append(f"  forecast   sustained collapse: {chance}{_when(diagnosis)}")
    return lines


def _table(rows: list[tuple[str, ...]], head: tuple[str, ...], out: TextIO) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=out)
