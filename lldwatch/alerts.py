"""What a person must hear of at once, and when: a worse stage, a predicted collapse, NaN, a stall, LLDS on or off.

Pure and deterministic, like the detector and the intervention: it folds what these say, reads no clock and sends
nothing, so that a run that is resumed, a run that is followed and a run that has ended come to the same alerts.
Who is told, and how, is the business of `alert_channels` and `alert_delivery`.

Each is told once, when it begins; again only when the stage grows worse, or after it was gone for `RECOVERED` steps.
Rejected: one alert a step while it lasts (nobody reads the second); an alert for a single infinite gradient norm
(every mixed-precision scaler skips some: from the third in a row on it is a collapse anyway).
"""

from __future__ import annotations

import math
import os
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Check, Diagnosis, Evidence, Family, Stage, Verdict
from lldwatch.forecast import ALARM
from lldwatch.postmortem import finite_json, printable
from lldwatch.schema import Observation

Kind = Literal["stage", "predicted", "not_finite", "stalled", "llds"]

RECOVERED = 20
"""Steps in a row after which something that was told counts as over: twice what the detector waits. Of ten series of
700 steps to which nothing happens (autocorrelation 0.8) this leaves 20 alerts of stagnation, where 1 step leaves 34."""

STALL_S, STALL_STEPS = 600.0, 10
"""No step for ten minutes, or for ten times the median step if that is longer, is a stall. Evaluations and checkpoints
take some steps' time, and ten minutes is when torch.distributed gives up a collective that hangs: sooner would be a
false alarm at each checkpoint, later would come after the crash."""

FIRST_STALL_S = 3600.0
"""The same while no step's time is known: the first one may compile, or load a model."""

