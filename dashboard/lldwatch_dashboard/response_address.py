"""What the responses page shows, as the query of its address: a link restores the view.

`?kind=post_update&steps=10_40&change=-0.5_0.1&region=correct_12_20_-0.5_-0.1&response=17592186044416_20&colour=entropy`

What cannot be read is left out: an address is typed by hand, and by strangers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode

from lldwatch_dashboard.changes import KINDS, PANELS

ANY, BROKEN = "any", "broken"
COLOURS = ("change", "entropy", "log-prob")
_LARGEST_STEP = 2**53

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Region:
    """Responses that are listed.

    Attributes:
        panel: one of PANELS, `any`, or `broken`: a change that is NaN or infinite.
        low: first step.
        high: last step.
        bottom: lowest change, nats per token.
        top: highest one.
    """

    panel: str
    low: int
    high: int
    bottom: float = -math.inf
    top: float = math.inf


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at; None: everything, or nothing.

    Attributes:
        kind: of change; None: the first one that was recorded.
        steps: first and last step that are drawn.
        change: lowest and highest change that are drawn, nats per token.
        region: what is listed.
        response: uid and step of the response that is shown in full.
        colour: what its tokens are coloured by.
    """

    kind: str | None = None
    steps: tuple[int, int] | None = None
    change: tuple[float, float] | None = None
    region: Region | None = None
    response: tuple[int, int] | None = None
    colour: str = COLOURS[0]

    def of_kind(self, kind: str) -> View:
        """Another kind of change: its own range of changes, no region, the same steps."""
        return View(kind=kind, steps=self.steps, colour=self.colour)

    def unzoomed(self) -> View:
        """The whole run."""
        return replace(self, steps=None, change=None)


def view_of(query: str | None) -> View:
    """Read the query of an address."""
    given = dict(parse_qsl((query or "").lstrip("?")[:2000]))
    kind, colour = given.get("kind"), given.get("colour", "")
    return View(
        kind=kind if kind in KINDS else None,
        steps=_read(_steps, given.get("steps")),
        change=_read(_change, given.get("change")),
        region=_read(_region, given.get("region")),
        response=_read(_response, given.get("response")),
        colour=colour if colour in COLOURS else COLOURS[0],
    )


def query_of(view: View) -> str:
    """Write the query of an address; empty if all is as it is at first."""
    parts: dict[str, str] = {}
    if view.kind:
        parts["kind"] = view.kind
    if view.steps:
        parts["steps"] = "_".join(map(str, view.steps))
    if view.change:
        parts["change"] = "_".join(map(_number, view.change))
    if view.region:
        seen = view.region
        parts["region"] = f"{seen.panel}_{seen.low}_{seen.high}_{_number(seen.bottom)}_{_number(seen.top)}"
    if view.response:
        parts["response"] = "_".join(map(str, view.response))
    if view.colour != COLOURS[0]:
        parts["colour"] = view.colour
    return "?" + urlencode(parts) if parts else ""


def _read(read: Callable[[list[str]], T], text: str | None) -> T | None:
    if text is None:
        return None
    try:
        return read(text.split("_"))
    except (ValueError, TypeError, OverflowError):
        return None


def _steps(parts: list[str]) -> tuple[int, int]:
    low, high = map(_step, parts)
    if low > high:
        raise ValueError
    return low, high


def _step(text: str) -> int:
    step = int(text)
    if abs(step) > _LARGEST_STEP:
        raise ValueError
    return step


def _change(parts: list[str]) -> tuple[float, float]:
    low, high = map(float, parts)
    if not -math.inf < low < high < math.inf:
        raise ValueError
    return low, high


def _region(parts: list[str]) -> Region:
    panel, low, high, bottom, top = parts
    if panel not in (*PANELS, ANY, BROKEN):
        raise ValueError
    first, last = _steps([low, high])
    ends = float(bottom), float(top)
    if not ends[0] <= ends[1]:
        raise ValueError
    return Region(panel, first, last, *ends)


def _response(parts: list[str]) -> tuple[int, int]:
    uid, step = parts
    if not -(2**63) <= int(uid) < 2**63:
        raise ValueError
    return int(uid), _step(step)


def _number(value: float) -> str:
    return f"{value:.6g}"
