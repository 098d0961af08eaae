from __future__ import annotations

from typing import Any

import pytest

from lldwatch.errors import InputError
from lldwatch.probe_plan import FREE_KINDS, PRESETS, Plan, plan_of
from lldwatch.schema import KINDS


def test_every_kind_in_the_log_has_a_price_or_is_free() -> None:
    assert {*Plan().price(), *FREE_KINDS} == set(KINDS)
    assert FREE_KINDS == ("in_batch",)


def test_the_presets_become_dearer() -> None:
    totals = [sum(PRESETS[name].price().values()) for name in ("economy", "standard", "full")]
    assert totals == sorted(totals)
    assert totals[0] > 0


def test_a_preset_has_a_name_and_a_plan_of_one_s_own_is_called_custom() -> None:
    own = Plan(fixed=0)
    assert plan_of("full") == ("full", PRESETS["full"])
    assert plan_of(own) == ("custom", own)


def test_a_kind_that_is_switched_off_is_not_in_the_words() -> None:
    words = Plan(post_update=0, lagged=0, fixed=0, cross_update=10, noise_every=10).in_words("custom", 256)
    assert words == (
        "probes (custom) re-score up to 21 responses a step without gradient (cross_update 20, noise 1): "
        "0.082 forward passes of a batch of 256"
    )


@pytest.mark.parametrize("name", PRESETS)
def test_no_more_responses_are_scored_than_a_batch_has(name: str) -> None:
    price, small = PRESETS[name].price(), PRESETS[name].price(5)
    assert small["cross_update"] == 10.0
    assert all(small[kind] <= price[kind] for kind in price)
    assert PRESETS[name].price(1000) == price


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cross_update": -1}, "cross_update=-1, expected a whole number from 0"),
        ({"fixed": 2.5}, "fixed=2.5"),
        ({"noise_every": 0}, "noise_every=0, expected a whole number from 1"),
        ({"lags": (5, 7)}, r"lags=\(5, 7\) with lagged_every=5: expected multiples of it"),
        ({"lags": (0,)}, "lags="),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Plan(**wrong)
