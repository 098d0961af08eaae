"""Protocol Buffers as they lie on disk, and the checksum of TensorFlow's records: enough to read what loggers write.

Rejected: the packages of the loggers. TensorBoard's own reader sums each byte in Python and needs TensorFlow's stubs,
W&B dropped its Python reader in 0.31, and both are large; what is read here has been the same for ten years.
"""

from __future__ import annotations

from collections.abc import Iterator

Value = int | bytes
"""A number as it is encoded, or the bytes of a text, a message, a float (4) or a double (8)."""


def fields_of(message: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a message, in their order.

    Raises:
        ValueError: it is no message, or is cut off.
    """
    place, end = 0, len(message)
    while place < end:
        tag = message[place]
        place += 1
        if tag >= 0x80:  # numbers of one byte, which most are, need no call
            tag, place = _varint(message, place - 1)
        kind = tag & 7
        if kind == 0:
            number, place = _varint(message, place)
            yield tag >> 3, number
            continue
        if kind == 2:
            length = message[place] if place < end else 0x80
            place += 1
            if length >= 0x80:
                length, place = _varint(message, place - 1)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} is not used")
        if place + length > end:
            raise ValueError("the message is cut off")
        yield tag >> 3, message[place : place + length]
        place += length


def bytes_of(message: bytes, number: int) -> Iterator[bytes]:
    """The values of one field that holds bytes."""
    return (value for found, value in fields_of(message) if found == number and isinstance(value, bytes))


def text(value: Value) -> str:
    """A field as text; "" if it is none."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else ""


def signed(value: Value) -> int:
    """An int64, whose negative numbers are encoded as large ones."""
    number = value if isinstance(value, int) else 0
    return number - 2**64 if number >= 2**63 else number


def masked_crc32c(data: bytes) -> int:
    """The checksum in TensorFlow's records: CRC-32C, turned round by 15 bits, with a constant added."""
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError("a number is cut off")
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7


def _table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE = _table()
