"""The process of a supervised worker, from the outside: starts it, reads from it, and kills it with its descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pyexperimenter.execution.pickling import dumps
from pyexperimenter.execution.supervision.echo import Echo
from pyexperimenter.execution.supervision.messages import TRACEBACK_SIGNAL, MessageReader, TracebackRequest
from pyexperimenter.execution.supervision.tail import Tail
from pyexperimenter.execution.task import WorkerTask
from pyexperimenter.machine.gpus import gpu_environment
from pyexperimenter.machine.processes import ProcessTree

_PROGRAM = (
    "sys.path[:], sys.argv[:] = supervisor.recv(); "
    "from pyexperimenter.execution.supervision.child import main; main(supervisor, pipes)"
)
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
_WINDOWS_MEANINGS = {0xC0000005: "access violation", 0xC00000FD: "stack overflow", 0xC0000409: "abort"}


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
        self._cause: str | None = None  # of its end
        self._tree = ProcessTree.start(
            [sys.executable, *_interpreter_flags()], _PROGRAM, _environment(os.environ, task)
        )
        self._send(lambda connection: connection.send((sys.path, sys.argv)))
        self._send(lambda connection: connection.send_bytes(dumps(task)))

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._tree.close()

    def send(self, message: object) -> None:
        """Send a message; do nothing if the process is dead."""
        self._send(lambda connection: connection.send(message))

    def messages(self, seconds: float) -> Iterator[Any]:
        """Wait at most so many seconds for messages or output; yield the messages."""
        # Output is read before the messages that were sent earlier and say which experiment printed it.
        if self._tree.wait(seconds, messages=not self.is_disconnected):
            self._unassigned += self._tree.read_output()
        if not self.is_disconnected:
            try:
                while (data := self._tree.read_messages()) is not None:
                    if not data:
                        raise EOFError
                    yield from self._reader.read(data)
            except (EOFError, OSError, ValueError):
                self.is_disconnected = True  # left open: when it is closed, the process releases its experiment
        self._assign_output()

    def read_output(self) -> None:
        """Read all output so far."""
        while data := self._tree.read_output():
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
        return self._tree.has_ended()

    def is_suspended(self) -> bool:
        """Return whether the process was stopped by a signal, until it continues."""
        return self._tree.is_suspended()

    def wait(self, seconds: float) -> None:
        """Wait at most so many seconds for the process to end."""
        deadline = time.monotonic() + seconds
        while not self.has_ended() and (left := deadline - time.monotonic()) > 0:
            for _ in self.messages(min(left, 0.1)):
                pass

    def print_traceback(self) -> None:
        """Make the process print its traceback, which shows what took so long."""
        printed = self.tail.seen
        if TRACEBACK_SIGNAL is None:
            self.send(TracebackRequest())
        else:
            self._tree.send_signal(TRACEBACK_SIGNAL)
        deadline = time.monotonic() + _TRACEBACK_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            before = self.tail.seen
            # The traceback comes in one piece, so a pause marks its end.
            if self._tree.wait(left if before == printed else 0.05, messages=False):
                self.read_output()
            if self.tail.seen == before:
                break

    def end(self) -> str:
        """Kill the process and its descendants unless they were already ended; return how it ended, in words."""
        if self._cause is None:
            exit_code, self.max_rss_bytes = self._tree.end()
            self._cause = _describe_exit(exit_code)
            self.read_output()
            self.echo.end()
        return self._cause

    def _send(self, send: Any) -> None:
        with suppress(OSError):  # the process is dead, which is noticed elsewhere
            send(self._tree.connection)


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return "its process ended with an unknown exit code: SIGCHLD is ignored, or other code waited for it first"
    if exit_code in _WINDOWS_MEANINGS:
        return f"its process ended with exit code {exit_code:#x} ({_WINDOWS_MEANINGS[exit_code]})"
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
