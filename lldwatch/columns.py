"""What a column is: how the contract in `schema` says its dtype, unit and meaning, and how values are cast to it.

Values are cast when a record is made, so that what the detector sees live is bit for bit what it reads back later.

Rejected: a schema in JSON or protobuf beside the code (two places to change for one column).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ctypes import c_float
from dataclasses import MISSING, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lldwatch.errors import InputError

Array = npt.NDArray[Any]
Over = Literal["mean", "max", "one"]

ARROW = {
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}


def column(dtype: str, unit: str, meaning: str, *, required: bool = False, over: Over = "mean") -> Any:
    """A dataclass field that is a column; None (null in Parquet) unless it is required.

    `over` says what becomes of several numbers for one step, of its updates or of the ranks: their mean, the largest,
    or one of them, for a setting: the last update's, rank 0's.
    """
    metadata = {"dtype": dtype, "unit": unit, "meaning": meaning, "over": over}
    return field(default=MISSING if required else None, metadata=metadata)


class RowTable:
    """Rows that belong to one step, as one numpy array a column (None: not measured).

    Attributes:
        error: why there are no rows, when the hook that should have made them could not.
        companions: rows of other tables that were measured together with these.
        seconds: wall time that measuring them took on the training thread; None if it was not timed.
        note: what the run's events should say of them, once.
        pending: on their way from the device; there are no rows before `resolve`.
    """

    TABLE: ClassVar[str]
    error: Exception | None = None
    companions: tuple[RowTable, ...] = ()
    seconds: float | None = None
    note: str | None = None
    pending: Callable[[], Self] | None = None

    def resolve(self) -> Self:
        """The rows; waits for the device if they are still on their way."""
        return self if self.pending is None else self.pending()

    def having(self, **attributes: Any) -> Self:
        """These rows, with some of the attributes set."""
        for name, value in attributes.items():
            object.__setattr__(self, name, value)
        return self

    @classmethod
    def unusable(cls, error: Exception) -> Self:
        """No rows, and why. A hook never raises into the training loop: the monitor decides what to do with it."""
        return cls().having(error=error)

    def __post_init__(self) -> None:
        length = None
        for name, dtype in _dtypes(type(self)):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                array = value if isinstance(value, np.ndarray) else np.asarray(value)
                if dtype is not None and array.dtype != dtype:
                    with np.errstate(all="ignore"):  # what is too large for the column becomes inf, as in Observation
                        array = array.astype(dtype)
            except (TypeError, ValueError, OverflowError, RuntimeError) as error:
                what = f"{type(self).__name__}.{name}"
                raise InputError(f"{what} cannot be read as {dtype} ({error}): give an array of numbers") from None
            length = array.shape[0] if length is None and array.ndim == 1 else length
            if array.shape != (length,):
                wanted, what = "rows" if length is None else length, f"{type(self).__name__}.{name}"
                raise InputError(f"{what} has shape {array.shape}, expected ({wanted},)")
            object.__setattr__(self, name, array)

    def columns(self) -> dict[str, Array | None]:
        """Column name -> values, shape (rows,), in the order of the table's columns."""
        return {name: getattr(self, name) for name, _ in _dtypes(type(self))}

    def __len__(self) -> int:
        return next((len(array) for array in self.columns().values() if array is not None), 0)


def _array_dtypes(table: Any) -> tuple[tuple[str, np.dtype[Any] | None], ...]:
    """Column name -> dtype of its array; words keep theirs."""
    wanted = ((item.name, item.metadata["dtype"]) for item in fields(table))
    return tuple((name, None if dtype == "string" else np.dtype(dtype)) for name, dtype in wanted)


_dtypes: Callable[[Any], tuple[tuple[str, np.dtype[Any] | None], ...]] = cache(_array_dtypes)


def stack_columns(tables: Iterable[RowTable]) -> dict[str, Array | None]:
    """Column name -> the values of all tables one after the other; None when one of them lacks the column."""
    return stack([table.columns() for table in tables if len(table)])


def stack(parts: Sequence[dict[str, Array | None]]) -> dict[str, Array | None]:
    """The same for the columns of tables."""
    if len(parts) == 1:
        return parts[0]
    stacked: dict[str, Array | None] = {}
    for name in parts[0] if parts else ():
        arrays = [array for part in parts if (array := part[name]) is not None]
        stacked[name] = np.concatenate(arrays) if len(arrays) == len(parts) else None
    return stacked


def cast_scalars(record: Any) -> None:
    """Cast every field of a frozen dataclass of scalars to its column's dtype; None stays None.

    Raises:
        InputError: a value is not a number.
    """
    for name, cast in _casts(type(record)):
        value = getattr(record, name)
        if value is not None:
            try:
                object.__setattr__(record, name, cast(value))
            except (TypeError, ValueError, OverflowError, RuntimeError):
                wanted = next(item.metadata["dtype"] for item in fields(record) if item.name == name)
                raise InputError(f"{name}={value!r} is not a number ({wanted}): give a Python number") from None


def _field_casts(record: Any) -> tuple[tuple[str, Any], ...]:
    """Field name -> what casts a value to the column's dtype, of a dataclass of scalars."""
    ways = {
        "int32": lambda value: _integer(value, 32),
        "int64": lambda value: _integer(value, 64),
        "float64": float,
        "float32": _float32,
    }
    return tuple((item.name, ways[item.metadata["dtype"]]) for item in fields(record))


_casts: Callable[[Any], tuple[tuple[str, Any], ...]] = cache(_field_casts)


def _integer(value: Any, bits: int) -> int:
    number = int(value)
    if number.bit_length() >= bits:
        raise OverflowError
    return number


def _float32(value: Any) -> float:
    """The nearest float32; what is too large for it becomes inf, without a warning in the middle of a training."""
    return c_float(float(value)).value
