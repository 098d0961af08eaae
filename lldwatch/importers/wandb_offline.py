"""A W&B run on disk, `wandb/offline-run-*/run-*.wandb` (and those that were online): its history, config and name.

The package wandb is not needed. Old and new encodings of a value are read: JSON in text, or a number.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.json_rows import flat
from lldwatch.importers.metric_rows import entry_of
from lldwatch.importers.numbers import whole
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally
from lldwatch.importers.wandb_file import is_wandb_file, records_of
from lldwatch.importers.wire import Value, bytes_of, fields_of, signed, text

_HISTORY, _CONFIG, _RUN = 2, 5, 17
_ITEM, _STEP, _UPDATE = 1, 2, 1
_LOOK_AT_RECORDS = 1000
_MOST_CONFIG = 200_000
"""Characters of the config that are kept, as JSON."""


def _recognise(source: Source) -> str | None:
    return "it starts as W&B's own files do" if is_wandb_file(source.head) else None


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    run = ""
    for number, record in enumerate(records_of(source, tally), 1):
        try:
            for field, value in fields_of(record):
                if field == _RUN and isinstance(value, bytes):
                    run = _name(value) or run
                elif field == _HISTORY and isinstance(value, bytes):
                    entry = entry_of(_history(value), source.step_column, f"record {number}", tally)
                    if entry is not None:
                        yield entry._replace(run=run)
        except (ValueError, RecursionError, struct.error):
            tally.drop("record that cannot be read", f"record {number}")


def _history(message: bytes) -> dict[str, Any]:
    """One row that was logged; the step of `wandb.log` is `_step`."""
    row: dict[str, Any] = {}
    for field, value in fields_of(message):
        if field == _ITEM and isinstance(value, bytes):
            key, given = _item(value)
            row[key] = given
        elif field == _STEP and isinstance(value, bytes):
            row.setdefault("_step", next((signed(step) for number, step in fields_of(value) if number == 1), 0))
    return flat(row)


def _item(message: bytes) -> tuple[str, Any]:
    key, nested, given = "", list[str](), None
    for field, value in fields_of(message):
        if field == 1:
            key = text(value)
        elif field == 2:
            nested.append(text(value))
        elif field in (8, 16):
            given = json.loads(text(value))
        elif field in (4, 5, 6, 7):
            given = _typed(field, value)
    return "/".join(nested) or key, given


def _typed(field: int, value: Value) -> Any:
    if isinstance(value, bytes):
        return struct.unpack("<d", value)[0] if field == 6 else text(value)
    return bool(value) if field == 4 else value >> 1 ^ -(value & 1)


def _name(run: bytes) -> str:
    return next((text(value) for field, value in fields_of(run) if field == 8), "")


def _about(source: Source) -> dict[str, Any]:
    """Config and planned steps, from the records before the first row."""
    config: dict[str, Any] = {}
    for record in islice(records_of(source, Tally()), _LOOK_AT_RECORDS):
        try:
            for field, value in fields_of(record):
                if field == _RUN and isinstance(value, bytes):
                    config.update(pair for part in bytes_of(value, 4) for pair in _config(part))
                elif field == _CONFIG and isinstance(value, bytes):
                    config.update(_config(value))
        except (ValueError, RecursionError, struct.error):
            continue
    config.pop("_wandb", None)
    planned = whole(config.get("max_steps"))
    told: dict[str, Any] = {"planned_steps": planned} if planned and planned < 2**31 else {}
    return {**told, "config": config} if len(json.dumps(config, default=repr)) <= _MOST_CONFIG else told


def _config(message: bytes) -> Iterator[tuple[str, Any]]:
    return (_item(update) for update in bytes_of(message, _UPDATE))


FORMAT = Format(
    name="wandb-offline",
    title="run of W&B on disk, run-*.wandb",
    metrics={},
    recognise=_recognise,
    read=_read,
    about=_about,
)
