"""Where values lie on an axis, which round values are written beside it, and how a number is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lldwatch.series import Floats, Series

FAR = 8.0
"""Values so many ranges of the inner 98 % away from it are marked at the edge: one spike must not flatten the rest."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels: `low` lies at `start`, `high` at `end`; what lies outside is put at the nearer end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: Floats | float) -> Floats:
        """Pixels of these values."""
        clipped, low, high = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high), self.low, self.high
        if self.log:
            clipped, low, high = np.log10(clipped), math.log10(low), math.log10(high)
        return np.asarray(self.start + (clipped - low) / (high - low) * (self.end - self.start))

    def of(self, value: float) -> float:
        """The pixel of one value."""
        return float(self(value))


def number(value: float | None) -> str:
    """Three or four digits, a step in full; with a real minus sign, and a dash for what is not known."""
    if value is None:
        return "\N{EN DASH}"
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "+inf"}.get(str(float(value)), "\N{MINUS SIGN}inf")
    text = f"{int(value):,}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")


def extent(lines: Sequence[Series], *, log: bool) -> tuple[float, float] | None:
    """The ends of an axis that holds these lines, with some room; None if no value has a place on it."""
    values = np.sort(np.concatenate([np.zeros(0), *(line.values for line in lines)]))
    values = values[np.isfinite(values) & (values > 0)] if log else values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values[0]), float(values[-1])
    if log:
        return max(low / 1.5, 1e-300), max(high * 1.5, 2e-300)
    if len(values) >= 20:
        beyond = max(len(values) // 100, 1)
        inner_low, inner_high = float(values[beyond]), float(values[-1 - beyond])
        room = FAR * (inner_high - inner_low)
        if room > 0.0:
            near = values[(values >= inner_low - room) & (values <= inner_high + room)]
            low, high = float(near[0]), float(near[-1])
    margin, size = 0.07 * (high - low), max(abs(low), abs(high))
    if margin <= 1e-7 * size:
        margin = 0.1 * size or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float, *, log: bool = False, about: int = 4) -> list[float]:
    """Round values between two ends, `about` so many.

    Args:
        low: the lower end; > 0 on a logarithmic axis.
        high: the upper end, above it.
        log: decades, and 2 and 5 of them where there are few.
        about: at most one more than this on a linear axis.
    """
    if log and high > 5 * low:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        digits = (1, 2, 5) if high < 60 * low else (1,)
        powers = range(first, last + 1, math.ceil((last - first) / (2 * about)))
        marks = [digit * 10.0**power for power in powers for digit in digits]
        return [mark for mark in marks if low <= mark <= high]
    size = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next((factor * size for factor in (1, 2, 5) if (high - low) / (factor * size) <= about), 10 * size)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
