"""Whom an alert goes to: a program, a webhook. Anything else is a function that is called with the `Alert`.

A channel that cannot deliver raises `DeliveryError`, in words that hold no secret: the URL of a webhook is one (whoever
has it can write to the channel), and so may be the arguments of a program. Neither is kept in an attribute, a message
or a file; the URL is read from the environment when it is needed.

Rejected: following redirects (a POST becomes a GET without the alert, and its target is not what the user gave).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePath
from typing import Any, Literal
from urllib.parse import urlsplit

from lldwatch.alerts import Alert
from lldwatch.errors import DeliveryError, InputError
from lldwatch.postmortem import printable

Channel = Callable[[Alert], object]
"""Whom an alert goes to."""

Shape = Literal["json", "slack", "discord"]

VARIABLES = "LLDWATCH_ALERT_"
"""Before the names of the variables that a program gets."""

TOLD = ("kind", "run", "step", "stage", "family", "title", "measure", "value", "limit")
"""What stands in them, in capitals behind that; empty where it is not known."""

_SLACK, _DISCORD = 3000, 2000
"""Characters of a message: Discord refuses more; Slack takes 40,000, and hides what is beyond a block's 3,000."""

_AGAIN = (408, 425, 429)
"""Refusals that pass, beside all of the server's own (5xx)."""


@dataclass(frozen=True)
class Command:
    """Runs a program with the alert as a line of JSON on its standard input.

    The parts of it stand in variables as well, `LLDWATCH_ALERT_TITLE` and others (see `TOLD`). It runs in
    the background, without a shell; what it prints is dropped.

    Args:
        command: the program and its arguments, as a list or as one line.
        timeout_s: after which it is killed, with all that it has started.

    Raises:
        InputError: the command is empty, or the time is not above 0.
    """

    command: str | Sequence[str] = field(repr=False)
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not self._words:
            raise InputError("command is empty: expected a program, for instance notify.sh")
        _check_time(self.timeout_s)

    @property
    def _words(self) -> list[str]:
        try:
            return shlex.split(self.command) if isinstance(self.command, str) else list(map(str, self.command))
        except ValueError as error:  # its words quote nothing of the command
            raise InputError(f"command cannot be split into words ({error}): give a list of them") from None

    @property
    def name(self) -> str:
        """Without its arguments."""
        return f"command {PurePath(self._words[0]).name}"

    def check(self) -> None:
        """Before the training begins.

        Raises:
            InputError: there is no such program.
        """
        if shutil.which(self._words[0]) is None:
            raise InputError(f"{self._words[0]} is not a program that can be found: alerts could not be sent to it")

    def __call__(self, alert: Alert) -> None:
        """Run it, and wait for it.

        Raises:
            DeliveryError: it cannot be started, fails or does not end in time.
        """
        try:
            program = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **variables_of(alert)},
                start_new_session=True,  # so that Ctrl-C in a terminal is none of its business, and for `_kill`
            )
        except OSError as error:
            raise DeliveryError(f"it cannot be started ({error.strerror or type(error).__name__})") from None
        with program:
            try:
                program.communicate(f"{json.dumps(alert.as_dict())}\n".encode(), timeout=self.timeout_s)
            except subprocess.TimeoutExpired:
                _kill(program)
                raise DeliveryError(f"it did not end within {self.timeout_s:g} s and was killed") from None
        if program.returncode:
            raise DeliveryError(f"it ended with status {program.returncode}")


def variables_of(alert: Alert) -> dict[str, str]:
    """The alert as environment variables."""
    told = alert.as_dict()
    return {VARIABLES + name.upper(): "" if told[name] is None else printable(str(told[name])) for name in TOLD}


def _kill(program: subprocess.Popen[bytes]) -> None:
    """With all that it has started, which would else hold on to what it holds."""
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except (AttributeError, OSError):  # no groups on Windows; or it has just ended
        program.kill()


