"""Alerts of a run that is being written: told once, kept as events, and never in the training's way."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from alert_server import SECRET, hook, wait_until
from made_up import spiral
from test_alert_channels import VARIABLE
from told import Told

from lldwatch import Alert, Command, InputError, Monitor, Run, Stage, Webhook, alert_live, alerts
from lldwatch.alert_live import LiveAlerts
from lldwatch.alerts import RECOVERED

WELL, ILL = {"loss": 0.0}, {"loss": 1.0}
"""What `Told` is told: health, and decay."""


def events(run: Path, kind: str = "alert") -> list[tuple[int, str]]:
    return [(row["step"], row["detail"]) for row in Run(run).events().to_pylist() if row["kind"] == kind]


def steps_of_a_spiral() -> list[dict[str, float]]:
    noise = random.Random(3)
    return [spiral(step, noise) for step in range(1, 121)]


def test_a_collapsing_training_tells_of_each_stage_and_that_is_recorded(run_dir: Path) -> None:
    got: list[Alert] = []
    with Monitor(run_dir, alerts=[got.append]) as monitor:
        for values in steps_of_a_spiral():
            monitor.step(**values)
    assert [alert.stage for alert in got] == [Stage.STAGNATION, Stage.DECAY, Stage.COLLAPSE]
    assert got == alerts.alerts_of(Run(run_dir).observations(), "run")
    assert got[1].step == monitor.diagnosis.first_warning
    assert all(alert.evidence and alert.advice and alert.checks for alert in got)
    assert events(run_dir) == [(alert.step, f"{alert.title} -> function append: delivered") for alert in got]


def test_without_channels_there_is_no_thread_and_no_event(run_dir: Path) -> None:
    with Monitor(run_dir) as monitor:
        for values in steps_of_a_spiral():
            monitor.step(**values)
        assert not [
            thread.name for thread in threading.enumerate() if "alerts" in thread.name or "stall" in thread.name
        ]
    assert events(run_dir) == []


@pytest.mark.parametrize("interrupted_after", [1, 50, 51, 60, 100])
def test_a_resumed_training_tells_nothing_again(run_dir: Path, interrupted_after: int) -> None:
    steps, got = steps_of_a_spiral(), list[Alert]()
    for part, resume in ((steps[:interrupted_after], False), (steps[interrupted_after:], True)):
        with Monitor(run_dir, resume=resume, alerts=[got.append]) as monitor:
            for values in part:
                monitor.step(**values)
    assert [alert.stage for alert in got] == [Stage.STAGNATION, Stage.DECAY, Stage.COLLAPSE]


def test_a_training_that_goes_back_tells_what_begins_after_that(run_dir: Path) -> None:
    got: list[Alert] = []
    with Monitor(run_dir, detector=Told(), alerts=[got.append]) as monitor:
        for _ in range(3):
            monitor.step(**WELL)
        for _ in range(3):
            monitor.step(**ILL)
        monitor.step(6, **ILL)  # it went on being ill from step 4, and is still
        monitor.step(3, **WELL)  # before it was ill
        monitor.step(**ILL)
    assert [alert.step for alert in got] == [4, 4]


def test_a_new_onset_after_a_recovery_is_told_again(run_dir: Path) -> None:
    got: list[Alert] = []
    with Monitor(run_dir, detector=Told(), alerts=[got.append]) as monitor:
        for values in [WELL, ILL, *[WELL] * (RECOVERED - 1), ILL, *[WELL] * RECOVERED, ILL]:
            monitor.step(**values)
    assert [alert.step for alert in got] == [2, 2 * RECOVERED + 3]


def test_llds_that_is_switched_on_is_told(run_dir: Path) -> None:
    got: list[Alert] = []
    with Monitor(run_dir, detector=Told(), llds="auto", alerts=[got.append]) as monitor:
        for values in (WELL, ILL, ILL):
            monitor.step(**values)
    assert [(alert.kind, alert.step) for alert in got] == [("stage", 2), ("llds", 3)]
    assert got[1].value == pytest.approx(1 / 3)


def test_one_nan_is_told_at_once(run_dir: Path) -> None:
    got: list[Alert] = []
    with Monitor(run_dir, alerts=[got.append]) as monitor:
        for loss in (1.0, math.nan, math.nan):
            monitor.step(loss=loss)
    assert [(alert.kind, alert.step) for alert in got] == [("not_finite", 2)]


def test_the_training_does_not_wait_for_a_callback_that_hangs_nor_fails_with_one_that_raises(run_dir: Path) -> None:
    free, begun = threading.Event(), threading.Event()

    def hanging(alert: Alert) -> None:
        begun.set()
        free.wait(120)

    def raising(alert: Alert) -> None:
        raise SystemExit("end it all")

    monitor = Monitor(run_dir, detector=Told(), alerts=[hanging, raising])
    for values in (WELL, ILL, *[WELL] * RECOVERED, ILL):
        monitor.step(**values)
    assert begun.wait(60)
    assert not free.is_set(), "all steps were made meanwhile"
    wait_until(lambda: sum("raising" in words for _, words in events(run_dir)) == 2)
    free.set()
    monitor.close()
    assert [words.partition(" -> ")[2][:34] for _, words in events(run_dir) if "raising" in words] == [
        "function raising: failed: it raise"
    ] * 2
    assert len(Run(run_dir).observations()) == RECOVERED + 3


def test_the_end_of_a_training_does_not_wait_long_for_one_that_hangs(run_dir: Path) -> None:
    with Monitor(run_dir, detector=Told(), alerts=[Command(["sleep", "60"])]) as monitor:
        monitor.step(**WELL)
        monitor.step(**ILL)
    ((step, words),) = events(run_dir)
    assert step == 2
    assert "command sleep: not delivered: 5 s after the end" in words
    assert Run(run_dir).ended


# what is wrong at the start


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alerts": [Webhook()]}, "LLDWATCH_WEBHOOK is not set"),
        ({"alerts": [Command("no-such-program")]}, "no-such-program is not a program"),
        ({"alerts": ["notify.sh"]}, r"alerts\[0\] is a str"),
        ({"alerts": print}, "alerts is a builtin"),
        ({"stop_on": "predicted"}, "stop_on='predicted': expected None or 'collapse'"),
        ({"stop_on": True}, "stop_on=True"),
    ],
)
def test_a_mistake_is_said_before_anything_is_made(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], words: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match=words):
        Monitor(run_dir, **settings)
    assert not run_dir.exists()


# stopping


def test_the_training_is_asked_to_stop_when_the_run_has_collapsed_and_not_before(run_dir: Path) -> None:
    stages, asked = [], []
    with Monitor(run_dir, stop_on="collapse") as monitor:
        assert not monitor.should_stop
        for values in steps_of_a_spiral():
            stages.append(monitor.step(**values).stage)
            asked.append(monitor.should_stop)
    assert asked == [stage is Stage.COLLAPSE for stage in stages]
    assert True in asked
    assert events(run_dir, "stop") == [
        (asked.index(True) + 1, "the training is asked to stop after saving, for the run has collapsed")
    ]


def test_by_default_nobody_is_asked_to_stop(run_dir: Path) -> None:
    with Monitor(run_dir) as monitor:
        for values in steps_of_a_spiral():
            monitor.step(**values)
        assert monitor.diagnosis.stage is Stage.COLLAPSE
        assert not monitor.should_stop
    assert events(run_dir, "stop") == []


def test_a_collapsed_run_that_is_resumed_is_asked_again_and_one_from_before_it_is_not(run_dir: Path) -> None:
    steps = steps_of_a_spiral()
    with Monitor(run_dir, stop_on="collapse") as monitor:
        for values in steps:
            monitor.step(**values)
    with Monitor(run_dir, stop_on="collapse", resume=True) as monitor:
        assert not monitor.should_stop, "the step from which it goes on is not known yet"
        monitor.step(40, **steps[39])
        assert not monitor.should_stop
        for values in steps[40:]:
            monitor.step(**values)
        assert monitor.should_stop
    with Monitor(run_dir, stop_on="collapse", resume=True) as monitor:
        monitor.step(**steps[-1])
        assert monitor.should_stop


# stalls


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall of a test, not of a training."""
    monkeypatch.setattr(alerts, "STALL_S", 1.0)
    monkeypatch.setattr(alerts, "FIRST_STALL_S", 1.0)
    monkeypatch.setattr(alert_live, "LOOK_S", 0.02)


