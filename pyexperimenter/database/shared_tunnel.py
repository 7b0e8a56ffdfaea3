"""One SSH tunnel for all processes of a user on a machine that go the same way.

Whoever needs it first opens it, writes its port to a file in the user's runtime directory, and holds a lock on that
file until it ends. The others connect to that port; when the lock is free, the next who needs the tunnel opens it. So a
call of execute() has one, its workers use it, and so do other calls on the machine, wherever joblib places them.

This is safe, since the lock cannot outlive its holder however that dies (a pid may by then be somebody else's), since
nobody else may write in the directory, and since a user of a tunnel that goes is a worker whose server was away for a
moment. What is shared is the way only: each connection logs in to the database by itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pyexperimenter.config.model import SshConfig
from pyexperimenter.database.tunnel import Tunnel, open_tunnel
from pyexperimenter.exceptions import SshTunnelError

_LONGEST_WAIT = 60.0  # seconds for another process to open the tunnel
_TICK = 0.05  # seconds between two looks


class _Own:
    """A tunnel of this process, and the lock that says so."""

    def __init__(self, tunnel: Tunnel, lock: int | None) -> None:
        self.tunnel = tunnel
        self.lock = lock

    def close(self) -> None:
        self.tunnel.close()
        if self.lock is not None:
            fcntl.flock(self.lock, fcntl.LOCK_UN)  # to close it is not enough while a fork still has it
            os.close(self.lock)


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
            lock = None if file is None else _locked(file)
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


def _opened(way: SshConfig, ssh: SshConfig, host: str, port: int, lock: int | None) -> tuple[str, int]:
    try:
        tunnel = open_tunnel(ssh, host, port)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    _own[way] = _Own(tunnel, lock)
    if lock is not None:
        os.write(lock, f"{tunnel.port}\n".encode())
    return tunnel.host, tunnel.port


def _locked(file: Path) -> int | None:
    """Lock a file and empty it; None if another process has it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    return descriptor


def _file(way: SshConfig) -> Path | None:
    """Return the file of a way; None where there is no safe place for it."""
    try:
        network = os.readlink("/proc/self/ns/net")  # containers may share directories, but not the ports
    except OSError:
        network = ""
    name = hashlib.sha256(f"{way} {network} {Path.home()}".encode()).hexdigest()[:16]
    directory = _runtime_directory()
    return None if directory is None else directory / f"pyexperimenter-tunnel-{name}"


def _runtime_directory() -> Path | None:
    """Return a directory of this machine in which nobody but the user may write."""
    own = Path(tempfile.gettempdir(), f"pyexperimenter-{os.getuid()}")
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and _is_ours(Path(given)):  # jobs and `su` inherit it where it is not there, or another user's
        return Path(given)
    with suppress(OSError):
        own.mkdir(mode=0o700, exist_ok=True)
    return own if _is_ours(own) else None


def _is_ours(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _without_secrets(ssh: SshConfig) -> SshConfig:
    return replace(ssh, password=None, private_key_password=None)


def _forget() -> None:
    """In the child of a fork: leave all to the parent, whose lock would else be held for as long as the child lives."""
    global _lock  # noqa: PLW0603 - another thread of the parent may hold it
    _lock = threading.Lock()
    for own in _own.values():
        if own.lock is not None:
            os.close(own.lock)
    _own.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
