from __future__ import annotations

import pytest

from lldwatch import Command, InputError, Webhook
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


def test_alerts_and_a_stop_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = wanted(
        {
            "LLDWATCH_RUN": "runs/x",
            "LLDWATCH_WEBHOOK": "https://host/secret",
            "LLDWATCH_WEBHOOK_SHAPE": "slack",
            "LLDWATCH_ALERT_COMMAND": "notify.sh --to me",
            "LLDWATCH_STOP_ON": "collapse",
            "LLDWATCH_ALERT_TITLE": "of an alert that this process was started by",
        }
    )
    assert given is not None
    assert given.alerts == (Webhook(shape="slack"), Command("notify.sh --to me"))
    assert given.stop_on == "collapse"
    assert "secret" not in repr(given)
    assert "--to" not in repr(given)


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
        ("LLDWATCH_STOP_ON", "decay", "LLDWATCH_STOP_ON='decay': expected one of collapse"),
        ("LLDWATCH_WEBHOOK_SHAPE", "teams", "LLDWATCH_WEBHOOK_SHAPE='teams': expected one of json, slack, discord"),
        ("LLDWATCH_WEBHOK", "x", "LLDWATCH_WEBHOK is not a setting: did you mean LLDWATCH_WEBHOOK?"),
        ("LLDWATCH_RESUME", "perhaps", "LLDWATCH_RESUME='perhaps': expected 1 or 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name: str, value: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        wanted({"LLDWATCH_RUN": "runs/x", name: value})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
