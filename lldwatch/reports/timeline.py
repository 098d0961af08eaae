"""The course of a run as lanes on a common step axis: HTML boxes placed in per cent, so that they suit any width."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lldwatch.diagnosis import Diagnosis, Verdict
from lldwatch.postmortem import UNTOLD, llds_spans
from lldwatch.reports.axes import number, ticks
from lldwatch.reports.page import text
from lldwatch.schema import Observation
from lldwatch.series import bands, stages_of

FINEST = 250
"""So many boxes at most are told apart in a lane: what is nearer together is drawn as one."""

_SIGNS = {"resume": "↻", "error": "✖", "dropped": "▽", "bad_input": "⚠", "llds": "◆"}


class _Axis:
    """From steps to per cent of the width."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __call__(self, step: float) -> float:
        share = (step - self.first + 0.5) / (self.last - self.first + 1)
        return 100 * min(max(share, 0.0), 1.0)


def timeline(
    observations: Sequence[Observation],
    verdicts: Sequence[Verdict],
    diagnosis: Diagnosis,
    events: Sequence[Mapping[str, Any]],
) -> str:
    """The lanes: stage as seen live, what each stage's onset was and when it was known, LLDS, events.

    Args:
        observations: of the run, at least one.
        verdicts: one for each of them.
        diagnosis: as of the last step.
        events: see `lldwatch.postmortem.events_of`.
    """
    axis = _Axis(observations[0].step, observations[-1].step)
    spans = [(band.begin, band.end, band.stage.label, band.stage.label) for band in bands(stages_of(verdicts))]
    acts = [(first - 0.5, last + 0.5, "acts", "on") for first, last in llds_spans(observations)]
    told = [event for event in events if event["kind"] not in UNTOLD]
    lanes = [
        _lane("Stage, as a live user saw it", _boxes(axis, spans) or _mark(50, "✓ healthy at every step")),
        _lane("Each stage's estimated onset ○, and when it was known ●", _onsets(axis, diagnosis)),
        _lane("First warning ⚑", _warning(axis, diagnosis.first_warning)),
        _lane("LLDS, the likelihood-preserving term", _boxes(axis, acts)),
        _lane("Events: " + ", ".join(f"{_sign(kind)} {kind}" for kind in _kinds(told)), _events(axis, told)),
        _lane("Step", _steps(axis), "axis"),
    ]
    return f'<div class="lanes">{"".join(lanes)}</div>'


def _lane(name: str, content: str, kind: str = "") -> str:
    if not content:
        return ""
    return f'<div class="lane"><span>{text(name)}</span><div class="track {kind}">{content}</div></div>'


def _boxes(axis: _Axis, spans: Iterable[tuple[float, float, str, str]]) -> str:
    """Boxes; a later one that would begin and end in the same place is left out."""
    drawn: dict[tuple[int, str], str] = {}
    for begin, end, kind, word in spans:
        left, width = axis(begin), axis(end) - axis(begin)
        place = (round(left * FINEST / 100), kind)
        if width >= 100 / FINEST or place not in drawn:
            style = f"left:{left:.2f}%;width:{width:.2f}%"
            drawn[place] = f'<i class="{kind}" style="{style}" title="{word}">{word if width > 2 else ""}</i>'
    return "".join(drawn.values())


def _mark(place: float, words: str, title: str = "") -> str:
    """A sign or a word at a place; near an edge it stays inside."""
    edge = "early" if place < 3 else "late" if place > 97 else ""
    return f'<b class="{edge}" style="left:{place:.2f}%" title="{html.escape(title)}">{text(words)}</b>'


def _onsets(axis: _Axis, diagnosis: Diagnosis) -> str:
    parts = ""
    for stage, onset in sorted(diagnosis.onsets.items()):
        known = diagnosis.known[stage]
        left, right = axis(onset), axis(known)
        parts += f'<i class="wait" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
        parts += _mark(left, "○", f"{stage.label} began at about step {onset}") if onset != known else ""
        parts += _mark(right, "●", f"{stage.label} was known at step {known}")
    return parts


def _warning(axis: _Axis, step: int | None) -> str:
    return "" if step is None else _mark(axis(step), f"⚑ {number(step)}", f"first warning at step {step}")


def _kinds(events: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({event["kind"] for event in events})[:8]


def _sign(kind: str) -> str:
    return _SIGNS.get(kind, "•")


def _events(axis: _Axis, events: Sequence[Mapping[str, Any]]) -> str:
    """One sign a place; the list of events tells them all."""
    drawn: dict[tuple[int, str], str] = {}
    for event in events:
        place, sign = axis(event["step"]), _sign(event["kind"])
        title = f"step {event['step']}: {text(event['kind'], 40)}"
        drawn.setdefault((round(place * FINEST / 100), sign), _mark(place, sign, html.unescape(title)))
    return "".join(drawn.values())


def _steps(axis: _Axis) -> str:
    marks = ticks(axis.first, axis.last, about=5) if axis.last > axis.first else [float(axis.first)]
    return "".join(_mark(axis(mark), number(mark)) for mark in marks if mark == int(mark))
