"""One event file of TensorBoard, record by record: its scalars. What is damaged is counted, and never a number."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally
from lldwatch.importers.wire import Value, bytes_of, fields_of, masked_crc32c, signed, text

LARGEST_RECORD = 1024**2
"""Bytes; larger ones are images, graphs and the like, and are passed over."""

_HEAD = struct.Struct("<QI")
_TENSOR_TYPES = {1: "f", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 9: "q", 10: "?", 19: "e"}
_TENSOR_FIELDS = {5, 6, 7, 10, 11}
_NO_SCALAR = "summary that is no scalar (histogram, text, image)"


class Scalar(NamedTuple):
    """One number of one step; `time` is Unix time in s."""

    step: int
    tag: str
    value: float
    time: float


def is_event_file(head: bytes) -> bool:
    """The first record says which version the file has."""
    return b"brain.Event:" in head[12:64] and masked_crc32c(head[:8]) == int.from_bytes(head[8:12], "little")


def started(head: bytes) -> float:
    """Unix time of the first record; 0 if it has none."""
    return struct.unpack_from("<d", head, 13)[0] if head[12:13] == b"\x09" and len(head) > 20 else 0.0


def scalars_of(source: Source, tally: Tally) -> Iterator[Scalar]:
    """All scalars, in the order of the file.

    Args:
        source: an event file.
        tally: counts what is none, and what is damaged.
    """
    if source.path is None:
        tally.note("event files are read where they lie, not from a stream: give their path")
        return
    with source.path.open("rb") as file:
        for number, record in _records(file, source, tally):
            try:
                yield from _scalars(record, tally)
            except (ValueError, struct.error):
                tally.drop("record that is no event", f"record {number}")


def _records(file: BinaryIO, source: Source, tally: Tally) -> Iterator[tuple[int, bytes]]:
    number = 0
    while head := file.read(_HEAD.size):
        number += 1
        where = f"{source.name}, record {number}"
        if len(head) < _HEAD.size:
            tally.drop("record that is cut off, at the end of the file", where)
            return
        length, crc = _HEAD.unpack(head)
        if masked_crc32c(head[:8]) != crc:
            tally.drop("rest of an event file, which is damaged", where)
            return
        source.progress(length + 16)
        if length > LARGEST_RECORD:
            file.seek(length + 4, 1)
            tally.drop("record of more than 1 MiB (an image, a graph)", where)
            continue
        data = file.read(length + 4)
        if len(data) < length + 4:
            tally.drop("record that is cut off, at the end of the file", where)
        elif masked_crc32c(data[:length]) != int.from_bytes(data[length:], "little"):
            tally.drop("record whose checksum is wrong", where)
        else:
            yield number, data[:length]


def _scalars(record: bytes, tally: Tally) -> Iterator[Scalar]:
    time, step, summaries = 0.0, 0, []
    for field, value in fields_of(record):
        if field == 1:
            time = struct.unpack("<d", _bytes(value))[0]
        elif field == 2:
            step = signed(value)
        elif field == 5:
            summaries.append(_bytes(value))
    for summary in summaries:
        for item in bytes_of(summary, 1):
            tag, number = _value(item)
            if number is None:
                tally.drop(_NO_SCALAR, tag)
            elif step < 0:
                tally.drop("scalar of a step below 0", tag)
            else:
                yield Scalar(step, tag, number, time)


def _value(item: bytes) -> tuple[str, float | None]:
    tag, number = "", None
    for field, value in fields_of(item):
        if field == 1:
            tag = text(value)
        elif field == 2:
            number = struct.unpack("<f", _bytes(value))[0]
        elif field == 8:
            number = _of_tensor(_bytes(value))
    return tag, number


def _of_tensor(tensor: bytes) -> float | None:
    """The number of a tensor that holds just one."""
    sort, raw, given = "", b"", list[Value]()
    for field, value in fields_of(tensor):
        if field == 1:
            sort = _TENSOR_TYPES.get(signed(value), "")
        elif field == 4:
            raw = _bytes(value)
        elif field in _TENSOR_FIELDS:
            given.append(value)
    if not raw and len(given) == 1:
        return _of_one(sort, given[0])
    return float(struct.unpack(f"<{sort}", raw)[0]) if sort and len(raw) == struct.calcsize(f"<{sort}") else None


def _of_one(sort: str, value: Value) -> float | None:
    """The number of a field that may be a list of one."""
    if sort in ("f", "d"):  # these lie there as they do in a tensor's content
        data = _bytes(value)
        return float(struct.unpack(f"<{sort}", data)[0]) if len(data) == struct.calcsize(f"<{sort}") else None
    if not sort or sort == "e":
        return None
    numbers = [value] if isinstance(value, int) else [one for _, one in fields_of(_listed(value))]
    return float(signed(numbers[0])) if len(numbers) == 1 else None


def _listed(data: bytes) -> bytes:
    """A packed list of one number as a field of its own; of more numbers it is no message."""
    return b"\x08" + data if all(byte >= 0x80 for byte in data[:-1]) else b""


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes are expected")
    return value
