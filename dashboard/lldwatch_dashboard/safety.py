"""Who may ask the dashboard, and what an answer may do in the browser.

Runs hold samples of training data, so the server is reached from this machine alone unless a token is asked for. A web
page elsewhere must not read it through the user's own browser either: a foreign name that was pointed at this machine
(DNS rebinding) shows in `Host`, a foreign page that posts shows in `Origin`, and no foreign script runs on our pages.

A login form was rejected: one link, printed where the dashboard was started, is all there is to know. The token leaves
the address with the first answer, so that it stands in no history and no bookmark; the cookie that takes its place is
made from it, and is worth nothing to a dashboard with another token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from flask import Flask, Request, Response, redirect, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from lldwatch.errors import InputError
from lldwatch_dashboard.bodies import is_callback

TOKEN_VARIABLE = "LLDWATCH_TOKEN"
SHORTEST_TOKEN = 16
LARGEST_BODY = 4 * 2**20
"""Bytes; what a browser sends when thousands of points are selected is a tenth of it."""
CALLBACKS = "/_dash-update-component"
REFUSED = "Refused: open the link that was printed where the dashboard was started.\n"
FOREIGN = "Refused: this dashboard is not called that here; start it with --allow-host NAME if it should be.\n"
ELSEWHERE = "Refused: the request comes from a page of another site.\n"
MALFORMED = "The request is not one that a page of this dashboard makes.\n"

log = logging.getLogger("lldwatch.dashboard")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def choose_token(host: str) -> tuple[str | None, bool]:
    """The token that a server at `host` asks for, None if none is needed; and whether it was made here.

    Raises:
        InputError: the environment's token is too short to protect anything.
    """
    given = os.environ.get(TOKEN_VARIABLE)
    if given is None:
        return (None, False) if is_loopback(host) else (secrets.token_urlsafe(32), True)
    return checked(given), False


def checked(token: str) -> str:
    """The token, if it is long enough.

    Raises:
        InputError: it is not.
    """
    if len(token) < SHORTEST_TOKEN:
        raise InputError(
            f"the token is too short ({len(token)} characters): give {TOKEN_VARIABLE} at least {SHORTEST_TOKEN}, "
            "or unset it"
        )
    return token


def link(host: str, port: int, token: str | None = None) -> str:
    """The address to open; of a server that listens everywhere, by this machine's name."""
    name = socket.gethostname() if _is_wildcard(host) else host
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    return f"{address}/?{urlencode({'token': token})}" if token else address


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides about each request, before anything else sees it.

    Attributes:
        host: address that the server listens on.
        token: what a browser must know; None if being on this machine is enough.
        allowed: further names under which the server is reached, for instance through a proxy.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    allowed: Collection[str] = ()

    def refusal(self, asked: Request) -> AnyResponse | None:
        """The answer to a request that goes no further; None lets it pass."""
        if not self._is_ours(_name(asked.headers.get("Host", ""))):
            return _plain(FOREIGN, 403)
        if self.token is not None and (answer := self._admit(asked, self.token)) is not None:
            return answer
        return None if self._is_from_here(asked) else _plain(ELSEWHERE, 403)

    def _is_ours(self, name: str) -> bool:
        if name in {"localhost", self.host.lower(), *(each.lower() for each in self.allowed)}:
            return bool(name)
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return _is_wildcard(self.host) and name == socket.gethostname().lower()
        return address.is_loopback or _is_wildcard(self.host)  # an address cannot be pointed elsewhere, a name can

    def _admit(self, asked: Request, token: str) -> AnyResponse | None:
        cookie = f"lldwatch-{asked.environ.get('SERVER_PORT', '')}"  # browsers share cookies between ports
        worth = hmac.new(token.encode(), b"lldwatch cookie", hashlib.sha256).hexdigest()
        shown = asked.args.get("token")
        if shown is None:
            return None if _same(asked.cookies.get(cookie, ""), worth) else _plain(REFUSED, 403)
        if asked.method not in ("GET", "HEAD") or not _same(shown, token):
            return _plain(REFUSED, 403)
        answer = _onwards(asked)
        answer.set_cookie(cookie, worth, httponly=True, samesite="Strict", secure=asked.is_secure)
        return answer

    def _is_from_here(self, asked: Request) -> bool:
        """A page of another site may link here, but not make the browser send anything."""
        if asked.method in ("GET", "HEAD", "OPTIONS"):
            return True
        origin = asked.headers.get("Origin")
        if origin is None:  # not a browser, or an old one that says nothing
            return asked.headers.get("Sec-Fetch-Site", "same-origin") in ("same-origin", "none")
        place = origin.partition("://")[2].lower()
        named = {each.lower() for each in self.allowed}
        return bool(place) and (place == asked.headers.get("Host", "").lower() or _name(place) in named)


def protect(server: Flask, guard: Guard, known: Mapping[str, Any], script_hashes: Iterable[str]) -> None:
    """Put the guard before every address of the server, and say in each answer what a browser may do with it.

    Args:
        server: what answers.
        guard: who may ask.
        known: the app's callbacks by what they put out.
        script_hashes: as Dash gives them, of the scripts that stand in the page itself.
    """
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    headers = _headers(script_hashes)

    def before() -> AnyResponse | None:
        answer = guard.refusal(request)
        if (
            answer is None
            and request.path == CALLBACKS
            and request.method == "POST"
            and not is_callback(request, known)
        ):
            answer = _plain(MALFORMED, 400)
        return answer

    def after(answer: Response) -> Response:
        answer.headers.update(headers)
        return answer

    server.before_request_funcs.setdefault(None, []).insert(0, before)  # dash has put in its own already
    server.after_request(after)
    server.register_error_handler(Exception, _one_line)


def _headers(script_hashes: Iterable[str]) -> dict[str, str]:
    policy = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", *script_hashes]),
        "style-src": "'self' 'unsafe-inline'",  # plotly and the grid write their rules into the page
        "img-src": "'self' data: blob:",  # plotly's picture of a figure, the grid's icons
        "font-src": "'self' data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{what} {allowed}" for what, allowed in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def _one_line(error: Exception) -> AnyResponse:
    """What went wrong in one line; the traceback is for the log."""
    if isinstance(error, HTTPException):
        if error.code is None or error.code < 400:  # a redirect
            return error.get_response()
        return _plain(f"{error.code} {error.name}.\n", error.code)
    log.error("the dashboard failed", exc_info=error)
    return _plain("500 The dashboard failed; its log says more.\n", 500)


def _onwards(asked: Request) -> AnyResponse:
    """To the same address without the token."""
    rest = urlencode([(key, value) for key, value in asked.args.items(multi=True) if key != "token"])
    path = "/" + urlsplit(asked.url).path.lstrip("/\\")  # two slashes would lead to another machine
    target = f"{path}?{rest}" if rest else path
    if asked.headers.get("Sec-Fetch-Site") == "cross-site":
        # the link was opened from another site: a redirect would still count as coming from there, without the cookie
        answer: AnyResponse = _plain("Opening the dashboard.\n", 200)
        answer.headers["Refresh"] = f"0; url={target}"
    else:
        answer = redirect(target, 303)
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _plain(line: str, status: int) -> Response:
    return Response(line, status, mimetype="text/plain")


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogatepass"), wanted.encode(errors="surrogatepass"))


def _name(place: str) -> str:
    """The name in `name:port`, without its brackets."""
    try:
        return (urlsplit(f"//{place}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""
