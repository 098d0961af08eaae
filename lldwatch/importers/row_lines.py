"""Rows that stand in files as JSON, one object a line; a line may hold every token of a response, or a whole batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lldwatch.columns import Array
from lldwatch.importers.format import Part
from lldwatch.importers.tally import Tally

LONGEST_LINE = 64 * 1024**2
"""Bytes; a response of 500,000 tokens with five numbers each. A longer line is left out, and counted."""

_AT_ONCE = 1024**2


def lines(part: Part, tally: Tally) -> Iterator[tuple[int, int, bytes]]:
    """(number in the file or in the part, first byte, text) of each line that is not empty.

    Args:
        part: of which file.
        tally: counts lines that are too long, and says where a file cannot be read.
    """
    number, place = 0, part.start
    try:
        with open(part.path, "rb") as file:
            file.seek(part.start)
            while part.lines is None or number < part.lines:
                text = file.readline(LONGEST_LINE + 1)
                if not text:
                    return
                number, start = number + 1, place
                place += len(text)
                if len(text) > LONGEST_LINE:
                    tally.drop(f"line longer than {LONGEST_LINE // 1024**2} MiB", f"{part.path}, line {number}")
                    while text and not text.endswith(b"\n"):
                        text = file.readline(_AT_ONCE)
                        place += len(text)
                elif text.strip():
                    yield number, start, text
    except OSError as error:
        tally.drop(f"file of responses that cannot be read ({error.strerror})", str(part.path))


def objects(parts: Iterable[Part], tally: Tally) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects and where each stands, for messages.

    Args:
        parts: their files.
        tally: counts lines that hold no object.
    """
    for part in parts:
        for number, start, text in lines(part, tally):
            where = f"{part.path}, " + (f"byte {start}" if part.start else f"line {number}")
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                tally.drop("line that breaks off or is no JSON", where)
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                tally.drop("line that holds no object", where)


def first_object(path: Path) -> dict[str, Any]:
    """Of the first line; empty if there is none."""
    return next((row for _, row in objects([Part(path, lines=1)], Tally())), {})


def numbers(value: Any) -> Array | None:
    """float64, shape (values,), None where there is something else; null is NaN, lists of a single list are opened."""
    if value is None or isinstance(value, str):
        return None
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array.reshape(1) if array.ndim == 0 else array if array.ndim == 1 else None


def scalar(value: Any) -> float | None:
    """The number, or the single one of a list; None where there is something else."""
    array = numbers(value)
    return None if array is None or len(array) != 1 else float(array[0])
