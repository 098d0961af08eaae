"""The app, and a server that can also run in a thread of a training process.

Werkzeug's threaded server is used as it is: no debugger, no reloader, no request log, no signal handlers. The training
process must never be hurt: a taken port is an error that says so, not an exit.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from dash import Dash
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, select_address_family
from werkzeug.serving import make_server as werkzeug_server

from lldwatch.errors import LldwatchError
from lldwatch_dashboard import callbacks
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.shared import shell


def create_app(root: str | os.PathLike[str]) -> Dash:
    """The Dash app that shows all runs at or below a folder.

    Args:
        root: the folder; it may come into being later.
    """
    app = Dash(
        __name__,
        title="lldwatch",
        update_title="",  # the tab's title says the stage
        serve_locally=True,
        suppress_callback_exceptions=True,  # a page's elements are there only while it is open
        on_error=callbacks.say_failed,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.layout = shell()
    callbacks.register(app, Feed(root))
    return app


def make_server(root: str | os.PathLike[str], port: int = 8050, host: str = "127.0.0.1") -> BaseWSGIServer:
    """A server that is bound, and answers once its `serve_forever` is called; `shutdown` ends that.

    Args:
        root: the folder with the runs.
        port: to listen on; 0 takes a free one (see the server's `port`).
        host: address to listen on. Other machines can read the runs if it is not this machine's own loopback.

    Raises:
        LldwatchError: the port is taken, or may not be used.
    """
    family = select_address_family(host, port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        return werkzeug_server(
            host, port, create_app(root).server, threaded=True, request_handler=_Quiet, fd=listener.fileno()
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LldwatchError(
            f"port {port} of {host} cannot be used ({reason}): choose another, or end the program that has it"
        ) from error
    finally:
        listener.close()  # the server holds its own copy


def serve(root: str | os.PathLike[str], port: int = 8050, host: str = "127.0.0.1") -> None:
    """Show the runs below a folder until the process ends, or Ctrl-C.

    Args:
        root: the folder with the runs.
        port: to listen on; 0 takes a free one.
        host: address to listen on.

    Raises:
        LldwatchError: the port is taken, or may not be used.
    """
    server = make_server(root, port, host)
    print(f"lldwatch shows {os.fspath(root)} at http://{host}:{server.port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


class _Quiet(WSGIRequestHandler):
    """One line per request would drown the training's own output."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  # the name is werkzeug's
        if type == "error":
            super().log(type, message, *args)
