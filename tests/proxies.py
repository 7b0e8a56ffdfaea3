"""A way to the server on which the worst happens: a statement arrives, and its answer does not."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class AnswerSwallower:
    """Forwards connections to a server; on command it cuts the next one that sends a statement, once that arrived.

    What the server was told is done before the cut: it waits for the answer, and keeps it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._statement: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.swallowed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow_next(self, statement: bytes) -> None:
        """Cut the connection that next sends `statement`, after the server's answer has come in."""
        self.swallowed.clear()
        self._statement = statement

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                cut = threading.Event()
                threading.Thread(target=self._forward, args=(client, server, cut), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server, cut), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self._statement is not None and self._statement in data:
                    self._statement = None
                    cut.set()
                server.sendall(data)
        server.close()

    def _answer(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():
                    self.swallowed.set()
                    client.shutdown(socket.SHUT_RDWR)
                    break
                client.sendall(data)
        client.close()
