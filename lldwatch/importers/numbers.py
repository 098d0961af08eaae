"""Numbers as logs write them: as JSON, as text, as numpy's or torch's repr."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

_NONE = ("", "-", "--", "none", "null", "no log", "n/a")
_WORDS: dict[str, float | None] = {**dict.fromkeys(_NONE), "true": 1.0, "false": 0.0}
_REPR = re.compile(r"(?:np\.|numpy\.)?(?:float|int|bool_?|array|tensor|Tensor|bfloat)\d*\(\[?([^,)\]]+)\]?[,)].*")
_NAME = r"""(?:'([^'\n]{1,300})'|"([^"\n]{1,300})")"""
_VALUE = r"""('[^'\n]*'|"[^"\n]*"|\[[^\[\]\n]{0,2000}\]|(?:[^,{}()\n]|\([^()\n]{0,200}\))*)"""
_PAIR = re.compile(_NAME + r"\s*:\s*" + _VALUE)


def number(value: Any) -> float | None:
    """The number, None where there is none.

    Args:
        value: a number, or text: "0.5", "nan", "-inf", "np.float64(0.5)", "tensor(0.5, device='cuda:0')", "No Log".

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(f"a {type(value).__name__} is not a number")
    text = value.strip()
    if text.endswith(")") and (inside := _REPR.match(text)):
        text = inside[1]
    try:
        return float(text)
    except ValueError:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        raise


def number_in(values: Mapping[str, Any], name: str) -> float | None:
    """The number of that name, None where there is none or something else."""
    try:
        return number(values.get(name))
    except ValueError:
        return None


def pairs(text: str) -> dict[str, str]:
    """Names and values of a flat dict that Python printed; nothing is evaluated, and no depth can break it.

    Args:
        text: such as "{'loss': -0.1, 'kl': np.float64(0.0), 'clip': nan, 'lr': '1e-06'}".
    """
    found = {}
    for single, double, value in _PAIR.findall(text):
        found[single or double] = value.strip().strip("'\"")
    return found


def printed_rows(
    source: Source, tally: Tally, sign: str, start: re.Pattern[str]
) -> Iterator[tuple[str, re.Match[str], dict[str, str]]]:
    """Lines in which Python printed a flat dict: where each stands, what `start` found before the dict, and the dict.

    Args:
        source: whose lines are read.
        tally: counts rows that break off.
        sign: stands in each such line, so that others need not be searched.
        start: finds what stands before the dict, up to and with its brace.
    """
    for line in source.lines(tally):
        found = start.search(line.text) if sign in line.text else None
        if found is None:
            continue
        where, end = f"line {line.number}", line.text.rfind("}")
        if end < found.end():
            tally.drop("row that breaks off", where)
        else:
            yield where, found, pairs(line.text[found.end() : end])


def whole(value: Any) -> int | None:
    """A step: the number if it is a whole one between 0 and 2**53, else None."""
    try:
        given = number(value)
    except ValueError:
        return None
    return int(given) if given is not None and 0 <= given < 2**53 and given == int(given) else None