@dataclass(frozen=True)
class Webhook:
    """Posts the alert to a URL that stands in the environment.

    An answer that does not come in time may mean that the alert has arrived all the same: it is sent again.

    Args:
        url_env: variable that holds the URL, http or https.
        shape: "json" (the whole alert), "slack" (also understood by Mattermost and others) or "discord".
        token_env: variable with a token that is sent along as `Authorization: Bearer`; None: none is.
        timeout_s: for the connection, and for each part of the answer.

    Raises:
        InputError: there is no such shape, or the time is not above 0.
    """

    url_env: str = "LLDWATCH_WEBHOOK"
    shape: Shape = "json"
    token_env: str | None = None
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"shape={self.shape!r}: expected one of {', '.join(SHAPES)}")
        if "://" in self.url_env:
            raise InputError("url_env is a URL: expected the name of a variable that holds it, since it is a secret")
        _check_time(self.timeout_s)

    @property
    def name(self) -> str:
        """With the name of the variable, never with what it holds."""
        return f"webhook {self.shape} ({self.url_env})"

    def check(self) -> None:
        """Before the training begins.

        Raises:
            InputError: a variable is not set, or holds no such URL.
        """
        for variable in filter(None, (self.url_env, self.token_env)):
            if not _secret(variable):
                raise InputError(f"{variable} is not set: put the webhook's secret there, or leave the webhook out")
        if not _is_web(_secret(self.url_env)):
            raise InputError(f"{self.url_env} holds no URL of a webhook: expected https://... (or http://...)")

    def __call__(self, alert: Alert) -> None:
        """Post it, once.

        Raises:
            DeliveryError: it was refused, or nobody answers.
            InputError: see `check`.
        """
        self.check()
        from urllib import request  # not before it is needed: it loads half of the standard library's network

        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": _AGENT}
        if self.token_env:
            headers["Authorization"] = f"Bearer {_secret(self.token_env)}"
        body = json.dumps(SHAPES[self.shape](alert)).encode()
        problem: DeliveryError | None = None
        try:
            posted = request.Request(_secret(self.url_env), body, headers, method="POST")
            with request.build_opener(_stay()).open(posted, timeout=self.timeout_s):
                pass
        except Exception as error:  # whatever the network does; its words may hold the URL
            problem = self._refusal(error)
        if problem is not None:
            raise problem  # out of the except block: the error's own words may hold the URL, and would hang on to it

    def _refusal(self, error: Exception) -> DeliveryError:
        """The error without its words."""
        from urllib.error import HTTPError, URLError

        if isinstance(error, HTTPError):
            again = error.code >= 500 or error.code in _AGAIN
            wait, code = _seconds(error.headers.get("Retry-After")), error.code
            error.close()
            moved = ": redirects are not followed, give the final URL" if 300 <= code < 400 else ""
            return DeliveryError(f"HTTP {code}{moved}", again=again, wait_s=wait)
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            return DeliveryError(f"no answer within {self.timeout_s:g} s", again=True)
        return DeliveryError(f"no answer that can be read ({type(reason).__name__})", again=True)


_AGENT = "lldwatch (https://arxiv.org/abs/2512.04220)"
"""Discord's gate refuses Python's own name."""


def _stay() -> Any:
    """Of urllib: a redirect is a refusal."""
    from urllib.request import HTTPRedirectHandler

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    return Stay()


def _secret(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0  # a port that is no number raises
        return whole and parts.scheme in ("http", "https") and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        return False


def _seconds(retry_after: str | None) -> float | None:
    """What a server asks to wait for: seconds, or a date; None: nothing that can be understood."""
    if retry_after is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(retry_after)
        return seconds if math.isfinite(seconds) else None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    return None


def _check_time(timeout_s: float) -> None:
    if not timeout_s > 0:
        raise InputError(f"timeout_s={timeout_s!r}: expected seconds above 0")


def _slack(alert: Alert) -> dict[str, Any]:
    """Its three signs are escaped, so that no name of a run can call a channel or make a link."""
    text = _cut(str(alert), _SLACK).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": text, "unfurl_links": False, "unfurl_media": False}


def _discord(alert: Alert) -> dict[str, Any]:
    return {"content": _cut(str(alert), _DISCORD), "allowed_mentions": {"parse": []}}


def _cut(text: str, size: int) -> str:
    """At most so many UTF-16 units, which is what both count."""
    mark = " ..."
    if len(text.encode("utf-16-le")) // 2 <= size:
        return text
    return text.encode("utf-16-le")[: 2 * (size - len(mark))].decode("utf-16-le", "ignore") + mark


SHAPES: Mapping[str, Callable[[Alert], dict[str, Any]]] = {
    "json": Alert.as_dict,
    "slack": _slack,
    "discord": _discord,
}
"""Shape -> what is posted."""
