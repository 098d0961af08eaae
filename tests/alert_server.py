"""A webhook's server on this machine, real but for what it answers: it hangs, fails, sends garbage, comes back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0PSECRETx7Qz"
"""Stands in the path of every URL, as it does in Slack's."""


@dataclass
class Answer:
    """What one request gets: a status, "hang", "garbage", or "close"."""

    what: int | str = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hook:
    """The server, seen from a test."""

    url: str
    answers: list[Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def wait_for(self, count: int, seconds: float = 30.0) -> list[dict[str, Any]]:
        """The first so many requests, once they have come."""
        wait_until(lambda: len(self.requests) >= count, seconds)
        return self.requests[:count]


def wait_until(holds: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@contextmanager
def hook(*answers: Answer | int | str) -> Iterator[Hook]:
    """Answers in their turn; afterwards, and without any, 200.

    Args:
        answers: what the requests get.
    """
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = made.answers.pop(0) if made.answers else Answer()
            made.headers.append(dict(self.headers))
            made.requests.append({"path": self.path, **json.loads(body)})
            if answer.what == "hang":
                over.wait(60)
            elif answer.what == "garbage":
                self.wfile.write(b"\x00\xff no HTTP at all\r\n\r\n")
            elif isinstance(answer.what, int):
                self.send_response(answer.what)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # a client that went away, as it should
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        given = _as_answers(answers)
        made = Hook(f"http://127.0.0.1:{server.server_address[1]}/services/{SECRET}", given)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            over.set()
            server.shutdown()
            thread.join()


def _as_answers(answers: Sequence[Answer | int | str]) -> list[Answer]:
    return [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers]
