"""One SSH tunnel for all processes of a user on a machine that go the same way.

Whoever needs it first opens it, writes its port to a file in the user's runtime directory, and holds a lock on that
file until it ends. The others connect to that port; when the lock is free, the next who needs the tunnel opens it. So a
call of execute() has one, its workers use it, and so do other calls on the machine, wherever joblib places them.

This is safe, since the lock cannot outlive its holder, since nobody else may write in the directory, and since a user
of a tunnel that goes is a worker whose server was away for a moment. What is shared is the way only: each connection
logs in to the database by itself.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from pyexperimenter.config.model import SshConfig
from pyexperimenter.database.ssh.tunnel import Tunnel, open_tunnel
from pyexperimenter.exceptions import SshTunnelError
from pyexperimenter.machine.locks import FileLock, lock_file, runtime_directory

_LONGEST_WAIT = 60.0  # seconds for another process to open the tunnel
_TICK = 0.05  # seconds between two looks


class _Own:
    """A tunnel of this process, and the lock that says so."""

    def __init__(self, tunnel: Tunnel, lock: FileLock | None) -> None:
        self.tunnel = tunnel
        self.lock = lock

    def close(self) -> None:
        self.tunnel.close()
        if self.lock is not None:
            self.lock.release()


_own: dict[SshConfig, _Own] = {}
_lock = threading.Lock()


def tunnel_address(ssh: SshConfig, host: str, port: int) -> tuple[str, int]:
    """Return where the tunnel listens; open it if nobody has.

    Parameters
    ----------
    ssh : SshConfig
        The way.
    host, port : str, int
        The database as the configuration names it; only for messages.

    Raises
    ------
    SshTunnelError
        If it cannot be opened.
    """
    way = _without_secrets(ssh)
    with _lock:
        if way in _own:
            _own[way].tunnel.check()
            return _own[way].tunnel.host, _own[way].tunnel.port
        file = _file(way)
        deadline = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < deadline:
            lock = None if file is None else lock_file(file)
            if file is None or lock is not None:
                return _opened(way, ssh, host, port, lock)
            known = file.read_text()
            if known.endswith("\n"):
                return ssh.local_address, int(known)
            time.sleep(_TICK)
    raise SshTunnelError(f"no SSH tunnel to the database {host}:{port}: the process that has {file} does not open it")


def close_tunnel(ssh: SshConfig) -> None:
    """Close the tunnel, if it is this process's."""
    with _lock:
        own = _own.pop(_without_secrets(ssh), None)
    if own is not None:
        own.close()


def _opened(way: SshConfig, ssh: SshConfig, host: str, port: int, lock: FileLock | None) -> tuple[str, int]:
    try:
        tunnel = open_tunnel(ssh, host, port)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    _own[way] = _Own(tunnel, lock)
    if lock is not None:
        lock.write(f"{tunnel.port}\n")
    return tunnel.host, tunnel.port


def _file(way: SshConfig) -> Path | None:
    """Return the file of a way; None where there is no safe place for it."""
    try:
        network = os.readlink("/proc/self/ns/net")  # containers may share directories, but not the ports
    except OSError:
        network = ""
    name = hashlib.sha256(f"{way} {network} {Path.home()}".encode()).hexdigest()[:16]
    directory = runtime_directory()
    return None if directory is None else directory / f"pyexperimenter-tunnel-{name}"


def _without_secrets(ssh: SshConfig) -> SshConfig:
    return replace(ssh, password=None, private_key_password=None)


def _forget() -> None:
    """In the child of a fork: leave all to the parent."""
    global _lock  # noqa: PLW0603 - another thread of the parent may hold it
    _lock = threading.Lock()
    _own.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
