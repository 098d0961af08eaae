"""`lldwatch import`: make run directories of logs that other tools wrote."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lldwatch.commands.values import add_import_options, import_options
from lldwatch.importers.job import import_logs
from lldwatch.importers.known import names, titles
from lldwatch.importers.result import write_account


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    formats = "\n".join(f"  {name:<18} {title}" for name, title in titles().items())
    parser = commands.add_parser(
        "import",
        help="make a run of a log that another tool wrote",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"formats:\n  {'auto':<18} recognise it, and say why\n{formats}",
    )
    parser.add_argument("format", choices=["auto", *names()], metavar="FORMAT", help="auto, or a name from below")
    parser.add_argument("source", metavar="SRC", help="a file, a folder that is searched, or - for standard input")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run directory, or folder of several")
    add_import_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of words")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Import, and say what was found and what was left out."""
    runs, tally = import_logs(options.source, options.out, import_options(options, options.format))
    if options.json:
        print(json.dumps({"runs": [run.as_dict() for run in runs], "notes": tally.notes}, indent=2))
    else:
        write_account(runs, tally, sys.stdout)
        print(f"Now: lldwatch diagnose {runs[0].path}")
    return 0
