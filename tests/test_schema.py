from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import histories, observations

from lldwatch.columns import stack_columns
from lldwatch.errors import InputError
from lldwatch.schema import (
    SCHEMA_HISTORY,
    SCHEMA_VERSION,
    TABLES,
    Event,
    Observation,
    Probes,
    Responses,
    RunInfo,
    arrow_schema,
    columns_of,
    observations_of,
)

FIELDS = [field for field in dataclasses.fields(Observation) if field.name not in ("step", "time")]
FLOATS = [field.name for field in FIELDS if field.metadata["dtype"] == "float32"]
INTEGERS = [field.name for field in FIELDS if field.metadata["dtype"] == "int32"]


@given(st.floats())
def test_float_fields_hold_what_a_float32_can_hold(number: float) -> None:
    with np.errstate(over="ignore"):
        expected = float(np.float32(number))
    for name in FLOATS:
        value = getattr(Observation(step=1, **{name: number}), name)
        assert value == expected or (math.isnan(value) and math.isnan(expected))


@given(observations(st.integers(-(2**62), 2**62)))
def test_a_cast_observation_is_not_cast_any_further(observation: Observation) -> None:
    again = Observation(**observation.as_dict())
    assert repr(again) == repr(observation)


@given(histories())
def test_what_was_written_is_read_as_the_constructor_would_make_it(history: list[Observation]) -> None:
    """None, NaN and infinities too, bit for bit, whether a column is full, empty or in between."""
    schema = arrow_schema("steps")
    table = pa.Table.from_pylist([observation.as_dict() for observation in history], schema=schema)
    read = list(observations_of(table))
    made = [Observation(**row) for row in table.to_pylist()]
    assert bits(read) == bits(made) == bits(history)
    assert [type(value) for one in read for value in one.as_dict().values()] == [
        type(value) for one in made for value in one.as_dict().values()
    ]
    assert bits(observations_of(pa.concat_tables([table, table]))) == bits(history) * 2
    assert list(observations_of(schema.empty_table())) == []


def bits(observations: Iterable[Observation]) -> list[list[bytes | None]]:
    """Values as they lie in memory, so that NaN equals itself and 0.0 is not -0.0."""
    return [
        [None if value is None else np.array(value).tobytes() for value in one.as_dict().values()]
        for one in observations
    ]


def test_an_observation_that_was_read_is_frozen_and_equals_one_that_was_made() -> None:
    made = Observation(step=4, loss=0.5, updates=3)
    (read,) = observations_of(pa.Table.from_pylist([made.as_dict()], schema=arrow_schema("steps")))
    assert read == made
    assert hash(read) == hash(made)
    assert dataclasses.replace(read, loss=0.25).loss == 0.25
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.loss = 1.0  # type: ignore[misc]


def test_missing_stays_none_and_nan_stays_nan() -> None:
    observation = Observation(step=3, loss=math.nan)
    assert observation.loss is not None
    assert math.isnan(observation.loss)
    assert all(value is None for name, value in observation.as_dict().items() if name not in ("step", "loss"))


def test_what_is_too_large_for_float32_becomes_infinite_without_a_warning() -> None:
    assert Observation(step=1, grad_norm=1e39, loss=-1e300).as_dict()["grad_norm"] == math.inf
    assert Responses(log_prob=[-1e300]).log_prob == -math.inf


def test_tensors_and_numpy_numbers_are_numbers() -> None:
    observation = Observation(step=np.int64(7), loss=torch.tensor(0.5), updates=np.float64(3.0))
    assert observation.step == 7
    assert observation.loss == 0.5
    assert observation.updates == 3
    assert type(observation.updates) is int


@pytest.mark.parametrize("wrong", ["many", [1.0, 2.0], {}, object(), 1j, torch.zeros(2)])
@pytest.mark.parametrize("name", ["loss", "updates", "time", "step"])
def test_a_value_that_is_no_number_is_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"^{name}="):
        Observation(**{"step": 1, name: wrong})


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 2**31, -(2**31) - 1])
@pytest.mark.parametrize("name", INTEGERS)
def test_what_an_integer_column_cannot_hold_is_refused(name: str, wrong: float) -> None:
    with pytest.raises(InputError, match=rf"^{name}=.*int32"):
        Observation(step=1, **{name: wrong})


