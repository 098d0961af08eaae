"""The contract: what lldwatch knows about a training, column by column.

Eight tables and one file make a run. `Observation` is one row of the table `steps`, an `Event` one row of `events`;
the others hold the rows of a step: `Responses`, `Probes`, `Actions`, `Positions`, `Tokens`, `Gradients`. `RunInfo` is
`run.json`. The dataclasses below are the only place where a column is defined: the Arrow schema, the Parquet field
metadata (unit and meaning), the reader and the documentation are derived from them, so that a log explains itself in
any tool.

Conventions: log-probabilities are in nats; a *likelihood change* is new minus old, negative = displaced; missing is
None (null in Parquet), never NaN, because a NaN that was measured is evidence.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import Field, asdict, dataclass, field, fields
from functools import cache
from itertools import repeat
from typing import Any, ClassVar

import pyarrow as pa

from lldwatch.columns import ARROW, Array, RowTable, cast_scalars, column
from lldwatch.errors import InputError

SCHEMA_VERSION = 2
SCHEMA_HISTORY = {
    1: "first version: steps, responses, probes, events",
    2: "tables actions, positions, tokens, gradients; more probe kinds; first action, answer span, low confidence",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything lldwatch knows about one training step; one row of the table `steps`.

    A `step` is what the trainer counts: an optimizer step in TRL, a rollout batch with all its optimizer updates in
    verl. How many updates it held is in `updates`. Every field but `step` may be None: not measured.

    Raises:
        InputError: a value is not a number.
    """

    TABLE: ClassVar[str] = "steps"

    step: int = column("int64", "steps", "training step, as the trainer counts it", required=True)
    time: float | None = column("float64", "s", "wall clock when the step was closed (Unix time)")
    updates: int | None = column("int32", "updates", "optimizer updates made in this step")
    updates_per_batch: int | None = column(
        "int32", "updates", "optimizer updates made on each rollout batch", over="one"
    )

    loss: float | None = column("float32", "", "training loss, mean over the step's updates")
    grad_norm: float | None = column("float32", "", "gradient norm before clipping, mean over the updates")
    grad_norm_max: float | None = column("float32", "", "largest gradient norm before clipping in the step", over="max")
    zero_gradient_updates: int | None = column("int32", "updates", "updates whose gradient norm was exactly 0")
    learning_rate: float | None = column("float32", "", "learning rate of the step's last update", over="one")
    kl: float | None = column("float32", "nats/token", "KL divergence from the reference policy")
    rollout_kl: float | None = column("float32", "nats/token", "KL divergence between rollout engine and trainer")
    llds_coefficient: float | None = column("float32", "", "coefficient of the LLDS term that was applied", over="one")
    llds_loss: float | None = column("float32", "nats/token", "LLDS term before its coefficient")
    format_valid_share: float | None = column("float32", "share", "responses whose format was valid")
    truncated_share: float | None = column("float32", "share", "responses cut off at the length limit")

    responses: int | None = column("int32", "responses", "different responses observed in this step")
    reward: float | None = column("float32", "reward", "mean reward of the step's responses")
    reward_std: float | None = column("float32", "reward", "standard deviation of the reward over the responses")
    correct_share: float | None = column("float32", "share", "responses that are correct")
    zero_advantage_share: float | None = column("float32", "share", "responses with advantage 0 (no gradient)")
    response_length: float | None = column("float32", "tokens", "mean number of policy tokens of a response")
    actions: float | None = column("float32", "actions", "mean number of actions of a response")
    entropy: float | None = column("float32", "nats/token", "mean entropy of the policy at the response tokens")
    clip_fraction: float | None = column("float32", "share", "tokens whose ratio was outside the clip range")
    log_prob_correct: float | None = column(
        "float32", "nats/token", "log-prob of correct responses under the policy that wrote them"
    )
    log_prob_incorrect: float | None = column(
        "float32", "nats/token", "log-prob of incorrect responses under the policy that wrote them"
    )
    log_prob_first_action: float | None = column(
        "float32", "nats/token", "the same for the first action of correct responses"
    )
    log_prob_later_actions: float | None = column(
        "float32", "nats/token", "the same for the actions after tool feedback of correct responses"
    )
    log_prob_answer: float | None = column("float32", "nats/token", "the same for the answer of correct responses")
    gap: float | None = column(
        "float32", "nats/token", "log_prob_correct - log_prob_incorrect within a prompt, mean over prompts with both"
    )
    min_log_prob: float | None = column("float32", "nats", "smallest token log-prob of the step's responses")
    low_confidence_share: float | None = column(
        "float32",
        "share",
        "policy tokens less likely than the first of low_confidence (0.1 unless the loop says other)",
    )
    very_low_confidence_share: float | None = column(
        "float32", "share", "policy tokens less likely than the second of low_confidence (0.01)"
    )
    change_positive: float | None = column(
        "float32", "nats/token", "in-batch likelihood change, advantage > 0 (pushed up by the update: no headline)"
    )
    change_negative: float | None = column("float32", "nats/token", "in-batch likelihood change, advantage < 0")
    first_action_change: float | None = column(
        "float32", "nats", "in-batch likelihood change of the first action, responses with advantage > 0"
    )
    answer_change: float | None = column(
        "float32", "nats", "in-batch likelihood change of the answer, responses with advantage > 0"
    )
    first_update_change: float | None = column(
        "float32",
        "nats/token",
        "largest |in-batch change| of a response at the step's first update: noise if on-policy",
    )

    cross_update_change: float | None = column(
        "float32", "nats/token", "likelihood change of the previous step's correct responses across this step's updates"
    )
    cross_update_error: float | None = column("float32", "nats/token", "standard error of cross_update_change")
    cross_update_responses: int | None = column("int32", "responses", "responses behind cross_update_change")
    cross_update_first_action: float | None = column(
        "float32", "nats/token", "cross_update_change of the first actions alone"
    )
    cross_update_later_actions: float | None = column(
        "float32", "nats/token", "cross_update_change of the actions after tool feedback alone"
    )
    post_update_correct: float | None = column(
        "float32",
        "nats/token",
        "likelihood change of this step's correct responses across its updates, advantage not 0",
    )
    post_update_incorrect: float | None = column("float32", "nats/token", "the same for incorrect responses")
    post_update_zero_advantage: float | None = column(
        "float32", "nats/token", "the same for responses with advantage 0, correct or not"
    )
    post_update_gap: float | None = column("float32", "nats/token", "change of `gap` across this step's updates")
    lagged_change_5: float | None = column(
        "float32", "nats/token", "likelihood change of correct responses since their own step, 5 steps ago"
    )
    lagged_change_10: float | None = column("float32", "nats/token", "the same, 10 steps ago")
    lagged_change_20: float | None = column("float32", "nats/token", "the same, 20 steps ago")
    fixed_anchor_change: float | None = column(
        "float32", "nats/token", "likelihood change of the fixed anchors since they were taken"
    )
    noise_floor: float | None = column(
        "float32", "nats/token", "largest change of a response scored twice without an update (A/A)"
    )
    token_noise_floor: float | None = column(
        "float32", "nats", "largest change of a token scored twice without an update (A/A)"
    )
    probe_seconds: float | None = column("float32", "s", "wall time of the probes in this step")

    def __post_init__(self) -> None:
        cast_scalars(self)

    def as_dict(self) -> dict[str, Any]:
        """Field name -> value, in the order of the table's columns."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Responses(RowTable):
    """One row per response and update: how the update saw it. Arrays of shape (rows,)."""

    TABLE: ClassVar[str] = "responses"

    uid: Array | None = column("int64", "", "identity of the response within the run")
    group: Array | None = column("int64", "", "identity of the prompt the response answers")
    update: Array | None = column("int16", "", "index of the optimizer update within the step, from 0")
    reward: Array | None = column("float32", "reward", "reward of the response")
    advantage: Array | None = column("float32", "", "advantage (mean over its tokens if given per token)")
    correct: Array | None = column("bool", "", "the response is correct (as the loop says; else reward > 0)")
    tokens: Array | None = column("int32", "tokens", "policy tokens: where the response mask is 1")
    actions: Array | None = column("int16", "actions", "contiguous runs of policy tokens between tool feedback")
    old_log_prob: Array | None = column("float32", "nats", "log-prob under the policy that wrote it, sum over tokens")
    log_prob: Array | None = column("float32", "nats", "log-prob under the policy before this update, sum over tokens")
    entropy: Array | None = column("float32", "nats/token", "entropy of the policy, mean over tokens")
    min_log_prob: Array | None = column("float32", "nats", "smallest token log-prob")
    low_confidence_tokens: Array | None = column("int32", "tokens", "tokens less likely than 0.1 (unless told other)")
    very_low_confidence_tokens: Array | None = column("int32", "tokens", "tokens less likely than 0.01")
    clipped_tokens: Array | None = column("int32", "tokens", "tokens whose ratio is outside the clip range")
    first_action_tokens: Array | None = column("int32", "tokens", "tokens of the first action")
    first_action_log_prob: Array | None = column("float32", "nats", "old_log_prob of the first action alone")
    first_action_change: Array | None = column("float32", "nats", "log_prob - old_log_prob, sum over the first action")
    answer_tokens: Array | None = column("int32", "tokens", "policy tokens of the answer span")
    answer_log_prob: Array | None = column("float32", "nats", "old_log_prob of the answer span alone")
    answer_change: Array | None = column("float32", "nats", "log_prob - old_log_prob, sum over the answer span")


KINDS = {
    "cross_update": "correct responses of the previous step, across this step's updates: the headline",
    "post_update": "responses of this step's own batch, across this step's updates",
    "lagged": "correct responses of an earlier step, from after its own updates until now",
    "fixed": "fixed anchors: correct responses of the first steps, or a set of the user's, since they were taken",
    "in_batch": "this step's batch, from when it was written until before update `update`: one row an update and sign",
    "noise": "the same responses scored twice without an update in between: the A/A floor",
}
"""What a row of `probes` compares."""

OF_EARLIER_STEPS = ("cross_update", "lagged")
"""Kinds that compare with the policy of an earlier step: a training that goes back makes them meaningless."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probes(RowTable):
    """One row per re-scored response: the same tokens under two states of the policy. Arrays of shape (rows,).

    `kind` is a key in `KINDS`. Rows of `in_batch` are sums over all responses of one update and one sign of the
    advantage (`correct` then says advantage > 0); they cost nothing and have no uid.
    """

    TABLE: ClassVar[str] = "probes"

    kind: Array | None = column("string", "", "what was compared: " + ", ".join(KINDS))
    uid: Array | None = column("int64", "", "identity of the response within the run")
    group: Array | None = column("int64", "", "identity of the prompt the response answers")
    correct: Array | None = column("bool", "", "the response is correct")
    advantage: Array | None = column("float32", "", "advantage in the response's own step")
    lag: Array | None = column("int32", "steps", "steps between the response's own step and this one")
    update: Array | None = column("int16", "", "in_batch: index of the optimizer update within the step, from 0")
    tokens: Array | None = column("int32", "tokens", "policy tokens compared")
    log_prob_before: Array | None = column("float32", "nats", "log-prob before, sum over tokens")
    log_prob_after: Array | None = column("float32", "nats", "log-prob after, sum over tokens")
    fallen_tokens: Array | None = column("int32", "tokens", "tokens whose log-prob fell")
    largest_token_change: Array | None = column("float32", "nats", "largest |change| of a single token")
    first_action_tokens: Array | None = column("int32", "tokens", "tokens of the first action")
    first_action_before: Array | None = column("float32", "nats", "log_prob_before of the first action alone")
    first_action_after: Array | None = column("float32", "nats", "log_prob_after of the first action alone")
    answer_tokens: Array | None = column("int32", "tokens", "policy tokens of the answer span")
    answer_before: Array | None = column("float32", "nats", "log_prob_before of the answer span alone")
    answer_after: Array | None = column("float32", "nats", "log_prob_after of the answer span alone")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Actions(RowTable):
    """One row per action of a re-scored response of kind `cross_update` or `post_update`. Arrays of shape (rows,)."""

    TABLE: ClassVar[str] = "actions"

    kind: Array | None = column("string", "", "as in `probes`")
    uid: Array | None = column("int64", "", "identity of the response within the run")
    correct: Array | None = column("bool", "", "the response is correct")
    action: Array | None = column("int16", "", "index of the action in the response, from 0")
    tokens: Array | None = column("int32", "tokens", "policy tokens of the action")
    log_prob_before: Array | None = column("float32", "nats", "log-prob before, sum over the action")
    log_prob_after: Array | None = column("float32", "nats", "log-prob after, sum over the action")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Positions(RowTable):
    """Confidence by the place of a token in its action, one row a place. Arrays of shape (rows,).

    Made of at most 64 responses of a (micro-)batch, evenly chosen.

    Reference: tool feedback is out of distribution, and likelihood falls behind it; arXiv:2512.04220.
    """

    TABLE: ClassVar[str] = "positions"

    after_feedback: Array | None = column("bool", "", "the action follows tool feedback (else it is the first one)")
    position: Array | None = column("int16", "tokens", "place in the action, from 0; the last one holds all later ones")
    tokens: Array | None = column("int32", "tokens", "policy tokens at this place")
    log_prob: Array | None = column("float32", "nats", "their log-prob under the policy before the update, sum")
    min_log_prob: Array | None = column("float32", "nats", "the smallest of them")
    low_confidence_tokens: Array | None = column("int32", "tokens", "tokens less likely than 0.1 (unless told other)")
    very_low_confidence_tokens: Array | None = column("int32", "tokens", "tokens less likely than 0.01")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens(RowTable):
    """Token by token, for a sample of re-scored responses: those whose log-prob per token fell most. Shape (rows,).

    From the first to the last policy token; the tool feedback in between has `action` -1 and 0 for all numbers.
    """

    TABLE: ClassVar[str] = "tokens"

    kind: Array | None = column("string", "", "as in `probes`")
    uid: Array | None = column("int64", "", "identity of the response within the run")
    position: Array | None = column("int32", "tokens", "column of the response mask, from 0")
    action: Array | None = column("int16", "", "index of the action, from 0; -1 for tool feedback")
    token: Array | None = column("int64", "", "token id")
    text: Array | None = column("string", "", "the token in words")
    log_prob_before: Array | None = column("float32", "nats", "log-prob before")
    log_prob_after: Array | None = column("float32", "nats", "log-prob after")
    entropy: Array | None = column("float32", "nats", "entropy of the policy at the token, after")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gradients(RowTable):
    """One row per part of the model: the norm of its gradient before clipping. Arrays of shape (rows,)."""

    TABLE: ClassVar[str] = "gradients"

    update: Array | None = column("int16", "", "index of the optimizer update within the step, from 0")
    module: Array | None = column("string", "", "embedding, block 0, block 1, ..., head, or other")
    grad_norm: Array | None = column("float32", "", "2-norm of the gradient before clipping; inf and NaN as they are")
    parameters: Array | None = column("int64", "", "numbers that the norm was taken over")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was done or that happened; one row of the table `events`."""

    TABLE: ClassVar[str] = "events"

    step: int = column("int64", "steps", "step during which it happened (-1: before the first)", required=True)
    time: float | None = column("float64", "s", "wall clock (Unix time)")
    kind: str | None = column("string", "", "start, probe, resume, finish, error, dropped, bad_input")
    detail: str | None = column("string", "", "what happened, in words")


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


def _values(column: pa.ChunkedArray) -> Iterable[Any]:
    """Python numbers, None where there is none."""
    return repeat(None, len(column)) if column.null_count == len(column) else column.to_pylist()


def observations_of(steps: pa.Table) -> list[Observation]:
    """The rows of a table `steps` that was read with `arrow_schema`, whose values have their dtypes already.

    An observation is made some twenty times faster than by its constructor, which casts: a post-mortem makes many.
    """
    rows = [object.__new__(Observation) for _ in range(len(steps))]
    for item in fields(Observation):
        set_value = getattr(Observation, item.name).__set__  # of the slot: a frozen class sets no other way
        deque(map(set_value, rows, _values(steps[item.name])), maxlen=0)
    return rows


TABLES: dict[str, type[Observation] | type[RowTable] | type[Event]] = {
    table.TABLE: table for table in (Observation, Responses, Probes, Actions, Positions, Tokens, Gradients, Event)
}


def columns_of(table: str) -> dict[str, Field[Any]]:
    """Column name -> dataclass field (metadata: dtype, unit, meaning) of a table."""
    columns = {item.name: item for item in fields(TABLES[table])}  # type: ignore[arg-type]  # all are dataclasses
    if "step" not in columns:
        columns = {"step": next(c for c in fields(Observation) if c.name == "step"), **columns}
    return columns


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table: unit and meaning in the field metadata, the version in the schema metadata."""
    columns = []
    for name, item in columns_of(table).items():
        about = {key: item.metadata[key] for key in ("unit", "meaning")}
        columns.append(pa.field(name, ARROW[item.metadata["dtype"]], metadata=about))
    return pa.schema(columns, metadata={"lldwatch.schema_version": str(SCHEMA_VERSION), "lldwatch.table": table})
