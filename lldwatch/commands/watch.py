"""`lldwatch watch`: follow a run in the terminal while it trains, or a training's output while it is printed."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from lldwatch.alert_channels import SHAPES, Channel, Command, Webhook
from lldwatch.alert_delivery import Delivery, check
from lldwatch.alerts import Alert, name_of
from lldwatch.commands.values import add_import_options, import_options
from lldwatch.diagnosis import Verdict
from lldwatch.errors import InputError, LldwatchError
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
    parser.add_argument(
        "--bell", action=argparse.BooleanOptionalAction, help="ring with each alert (default: on a terminal)"
    )
    parser.add_argument(
        "--command", dest="program", metavar="PROGRAM", help="run it with each alert as JSON on its standard input"
    )
    parser.add_argument(
        "--webhook",
        choices=list(SHAPES),
        metavar="SHAPE",
        help="post alerts to $LLDWATCH_WEBHOOK: json, slack, discord",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print each step as it comes, until the run ends."""
    if options.format is None:
        if options.run == STDIN:
            raise InputError("- is standard input: say how to read it, for instance --import auto")
        with closing(_Teller(options)) as teller:
            return _watch(Run(options.run), teller)
    if options.run != STDIN:
        words = f"tail -n +1 -f {options.run} | lldwatch watch --import {options.format} -"
        raise InputError(f"--import follows standard input, not a file: {words}")
    with ExitStack() as stack:
        try:
            teller = stack.enter_context(closing(_Teller(options)))
        except LldwatchError as error:
            _read_to_the_end(error)
            raise
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lldwatch-")), "run")
        live = LiveImport(out, import_options(options, options.format))
        live.begun.wait()
        if live.error is None:
            _watch(Run(out), teller, live)
        if live.error is None:
            write_account([live.record], Tally(), sys.stdout)
        _read_to_the_end(live.error)
        if live.error is not None:
            raise live.error
    return 0


def _read_to_the_end(error: Exception | None) -> None:
    """A pipe that nobody reads any more ends the training that writes it: so it is read, also where nothing is watched.

    Args:
        error: what ended the watching; None: the stream did.
    """
    sys.stdout.flush()
    stream: Any = sys.stdin.buffer if sys.stdin is not None and not sys.stdin.isatty() else io.BytesIO()
    waiting = stream.read1(_AT_ONCE)
    if waiting:
        why = "reading ended early" if error is None else one_line(str(error))
        words = "nothing more is watched, and the input is read to its end, so that the training goes on"
        sys.stderr.write(f"lldwatch: {why}: {words}\n")
    while waiting:
        waiting = stream.read1(_AT_ONCE)


class _Teller:
    """Whoever is to be told of alerts: the terminal, and what the command line names."""

    def __init__(self, options: argparse.Namespace) -> None:
        channels: list[Channel] = [Command(options.program)] if options.program is not None else []
        channels += [Webhook(shape=options.webhook)] if options.webhook else []
        check(channels)
        self._rings = sys.stdout.isatty() if options.bell is None else options.bell
        self._delivery = Delivery(channels, lambda step, words: None)  # what fails is logged, and that is all

    def tell(self, alert: Alert) -> None:
        print(f"  ALERT {alert.title}" + "\a" * self._rings)
        self._delivery.send(alert)

    def close(self) -> None:
        self._delivery.close()


def _watch(run: Run, teller: _Teller, live: LiveImport | None = None) -> int:
    follower = Follower(run, alerting=True)
    shown: tuple[str, ...] = ()
    seen_at = _last_written(run)
    past = live is None  # what had begun before somebody watched is no news: the headline says it
    while True:
        first = follower.update()
        for observation, verdict in zip(follower.observations[first:], follower.verdicts[first:], strict=True):
            print(_line(observation, verdict))
        seen_at = time.time() if first < len(follower.observations) and not past else seen_at
        state = (headline(follower.diagnosis), *run.problems)
        if state != shown:
            print("\n".join(f"  {line}" for line in state))
            shown = state
        for alert in [] if past else follower.alerts:
            teller.tell(alert)
        past = False
        if run.ended or (live is not None and live.error is not None):
            if live is None:
                print(f"the run ended at {run.info.ended}")
            return 0
        _look_for_a_stall(follower, teller, time.time() - seen_at)
        sys.stdout.flush()  # a pipe or a log file shows the steps at once as well
        time.sleep(_POLL_SECONDS)


def _look_for_a_stall(follower: Follower, teller: _Teller, waited_s: float) -> None:
    onset = None if follower.onsets is None else follower.onsets.stalled(waited_s)
    if onset is not None:
        teller.tell(onset.alert(follower.diagnosis, name_of(follower.run.path)))


def _last_written(run: Run) -> float:
    """When the last step came, as far as can be known before anything new comes: from the times of the files."""
    folder = Path(run.path) / Observation.TABLE
    times = []
    for file in [] if isinstance(run.path, str) else folder.glob("*"):
        with suppress(OSError):  # it was sealed under another name
            times.append(file.stat().st_mtime)
    return max(times, default=time.time())


def _line(observation: Observation, verdict: Verdict) -> str:
    reward = "-" if observation.reward is None else f"{observation.reward:.3f}"
    change = observation.cross_update_change
    moved = "-" if change is None else f"{change:+.4f}"
    chance = verdict.collapse_probability
    risk = "-" if chance is None else f"{chance:.0%}"
    line = f"step {observation.step:>6}  reward {reward:>7}  likelihood change {moved:>8}  risk {risk:>4}"
    return f"{line}  {verdict.stage.label}"
