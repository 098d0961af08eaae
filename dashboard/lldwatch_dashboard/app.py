"""The app, and a server that can also run in a thread of a training process.

Werkzeug's threaded server is used as it is: no debugger, no reloader, no request log, no signal handlers. The training
process must never be hurt: a taken port is an error that says so, not an exit. Who may ask stands in `safety`.
"""

from __future__ import annotations

import gzip
import os
import re
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dash import Dash
from flask import Response, request, send_file
from plotly.offline import get_plotlyjs_version
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, select_address_family
from werkzeug.serving import make_server as werkzeug_server

from lldwatch.errors import InputError, LldwatchError
from lldwatch_dashboard import callbacks
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.safety import TOKEN_VARIABLE, Guard, checked, choose_token, is_loopback, link, protect
from lldwatch_dashboard.shared import shell

BUNDLE = Path(__file__).parent / "assets" / "plotly-cartesian.min.js"
"""The part of plotly.js that is used, if it was fetched."""
REGENERATOR = BUNDLE.with_name("regenerator.js")
"""The part of the polyfills, as well."""
WORTH_IT = 1000
"""Bytes from which on an answer is compressed."""
_TABLES = re.compile(r'<script src="[^"]*/(?:dash_ag_grid|dash_table)/[^"]*"></script>')
_POLYFILLS = re.compile(r'<script src="[^"]*/deps/polyfill@[^"]*"></script>')
"""Dash puts these scripts into every page, and holds up each by 0.3 s."""
_PLOTLY = "/_dash-component-suites/plotly/package_data/plotly.min.js"
"""Where a page asks for plotly.js, once it has something to draw."""


def create_app(root: str | os.PathLike[str], guard: Guard | None = None) -> Dash:
    """The Dash app that shows all runs at or below a folder.

    Args:
        root: the folder; it may come into being later.
        guard: who may ask; by default whoever is on this machine.
    """
    app = _Page(
        __name__,
        title="lldwatch",
        update_title="",  # the tab's title says the stage
        serve_locally=True,
        assets_ignore=re.escape(BUNDLE.name),  # as an asset every page would load it, the list too
        suppress_callback_exceptions=True,  # a page's elements are there only while it is open
        on_error=callbacks.say_failed,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    app.layout = shell()
    callbacks.register(app, Feed(root))
    protect(app.server, guard or Guard(), app.callback_map, app.csp_hashes())
    if _fits():
        app.server.before_request(_smaller_plotly)
    app.server.after_request(_compressed)
    return app


def _fits() -> bool:
    """The smaller plotly.js is there, and of the version that the installed plotly has."""
    try:
        with BUNDLE.open(encoding="utf-8") as file:
            return f" v{get_plotlyjs_version()}\n" in file.read(300)
    except OSError:
        return False


def _smaller_plotly() -> Response | None:
    return send_file(BUNDLE, mimetype="text/javascript") if request.path == _PLOTLY else None


def _compressed(answer: Response) -> Response:
    """What a page is told, in fewer bytes: many a reader sits behind an ssh tunnel. Scripts are kept by the browser."""
    long = answer.mimetype == "application/json" and not answer.is_streamed and len(answer.get_data()) >= WORTH_IT
    if long and request.accept_encodings["gzip"] > 0:
        answer.set_data(gzip.compress(answer.get_data(), compresslevel=1))
        answer.headers["Content-Encoding"] = "gzip"
        answer.headers["Vary"] = "Accept-Encoding"
    return answer


def make_server(
    root: str | os.PathLike[str],
    port: int = 8050,
    host: str = "127.0.0.1",
    *,
    token: str | None = None,
    allow_hosts: Collection[str] = (),
) -> BaseWSGIServer:
    """A server that is bound, and answers once its `serve_forever` is called; `shutdown` ends that.

    Args:
        root: the folder with the runs.
        port: to listen on; 0 takes a free one (see the server's `port`).
        host: address to listen on. One that other machines reach needs a token.
        token: what a browser must show once, as `?token=`; at least 16 characters.
        allow_hosts: further names under which browsers may ask for it, for instance a proxy's.

    Raises:
        InputError: the token is missing or too short.
        LldwatchError: the port is taken, or may not be used.
    """
    if token is None and not is_loopback(host):
        raise InputError(f"other machines reach {host or 'all addresses'}: give a token, or listen on 127.0.0.1")
    guard = Guard(host, None if token is None else checked(token), tuple(allow_hosts))
    family = select_address_family(host, port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        return werkzeug_server(
            host, port, create_app(root, guard).server, threaded=True, request_handler=_Quiet, fd=listener.fileno()
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LldwatchError(
            f"port {port} of {host} cannot be used ({reason}): choose another, or end the program that has it"
        ) from error
    finally:
        listener.close()  # the server holds its own copy


def serve(
    root: str | os.PathLike[str], port: int = 8050, host: str = "127.0.0.1", *, allow_hosts: Collection[str] = ()
) -> None:
    """Show the runs below a folder until the process ends, or Ctrl-C.

    A token is asked for if other machines reach the host, or if the environment gives one (LLDWATCH_TOKEN). One that is
    made here is printed with the link; the environment's is not.

    Args:
        root: the folder with the runs.
        port: to listen on; 0 takes a free one.
        host: address to listen on.
        allow_hosts: further names under which browsers may ask for it.

    Raises:
        InputError: the environment's token is too short.
        LldwatchError: the port is taken, or may not be used.
    """
    token, made_here = choose_token(host)
    server = make_server(root, port, host, token=token, allow_hosts=allow_hosts)
    address = link(host, server.port, token if made_here else None)
    hint = f" (open it once with ?token= and what {TOKEN_VARIABLE} holds)" if token and not made_here else ""
    print(f"lldwatch shows {os.fspath(root)} at {address}{hint}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


class _Page(Dash):
    """The page around everything."""

    def interpolate_index(self, scripts: str = "", **parts: Any) -> str:  # type: ignore[override]  # dash gives all by name
        """The scripts that every page needs: assets/visit.js fetches the grid where it is used."""
        scripts = _TABLES.sub("", scripts)
        if REGENERATOR.exists():  # the only one of the polyfills that dash's own scripts call
            scripts = _POLYFILLS.sub("", scripts)
        whole = super().interpolate_index(scripts=scripts, **parts)  # type: ignore[no-untyped-call]  # dash's is untyped
        return str(whole)


class _Quiet(WSGIRequestHandler):
    """One line per request would drown the training's own output."""

    server_version, sys_version = "lldwatch", ""  # which library answers, and how old it is, is nobody's business

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  # the name is werkzeug's
        if type == "error":
            text = str(message % args if args else message)
            super().log(type, "%s", re.sub(r"token=[^&\s\"']+", "token=...", text))
