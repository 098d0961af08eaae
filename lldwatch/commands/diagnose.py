"""`lldwatch diagnose`: say what a run died of, or that it is well."""

from __future__ import annotations

import argparse
import json
import sys

from lldwatch.commands.opened import opened
from lldwatch.commands.values import add_format, add_import_options, import_options
from lldwatch.diagnosis import Stage
from lldwatch.report import as_json, write_text

STAGES = [stage.label for stage in Stage if stage is not Stage.HEALTHY]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("diagnose", help="say what a run died of, or that it is well")
    parser.add_argument("run", metavar="SRC", help="a run, or a log, folder or export of another tool (- reads a pipe)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of words")
    parser.add_argument("--fail-on", choices=STAGES, help="exit with 3 if this stage or a later one is reached")
    add_format(parser)
    add_import_options(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Diagnose all runs of the source."""
    with opened(options.run, import_options(options, options.format)) as runs:
        if options.json:
            found = [{**as_json(follower), "run": name} for name, follower in runs]
            print(json.dumps(found[0] if len(found) == 1 else {"runs": found}, indent=2))
        else:
            for number, (name, follower) in enumerate(runs):
                print("\n" + "-" * 79 + "\n" if number else "", end="")
                write_text(follower, sys.stdout, name)
        worst = max(follower.diagnosis.stage for _, follower in runs)
    return 3 if options.fail_on and worst >= Stage[options.fail_on.upper()] else 0
