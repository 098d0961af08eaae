"""Runs beside what the detector says of them; a simulated one is made and folded once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from lldwatch import CollapseDetector, Diagnosis, Observation, Stage
from lldwatch.checks import Settings
from lldwatch.diagnosis import Verdict
from lldwatch.signs import Signs
from lldwatch.simulate import SCENARIOS, SimulatedRun, scalars_only, simulate

ILL = (
    "lld_spiral",
    "sharpening",
    "format_loss",
    "mismatch",
    "numerical",
    "gradient_starvation",
    "optimiser_blow_up",
    "off_policy_overuse",
)
"""Scenarios that are one of the families, and have its name."""
HEALTHY = tuple(name for name in SCENARIOS if name not in (*ILL, "ideal_likelihood"))
LOOKS_ILL = ("dip_and_recover", "parser_broken")
"""Healthy ones whose reward really falls: a warning is no mistake there."""


@dataclass(frozen=True)
class Watched:
    """A run, the verdict as of each of its steps, and the diagnosis as of the last."""

    run: SimulatedRun
    verdicts: list[Verdict]
    diagnosis: Diagnosis

    @property
    def worst(self) -> Stage:
        return max(verdict.stage for verdict in self.verdicts)


def watch(run: SimulatedRun) -> Watched:
    detector = CollapseDetector()
    verdicts = [detector.fold(observation) for observation in run.observations]
    return Watched(run, verdicts, detector.diagnosis)


@cache
def watched(scenario: str, seed: int, *, scalars: bool = False) -> Watched:
    run = simulate(scenario, seed)
    return watch(scalars_only(run) if scalars else run)


def signs_of(rows: Iterable[Observation]) -> Signs:
    """What the checks of the detector say together after these steps."""
    signs = Signs(Settings())
    for row in rows:
        signs.update(row)
    return signs
