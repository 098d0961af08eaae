"""How good a detector is on runs whose fate is known.

A detector is judged by its first alarm in each run (`Judged`), whatever it calls an alarm: two detectors are compared
by judging both on the same runs. An interval is a percentile bootstrap over runs, because the steps of one run
are anything but independent. Where all runs agree it shrinks to a point; the number of runs behind it is given too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lldwatch.errors import InputError

__all__ = ["Forecast", "Judged", "Score", "reliability", "resolved", "score"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """At `step` it was said that with `probability` the run collapses after it, by step `until`.

    Raises:
        InputError: `probability` is not between 0 and 1, or `until` is not after `step`.
    """

    step: int
    probability: float
    until: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise InputError(f"probability={self.probability!r}: expected a number from 0 to 1")
        if self.until <= self.step:
            raise InputError(f"until={self.until}: expected a step after {self.step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What happened to a run, and what was said about it. All steps are numbers of training steps.

    Attributes:
        steps: the last step of the run.
        families: what is right to say about the kind of its collapse; empty if it is healthy or the kind is not known.
        onset: first step at which it is ill; None if it is healthy or the onset is not known.
        collapse: first step from which its reward is lost for good; None if it is not.
        alarm: first step at which the detector spoke.
        said: the family that it named.
        forecasts: what it said about the chance of a collapse.

    Raises:
        InputError: the collapse comes before the onset.
    """

    steps: int
    families: tuple[str, ...] = ()
    onset: int | None = None
    collapse: int | None = None
    alarm: int | None = None
    said: str | None = None
    forecasts: Sequence[Forecast] = field(default=())

    def __post_init__(self) -> None:
        if self.onset is not None and self.collapse is not None and self.collapse < self.onset:
            raise InputError(f"collapse={self.collapse} comes before onset={self.onset}")

    @property
    def ill(self) -> bool:
        """Something is wrong with the run, whether it costs the reward or not."""
        return self.onset is not None or self.collapse is not None or bool(self.families)

    @property
    def false_alarm(self) -> bool:
        """It was alarmed while nothing was wrong: in a healthy run, or before the onset."""
        return self.alarm is not None and (not self.ill or (self.onset is not None and self.alarm < self.onset))

    @property
    def detected(self) -> bool:
        """It is ill, and alarmed no earlier than at its onset."""
        return self.ill and self.alarm is not None and not self.false_alarm

    @property
    def steps_at_risk(self) -> int:
        """Steps on which an alarm would be, or was, a false one. 0 in an ill run whose onset is not known."""
        healthy = self.steps if not self.ill else max((self.onset or 1) - 1, 0)
        return healthy if self.alarm is None else min(healthy, self.alarm)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval, and how many runs it rests on; NaN if on none."""

    value: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good a detector is on a set of runs.

    Attributes:
        runs: how many were judged.
        delay: median steps from the onset to the alarm, of detected runs with a known onset.
        lead: median steps from the alarm to the collapse, of detected runs that collapse; below 0 is too late.
        in_time: share of the collapsing runs that were rightly alarmed before the collapse.
        missed: share of the ill runs without an alarm from the onset on.
        false_alarms: per 1,000 steps on which a first alarm would be false.
        healthy_alarmed: share of the healthy runs that were alarmed.
        family_right: share of the detected runs of known family that were given it.
        brier: mean squared error of the forecasts: 0 is perfect, 0.25 is what always saying 1/2 gets.
    """

    runs: int
    delay: Estimate
    lead: Estimate
    in_time: Estimate
    missed: Estimate
    false_alarms: Estimate
    healthy_alarmed: Estimate
    family_right: Estimate
    brier: Estimate


@dataclass(frozen=True, slots=True)
class Bin:
    """Forecasts from `low` to below `high`: their mean, the share of them that came true, and how many there are."""

    low: float
    high: float
    forecast: float
    observed: float
    count: int


