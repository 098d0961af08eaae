"""Tables as files for other tools, in memory: what a page hands out is never written to a disk first."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def parquet_of(table: pa.Table, steps: tuple[float, float] | None = None) -> bytes:
    """A table as a Parquet file; units and meanings of the columns stay in it.

    Args:
        table: with a column `step`.
        steps: the first and the last step that are wanted; None: all of them.
    """
    if steps is not None:
        at = table["step"]
        table = table.filter(pc.and_(pc.greater_equal(at, steps[0]), pc.less_equal(at, steps[1])))
    out = pa.BufferOutputStream()
    pq.write_table(table, out, compression="zstd")
    return bytes(out.getvalue())
