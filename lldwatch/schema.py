"""The contract: what lldwatch knows about a training, column by column.

Four tables and one file make a run. `Observation` is one row of the table `steps`, `Responses` are rows of
`responses`, `Probes` of `probes`, an `Event` is one row of `events`; `RunInfo` is `run.json`. The dataclasses below are
the only place where a column is defined: the Arrow schema, the Parquet field metadata (unit and meaning), the reader
and the documentation are derived from them, so that a log explains itself in any tool.

Conventions: log-probabilities are in nats; a *likelihood change* is new minus old, negative = displaced; missing is
None (null in Parquet), never NaN, because a NaN that was measured is evidence. Values are cast to the column's dtype
when the record is made: what the detector sees live is bit for bit what it reads back later.

Rejected: a schema in JSON or protobuf beside the code (two places to change for one column).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lldwatch.errors import InputError

SCHEMA_VERSION = 1
SCHEMA_HISTORY = {1: "first version"}

Array = npt.NDArray[Any]

_ARROW = {
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}


def _column(dtype: str, unit: str, meaning: str, *, required: bool = False) -> Any:
    metadata = {"dtype": dtype, "unit": unit, "meaning": meaning}
    return field(default=MISSING if required else None, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything lldwatch knows about one training step; one row of the table `steps`.

    A `step` is what the trainer counts: an optimizer step in TRL, a rollout batch with all its optimizer updates in
    verl. How many updates it held is in `updates`. Every field but `step` may be None: not measured.

    Raises:
        InputError: a value is not a number.
    """

    TABLE: ClassVar[str] = "steps"

    step: int = _column("int64", "steps", "training step, as the trainer counts it", required=True)
    time: float | None = _column("float64", "s", "wall clock when the step was closed (Unix time)")
    updates: int | None = _column("int32", "updates", "optimizer updates made in this step")
    updates_per_batch: int | None = _column("int32", "updates", "optimizer updates made on each rollout batch")

    loss: float | None = _column("float32", "", "training loss, mean over the step's updates")
    grad_norm: float | None = _column("float32", "", "gradient norm before clipping, mean over the updates")
    grad_norm_max: float | None = _column("float32", "", "largest gradient norm before clipping in the step")
    learning_rate: float | None = _column("float32", "", "learning rate of the step's last update")
    kl: float | None = _column("float32", "nats/token", "KL divergence from the reference policy")
    rollout_kl: float | None = _column("float32", "nats/token", "KL divergence between rollout engine and trainer")
    llds_coefficient: float | None = _column("float32", "", "coefficient of the LLDS term that was applied")
    llds_loss: float | None = _column("float32", "nats/token", "LLDS term before its coefficient")
    format_valid_share: float | None = _column("float32", "share", "responses whose format was valid")
    truncated_share: float | None = _column("float32", "share", "responses cut off at the length limit")

    responses: int | None = _column("int32", "responses", "different responses observed in this step")
    reward: float | None = _column("float32", "reward", "mean reward of the step's responses")
    reward_std: float | None = _column("float32", "reward", "standard deviation of the reward over the responses")
    correct_share: float | None = _column("float32", "share", "responses that are correct")
    zero_advantage_share: float | None = _column("float32", "share", "responses with advantage 0 (no gradient)")
    response_length: float | None = _column("float32", "tokens", "mean number of policy tokens of a response")
    actions: float | None = _column("float32", "actions", "mean number of actions of a response")
    entropy: float | None = _column("float32", "nats/token", "mean entropy of the policy at the response tokens")
    clip_fraction: float | None = _column("float32", "share", "tokens whose ratio was outside the clip range")
    log_prob_correct: float | None = _column(
        "float32", "nats/token", "log-prob of correct responses under the policy that wrote them"
    )
    log_prob_incorrect: float | None = _column(
        "float32", "nats/token", "log-prob of incorrect responses under the policy that wrote them"
    )
    min_log_prob: float | None = _column("float32", "nats", "smallest token log-prob of the step's responses")
    change_positive: float | None = _column(
        "float32", "nats/token", "in-batch likelihood change, advantage > 0 (pushed up by the update: no headline)"
    )
    change_negative: float | None = _column("float32", "nats/token", "in-batch likelihood change, advantage < 0")
    first_action_change: float | None = _column(
        "float32", "nats", "in-batch likelihood change of the first action, responses with advantage > 0"
    )

    cross_update_change: float | None = _column(
        "float32", "nats/token", "likelihood change of the previous step's correct responses across this step's updates"
    )
    cross_update_error: float | None = _column("float32", "nats/token", "standard error of cross_update_change")
    cross_update_responses: int | None = _column("int32", "responses", "responses behind cross_update_change")
    noise_floor: float | None = _column(
        "float32", "nats/token", "largest change of a response scored twice without an update (A/A)"
    )

    def __post_init__(self) -> None:
        for name, cast in _casts():
            value = getattr(self, name)
            if value is not None:
                try:
                    object.__setattr__(self, name, cast(value))
                except (TypeError, ValueError, OverflowError, RuntimeError):
                    wanted = next(column.metadata["dtype"] for column in fields(self) if column.name == name)
                    raise InputError(f"{name}={value!r} is not a number ({wanted}): give a Python number") from None

    def as_dict(self) -> dict[str, Any]:
        """Field name -> value, in the order of the table's columns."""
        return {name: getattr(self, name) for name, _ in _casts()}


