"""`lldwatch upload`: send a run to an object store, for instance one that lost its connection when it ended."""

from __future__ import annotations

import argparse
from pathlib import Path

from lldwatch.stores.upload import upload_run


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("upload", help="send a local run to an object store")
    parser.add_argument("run", type=Path, metavar="LOCAL", help="the run directory")
    parser.add_argument("url", metavar="URL", help="where it belongs, for instance s3://bucket/runs/search")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Send what is not there yet."""
    names = upload_run(options.run, options.url)
    print(f"{len(names)} files sent to {options.url}")
    return 0
