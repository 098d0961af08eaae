"""`lldwatch watch`: follow a run in the terminal while it trains, or a training's output while it is printed."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lldwatch.commands.values import add_import_options, import_options
from lldwatch.diagnosis import Verdict
from lldwatch.errors import InputError
from lldwatch.follow import Follower
from lldwatch.importers.job import STDIN
from lldwatch.importers.known import names
from lldwatch.importers.live import LiveImport
from lldwatch.importers.result import write_account
from lldwatch.importers.tally import Tally, one_line
from lldwatch.report import headline
from lldwatch.run import Run
from lldwatch.schema import Observation

_POLL_SECONDS = 1.0
_AT_ONCE = 1024**2


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("watch", help="follow a run in the terminal while it trains")
    parser.add_argument("run", metavar="RUN", help="a run; with --import: - for what another process prints")
    parser.add_argument(
        "--import",
        dest="format",
        choices=["auto", *names()],
        metavar="FORMAT",
        help="read standard input as a log of this format: python train.py | tee log | lldwatch watch --import auto -",
    )
    parser.add_argument("--out", type=Path, metavar="NEW", help="with --import: keep what was read as a run")
    add_import_options(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print each step as it comes, until the run ends."""
    if options.format is None:
        if options.run == STDIN:
            raise InputError("- is standard input: say how to read it, for instance --import auto")
        return _watch(Run(options.run))
    if options.run != STDIN:
        words = f"tail -n +1 -f {options.run} | lldwatch watch --import {options.format} -"
        raise InputError(f"--import follows standard input, not a file: {words}")
    with ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lldwatch-")), "run")
        live = LiveImport(out, import_options(options, options.format))
        live.begun.wait()
        if live.error is None:
            _watch(Run(out), live)
        if live.error is None:
            write_account([live.record], Tally(), sys.stdout)
        _read_to_the_end(live)
    return 0


def _read_to_the_end(live: LiveImport) -> None:
    """A pipe that nobody reads any more ends the training that writes it: so it is read, also where nothing is watched.

    Raises:
        Exception: what ended the watching.
    """
    sys.stdout.flush()
    stream: Any = sys.stdin.buffer if sys.stdin is not None and not sys.stdin.isatty() else io.BytesIO()
    waiting = stream.read1(_AT_ONCE)
    if waiting:
        why = "reading ended early" if live.error is None else one_line(str(live.error))
        words = "nothing more is watched, and the input is read to its end, so that the training goes on"
        sys.stderr.write(f"lldwatch: {why}: {words}\n")
    while waiting:
        waiting = stream.read1(_AT_ONCE)
    if live.error is not None:
        raise live.error


def _watch(run: Run, live: LiveImport | None = None) -> int:
    follower = Follower(run)
    shown: tuple[str, ...] = ()
    while True:
        first = follower.update()
        for observation, verdict in zip(follower.observations[first:], follower.verdicts[first:], strict=True):
            print(_line(observation, verdict))
        state = (headline(follower.diagnosis), *run.problems)
        if state != shown:
            print("\n".join(f"  {line}" for line in state))
            shown = state
        if run.ended or (live is not None and live.error is not None):
            if live is None:
                print(f"the run ended at {run.info.ended}")
            return 0
        sys.stdout.flush()  # a pipe or a log file shows the steps at once as well
        time.sleep(_POLL_SECONDS)


def _line(observation: Observation, verdict: Verdict) -> str:
    reward = "-" if observation.reward is None else f"{observation.reward:.3f}"
    change = observation.cross_update_change
    moved = "-" if change is None else f"{change:+.4f}"
    chance = verdict.collapse_probability
    risk = "-" if chance is None else f"{chance:.0%}"
    line = f"step {observation.step:>6}  reward {reward:>7}  likelihood change {moved:>8}  risk {risk:>4}"
    return f"{line}  {verdict.stage.label}"
