"""What the dashboard says in words: for somebody who was woken by it."""

from __future__ import annotations

import math

from lldwatch import report
from lldwatch.diagnosis import Diagnosis, Stage
from lldwatch.glance import Glance
from lldwatch_dashboard.feed import Summary

STATUS_ICON = {"ok": "✓", "warning": "▲", "critical": "✖", "skipped": "○"}

UNKNOWN = "\N{EN DASH}"

_QUIET_FACTOR = 10  # a step this many times longer than usual is no step any more
_QUIET_AT_LEAST_S = 60.0


def stage(summary: Summary) -> tuple[str, str, str]:
    """The stage as icon and word, its name for the colours, and what it means."""
    if summary.error:
        return "? unreadable", "unreadable", summary.error
    if not summary.read:
        return "…", "waiting", "It has not been read yet."
    if summary.behind:
        return "… being judged", "waiting", "All of its steps are drawn, and they are judged one after the other."
    if summary.diagnosis.step is None:
        return "… no step yet", "waiting", "The training has not closed a step yet."
    found = summary.diagnosis.stage
    return f"{found.sign} {found.label}", found.label, found.meaning


def verdict(summary: Summary) -> str:
    """One sentence: what the run looks like, and since when."""
    if summary.error:
        return f"This run cannot be read: {summary.error}"
    if summary.behind:
        return f"Judged up to step {summary.diagnosis.step or 0:,} so far."
    return report.verdict(summary.diagnosis)


def progress(summary: Summary) -> str:
    """`step 12 of 200`."""
    planned = f" of {summary.info.planned_steps}" if summary.info.planned_steps else ""
    return f"step {summary.last.step if summary.last else 0}{planned}"


def liveness(summary: Summary, now: float) -> tuple[str, str]:
    """Whether the training runs: `waiting`, `live`, `stalled`, `finished` or `unknown`; and what that rests on.

    Args:
        summary: of the run.
        now: Unix time.
    """
    if summary.info.ended is not None:
        return "finished", summary.ending or "the training closed the run"
    if summary.last is None:
        return "waiting", "no step has been closed yet"
    if summary.last.time is None:
        return "unknown", "no time of a step is recorded"
    silent = now - summary.last.time
    quiet = max(_QUIET_FACTOR * (summary.pace or 0.0), _QUIET_AT_LEAST_S)
    return "stalled" if silent > quiet else "live", f"last step {age(silent)} ago"


def age(seconds: float) -> str:
    """In the largest unit that says enough."""
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(seconds, 0.0) / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def risk(diagnosis: Diagnosis) -> str:
    """Probability of a collapse within the forecast's horizon; a dash for what is not known, or has come."""
    chance = diagnosis.collapse_probability
    return UNKNOWN if chance is None or diagnosis.stage is Stage.COLLAPSE else f"{chance:.0%}"


def llds(glance: Glance | None) -> tuple[str, str]:
    """Whether LLDS is in use and how strong it is now, shortly; and in a sentence."""
    if glance is None or (glance.llds == "off" and not glance.llds_coefficient):
        return "off", "LLDS was not in use in the last step."
    now = glance.llds_coefficient
    if glance.dry_run:
        times = f"{glance.would_have} would-have" if glance.would_have else "nothing yet"
        return f"dry run: {times}", f"LLDS is only tried out: {glance.would_have} times something would have been done."
    how = "by the detector" if glance.llds == "auto" else "by hand"
    if not now:
        return f"{glance.llds}: 0", f"LLDS is switched on {how}; its coefficient was 0 in the last step."
    return (
        f"{glance.llds}: {number(now)}",
        f"LLDS is switched on {how}; its coefficient in the last step: {number(now)}.",
    )


def llds_rank(glance: Glance | None) -> float | None:
    """The stronger LLDS is now, the larger; then what is armed, then what is only tried out, then what is off."""
    if glance is None:
        return None
    if glance.llds_coefficient and math.isfinite(glance.llds_coefficient):
        return glance.llds_coefficient
    return {"off": -3.0}.get(glance.llds, -2.0 if glance.dry_run else -1.0)


def number(value: float | None) -> str:
    """Three digits, a step in full; with a real minus sign, and a dash for what is not known."""
    if value is None:
        return UNKNOWN
    return str(value) if isinstance(value, int) else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