_AT_ONCE = ("loss", "reward", "entropy", "log_prob_correct", "log_prob_incorrect", "cross_update_change")
"""Columns in which one NaN is worth an alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that a person must know now.

    Attributes:
        kind: "stage" (it grew worse), "predicted" (a collapse), "not_finite", "stalled", "llds" (switched on or off).
        run: name of the run.
        step: the step it is about; None: there was none yet.
        stage: as of this step.
        family: which kind of collapse; None: not known, or healthy.
        title: one line that says it all.
        measure: what `value` is: "collapse_probability", "seconds_without_a_step", or a column of `Observation`.
        value: as of this step; None: not known.
        limit: what `value` has passed; None: there is none.
        evidence: what the stage rests on: signal, value, baseline, limit and since which step.
        checks: those that speak, in words.
        advice: what to do, what helped most first.
    """

    kind: Kind
    run: str
    step: int | None
    stage: Stage
    family: Family | None
    title: str
    measure: str
    value: float | None
    limit: float | None
    evidence: tuple[Evidence, ...] = ()
    checks: tuple[Check, ...] = ()
    advice: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types; a value that is not finite becomes its name."""
        told = {name: getattr(self, name) for name in ("kind", "run", "step", "title", "measure", "value", "limit")}
        told["stage"], told["family"] = self.stage.label, self.family.value if self.family else None
        told["evidence"] = [{name: getattr(item, name) for name in Evidence.__slots__} for item in self.evidence]
        told["checks"] = [{name: getattr(check, name) for name in Check.__slots__} for check in self.checks]
        told["advice"] = list(self.advice)
        found: dict[str, Any] = finite_json(told)
        return found

    def __str__(self) -> str:
        """For a person: the title, the evidence and what to do, a line each."""
        lines = [f"{self.run}: {self.title}"]
        if self.kind == "stage":
            lines.append(self.stage.meaning)
        lines += [_finding(item) for item in self.evidence]
        lines += ["What to do:"] * bool(self.advice)
        lines += [f"{number}. {advice}" for number, advice in enumerate(self.advice, 1)]
        return printable("\n".join(lines), lines=True)


def _finding(item: Evidence) -> str:
    usual = "" if item.baseline is None else f", in the warm-up {item.baseline:.4g}"
    limit = "" if item.limit is None else f", limit {item.limit:.4g}"
    return f"- {item.signal} {item.value:.4g}{usual}{limit}, since step {item.since}"


class Onset(NamedTuple):
    """That something begins which is worth an alert; the fields are those of `Alert`."""

    kind: Kind
    step: int | None
    stage: Stage
    family: Family | None
    words: str
    measure: str
    value: float | None
    limit: float | None

    def alert(self, diagnosis: Diagnosis, run: str) -> Alert:
        """The whole of it.

        Args:
            diagnosis: as of the same step.
            run: name of the run.
        """
        kind = f", {self.family.label}" if self.family else ""
        at = "before the first step" if self.step is None else f"at step {self.step}"
        title = f"{self.words} {at}{kind}{_outlook(self, diagnosis)}"
        speak = tuple(check for check in diagnosis.checks if check.status in ("warning", "critical"))
        return Alert(
            kind=self.kind,
            run=printable(run),
            step=self.step,
            stage=self.stage,
            family=self.family,
            title=title,
            measure=self.measure,
            value=self.value,
            limit=self.limit,
            evidence=diagnosis.evidence,
            checks=speak,
            advice=diagnosis.advice,
        )


def _outlook(onset: Onset, diagnosis: Diagnosis) -> str:
    """How likely a collapse is, and when, where one is more likely than not."""
    chance = diagnosis.collapse_probability
    worth = onset.kind in ("stage", "predicted") and onset.stage is not Stage.COLLAPSE
    if not worth or chance is None or diagnosis.steps_to_collapse is None:
        return ""
    low, middle, high = diagnosis.steps_to_collapse
    return f": {chance:.0%} to collapse within {diagnosis.horizon} steps, in about {middle} ({low} to {high})"


class Onsets:
    """Folds the steps of a run into what begins with each of them."""

    def __init__(self) -> None:
        self._gone: dict[object, int] = {}  # what was told -> steps since it is gone
        self._acts: bool | None = None
        self._time: float | None = None
        self._intervals = deque[float](maxlen=50)
        self._verdict = Verdict(0, Stage.HEALTHY, None, None)
        self._any, self._stall_told = False, False

    def update(self, observation: Observation, verdict: Verdict, at: float | None = None) -> list[Onset]:
        """Take one step in.

        Args:
            observation: the step.
            verdict: as of it.
            at: when it came, in seconds, for steps that do not say it themselves.

        Returns:
            What begins with it, the worst first.
        """
        self._verdict, self._any, self._stall_told = verdict, True, False
        self._take_time(observation.time if observation.time is not None else at)
        found = [self._stage(verdict), self._not_finite(observation), self._predicted(verdict), self._llds(observation)]
        return [onset for onset in found if onset is not None]

    @property
    def stall_after_s(self) -> float:
        """Seconds without a step from which on the run counts as stalled."""
        if not self._intervals:
            return FIRST_STALL_S
        return max(STALL_S, STALL_STEPS * statistics.median(self._intervals))

    def stalled(self, waited_s: float) -> Onset | None:
        """Whether the run stalls, once for each time that it does.

        Args:
            waited_s: seconds since the last step, or since the start.
        """
        if self._stall_told or waited_s < self.stall_after_s:
            return None
        self._stall_told = True
        step = self._verdict.step if self._any else None
        words = f"no step for {waited_s / 60:.0f} minutes (counts from {self.stall_after_s / 60:.0f} on): last seen"
        return self._onset("stalled", words, "seconds_without_a_step", waited_s, self.stall_after_s)._replace(step=step)

    def _onset(self, kind: Kind, words: str, measure: str, value: float | None, limit: float | None = None) -> Onset:
        verdict = self._verdict
        return Onset(kind, verdict.step, verdict.stage, verdict.family, words, measure, value, limit)

    def _begins(self, what: object, holds: bool, over: bool) -> bool:
        """Whether it is to be told: it holds, and was not told since it was over for long enough."""
        if holds:
            new, self._gone[what] = what not in self._gone, 0
            return new
        if what in self._gone:
            self._gone[what] = self._gone[what] + 1 if over else 0
            if self._gone[what] >= RECOVERED:
                del self._gone[what]
        return False

    def _stage(self, verdict: Verdict) -> Onset | None:
        healed = verdict.stage <= Stage.STAGNATION  # a collapse that is called decay again has not healed
        new = [stage for stage in Stage if stage and self._begins(stage, verdict.stage >= stage, healed)]
        if not new or max(new) < verdict.stage:
            return None
        return self._onset("stage", verdict.stage.name, "collapse_probability", verdict.collapse_probability)

    def _predicted(self, verdict: Verdict) -> Onset | None:
        chance = verdict.collapse_probability or 0.0
        holds = chance >= ALARM or verdict.stage >= Stage.DECAY
        if not self._begins("predicted", holds, not holds) or verdict.stage >= Stage.DECAY:  # that is said already
            return None
        return self._onset("predicted", "collapse predicted", "collapse_probability", chance, ALARM)

    def _not_finite(self, observation: Observation) -> Onset | None:
        values = {name: getattr(observation, name) for name in _AT_ONCE}
        broken = {name: value for name, value in values.items() if value is not None and not math.isfinite(value)}
        if not self._begins("not_finite", bool(broken), not broken):
            return None
        name, value = next(iter(broken.items()))
        return self._onset("not_finite", f"{name} is {value}", name, value)

    def _llds(self, observation: Observation) -> Onset | None:
        """Of the step that was trained with it; how the run began is no change."""
        coefficient = observation.llds_coefficient or 0.0
        before, self._acts = self._acts, coefficient != 0.0
        if before is None or before == self._acts:
            return None
        words = f"LLDS on (coefficient {coefficient:.3g})" if self._acts else "LLDS off"
        return self._onset("llds", words, "llds_coefficient", coefficient)

    def _take_time(self, now: float | None) -> None:
        if now is not None and self._time is not None and now > self._time:
            self._intervals.append(now - self._time)
        self._time = self._time if now is None else now


def alerts_of(observations: Iterable[Observation], run: str, detector: CollapseDetector | None = None) -> list[Alert]:
    """What a live user would have been told of a run; no stall, which shows in what is not there.

    Args:
        observations: in the order of their steps.
        run: its name.
        detector: with other settings than the default ones.
    """
    detector, onsets, found = (detector or CollapseDetector()).fresh(), Onsets(), list[Alert]()
    for observation in observations:
        begun = onsets.update(observation, detector.fold(observation))
        if begun:
            diagnosis = detector.diagnosis
            found += [onset.alert(diagnosis, run) for onset in begun]
    return found


def name_of(run_dir: str | os.PathLike[str]) -> str:
    """What a run is called: the last part of its path or URL; what follows a question mark in a URL may be a secret."""
    given = os.fspath(run_dir)
    path = given.partition("?")[0] if "://" in given else os.path.abspath(given)
    return path.rstrip("/").rpartition("/")[2] or path
