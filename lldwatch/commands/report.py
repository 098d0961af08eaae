"""`lldwatch report`: a post-mortem as one file that needs nothing else."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lldwatch.commands.opened import opened
from lldwatch.commands.values import add_format, add_import_options, import_options, written
from lldwatch.errors import InputError
from lldwatch.report import write_json
from lldwatch.reports.report_html import write_html
from lldwatch.reports.report_markdown import write_markdown

WRITERS = {"html": write_html, "markdown": write_markdown, "json": write_json}
_ENDINGS = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("report", help="a post-mortem of a run as one file that needs nothing else")
    parser.add_argument("run", metavar="SRC", help="a run, or a log, folder or export of another tool")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="default report.html; - prints it")
    parser.add_argument("--as", dest="kind", choices=WRITERS, help="default: by the ending of --out, else html")
    add_format(parser)
    add_import_options(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Write the report."""
    kind = options.kind or _ENDINGS.get(Path(options.out).suffix.lower(), "html")
    with opened(options.run, import_options(options, options.format)) as runs:
        if len(runs) > 1:
            names = ", ".join(name for name, _ in runs[:5])
            raise InputError(f"{options.run} holds {len(runs)} runs ({names}): lldwatch import them, and report each")
        [(name, follower)] = runs
        if options.out == "-":
            WRITERS[kind](follower, sys.stdout, name)
            return 0
        with written(options.out, [options.run]) as out:
            WRITERS[kind](follower, out, name)
    opens = " It opens in any browser and needs no network." if kind == "html" else ""
    print(f"{options.out} is written ({Path(options.out).stat().st_size / 1000:,.0f} kB).{opens}")
    return 0