class RowTable:
    """Rows that belong to one step, as one numpy array a column (None: not measured)."""

    TABLE: ClassVar[str]
    error: ClassVar[Exception | None] = None
    """Why there are no rows, when the hook that should have made them could not."""

    @classmethod
    def unusable(cls, error: Exception) -> Self:
        """No rows, and why. A hook never raises into the training loop: the monitor decides what to do with it."""
        rows = cls()
        object.__setattr__(rows, "error", error)
        return rows

    def __post_init__(self) -> None:
        length = None
        for column in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, column.name)
            if value is None:
                continue
            what, dtype = f"{type(self).__name__}.{column.name}", column.metadata["dtype"]
            try:
                array = np.asarray(value)
                if dtype != "string":
                    with np.errstate(all="ignore"):  # what is too large for the column becomes inf, as in Observation
                        array = array.astype(dtype, copy=False)
            except (TypeError, ValueError, OverflowError, RuntimeError) as error:
                raise InputError(f"{what} cannot be read as {dtype} ({error}): give an array of numbers") from None
            length = array.shape[0] if length is None and array.ndim == 1 else length
            if array.shape != (length,):
                raise InputError(f"{what} has shape {array.shape}, expected ({'rows' if length is None else length},)")
            object.__setattr__(self, column.name, array)

    def columns(self) -> dict[str, Array | None]:
        """Column name -> values, shape (rows,), in the order of the table's columns."""
        return {column.name: getattr(self, column.name) for column in fields(self)}  # type: ignore[arg-type]

    def __len__(self) -> int:
        return next((len(array) for array in self.columns().values() if array is not None), 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Responses(RowTable):
    """One row per response and update: how the update saw it. Arrays of shape (rows,)."""

    TABLE: ClassVar[str] = "responses"

    uid: Array | None = _column("int64", "", "identity of the response within the run")
    group: Array | None = _column("int64", "", "identity of the prompt the response answers")
    update: Array | None = _column("int16", "", "index of the optimizer update within the step, from 0")
    reward: Array | None = _column("float32", "reward", "reward of the response")
    advantage: Array | None = _column("float32", "", "advantage (mean over its tokens if given per token)")
    correct: Array | None = _column("bool", "", "the response is correct (as the loop says; else reward > 0)")
    tokens: Array | None = _column("int32", "tokens", "policy tokens: where the response mask is 1")
    actions: Array | None = _column("int16", "actions", "contiguous runs of policy tokens between tool feedback")
    old_log_prob: Array | None = _column("float32", "nats", "log-prob under the policy that wrote it, sum over tokens")
    log_prob: Array | None = _column("float32", "nats", "log-prob under the policy before this update, sum over tokens")
    entropy: Array | None = _column("float32", "nats/token", "entropy of the policy, mean over tokens")
    min_log_prob: Array | None = _column("float32", "nats", "smallest token log-prob")
    clipped_tokens: Array | None = _column("int32", "tokens", "tokens whose ratio is outside the clip range")
    first_action_change: Array | None = _column("float32", "nats", "log_prob - old_log_prob, sum over the first action")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probes(RowTable):
    """One row per re-scored response: the same tokens under two states of the policy. Arrays of shape (rows,).

    `kind` is `cross_update` (correct responses of the previous step, before and after this step's updates) or
    `noise` (the same response scored twice without an update in between: the A/A floor).
    """

    TABLE: ClassVar[str] = "probes"

    kind: Array | None = _column("string", "", "what was compared: cross_update or noise")
    uid: Array | None = _column("int64", "", "identity of the response within the run")
    group: Array | None = _column("int64", "", "identity of the prompt the response answers")
    correct: Array | None = _column("bool", "", "the response is correct")
    lag: Array | None = _column("int32", "steps", "steps between the response's own step and this one")
    tokens: Array | None = _column("int32", "tokens", "policy tokens compared")
    log_prob_before: Array | None = _column("float32", "nats", "log-prob before, sum over tokens")
    log_prob_after: Array | None = _column("float32", "nats", "log-prob after, sum over tokens")


def stack_columns(tables: Sequence[RowTable]) -> dict[str, Array | None]:
    """Column name -> the values of all tables one after the other; None when one of them lacks the column."""
    parts = [table.columns() for table in tables if len(table)]
    if len(parts) == 1:
        return parts[0]
    stacked: dict[str, Array | None] = {}
    for name in parts[0] if parts else ():
        arrays = [array for part in parts if (array := part[name]) is not None]
        stacked[name] = np.concatenate(arrays) if len(arrays) == len(parts) else None
    return stacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was done or that happened; one row of the table `events`."""

    TABLE: ClassVar[str] = "events"

    step: int = _column("int64", "steps", "step during which it happened (-1: before the first)", required=True)
    time: float | None = _column("float64", "s", "wall clock (Unix time)")
    kind: str | None = _column("string", "", "start, resume, finish, error, dropped, bad_input")
    detail: str | None = _column("string", "", "what happened, in words")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """`run.json`: what the run is. Times are ISO 8601, UTC; `ended` None means running, or killed.

    `config` holds JSON values; what JSON does not know is kept as its repr.

    Raises:
        InputError: `config` cannot be written as JSON, or a version or attempt is not a whole number.
    """

    schema_version: int = SCHEMA_VERSION
    lldwatch_version: str = ""
    trainer: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    planned_steps: int | None = None
    started: str | None = None
    ended: str | None = None
    attempt: int = 0
    resumed_from: int | None = None

    def __post_init__(self) -> None:
        for name in ("schema_version", "attempt"):
            if not isinstance(getattr(self, name), int):
                raise InputError(f"{name}={getattr(self, name)!r} is not a whole number")
        try:
            object.__setattr__(self, "config", json.loads(json.dumps(self.config, default=repr)))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"config cannot be written as JSON ({error}): give a dict with names as keys") from None

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunInfo:
        """Read the file's text; keys of other versions are left out.

        Raises:
            ValueError: the text is not a JSON object.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        known = {column.name for column in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


TABLES: dict[str, type[Observation] | type[Responses] | type[Probes] | type[Event]] = {
    table.TABLE: table for table in (Observation, Responses, Probes, Event)
}


def columns_of(table: str) -> dict[str, Field[Any]]:
    """Column name -> dataclass field (metadata: dtype, unit, meaning) of a table."""
    columns = {column.name: column for column in fields(TABLES[table])}
    if "step" not in columns:
        columns = {"step": next(c for c in fields(Observation) if c.name == "step"), **columns}
    return columns


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table: unit and meaning in the field metadata, the version in the schema metadata."""
    columns = []
    for name, column in columns_of(table).items():
        about = {key: column.metadata[key] for key in ("unit", "meaning")}
        columns.append(pa.field(name, _ARROW[column.metadata["dtype"]], metadata=about))
    return pa.schema(columns, metadata={"lldwatch.schema_version": str(SCHEMA_VERSION), "lldwatch.table": table})


@cache
def _casts() -> tuple[tuple[str, Any], ...]:
    casts = {
        "int32": lambda value: _integer(value, 32),
        "int64": lambda value: _integer(value, 64),
        "float64": float,
        "float32": _float32,
    }
    return tuple((column.name, casts[column.metadata["dtype"]]) for column in fields(Observation))


def _integer(value: Any, bits: int) -> int:
    number = int(value)
    if number.bit_length() >= bits:
        raise OverflowError
    return number


def _float32(value: Any) -> float:
    number = float(value)
    if abs(number) < 3e38:
        return float(np.float32(number))
    with np.errstate(over="ignore"):  # a gradient norm of 1e39 is inf here: no warning in the middle of a training
        return float(np.float32(number))
