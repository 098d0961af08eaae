"""Which estimator of the likelihood change speaks first, and which one cries wolf?

python benchmarks/estimators.py --out runs/estimators        (about 20 minutes on two cores; a second time at once)

Trains both scenarios of the miniature on ten seeds, watched by all probes (preset `full`), and reads each recorded
signal the same way: the mean of its last five measurements, against the worst such mean in the healthy runs of base
policy 0 (seeds 0 to 4). Those runs set the limit, so they cannot judge it: false alarms are counted in the healthy runs
of five other base policies. The lead is how many steps the first alarm comes before the sustained collapse, which is
judged from the rewards alone by lldwatch.search_world.outcome.

A single excursion of a healthy run sets such a limit. So the table also says, without any limit, how well the signal
tells runs apart some steps before the collapse: the share of all pairs of a collapsing and a healthy run in which it
is worse in the former at that step (0.5: not at all).

The scenarios differ in how often a batch is used. What measures that itself (clip fraction, the change of the batch's
own incorrect responses) tells them apart from the first steps on, whether a run is ill or not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median

from miniature import train_one

from lldwatch import Run
from lldwatch.search_world.outcome import judge

WINDOW = 5
BEFORE = (20, 15, 10, 5)
"""Steps before the collapse at which runs are told apart."""
SEEDS = [(max(0, seed - 4), seed) for seed in range(10)]
"""Base policy and seed of each run; the first five set the limits."""

ESTIMATORS = {  # name in the table: (column of steps, +1 if a rise is bad and -1 if a fall is)
    "cross-update (previous step's correct responses)": ("cross_update_change", -1),
    "cross-update, first actions": ("cross_update_first_action", -1),
    "cross-update, later actions": ("cross_update_later_actions", -1),
    "lagged, 5 steps": ("lagged_change_5", -1),
    "lagged, 10 steps": ("lagged_change_10", -1),
    "lagged, 20 steps": ("lagged_change_20", -1),
    "fixed anchors": ("fixed_anchor_change", -1),
    "post-update, correct": ("post_update_correct", -1),
    "post-update, incorrect": ("post_update_incorrect", -1),
    "post-update, advantage 0": ("post_update_zero_advantage", -1),
    "post-update, gap within a prompt": ("post_update_gap", -1),
    "in-batch, advantage > 0": ("change_positive", -1),
    "in-batch, advantage > 0, at update 3": ("in_batch 3", -1),
    "in-batch, advantage < 0": ("change_negative", -1),
    "gap within a prompt": ("gap", -1),
    "log-prob of correct responses": ("log_prob_correct", -1),
    "log-prob of their first actions": ("log_prob_first_action", -1),
    "tokens below 0.1": ("low_confidence_share", +1),
    "smallest token log-prob": ("min_log_prob", -1),
    "entropy": ("entropy", +1),
    "gradient norm": ("grad_norm", +1),
    "clip fraction": ("clip_fraction", +1),
    "responses with advantage 0": ("zero_advantage_share", +1),
    "valid format": ("format_valid_share", -1),
    "reward": ("reward", -1),
}


@dataclass(frozen=True)
class Watched:
    """A finished run: which base policy and seed, when it collapsed for good (None: never), and its series."""

    base_seed: int
    seed: int
    collapse_step: int | None
    series: dict[str, list[tuple[int, float]]]


def read(run_dir: Path, base_seed: int, seed: int) -> Watched:
    """Column -> (step, value) of the steps at which it was measured."""
    run = Run(run_dir)
    steps = run.steps().to_pydict()
    series: dict[str, list[tuple[int, float]]] = {
        column: [pair for pair in zip(steps["step"], steps.get(column, []), strict=False) if pair[1] is not None]
        for column, _ in ESTIMATORS.values()
    }
    series["in_batch 3"] = [
        (row["step"], (row["log_prob_after"] - row["log_prob_before"]) / row["tokens"])
        for row in run.probes().to_pylist()
        if row["kind"] == "in_batch" and row["update"] == 3 and row["correct"]
    ]
    return Watched(base_seed, seed, judge(steps["reward"]).collapse_step, series)


def train_or_read(of: tuple[str, int, int], steps: int, out: Path) -> Watched:
    """Train and record a run, unless it is there already and ended."""
    scenario, base_seed, seed = of
    run_dir = out / f"{scenario}-base{base_seed}-seed{seed}"
    if not (run_dir.is_dir() and Run(run_dir).ended):
        train_one(scenario, base_seed, seed, steps, out, "full")
    return read(run_dir, base_seed, seed)


def means(run: Watched, column: str, sign: int) -> list[tuple[int, float]]:
    """Step and mean of the last measurements, turned so that more is worse."""
    series = run.series[column]
    ends = range(WINDOW, len(series) + 1)
    return [(series[end - 1][0], sign * fmean(value for _, value in series[end - WINDOW : end])) for end in ends]


def alarm(run: Watched, column: str, sign: int, limit: float) -> int | None:
    """First step beyond the limit."""
    return next((step for step, mean in means(run, column, sign) if mean > limit), None)


def apart(healthy: Sequence[Watched], died: Sequence[Watched], column: str, sign: int, before: int) -> float | None:
    """Share of pairs in which the collapsing run looks worse so many steps before its collapse; ties count half."""

    def at(run: Watched, step: int) -> float | None:
        seen = [mean for when, mean in means(run, column, sign) if when <= step]
        return seen[-1] if seen else None

    won = []
    for run in died:
        assert run.collapse_step is not None
        step = run.collapse_step - before
        ill = at(run, step)
        well = [at(other, step) for other in healthy]
        won += [(ill > one) + 0.5 * (ill == one) for one in well if ill is not None and one is not None]
    return fmean(won) if won else None


def judged(healthy: Sequence[Watched], collapsing: Sequence[Watched]) -> list[dict[str, object]]:
    """One row an estimator, the longest lead first."""
    rows = []
    for name, (column, sign) in ESTIMATORS.items():
        limit = max(mean for run in healthy if run.base_seed == 0 for _, mean in means(run, column, sign))
        others = [run for run in healthy if run.base_seed]
        false = sum(alarm(run, column, sign, limit) is not None for run in others)
        died = [run for run in collapsing if run.collapse_step is not None]
        leads = [
            run.collapse_step - step
            for run in died
            if run.collapse_step is not None and (step := alarm(run, column, sign, limit)) is not None
        ]
        before = [lead for lead in leads if lead > 0]
        row = {"estimator": name, "limit": sign * limit, "collapses": len(died), "seen before": len(before)}
        row |= {"false alarms": false, "judged": len(others)}
        row |= {f"apart {steps}": apart(healthy, died, column, sign, steps) for steps in BEFORE}
        rows.append({**row, "lead": median(before) if before else None, "leads": sorted(before)})
    return sorted(rows, key=_order)


def _order(row: dict[str, object]) -> tuple[float, ...]:
    """The best at telling apart early come first; what was not measured yet at that time counts as telling nothing."""
    return tuple(-float(str(0.5 if row[name] is None else row[name])) for name in (f"apart {b}" for b in BEFORE))


def table(rows: Sequence[dict[str, object]]) -> str:
    """As Markdown."""
    titles = ["estimator", *(f"told apart {steps} steps before" for steps in BEFORE)]
    titles += ["median lead of the alarm (range)", "alarmed before the collapse", "false alarms"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        leads = row["leads"]
        assert isinstance(leads, list)
        lead = f"{row['lead']:g} ({leads[0]} to {leads[-1]})" if leads else "-"
        shares = ["-" if (share := row[f"apart {steps}"]) is None else f"{share:.2f}" for steps in BEFORE]
        seen, false = f"{row['seen before']} of {row['collapses']}", f"{row['false alarms']} of {row['judged']}"
        lines.append("| " + " | ".join([str(row["estimator"]), *shares, lead, seen, false]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--out", type=Path, help="where the runs are recorded, or stand already (default: temporary)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="lldwatch-estimators-"))
    wanted = [(scenario, *seeds) for scenario in ("healthy", "collapse") for seeds in SEEDS]
    with ProcessPoolExecutor(arguments.workers) as pool:
        runs = list(pool.map(partial(train_or_read, steps=arguments.steps, out=out), wanted))
    rows = judged(runs[: len(SEEDS)], runs[len(SEEDS) :])
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))


if __name__ == "__main__":
    main()
