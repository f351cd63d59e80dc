"""A TCP proxy before a PostgreSQL server, which loses the message that a test names."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path


class Loss(Enum):
    """What happens to the next message from a client."""

    REQUEST = auto()
    """It never reaches the server, and the connection ends."""
    ANSWER = auto()
    """The server answers it, and the connection ends before the answer is passed on."""
    CONNECTION = auto()
    """It reaches the server, and the connection to the client ends while the server works on it."""
    EVERYTHING = auto()
    """The server answers it; nothing is passed on, and nothing ends: to the client the server is silent."""


class Proxy:
    """Passes bytes between clients and a server's Unix socket. ``lose_next`` arms it; ``lost`` tells that it struck."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._loss: Loss | None = None
        self._sockets: list[socket.socket] = []
        self.lost = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        number: int = self._listener.getsockname()[1]
        return number

    def lose_next(self, loss: Loss) -> None:
        """Do ``loss`` to the next message that any client sends."""
        self.lost.clear()
        self._loss = loss

    def close(self) -> None:
        """End all connections."""
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server))
                self._sockets += [client, server]
                threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while True:
                readable, _, _ = select.select([client, server], [], [])
                for one in readable:
                    data = one.recv(1 << 20)
                    if not data:
                        return self._end(client, server)
                    if one is server:
                        client.sendall(data)
                    elif self._loss is None:
                        server.sendall(data)
                    else:
                        return self._lose(data, client, server)
        return self._end(client, server)

    def _lose(self, data: bytes, client: socket.socket, server: socket.socket) -> None:
        loss, self._loss = self._loss, None
        if loss is not Loss.REQUEST:
            server.sendall(data)
        if loss in (Loss.ANSWER, Loss.EVERYTHING):
            server.recv(1 << 20)
        if loss is Loss.EVERYTHING:
            self.lost.set()
            return
        # Told before it is felt, so that whoever feels it can rely on being told.
        self.lost.set()
        client.shutdown(socket.SHUT_RDWR)
        client.close()
        if loss is not Loss.CONNECTION:
            self._end(client, server)

    @staticmethod
    def _end(*both: socket.socket) -> None:
        for one in both:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
