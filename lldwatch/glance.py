"""What a list says of a run, in one small record, and how it is kept up to date while the run grows.

A list of 1,000 runs must not hold their steps: of each only the detector, the last steps and the line of one signal are
kept. As `python -m lldwatch.glance` it answers in a process of its own, a line of JSON for each path that it is given:
so a server in the process of a training takes no time from it. That process is started as a command, never by
`multiprocessing`, which would import, and thereby run, a training script that guards nothing.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sys
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from lldwatch.detector import CollapseDetector
from lldwatch.errors import LldwatchError
from lldwatch.run import Run
from lldwatch.schema import Event, Observation
from lldwatch.series import thin

log = logging.getLogger("lldwatch")

HEADLINES = ("cross_update_change", "reward")
"""The first of them that was recorded is the line of the run."""
POINTS = 60
"""Of that line, at most."""
MEAN_OF = 5
"""A point is the mean of so many steps, as the detector takes them together."""
KEPT = 256
"""Runs that may be growing, at most: those not asked for longest are read from the beginning the next time."""

Llds = Literal["off", "on", "auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """A run as of its last step; what is not known is None.

    Attributes:
        run: its path.
        stage: label of the stage; None where nothing can be said.
        family: which kind of collapse.
        onset: step at which the first thing that is wrong now is estimated to have begun.
        known: step at which a live user could know of the stage.
        first_warning: first step at which a live user was warned.
        collapse_probability: of a sustained collapse within the forecast's horizon.
        step: number of the last step.
        planned_steps: as `run.json` has it.
        last_time: when the last step was closed, Unix time in s.
        pace: median seconds between the last steps.
        reward: of the last step.
        trainer, started, ended: as `run.json` has them.
        ending: how the training ended, in words; None while it has not.
        llds: whether LLDS was switched on by hand, by the detector, or not at all.
        llds_coefficient: of the last step.
        dry_run: LLDS would have been applied, and was not.
        would_have: how often something would have been done about it.
        signal: key in SIGNALS of the line.
        points: step and mean of the last steps, thinned so that no NaN is lost; a value that is not finite stays.
        problems: files that could not be read.
        error: why the run cannot be read at all.
    """

    run: str
    stage: str | None = None
    family: str | None = None
    onset: int | None = None
    known: int | None = None
    first_warning: int | None = None
    collapse_probability: float | None = None
    step: int | None = None
    planned_steps: int | None = None
    last_time: float | None = None
    pace: float | None = None
    reward: float | None = None
    trainer: str = ""
    started: str | None = None
    ended: str | None = None
    ending: str | None = None
    llds: Llds = "off"
    llds_coefficient: float | None = None
    dry_run: bool = False
    would_have: int = 0
    signal: str | None = None
    points: tuple[tuple[int, float], ...] = ()
    problems: tuple[str, ...] = ()
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types, but for a NaN among the points."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Glance:
        """What `as_dict` made.

        Raises:
            TypeError: it is not exactly that.
            KeyError: as well.
        """
        points = tuple((int(step), float(value)) for step, value in kept["points"])
        return cls(**{**kept, "points": points, "problems": tuple(kept["problems"])})


class Reader:
    """Answers for any number of runs; what is new in a run that grows is read, and no more."""

    def __init__(self) -> None:
        self._growing: OrderedDict[str, _Growing] = OrderedDict()

    def glance(self, path: str) -> Glance:
        """One run as it stands now; never raises what a run can cause."""
        growing = self._growing.pop(path, None)
        try:
            if growing is None or not growing.same():
                growing = _Growing(path)
            found = growing.look()
        except Exception as error:  # whatever is wrong with one run, the others must still be shown
            if not isinstance(error, (LldwatchError, OSError)):
                log.warning("%s cannot be read", path, exc_info=True)
            return Glance(run=path, error=str(error).splitlines()[0] if str(error) else type(error).__name__)
        if found.ended is None:
            self._growing[path] = growing
            while len(self._growing) > KEPT:
                self._growing.popitem(last=False)
        return found

    def close(self) -> None:
        """Let all runs go."""
        self._growing.clear()


class _Growing:
    """One run that is being followed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._events: tuple[object, Sequence[Mapping[str, Any]]] = (None, ())
        self._begin()
        self._inode = _inode(path)

    def _begin(self) -> None:
        self._run, self._detector = Run(self._path), CollapseDetector()
        self._started = self._run.info.started
        self._last: Observation | None = None
        self._times: deque[float] = deque(maxlen=20)
        self._lines: dict[str, list[tuple[int, float]]] = {name: [] for name in HEADLINES}

    def same(self) -> bool:
        """No other run has taken its place."""
        return _inode(self._path) == self._inode

    def look(self) -> Glance:
        """Read what is new."""
        new = self._run.poll()
        steps = [seen.step for seen in ([self._last] if self._last else []) + new]
        went_back = any(after <= before for before, after in itertools.pairwise(steps))
        if went_back or self._run.info.started != self._started:
            self._begin()
            new = self._run.poll()
        for seen in last_attempts(new):
            self._take(seen)
        return self._glance()

    def _take(self, seen: Observation) -> None:
        self._detector.fold(seen)
        self._last = seen
        if seen.time is not None:
            self._times.append(seen.time)
        for name, line in self._lines.items():
            value = getattr(seen, name)
            if value is not None:
                line.append((seen.step, value))

    def _glance(self) -> Glance:
        run, last = self._run, self._last
        info, found = run.info, self._detector
        name = next((name for name in HEADLINES if self._lines[name]), None)
        steps = itertools.pairwise(self._times)
        diagnosed: dict[str, Any] = {}
        if last is not None:
            told = found.diagnosis
            diagnosed = {
                "stage": told.stage.label,
                "family": told.family.value if told.family else None,
                "onset": min(told.onsets.values(), default=None),
                "known": told.known.get(told.stage),
                "first_warning": told.first_warning,
                "collapse_probability": told.collapse_probability,
                "step": last.step,
                "last_time": last.time,
                "reward": last.reward,
                "llds_coefficient": last.llds_coefficient,
            }
        events = self._events_now()
        endings = [event["detail"] for event in events if event["kind"] == "finish"]
        return Glance(
            run=self._path,
            planned_steps=info.planned_steps,
            pace=median(after - before for before, after in steps) if len(self._times) > 1 else None,
            trainer=info.trainer,
            started=info.started,
            ended=info.ended,
            ending=endings[-1] if endings and run.ended else None,
            signal=name,
            points=_thinned(self._lines[name]) if name else (),
            problems=tuple(run.problems),
            **_llds(events, last),
            **diagnosed,
        )

    def _events_now(self) -> Sequence[Mapping[str, Any]]:
        """Of LLDS and of the end; the files are read again only when they have changed."""
        try:
            with os.scandir(Path(self._path) / Event.TABLE) as entries:
                state = sorted((entry.name, entry.stat().st_size) for entry in entries)
        except OSError:
            state = []
        if self._events[0] != state:
            events = [event for event in self._run.events().to_pylist() if event["kind"] in ("llds", "finish")]
            self._events = (state, events)
        return self._events[1]


