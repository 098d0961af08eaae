"""A connection to an object store that can be cut: a forwarder on this machine, in front of the real server."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal


class Connection:
    """Forwards a port of this machine to a server.

    Args:
        server: `host:port`.

    Attributes:
        address: `host:port` of the forwarder.
        state: "open"; "refused": new connections are closed at once, and old ones cut; "hanging": they are taken, and
            nothing ever comes back.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.state: Literal["open", "refused", "hanging"] = "open"
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, state: Literal["open", "refused", "hanging"]) -> None:
        """Mend it, or cut it with all that is under way."""
        self.state = state
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """Stop forwarding."""
        self.set("refused")
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.state == "refused":
                near.close()
                continue
            self._sockets.append(near)
            if self.state == "hanging":
                continue
            host, _, port = self._server.partition(":")
            far = socket.create_connection((host, int(port)))
            self._sockets.append(far)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)
