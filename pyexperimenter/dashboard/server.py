"""Serves the dashboard: on a port of the loopback, or on a socket that only its owner can open."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import closing, suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import uvicorn

from pyexperimenter.dashboard.app import create_app
from pyexperimenter.dashboard.security import LARGEST_HEADERS, Guard, names_of_this_machine, new_token
from pyexperimenter.exceptions import InvalidValueError, PyExperimenterError

if TYPE_CHECKING:
    from pyexperimenter.experimenter import PyExperimenter

_MOST_REQUESTS = 64  # at the same time
_STARTING = 30.0  # seconds


class Dashboard:
    """A dashboard that is being served. In a notebook, it is displayed as a link.

    Attributes
    ----------
    url : str
        Where it is, with the token that opens it. Keep it to yourself. Behind a socket, the address has no host.
    """

    def __init__(
        self,
        experimenter: PyExperimenter,
        host: str = "127.0.0.1",
        port: int = 0,
        uds: str | Path | None = None,
        root_path: str = "",
        allow_changes: bool = False,
    ) -> None:
        root_path = f"/{root_path.strip('/')}" if root_path.strip("/") else ""
        self._uds = None if uds is None else Path(uds).absolute()
        self._socket = _bind(host, port) if self._uds is None else _bind_file(self._uds)
        token = new_token() if self._uds is None else None
        app = Guard(create_app(experimenter, allow_changes), token, names_of_this_machine() | {host}, root_path)
        self.is_public = self._uds is None and not _is_loopback(host)
        if self._uds is not None:
            self.url = f"unix:{self._uds}"
        else:
            port = self._socket.getsockname()[1]
            shown = socket.getfqdn() if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
            self.url = f"http://{shown}:{port}{root_path}/?token={quote(token or '')}"
        # An access log would have the token.
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            interface="asgi3",
            limit_concurrency=_MOST_REQUESTS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=LARGEST_HEADERS,
            http="h11",
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None
        self._file: Path | None = None

    def __repr__(self) -> str:
        return f"<Dashboard on {self.url.partition('?')[0]}>"

    def _repr_html_(self) -> str:
        return f'<p><a href="{escape(self.url)}" target="_blank" rel="noreferrer">Open the dashboard</a></p>'

    def serve(self, ready: Callable[[], Any] = lambda: None) -> None:
        """Serve until Ctrl-C, and call `ready` when it has started."""
        watching = threading.Thread(target=self._when_started, args=[ready], daemon=True)
        watching.start()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._close()

    def start(self) -> Dashboard:
        """Serve in a thread of this process."""
        self._thread = threading.Thread(target=self.serve, name="dashboard", daemon=True)
        self._thread.start()
        self._when_started(lambda: None)
        return self

    def stop(self) -> None:
        """Stop serving. A stopped dashboard cannot be started again."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def open_browser(self) -> None:
        """Show it in a browser, if there is one.

        Other users of the machine see the command lines of processes, so the browser gets a file with the address.
        """
        descriptor, name = tempfile.mkstemp(prefix="pyexperimenter-", suffix=".html")  # which only its owner may read
        self._file = Path(name)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(self.url)}">')
        with suppress(webbrowser.Error):
            webbrowser.open(self._file.as_uri())

    def _when_started(self, ready: Callable[[], Any]) -> None:
        until = time.monotonic() + _STARTING
        while not self._server.started and time.monotonic() < until:
            time.sleep(0.01)
        ready()

    def _close(self) -> None:
        self._socket.close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        if self._uds is not None:
            self._uds.unlink(missing_ok=True)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise PyExperimenterError(
            f"cannot serve on {host}:{port}: {error}; choose another --port, or 0 for any that is free"
        ) from error


def _bind_file(path: Path) -> socket.socket:
    """Return a socket in a file that only its owner may open, from the moment when it is there."""
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidValueError("this system has no Unix sockets; leave out --uds")
    with suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode) and not _is_served(path):
            path.unlink()  # left by a process that was killed
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        server.bind(str(path))
    except OSError as error:
        server.close()
        raise PyExperimenterError(
            f"cannot make the socket {path}: {error}; choose a path that does not exist, in a directory of your own"
        ) from error
    finally:
        os.umask(before)
    server.listen()
    return server


def _is_served(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True
