"""TRL's `completions/completions_{step}.parquet` (`log_completions=True`): prompt, completion, rewards and advantage.

A file holds the last generation batch, whole, whichever part of it the step trained on, and the same rows again while
the batch is used again (`num_iterations`, `steps_per_generation`). These come once, with the step that wrote them: they
say nothing of the later updates, which only log-probs could. After an evaluation TRL writes its completions into the
file of the same step. The number of tokens is not written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lldwatch.columns import Array
from lldwatch.importers.completions import Batch, adds_up, evenly, rows_of
from lldwatch.importers.format import Part, Rows, RowsFormat
from lldwatch.importers.tally import Tally
from lldwatch.schema import Responses

MOST_ROWS = 200_000
"""Responses of a step; a file with more is damaged, or something else."""

_WORDS = ("prompt", "completion")
_OTHERS = {*_WORDS, "step", "advantage", "image", "images"}
_BROKEN = (OSError, ValueError, pa.ArrowException, MemoryError)


def _recognise(path: Path) -> str | None:
    try:
        names = pq.read_schema(path).names
    except _BROKEN:
        return f"it is named {path.name}"  # reading it then says what is wrong with it
    return "it has TRL's columns of completions" if set(names) >= set(_WORDS) else None


def _read(places: Mapping[int, Sequence[Part]], tally: Tally) -> Callable[[int], Rows]:
    some = [batch for step in evenly(places) for part in places[step] for batch in _batches(part, Tally())]
    summed = adds_up(some, tally)

    def of_step(step: int) -> Rows:
        batches = [batch for part in places[step][:1] for batch in _batches(part, tally)]
        if len(places[step]) > 1:
            tally.drop("file of completions of a step that has one already", str(places[step][1].path))
        if not batches:
            return Rows(Responses())
        tally.note("prompt and completion, the words of the responses, are not kept: lldwatch has no column for them")
        return rows_of(batches[0], summed, tally, f"step {step}")

    return of_step


def _batches(part: Part, tally: Tally) -> Iterator[Batch]:
    """The batch of a file; none if it cannot be read."""
    try:
        with pq.ParquetFile(part.path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise ValueError(f"{file.metadata.num_rows:,} rows are more than a step can have")
            table = file.read()
        numeric = [name for name in table.column_names if name not in _OTHERS and _is_number(table[name].type)]
        strangers = [name for name in table.column_names if name not in _OTHERS and name not in numeric]
        batch = Batch(
            prompts=_texts(table["prompt"]),
            completions=_texts(table["completion"]),
            rewards={name: _numbers(table[name]) for name in numeric},
            advantages=_numbers(table["advantage"]) if "advantage" in table.column_names else None,
        )
    except (*_BROKEN, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        tally.drop(f"file of completions that cannot be read ({reason[:80]})", str(part.path))
        return
    if strangers:
        tally.note(f"columns of the completions that are no numbers: {', '.join(strangers[:20])}: not used")
    if len(batch.prompts):
        yield batch


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_boolean(dtype))


def _numbers(column: pa.ChunkedArray) -> Array:
    values: Array = column.cast(pa.float64(), safe=False).to_numpy()
    return values


def _texts(column: pa.ChunkedArray) -> list[bytes]:
    """As bytes, which need not be valid text; a conversation is a list of messages."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [word or b"" for word in column.cast(pa.large_binary()).to_pylist()]
    return [repr(value).encode(errors="replace") for value in column.to_pylist()]


FORMAT = RowsFormat(
    name="trl-completions",
    title="completions/completions_{step}.parquet of TRL",
    trainer="TRL",
    path=re.compile(r"(?:^|/)completions_(?P<step>\d+)\.parquet$"),
    recognise=_recognise,
    read=_read,
)
