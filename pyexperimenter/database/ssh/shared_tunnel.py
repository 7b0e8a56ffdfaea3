"""One SSH tunnel for all processes of a user on a machine that take the same route.

The first process that needs the tunnel starts ssh in the background. Each process that uses it keeps a connection to
ssh's control socket, which the kernel closes even if the process is killed. After the last one is closed, ssh ends. If
ssh ends earlier, the next process that needs the tunnel opens a new one. An ssh that is suspended, with the job or the
terminal in which it was started, is killed: connections through it would wait for ever, and now their users open
another one.

The control socket is in the user's runtime directory, and the local port is part of its name. A lock prevents two
processes from opening a tunnel at the same time.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from pyexperimenter.config.model import SshConfig
from pyexperimenter.database.ssh.tunnel import literal, open_tunnel
from pyexperimenter.exceptions import SshTunnelError
from pyexperimenter.machine.locks import FileLock, lock_file, runtime_directory
from pyexperimenter.machine.system import POSIX, at_fork

_LOGGER = logging.getLogger("py-experimenter")
_LONGEST_WAIT = 75.0  # seconds for another process to open the tunnel
_TICK = 0.05  # seconds between two checks
_LONGEST_SILENCE = 5.0  # seconds without a greeting after which another tunnel is opened
_GREETING = 1.0  # seconds without one after which ssh may be suspended
_ROUND = 2.0  # seconds between two looks at the tunnels in use
_LONGEST_DIRECTORY = 66  # bytes: we add 20 and ssh 17, and macOS allows 103 in the path of a socket
_PAUSE = 1.0  # seconds between a failure and the next login, however many processes wait for one
_LARGEST_LOG = 10_000  # bytes: ssh adds a line for each connection that is refused
_MOST_SUSPENDED = 10  # processes during their logins
_TRIES = 3  # to find a local port that stays free during the login

_held: dict[SshConfig, tuple[int, int]] = {}  # route: our connection to the control socket, and the local port
_watcher: threading.Thread | None = None  # while a tunnel is in use
_lock = threading.Lock()


def tunnel_address(ssh: SshConfig, host: str, port: int) -> tuple[str, int]:
    """Return where the tunnel listens; open it if necessary.

    Parameters
    ----------
    ssh : SshConfig
        The SSH server, how to log in there, and both ends of the tunnel.
    host, port : str, int
        The database as the configuration names it; only for messages.

    Raises
    ------
    SshTunnelError
        If it cannot be opened.
    """
    route, stem = _route(ssh), _stem(ssh)
    deadline = time.monotonic() + _LONGEST_WAIT
    try:
        while (local_port := _join(route, stem)) is None:
            lock = _lock_login(stem)
            if lock is not None:
                with lock:
                    return ssh.local_address, _join(route, stem) or _open(ssh, stem)
            if time.monotonic() > deadline:
                raise SshTunnelError(f"the process that has locked {stem} does not open it; end that process")
            time.sleep(_TICK)
    except SshTunnelError as error:
        where = f"no SSH tunnel to the database {host}:{port} through {ssh.address}:{ssh.port}"
        raise SshTunnelError(f"{where}: {error}") from error.__cause__
    return ssh.local_address, local_port


def close_tunnel(ssh: SshConfig) -> None:
    """Stop using the tunnel. ssh ends a few seconds after the last process that uses it has stopped."""
    with _lock:
        descriptor, _ = _held.pop(_route(ssh), (None, 0))
    if descriptor is not None:
        os.close(descriptor)


def ssh_log(ssh: SshConfig) -> str:
    """Return what ssh has logged so far."""
    log = _log(_stem(ssh))
    with suppress(FileNotFoundError):
        text = log.read_text(errors="replace")
        if len(text) > _LARGEST_LOG:
            os.truncate(log, 0)
        return text
    return ""


def refusal(ssh: SshConfig, before: str) -> str | None:
    """Return why the SSH server could not connect to the database; None if ssh has not logged that since `before`."""
    reasons = re.findall(r"open failed: (.*)", ssh_log(ssh).removeprefix(before))
    if not reasons:
        return None
    database = f"{ssh.remote_address}:{ssh.remote_port}"
    remedy = "check remote_address and remote_port, and that the database server is running"
    return f"the SSH server {ssh.address}:{ssh.port} cannot connect to {database}: {reasons[-1].strip()}; {remedy}"


def _lock_login(stem: Path) -> FileLock | None:
    """Lock the login; None if another process is logging in. One that is suspended does not count."""
    for file in (stem, *(stem.with_suffix(f".{number}") for number in range(1, _MOST_SUSPENDED))):
        lock = lock_file(file)
        with suppress(OSError):
            if lock is not None:
                file.write_text(str(os.getpid()))
            elif _is_suspended(Path("/proc", file.read_text() or "self")):
                continue
        return lock
    return None


def _join(route: SshConfig, stem: Path) -> int | None:
    """Connect to the control socket of a running ssh and return the tunnel's local port; None if none is running."""
    for control, local_port in _sockets(stem):
        connection = _connection_to(control)
        if connection is not None:
            _hold(route, connection.detach(), local_port)
            return local_port
    return None


