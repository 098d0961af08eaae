"""What a table is stored in, part by part: which steps each part holds, and some columns of some of its rows.

`Run.responses()` reads a whole table, which takes gigabytes where a run has ten million responses. Here the steps of a
part come from its footer, and only the columns that are asked for are read, of the parts that have them.

Rejected: a roll-up of the responses beside the run (one more file to keep true; which change one looks at is chosen
when the run is read).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lldwatch.batches import arrow_array
from lldwatch.columns import ARROW, Array
from lldwatch.schema import arrow_schema
from lldwatch.segments import STEPS_KEY, Segment, check_footer, check_ours, conform, open_part, read_segment

_DTYPES = {arrow: np.dtype(name) for name, arrow in ARROW.items() if name != "string"}


class Span(NamedTuple):
    """Number of rows, and the first and the last step."""

    rows: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a table. Two equal parts that are sealed hold the same rows.

    Attributes:
        segment: which one, in the order of writing.
        sealed: it will not grow any more.
        rows: that it holds; some of them may belong to steps that a later attempt made again.
        low: its first step.
        high: its last step that counts.
    """

    segment: Segment
    sealed: bool
    rows: int
    low: int
    high: int

    def until(self, end: int) -> Part | None:
        """Without the steps from `end` on; None if nothing is left."""
        return replace(self, high=min(self.high, end - 1)) if self.low < end else None


def attempt_ends(spans: Iterable[tuple[int, int, int]]) -> dict[int, int]:
    """Attempt -> first step that is not its own any more: where a later attempt began, or past its last step.

    Args:
        spans: attempt, first and last step of each piece of the table `steps`.
    """
    lows: dict[int, int] = {}
    highs: dict[int, int] = {}
    for attempt, low, high in spans:
        lows[attempt] = min(low, lows.get(attempt, low))
        highs[attempt] = max(high, highs.get(attempt, high))
    return {
        attempt: min([high + 1, *(low for later, low in lows.items() if later > attempt)])
        for attempt, high in highs.items()
    }


def span_of(segment: Segment, folder: Path) -> Span:
    """Rows and steps of a segment; of a sealed one from its footer alone (of an older version: its steps).

    Raises:
        ValueError: the file is not ours, or damaged (pyarrow's own errors are ValueError or OSError).
        OSError: it cannot be read.
    """
    if segment.part(folder).exists():
        check_footer(segment.part(folder))
        footer = pq.read_metadata(segment.part(folder))
        check_ours(footer.metadata, folder.name)
        steps = footer.metadata.get(STEPS_KEY, b"").split()
        if len(steps) == 2:
            return Span(footer.num_rows, int(steps[0]), int(steps[1]))
    tables = list(_tables(segment, folder, _some(folder, ["step"])))
    ends = [pc.min_max(table["step"]).as_py() for table in tables if len(table)]
    if not ends:
        return Span(0, 0, -1)
    return Span(sum(map(len, tables)), min(end["min"] for end in ends), max(end["max"] for end in ends))


def read_columns(
    segment: Segment, folder: Path, columns: Sequence[str], steps: tuple[int, int], where: Mapping[str, Any]
) -> Iterator[dict[str, Array]]:
    """Some columns of the rows of some steps, one dict a row group.

    Args:
        segment: what to read.
        folder: of the table.
        columns: names as in `lldwatch.schema`.
        steps: the first and the last one.
        where: column -> the value that it must have, or a list of values of which it must have one.

    Raises:
        ValueError: the file is not ours, or damaged.
        OSError: it cannot be read.
    """
    names = list(dict.fromkeys(["step", *columns, *where]))
    for table in _tables(segment, folder, _some(folder, names)):
        step = as_numpy(table["step"])
        keep = (step >= steps[0]) & (step <= steps[1])
        for name, value in where.items():
            keep &= as_numpy(pc.is_in(table[name], _options(value, table[name].type)))
        if not keep.all():
            table = table.filter(arrow_array(keep, pa.bool_(), len(keep)))
        if len(table):
            yield {name: as_numpy(table[name]) for name in columns}


def _options(value: Any, dtype: pa.DataType) -> pa.Array:
    values = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    return arrow_array(np.array(values), dtype, len(values))


def _some(folder: Path, names: Sequence[str]) -> pa.Schema:
    whole = arrow_schema(folder.name)
    return pa.schema([whole.field(name) for name in names], metadata=whole.metadata)


def _tables(segment: Segment, folder: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    path = segment.part(folder)
    if not path.exists():
        try:
            yield read_segment(segment, folder).select(schema.names)
            return
        except FileNotFoundError:
            if not path.exists():
                raise
    with open_part(path) as file:
        there = [name for name in schema.names if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            yield conform(file.read_row_group(group, columns=there), schema)


def as_numpy(column: pa.ChunkedArray) -> Array:
    """The values of a column; a masked array where some are missing, words as objects.

    Everything goes by its buffers: `to_numpy` and `pa.scalar` would import pandas, in the middle of an answer, and
    while other threads draw with plotly, which takes a half imported pandas for a whole one.
    """
    if pa.types.is_string(column.type):
        words = np.empty(len(column), dtype=object)
        words[:] = column.to_pylist()
        return words
    if not column.null_count:
        return _values(column)
    filled = column.fill_null(arrow_array(np.zeros(1, np.bool_), column.type, 1)[0])
    return np.ma.MaskedArray(_values(filled), _values(column.is_null()))


def _values(column: pa.ChunkedArray) -> Array:
    parts = [_chunk(chunk) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, _DTYPES[column.type]), *parts])


def _chunk(chunk: pa.Array) -> Array:
    data, start, stop = chunk.buffers()[1], chunk.offset, chunk.offset + len(chunk)
    if pa.types.is_boolean(chunk.type):
        return np.unpackbits(np.frombuffer(data, np.uint8), count=stop, bitorder="little")[start:].astype(np.bool_)
    return np.frombuffer(data, _DTYPES[chunk.type], count=stop)[start:]
