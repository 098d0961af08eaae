"""verl's console log: `step:3 - actor/entropy:0.163 - actor/grad_norm:np.float64(0.0066) - ...`, one line a step.

Ray puts `(TaskRunner pid=46086)` in front, coloured, and writes warnings of its own in between. Up to 0.4 numbers had
three decimals, from 0.5 on they are Python's repr. Validation has lines of the same shape without a training metric,
before the first step and after the last one. Search-R1, RAGEN, TinyZero and verl-agent are verl.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.numbers import number
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally
from lldwatch.importers.verl_metrics import METRICS, as_meant

_START = re.compile(r"(?<![\w/:])step:(\d{1,15}) - ")
_LINE = re.compile(r"(?<![\w/:])step:\d{1,15} - [\w-]+/[^:\n]{1,200}:(?:np\.\w{1,20}\()?-?(?:\d|nan|inf)")
_REPEATED = re.compile(r" \[repeated \d+x across cluster\].*")
_OTHER = ("val/", "val-", "test_score/")


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    last_name = None
    for line in source.lines(tally):
        start = _START.search(line.text) if "step:" in line.text else None
        if start is None:
            continue
        where = f"line {line.number}"
        values, rest = _items(line.text[start.end() :], tally)
        if not values:
            continue
        if all(key.startswith(_OTHER) for key in values):
            tally.drop("validation without training metrics", where)
            continue
        before, last_name = last_name, next(reversed(values))
        if rest:
            tally.drop("end of a line that breaks off", where)
        elif last_name in METRICS and before not in (None, last_name):
            tally.drop("number at the end of a line that breaks off", where)  # it may lack digits
            del values[last_name]
        yield Entry(int(start[1]), as_meant(values, tally), where)


def _items(text: str, tally: Tally) -> tuple[dict[str, Any], str]:
    """Name -> value, and what is left over at the end.

    Names may hold colons, and even " - ": a piece that ends in no number is the start of one.
    """
    values: dict[str, Any] = {}
    begun = ""
    for piece in _REPEATED.sub("", text).split(" - "):
        name, colon, value = piece.rpartition(":")
        given = _number(value) if colon else None
        if given is None:
            begun = f"{begun}{piece} - "[-500:]
        elif name == "actor/lr" and value == "0.000":
            tally.note("actor/lr is 0.000 with three decimals: the learning rate is not known")
        else:
            values[begun + name] = given
            begun = ""
    return values, begun


def _number(text: str) -> float | None:
    try:
        return number(text)
    except ValueError:
        return None


FORMAT = Format(
    name="verl-console",
    title="console log of verl and its forks (Search-R1, RAGEN, TinyZero)",
    trainer="verl",
    metrics=METRICS,
    line=_LINE,
    sign="step:",
    read=_read,
    whole_steps=True,
)
