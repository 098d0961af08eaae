"""Does the miniature really collapse? Trains its scenarios over seeds and tabulates what became of each run.

python benchmarks/miniature.py --out runs/miniature --json miniature.json

Every run is recorded by lldwatch in OUT/SCENARIO-baseB-seedS, so that another detector can be judged on it later. The
outcome is judged from the rewards alone, by lldwatch.search_world.outcome; the detector is judged on the outcome.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from lldwatch import Diagnosis, Monitor
from lldwatch.probe_plan import PRESETS
from lldwatch.search_world.grpo import SCENARIOS, StepResult, train
from lldwatch.search_world.outcome import WINDOW, Outcome, judge
from lldwatch.search_world.pretrain import PretrainSettings, base_policy


@dataclass(frozen=True)
class Trained:
    """One finished run: where it is recorded, what happened in each step, what became of it, how long it took."""

    scenario: str
    base_seed: int
    seed: int
    run_dir: Path
    steps: list[StepResult]
    outcome: Outcome
    diagnosis: Diagnosis
    seconds: float


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, a run's cell, and the cell of the summary row over the runs of a scenario."""

    title: str
    cell: Callable[[Trained], str]
    summary: Callable[[Sequence[Trained]], str] = lambda runs: ""


def _mean(title: str, value: Callable[[Trained], float], digits: int = 2) -> Column:
    return Column(
        title, lambda run: f"{value(run):.{digits}f}", lambda runs: f"{fmean(value(run) for run in runs):.{digits}f}"
    )


def _collapses(runs: Sequence[Trained]) -> str:
    steps = [run.outcome.collapse_step for run in runs if run.outcome.collapse_step is not None]
    return f"{len(steps)}/{len(runs)}" + (f" (median step {median(steps):g})" if steps else "")


def warning(run: Trained) -> int | None:
    """First step at which the detector warned."""
    return run.diagnosis.first_warning


def reward_alarm(run: Trained) -> int | None:
    """The peer: first step at which the mean reward of the last steps is a quarter below its running peak."""
    rewards = [step.reward for step in run.steps]
    peak = 0.0
    for end in range(WINDOW, len(rewards) + 1):
        mean = fmean(rewards[end - WINDOW : end])
        peak = max(peak, mean)
        if mean < 0.75 * peak:
            return run.steps[end - 1].step
    return None


def _step(step: int | None) -> str:
    return "-" if step is None else f"step {step}"


def _lead(runs: Sequence[Trained], alarm: Callable[[Trained], int | None]) -> str:
    """How many runs were alarmed, and how many steps before their sustained collapse in the median."""
    alarmed = [run for run in runs if alarm(run) is not None]
    leads = [
        run.outcome.collapse_step - step
        for run in alarmed
        if run.outcome.collapse_step is not None and (step := alarm(run)) is not None
    ]
    return f"{len(alarmed)}/{len(runs)}" + (f" (median lead {median(leads):g})" if leads else "")


COLUMNS = [
    Column("scenario", lambda run: run.scenario, lambda runs: f"**{runs[0].scenario}, mean of {len(runs)}**"),
    Column("base", lambda run: str(run.base_seed)),
    Column("seed", lambda run: str(run.seed)),
    _mean("start", lambda run: run.outcome.start),
    _mean(f"peak of {WINDOW} steps", lambda run: run.outcome.peak),
    _mean("final reward", lambda run: run.outcome.final),
    Column(
        "sustained collapse",
        lambda run: f"yes, step {run.outcome.collapse_step}" if run.outcome.collapse_step else "no",
        _collapses,
    ),
    Column("reward's own alarm", lambda run: _step(reward_alarm(run)), lambda runs: _lead(runs, reward_alarm)),
    Column("first warning", lambda run: _step(run.diagnosis.first_warning), lambda runs: _lead(runs, warning)),
    Column("stage at the end", lambda run: run.diagnosis.stage.label),
    _mean("seconds", lambda run: run.seconds, digits=1),
]
"""What the table shows."""


def train_one(scenario: str, base_seed: int, seed: int, steps: int, out: Path, probes: str = "full") -> Trained:
    """Trains and records one run, watched by a preset of probes."""
    policy = base_policy(PretrainSettings(seed=base_seed))
    run_dir = out / f"{scenario}-base{base_seed}-seed{seed}"
    settings = SCENARIOS[scenario]
    config = {**asdict(settings), "seed": seed, "base_seed": base_seed}
    began = time.perf_counter()
    with Monitor(run_dir, trainer="search_world", config=config, planned_steps=steps) as monitor:
        results = train(policy, settings, seed, steps, monitor, probes=probes)
    seconds = time.perf_counter() - began
    outcome = judge([result.reward for result in results])
    return Trained(scenario, base_seed, seed, run_dir, results, outcome, monitor.diagnosis, seconds)


def table(runs: Sequence[Trained], columns: Sequence[Column] = COLUMNS) -> str:
    """The runs as a Markdown table, with a summary row for each scenario."""
    lines = [[column.title for column in columns], ["---"] * len(columns)]
    lines += [[column.cell(run) for column in columns] for run in runs]
    for scenario in dict.fromkeys(run.scenario for run in runs):
        same = [run for run in runs if run.scenario == scenario]
        lines.append([column.summary(same) for column in columns])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parse(argv)
    bases = arguments.base_seeds * (len(arguments.seeds) if len(arguments.base_seeds) == 1 else 1)
    out = arguments.out or Path(tempfile.mkdtemp(prefix="lldwatch-miniature-"))
    runs = []
    for scenario in arguments.scenarios:
        for base_seed, seed in zip(bases, arguments.seeds, strict=True):
            runs.append(train_one(scenario, base_seed, seed, arguments.steps, out, arguments.probes))
            print(" ".join(column.cell(runs[-1]) for column in COLUMNS), file=sys.stderr, flush=True)
    print(table(runs))
    print(f"\nRecorded in {out}", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(run) for run in runs], default=str, indent=1) + "\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=list(range(10, 18)), help="one run of each scenario per seed"
    )
    parser.add_argument(
        "--base-seeds",
        nargs="+",
        type=int,
        help="base policies: one for all, or one a seed (default: 6 for seeds 10 and 11, 7 for 12 and 13, ...)",
    )
    parser.add_argument("--steps", type=int, default=80, help="rollout batches of a run")
    parser.add_argument("--probes", default="full", choices=PRESETS, help="what is re-scored how often (default full)")
    parser.add_argument("--out", type=Path, help="where the runs are recorded (default: a new temporary directory)")
    parser.add_argument("--json", type=Path, help="also write outcomes and per-step series to this file")
    arguments = parser.parse_args(argv)
    if arguments.base_seeds is None:
        arguments.base_seeds = [1 + seed // 2 for seed in arguments.seeds]
    if len(arguments.base_seeds) not in (1, len(arguments.seeds)):
        parser.error(
            f"got {len(arguments.base_seeds)} base seeds for {len(arguments.seeds)} seeds: give one, or one a seed"
        )
    if arguments.steps < WINDOW:
        parser.error(f"got --steps {arguments.steps}: a run is judged on at least {WINDOW}")
    return arguments


if __name__ == "__main__":
    main()
