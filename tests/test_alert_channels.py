"""Programs and webhooks, each with a real one at the other end."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from alert_server import SECRET, Answer, hook

from lldwatch import Alert, Command, DeliveryError, InputError, Run, Stage, Webhook
from lldwatch.alerts import alerts_of

VARIABLE = "LLDWATCH_WEBHOOK"
ALERT = alerts_of(Run(Path(__file__).parent.parent / "sample_logs" / "collapse").observations(), "search")[1]
NASTY = replace(ALERT, run="<!everyone> & @everyone <https://x|y> \x1b[2J \u202e 🦀" + "x" * 50)


def refusal(channel: Any, alert: Alert = ALERT) -> DeliveryError:
    with pytest.raises(DeliveryError) as refused:
        channel(alert)
    everything = "".join(traceback.format_exception(refused.value))
    assert SECRET not in everything
    assert refused.value.__context__ is None or SECRET not in repr(refused.value.__context__)
    return refused.value


# programs


def program(folder: Path, source: str) -> list[str]:
    file = folder / "notify.py"
    file.write_text(source)
    return [sys.executable, str(file)]


def test_a_program_gets_the_alert_as_json_and_in_variables(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    source = (
        "import json, os, sys\n"
        "told = {name: value for name, value in os.environ.items() if name.startswith('LLDWATCH_ALERT_')}\n"
        f"json.dump([json.load(sys.stdin), told], open({str(out)!r}, 'w'))\n"
    )
    Command(program(tmp_path, source))(ALERT)
    given, variables = json.loads(out.read_text())
    assert given == json.loads(json.dumps(ALERT.as_dict()))
    assert given["evidence"]
    assert given["advice"]
    assert variables["LLDWATCH_ALERT_STAGE"] == "collapse"
    assert variables["LLDWATCH_ALERT_STEP"] == "32"
    assert variables["LLDWATCH_ALERT_TITLE"] == ALERT.title
    assert variables["LLDWATCH_ALERT_LIMIT"] == ""


def test_one_line_is_split_into_words_and_no_shell_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Command("touch 'a b' ';' '$HOME'")(ALERT)
    assert sorted(os.listdir()) == ["$HOME", ";", "a b"]


def test_a_program_that_reads_nothing_and_one_that_prints_much_are_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Command("true")(replace(ALERT, advice=("x" * 200_000,)))
    Command(program(tmp_path, "print('x' * 10_000_000); open('printed', 'w')"))(ALERT)
    assert (tmp_path / "printed").exists()


def test_a_program_that_fails_says_its_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failing = Command([*program(tmp_path, "import sys; sys.exit(f'{sys.argv[1]} is wrong')"), SECRET])
    error = refusal(failing)
    assert (str(error), error.again) == ("it ended with status 1", False)
    assert capfd.readouterr() == ("", "")
    assert SECRET not in repr(failing) + failing.name


def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    hanging = Command(["sh", "-c", f"sleep 600 & echo $! > {child}; wait"], timeout_s=3.0)
    assert str(refusal(hanging)) == "it did not end within 3 s and was killed"
    pid = int(child.read_text())
    for _ in range(200):
        state = Path(f"/proc/{pid}/stat").read_text().split()[2] if Path(f"/proc/{pid}/stat").exists() else "gone"
        if state in ("gone", "Z"):
            return
        time.sleep(0.05)
    pytest.fail(f"the child is still there: {state}")


def test_a_program_that_is_missing_is_said_at_the_start_and_when_it_goes_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"notify\.sh is not a program that can be found"):
        Command(f"notify.sh {SECRET}").check()
    assert str(refusal(Command(str(tmp_path / "gone.sh")))) == "it cannot be started (No such file or directory)"


@pytest.mark.parametrize(
    ("command", "timeout_s", "words"),
    [
        ("", 1.0, "command is empty"),
        ([], 1.0, "command is empty"),
        ("a 'b", 1.0, "cannot be split"),
        ("a", 0.0, "timeout"),
    ],
)
def test_bad_settings_of_a_program_are_refused(command: Any, timeout_s: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Command(command, timeout_s=timeout_s)


# webhooks


def test_json_is_the_whole_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    with hook() as server:
        monkeypatch.setenv(VARIABLE, f" {server.url}\n")
        monkeypatch.setenv("TOKEN", SECRET)
        Webhook(token_env="TOKEN")(ALERT)
        (request,), (headers,) = server.requests, server.headers
    assert request.pop("path") == f"/services/{SECRET}"
    assert request == json.loads(json.dumps(ALERT.as_dict()))
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert headers["Content-Type"].startswith("application/json")
    assert headers["User-Agent"].startswith("lldwatch"), "Discord refuses Python's own"


def test_slack_s_text_can_neither_call_anybody_nor_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with hook() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        Webhook(shape="slack")(NASTY)
        Webhook(shape="slack")(replace(ALERT, advice=("y" * 50_000,)))
        first, long = server.requests
    assert "&lt;!everyone&gt; &amp; @everyone" in first["text"]
    assert "<" not in first["text"]
    assert not {"\x1b", "\u202e"} & set(first["text"])
    assert "What to do:" in first["text"]
    assert len(long["text"]) == 3000


def test_discord_s_text_is_short_enough_and_mentions_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with hook() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        Webhook(shape="discord")(NASTY)
        Webhook(shape="discord")(replace(ALERT, advice=("🦀" * 5_000,)))
        nasty, long = server.requests
    for request in (nasty, long):
        assert request["allowed_mentions"] == {"parse": []}
        assert len(request["content"].encode("utf-16-le")) // 2 <= 2000
    assert long["content"].endswith("🦀 ...")
    assert "go back to the last checkpoint" in nasty["content"], "a usual alert fits whole"


@pytest.mark.parametrize(
    ("status", "again"), [(400, False), (401, False), (404, False), (410, False), (408, True), (429, True), (503, True)]
)
def test_a_refusal_that_passes_is_told_from_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch, status: int, again: bool
) -> None:
    with hook(status) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        error = refusal(Webhook())
    assert (str(error), error.again, error.wait_s) == (f"HTTP {status}", again, None)


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("soon", None, None),
        ("nan", None, None),
        ("1e999", None, None),
        ("Wed, 99 Foo 2026 00:00:00", None, None),
        ("an hour from now, as a date", 3000, 3601),
    ],
)
def test_what_a_server_asks_to_wait_is_understood(
    monkeypatch: pytest.MonkeyPatch, said: str, low: float | None, high: float | None
) -> None:
    if said.startswith("an hour from now"):  # a date of now in the parameters would differ from worker to worker
        said = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    with hook(Answer(429, {"Retry-After": said})) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        wait = refusal(Webhook()).wait_s
    assert wait is None if low is None or high is None else wait is not None and low <= wait <= high


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(monkeypatch: pytest.MonkeyPatch, status: int, tmp_path: Path) -> None:
    with (
        hook() as other,
        hook(Answer(status, {"Location": other.url}), Answer(status, {"Location": "file:///x"})) as server,
    ):
        monkeypatch.setenv(VARIABLE, server.url)
        for _ in range(2):
            error = refusal(Webhook())
            assert (str(error), error.again) == (
                f"HTTP {status}: redirects are not followed, give the final URL",
                False,
            )
        assert other.requests == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("garbage", "no answer that can be read (BadStatusLine)"),
        ("close", "no answer that can be read (RemoteDisconnected)"),
        ("hang", "no answer within 0.5 s"),
    ],
)
def test_no_answer_is_said_in_words_of_ours(monkeypatch: pytest.MonkeyPatch, what: str, words: str) -> None:
    with hook(what) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        error = refusal(Webhook(timeout_s=0.5 if what == "hang" else 30.0))
    assert (str(error), error.again) == (words, True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://no-such-host.invalid/"])
def test_nobody_there_is_tried_again(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(VARIABLE, f"{url}{SECRET}")
    error = refusal(Webhook(timeout_s=5.0))
    assert error.again
    assert str(error).startswith("no answer")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "  ",
        SECRET,
        f"file:///etc/{SECRET}",
        f"ftp://host/{SECRET}",
        f"https:///{SECRET}",
        f"https://host/{SECRET} x",
        f"https://host/{SECRET}\nHost: other",
        f"https://[host/{SECRET}",
        f"https://host:{SECRET}/",
        f"https://hóst/{SECRET}",
        f"data:,{SECRET}",
    ],
)
def test_what_is_no_url_of_a_webhook_is_refused_without_being_said(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(VARIABLE, url)
    for attempt in (Webhook().check, lambda: Webhook()(ALERT)):
        with pytest.raises(InputError, match=VARIABLE) as refused:
            attempt()
        assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_token_that_breaks_a_header_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with hook() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        monkeypatch.setenv("TOKEN", f"{SECRET}\nX: y")
        refusal(Webhook(token_env="TOKEN"))
        monkeypatch.setenv("TOKEN", f"{SECRET}é🦀")
        refusal(Webhook(token_env="TOKEN"))
        assert server.requests == []


def test_bad_settings_of_a_webhook_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match="LLDWATCH_WEBHOOK is not set"):
        Webhook().check()
    with pytest.raises(InputError, match="shape='teams': expected one of json, slack, discord"):
        Webhook(shape="teams")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected the name of a variable") as refused:
        Webhook(f"https://host/{SECRET}")
    assert SECRET not in str(refused.value)
    with pytest.raises(InputError, match="timeout_s=0"):
        Webhook(timeout_s=0)


def test_an_alert_without_a_step_or_kind_goes_through_every_channel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = Alert(
        kind="stalled", run="x", step=None, stage=Stage.HEALTHY, family=None, title="no step", measure="m", value=None,
        limit=None,
    )  # fmt: skip
    with hook() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        for shape in ("json", "slack", "discord"):
            Webhook(shape=shape)(bare)  # type: ignore[arg-type]
        Command("true")(bare)
    assert [request.get("text") or request.get("content") for request in server.requests] == [
        None,
        "x: no step",
        "x: no step",
    ]