def score(runs: Sequence[Judged], resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Score:
    """Judges a detector on runs.

    Args:
        runs: one record a run, at least one.
        resamples: how often the runs are drawn anew for the intervals.
        level: of the intervals.
        seed: of the drawing.

    Raises:
        InputError: there are no runs.
    """
    if not runs:
        raise InputError("no runs to judge a detector on")
    bootstrap = _Bootstrap(len(runs), resamples, level, seed)
    errors = [_squared_errors(run) for run in runs]

    def share(hits: Sequence[bool], among: Sequence[bool]) -> Estimate:
        eligible = np.array(among, dtype=float)
        return bootstrap.ratio(np.array(hits, dtype=float) * eligible, eligible)

    return Score(
        runs=len(runs),
        delay=bootstrap.median([_delay(run) for run in runs]),
        lead=bootstrap.median([_lead(run) for run in runs]),
        in_time=share([_lead(run) > 0 for run in runs], [run.collapse is not None for run in runs]),
        missed=share([not run.detected for run in runs], [run.ill for run in runs]),
        false_alarms=bootstrap.ratio(
            1000 * np.array([run.false_alarm for run in runs], dtype=float),
            np.array([run.steps_at_risk for run in runs], dtype=float),
        ),
        healthy_alarmed=share([run.alarm is not None for run in runs], [not run.ill for run in runs]),
        family_right=share(
            [run.said in run.families for run in runs], [run.detected and bool(run.families) for run in runs]
        ),
        brier=bootstrap.ratio(
            np.array([sum(each) for each in errors]), np.array([float(len(each)) for each in errors])
        ),
    )


def resolved(run: Judged) -> list[tuple[float, bool]]:
    """Forecasts that can be judged: (probability, it came true).

    Those made at or after the collapse foretell nothing. Those that reach beyond the end of the run are left out
    unless the collapse came before: what would have happened is not known.
    """
    known = []
    for forecast in run.forecasts:
        if run.collapse is not None and forecast.step >= run.collapse:
            continue
        came_true = run.collapse is not None and run.collapse <= forecast.until
        if came_true or forecast.until <= run.steps:
            known.append((forecast.probability, came_true))
    return known


def reliability(runs: Sequence[Judged], bins: int = 10) -> list[Bin]:
    """Did what was said with 30 % happen in 30 % of the cases? Bins of equal width; empty ones are left out.

    Args:
        runs: with their forecasts.
        bins: into how many the range from 0 to 1 is divided; at least 1.
    """
    pairs = [pair for run in runs for pair in resolved(run)]
    table = []
    for index in range(bins):
        inside = [pair for pair in pairs if min(int(pair[0] * bins), bins - 1) == index]
        if inside:
            forecast, observed = np.mean(np.array(inside, dtype=float), axis=0)
            table.append(Bin(index / bins, (index + 1) / bins, float(forecast), float(observed), len(inside)))
    return table


def _squared_errors(run: Judged) -> list[float]:
    return [(probability - came_true) ** 2 for probability, came_true in resolved(run)]


def _delay(run: Judged) -> float:
    if not run.detected or run.onset is None or run.alarm is None:
        return math.nan
    return run.alarm - run.onset


def _lead(run: Judged) -> float:
    if not run.detected or run.collapse is None or run.alarm is None:
        return math.nan
    return run.collapse - run.alarm


class _Bootstrap:
    """The same drawings of runs for all estimates, so that they can be compared."""

    def __init__(self, runs: int, resamples: int, level: float, seed: int) -> None:
        self._drawn = np.random.default_rng(seed).integers(runs, size=(resamples, runs))
        self._tails = 50 * (1 - level), 50 * (1 + level)

    def _estimate(self, value: float, drawn: Floats, runs: int) -> Estimate:
        drawn = drawn[~np.isnan(drawn)]
        if math.isnan(value) or not drawn.size:
            return Estimate(math.nan, math.nan, math.nan, runs)
        low, high = np.percentile(drawn, self._tails)
        return Estimate(value, float(low), float(high), runs)

    def ratio(self, numerators: Floats, denominators: Floats) -> Estimate:
        """Of the sums over runs, (runs,) each."""
        with np.errstate(invalid="ignore"):
            drawn = numerators[self._drawn].sum(axis=1) / denominators[self._drawn].sum(axis=1)
            value = float(np.sum(numerators) / np.sum(denominators))
        return self._estimate(value, drawn, int(np.count_nonzero(denominators)))

    def median(self, values: Sequence[float]) -> Estimate:
        """Over the runs that have a value, (runs,); NaN where one has none."""
        series = np.array(values, dtype=float)
        drawn = series[self._drawn]
        drawn = drawn[~np.isnan(drawn).all(axis=1)]
        runs = int(np.count_nonzero(~np.isnan(series)))
        return self._estimate(float(np.nanmedian(series)) if runs else math.nan, np.nanmedian(drawn, axis=1), runs)
