"""What every kind of report tells of a run, as plain records: how they are laid out is the business of each.

Rejected: one record of a whole report (each kind leaves other parts out, and would be made to compute them all).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lldwatch.diagnosis import Check, Diagnosis, Status
from lldwatch.run import Run
from lldwatch.schema import Observation, RunInfo
from lldwatch.series import Series, measured
from lldwatch.signals import SIGNALS, Signal

UNTOLD = ("start", "probe", "finish")
"""Kinds of events that are no milestones: they say how a run is watched, not what befell it."""

DEEP = 20
"""Settings are told to so many levels."""

_UNPRINTABLE = re.compile("[\x00-\x08\n-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

STATUS_WORDS: dict[Status, str] = {
    "critical": "✖ critical",
    "warning": "▲ warning",
    "ok": "✓ passed",
    "skipped": "○ skipped",
}
"""The worst first; a sign beside the colour."""

ABOUT_LLD = (
    "Training with GRPO should make correct responses more likely. Lazy likelihood displacement (LLD, "
    "arXiv:2512.04220) is the opposite: updates make responses less likely that were right, above all those of earlier "
    "batches, which they are not shown. Left alone it feeds itself: likelihood falls, the policy loses its certainty, "
    "the gradient may explode, and last of all the reward is lost for good. The loss of likelihood shows first: "
    "lldwatch looks for it."
)
ABOUT_NATS = (
    "Log-likelihoods are in nats per token: the natural logarithm of the probability of a token, on average. "
    "\N{MINUS SIGN}0.1 nats/token means that a typical token is written with a probability of 90 %, "
    "\N{MINUS SIGN}1 with 37 %; a change of \N{MINUS SIGN}0.05 makes each token some 5 % less likely."
)


class Milestone(NamedTuple):
    """Something that happened at a step; `what` is a stage's label or the kind of an event."""

    step: int
    what: str
    words: str


def run_name(run: Run) -> str:
    """The last part of its path or URL."""
    path = run.path.resolve() if isinstance(run.path, Path) else run.path
    return str(path).rstrip("/").rpartition("/")[2] or str(path)


def moment(iso: str | None) -> str:
    """`2026-01-31 12:00 UTC` of a time in ISO 8601; what cannot be read stays as it is."""
    try:
        return f"{datetime.fromisoformat(iso or '').astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, TypeError, OverflowError):
        return str(iso or "")


def planned(info: RunInfo) -> str:
    """` of 200`; empty if it is not known how long the run should be."""
    return f" of {info.planned_steps}" if info.planned_steps else ""


def state_of(info: RunInfo) -> str:
    """Whether the run has ended, in words."""
    return f"ended {info.ended}" if info.ended is not None else "still running, or killed"


def final_reward(observations: Sequence[Observation]) -> float | None:
    """Mean of the last ten rewards that are numbers; None if there is none."""
    rewards: list[float] = []
    for observation in reversed(observations):
        if observation.reward is not None and math.isfinite(observation.reward):
            rewards.append(observation.reward)
            if len(rewards) == 10:
                break
    return sum(rewards) / len(rewards) if rewards else None


def events_of(run: Run) -> list[dict[str, Any]]:
    """What was done and what happened, but for the start: `step`, `time`, `kind`, `detail` each."""
    events = [event for event in run.events().to_pylist() if event["kind"] != "start"]
    return [event | {"kind": event["kind"] or "", "detail": event["detail"] or ""} for event in events]


def lacking(observations: Sequence[Observation]) -> list[Signal]:
    """Signals that no step has the columns for.

    The LLDS coefficient is not among them: a run without it did not use LLDS, and lacks nothing.
    """
    recorded: set[str] = set()
    columns = {column for signal in SIGNALS.values() for column in signal.requires}
    for observation in observations:
        found = {column for column in columns - recorded if getattr(observation, column) is not None}
        recorded |= found
    signals = [signal for signal in SIGNALS.values() if not recorded.issuperset(signal.requires)]
    return [signal for signal in signals if signal.name != "llds_coefficient"]


def llds_spans(observations: Sequence[Observation]) -> list[tuple[int, int]]:
    """First and last step of each stretch in which LLDS acted."""
    steps = np.array([seen.step for seen in observations], np.int64)
    return spans_of(steps, measured(observations, SIGNALS["llds_coefficient"]))


