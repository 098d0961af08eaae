"""Damaged logs: what a log of one format becomes when it is cut, doubled, shuffled, or mixed with another one."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

LARGEST = 64 * 1024
"""Bytes of a mutated log."""

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_STRING = re.compile(rb"\"[^\"\n]{0,60}\"|'[^'\n]{0,60}'")

NASTY: tuple[bytes, ...] = (
    b"NaN", b"nan", b"-inf", b"Infinity", b"1e999", b"-1e999", b"1e-999", b"9" * 400, b"9" * 5000, b"-0", b"0x1f",
    b"2147483648", b"-9223372036854775809", b"18446744073709551616", b"9007199254740993", b"1_000", b"1,000", b"+5",
    b"null", b"None", b"true", b"True", b"{}", b"[]", b"[[]]", b'""', b"''", b"[" * 3000, b'{"a":' * 3000, b"(" * 500,
    b"}" * 20, b"]" * 20, b"np.float64(", b"np.float64(nan)", b"tensor(0.5, device='cuda:0')", b"No Log", b"--",
    b"\x00", b"\x00" * 64, b"\xff\xfe", b"\xef\xbb\xbf", b"\xfe\xff", b"\xed\xa0\x80", b"\xf0\x9f\xa6\x99", b"\\ud800",
    b"\xe2\x80\xae", b"\xd9\xa3", b"\xc2\xb2", b"\xe2\x85\xa7", b"\x1b[31m", b"\x1b]8;;x\x07", b"\x1b", b"\r", b"\r\n",
    b"\n", b"\n\n\n", b"\t", b",", b",,,,", b'"', b"'", b"`", b"|", b":", b" - ", b"=", b"<td>", b"</table>", b"<tr>",
    b"</", b"<!--", b"&#x110000;", b"&nbsp;", b"step:", b"step:-1 - ", b"step:1e3 - ", b'"step":', b"{'loss': ",
    b"step 1: {", b"x" * 3000, b"\xe2\x94\x82", b"PAR1", b"\x1f\x8b\x08\x00", b"%", b"../../etc", b"__proto__",
)  # fmt: skip

Change = tuple[int, float, float, int]
"""Which change, where it begins and how far it goes (both as a share of the log), and a choice."""

KINDS = 14


def changed(data: bytes, changes: Sequence[Change], others: Sequence[bytes]) -> bytes:
    """The log with all changes made one after the other.

    Args:
        data: the log.
        changes: see `Change`; the first number is taken modulo `KINDS`.
        others: logs of other formats, from which pieces are taken.
    """
    for change in changes:
        data = _change(data, change, others)[:LARGEST]
    return data


def some_changes(generator: random.Random) -> list[Change]:
    """One to six changes, mostly small ones."""
    return [
        (generator.randrange(KINDS), generator.random(), generator.random() ** 4, generator.randrange(10_000))
        for _ in range(min(int(generator.expovariate(0.5)) + 1, 6))
    ]


def _change(data: bytes, change: Change, others: Sequence[bytes]) -> bytes:
    kind, place, extent, choice = change
    kind, start = kind % KINDS, int(place * len(data))
    end = min(start + int(extent * len(data)) + 1, len(data))
    word = NASTY[choice % len(NASTY)]
    if kind < 7:
        return _bytes(data, kind, start, end, choice, word)
    if kind == 7:
        return _at(data, _NUMBER, start, word)
    if kind == 8:
        return _at(data, _STRING, start, word)
    if kind == 9:
        return _at(data, _STRING, start, b"null")
    if kind == 10 and others:
        other = others[choice % len(others)]
        piece = other[int(extent * len(other)) :][: 1 + choice % 800]
        return data[:start] + piece + data[start:]
    return _lines(data, kind, place, choice)


def _bytes(data: bytes, kind: int, start: int, end: int, choice: int, word: bytes) -> bytes:
    if kind == 0:
        flipped = bytes(byte ^ (1 << choice % 8) for byte in data[start : start + 1])
        return data[:start] + flipped + data[start + 1 :]
    if kind == 1:
        return data[:start] + data[end:]
    if kind == 2:
        return data[:end] + data[start:end] + data[end:]
    if kind == 3:
        return data[: start if choice % 3 else len(data) - 1 - choice % 40]
    if kind == 4:
        noise = random.Random(choice).randbytes(1 + choice % 24)
        return data[:start] + noise + data[start + len(noise) * (choice % 2) :]
    return data[:start] + word + data[start + len(word) * (kind - 5) :]


def _at(data: bytes, pattern: re.Pattern[bytes], start: int, word: bytes) -> bytes:
    """Something else for the next number or text."""
    found = pattern.search(data, start) or pattern.search(data)
    return data if found is None else data[: found.start()] + word + data[found.end() :]


def _lines(data: bytes, kind: int, place: float, choice: int) -> bytes:
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    one, other = min(int(place * len(lines)), len(lines) - 1), choice % len(lines)
    if kind == 11:
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == 12:
        lines[one:one] = [lines[other]] * (1 + choice % 40)
    else:
        del lines[one]
    return b"".join(lines)
