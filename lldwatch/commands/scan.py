"""`lldwatch scan`: diagnose all runs below a folder, the worst first."""

from __future__ import annotations

import argparse
import sys

from lldwatch.commands.values import positive
from lldwatch.scan_table import show_scan


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    words = "diagnose all runs below a folder or an object-store prefix, the worst first"
    parser = commands.add_parser("scan", help=words)
    parser.add_argument("root", metavar="ROOT")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="processes here, or tasks of Ray")
    parser.add_argument("--jobs", type=positive, help="processes (default: one for each core)")
    parser.add_argument("--no-cache", action="store_true", help="read runs again that have not changed")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Scan."""
    show_scan(
        options.root,
        sys.stdout,
        as_json=options.json,
        engine=options.engine,
        jobs=options.jobs,
        use_cache=not options.no_cache,
    )
    return 0
