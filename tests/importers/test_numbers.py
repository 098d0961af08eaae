from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lldwatch.importers.numbers import number, pairs, whole


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (True, 1.0),
        (None, None),
        ("0.001931", 0.001931),
        ("-0.000", 0.0),
        ("1e-06", 1e-6),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("np.float64(0.25)", 0.25),
        ("np.float64(-1e-05)", -1e-5),
        ("numpy.float32(2)", 2.0),
        ("tensor(0.5, device='cuda:0')", 0.5),
        ("tensor([0.5])", 0.5),
        ("No Log", None),
        ("", None),
        ("null", None),
        (10**400, math.inf),
    ],
)
def test_numbers_as_logs_write_them(value: object, expected: float | None) -> None:
    assert number(value) == expected


@pytest.mark.parametrize("value", ["nan", "NaN", "np.float64(nan)"])
def test_nan_is_a_number_that_was_measured(value: str) -> None:
    given_number = number(value)
    assert given_number is not None
    assert math.isnan(given_number)


@pytest.mark.parametrize("value", ["high", [1.0], {"a": 1}, "1,5", "0x10", "x" * 1000, "5%"])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        number(value)


def test_a_dict_that_python_printed() -> None:
    text = (
        "{'loss': -0.1, 'kl': np.float64(0.0), \"clip\": nan, 'lr': '1e-06', 'x y/z(1e-4)': 3, 'l': [1, 2], 'n': None}"
    )
    assert pairs(text) == {
        "loss": "-0.1",
        "kl": "np.float64(0.0)",
        "clip": "nan",
        "lr": "1e-06",
        "x y/z(1e-4)": "3",
        "l": "[1, 2]",
        "n": "None",
    }


@given(st.text(alphabet="{}'\":, ()[]na1.", max_size=400))
def test_no_text_breaks_it(text: str) -> None:
    assert isinstance(pairs(text), dict)


def test_deep_nesting_takes_no_longer_than_its_length() -> None:
    # quadratic time would take minutes, and pytest's own limit end it
    assert pairs("{'a': " * 100_000) == {"a": ""}
    assert pairs("('" * 300_000) == {}
    assert pairs("'a':(" * 200_000) == {"a": ""}


@pytest.mark.parametrize(
    ("value", "step"), [(3, 3), ("7", 7), (3.0, 3), (3.5, None), (-1, None), ("x", None), (None, None), (2**60, None)]
)
def test_a_step_is_a_whole_number(value: object, step: int | None) -> None:
    assert whole(value) == step
