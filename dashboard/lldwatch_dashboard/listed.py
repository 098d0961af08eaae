"""What the list knows of its runs at one moment, in the words that the other pages use too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from lldwatch.diagnosis import Diagnosis, Family, Stage
from lldwatch.glance import Glance
from lldwatch.schema import Observation, RunInfo
from lldwatch_dashboard.feed import Summary


class Listed(NamedTuple):
    """One row of the list; `glance` is None until the run has been read."""

    summary: Summary
    glance: Glance | None


@dataclass(frozen=True, slots=True)
class Look:
    """All runs as they are known now.

    Attributes:
        runs: one row each, sorted by name.
        read: how many of them have been read.
    """

    runs: tuple[Listed, ...]
    read: int


def summary_of(name: str, found: Glance) -> Summary:
    """The same in the words of the pages."""
    if found.error is not None:
        return Summary(name=name, error=found.error, problems=found.problems)
    info = RunInfo(trainer=found.trainer, planned_steps=found.planned_steps, started=found.started, ended=found.ended)
    told = Summary(name=name, info=info, pace=found.pace, ending=found.ending, problems=found.problems)
    if found.step is None or found.stage is None:
        return told
    stage = Stage[found.stage.upper()]
    diagnosis = Diagnosis(
        step=found.step,
        stage=stage,
        family=Family(found.family) if found.family else None,
        onsets={stage: found.onset} if found.onset is not None else {},
        known={stage: found.known} if found.known is not None else {},
        first_warning=found.first_warning,
        collapse_probability=found.collapse_probability,
    )
    last = Observation(step=found.step, time=found.last_time, reward=found.reward)
    return replace(told, last=last, diagnosis=diagnosis)
