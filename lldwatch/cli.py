"""The command `lldwatch`; each of its commands is a file in `lldwatch.commands`.

Exit status: 0 it ran, 3 `--fail-on` was reached, 2 a user's mistake, said in one line on standard error.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lldwatch import __version__
from lldwatch.commands import (
    compare,
    dashboard,
    demo,
    diagnose,
    import_logs,
    llds,
    report,
    run,
    scan,
    signals,
    upload,
    watch,
)
from lldwatch.errors import LldwatchError
from lldwatch.postmortem import printable

COMMANDS = (
    demo,
    diagnose,
    watch,
    run,
    llds,
    dashboard,
    report,
    compare,
    scan,
    import_logs,
    upload,
    signals,
)
_EXTRAS = {"torch": "torch", "tqdm": "demo", "ray": "ray"}


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        """Leave with status 2."""
        sys.stderr.write(f"lldwatch: {printable(message)} (see '{self.prog} --help')\n")
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    _take_any_text()
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except LldwatchError as error:
        sys.stderr.write(f"lldwatch: {printable(str(error), lines=True)}\n")
        return 2
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(str(error.name), "dashboard")
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


def _take_any_text() -> None:
    """Names of files and runs, and the signs of tables, need not exist in the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lldwatch", description="Watch GRPO trainings for Lazy Likelihood Displacement.")
    parser.add_argument("--version", action="version", version=f"lldwatch {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser
