"""What a training loop holds: it gathers a step, records it, and says what the run looks like.

Contract violations (a wrong shape, an unknown name) raise during the first step, when somebody is looking. After it,
nothing that goes wrong in here ends the training: it is logged once, kept as an event, and the loop goes on.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import numpy as np

from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Diagnosis
from lldwatch.errors import InputError, LldwatchError
from lldwatch.inputs import numbers_of, problem_of
from lldwatch.recorder import Recorder
from lldwatch.rollup import summarise
from lldwatch.run import Run
from lldwatch.schema import Observation, Probes, Responses, RunInfo

log = logging.getLogger("lldwatch")

Method = TypeVar("Method", bound=Callable[..., None])


def _never_hurt(method: Method) -> Method:
    """After the first step, an exception is kept as an event instead of reaching the training loop."""

    @functools.wraps(method)
    def guarded(self: Monitor, *args: Any, **kwargs: Any) -> None:
        step = self._open_step
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            if self._steps_closed == 0 and isinstance(error, LldwatchError):
                raise
            words = f"Monitor.{method.__name__} failed: {type(error).__name__}: {error}\n{traceback.format_exc()}"
            self._say_once("error", words, step)

    return cast(Method, guarded)


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

    Raises:
        RunExistsError: a run is there already and `resume` is off.
        RunError: the directory cannot be written.
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
    ) -> None:
        from lldwatch import __version__

        info = RunInfo(
            lldwatch_version=__version__, trainer=trainer, config=dict(config or {}), planned_steps=planned_steps
        )
        self._recorder = Recorder(run_dir, info, resume=resume)
        self._settings = detector or CollapseDetector()
        self._detector = self._settings.fresh()
        self._diagnosis = self._detector.diagnosis
        self._last_step = self._last_recorded_step() if resume else None
        self._resuming, self._warned = self._last_step is not None, set[str]()
        self._steps_closed = 0
        self._next_uid = self._recorder.info.attempt << 40  # what an earlier attempt recorded keeps its identity
        self._begin_step()
        if not self._resuming:
            self._event("start", f"{trainer} in process {os.getpid()}")

    @property
    def diagnosis(self) -> Diagnosis:
        """What the run looks like as of the last closed step."""
        return self._diagnosis

    @property
    def dropped_steps(self) -> int:
        """Steps that could not be written, because the disk was too slow or failed."""
        return self._recorder.dropped_steps

    @_never_hurt
    def observe(self, responses: Responses) -> None:
        """Take in the responses of one (micro-)batch, as `lldwatch.hooks.per_response` made them.

        Raises:
            InputError: in the first step, a shape does not fit, log-probs are not finite or above 0, or every response
                is empty.
        """
        if not isinstance(responses, Responses):
            return self._complain(f"responses is a {type(responses).__name__}: expected what per_response returns")
        self._complain(str(responses.error) if responses.error else problem_of(responses))
        size = len(responses)
        if responses.uid is None:
            responses = replace(responses, uid=np.arange(self._next_uid, self._next_uid + size))
            self._next_uid += size
        if responses.update is None:
            responses = replace(responses, update=np.full(size, self._updates))
        self._responses.append(responses)

    @_never_hurt
    def update(self, **scalars: Any) -> None:
        """One optimizer update was made. Needed only when a step holds several.

        Args:
            scalars: fields of `Observation` that belong to the update, such as `grad_norm`, `loss`; numbers, or tensors
                with one element.

        Raises:
            InputError: in the first step, a name is not a field of `Observation`.
        """
        self._updates += 1
        for name, value in self._numbers(scalars).items():
            self._update_scalars.setdefault(name, []).append(value)

    @_never_hurt
    def probe(self, probes: Probes) -> None:
        """Take in re-scored responses, as `lldwatch.probes` made them.

        Raises:
            InputError: in the first step, they could not be scored.
        """
        if not isinstance(probes, Probes):
            return self._complain(f"probes is a {type(probes).__name__}: expected what CrossUpdateProbe returns")
        self._complain(str(probes.error) if probes.error else None)
        self._probes.append(probes)

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
        return self._diagnosis

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

    @_never_hurt
    def _close_step(self, step: int | None, scalars: dict[str, Any]) -> None:
        last, kept = self._last_step, False
        same_process = last is not None and not self._resuming  # a resumed training may repeat the last recorded step
        if same_process and step == last:
            self._complain(f"step {step} was given again: call step() once a step; its rows count for the next one")
            return
        if same_process and isinstance(step, Integral) and step < last:
            self._probes.clear()  # they compare the policy with one that was given up
        try:
            wanted = self._open_step if step is None else step
            observation = Observation(step=wanted, time=time.time(), **self._gathered(self._numbers(scalars)))
            resumes = self._resuming or (last is not None and observation.step <= last)
            if resumes:
                self._begin_attempt(observation.step)
            self._recorder.record(observation, self._responses, self._probes)
            self._last_step, kept = observation.step, True
            if resumes:
                self._fold_history(observation.step)
            self._diagnosis = self._detector.update(observation)
            self._steps_closed += 1
        finally:
            self._recorder.dropped_steps += bool(self._steps_closed and not kept)
            self._begin_step()

    def _gathered(self, scalars: dict[str, float]) -> dict[str, Any]:
        """The step's fields: what the rows say, then what the updates said, then what the step says."""
        with np.errstate(all="ignore"):  # inf - inf
            means = {name: _of_updates(name, values) for name, values in self._update_scalars.items()}
        if "grad_norm" in self._update_scalars:
            means["grad_norm_max"] = float(np.max(self._update_scalars["grad_norm"]))  # NaN stays NaN
        elif "grad_norm" in scalars:
            means["grad_norm_max"] = scalars["grad_norm"]
        return {**summarise(self._responses, self._probes), "updates": max(self._updates, 1), **means, **scalars}

    @property
    def _open_step(self) -> int:
        """The step that is being gathered, as far as can be known before the loop gives its number."""
        return 1 if self._last_step is None else self._last_step + 1

    def _begin_step(self) -> None:
        self._responses: list[Responses] = []
        self._probes: list[Probes] = []
        self._update_scalars: dict[str, list[float]] = {}
        self._updates = 0

    def _last_recorded_step(self) -> int | None:
        recorded = Run(self._recorder.path).observations()
        return recorded[-1].step if recorded else None

    def _begin_attempt(self, step: int) -> None:
        """The training goes on at `step`, after an interruption or from an earlier checkpoint."""
        if self._resuming:
            words = f"resumed at step {step}, the last recorded one was {self._last_step}"
        else:
            words = f"went back from step {self._last_step} to step {step}"
        self._recorder.new_attempt(step - 1)
        self._resuming = False
        self._recorder.event(step, "resume", words)

    def _fold_history(self, step: int) -> None:
        """What came before `step` goes through the detector once more."""
        self._recorder.flush()
        self._detector = self._settings.fresh()
        for past in Run(self._recorder.path).observations():
            if past.step < step:
                self._detector.update(past)

    def _finish(self, detail: str) -> None:
        self._event("finish", detail)
        self._recorder.close()

    def _numbers(self, scalars: Mapping[str, Any]) -> dict[str, float]:
        numbers, problems = numbers_of(scalars)
        for problem in problems:
            self._complain(problem)
        return numbers

    def _complain(self, problem: str | None) -> None:
        """A mistake of the caller: raised in the first step, kept as an event later."""
        if problem and self._steps_closed == 0:
            raise InputError(problem)
        if problem:
            self._say_once("bad_input", problem, self._open_step)

    def _say_once(self, kind: str, detail: str, step: int) -> None:
        """Once for each argument or method, which is the first word of the detail."""
        what = f"{kind} {detail.split(maxsplit=1)[0]}"
        if what not in self._warned:
            self._warned.add(what)
            log.warning("lldwatch: %s (said once; the training goes on)", detail)
            self._recorder.event(step, kind, detail)

    def _event(self, kind: str, detail: str) -> None:
        self._recorder.event(-1 if self._last_step is None else self._last_step, kind, detail)


def _of_updates(name: str, values: list[float]) -> float:
    """One number for the updates of a step: settings as they were last, a maximum as such, the mean of the others."""
    if name in ("learning_rate", "updates_per_batch", "llds_coefficient"):
        return values[-1]
    return float(np.max(values) if name == "grad_norm_max" else np.mean(values))
