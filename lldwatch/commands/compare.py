"""`lldwatch compare`: where two or more runs part, signal by signal."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TextIO

from lldwatch.commands.opened import opened
from lldwatch.commands.values import add_format, add_import_options, import_options, written
from lldwatch.compare import compare, contender
from lldwatch.reports.compare_html import write_html
from lldwatch.reports.compare_report import write_json, write_text

WRITERS = {"text": write_text, "json": write_json, "html": write_html}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("compare", help="where two or more runs part, signal by signal")
    parser.add_argument("runs", nargs="+", metavar="SRC", help="runs or logs; the others are held against the first")
    parser.add_argument("--as", dest="kind", choices=WRITERS, default="text", help="default text")
    parser.add_argument("--out", metavar="FILE", help="default: standard output")
    add_format(parser)
    add_import_options(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Compare."""
    with ExitStack() as stack:
        how = import_options(options, options.format)
        runs = [pair for source in options.runs for pair in stack.enter_context(opened(source, how))]
        comparison = compare([contender(follower, name) for name, follower in runs])
        out: TextIO = sys.stdout
        if options.out is not None:
            out = stack.enter_context(written(options.out, options.runs))
        WRITERS[options.kind](comparison, out)
    return 0
