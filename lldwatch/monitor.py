"""What a training loop holds: it gathers a step, records it, and says what the run looks like.

Contract violations (a wrong shape, an unknown name) raise during the first step, when somebody is looking. After it,
nothing that goes wrong in here ends the training: it is logged once, kept as an event, and the loop goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from lldwatch.alert_channels import Channel
from lldwatch.alert_delivery import checked
from lldwatch.course import Course, Together
from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Diagnosis
from lldwatch.errors import InputError, ScoreError
from lldwatch.forward import metrics_of
from lldwatch.gathered import Gathered
from lldwatch.inputs import numbers_of, problem_of, problem_of_scores, whole
from lldwatch.intervention import Correct, Decision, Effect, Mode, Term
from lldwatch.schema import OF_EARLIER_STEPS, Gradients, Observation, Probes, Responses, RunInfo
from lldwatch.unhurt import never_hurt

log = logging.getLogger("lldwatch")


class Monitor:
    """Records one training run and diagnoses it step by step.

    ```python
    with Monitor("runs/search") as monitor:
        for batch in loader:
            ...
            monitor.observe(per_response(log_probs, old_log_probs, mask, advantages=advantages, rewards=rewards))
            grad_norm = clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            diagnosis = monitor.step(grad_norm=grad_norm, loss=loss)
    ```

    A loop with several optimizer updates in a step calls `update` after each of them.

    Args:
        run_dir: the run directory to write.
        trainer: name of the trainer, for `run.json`.
        config: whatever the user wants to find again: JSON values, or anything with a repr.
        planned_steps: how long the training is meant to be.
        resume: go on with a run that is there.
        detector: with other settings than the default ones.
        llds: "off", "on" from the first step, or "auto": enabled when a collapse is predicted that it is a cure for; or
            `lldwatch.intervention.Correct` with the strength and the rest. The loop adds
            `monitor.llds_coefficient * llds_loss(...)` to its loss.
        reduce_updates: called with True when fewer updates on each batch are asked for, and with False when no more.
        ranks: of a distributed training, `lldwatch.ranks.Ranks()`: each process makes its own Monitor with the same
            arguments, and calls `step` as often as the others. All get the same diagnosis.
        alerts: whom to tell of what a person must know at once: `lldwatch.Webhook`, `lldwatch.Command`, or functions
            that are called with an `lldwatch.Alert`, in a thread of their own. Rank 0 alone tells.
        stop_on: "collapse": `should_stop` becomes True when the run has collapsed; None: it never does.

    Raises:
        InputError: a setting of LLDS or of the alerts is not what it should be.
        RunExistsError: a run is there already and `resume` is off.
        RunError: the directory cannot be written.
        RanksError: rank 0 could not open the run, or a rank did not answer.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        trainer: str = "custom loop",
        config: Mapping[str, Any] | None = None,
        planned_steps: int | None = None,
        resume: bool = False,
        detector: CollapseDetector | None = None,
        llds: Mode | Correct = "off",
        reduce_updates: Callable[[bool], object] | None = None,
        ranks: Together | None = None,
        alerts: Sequence[Channel] = (),
        stop_on: Literal["collapse"] | None = None,
    ) -> None:
        from lldwatch import __version__

        if stop_on not in (None, "collapse"):
            raise InputError(f"stop_on={stop_on!r}: expected None or 'collapse'")

        info = RunInfo(
            lldwatch_version=__version__, trainer=trainer, config=dict(config or {}), planned_steps=planned_steps
        )
        self._warned, self._steps_closed = set[str](), 0
        self._correct = llds if isinstance(llds, Correct) else Correct(mode=llds)
        self._reduce_updates, self._effect = reduce_updates, Effect()
        self._course = Course(
            run_dir,
            info,
            resume=resume,
            detector=detector,
            correct=self._correct,
            ranks=ranks,
            alerts=checked(alerts),
            stop_on=stop_on,
            complain=self._complain,
            say=lambda words: self._say_once("error", words, self._course.open_step),
        )
        self._recorder = self._course.recorder
        # what an earlier attempt or another rank recorded keeps its identity
        self._next_uid = (self._recorder.attempt << 44) + (self._course.rank << 30)
        self._step, self._pending = Gathered(), list[tuple[int, Responses]]()
        if not self._course.resuming:
            self._life("start", f"{trainer} in process {os.getpid()}")
        if self.fewer_updates:  # a process that was resumed began with all of them
            self._ask_for_fewer_updates(True)

    @property
    def diagnosis(self) -> Diagnosis:
        """What the run looks like as of the last closed step."""
        return self._course.diagnosis

    @property
    def llds_coefficient(self) -> float:
        """What LLDS is to be multiplied with in the step that is open; 0 while it is off. The same on all ranks."""
        return self._course.decision.coefficient

    @property
    def fewer_updates(self) -> bool:
        """The loop is asked to make fewer updates on each rollout batch, if it can. The same on all ranks."""
        return self._course.decision.fewer_updates

    @property
    def should_stop(self) -> bool:
        """Save a checkpoint and stop: what `stop_on` waits for has come. As of the last step, the same on all ranks."""
        return self._course.should_stop

    @property
    def observation(self) -> Observation | None:
        """The last closed step, as it was recorded; None before the first. The same on all ranks."""
        return self._course.observation

    @property
    def attempt(self) -> int:
        """0, and one more each time that the run was resumed."""
        return self._recorder.attempt

    @property
    def dropped_steps(self) -> int:
        """Steps that could not be written, because the disk was too slow or failed."""
        return self._recorder.dropped_steps

    def metrics(self) -> dict[str, float]:
        """Stage, probability of a collapse and the headline signals of the last step, for the training's own logger."""
        return metrics_of(self._course.observation, self._course.diagnosis)

    def new_uids(self, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Identities for so many responses, which no other rank or attempt gives."""
        first = self._next_uid
        self._next_uid += count
        return np.arange(first, first + count)

    def event(self, kind: str, detail: str) -> None:
        """Keep something that happened, beside the step that is open."""
        self._recorder.event(self._course.open_step, kind, detail)

    @never_hurt
    def observe(self, responses: Responses) -> None:
        """Take in the responses of one (micro-)batch, as `lldwatch.hooks.per_response` made them.

        Raises:
            InputError: in the first step, a shape does not fit, log-probs are not finite or above 0, or every response
                is empty.
        """
        if not isinstance(responses, Responses):
            return self._complain(f"responses is a {type(responses).__name__}: expected what per_response returns")
        if responses.pending is not None and self._steps_closed:  # in the first step mistakes are worth the waiting
            self._pending.append((self._step.updates, responses))
        else:
            self._take(responses.resolve(), self._step.updates)

    @never_hurt
    def update(self, **scalars: Any) -> None:
        """One optimizer update was made. Needed only when a step holds several.

        Args:
            scalars: fields of `Observation` that belong to the update, such as `grad_norm`, `loss`; numbers, or tensors
                with one element.

        Raises:
            InputError: in the first step, a name is not a field of `Observation`.
        """
        self._step.updates += 1
        for name, value in self._numbers(scalars, wait=self._steps_closed == 0).items():
            self._step.update_scalars.setdefault(name, []).append(value)

    @never_hurt
    def probe(self, probes: Probes) -> None:
        """Take in re-scored responses, as `lldwatch.probes` made them. A score that failed is said once.

        Raises:
            InputError: in the first step, a tensor or what the score returned has another shape than it should.
        """
        if not isinstance(probes, Probes):
            return self._complain(f"probes is a {type(probes).__name__}: expected what LikelihoodProbe returns")
        self._step.add(probes)
        if probes.note and self._course.rank == 0:
            print(f"lldwatch: {probes.note}", file=sys.stderr)
            self.event("probe", probes.note)
        if isinstance(probes.error, ScoreError):
            self._say_once("error", str(probes.error), self._course.open_step)
        else:
            self._complain(str(probes.error) if probes.error else problem_of_scores(probes))

    @never_hurt
    def llds(self, term: Term) -> None:
        """Take in what LLDS did in an update, as `lldwatch.llds.llds_loss` returned it; before `update`.

        If it could not act in several steps on end, because the old log-probs are the current ones, that is said once.

        Raises:
            InputError: in the first step, it is something else.
        """
        if not (hasattr(term, "loss") and hasattr(term, "moved_tokens")):
            return self._complain(f"term is a {type(term).__name__}: expected what llds_loss returns")
        self._step.update_scalars.setdefault("llds_loss", []).append(term.loss.detach())
        self._effect.saw(term)

    @never_hurt
    def gradients(self, gradients: Gradients) -> None:
        """Take in gradient norms of the parts of the model, as `lldwatch.gradients` measured them; before `update`.

        Raises:
            InputError: in the first step, they could not be measured.
        """
        if not isinstance(gradients, Gradients):
            return self._complain(f"gradients is a {type(gradients).__name__}: expected what GradientNorms returns")
        self._complain(str(gradients.error) if gradients.error else None)
        if gradients.update is None:
            gradients = replace(gradients, update=np.full(len(gradients), self._step.updates))
        if self._course.rank == 0:  # averaged over the ranks, or of rank 0's shard
            self._step.add(gradients)

    def step(self, step: int | None = None, **scalars: Any) -> Diagnosis:
        """Close the step: record it, and diagnose the run.

        Args:
            step: the trainer's own number; without it the last one plus 1, from 1. A number that goes back means that
                the training went back to an earlier checkpoint: the steps from there on are replaced (the past is
                read again, which may take as long as a checkpoint does).
            scalars: fields of `Observation`, such as `grad_norm`, `loss`, `learning_rate`; numbers, or tensors with
                one element. What is given here wins over what the responses say.

        Returns:
            The diagnosis as of this step.

        Raises:
            InputError: in the first step, a name is not a field of `Observation`, or a value is not a number.
        """
        self._close_step(step, scalars)
        return self._course.diagnosis

    def close(self) -> None:
        """Write everything and end the run. Called by `with`."""
        self._finish("the training closed the run")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closed = "the training closed the run"
        detail = f": {error}" if str(error) else ""
        self._finish(closed if kind is None else f"the training ended with {kind.__name__}{detail}")

    @never_hurt
    def _close_step(self, step: int | None, scalars: dict[str, Any]) -> None:
        course, last = self._course, self._course.last_step
        step = whole(step)
        same_process = last is not None and not course.resuming  # a resumed training may repeat the last recorded step
        if same_process and step == last:
            self._complain(f"step {step} was given again: call step() once a step; its rows count for the next one")
            return
        try:
            if last is not None and same_process and isinstance(step, int) and step < last:
                self._step.forget(*OF_EARLIER_STEPS)  # they compare the policy with one that was given up
            self._complete(scalars)
            before = course.decision
            course.end_step(course.open_step if step is None else step, self._step)
            self._steps_closed += 1
            self._look_at_llds(before)
        finally:
            self._recorder.dropped_steps += bool(self._steps_closed and course.last_step == last)
            self._step = Gathered()

    @never_hurt
    def _look_at_llds(self, before: Decision) -> None:
        """Whether it could act in this step; and, if more or fewer updates are now asked for, ask for them."""
        if self.fewer_updates != before.fewer_updates:
            self._ask_for_fewer_updates(self.fewer_updates)
        # "off": the loop has a coefficient of its own
        if (
            inert := self._effect.end_step(switched_on=self._correct.mode == "off" or before.coefficient > 0)
        ) is not None:
            self._say_once("llds", inert, self._course.open_step - 1)

    def _ask_for_fewer_updates(self, asked: bool) -> None:
        try:
            if self._reduce_updates is not None:
                self._reduce_updates(asked)
        except Exception as error:  # the loop's own, which a remedy must not end
            words = f"reduce_updates failed: {type(error).__name__}: {error}\n{traceback.format_exc()}"
            self._say_once("error", words, self._course.open_step)

    def _take(self, responses: Responses, update: int) -> None:
        """Rows that are there: looked at, and given an identity and the update that saw them, if they have none."""
        self._complain(str(responses.error) if responses.error else problem_of(responses))
        size, companions, own = len(responses), responses.companions, dict[str, Any]()
        if responses.uid is None:
            own["uid"] = self.new_uids(size)
        if responses.update is None:
            own["update"] = np.full(size, update, np.int16)
        self._step.add((replace(responses, **own) if own else responses).having(companions=companions))

    def _complete(self, scalars: dict[str, Any]) -> None:
        """What is still missing of the step. On many ranks none may stop here: the others wait for it to go on.

        What was left on the device is fetched now, so that the training need not wait for it in the middle of a step.
        """
        for name, values in list(self._step.update_scalars.items()):
            self._step.update_scalars[name] = []
            self._fetch_scalars(name, values)
        pending, self._pending = self._pending, []
        for update, responses in pending:
            self._fetch_rows(update, responses)
        self._give_scalars(scalars)

    @never_hurt
    def _fetch_scalars(self, name: str, values: list[Any]) -> None:
        self._step.update_scalars[name] = [float(value) for value in values]

    @never_hurt
    def _fetch_rows(self, update: int, responses: Responses) -> None:
        self._take(responses.resolve(), update)

    @never_hurt
    def _give_scalars(self, scalars: dict[str, Any]) -> None:
        self._step.scalars = self._numbers(scalars)
        told = "llds_coefficient" in self._step.scalars or "llds_coefficient" in self._step.update_scalars
        if (self._correct.mode != "off" or self.llds_coefficient) and not told:
            self._step.scalars["llds_coefficient"] = self.llds_coefficient

    def _finish(self, detail: str) -> None:
        self._life("finish", detail)
        self._course.close()

    def _numbers(self, scalars: Mapping[str, Any], *, wait: bool = True) -> dict[str, Any]:
        numbers, problems = numbers_of(scalars, wait=wait)
        for problem in problems:
            self._complain(problem)
        return numbers

    def _complain(self, problem: str | None) -> None:
        """A mistake of the caller: raised in the first step, kept as an event later."""
        if problem and self._steps_closed == 0:
            raise InputError(problem)
        if problem:
            self._say_once("bad_input", problem, self._course.open_step)

    def _say_once(self, kind: str, detail: str, step: int) -> None:
        """Once for each argument or method, which is the first word of the detail."""
        what = f"{kind} {detail.split(maxsplit=1)[0]}"
        if what not in self._warned:
            self._warned.add(what)
            log.warning("lldwatch: %s (said once; the training goes on)", detail)
            self._recorder.event(step, kind, detail)

    def _life(self, kind: str, detail: str) -> None:
        self._recorder.event(-1 if self._course.last_step is None else self._course.last_step, kind, detail)
