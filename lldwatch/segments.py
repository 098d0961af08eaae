"""The files of a run directory: how they are called, written and read.

```
run.json
steps/      r00000-a000-00000000.parquet    a sealed part: any Parquet tool reads it
            .r00000-a000-00000001.arrows    the live segment: what came after, an Arrow IPC stream, one batch a step
responses/  probes/  events/  ...           the same
```

A segment is named after its rank, the attempt (0, and one more with each resume) and its number. It begins live, and
becomes a part of the same name when it is sealed; where both stand, the part holds. Parts are written to a hidden file
and renamed, so no reader ever sees half of one; a live segment may end in a torn batch, which is left out. After
`kill -9` the live segments still hold every step but the one in flight.

Rejected: one open Parquet file (unreadable until closed, lost in a crash); a part for every step (reads 20-119x
slower); a memory-mapped live segment (a full disk kills the process with SIGBUS, and it fails on network file systems).
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lldwatch.schema import SCHEMA_VERSION, arrow_schema

INFO_FILE = "run.json"
STEPS_KEY = b"lldwatch.steps"
"""In the metadata of a part: its first and last step. Over the statistics of a damaged one pyarrow ends the process."""

_MARK, _CHECKSUM_BYTES = b"lldw", 8
_NAME = re.compile(r"\.?r(\d{5})-a(\d{3,})-(\d{8})\.(parquet|arrows)")
_DICTIONARY_COLUMNS = {"step", "group", "reward", "kind", "detail", "module", "text"}


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One piece of a table. Sorts in the order of writing."""

    attempt: int
    rank: int
    number: int

    @property
    def name(self) -> str:
        """The file name without its ending."""
        return f"r{self.rank:05d}-a{self.attempt:03d}-{self.number:08d}"

    def part(self, folder: Path) -> Path:
        """Where the sealed part stands."""
        return folder / f"{self.name}.parquet"

    def live(self, folder: Path) -> Path:
        """Where the live segment stands."""
        return folder / f".{self.name}.arrows"


def list_segments(folder: Path) -> tuple[list[Segment], list[str]]:
    """The segments of one table, in the order of writing, and the names of files that are none."""
    segments, foreign = set(), []
    # twice: a large folder is not listed in one go, and a segment that is sealed meanwhile may show under neither name
    names = {*os.listdir(folder), *os.listdir(folder)} if folder.is_dir() else set()
    for name in names:
        segment = segment_of(name)
        if segment is not None:
            segments.add(segment)
        elif not name.startswith("."):
            foreign.append(name)
    return sorted(segments), sorted(foreign)


@lru_cache(16384)
def segment_of(name: str) -> Segment | None:
    """The segment that a file belongs to, by its name or path; None if it is not a segment's."""
    match = _NAME.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    rank, attempt, number = map(int, match.groups()[:3])
    return Segment(attempt, rank, number)


