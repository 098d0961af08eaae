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
from dataclasses import fields, replace
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import numpy as np

from lldwatch.detector import CollapseDetector
from lldwatch.diagnosis import Diagnosis
from lldwatch.errors import InputError, LldwatchError
from lldwatch.recorder import Recorder
from lldwatch.rollup import summarise
from lldwatch.run import Run
from lldwatch.schema import Observation, Probes, Responses, RunInfo

log = logging.getLogger("lldwatch")

Method = TypeVar("Method", bound=Callable[..., None])

_SCALARS = tuple(column.name for column in fields(Observation) if column.name not in ("step", "time"))


def _never_hurt(method: Method) -> Method:
    """After the first step, an exception is kept as an event instead of reaching the training loop."""

    @functools.wraps(method)
    def guarded(self: Monitor, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            if self._steps_closed == 0 and isinstance(error, LldwatchError):
                raise
            self._failed(method.__name__)

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
            InputError: in the first step, log-probs are not finite or every response is empty.
        """
        if not isinstance(responses, Responses):
            raise InputError(f"responses is a {type(responses).__name__}: expected what hooks.per_response returns")
        problem = _problem(responses)
        if problem and self._steps_closed == 0:
            raise InputError(problem)
        if problem:
            self._say_once("bad_input", problem)
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
        for name, value in _numbers(scalars).items():
            self._update_scalars.setdefault(name, []).append(value)

    @_never_hurt
    def probe(self, probes: Probes) -> None:
        """Take in re-scored responses, as `lldwatch.probes` made them."""
        if not isinstance(probes, Probes):
            raise InputError(f"probes is a {type(probes).__name__}: expected what CrossUpdateProbe returns")
        self._probes.append(probes)

    def step(self, step: int | None = None, **scalars: Any) -> Diagnosis:
        """Close the step: record it, and diagnose the run.

        Args:
            step: the trainer's own number; without it the last one plus 1, from 1. A number that goes back means that
                the training went back to an earlier checkpoint: the steps from there on are replaced.
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
        self._finish(closed if kind is None else f"the training ended with {kind.__name__}: {error}")

    @_never_hurt
    def _close_step(self, step: int | None, scalars: dict[str, Any]) -> None:
        try:
            last = self._last_step
            wanted = (last or 0) + 1 if step is None else step
            observation = Observation(step=wanted, time=time.time(), **self._gathered(_numbers(scalars)))
            resumes = self._resuming or (last is not None and observation.step <= last)
            if resumes:
                self._begin_attempt(observation.step)
            self._recorder.record(observation, self._responses, self._probes)
            self._last_step = observation.step
            if resumes:
                self._fold_history(observation.step)
            self._diagnosis = self._detector.update(observation)
            self._steps_closed += 1
        finally:
            self._begin_step()

    def _gathered(self, scalars: dict[str, float]) -> dict[str, Any]:
        """The step's fields: what the rows say, then what the updates said, then what the step says."""
        with np.errstate(all="ignore"):  # inf - inf
            means = {name: float(np.mean(values)) for name, values in self._update_scalars.items()}
        if "grad_norm" in self._update_scalars:
            means["grad_norm_max"] = float(np.max(self._update_scalars["grad_norm"]))  # NaN stays NaN
        elif "grad_norm" in scalars:
            means["grad_norm_max"] = scalars["grad_norm"]
        return {**summarise(self._responses, self._probes), "updates": max(self._updates, 1), **means, **scalars}

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

    def _failed(self, where: str) -> None:
        self._say_once("error", f"Monitor.{where} failed: {traceback.format_exc()}")

    def _say_once(self, kind: str, detail: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("lldwatch: %s (said once; the training goes on)", detail)
            self._event(kind, detail)

    def _event(self, kind: str, detail: str) -> None:
        self._recorder.event(-1 if self._last_step is None else self._last_step, kind, detail)


def _problem(responses: Responses) -> str | None:
    """What is wrong with the values of a batch, in one line."""
    for name, argument in (("log_prob", "log_probs"), ("old_log_prob", "old_log_probs"), ("entropy", "entropy")):
        values = getattr(responses, name)
        if values is not None and not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values))
            return (
                f"{argument} is not finite in {len(bad)} of {len(values)} responses (first: row {bad[0]}): "
                "expected finite nats wherever response_mask is 1"
            )
    if responses.tokens is not None and len(responses) and not responses.tokens.any():
        return f"response_mask is 0 everywhere in a batch of {len(responses)} responses: expected 1 on policy tokens"
    return None


def _numbers(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of what the loop gave; None is left out."""
    for name in scalars:
        if name not in _SCALARS:
            raise InputError(f"{name} is not a field of Observation: expected one of {', '.join(_SCALARS)}")
    try:
        return {name: _number(value) for name, value in scalars.items() if value is not None}
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"a value of {', '.join(scalars)} is not one number: {error}") from None


def _number(value: Any) -> float:
    """A tensor that wants a gradient would warn when it is turned into a number."""
    return float(value.detach() if hasattr(value, "detach") else value)