@pytest.mark.usefixtures("impatient")
def test_a_training_that_hangs_is_told_by_a_thread(run_dir: Path) -> None:
    got: list[Alert] = []
    with Monitor(run_dir, alerts=[got.append]) as monitor:
        wait_until(lambda: len(got) == 1)  # before the first step
        for loss in (1.0, 2.0):
            monitor.step(loss=loss)
        wait_until(lambda: len(got) == 2)
        time.sleep(1.5)
        assert len(got) == 2, "once"
        monitor.step(loss=3.0)
        wait_until(lambda: len(got) == 3)
    assert [(alert.kind, alert.step) for alert in got] == [("stalled", None), ("stalled", 2), ("stalled", 3)]
    assert got[1].limit is not None
    assert got[1].value is not None
    assert got[1].value >= got[1].limit
    assert [step for step, _ in events(run_dir)] == [-1, 2, 3]


def test_a_resumed_training_has_an_hour_for_its_first_step(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "STALL_S", 0.1)
    monkeypatch.setattr(alert_live, "LOOK_S", 0.02)
    got: list[Alert] = []
    with Monitor(run_dir) as monitor:
        for loss in (1.0, 2.0, 3.0):
            monitor.step(loss=loss)
    with Monitor(run_dir, resume=True, alerts=[got.append]) as monitor:
        time.sleep(0.5)
        assert got == []
        monitor.step(loss=4.0)
        wait_until(lambda: got)
    assert [(alert.kind, alert.step) for alert in got] == [("stalled", 4)]


