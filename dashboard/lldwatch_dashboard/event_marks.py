"""What befell a run, as thin lines through all panels with a few words above them.

Labels that would lie on each other are left out: what matters most comes first, and the hover box tells the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lldwatch.diagnosis import Diagnosis, Stage
from lldwatch.postmortem import UNTOLD, printable, spans_of
from lldwatch.series import Series
from lldwatch_dashboard.lines import STEP
from lldwatch_dashboard.panels import EVENT_LANES, LANE_HEIGHT, STAGE_COLOURS, STAGE_LANES, Palette
from lldwatch_dashboard.ruler import Ruler
from lldwatch_dashboard.series import Span

MOST_LABELS = 20
MOST_LINES = 150
LETTER = 6.2
"""Pixels that a letter of a label takes."""

_TO = re.compile(r"coefficient \S+ -> (\S+)")


@dataclass(frozen=True, slots=True)
class EventMark:
    """Something at a step.

    Attributes:
        step: at which it happened.
        label: a few words.
        detail: all that is known.
        stage: the stage that is estimated to have begun here; None: it is no onset.
        rank: the lowest are labelled first.
    """

    step: int
    label: str
    detail: str
    stage: Stage | None = None
    rank: int = 1


def event_marks(
    diagnosis: Diagnosis, signals: Mapping[str, Series], events: Sequence[Mapping[str, Any]]
) -> list[EventMark]:
    """Onsets, the first warning, LLDS, and every event that befell the run, by step.

    Args:
        diagnosis: as of the last step.
        signals: what was measured, see `Lines.of`.
        events: see `lldwatch.postmortem.events_of`.
    """
    steps = signals[STEP].steps
    if not len(steps):
        return []
    found = [*_judged(diagnosis)]
    found += [_of(event) for event in events if event["kind"] not in UNTOLD]
    if not any(event["kind"] == "llds" for event in events):
        for first, last in spans_of(steps, signals["llds_coefficient"]):
            found.append(EventMark(first, "LLDS on", "the likelihood-preserving term acts from here on"))
            if last != steps[-1]:
                found.append(EventMark(last + 1, "LLDS off", "it does not act any more"))
    first = int(steps[0])
    inside = [mark if mark.step >= first else EventMark(first, mark.label, mark.detail) for mark in found]
    return sorted(_once(inside), key=lambda mark: mark.step)


def _once(marks: Sequence[EventMark]) -> Iterator[EventMark]:
    """The same at one step, as an alert by three ways is, has one mark that tells of each."""
    groups: dict[tuple[int, str], list[EventMark]] = {}
    for mark in marks:
        groups.setdefault((mark.step, mark.label), []).append(mark)
    for same in groups.values():
        yield replace(same[0], detail="; ".join(dict.fromkeys(mark.detail for mark in same)))


def _judged(diagnosis: Diagnosis) -> Iterator[EventMark]:
    for stage, onset in diagnosis.onsets.items():
        words = f"{stage.label} began about here, as estimated afterwards"
        yield EventMark(onset, f"{stage.label} began, {onset}", words, stage, 0)
    if diagnosis.first_warning is not None:
        words = "a live user was told that a collapse is coming"
        yield EventMark(diagnosis.first_warning, "first warning", words, None, 0)


def _of(event: Mapping[str, Any]) -> EventMark:
    kind, detail = printable(event["kind"]), printable(event["detail"].partition("\n")[0])
    if kind != "llds":
        return EventMark(event["step"], kind, f"{kind}: {detail}")
    to = _TO.search(detail)
    if detail.startswith(("engaged", "ordered")):
        return EventMark(event["step"], "LLDS on" if detail.startswith("engaged") else "LLDS ordered", detail)
    if detail.startswith("released"):
        return EventMark(event["step"], "LLDS released", detail)
    off = to is not None and to[1].rstrip(".,;") == "0"
    label = "LLDS off" if off else f"LLDS {to[1]}" if to else "LLDS"
    return EventMark(event["step"], label, detail, rank=1 if off else 2)


def lanes(marks: Sequence[EventMark], ruler: Ruler, ends: Span, width: float) -> list[tuple[EventMark, int]]:
    """The marks that get a label, and in which lane above the panels each of them stands.

    Args:
        marks: of the run.
        ruler: of the x axis.
        ends: first and last step of the axis.
        width: of the axis in pixels.
    """
    left, right = ruler.at(ends).tolist()
    taken: list[list[tuple[float, float]]] = [[] for _ in range(EVENT_LANES)]
    placed: list[tuple[EventMark, int]] = []
    for mark in sorted(marks, key=lambda mark: (mark.rank, mark.step)):
        if not ends[0] <= mark.step <= ends[1] or len(placed) == MOST_LABELS:
            continue
        begin = (ruler.place(mark.step) - left) / max(right - left, 1e-9) * width
        long = LETTER * len(mark.label) + 10
        begin -= long if _late(begin, long, width) else 0
        for lane, spans in enumerate(taken):
            if all(begin + long < low or begin > high for low, high in spans):
                spans.append((begin, begin + long))
                placed.append((mark, lane))
                break
    return placed


def _late(begin: float, long: float, width: float) -> bool:
    return begin + long > width


def lines(
    marks: Sequence[EventMark], placed: Sequence[tuple[EventMark, int]], ruler: Ruler, palette: Palette, height: int
) -> list[dict[str, Any]]:
    """A thin line for each step with a mark, up to its label; dotted where a stage is estimated to have begun.

    Args:
        marks: of the run.
        placed: those that have a label, see `lanes`.
        ruler: of the x axis.
        palette: of the page.
        height: of the plot in pixels.
    """
    by_step = {mark.step: mark for mark in sorted(marks, key=lambda mark: -mark.rank)}  # an onset is drawn last
    tops: dict[int, int] = {}
    for mark, lane in placed:
        tops[mark.step] = max(tops.get(mark.step, 0), lane + 1)
    shapes = []
    for mark in list(by_step.values())[-MOST_LINES:]:
        colour = palette.muted if mark.stage is None else STAGE_COLOURS[mark.stage]
        look = {
            "color": colour,
            "width": 1 if mark.stage is None else 2,
            "dash": "solid" if mark.stage is None else "dot",
        }
        x = ruler.place(mark.step)
        place = {"xref": "x", "x0": x, "x1": x, "yref": "paper", "y0": 0}
        place["y1"] = 1 + LANE_HEIGHT * (STAGE_LANES + tops.get(mark.step, 0)) / height
        shapes.append({"type": "line", "name": mark.label, "line": look, "opacity": 0.6, **place})
    return shapes


def labels(
    placed: Sequence[tuple[EventMark, int]], ruler: Ruler, ends: Span, width: float, palette: Palette
) -> list[dict[str, Any]]:
    """The words above the lines; arguments as those of `lanes` and `lines`."""
    left, right = ruler.at(ends).tolist()
    notes = []
    for mark, lane in placed:
        x = ruler.place(mark.step)
        late = _late((x - left) / max(right - left, 1e-9) * width, LETTER * len(mark.label) + 10, width)
        notes.append(
            {
                "name": "event",
                "text": escaped(mark.label),
                "hovertext": escaped(mark.detail),
                "x": x,
                "xref": "x",
                "y": 1,
                "yref": "paper",
                "yshift": LANE_HEIGHT * (STAGE_LANES + lane),
                "xanchor": "right" if late else "left",
                "xshift": -3 if late else 3,
                "yanchor": "bottom",
                "showarrow": False,
                "borderpad": 0,
                "font": {"size": 11, "color": palette.muted},
            }
        )
    return notes


def escaped(text: str) -> str:
    """Words of anybody's, which plotly would else read as HTML or as a template."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "% {")[:160]