def last_attempts(written: Sequence[Observation]) -> list[Observation]:
    """Steps in the order of writing, without what a resumed training made again."""
    rows: list[Observation] = []
    for seen in written:
        while rows and rows[-1].step >= seen.step:
            rows.pop()
        rows.append(seen)
    return rows


def _inode(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _thinned(line: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Means of the last steps: a picture of the size of a word is all noise otherwise. What is not finite stays."""
    values = np.array([value for _, value in line], np.float64)
    finite = np.isfinite(values)
    sums = np.cumsum(np.where(finite, values, 0.0))
    counts = np.cumsum(finite)
    sums[MEAN_OF:], counts[MEAN_OF:] = sums[MEAN_OF:] - sums[:-MEAN_OF], counts[MEAN_OF:] - counts[:-MEAN_OF]
    means = np.where(finite, sums / np.maximum(counts, 1), values)
    return tuple((line[index][0], float(means[index])) for index in thin(means, POINTS).tolist())


def _llds(events: Sequence[Mapping[str, Any]], last: Observation | None) -> dict[str, Any]:
    """How LLDS is used: a run says it by its events, and by a coefficient in each step from the first on."""
    said = [event["detail"] or "" for event in events if event["kind"] == "llds"]
    mode: Llds = "off"
    if last is not None and last.llds_coefficient is not None:
        mode = "auto" if last.llds_coefficient == 0.0 or said else "on"
    for words in said:
        if words.startswith("ordered: LLDS "):
            order = words.split()[2].rstrip(",:")
            mode = "on" if order == "on" else "auto" if order == "auto" else "off"
        else:
            mode = "on" if "on from the first step" in words else "auto" if "engaged" in words else mode
    would = [words for words in said if words.startswith("would have: ")]
    dry_run = bool(said) and (said[-1].startswith("would have: ") or "dry run" in said[-1])
    return {"llds": mode, "would_have": len(would), "dry_run": dry_run}


def main() -> None:
    """Answer until the pipe is closed, which it is when the asking process ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the one who asks
    if hasattr(os, "nice"):
        os.nice(5)
    reader = Reader()
    try:
        for line in sys.stdin:
            print(json.dumps(reader.glance(json.loads(line)).as_dict()), flush=True)
    except BrokenPipeError:  # the one who asks was killed
        os._exit(1)  # else Python complains that it cannot flush what nobody reads


if __name__ == "__main__":
    main()
