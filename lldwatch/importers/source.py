"""A foreign file, or standard input, read once and in bounded memory, whatever it holds.

Lines come without terminal colours, decoded as UTF-8 (or UTF-16, which PowerShell's `tee` writes); bytes that are no
text become the replacement character. `.gz` files are read as they are.
"""

from __future__ import annotations

import codecs
import gzip
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from lldwatch.errors import InputError
from lldwatch.importers.tally import Tally

LONGEST_LINE = 1024**2
"""Characters; a longer line is left out, and counted."""

LARGEST_DOCUMENT = 512 * 1024**2
"""Bytes of a file that must be held at once: one JSON document, one page of HTML."""

_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 1024**2
_CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_HOLE = re.compile(rb"\0{512,}")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Line(NamedTuple):
    """A line of text and its number, from 1."""

    number: int
    text: str


class Source:
    """One file or stream.

    Args:
        path: of the file; None for standard input.
        name: what messages call it, if not the path.

    Attributes:
        head: its first bytes: up to 64 KiB of a file, of a stream what came first.
        step_column: what the user says the step is called, in formats that have columns.
        progress: called with the number of bytes read since the last call, for a progress bar.

    Raises:
        InputError: the file cannot be opened, or nothing is in it.
    """

    def __init__(self, path: Path | None, name: str | None = None) -> None:
        self.path = path
        self.name = name or ("standard input" if path is None else str(path))
        self.step_column: str | None = None
        self.progress: Callable[[int], object] = lambda read: None
        try:
            with self._open() as stream:  # a folder may hold thousands of files: none stays open before it is read
                self.head = stream.read1(_HEAD_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            why = "breaks off" if isinstance(error, EOFError) else getattr(error, "strerror", None) or error
            raise InputError(f"{self.name} cannot be read ({why}): give another file") from None
        if not self.head:
            raise InputError(f"{self.name} is empty: there is nothing to import")
        self.encoding = next((name for mark, name in _MARKS if self.head.startswith(mark)), "utf-8")
        self._lines: Iterator[Line] | None = None
        self._unread: list[Line] = []

    @property
    def size(self) -> int | None:
        """Bytes of the file; None where that is not known before it was read."""
        return None if self.path is None or self.path.suffix == ".gz" else self.path.stat().st_size

    @property
    def opening(self) -> str:
        """The head as text."""
        return _CONTROL.sub("", self.head.decode(self.encoding, errors="replace"))

    @property
    def is_text(self) -> bool:
        """It has no zero bytes, which text never has, but for a hole where a log was cut back while it was written."""
        return self.encoding == "utf-16" or b"\0" not in _HOLE.sub(b"", self.head)

    @property
    def in_lines(self) -> bool:
        """Lines of it were read, so that it is no document any more."""
        return self._lines is not None

    def lines(self, tally: Tally) -> Iterator[Line]:
        """What is left of the source, line by line. What a carriage return would overwrite is a line of its own.

        Args:
            tally: counts lines that are too long, and says where the file breaks off.
        """
        if self._lines is None:
            self._lines = self._split(tally)
        while True:
            line = self._unread.pop() if self._unread else next(self._lines, None)
            if line is None:
                return
            yield line

    def unread(self, line: Line) -> None:
        """Give a line back: `lines` yields it next."""
        self._unread.append(line)

    def document(self, tally: Tally) -> str:
        """The whole source as one text.

        Raises:
            InputError: it is larger than can be held.
        """
        data = bytearray()
        for chunk in self._chunks(tally):
            data += chunk
            if len(data) > LARGEST_DOCUMENT:
                raise InputError(
                    f"{self.name} is one document of more than {LARGEST_DOCUMENT // 1024**2} MiB, "
                    "too large to be held: split it, or export it as lines"
                )
        return data.decode(self.encoding, errors="replace")

    def _open(self) -> AbstractContextManager[Any]:
        """What bytes come from; standard input goes on where it is, and is not closed."""
        if self.path is None:
            if sys.stdin is None:
                raise InputError("standard input is closed: there is nothing to import")
            return nullcontext(sys.stdin.buffer)
        return gzip.open(self.path) if self.path.suffix == ".gz" else open(self.path, "rb")

    def _chunks(self, tally: Tally) -> Iterator[bytes]:
        try:
            with self._open() as stream:
                chunk = self.head if self.path is None else stream.read1(_CHUNK_BYTES)
                while chunk:
                    self.progress(len(chunk))
                    yield chunk
                    chunk = stream.read1(_CHUNK_BYTES)  # a pipe gives what is there
        except (OSError, EOFError, zlib.error) as error:
            tally.note(f"{self.name} breaks off ({error}): what stands before is used")

    def _split(self, tally: Tally) -> Iterator[Line]:
        decode = codecs.getincrementaldecoder(self.encoding)(errors="replace").decode
        number, rest, skipping = 1, "", False
        for chunk in self._chunks(tally):
            *whole, rest = (rest + decode(chunk)).split("\n")
            for text in whole:
                if skipping or len(text) > LONGEST_LINE:
                    tally.drop(f"line longer than {LONGEST_LINE:,} characters", f"line {number}")
                    skipping = False
                else:
                    yield from _without_control(number, text)
                number += 1
            if len(rest) > LONGEST_LINE:
                rest, skipping = "", True
        if skipping:
            tally.drop(f"line longer than {LONGEST_LINE:,} characters", f"line {number}")
        else:
            yield from _without_control(number, rest)


def _without_control(number: int, text: str) -> Iterator[Line]:
    if "\x1b" in text:
        text = _CONTROL.sub("", text)
    if "\r" not in text:
        if text:
            yield Line(number, text)
        return
    for part in text.split("\r"):
        if part:
            yield Line(number, part)
