from __future__ import annotations

import pytest

from lldwatch import InputError
from lldwatch.integrations.environment import wanted


def test_without_a_run_nothing_is_watched() -> None:
    assert wanted({}) is None
    assert wanted({"LLDWATCH_LLDS": "on"}) is None
    assert wanted({"LLDWATCH_RUN": ""}) is None


def test_all_that_may_be_said() -> None:
    given = wanted(
        {
            "LLDWATCH_RUN": "runs/x",
            "LLDWATCH_LLDS": "auto",
            "LLDWATCH_STRENGTH": "2",
            "LLDWATCH_REFERENCE": "replay",
            "LLDWATCH_PROBES": "economy",
            "LLDWATCH_RESUME": "1",
            "LLDWATCH_CORRECT_ABOVE": "0.5",
            "LLDWATCH_CACHE": "/somewhere",
        }
    )
    assert given is not None
    assert (given.run, given.llds.mode, given.llds.strength) == ("runs/x", "auto", 2.0)
    assert (given.reference, given.probes, given.resume, given.correct_above) == ("replay", "economy", True, 0.5)


def test_what_is_not_said_is_left_to_the_integration() -> None:
    given = wanted({"LLDWATCH_RUN": "runs/x"})
    assert given is not None
    assert (given.llds.mode, given.reference, given.probes, given.resume, given.correct_above) == (
        "off",
        None,
        None,
        False,
        0.0,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLDWATCH_LDDS", "on", "LLDWATCH_LDDS is not a setting: did you mean LLDWATCH_LLDS?"),
        ("LLDWATCH_QQQQ", "on", "LLDWATCH_QQQQ is not a setting: expected one of LLDWATCH_RUN"),
        ("LLDWATCH_LLDS", "yes", "LLDWATCH_LLDS='yes': expected one of off, on, auto"),
        ("LLDWATCH_STRENGTH", "much", "LLDWATCH_STRENGTH='much': expected a number"),
        ("LLDWATCH_STRENGTH", "-1", "strength=-1.0"),
        ("LLDWATCH_PROBES", "some", "LLDWATCH_PROBES='some': expected one of off, economy, standard, full"),
        ("LLDWATCH_RESUME", "perhaps", "LLDWATCH_RESUME='perhaps': expected 1 or 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name: str, value: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        wanted({"LLDWATCH_RUN": "runs/x", name: value})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