def _connection_to(control: Path) -> socket.socket | None:
    """Connect to a control socket; None if its ssh has ended or does not answer. If it is suspended, kill it."""
    deadline = time.monotonic() + _LONGEST_SILENCE
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_GREETING)
    with suppress(OSError):
        connection.connect(str(control))
        while time.monotonic() < deadline:
            with suppress(TimeoutError):
                if connection.recv(64):  # ssh's greeting
                    return connection
                break
            if _kill_suspended(control):
                break
    connection.close()
    return None


def _kill_suspended(control: Path) -> bool:
    """Kill the ssh of a control socket if it is suspended (Linux only); return whether it was."""
    name = os.fsencode(literal(control))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if name in (process / "cmdline").read_bytes().split(b"\0") and _is_suspended(process):
                os.kill(int(process.name), signal.SIGKILL)
                _LOGGER.warning("the ssh of a tunnel was suspended (process %s); opening another tunnel", process.name)
                return True
    return False


def _is_suspended(process: Path) -> bool:
    """Return whether a process, named by its directory in /proc, was suspended by a signal."""
    return (process / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"


def _watch() -> None:
    """Look at the tunnels in use: a statement that was sent through one that is suspended would wait for its answer."""
    global _watcher  # noqa: PLW0603
    while True:
        time.sleep(_ROUND)
        with _lock:
            routes = list(_held)
            if not routes:
                _watcher = None
                return
        for control, _ in (found for route in routes for found in _sockets(_stem(route))):
            connection = _connection_to(control)
            if connection is not None:
                connection.close()


def _hold(route: SshConfig, descriptor: int, local_port: int) -> None:
    global _watcher  # noqa: PLW0603
    with _lock:
        before, _ = _held.get(route, (None, 0))
        _held[route] = descriptor, local_port
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="ssh tunnel", daemon=True)
            _watcher.start()
    if before is not None:
        os.close(before)


def _open(ssh: SshConfig, stem: Path) -> int:
    route = _route(ssh)
    for control, _ in _sockets(stem):
        control.unlink(missing_ok=True)  # left by an ssh that was killed or does not answer
    with suppress(FileNotFoundError):
        since = time.time() - _log(stem).stat().st_mtime
        time.sleep(_PAUSE - since if 0 < since < _PAUSE else 0)
    for left in reversed(range(_TRIES)):
        _, last_port = _held.get(route, (None, None))
        local_port = _free_port(ssh.local_address, ssh.local_port or last_port)
        try:
            open_tunnel(ssh, local_port, Path(f"{stem}-{local_port}"), _log(stem))
            # One that ends late can remove the control socket of another that took over its port.
            if (joined := _join(route, stem)) is not None:
                return joined
        except SshTunnelError as error:
            if "Address already in use" not in str(error) or not left:
                raise
    raise SshTunnelError("ssh ended right after the login; try again")


def _sockets(stem: Path) -> list[tuple[Path, int]]:
    """Return the control sockets and the local port of each."""
    found = [(path, path.name.removeprefix(f"{stem.name}-")) for path in stem.parent.glob(f"{stem.name}-*")]
    return [(path, int(port)) for path, port in found if port.isdecimal()]  # ssh adds a suffix first


def _free_port(address: str, wanted: int | None) -> int:
    """Return the wanted port if it is free, otherwise any free port."""
    for port in (wanted or 0, 0):
        try:
            with socket.create_server((address, port)) as listener:
                return int(listener.getsockname()[1])
        except OSError as error:
            reason = error
    raise SshTunnelError(f"cannot listen on {address}: {reason.strerror}; check local_address") from reason


def _stem(ssh: SshConfig) -> Path:
    """Return the path of the lock file, which is also the beginning of the paths of control socket and log.

    Raises
    ------
    SshTunnelError
        If the ssh of this system cannot be shared by processes, as on Windows.
    """
    if not POSIX:
        forward = f"{ssh.remote_port}:{ssh.remote_address}:{ssh.remote_port}"
        error = SshTunnelError(
            "processes cannot share an SSH tunnel on this system; open it yourself and leave it open (ssh -N -L "
            f"{forward} {ssh.address}), and give 127.0.0.1 and port {ssh.remote_port} as the address of the database, "
            "without an SSH server"
        )
        error.recovery = "repair"  # no waiting helps
        raise error
    try:
        network = os.readlink("/proc/self/ns/net")  # containers can share directories, but not ports
    except OSError:
        network = ""
    directory = runtime_directory()
    if directory is None or len(os.fsencode(directory)) > _LONGEST_DIRECTORY:
        directory = _directory_of_this_process()
    return directory / f"pe-{hashlib.sha256(f'{_route(ssh)} {network}'.encode()).hexdigest()[:10]}"


@cache
def _directory_of_this_process() -> Path:
    directory = tempfile.mkdtemp(prefix="pe-", dir="/tmp")
    atexit.register(_remove, directory, os.getpid())
    return Path(directory)


def _remove(directory: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


def _log(stem: Path) -> Path:
    return stem.with_suffix(".log")


def _route(ssh: SshConfig) -> SshConfig:
    return replace(ssh, password=None, private_key_password=None)


def _forget() -> None:
    """Leave the connections to the parent, in the child of a fork, which opens its own."""
    global _lock, _watcher  # noqa: PLW0603
    _lock = threading.Lock()  # another thread of the parent may hold it
    _watcher = None
    _directory_of_this_process.cache_clear()
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


at_fork(after_in_child=_forget)
