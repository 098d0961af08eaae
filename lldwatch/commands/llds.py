"""`lldwatch llds`: switch LLDS on or off in a training that runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lldwatch.control import Order, give_order
from lldwatch.errors import InputError
from lldwatch.intervention import MODES
from lldwatch.run import Run


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("llds", help="switch LLDS on or off in a training that runs")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--strength", type=float, help="its coefficient (default: what the training was started with)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Leave the order in the run directory."""
    run = Run(options.run)
    if run.ended:
        raise InputError(f"{options.run} ended at {run.info.ended}: nobody is there to follow the order")
    order = Order(options.mode, options.strength)
    give_order(options.run, order)
    print(f"{order.in_words}: as of the next step but one; the training answers with an event in {options.run}")
    return 0
