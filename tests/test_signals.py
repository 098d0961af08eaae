from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import observations

from lldwatch.schema import Observation
from lldwatch.signals import SIGNALS, Signal, value

COLUMNS = {field.name: field for field in fields(Observation)}


@pytest.fixture(params=SIGNALS.values(), ids=lambda signal: signal.name)
def signal(request: pytest.FixtureRequest) -> Signal:
    chosen: Signal = request.param
    return chosen


def test_the_key_is_the_name(signal: Signal) -> None:
    assert SIGNALS[signal.name] is signal


def test_what_it_requires_are_columns_that_may_be_missing(signal: Signal) -> None:
    assert signal.requires
    assert set(signal.requires) <= set(COLUMNS) - {"step", "time"}


def test_it_says_what_it_means(signal: Signal) -> None:
    for text in (signal.title, signal.meaning, signal.healthy, signal.reference):
        assert text.strip() == text != ""
    assert signal.meaning.endswith(".")
    assert signal.healthy.endswith(".")


def test_a_plain_signal_has_the_unit_of_its_column(signal: Signal) -> None:
    if signal.name in COLUMNS and not signal.name.startswith(("cross_update", "post_update")):  # per step as well
        unit = COLUMNS[signal.name].metadata["unit"]
        assert signal.unit in (unit, "" if unit == "reward" else unit)


def test_without_any_required_column_there_is_no_value(signal: Signal) -> None:
    present = dict.fromkeys(COLUMNS, 2)
    assert value(signal, Observation(**present)) is not None
    for name in signal.requires:
        assert value(signal, Observation(**{**present, name: None})) is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_kept(signal: Signal, number: float) -> None:
    floats = {name: number for name in signal.requires if COLUMNS[name].metadata["dtype"] == "float32"}
    integers = {name: 3 for name in signal.requires if name not in floats}
    measured = value(signal, Observation(step=1, **floats, **integers))
    assert measured is not None
    assert not math.isfinite(measured)


@given(observations(st.just(1)))
def test_every_observation_can_be_evaluated(observation: Observation) -> None:
    for name, number in {name: value(signal, observation) for name, signal in SIGNALS.items()}.items():
        assert (number is None) == any(getattr(observation, column) is None for column in SIGNALS[name].requires)


@pytest.mark.parametrize(("updates", "expected"), [(4, -0.05), (1, -0.2), (0, -0.2)])
def test_per_update_is_the_change_divided_by_the_updates(updates: int, expected: float) -> None:
    observation = Observation(step=1, cross_update_change=-0.2, updates=updates)
    assert value(SIGNALS["cross_update_per_update"], observation) == pytest.approx(expected)
