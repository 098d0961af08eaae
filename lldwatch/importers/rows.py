"""Rows of responses and tokens beside the metrics of their step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lldwatch.columns import RowTable
from lldwatch.importers.find import Found
from lldwatch.importers.steps import Step
from lldwatch.importers.tally import Tally
from lldwatch.rollup import summarise
from lldwatch.schema import Observation, Probes, Responses


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
    for step in steps:
        while waiting and waiting[-1] < step.observation.step and not step.attempt:
            yield reader.alone(step.run, waiting.pop())
        tables: Sequence[RowTable] = ()
        if step.observation.step in found.rows:
            tables = reader.read(step.observation.step)
            if waiting and waiting[-1] == step.observation.step:
                waiting.pop()
        yield step._replace(observation=_complete(step.observation, tables)), tables
    while waiting:
        yield reader.alone("", waiting.pop())


class _Reader:
    """Reads files of rows; the identities count on."""

    def __init__(self, found: Found, tally: Tally) -> None:
        self._found, self._tally, self._uid = found, tally, 0

    def read(self, step: int) -> Sequence[RowTable]:
        assert self._found.rows_format is not None
        tables = self._found.rows_format.read(self._found.rows[step], self._uid, self._tally)
        self._uid += sum(len(table) for table in tables if isinstance(table, Responses))
        return tables

    def alone(self, run: str, step: int) -> tuple[Step, Sequence[RowTable]]:
        tables = self.read(step)
        self._tally.rows += 1
        return Step(run, 0, _complete(Observation(step=step), tables)), tables


def _complete(observation: Observation, tables: Sequence[RowTable]) -> Observation:
    """What the metrics lack is told by the rows."""
    responses = [table for table in tables if isinstance(table, Responses)]
    probes = [table for table in tables if isinstance(table, Probes)]
    told = summarise(responses, probes) if tables else {}
    return replace(observation, **{name: v for name, v in told.items() if getattr(observation, name) is None})