def write_part(table: pa.Table, path: Path) -> None:
    """Write a Parquet part so that it appears whole or not at all.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    hidden = path.with_name(f".{path.name}.tmp")
    if len(table):
        low, high = pc.min_max(table["step"]).as_py().values()
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), STEPS_KEY: f"{low} {high}"})
    dictionary = [name for name in table.schema.names if name in _DICTIONARY_COLUMNS]
    # the bytes of floats compress best apart from each other; pyarrow's default dictionary costs 1.6x the size
    floats = {
        field.name: "BYTE_STREAM_SPLIT"
        for field in table.schema
        if pa.types.is_floating(field.type) and field.name not in _DICTIONARY_COLUMNS
    }
    encoding: Any = {"use_dictionary": dictionary, "column_encoding": floats}
    try:
        pq.write_table(table, hidden, compression="zstd", write_page_checksum=True, **encoding)
        with open(hidden, "r+b") as file:
            footer = _footer(file)
            file.seek(-len(footer), os.SEEK_END)
            file.write(_checksum(footer) + footer)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave an empty file under the final name
        os.replace(hidden, path)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk needs the space
            hidden.unlink(missing_ok=True)
        raise


def check_footer(path: Path) -> None:
    """Pages have checksums of Parquet's own, but over a damaged footer pyarrow reads wrong, or ends the process.

    Ours stands in the gap that any reader leaves before the footer; parts of older versions have none.

    Raises:
        ValueError: the footer is damaged.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        footer = _footer(file)
        file.seek(-min(len(footer) + _CHECKSUM_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        before = file.read(_CHECKSUM_BYTES)
    if before.startswith(_MARK) and before != _checksum(footer):
        raise ValueError("its footer is damaged")


def open_part(path: Path) -> pq.ParquetFile:
    """Open a sealed part; a page that is not as it was written is an error when it is read.

    Raises:
        ValueError: the file is damaged (pyarrow's own errors are ValueError or OSError).
        OSError: it cannot be read.
    """
    check_footer(path)
    return pq.ParquetFile(path, page_checksum_verification=True)


def _footer(file: BinaryIO) -> bytes:
    """With its length and the magic word behind it; what there is, if the length is wrong."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little") + 8
    file.seek(max(size - length, 0))
    return file.read()


def _checksum(footer: bytes) -> bytes:
    return _MARK + zlib.crc32(footer).to_bytes(4, "little")


def remove_torn(folder: Path) -> None:
    """Remove what is left of parts that were being written when the process was killed."""
    for hidden in folder.glob(".r*.parquet.tmp"):
        with contextlib.suppress(OSError):
            hidden.unlink()


def seal_live(segment: Segment, folder: Path) -> None:
    """Turn a live segment that nobody writes any more into a part; nothing if there is none.

    Raises:
        OSError: it cannot be read or written; so may pyarrow's own errors.
    """
    if segment.live(folder).exists():
        write_part(read_segment(segment, folder), segment.part(folder))
        segment.live(folder).unlink()


@dataclass(slots=True)
class Known:
    """How much of a segment has been read: so many rows; and of its live file, so many bytes."""

    rows: int = 0
    end: int = 0


def read_segment(segment: Segment, folder: Path, known: Known | None = None) -> pa.Table:
    """The rows of a segment, sealed or live, in the columns of this version's schema.

    Args:
        segment: which one.
        folder: of the table.
        known: what has been read of it already, which is left out; brought up to date.

    Raises:
        FileNotFoundError: it is neither there sealed nor live.
        ValueError: the file is not ours, or damaged (pyarrow's own errors are ValueError or OSError).
        OSError: it cannot be read.
    """
    schema, known = arrow_schema(folder.name), known or Known()
    try:
        live = segment.live(folder).read_bytes()
    except OSError:  # sealed and removed meanwhile; a network file system then says "stale", not "not found"
        live = None
    # the part is looked for after the live segment: sealing renames the part into place before it removes the segment
    if live is None or segment.part(folder).exists():
        with open_part(segment.part(folder)) as file:
            # threads cost more than they bring where there is little to read
            table = conform(file.read(use_threads=file.metadata.num_rows > 100_000).slice(known.rows), schema)
    else:
        found, end = _live_table(live, schema, known.end)
        table, known.end = conform(found, schema), end
    known.rows += len(table)
    return table


def _live_table(data: bytes, schema: pa.Schema, begin: int = 0) -> tuple[pa.Table, int]:
    """The whole batches of a stream from a byte on, and where they end.

    The stream may end in a batch that is still being written, or was cut off.
    """
    batches, source, end = [], pa.BufferReader(data), begin
    try:
        reader = pa.ipc.open_stream(source)
        schema = reader.schema
        source.seek(max(begin, source.tell()))
        while True:
            batches.append(reader.read_next_batch())
            end = source.tell()
    except (StopIteration, pa.ArrowInvalid, OSError):
        return pa.Table.from_batches(batches, schema), end


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table from a file in the columns of this version's schema, or of some of them.

    Raises:
        ValueError: the file is not ours, or of a newer version.
    """
    check_ours(table.schema.metadata, schema.metadata[b"lldwatch.table"].decode())
    table.validate(full=True)  # words that are none, or offsets that lead out of the file
    if table.schema.equals(schema):  # the usual case: casting column by column takes longer than reading
        return pa.Table.from_arrays(table.columns, schema=schema)
    there = set(table.column_names)
    columns = [
        table[field.name].cast(field.type) if field.name in there else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def check_ours(metadata: Mapping[bytes, bytes] | None, table: str) -> None:
    """Look at the metadata of a file of a table.

    Raises:
        ValueError: the file is not ours, or of a newer version.
    """
    metadata = metadata or {}
    if metadata.get(b"lldwatch.table") != table.encode():
        raise ValueError("it was not written by lldwatch")
    version = int(metadata.get(b"lldwatch.schema_version", 0))
    if version > SCHEMA_VERSION:
        raise ValueError(f"its schema version {version} is newer than {SCHEMA_VERSION}: update lldwatch")
