"""From records and rows to Arrow record batches, on the recorder's thread.

Everything goes by its buffers: `pa.array` would import pandas, 1.4 s with the GIL held, in the middle of a training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lldwatch.columns import ARROW, Array, RowTable
from lldwatch.schema import Event, Observation, arrow_schema

_NUMPY = {
    arrow: np.dtype(name) for name, arrow in ARROW.items() if name != "string"
}  # to_pandas_dtype imports pandas too


def one_row(row: Observation | Event) -> pa.RecordBatch:
    """The row of a step or of an event."""
    schema = arrow_schema(row.TABLE)
    arrays = []
    for column in schema:
        value = getattr(row, column.name)
        arrays.append(arrow_array(None if value is None else np.array([value]), column.type, 1))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def rows_batch(table: str, step: int, parts: Sequence[RowTable]) -> pa.RecordBatch | None:
    """One batch of all rows of a step; a column that a part lacks is null there."""
    schema = arrow_schema(table)
    batches = []
    for part in parts:
        if len(part):
            columns = {**part.columns(), "step": np.full(len(part), step, np.int64)}
            arrays = [arrow_array(columns[field.name], field.type, len(part)) for field in schema]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    if not batches:
        return None
    return pa.concat_batches(batches) if len(batches) > 1 else batches[0]


def arrow_array(values: Array | None, dtype: pa.DataType, length: int) -> pa.Array:
    """One column; nulls if there are no values."""
    if values is None:
        return pa.nulls(length, dtype)
    if pa.types.is_string(dtype):
        words = [str(word).encode(errors="replace") for word in values]  # a file name may hold half a character
        offsets = np.cumsum([0, *map(len, words)], dtype=np.int32)
        return pa.Array.from_buffers(dtype, length, [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(words))])
    if pa.types.is_boolean(dtype):
        return pa.Array.from_buffers(dtype, length, [None, pa.py_buffer(np.packbits(values, bitorder="little"))])
    data = np.ascontiguousarray(values, dtype=_NUMPY[dtype])
    return pa.Array.from_buffers(dtype, length, [None, pa.py_buffer(data)])
