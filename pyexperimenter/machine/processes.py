"""Python processes that this one starts: connected to it, watched, and ended together with their descendants.

On POSIX, each leads a process group, and its pipes can be waited for. On Windows, pipes are looked at again and again,
and psutil finds descendants by their parents: not those of a process that has ended by itself.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from pyexperimenter.machine.system import POSIX, bytes_of, file_of, poll_socket

_CHUNK = 64 * 1024  # bytes
_BEGINNING = "import sys; del sys.path[0]; "  # files in the working directory must not shadow the standard library
_TICK = 0.01  # seconds between two looks at a pipe
_HELLO_TIMEOUT = 1.0  # seconds for a process that has connected to show the token
_SET_CHILD_SUBREAPER = 36  # of prctl


class ProcessTree:
    """A Python process and its descendants, out of reach of Ctrl-C in the terminal.

    Parameters
    ----------
    command : sequence of str
        Python and its options.
    program : str
        What it runs. Its variables are `supervisor`, the other end of the connection, and `pipes`, for `Printed`.
    environment : Mapping of str to str
        Its environment.

    Attributes
    ----------
    connection : Connection
        The connection to the process.
    """

    _sentinel: int | None = None
    _marks: int | None = None

    def __init__(self, command: Sequence[str], program: str, environment: Mapping[str, str]) -> None:
        self._output, printed = os.pipe()
        options = {"stdout": printed, "stderr": printed, "env": environment}
        self._process, self.connection = self._start([*command, "-c"], program, options)
        os.close(printed)

    def _start(
        self, command: list[str], program: str, options: dict[str, Any]
    ) -> tuple[subprocess.Popen[bytes], Connection]:
        connect = (
            "import os; from multiprocessing.connection import Connection; pipes = list(map(int, sys.argv[1:])); "
            "[os.set_inheritable(pipe, False) for pipe in pipes]; supervisor = Connection(pipes.pop(0)); "
        )
        command.append(_BEGINNING + connect + program)
        marks, self._marks = os.pipe()
        for pipe in (self._output, marks, self._marks):
            os.set_blocking(pipe, False)
        ours, theirs = socket.socketpair()
        with theirs:
            passed = [theirs.fileno(), self._output, marks]
            command += map(str, passed)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=passed, start_new_session=True, **options
            )
        os.close(marks)
        self._sentinel = _pidfd(process.pid)
        return process, Connection(ours.detach())

    @staticmethod
    def start(command: Sequence[str], program: str, environment: Mapping[str, str]) -> ProcessTree:
        """Start a process; see the parameters of the class."""
        return (ProcessTree if POSIX else _WindowsTree)(command, program, environment)

    def close(self) -> None:
        """Close the connection and the pipes."""
        self.connection.close()
        for descriptor in (self._output, self._marks, self._sentinel):
            if descriptor is not None:
                os.close(descriptor)

    def wait(self, seconds: float, messages: bool) -> bool:
        """Wait at most so many seconds for output, messages or the end; return whether there is output."""
        sources = [self.connection if messages else None, self._output, self._sentinel]
        return self._output in wait([source for source in sources if source is not None], seconds)

    def read_messages(self) -> bytes | None:
        """Return some bytes of messages: none at the end of the connection; None while there are no messages."""
        return os.read(self.connection.fileno(), _CHUNK) if self.connection.poll() else None

    def read_output(self) -> bytes:
        """Return some bytes of output; none if all of it was read."""
        assert self._marks is not None
        with suppress(OSError):  # the process has ended, or has not looked at the marks for long
            os.write(self._marks, b"-")  # first: what is neither in the pipe nor marked was not printed
        try:
            return os.read(self._output, _CHUNK)
        except BlockingIOError:
            return b""

    def has_ended(self) -> bool:
        """Return whether the process has ended. Until `end`, no other one can get its ID, which is the group's, too."""
        if not hasattr(os, "waitid"):
            return self._state() in ("gone", "zombie")
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True  # something else in this process has waited for it

    def is_suspended(self) -> bool:
        """Return whether the process was stopped by a signal, until it continues."""
        if not hasattr(os, "waitid"):
            return self._state() == "stopped"
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return False

    def _state(self) -> str:
        import psutil

        try:
            return str(psutil.Process(self._process.pid).status())
        except psutil.NoSuchProcess:
            return "gone"

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def end(self) -> tuple[int | None, int | None]:
        """Kill all of them; return the exit code of the process and its peak memory in bytes; None if not known."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            _, status, usage = os.wait4(self._process.pid, 0)
        except ChildProcessError:
            self._process.returncode = -1  # it must not be waited for again
            return None, None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode, bytes_of(usage.ru_maxrss)


class _WindowsTree(ProcessTree):
    """The same without process groups, and without descriptors that a process inherits."""

    _root: Any = None  # of psutil

    def _start(
        self, command: list[str], program: str, options: dict[str, Any]
    ) -> tuple[subprocess.Popen[bytes], Connection]:
        import psutil

        connect = (
            "import socket; from multiprocessing.connection import Connection; port, token = sys.stdin.read().split(); "
            "supervisor = socket.create_connection(('127.0.0.1', int(port))); supervisor.sendall(token.encode()); "
            "supervisor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); "
            "supervisor = Connection(supervisor.detach()); pipes = []; "
        )
        command.append(_BEGINNING + connect + program)
        flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        token = secrets.token_hex().encode()  # others can connect, but not read the stdin of the process
        with socket.create_server(("127.0.0.1", 0)) as server:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, creationflags=flags, **options)
            with suppress(psutil.NoSuchProcess):  # it has ended
                self._root = psutil.Process(process.pid)
            assert process.stdin is not None
            with suppress(OSError), process.stdin:
                process.stdin.write(b"%d %b" % (server.getsockname()[1], token))
            return process, Connection(_accept(server, token, process).detach())

    def wait(self, seconds: float, messages: bool) -> bool:
        """Wait at most so many seconds for output or messages; return whether there is output."""
        deadline = time.monotonic() + seconds
        while not self._available():
            nap = max(0.0, min(_TICK, deadline - time.monotonic()))
            if not messages:
                time.sleep(nap)
            if not nap or (messages and self._has_messages(nap)):
                return False
        return True

    def _has_messages(self, seconds: float = 0) -> bool:
        return bool(select.select([self.connection], [], [], seconds)[0])

    def read_messages(self) -> bytes | None:
        """Return some bytes of messages: none at the end of the connection; None while there are no messages."""
        if not self._has_messages():
            return None
        with _as_socket(self.connection) as receiving:
            return receiving.recv(_CHUNK)

    def read_output(self) -> bytes:
        """Return some bytes of output; none if all of it was read."""
        available = self._available()
        return os.read(self._output, min(available, _CHUNK)) if available else b""

    def _available(self) -> int:
        """Return how many bytes of output can be read."""
        import _winapi
        import msvcrt

        try:
            return int(_winapi.PeekNamedPipe(msvcrt.get_osfhandle(self._output), 0)[0])  # type: ignore[attr-defined]
        except BrokenPipeError:  # all that could write to it have ended
            return 0

    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    def is_suspended(self) -> bool:
        """Return whether the process is suspended."""
        return self._state() == "stopped"

    def end(self) -> tuple[int | None, int | None]:
        """Kill all of them; return the exit code of the process and None."""
        for _ in range(2):  # a second time, as a process may have started another one in between
            if self._root is not None:
                _kill_descendants(self._root)
            self._process.kill()
        return self._process.wait(), None


def _accept(server: socket.socket, token: bytes, process: subprocess.Popen[bytes]) -> socket.socket:
    """Return the connection of a process, which shows the token; a closed one if the process has ended."""
    server.settimeout(_HELLO_TIMEOUT)
    while process.poll() is None:
        with suppress(OSError):
            connection, _ = server.accept()
            connection.settimeout(_HELLO_TIMEOUT)
            if secrets.compare_digest(_read_exactly(connection, len(token)), token):
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            connection.close()
    connection, other = socket.socketpair()
    other.close()
    return connection


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    """Return so many bytes; fewer if no more come."""
    data = b""
    with suppress(OSError):
        while len(data) < size and (more := connection.recv(size - len(data))):
            data += more
    return data


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when a process ends; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _kill_descendants(process: Any) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        for descendant in process.children(recursive=True):
            with suppress(psutil.Error):
                descendant.kill()


# From the inside of a process


def write_messages(connection: Connection, data: bytes) -> None:
    """Write what `ProcessTree.read_messages` reads."""
    if not POSIX:
        with _as_socket(connection) as sending:
            sending.sendall(data)
        return
    while data:
        data = data[os.write(connection.fileno(), data) :]


@contextmanager
def _as_socket(connection: Connection) -> Iterator[socket.socket]:
    """Yield a connection as a socket, which on Windows is not a file."""
    borrowed = socket.socket(fileno=connection.fileno())
    try:
        yield borrowed
    finally:
        borrowed.detach()


class Printed:
    """Knows whether the process has printed anything, or another one of its tree.

    It does not ask the supervisor, whose answer takes as long as a short experiment.

    Parameters
    ----------
    pipes : sequence of int
        Descriptors of the pipe of the output, which is not read here, and of a pipe to which the supervisor writes
        before it reads output. None on Windows.
    """

    def __init__(self, pipes: Sequence[int]) -> None:
        self._files = {pipe: file_of(pipe) for pipe in pipes}

    def is_something(self) -> bool:
        """Return whether something was printed since the last `forget`, or that is not known."""
        return not self._are_open() or any(poll_socket(pipe, True, False, 0)[0] for pipe in self._files)

    def forget(self) -> None:
        """Forget what was printed and read so far."""
        with suppress(BlockingIOError):
            while self._are_open() and os.read(list(self._files)[-1], _CHUNK):
                pass

    def _are_open(self) -> bool:
        """Return whether the descriptors are still those of the pipes; the function may have closed them."""
        return bool(self._files) and all(file_of(pipe) == file for pipe, file in self._files.items())


def end_own_tree() -> None:
    """End this process and its descendants."""
    if POSIX:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    import psutil

    _kill_descendants(psutil.Process())
    os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends, so that they are found (Linux only)."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# Children of this process, whoever has started them


def children() -> list[int]:
    """Return their IDs."""
    if not _HAS_PROC:
        import psutil

        return [child.pid for child in psutil.Process().children()]
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []  # the usual case, known by one call
    tasks = os.listdir("/proc/self/task")  # several times as fast as a Path
    return [int(pid) for task in tasks for pid in _read(f"/proc/self/task/{task}/children").split()]


def command_of(pid: int) -> bytes | None:
    """Return the command line of a process, its parts separated by zeros; None if it has ended."""
    if not _HAS_PROC:
        import psutil

        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else "\0".join(process.cmdline()).encode()
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied:
            return b""
    for _ in range(100):
        state = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:1]
        if state in ([], [b"Z"], [b"X"]):
            return None
        if command := _read(f"/proc/{pid}/cmdline"):
            return command
        time.sleep(0.001)  # it is empty for a moment while a program starts
    return b""


def environment_of(pid: int) -> bytes:
    """Return the environment of a process, where the system shows it."""
    return _read(f"/proc/{pid}/environ")


def end_child(pid: int) -> None:
    """Kill a child. The code that started it may still wait for it."""
    if not _HAS_PROC:
        import psutil

        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            _kill_descendants(process)  # which this process would not adopt
            process.kill()
        return
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", 0) as file:
            return file.read()
    except OSError:
        return b""


_HAS_PROC = bool(_read("/proc/self/stat"))  # where it is, waitid is
