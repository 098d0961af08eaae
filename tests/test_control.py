"""LLDS switched on and off from outside of a training that runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from lldwatch import InputError, Monitor, Run, RunNotFoundError
from lldwatch.cli import main
from lldwatch.control import CONTROL_FILE, Order, Orders, give_order


def steps(monitor: Monitor, count: int) -> list[float]:
    """Closes steps; the coefficient that each was made with."""
    applied = []
    for _ in range(count):
        applied.append(monitor.llds_coefficient)
        monitor.step(reward=0.5)
        monitor._recorder.flush()  # an order is read in the background: here it has been when the next step begins
    return applied


def test_an_order_holds_from_the_next_step_but_one(tmp_path: Path) -> None:
    with Monitor(tmp_path / "run") as monitor:
        assert steps(monitor, 2) == [0, 0]
        give_order(tmp_path / "run", Order("on", 0.4))
        assert steps(monitor, 4) == [0, 0, 0.4, 0.4]
        give_order(tmp_path / "run", Order("off"))
        assert steps(monitor, 3) == [0.4, 0.4, 0]
    run = Run(tmp_path / "run")
    recorded = [step.llds_coefficient for step in run.observations()]
    assert [coefficient or 0 for coefficient in recorded] == pytest.approx([0, 0, 0, 0, 0.4, 0.4, 0.4, 0.4, 0])
    said = [event["detail"] for event in run.events().to_pylist() if event["kind"] == "llds"]
    assert any("ordered: LLDS on, strength 0.4" in words for words in said)
    assert any("ordered: LLDS off" in words for words in said)


def test_auto_may_be_ordered_for_a_training_that_was_started_without(tmp_path: Path) -> None:
    with Monitor(tmp_path / "run") as monitor:
        give_order(tmp_path / "run", Order("auto"))
        assert steps(monitor, 4) == [0, 0, 0, 0]
        assert monitor._course._intervention.settings.mode == "auto"


def test_a_resumed_training_follows_the_order_that_stands(tmp_path: Path) -> None:
    with Monitor(tmp_path / "run") as monitor:
        steps(monitor, 2)
    give_order(tmp_path / "run", Order("on", 2.0))
    with Monitor(tmp_path / "run", resume=True) as monitor:
        assert steps(monitor, 1) == [2.0]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"strength": 1}', '{"llds": "maybe"}', '{"llds": "on", "strength": -1}']
)
def test_a_file_that_is_no_order_is_said_once_and_changes_nothing(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CONTROL_FILE).write_text(content)
    orders = Orders(tmp_path)
    with caplog.at_level(logging.WARNING, "lldwatch"):
        orders.poll()
        orders.poll()
    assert orders.latest is None
    assert len(caplog.messages) == 1
    assert "lldwatch llds RUN on|off|auto" in caplog.messages[0]


def test_what_cannot_be_ordered(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="llds='maybe': expected one of off, on, auto"):
        Order("maybe")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="strength=-1"):
        Order("on", -1)
    with pytest.raises(RunNotFoundError, match="is not a run"):
        give_order(tmp_path, Order("on"))


def test_the_command_writes_the_order_and_refuses_a_run_that_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with Monitor(run) as monitor:
        monitor.step(reward=0.5)
        assert main(["llds", str(run), "on", "--strength", "0.5"]) == 0
        assert json.loads((run / CONTROL_FILE).read_text()) == {"llds": "on", "strength": 0.5}
        assert "LLDS on, strength 0.5" in capsys.readouterr().out
    assert main(["llds", str(run), "off"]) == 2
    assert "nobody is there to follow" in capsys.readouterr().err
    assert main(["llds", str(tmp_path / "none"), "off"]) == 2
