"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lldwatch.errors import InputError
from lldwatch.importers.job import Options
from lldwatch.importers.known import names
from lldwatch.importers.names import parse_map


def whole_number(low: int, high: int, what: str) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`, which calls them `what`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return int(text)

    return parse


positive = whole_number(1, 10**9, "a whole number above 0")
not_negative = whole_number(0, 2**31, "a whole number from 0")
port = whole_number(1, 65535, "a port from 1 to 65535")


@contextmanager
def written(path: str, read: Iterable[str]) -> Iterator[TextIO]:
    """A text file that appears whole or not at all.

    Args:
        path: of the file.
        read: what the command reads; none of these is ever overwritten.

    Raises:
        InputError: the file is one of them.
    """
    place = Path(path)
    if any(place.exists() and Path(source).exists() and place.samefile(source) for source in read):
        raise InputError(f"{path} is what is to be read, and would be overwritten: give another --out")
    hidden = place.with_name(f".{place.name}.tmp")
    with open(hidden, "w", encoding="utf-8") as out:
        yield out
    os.replace(hidden, place)


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """How a log of another tool is to be read."""
    words = "field of lldwatch = name in the log, for instance reward=mean_return (may be repeated)"
    parser.add_argument("--map", action="append", default=[], metavar="OURS=THEIRS", help=words)
    parser.add_argument("--step-column", metavar="NAME", help="what the step is called, in a table")


def add_format(parser: argparse.ArgumentParser) -> None:
    """Of a log of another tool, where it may also be a run of lldwatch."""
    formats = ["auto", *names()]
    parser.add_argument("--format", choices=formats, default="auto", metavar="FORMAT", help="auto, or its name")


def import_options(options: argparse.Namespace, fmt: str) -> Options:
    """What the user said about a log."""
    return Options(format=fmt, own=parse_map(options.map), step_column=options.step_column)
