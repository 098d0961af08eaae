"""How early and how rightly is a collapse foretold, and how often where none comes? lldwatch beside what else there is.

python benchmarks/detector.py --runs 200 --simulated 20 --miniature runs/miniature

Three kinds of runs, and they are never mixed: series to which nothing happens (simulated, stationary AR(1)), the
simulated scenarios of lldwatch.simulate, and recorded trainings of the miniature, whose collapse is judged from the
rewards alone by lldwatch.search_world.outcome. Everything is written as Markdown; progress goes to standard error.

The packages rldoctor, rlprobe and rlwatch take part where they are installed (make bench-peers). One of them needs
seconds for a run of 700 steps, so they see --peer-runs of the null runs.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from watchers import NAIVE, OWN, PEERS, Said, installed_peers

from lldwatch import Run
from lldwatch.scoring import Estimate, Judged, reliability, resolved, score
from lldwatch.search_world.outcome import judge
from lldwatch.simulate import SCENARIOS, SimulatedRun, null, simulate

PHIS = (0.0, 0.5, 0.8, 0.95)
HOW_TO_READ = """\
How to read: warned runs of all runs; *lead*: median steps from the first warning to the sustained collapse, with the
95 % bootstrap interval over runs; *called*: runs that the watcher called collapsed (its highest severity); naive rules
have no such call. Only the first warning of a run counts; before the onset of an illness it is a false alarm. In
parser_broken the reward is lost though the policy is well: there a warning is welcome, calling it collapsed is not; it
counts with the healthy runs all the same. The packages also warn of what is no collapse (rldoctor of a reward that no
longer rises), so their calls are the fairer comparison.
"""
LLDWATCH = ("lldwatch", "lldwatch, headline alone", "lldwatch, scalars only")
DIRECTORY = re.compile(r"(?P<scenario>[\w-]+?)-base(?P<base>\d+)-seed(?P<seed>\d+)")
REUSE = ("lld_spiral", "off_policy_overuse")
"""What is right to say of a miniature that collapses: displacement, by too many updates on each batch."""


@dataclass(frozen=True)
class Task:
    """A run to judge all watchers on: of a set, and where it comes from."""

    kind: str
    set: str
    load: Callable[[], SimulatedRun]
    watchers: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of a run beside what a watcher said about it."""

    kind: str
    set: str
    watcher: str
    judged: Judged
    called: int | None


def judge_run(task: Task) -> list[Verdict]:
    """All watchers of a task on its run."""
    run = task.load()
    steps = run.observations[-1].step
    families = REUSE if task.kind == "miniature" and run.collapse else (run.family,) if run.family else ()
    known = OWN | installed_peers()
    verdicts = []
    for name in task.watchers:
        said: Said = known[name](run.observations, run.floor)
        judged = Judged(
            steps=steps,
            families=families,
            onset=run.onset,
            collapse=run.collapse,
            alarm=said.warned,
            said=said.family_by(run.collapse or steps),
            forecasts=said.forecasts,
        )
        verdicts.append(Verdict(task.kind, task.set, name, judged, said.called))
    return verdicts


def recorded(directory: Path) -> SimulatedRun:
    """A run of the miniature; it was trained, not simulated, and shares only the record's shape."""
    observations = list(Run(directory).observations())
    collapse = judge([row.reward or 0.0 for row in observations]).collapse_step
    return SimulatedRun(
        name=directory.name,
        observations=observations,
        collapse=None if collapse is None else observations[collapse - 1].step,
    )


