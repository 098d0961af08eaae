"""The log of records that W&B keeps beside a run (`run-*.wandb`): LevelDB's log format, with a head of its own."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

LARGEST_RECORD = 16 * 1024**2
"""Bytes; what is larger is no row of metrics."""

_HEAD = b":W&B\xe1\xbe\x00"
_BLOCK = 32 * 1024
_PREFIX = 7
_WHOLE, _FIRST, _LAST = 1, 2, 4  # and 3 in between


def is_wandb_file(head: bytes) -> bool:
    """It starts with W&B's sign and the version that is known."""
    return head.startswith(_HEAD)


def records_of(source: Source, tally: Tally) -> Iterator[bytes]:
    """All whole records, in the order of the file; what is damaged is counted.

    Args:
        source: a file of that format.
        tally: counts what cannot be read.
    """
    held: bytes | None = None
    passing = False
    for where, kind, part in _parts(source, tally):
        if kind in (_WHOLE, _FIRST):
            if held is not None:
                tally.drop("record without an end", where)
            held, passing = b"", False
        if held is None:
            if not passing:
                tally.drop("record without a beginning", where)
            passing = True
        elif len(held) + len(part) > LARGEST_RECORD:
            tally.drop(f"record of more than {LARGEST_RECORD // 1024**2} MiB", where)
            held, passing = None, True
        elif kind in (_WHOLE, _LAST):
            yield held + part
            held = None
        else:
            held += part
    if held is not None:
        tally.drop("record that is cut off, at the end of the file", source.name)


def _parts(source: Source, tally: Tally) -> Iterator[tuple[str, int, bytes]]:
    """Place, kind and content of the parts; of a block with a wrong checksum what follows in it is not used."""
    if source.path is None:
        tally.note("a run of W&B is read where it lies, not from a stream: give its path")
        return
    with source.path.open("rb") as file:
        start, number = len(_HEAD), 0
        while block := file.read(_BLOCK):
            where = f"{source.name}, byte {number * _BLOCK}"
            number += 1
            source.progress(len(block))
            place, start = start, 0
            while place + _PREFIX <= len(block):
                crc = int.from_bytes(block[place : place + 4], "little")
                length = int.from_bytes(block[place + 4 : place + 6], "little")
                kind = block[place + 6]
                part = block[place + _PREFIX : place + _PREFIX + length]
                if kind == 0 and length == 0:
                    break  # the rest of the block is not used
                if len(part) < length or zlib.crc32(block[place + 6 : place + 7] + part) != crc:
                    why = "part of the file that is cut off" if len(block) < _BLOCK else "block that is damaged"
                    tally.drop(why, where)
                    break
                yield where, kind, part
                place += _PREFIX + length
