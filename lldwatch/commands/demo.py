"""`lldwatch demo`: train a tiny policy that really collapses, and watch it live."""

from __future__ import annotations

import argparse
from pathlib import Path

from lldwatch.commands.values import not_negative, port, positive


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("demo", help="train a tiny policy that really collapses, and watch it live")
    parser.add_argument("--scenario", choices=["healthy", "collapse", "llds", "auto"], default="collapse")
    parser.add_argument("--seed", type=not_negative, default=0, help="of prompts and sampling (default 0)")
    parser.add_argument("--steps", type=positive, default=80, help="rollout batches (default 80)")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run directory (default runs/demo-SCENARIO)")
    parser.add_argument("--no-dashboard", action="store_true", help="only train, diagnose and end")
    parser.add_argument("--port", type=port, default=8050)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Train."""
    from lldwatch.demo import run_demo

    run_demo(options.scenario, options.seed, options.steps, options.out, None if options.no_dashboard else options.port)
    return 0
