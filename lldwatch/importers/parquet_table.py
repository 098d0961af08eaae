"""Parquet with a row a step, of any program: what the columns are called is what the trainer called it.

Read in small batches of the columns that are numbers, or text with a name that is known. What a file says of itself
is looked at before: a column chunk that would fill the memory is refused. Arrow's own files (Feather) are not read,
since these do not say how large they become.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lldwatch.errors import InputError
from lldwatch.importers.format import Entry, Format
from lldwatch.importers.metric_rows import TIMES, TYPES, counts, entry_of, in_words, knows, oldest_first
from lldwatch.importers.names import STEPS
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

LARGEST_CHUNK = 256 * 1024**2
"""Bytes of one column of one row group, uncompressed."""

MOST_ROWS = 50_000_000

_BATCH_ROWS = 2000
_MAGIC = b"PAR1"
_TEXTS = {"prompt", "completion", "response", "messages", "output", "input"}


def _opened(source: Source) -> pq.ParquetFile | None:
    """The file; None if it is damaged."""
    try:
        return pq.ParquetFile(source.path, read_dictionary=[])
    except (pa.ArrowException, OSError, ValueError):
        return None


def _recognise(source: Source) -> str | None:
    if source.path is None or not source.head.startswith(_MAGIC):
        return None
    file = _opened(source)
    if file is None:
        return None
    with file:
        names, all_names = [_slashed(name) for name in _columns(file)], set(file.schema_arrow.names)
    known = [name for name in names if knows(name)]
    if not known or (_TEXTS & all_names and len(known) < 3):
        return None
    return f"it is Parquet with the columns {in_words(known)}"


def _columns(file: pq.ParquetFile) -> dict[str, pa.DataType]:
    """Path of a column -> its type, of those that may hold a number a row; a struct's fields are "struct.field"."""
    found: dict[str, pa.DataType] = {}
    waiting = [(item.name, item.type) for item in reversed(file.schema_arrow)]
    while waiting:
        path, kind = waiting.pop()
        if pa.types.is_struct(kind):
            waiting += [(f"{path}.{inner.name}", inner.type) for inner in kind]
        elif _is_wanted(path, kind):
            found[path] = kind
    return found


def _is_wanted(path: str, kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return counts(_slashed(path)) or path in (*STEPS, *TYPES, *TIMES)
    numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    return bool(numeric or types.is_timestamp(kind))


def _slashed(path: str) -> str:
    return path.replace(".", "/")


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    return oldest_first(_entries(source, tally), tally, source.step_column)


def _entries(source: Source, tally: Tally) -> Iterator[Entry]:
    file = _opened(source) if source.path is not None else None
    if file is None:
        tally.note(f"{source.name} is no Parquet file, or its end is missing: nothing can be read of it")
        return
    columns = _columns(file)
    if source.step_column is not None and source.step_column not in map(_slashed, columns):
        tally.note(f"{source.name} has no column {source.step_column} of numbers")
    _check_sizes(file, columns, source)
    texts = [path for path, kind in columns.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    number = 0
    try:
        with file, pq.ParquetFile(source.path, read_dictionary=texts) as open_file:  # a text that repeats stays one
            for values in _rows_of(open_file, list(columns), source):
                number += 1
                entry = entry_of(values, source.step_column, f"row {number}", tally)
                if entry is not None:
                    yield entry
    except (pa.ArrowException, OSError, ValueError) as error:
        words = str(error).partition("\n")[0][:100]
        tally.drop(f"rest of the file, which is damaged ({words})", f"row {number + 1}")


def _rows_of(file: pq.ParquetFile, columns: list[str], source: Source) -> Iterator[dict[str, Any]]:
    for group in range(file.num_row_groups):  # one by one: a damaged group leaves those before it
        source.progress(file.metadata.row_group(group).total_byte_size)
        for batch in file.iter_batches(_BATCH_ROWS, [group], columns, use_threads=False):
            yield from _rows(batch)


def _check_sizes(file: pq.ParquetFile, columns: Mapping[str, Any], source: Source) -> None:
    """Refuse what would fill the memory.

    Raises:
        InputError: a column chunk, or the file, is larger than the limit.
    """
    about = file.metadata
    if about.num_rows > MOST_ROWS:
        raise InputError(f"{source.name} has {about.num_rows:,} rows, more than {MOST_ROWS:,}: one a step is expected")
    for group in map(about.row_group, range(about.num_row_groups)):
        if group.total_byte_size <= LARGEST_CHUNK:  # looking at a chunk of a damaged footer may abort the process
            continue
        for chunk in map(group.column, range(about.num_columns)):
            if chunk.path_in_schema in columns and chunk.total_uncompressed_size > LARGEST_CHUNK:
                size, most = chunk.total_uncompressed_size / 1024**2, LARGEST_CHUNK // 1024**2
                raise InputError(
                    f"{source.name}: column {chunk.path_in_schema} becomes {size:,.0f} MiB at once, more than {most}: "
                    "write it in smaller row groups"
                )


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    table = pa.Table.from_batches([batch])
    while any(pa.types.is_struct(item.type) for item in table.schema):
        table = table.flatten()
    names = [_slashed(name) for name in table.column_names]
    columns = [_values(column) for column in table.columns]
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row, strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_float16(column.type):  # older pyarrow gives numpy's numbers
        column = column.cast(pa.float32())
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()).to_pylist()
        return [None if value is None else value / 1e6 for value in micros]
    if pa.types.is_dictionary(column.type):
        return [value for chunk in column.chunks for value in _words(chunk)]
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return list(column.to_pylist())


def _words(chunk: pa.DictionaryArray) -> Iterator[Any]:
    """Each different text is made once, and no longer than a number can be."""
    texts = chunk.dictionary
    if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
        texts = pc.utf8_slice_codeunits(texts, 0, 210)
    different = texts.to_pylist()
    return (None if index is None else different[index] for index in chunk.indices.to_pylist())


FORMAT = Format(
    name="parquet",
    title="Parquet with a row a step",
    metrics={},
    recognise=_recognise,
    read=_read,
)
