"""Several trainings side by side: each held against the first, signal by signal, and their settings.

When a signal counts as different is the rule of `lldwatch.parting`; this module applies it to whole runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lldwatch.diagnosis import Diagnosis
from lldwatch.errors import InputError
from lldwatch.follow import Follower
from lldwatch.parting import Parting, common, different, part
from lldwatch.postmortem import finite_json, flat, run_name
from lldwatch.schema import Observation, RunInfo
from lldwatch.series import Series, all_measured
from lldwatch.signals import SIGNALS

Steps = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Contender:
    """A run that is compared.

    Attributes:
        name: what to call it.
        info: its `run.json`.
        observations: its steps.
        diagnosis: as of its last step.
    """

    name: str
    info: RunInfo
    observations: Sequence[Observation]
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class Pair:
    """The first run against another one.

    Attributes:
        other: place of the other run.
        steps: how many steps both have.
        equal_until: last of these steps up to which all signals of both are the same, number for number; None if they
            differ from the first on, or have none.
        equal: they are the same up to the end.
        partings: one for each signal that both have measured; those that part first stand first.
        only_first: signals that the other run lacks.
        only_other: signals that the first run lacks.
    """

    other: int
    steps: int
    equal_until: int | None
    equal: bool
    partings: tuple[Parting, ...]
    only_first: tuple[str, ...]
    only_other: tuple[str, ...]

    @property
    def parted(self) -> tuple[Parting, ...]:
        """The signals that part."""
        return tuple(parting for parting in self.partings if parting.step is not None)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs, each held against the first.

    Attributes:
        runs: as they were given.
        pairs: one for each run but the first.
        settings: flattened key -> the value of each run, of those that differ; a run without the key has `NO_SETTING`.
    """

    runs: tuple[Contender, ...]
    pairs: tuple[Pair, ...]
    settings: Mapping[str, tuple[Any, ...]]


class _NoSetting:
    """A run has no such setting; None may be one."""

    def __repr__(self) -> str:
        return "not set"


NO_SETTING = _NoSetting()


def contender(follower: Follower, name: str | None = None) -> Contender:
    """A run that has been read.

    Args:
        follower: of the run, up to date.
        name: what to call it, if not by its directory.
    """
    run = follower.run
    return Contender(name or run_name(run), run.info, follower.observations, follower.diagnosis)


def compare(runs: Sequence[Contender]) -> Comparison:
    """Hold each run against the first.

    Args:
        runs: at least two.

    Raises:
        InputError: there are fewer.
    """
    if len(runs) < 2:
        raise InputError(f"{len(runs)} run: a comparison takes at least two")
    measured = [all_measured(run.observations) for run in runs]
    pairs = tuple(_pair(place, measured[0], measured[place]) for place in range(1, len(runs)))
    return Comparison(tuple(runs), pairs, differing([run.info.config for run in runs]))


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Flattened key -> the setting of each, of the keys whose settings are not all the same; sorted by key."""
    settings = [flat(config) for config in configs]
    rows = {key: tuple(each.get(key, NO_SETTING) for each in settings) for key in sorted(set().union(*settings))}
    return {key: row for key, row in rows.items() if len({_told(setting) for setting in row}) > 1}


def _told(setting: Any) -> str:
    """What tells settings apart: True == 1, and they are two."""
    return repr(setting) if setting is NO_SETTING else json.dumps(finite_json(setting), sort_keys=True)


def _pair(place: int, first: Mapping[str, Series], other: Mapping[str, Series]) -> Pair:
    both = [name for name in SIGNALS if name in first and name in other]
    partings = [part(name, first[name], other[name]) for name in both]
    order = sorted(partings, key=lambda found: (found.step is None, found.step or 0, found.certain or 0))
    steps, equal = _equal(first, other)
    return Pair(
        place,
        len(steps),
        int(equal[-1]) if len(equal) else None,
        0 < len(equal) == len(steps),
        tuple(order),
        tuple(name for name in SIGNALS if name in first and name not in other),
        tuple(name for name in SIGNALS if name in other and name not in first),
    )


def _equal(first: Mapping[str, Series], other: Mapping[str, Series]) -> tuple[Steps, Steps]:
    """The common steps, and those before the first difference in any signal."""
    both = [common(first[name], other[name]) for name in first if name in other]
    steps = np.unique(np.concatenate([np.zeros(0, np.int64), *(one.steps for one, _ in both)]))
    unequal = np.concatenate([steps[:0], *(one.steps[np.flatnonzero(different(one, two))] for one, two in both)])
    return steps, steps[steps < unequal.min()] if len(unequal) else steps
