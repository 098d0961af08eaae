"""verl's file logger: `{"step":1,"data":{"actor/entropy":0.2056,"actor/grad_norm":0.485}}`, one object a line.

The file is named after the experiment. It is opened anew when a training is resumed, so that it holds what came after.
NaN and infinities are written as null: they are missing here, and not evidence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.numbers import whole
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally
from lldwatch.importers.verl_metrics import METRICS, as_meant

_START = re.compile(r'\s*\{\s*"step"\s*:\s*\d{1,15}\s*,\s*"data"\s*:\s*\{')


def _recognise(source: Source) -> str | None:
    if source.is_text and _START.match(source.opening):
        return 'its lines are objects of "step" and "data", as verl\'s file logger writes them'
    return None


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    for line in source.lines(tally):
        where = f"line {line.number}"
        data, step = _row(line.text)
        if data is None:
            tally.drop("line that breaks off, or is not as verl writes it", where)
        elif all(key.startswith(("val/", "val-")) for key in data):
            tally.drop("validation without training metrics", where)
        else:
            yield Entry(step, as_meant(data, tally), where)


def _row(text: str) -> tuple[dict[str, Any] | None, int | None]:
    try:
        row = json.loads(text)
        data = row["data"]
        step = whole(row["step"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return None, None
    return (data, step) if isinstance(data, dict) and step is not None else (None, None)


FORMAT = Format(
    name="verl-file",
    title="file logger of verl (JSON lines of step and data)",
    trainer="verl",
    metrics=METRICS,
    recognise=_recognise,
    line=re.compile(r'^\{"step": ?\d{1,15}, ?"data": ?\{"'),
    sign='"data"',
    read=_read,
    whole_steps=True,
)
