"""The command `lldwatch`.

Exit status: 0 it ran, 3 `--fail-on` was reached, 2 a user's mistake, said in one line on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lldwatch import __version__
from lldwatch.control import Order, give_order
from lldwatch.diagnosis import Stage
from lldwatch.errors import InputError, LldwatchError
from lldwatch.follow import Follower
from lldwatch.intervention import MODES
from lldwatch.probe_plan import PRESETS
from lldwatch.report import as_json, headline, write_text
from lldwatch.run import Run
from lldwatch.signals import SIGNALS

_STAGES = [stage.label for stage in Stage if stage is not Stage.HEALTHY]
_POLL_SECONDS = 1.0


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        """Leave with status 2."""
        sys.stderr.write(f"lldwatch: {message} (see '{self.prog} --help')\n")
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except LldwatchError as error:
        sys.stderr.write(f"lldwatch: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        extra = {"torch": "torch", "tqdm": "demo"}.get(str(error.name), "dashboard")
        sys.stderr.write(f"lldwatch: {error.name} is not installed: install lldwatch with its extra [{extra}]\n")
        return 2
    except BrokenPipeError:  # `lldwatch signals | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed into nothing at exit
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"lldwatch: {where}{error.strerror or error}: choose another place, or mend this one\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lldwatch", description="Watch GRPO trainings for Lazy Likelihood Displacement.")
    parser.add_argument("--version", action="version", version=f"lldwatch {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    demo = commands.add_parser("demo", help="train a tiny policy that really collapses, and watch it live")
    demo.add_argument("--scenario", choices=["healthy", "collapse", "llds", "auto"], default="collapse")
    demo.add_argument("--seed", type=_not_negative, default=0, help="of prompts and sampling (default 0)")
    demo.add_argument("--steps", type=_positive, default=80, help="rollout batches (default 80)")
    demo.add_argument("--out", type=Path, metavar="RUN", help="run directory (default runs/demo-SCENARIO)")
    demo.add_argument("--no-dashboard", action="store_true", help="only train, diagnose and end")
    demo.add_argument("--port", type=_port, default=8050)
    demo.set_defaults(command=_demo)

    diagnose = commands.add_parser("diagnose", help="say what a recorded run died of, or that it is well")
    diagnose.add_argument("run", type=Path, metavar="RUN")
    diagnose.add_argument("--json", action="store_true", help="one JSON object instead of words")
    diagnose.add_argument("--fail-on", choices=_STAGES, help="exit with 3 if this stage or a later one is reached")
    diagnose.set_defaults(command=_diagnose)

    watch = commands.add_parser("watch", help="follow a run in the terminal while it trains")
    watch.add_argument("run", type=Path, metavar="RUN")
    watch.set_defaults(command=_watch)

    run = commands.add_parser("run", help="start a training and watch it, without touching its source")
    run.add_argument("--run", metavar="RUN", help="run directory (default runs/ and the time)")
    run.add_argument("--llds", choices=MODES)
    run.add_argument("--strength", help="of LLDS, its coefficient")
    run.add_argument("--reference", choices=["old", "lagged", "replay", "both"], help="what LLDS compares with")
    run.add_argument("--probes", choices=["off", *PRESETS], help="what is re-scored (default standard)")
    run.add_argument("--correct-above", metavar="REWARD", help="a response is correct above this reward (default 0)")
    run.add_argument("--resume", action="store_true", help="go on with a run that is there")
    run.add_argument("training", nargs="...", metavar="-- COMMAND", help="the training, for instance python train.py")
    run.set_defaults(command=_run)

    llds = commands.add_parser("llds", help="switch LLDS on or off in a training that runs")
    llds.add_argument("run", type=Path, metavar="RUN")
    llds.add_argument("mode", choices=MODES)
    llds.add_argument("--strength", type=float, help="its coefficient (default: what the training was started with)")
    llds.set_defaults(command=_llds)

    dashboard = commands.add_parser("dashboard", help="show all runs below a folder in the browser")
    dashboard.add_argument("root", type=Path, metavar="ROOT")
    dashboard.add_argument("--port", type=_port, default=8050)
    dashboard.add_argument("--until-eof", action="store_true", help="end when standard input does")
    dashboard.set_defaults(command=_dashboard)

    signals = commands.add_parser("signals", help="what lldwatch measures, and what it means")
    signals.set_defaults(command=_signals)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from lldwatch.demo import run_demo

    run_demo(options.scenario, options.seed, options.steps, options.out, None if options.no_dashboard else options.port)
    return 0


def _diagnose(options: argparse.Namespace) -> int:
    follower = Follower(Run(options.run))
    follower.update()
    if not follower.observations:
        why = "; ".join(follower.run.problems) or "nothing was recorded yet"
        raise InputError(f"{options.run} has no readable steps: {why}")
    if options.json:
        print(json.dumps(as_json(follower), indent=2))
    else:
        write_text(follower, sys.stdout)
    reached = options.fail_on and follower.diagnosis.stage >= Stage[options.fail_on.upper()]
    return 3 if reached else 0


def _watch(options: argparse.Namespace) -> int:
    follower = Follower(Run(options.run))
    shown: tuple[str, ...] = ()
    while True:
        first = follower.update()
        for observation, verdict in zip(follower.observations[first:], follower.verdicts[first:], strict=True):
            reward = "-" if observation.reward is None else f"{observation.reward:.3f}"
            change = observation.cross_update_change
            moved = "-" if change is None else f"{change:+.4f}"
            chance = verdict.collapse_probability
            risk = "-" if chance is None else f"{chance:.0%}"
            line = f"step {observation.step:>6}  reward {reward:>7}  likelihood change {moved:>8}  risk {risk:>4}"
            print(f"{line}  {verdict.stage.label}")
        state = (headline(follower.diagnosis), *follower.run.problems)
        if state != shown:
            print("\n".join(f"  {line}" for line in state))
            shown = state
        if follower.run.ended:
            print(f"the run ended at {follower.run.info.ended}")
            return 0
        sys.stdout.flush()  # a pipe or a log file shows the steps at once as well
        time.sleep(_POLL_SECONDS)


def _run(options: argparse.Namespace) -> int:
    from lldwatch.integrations.launch import launch

    names = ("run", "llds", "strength", "reference", "probes", "correct_above")
    settings = {name.upper(): getattr(options, name) for name in names}
    command = options.training[1:] if options.training[:1] == ["--"] else options.training
    return launch(command, {**settings, "RESUME": "1" if options.resume else None})


def _llds(options: argparse.Namespace) -> int:
    run = Run(options.run)
    if run.ended:
        raise InputError(f"{options.run} ended at {run.info.ended}: nobody is there to follow the order")
    order = Order(options.mode, options.strength)
    give_order(options.run, order)
    print(f"{order.in_words}: as of the next step but one; the training answers with an event in {options.run}")
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    from lldwatch_dashboard import serve

    if not options.root.is_dir():
        raise InputError(f"{options.root} is not a folder: give the folder that holds your runs")
    if options.until_eof:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    serve(options.root, port=options.port)
    return 0


def _signals(options: argparse.Namespace) -> int:
    for signal in SIGNALS.values():
        unit = f" [{signal.unit}]" if signal.unit else ""
        print(f"{signal.name}{unit}: {signal.title}")
        print(f"    {signal.meaning}\n    Healthy: {signal.healthy}")
        print(f"    Needs: {', '.join(signal.requires)}. Reference: {signal.reference}\n")
    return 0


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)  # the server has nothing to save


def _whole_number(low: int, high: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return int(text)

    return parse


_positive = _whole_number(1, 10**9, "a whole number above 0")
_not_negative = _whole_number(0, 2**31, "a whole number from 0")
_port = _whole_number(1, 65535, "a port from 1 to 65535")
