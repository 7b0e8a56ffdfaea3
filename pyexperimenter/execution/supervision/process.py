"""The process of a supervised worker, seen from outside: starting it, hearing it, ending it with all its offspring."""

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

import cloudpickle

from pyexperimenter.execution.supervision.messages import TRACEBACK_SIGNAL
from pyexperimenter.execution.supervision.tail import Tail
from pyexperimenter.execution.task import WorkerTask
from pyexperimenter.machine.gpus import gpu_environment

_BOOTSTRAP = (
    # Files in the working directory must not stand in for the standard library's.
    "import sys; del sys.path[0]; from multiprocessing.connection import Connection; "
    "supervisor = Connection(int(sys.argv[1])); sys.path[:], sys.argv[:] = supervisor.recv(); "
    "from pyexperimenter.execution.supervision.child import main; main(supervisor)"
)
"""The program of the process; its argument is the descriptor of the way to the supervisor."""
_CHUNK = 64 * 1024  # bytes
_UNKNOWN = 1000  # instead of an exit code
_LAST_WORDS = 0.5  # seconds for a traceback of where a process is
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_IN_WORDS = {
    "SIGKILL": "out of memory?",
    "SIGSEGV": "segmentation fault",
    "SIGBUS": "bus error",
    "SIGABRT": "abort",
    "SIGFPE": "arithmetic error",
    "SIGILL": "illegal instruction",
    "SIGXCPU": "limit of CPU time",
    "SIGXFSZ": "limit of file size",
}


class ChildProcess:
    """A worker's process, in a session and process group of its own. As a context it is gone at the end of the block.

    Parameters
    ----------
    task : WorkerTask
        What it has to do.

    Attributes
    ----------
    tail : Tail
        The last that it and its offspring printed.
    label : str
        What stands before each line that is echoed.
    max_rss_bytes : int or None
        Its peak memory, once it has ended.
    """

    def __init__(self, task: WorkerTask) -> None:
        self.tail = Tail()
        self.label = "worker"
        self.max_rss_bytes: int | None = None
        self._echo = task.config.execution.echo
        self._line = b""
        ours, theirs = socket.socketpair()
        self._connection: Connection | None = Connection(ours.detach())
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
        self._send(lambda connection: connection.send_bytes(cloudpickle.dumps(task)))

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._connection is not None:
            self._connection.close()
        os.close(self._output)
        if self._sentinel is not None:
            os.close(self._sentinel)

    def send(self, message: object) -> None:
        """Tell it something; nothing happens if it is dead."""
        self._send(lambda connection: connection.send(message))

    def messages(self, seconds: float) -> Iterator[Any]:
        """Wait for something to happen, so many seconds at most, and yield what it says."""
        sources = [source for source in (self._connection, self._output, self._sentinel) if source is not None]
        ready = wait(sources, seconds)
        # What is said goes before what is printed, as it tells what the print belongs to.
        if self._connection is not None and self._connection in ready:
            try:
                while self._connection.poll():
                    yield self._connection.recv()
            except (EOFError, OSError):
                self._connection.close()
                self._connection = None
        if self._output in ready:
            self.read_output()

    def read_output(self) -> None:
        """Take in all that was printed until now."""
        with suppress(BlockingIOError):
            while data := os.read(self._output, _CHUNK):
                self.tail.add(data)
                if self._echo:
                    self._show(data)

    def begin_anew(self) -> None:
        """Forget what was printed: what comes now belongs to another experiment."""
        self._show_rest()
        self.tail.clear()

    @property
    def is_cut_off(self) -> bool:
        """Whether the way to it is closed, without which it is of no use: it is about to end, or broke something."""
        return self._connection is None

    def has_ended(self) -> bool:
        """Tell whether it has ended."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True  # somebody in this process waits for all children

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, so many seconds at most."""
        deadline = time.monotonic() + seconds
        while not self.has_ended() and (left := deadline - time.monotonic()) > 0:
            for _ in self.messages(min(left, 0.1)):
                pass

    def tell_where(self) -> None:
        """Make it print where it is, for those who look for what took so long."""
        printed = self.tail.seen
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, TRACEBACK_SIGNAL)
        deadline = time.monotonic() + _LAST_WORDS
        while (left := deadline - time.monotonic()) > 0:
            before = self.tail.seen
            # It comes in one go: a pause behind it is its end.
            if wait([self._output], left if before == printed else 0.05):
                self.read_output()
            if self.tail.seen == before:
                break

    def end(self) -> str:
        """Kill it with its process group, if it is not dead, and tell in words how it ended."""
        if self._process.returncode is None:
            # While it is not waited for, its number, which is the group's, belongs to nobody else.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            try:
                _, status, usage = os.wait4(self._process.pid, 0)
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.max_rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            except ChildProcessError:
                self._process.returncode = _UNKNOWN
            self.read_output()
            self._show_rest()
        return _in_words(self._process.returncode)

    def _send(self, send: Any) -> None:
        with suppress(OSError):  # dead, which is noticed elsewhere
            if self._connection is not None:
                send(self._connection)

    def _show_rest(self) -> None:
        if self._line:
            self._show(b"\n")

    def _show(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        shown = "".join(f"[{self.label}] {line.decode(errors='replace')}\n" for line in lines)
        if shown:
            with suppress(ValueError, OSError):  # nobody reads any more
                sys.stdout.write(shown)
                sys.stdout.flush()


def _in_words(exit_code: int) -> str:
    if exit_code == _UNKNOWN:
        return "its process ended, and somebody else in this process took the reason"
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}, as by os._exit({exit_code})"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    words = _IN_WORDS.get(name)
    return f"killed by {name} ({words})" if words else f"killed by {name}"


def _environment(environment: Mapping[str, str], task: WorkerTask) -> dict[str, str]:
    """Share the machine among the workers: its GPUs, and its cores, all of which numerical libraries would take."""
    changes = gpu_environment(task.gpus, task.identity)
    if not any(name in environment for name in _THREADS):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        changes |= dict.fromkeys(_THREADS, str(max(1, cores // task.workers)))
    return {**environment, **changes}


def _interpreter_flags() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _pidfd(pid: int) -> int | None:
    """Return what becomes readable when a process ends, where there is such a thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
