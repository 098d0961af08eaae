"""`lldwatch dashboard`: show all runs below a folder in the browser."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from lldwatch.commands.values import port
from lldwatch.errors import InputError
from lldwatch.stores.store import is_url


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("dashboard", help="show all runs below a folder in the browser")
    parser.add_argument("root", metavar="ROOT")
    parser.add_argument("--port", type=port, default=8050)
    everyone = "address to listen on; one that other machines reach asks for a token, which is printed with the link"
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=everyone)
    proxy = "a further name under which browsers reach it, for instance a proxy's (may be repeated)"
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=proxy)
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from lldwatch_dashboard import serve

    if is_url(options.root):
        raise InputError(
            f"{options.root}: the dashboard shows runs on this machine's disk. Copy them to a folder first, or use "
            "`lldwatch scan` or `lldwatch diagnose`, which read object stores"
        )
    if not Path(options.root).is_dir():
        raise InputError(f"{options.root} is not a folder: give the folder that holds your runs")
    if options.until_eof:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    serve(options.root, port=options.port, host=options.host, allow_hosts=options.allow_host)
    return 0


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)  # the server has nothing to save