@pytest.mark.usefixtures("impatient")
def test_looking_for_stalls_survives_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Alert] = []
    live, failures = LiveAlerts("x", [got.append], lambda step, kind, detail: None), list[float]()
    inner = live._onsets.stalled

    def broken_once(waited_s: float) -> Any:
        if not failures:
            failures.append(waited_s)
            raise RuntimeError("a fault of ours")
        return inner(waited_s)

    monkeypatch.setattr(live._onsets, "stalled", broken_once)
    wait_until(lambda: got)
    live.close()
    assert failures


# secrets, and the end of a process

TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from told import Told
from lldwatch import Command, Monitor, Webhook

def leaky(alert):
    raise RuntimeError("https://host/{secret}")

webhooks = [Webhook(shape=shape, timeout_s=5.0) for shape in ("json", "slack", "discord")]
broken = [Webhook("BROKEN", timeout_s=5.0), Command(["sh", "-c", "echo {secret} >&2; exit 1", "{secret}"]), leaky]
monitor = Monitor({run!r}, detector=Told(), alerts=[*webhooks, *broken])
for loss in (0.0, 0.0, 1.0):
    monitor.step(loss=loss)
print("trained", flush=True)
{end}
"""


def training(run: Path, url: str, end: str = "") -> subprocess.CompletedProcess[str]:
    source = TRAINING.format(tests=str(Path(__file__).parent), run=str(run), secret=SECRET, end=end)
    environment = {**os.environ, VARIABLE: url, "BROKEN": f"http://127.0.0.1:9/{SECRET}"}
    command = [sys.executable, "-W", "error", "-c", source]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def all_words(run: Path) -> str:
    """The files of a run as they lie there, and what the compressed ones hold."""
    files = [file for file in run.rglob("*") if file.is_file()]
    tables = [pq.read_table(file) for file in files if file.suffix == ".parquet"]
    raw = " ".join(file.read_bytes().decode("latin-1") for file in files)
    return f"{raw} {[(table.to_pylist(), table.schema) for table in tables]}"


def test_no_secret_stands_in_a_file_of_the_run_or_in_the_output_and_the_end_of_a_process_waits(run_dir: Path) -> None:
    with hook() as server:
        done = training(run_dir, server.url)  # nobody closes the monitor
        assert done.returncode == 0
        assert len(server.requests) == 3
        assert {SECRET in request["path"] for request in server.requests} == {True}
    outcomes = sorted(words.partition(" -> ")[2] for _, words in events(run_dir))
    assert [outcome.partition(":")[0] for outcome in outcomes] == [
        "command sh",
        "function leaky",
        "webhook discord (LLDWATCH_WEBHOOK)",
        "webhook json (BROKEN)",
        "webhook json (LLDWATCH_WEBHOOK)",
        "webhook slack (LLDWATCH_WEBHOOK)",
    ]
    assert sum("delivered" in outcome and "not" not in outcome for outcome in outcomes) == 3
    assert "LLDWATCH_WEBHOOK" in done.stderr or "BROKEN" in done.stderr
    for text in (done.stdout, done.stderr):
        assert SECRET not in text
    assert "LLDWATCH_WEBHOOK" in all_words(run_dir), "the events name the variable"
    assert SECRET not in all_words(run_dir)
    assert "Traceback" not in done.stderr


def test_an_exception_that_ends_the_training_shows_no_secret(run_dir: Path) -> None:
    with hook() as server:
        done = training(
            run_dir, server.url, "raise RuntimeError(f'broken: {monitor._course._alerts._delivery} {webhooks}')"
        )
        assert len(server.requests) == 3, "what was sent before it arrives"
    assert done.returncode == 1
    assert SECRET not in done.stderr
    assert "Webhook(url_env='LLDWATCH_WEBHOOK', shape='json'" in done.stderr


def test_a_forked_worker_neither_sends_nor_ends_the_alerts(run_dir: Path) -> None:
    got: list[Alert] = []
    with Monitor(run_dir, detector=Told(), alerts=[got.append]) as monitor:
        monitor.step(**WELL)
        child = _fork_quietly(monitor)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        monitor.step(**ILL)
    assert [alert.step for alert in got] == [2]


def _fork_quietly(monitor: Monitor) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads and forks, which is what is tested
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            alive = monitor._course._alerts
            assert alive is not None
            alive.close()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child