def spans_of(steps: npt.NDArray[np.int64], coefficient: Series) -> list[tuple[int, int]]:
    """The same, from all steps of the run and the coefficient of LLDS where it was recorded."""
    acting = coefficient.steps[coefficient.values != 0]
    breaks = np.flatnonzero(np.diff(np.searchsorted(steps, acting)) > 1) + 1
    return [(int(part[0]), int(part[-1])) for part in np.split(acting, breaks) if len(part)]


def milestones(
    diagnosis: Diagnosis,
    observations: Sequence[Observation],
    events: Sequence[Mapping[str, Any]],
    acting: Sequence[tuple[int, int]] | None = None,
) -> list[Milestone]:
    """The course of the run: stages, warning, dips, LLDS, and events that befell it, in the order of their steps.

    Args:
        diagnosis: as of the last step.
        observations: of the run.
        events: see `events_of`.
        acting: see `llds_spans`, if they are known already.
    """
    found = [*_of_stages(diagnosis)]
    for first, last in llds_spans(observations) if acting is None else acting:
        found.append(Milestone(first, "LLDS on", "the likelihood-preserving term acts from here on"))
        if observations[-1].step != last:
            found.append(Milestone(last + 1, "LLDS off", "it does not act any more"))
    for event in events:
        if event["kind"] not in UNTOLD:
            found.append(Milestone(event["step"], event["kind"], event["detail"].partition("\n")[0]))
    return sorted(found, key=lambda milestone: milestone.step)


def _of_stages(diagnosis: Diagnosis) -> Iterator[Milestone]:
    if diagnosis.first_warning is not None:
        yield Milestone(diagnosis.first_warning, "first warning", "a live user was told that a collapse is coming")
    for stage, onset in sorted(diagnosis.onsets.items()):
        yield Milestone(onset, stage.label, "began, as estimated afterwards")
        yield Milestone(diagnosis.known[stage], stage.label, "was known: a live user saw it from here on")
    for episode in diagnosis.episodes:
        family = f", {episode.family.label}" if episode.family else ""
        worst = f"{episode.stage.label}{family}"
        yield Milestone(episode.onset, "dip", f"began, as estimated afterwards; it came to {worst}")
        yield Milestone(episode.known, "dip", f"was known to be {episode.stage.label}")
        yield Milestone(episode.until, "dip", "was over: it has healed")


def worst_first(checks: Sequence[Check]) -> list[Check]:
    """The critical ones, the warnings, the passed, the skipped."""
    order = list(STATUS_WORDS)
    return sorted(checks, key=lambda check: order.index(check.status))


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as one level: `{"optimizer": {"lr": 1}}` -> `{"optimizer.lr": 1}`.

    A name that holds a dot itself stands in quotes, so that no two keys fall together. Lists stay whole, and so does
    what is nested deeper than `DEEP` levels.
    """
    found: dict[str, Any] = {}
    for name, setting in settings.items():
        key = above + (json.dumps(name) if "." in name or not name else name)
        if isinstance(setting, dict) and setting and above.count(".") < DEEP:
            found |= flat(setting, f"{key}.")
        else:
            found[key] = setting
    return found


def in_words(setting: Any) -> str:
    """A setting as a person writes it: words without quotes, all else as JSON."""
    return setting if isinstance(setting, str) else json.dumps(finite_json(setting), ensure_ascii=False)


def finite_json(value: Any, deep: int = 0) -> Any:
    """The same in JSON's types: what is not finite becomes its name, for JSON knows no NaN.

    What is nested deeper than `DEEP` levels is left out, and that is said.
    """
    if deep > DEEP and isinstance(value, dict | list):
        return "(nested too deeply to show)"
    if isinstance(value, dict):
        return {key: finite_json(item, deep + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [finite_json(item, deep + 1) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str, *, lines: bool = False) -> str:
    """The same without what a terminal or a file cannot hold, or what makes a reader see another text.

    Control characters, halves of a surrogate pair and changes of the direction of writing become a replacement mark.

    Args:
        text: of anybody's.
        lines: line ends stay.
    """
    whole = text.encode("utf-8", "replace").decode("utf-8")
    mark = "\N{REPLACEMENT CHARACTER}"
    return _UNPRINTABLE.sub(lambda found: found[0] if lines and found[0] == "\n" else mark, whole)
