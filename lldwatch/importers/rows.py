"""Rows of responses beside the metrics of their step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lldwatch.columns import Array, RowTable
from lldwatch.importers.find import Found
from lldwatch.importers.format import Rows
from lldwatch.importers.steps import Step
from lldwatch.importers.tally import Tally
from lldwatch.rollup import summarise
from lldwatch.schema import Observation, Responses

_NONE = Rows(Responses())
_AGAIN = "response that stands in the step before as well, since its batch is used again"


def with_rows(steps: Iterator[Step], found: Found, tally: Tally) -> Iterator[tuple[Step, Sequence[RowTable]]]:
    """Each step with its rows; steps of which there are rows alone come in their order.

    What a log says of a step holds before what its rows say, since the rows may be a sample.

    Args:
        steps: from the metrics.
        found: names the files of rows.
        tally: counts what is left out of them.
    """
    waiting = sorted(found.rows, reverse=True)
    reader = _Reader(found, tally)
    run, attempt = "", 0
    for step in steps:
        if found.rows and reader.begun and step.run != run:
            tally.note("the log holds several runs, and nothing tells whose the files of responses are: each has them")
        run, attempt = step.run, step.attempt
        while waiting and waiting[-1] < step.observation.step:
            yield from reader.alone(run, attempt, waiting.pop())
        if waiting and waiting[-1] == step.observation.step:
            waiting.pop()
        yield reader.beside(step)
    while waiting:
        yield from reader.alone(run, attempt, waiting.pop())


class _Reader:
    """Reads rows step by step; the identities of responses count on.

    Attributes:
        begun: something was read.
    """

    def __init__(self, found: Found, tally: Tally) -> None:
        self._found, self._tally = found, tally
        self._read: Callable[[int], Rows] | None = None
        self._before: Counter[bytes] = Counter()
        self._uid = 0
        self.begun = False

    def beside(self, step: Step) -> tuple[Step, Sequence[RowTable]]:
        """A step of the metrics. Where these lack a reward, no response was written: what stands there was before."""
        if step.observation.step not in self._found.rows:
            return step, ()
        rows, again = self._next(step.observation.step, fresh=step.observation.reward is not None)
        observation = step.observation if again else _complete(step.observation, rows)
        return step._replace(observation=observation), _tables(rows)

    def alone(self, run: str, attempt: int, step: int) -> Iterator[tuple[Step, Sequence[RowTable]]]:
        """A step that no metrics tell of; nothing if there is nothing new in it."""
        rows, _ = self._next(step, fresh=False)
        if len(rows.responses):
            self._tally.rows += 1
            yield Step(run, attempt, _complete(Observation(step=step), rows)), _tables(rows)

    def _next(self, step: int, *, fresh: bool) -> tuple[Rows, bool]:
        """The rows of a step, without those that the step before held as well; and whether there were such."""
        self.begun = True
        rows = self._guarded(step)
        responses, again = rows.responses, False
        if rows.marks is not None:
            new = np.array([self._is_new(mark) for mark in rows.marks], bool)
            self._before = Counter(rows.marks)
            again = not fresh and not new.all()
            if again:
                self._tally.drop(_AGAIN, f"step {step}", int((~new).sum()))
                responses = _only(responses, new)
        if len(responses):
            uid = np.arange(self._uid, self._uid + len(responses))
            self._uid += len(responses)
            responses = replace(responses, uid=uid)
        return rows._replace(responses=responses), again

    def _is_new(self, mark: bytes) -> bool:
        """Each of the responses of the step before explains one of this step."""
        self._before[mark] -= 1
        return self._before[mark] < 0

    def _guarded(self, step: int) -> Rows:
        """What a reader did not foresee costs the rows of a step, not the import."""
        try:
            if self._read is None:
                assert self._found.rows_format is not None
                self._read = self._found.rows_format.read(self._found.rows, self._tally)
            return self._read(step)
        except MemoryError:
            raise
        except Exception as error:  # told in the account of the import, as a fault of ours
            self._tally.fault(error)
            return _NONE


def _only(responses: Responses, chosen: Array) -> Responses:
    columns = {name: column[chosen] for name, column in responses.columns().items() if column is not None}
    return Responses(**columns) if chosen.any() else Responses()


def _tables(rows: Rows) -> Sequence[RowTable]:
    return (rows.responses,) if len(rows.responses) else ()


def _complete(observation: Observation, rows: Rows) -> Observation:
    """What the metrics lack is told by the rows."""
    told = {**summarise([rows.responses], []), **rows.values} if len(rows.responses) else {}
    return replace(observation, **{name: v for name, v in told.items() if getattr(observation, name) is None})
