"""The process of a supervised worker, from the outside: starts it, reads from it, and kills it with its descendants."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from pyexperimenter.execution.pickling import dumps
from pyexperimenter.execution.supervision.echo import Echo
from pyexperimenter.execution.supervision.messages import TRACEBACK_SIGNAL, MessageReader
from pyexperimenter.execution.supervision.tail import Tail
from pyexperimenter.execution.task import WorkerTask
from pyexperimenter.machine.gpus import gpu_environment

_BOOTSTRAP = (
    # Files in the working directory must not shadow the standard library.
    "import sys; del sys.path[0]; from multiprocessing.connection import Connection; "
    "supervisor = Connection(int(sys.argv[1])); sys.path[:], sys.argv[:] = supervisor.recv(); "
    "from pyexperimenter.execution.supervision.child import main; main(supervisor)"
)
"""The program of the process. Its argument is the descriptor of the connection to the supervisor."""
_CHUNK = 64 * 1024  # bytes
_UNKNOWN = 1000  # in place of an exit code
_TRACEBACK_TIMEOUT = 0.5  # seconds for a process to print its traceback
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_SIGNAL_MEANINGS = {
    "SIGKILL": "out of memory?",
    "SIGSEGV": "segmentation fault",
    "SIGBUS": "bus error",
    "SIGABRT": "abort",
    "SIGFPE": "arithmetic error",
    "SIGILL": "illegal instruction",
    "SIGXCPU": "CPU time limit",
    "SIGXFSZ": "file size limit",
}


class ChildProcess:
    """A worker's process, in its own session and process group. As a context manager, it kills the process on exit.

    Parameters
    ----------
    task : WorkerTask
        The task of the worker.

    Attributes
    ----------
    tail : Tail
        The end of the output of the process and its descendants.
    echo : Echo
        Shows the output, if configured.
    max_rss_bytes : int or None
        Peak memory of the process, once it has ended.
    is_disconnected : bool
        Whether the process has closed the connection, because it is about to end or by mistake, or has written to it
        what is not a message.
    """

    def __init__(self, task: WorkerTask) -> None:
        self.tail = Tail()
        self.echo = Echo()
        self.max_rss_bytes: int | None = None
        self._unassigned = b""  # output that was read before the messages that say which experiment printed it
        self._echoes = task.config.execution.echo
        self.is_disconnected = False
        self._reader = MessageReader()
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        self._output, printed = os.pipe()
        os.set_blocking(self._output, False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", _BOOTSTRAP, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=_environment(os.environ, task),
            )
        os.close(printed)
        self._sentinel = _pidfd(self._process.pid)
        self._send(lambda connection: connection.send((sys.path, sys.argv)))
        self._send(lambda connection: connection.send_bytes(dumps(task)))

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._connection.close()
        os.close(self._output)
        if self._sentinel is not None:
            os.close(self._sentinel)

    def send(self, message: object) -> None:
        """Send a message; do nothing if the process is dead."""
        self._send(lambda connection: connection.send(message))

    def messages(self, seconds: float) -> Iterator[Any]:
        """Wait at most so many seconds for messages or output; yield the messages."""
        connection = None if self.is_disconnected else self._connection
        sources = [source for source in (connection, self._output, self._sentinel) if source is not None]
        ready = wait(sources, seconds)
        # Output is read before the messages that were sent earlier and say which experiment printed it.
        if self._output in ready:
            with suppress(BlockingIOError):
                self._unassigned += os.read(self._output, _CHUNK)
        if connection is not None:
            try:
                while self._connection.poll():
                    data = os.read(self._connection.fileno(), _CHUNK)
                    if not data:
                        raise EOFError
                    yield from self._reader.read(data)
            except (EOFError, OSError, ValueError):
                self.is_disconnected = True  # left open: when it is closed, the process releases its experiment
        self._assign_output()

    def read_output(self) -> None:
        """Read all output so far."""
        with suppress(BlockingIOError):
            while data := os.read(self._output, _CHUNK):
                self._unassigned += data
                self._assign_output()
        self._assign_output()

    def _assign_output(self) -> None:
        """Add what was read to the output of the current experiment."""
        data, self._unassigned = self._unassigned, b""
        self.tail.add(data)
        if self._echoes:
            self.echo.show(data)

    def clear_output(self) -> None:
        """Forget the output so far: what follows belongs to another experiment."""
        self.echo.end()
        self.tail.clear()

    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True  # something else in this process has waited for it

    def is_suspended(self) -> bool:
        """Return whether the process was stopped by a signal, until it continues."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return False

    def wait(self, seconds: float) -> None:
        """Wait at most so many seconds for the process to end."""
        deadline = time.monotonic() + seconds
        while not self.has_ended() and (left := deadline - time.monotonic()) > 0:
            for _ in self.messages(min(left, 0.1)):
                pass

    def print_traceback(self) -> None:
        """Make the process print its traceback, which shows what took so long."""
        printed = self.tail.seen
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, TRACEBACK_SIGNAL)
        deadline = time.monotonic() + _TRACEBACK_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            before = self.tail.seen
            # The traceback comes in one piece, so a pause marks its end.
            if wait([self._output], left if before == printed else 0.05):
                self.read_output()
            if self.tail.seen == before:
                break

    def end(self) -> str:
        """Kill the process group unless the process was already ended; return how it ended, in words."""
        if self._process.returncode is None:
            # Until it is waited for, no other process can get its ID, which is the group's, too.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            try:
                _, status, usage = os.wait4(self._process.pid, 0)
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.max_rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            except ChildProcessError:
                self._process.returncode = _UNKNOWN
            self.read_output()
            self.echo.end()
        return _describe_exit(self._process.returncode)

    def _send(self, send: Any) -> None:
        with suppress(OSError):  # the process is dead, which is noticed elsewhere
            send(self._connection)


def _describe_exit(exit_code: int) -> str:
    if exit_code == _UNKNOWN:
        return "its process ended with an unknown exit code: SIGCHLD is ignored, or other code waited for it first"
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}, as by os._exit({exit_code})"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    words = _SIGNAL_MEANINGS.get(name)
    return f"killed by {name} ({words})" if words else f"killed by {name}"


def _environment(environment: Mapping[str, str], task: WorkerTask) -> dict[str, str]:
    """Assign the worker its GPUs, and its share of the cores: numerical libraries would use all of them."""
    changes = gpu_environment(task.gpus, task.identity)
    if not any(name in environment for name in _THREADS):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        changes |= dict.fromkeys(_THREADS, str(max(1, cores // task.workers)))
    return {**environment, **changes}


def _interpreter_flags() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when a process ends; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
