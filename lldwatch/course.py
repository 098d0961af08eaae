"""The course of a run: where it stands, and how a step is added to it, on one rank or on many.

Rank 0 puts together what all ranks saw of the step, looks after going back and resuming, and diagnoses; the others take
over what it decided and keep their own rows.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Protocol

from lldwatch.alert_channels import Channel
from lldwatch.alert_delivery import check
from lldwatch.alert_live import LiveAlerts
from lldwatch.alerts import name_of
from lldwatch.control import Order, Orders
from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Diagnosis, Stage
from lldwatch.errors import RanksError
from lldwatch.gathered import Gathered, fields_of, repeated
from lldwatch.intervention import Correct, Decision, Intervention
from lldwatch.recorder import Recorder
from lldwatch.rollup import by_place, in_batch
from lldwatch.run import Run
from lldwatch.schema import Observation, Positions, Responses, RunInfo
from lldwatch.stores.staging import local_folder

log = logging.getLogger("lldwatch")


class Together(Protocol):
    """The ranks of a distributed training, as `lldwatch.ranks.Ranks` has them."""

    rank: int

    def decide(self, mine: Any, decide: Callable[[Sequence[Any]], Any]) -> Any:
        """Bring what all ranks have to rank 0, let it decide, and bring the answer to all."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """What rank 0 makes of a step; where a new attempt begins with it, `resumed`."""

    observation: Observation
    diagnosis: Diagnosis
    decision: Decision
    attempt: int
    resumed: bool


class Course:
    """One run that is being written, on this rank.

    Args:
        run_dir: the run directory, or its URL in an object store.
        info: what `run.json` is to say.
        resume: go on with a run that is there.
        detector: its settings; None: the default ones.
        correct: how LLDS is to be used.
        ranks: of a distributed training.
        alerts: whom rank 0 tells of what a person must know at once.
        stop_on: "collapse": ask the training to stop then; None: never.
        complain: what to do with a mistake of the caller.
        say: what to do with an error that the training shall survive.

    Attributes:
        recorder: of this rank.
        rank: 0 without other ranks.
        last_step: number of the last step; None before the first.
        resuming: the last step is that of an earlier process.
        diagnosis: as of the last step.
        decision: about LLDS, as of the last step: for the next one.
        observation: the last step; None before the first.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        info: RunInfo,
        *,
        resume: bool,
        detector: CollapseDetector | None,
        correct: Correct,
        ranks: Together | None,
        alerts: Sequence[Channel] = (),
        stop_on: Literal["collapse"] | None = None,
        complain: Callable[[str | None], None],
        say: Callable[[str], None],
    ) -> None:
        self._ranks, self.rank = ranks, 0 if ranks is None else ranks.rank
        self._settings = detector or CollapseDetector()
        self._detector = self._settings.fresh()
        self._intervention, self._stop_on = Intervention(correct), stop_on
        self._alerts: LiveAlerts | None = None  # of rank 0
        self._complain, self._say = complain, say
        self.diagnosis = self._detector.diagnosis
        self.observation: Observation | None = None
        self._orders = Orders(local_folder(run_dir))
        self._followed: Order | None = None

        def open_first(_: Sequence[None]) -> tuple[RunInfo, int | None, Decision]:
            check(alerts)
            self.recorder = Recorder(run_dir, info, resume=resume)
            self._alerts = LiveAlerts(name_of(run_dir), alerts, self.recorder.event)
            self._orders.poll()
            self._follow_orders(1)
            last = self._last_recorded_step() if resume else None
            return self.recorder.info, last, self._intervention.decision

        opened: tuple[RunInfo, int | None, Decision]
        opened = open_first(()) if ranks is None else ranks.decide(None, open_first)
        if self.rank:
            self.recorder = Recorder(run_dir, opened[0], rank=self.rank)
        self.last_step: int | None = opened[1]
        self.decision: Decision = opened[2]
        self.resuming = self.last_step is not None

    @property
    def open_step(self) -> int:
        """The step that is being gathered, as far as can be known before the loop gives its number."""
        return 1 if self.last_step is None else self.last_step + 1

    @property
    def should_stop(self) -> bool:
        """The training is asked to stop, as of the last step. The same on all ranks."""
        return self._stop_on is not None and self.diagnosis.stage >= Stage.COLLAPSE

    def end_step(self, step: Any, gathered: Gathered) -> None:
        """Add a step. Every rank must call it.

        Args:
            step: its number.
            gathered: what this rank saw of it.

        Raises:
            LldwatchError: rank 0 could make no step of it.
        """
        ended = self._decided(step, gathered)
        if self.rank:
            if ended.resumed:
                self.recorder.new_attempt(ended.observation.step - 1, ended.attempt)
            self.last_step, self.resuming = ended.observation.step, False
        places, rows = gathered.of(Positions), [rows for rows in gathered.rows if not isinstance(rows, Positions)]
        self.recorder.record(ended.observation, [*rows, by_place(places)])
        stopping = self.should_stop
        self.diagnosis, self.decision, self.observation = ended.diagnosis, ended.decision, ended.observation
        if self.rank == 0:
            self.recorder.soon(self._orders.poll)
        if self.rank == 0 and self.should_stop and not stopping:
            words = "the training is asked to stop after saving, for the run has collapsed"
            self.recorder.event(ended.observation.step, "stop", words)
            log.warning("lldwatch: step %d: %s", ended.observation.step, words)

    def close(self) -> None:
        """Wait a few seconds for alerts that are on their way, write everything, and end the run."""
        try:
            if self._alerts is not None:
                self._alerts.close()
        finally:
            self.recorder.close()

    def _decided(self, step: Any, gathered: Gathered) -> _Ended:
        """What rank 0 makes of the step; without other ranks this is rank 0."""
        made: list[_Ended] = []

        def decide(parts: Sequence[Gathered]) -> _Ended:
            responses: list[Responses] = list(chain.from_iterable(part.of(Responses) for part in parts))
            self._complain(repeated(responses))
            observation = Observation(step=step, time=time.time(), **fields_of(parts))
            gathered.rows.append(in_batch(responses))
            made.append(self._diagnosed(observation))
            return made[0]

        if self._ranks is not None:
            try:
                answer: _Ended = self._ranks.decide(gathered.to_send(), decide)
                return answer
            except RanksError as error:  # a rank is gone, or was too slow
                self._ranks = self._stop_on = None  # one that stops alone would leave the others waiting
                self._say(str(error))
                if made:  # only the answer did not reach the others
                    return made[0]
        return self._alone(step) if self.rank else decide([gathered])

    def _alone(self, step: Any) -> _Ended:
        """Of a rank that rank 0 does not answer any more: it knows too little for a diagnosis, and keeps its rows."""
        observation = Observation(step=step)
        back = self.last_step is not None and not self.resuming and observation.step <= self.last_step
        return _Ended(observation, self.diagnosis, self.decision, self.recorder.attempt + back, back)

    def _diagnosed(self, observation: Observation) -> _Ended:
        """Rank 0: where the run stands with this step."""
        resumed = self.resuming or (self.last_step is not None and observation.step <= self.last_step)
        if resumed:
            self._begin_attempt(observation.step)
        diagnosis, decision = self.diagnosis, self.decision
        try:
            if resumed:
                self._fold_history(observation.step)
                held = self._intervention.decision
                if held.coefficient != decision.coefficient:
                    words = f"coefficient {decision.coefficient:.3g} -> {held.coefficient:.3g}: as of the step before"
                    self.recorder.event(observation.step, "llds", words)
            self._follow_orders(observation.step)
            verdict = self._detector.fold(observation)
            decision = self._intervention.update(verdict)
            diagnosis = self._detector.diagnosis
            if decision.said:
                self.recorder.event(observation.step, "llds", decision.said)
            if self._alerts is not None:
                self._alerts.step(observation, verdict, diagnosis)
        except Exception as error:  # the step is worth keeping all the same
            self._say(f"diagnosis failed: {type(error).__name__}: {error}\n{traceback.format_exc()}")
        self.last_step = observation.step
        return _Ended(observation, diagnosis, decision, self.recorder.attempt, resumed)

    def _follow_orders(self, step: int) -> None:
        """Of somebody who wants LLDS on or off from now on, whatever the training was started with."""
        order = self._orders.latest
        if order is not None and order != self._followed:
            self._followed = order
            self._intervention = Intervention(order.applied_to(self._intervention.settings))
            dry = ": nothing is done, since this is a dry run" if self._intervention.settings.dry_run else ""
            self.recorder.event(step, "llds", f"ordered: {order.in_words}{dry}")

    def _last_recorded_step(self) -> int | None:
        """And the decision as of it: LLDS must not pause because the process was another."""
        recorded = Run(self.recorder.path).observations()
        for past in recorded:
            self._fold(past)
        return recorded[-1].step if recorded else None

    def _begin_attempt(self, step: int) -> None:
        """The training goes on at `step`, after an interruption or from an earlier checkpoint."""
        if self.resuming:
            words = f"resumed at step {step}, the last recorded one was {self.last_step}"
        else:
            words = f"went back from step {self.last_step} to step {step}"
        self.recorder.new_attempt(step - 1)
        self.resuming = False
        self.recorder.event(step, "resume", words)

    def _fold_history(self, step: int) -> None:
        """What came before `step` goes through the detector once more."""
        self.recorder.flush()
        self._detector, self._intervention = self._settings.fresh(), self._intervention.fresh()
        if self._alerts is not None:
            self._alerts.begin_anew()
        for past in Run(self.recorder.path).observations():
            if past.step < step:
                self._fold(past)

    def _fold(self, past: Observation) -> None:
        """A step that was there before: what it led to was recorded and told then."""
        verdict = self._detector.fold(past)
        self._intervention.update(verdict)
        if self._alerts is not None:
            self._alerts.fold(past, verdict)