def miniature(directory: Path) -> list[Path]:
    """The recorded runs in a directory; if it has none, both scenarios are trained on ten seeds first."""
    if not any(DIRECTORY.fullmatch(path.name) for path in directory.glob("*")):
        from miniature import train_one  # needs torch, which the peers' environment lacks

        for scenario in ("healthy", "collapse"):
            for seed in range(10, 18):
                print(f"training {scenario}, seed {seed}", file=sys.stderr, flush=True)
                train_one(scenario, 1 + seed // 2, seed, 80, directory)
    return sorted(path for path in directory.iterdir() if DIRECTORY.fullmatch(path.name))


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    own, peers = tuple(OWN), tuple(installed_peers())
    for phi in PHIS:
        for seed in range(arguments.runs):
            seen = own if seed < arguments.scalar_runs else tuple(name for name in own if name not in LLDWATCH[1:])
            seen += peers if seed < arguments.peer_runs else ()
            yield Task("null", f"{phi:g}", partial(null, seed, arguments.null_steps, phi), seen)
    for scenario in SCENARIOS:
        for seed in range(arguments.simulated):
            yield Task("simulated", scenario, partial(simulate, scenario, seed, arguments.steps), own + peers)
    for directory in miniature(arguments.miniature) if arguments.miniature else ():
        match = DIRECTORY.fullmatch(directory.name)
        assert match is not None
        yield Task("miniature", match["scenario"], partial(recorded, directory), own + peers)


def judge_all(arguments: argparse.Namespace) -> list[Verdict]:
    todo = list(tasks(arguments))
    began, verdicts = time.monotonic(), []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for done, part in enumerate(pool.map(judge_run, todo, chunksize=4), start=1):
            verdicts += part
            if done % 100 == 0 or done == len(todo):
                print(f"{done} of {len(todo)} runs, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return verdicts


def number(estimate: Estimate, digits: int = 3) -> str:
    """Value and interval; a dash where no run has one."""
    if math.isnan(estimate.value):
        return "-"
    value, low, high = (f"{part:.{digits}g}" for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(titles), ["---"] * len(titles), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def of_watchers(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Watcher -> its verdicts, in the order of the watchers."""
    names = [name for name in (*OWN, *PEERS) if any(verdict.watcher == name for verdict in verdicts)]
    return {name: [verdict for verdict in verdicts if verdict.watcher == name] for name in names}


def alarmed(verdicts: Sequence[Verdict]) -> str:
    """Of healthy runs: how many were warned about, and how many called collapsed."""
    if not verdicts:
        return "-"
    warned = sum(verdict.judged.alarm is not None for verdict in verdicts)
    called = sum(verdict.called is not None for verdict in verdicts)
    return f"{warned}/{len(verdicts)}" + (f", called {called}" if called else "")


def foretold(verdicts: Sequence[Verdict]) -> str:
    """Of ill runs: how many were rightly warned about, before the collapse if there is one, and how long before."""
    judged = [verdict.judged for verdict in verdicts]
    right = sum(run.detected and (run.collapse is None or run.alarm < run.collapse) for run in judged)
    lead = score(judged).lead
    return f"{right}/{len(judged)}" + ("" if math.isnan(lead.value) else f", lead {number(lead)}")


def side_by_side(verdicts: Sequence[Verdict], first: str, cell: Callable[[Sequence[Verdict]], str]) -> str:
    """One row a set of runs, one column a watcher."""
    watchers = of_watchers(verdicts)
    sets = dict.fromkeys(verdict.set for verdict in verdicts)
    rows = [
        [name, *(cell([verdict for verdict in said if verdict.set == name]) for said in watchers.values())]
        for name in sets
    ]
    return table([first, *watchers], rows)


def called_collapsed(verdicts: Sequence[Verdict], collapsing: bool) -> str:
    among = [verdict for verdict in verdicts if (verdict.judged.collapse is not None) is collapsing]
    among = [verdict for verdict in among if collapsing or not verdict.judged.ill]
    return f"{sum(verdict.called is not None for verdict in among)}/{len(among)}" if among else "-"


def in_detail(verdicts: Sequence[Verdict], watcher: str, first: str) -> str:
    """What the columns of the brief tables leave out, for one watcher."""
    titles = [first, "runs", "warned", "too early", "median delay from onset", "median lead before collapse"]
    rows = []
    for name in dict.fromkeys(verdict.set for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.set == name and verdict.watcher == watcher]
        runs = [verdict.judged for verdict in mine]
        scored = score(runs)
        early = sum(run.false_alarm and run.ill for run in runs)
        warned = f"{sum(run.alarm is not None for run in runs)}"
        called = f"{sum(verdict.called is not None for verdict in mine)}"
        right = number(scored.family_right, 2)
        rows.append(
            [name, f"{len(runs)}", warned, f"{early}", number(scored.delay), number(scored.lead), called, right]
        )
    return table([*titles, "called collapsed", "family right"], rows)


def totals(verdicts: Sequence[Verdict]) -> str:
    titles = ["watcher", "runs", "warned before the collapse", "median lead", "median delay", "ill runs missed"]
    titles += ["healthy runs warned", "false alarms per 1,000 healthy steps", "called: collapsing", "called: healthy"]
    rows = []
    for name, said in of_watchers(verdicts).items():
        scored = score([verdict.judged for verdict in said])
        row = [name, f"{scored.runs}", number(scored.in_time, 2), number(scored.lead), number(scored.delay)]
        row += [number(share, 2) for share in (scored.missed, scored.healthy_alarmed, scored.false_alarms)]
        row += ["-", "-"] if name in NAIVE else [called_collapsed(said, True), called_collapsed(said, False)]
        rows.append([*row, number(scored.family_right, 2) if name in LLDWATCH else "-"])
    return table([*titles, "family right"], rows)


def forecasts(verdicts: Sequence[Verdict]) -> str:
    """Brier score and reliability of lldwatch's forecasts, for all signals and for scalars."""
    parts = []
    for watcher in (LLDWATCH[0], LLDWATCH[-1]):
        runs = [verdict.judged for verdict in verdicts if verdict.watcher == watcher]
        if not any(resolved(run) for run in runs):
            parts.append(f"{watcher}: no forecasts.\n")
            continue
        rows = [
            [f"{part.low:g} to {part.high:g}", f"{part.forecast:.3f}", f"{part.observed:.3f}", str(part.count)]
            for part in reliability(runs)
        ]
        parts.append(f"{watcher}: Brier score {number(score(runs).brier)}.\n")
        parts.append(table(["forecast", "mean forecast", "came true", "forecasts"], rows))
    return "\n".join(parts)


def report(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The document, part by part."""
    yield HOW_TO_READ
    absent = [name for name in PEERS if name not in installed_peers()]
    if absent:
        yield f"Left out, since not installed (make bench-peers): {', '.join(absent)}.\n"
    nothing = [verdict for verdict in verdicts if verdict.kind == "null"]
    if nothing:
        yield "## Nothing happens (simulated AR(1) series)\n"
        yield side_by_side(nothing, "autocorrelation", alarmed)
        yield totals(nothing)
    for kind, title in (("simulated", "Simulated trainings"), ("miniature", "Recorded trainings of the miniature")):
        some = [verdict for verdict in verdicts if verdict.kind == kind]
        if not some:
            continue
        yield f"## {title}\n"
        ill = {verdict.set for verdict in some if verdict.judged.ill}
        for first, cell in (("ill", foretold), ("healthy", alarmed)):
            part = [verdict for verdict in some if (verdict.set in ill) is (first == "ill")]
            if part:
                yield side_by_side(part, first, cell)
        yield totals(some)
        for watcher in (LLDWATCH[0], LLDWATCH[-1]):
            yield f"### {title}: {watcher}, in detail\n"
            yield in_detail(some, watcher, "runs of")
        yield f"### {title}: forecasts\n"
        yield forecasts(some)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="null runs of each autocorrelation")
    parser.add_argument("--null-steps", type=int, default=700, help="steps of a null run")
    parser.add_argument(
        "--scalar-runs", type=int, default=50, help="how many of them lldwatch sees with fewer signals too"
    )
    parser.add_argument("--peer-runs", type=int, default=25, help="how many of them the installed packages see")
    parser.add_argument("--simulated", type=int, default=20, help="simulated runs of each scenario")
    parser.add_argument("--steps", type=int, default=200, help="steps of a simulated run")
    parser.add_argument(
        "--miniature", type=Path, help="recorded runs of benchmarks/miniature.py; trained into it if it has none"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    for part in report(judge_all(parser.parse_args(argv))):
        print(part)


if __name__ == "__main__":
    main()
