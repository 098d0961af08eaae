"""What stands below the panels: steps, optimizer updates or the time of the clock; and how one becomes another.

Everything is kept and cut by steps; only what is sent to the browser is laid on a ruler, at the very end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lldwatch.series import Series
from lldwatch_dashboard.lines import STEP, TIME, UPDATES

Floats = npt.NDArray[np.float64]
Along = Literal["step", "updates", "time"]

ALONGS: tuple[Along, ...] = get_args(Along)
IN_WORDS = {"step": "step", "updates": "updates", "time": "time (UTC)"}


@dataclass(frozen=True, slots=True, eq=False)
class Ruler:
    """Where each step lies.

    Attributes:
        along: what is measured along the axis.
        steps: (points,), rising.
        places: (points,), never falling; milliseconds since 1970 for time, updates made so far for updates.
    """

    along: Along
    steps: Floats
    places: Floats

    def at(self, steps: npt.ArrayLike) -> Floats:
        """Steps, also half ones and those outside of the run -> places."""
        wanted = np.asarray(steps, np.float64)
        return wanted if self.along == "step" else np.interp(wanted, self.steps, self.places)

    def place(self, step: float) -> float:
        """Of one step."""
        return float(self.at(step))

    def back(self, place: float) -> float:
        """The step at a place."""
        return place if self.along == "step" else float(np.interp(place, self.places, self.steps))


PLAIN = Ruler("step", np.zeros(0), np.zeros(0))
"""Steps as they are."""


def ruler_of(signals: Mapping[str, Series], along: Along) -> Ruler:
    """The ruler of a run; that of steps where what was asked for was not recorded.

    Args:
        signals: what was measured, see `Lines.of`.
        along: what is asked for.
    """
    if along == "step":
        return PLAIN
    steps, measured = signals[STEP].steps.astype(np.float64), signals[UPDATES if along == "updates" else TIME]
    known = measured.at(np.flatnonzero(np.isfinite(measured.values)))
    if not len(known):
        return PLAIN
    filled = np.interp(steps, known.steps, known.values)
    places = np.cumsum(filled) if along == "updates" else np.maximum.accumulate(filled) * 1000
    return Ruler(along, *_longer(steps, places))


def _longer(steps: Floats, places: Floats) -> tuple[Floats, Floats]:
    """One step more at either end: bands begin half a step before the first."""
    gap = (places[-1] - places[0]) / max(steps[-1] - steps[0], 1) or 1.0
    return (
        np.concatenate([[steps[0] - 1], steps, [steps[-1] + 1]]),
        np.concatenate([[places[0] - gap], places, [places[-1] + gap]]),
    )


def stretch(relayout: dict[str, Any] | None, ruler: Ruler) -> tuple[float, float] | None:
    """First and last step of the range that plotly says the reader has chosen; None if it says nothing of that sort."""
    said = relayout or {}
    ends = said.get("xaxis.range") or [said.get(f"xaxis.range[{end}]") for end in (0, 1)]
    places = [_number(end, ruler.along) for end in ends]
    if len(places) != 2 or any(place is None or not np.isfinite(place) for place in places):
        return None
    low, high = sorted(ruler.back(place) for place in places if place is not None)
    return round(low, 2), round(high, 2)


def _number(end: object, along: Along) -> float | None:
    if isinstance(end, int | float):
        return float(end)
    if along != "time" or not isinstance(end, str):
        return None
    try:
        return datetime.fromisoformat(end[:26]).replace(tzinfo=UTC).timestamp() * 1000
    except ValueError:
        return None