def test_an_observation_needs_a_step_and_knows_no_other_fields() -> None:
    with pytest.raises(TypeError, match="step"):
        Observation()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="gradnorm"):
        Observation(step=1, gradnorm=1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_column_says_its_unit_and_meaning_in_the_arrow_schema(table: str) -> None:
    schema = arrow_schema(table)
    assert schema.metadata == {
        b"lldwatch.schema_version": str(SCHEMA_VERSION).encode(),
        b"lldwatch.table": table.encode(),
    }
    assert schema.names == list(columns_of(table))
    assert "step" in schema.names
    for column in schema:
        assert set(column.metadata) == {b"unit", b"meaning"}, column.name
        assert column.metadata[b"meaning"], column.name
        assert column.nullable


@pytest.mark.parametrize("table", sorted(TABLES))
def test_the_arrow_types_are_those_of_the_columns(table: str) -> None:
    for name, column in columns_of(table).items():
        expected = column.metadata["dtype"]
        assert arrow_schema(table).field(name).type == pa.type_for_alias(expected), name


def test_the_current_version_is_the_last_of_the_history() -> None:
    assert max(SCHEMA_HISTORY) == SCHEMA_VERSION


def test_columns_of_different_lengths_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"Responses\.tokens has shape \(3,\), expected \(2,\)"):
        Responses(reward=[1.0, 0.0], tokens=[1, 2, 3])
    with pytest.raises(InputError, match=r"Responses\.reward has shape \(2, 1\), expected \(rows,\)"):
        Responses(reward=[[1.0], [0.0]])
    with pytest.raises(InputError, match=r"Probes\.tokens has shape \(\), expected \(rows,\)"):
        Probes(tokens=np.int32(3))


@pytest.mark.parametrize("wrong", [["many"], [[1.0], [1.0, 2.0]], [object()]])
def test_a_column_that_holds_no_numbers_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^Responses\.reward cannot be read as float32"):
        Responses(reward=wrong)


def test_stacking_leaves_out_what_one_part_lacks_and_skips_empty_parts() -> None:
    stacked = stack_columns([Responses(reward=[1.0], tokens=[2]), Responses(), Responses(tokens=[3, 4])])
    assert stacked["reward"] is None
    assert stacked["tokens"] is not None
    assert stacked["tokens"].tolist() == [2, 3, 4]
    assert stack_columns([]) == {}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4), st.none() | st.integers(), st.text())
def test_run_info_survives_its_file(config: dict[str, Any], planned: int | None, trainer: str) -> None:
    info = RunInfo(config=config, planned_steps=planned, trainer=trainer, attempt=3, resumed_from=7)
    assert RunInfo.from_json(info.to_json()) == info


def test_config_values_that_json_does_not_know_are_kept_as_their_repr() -> None:
    lock = threading.Lock()  # neither JSON nor copyable
    info = RunInfo(config={"lock": lock, "dtype": torch.bfloat16, "rates": (1, 2)})
    assert info.config == {"lock": repr(lock), "dtype": "torch.bfloat16", "rates": [1, 2]}
    assert RunInfo.from_json(info.to_json()) == info


def test_a_config_that_cannot_be_a_json_object_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="config cannot be written as JSON"):
        RunInfo(config={("a", "b"): 1})  # type: ignore[dict-item]
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with pytest.raises(InputError, match="config cannot be written as JSON"):
        RunInfo(config=circle)


def test_changing_the_config_later_does_not_change_the_info() -> None:
    config = {"rates": [1.0]}
    info = RunInfo(config=config)
    config["rates"].append(2.0)
    assert info.config == {"rates": [1.0]}


def test_keys_of_other_versions_are_left_out() -> None:
    text = json.dumps({"trainer": "x", "mood": "good"})
    assert RunInfo.from_json(text) == RunInfo(trainer="x")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema_version": "two"}', '{"attempt": null}'])
def test_a_broken_run_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        RunInfo.from_json(text)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (Observation(step=1), "loss"),
        (Responses(reward=[1.0]), "reward"),
        (Event(step=1), "kind"),
        (RunInfo(), "trainer"),
    ],
)
def test_records_are_frozen(record: Any, name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, None)
