from __future__ import annotations

from dataclasses import fields

import pytest

from lldwatch.gathered import Gathered, fields_of
from lldwatch.schema import Observation

FLOATS = [item for item in fields(Observation) if item.metadata["dtype"] == "float32"]


@pytest.mark.parametrize(("name", "over"), [(item.name, item.metadata["over"]) for item in FLOATS])
def test_the_column_says_what_becomes_of_several_numbers_for_a_step(name: str, over: str) -> None:
    updates = [Gathered(update_scalars={name: values}, updates=2) for values in ([1.0, 2.0], [3.0, 6.0])]
    assert fields_of(updates)[name] == {"mean": 3.0, "max": 6.0, "one": 2.0}[over]
    steps = [Gathered(scalars={name: number}) for number in (2.0, 6.0)]
    assert fields_of(steps)[name] == {"mean": 4.0, "max": 6.0, "one": 2.0}[over]


def test_settings_are_one_and_maxima_the_largest() -> None:
    over = {item.name: item.metadata["over"] for item in fields(Observation)}
    assert {over[name] for name in ("learning_rate", "updates_per_batch", "llds_coefficient")} == {"one"}
    assert over["grad_norm_max"] == "max"
    assert over["loss"] == "mean"
