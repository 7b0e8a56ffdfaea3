"""The process of a supervised worker, from the inside: it reports to its supervisor what it does."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import queue
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import cloudpickle

import pyexperimenter
from pyexperimenter.database.records import Attempt
from pyexperimenter.database.selection import Selection
from pyexperimenter.exceptions import ExecutionError
from pyexperimenter.execution.stopping import Stop, listen, tell_interrupts_apart
from pyexperimenter.execution.supervision.messages import (
    TRACEBACK_SIGNAL,
    Answer,
    Claimed,
    Ended,
    NothingOpen,
    Returned,
    TracebackRequest,
    framed,
)
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.worker import Worker
from pyexperimenter.logger import LogSettings
from pyexperimenter.machine.processes import Printed, adopt_orphans, end_own_tree, write_messages
from pyexperimenter.machine.system import POSIX

_RELEASE_TIMEOUT = 10.0  # seconds for a process without supervisor to release its experiment


def main(supervisor: Connection, pipes: Sequence[int]) -> None:
    """Run the worker whose task the supervisor sends."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable(all_threads=False)
    if TRACEBACK_SIGNAL is not None:
        faulthandler.register(TRACEBACK_SIGNAL, all_threads=True, chain=True)  # also sent at the CPU time limit
    adopt_orphans()
    tell_interrupts_apart()
    watch = SupervisorWatch(supervisor, Printed(pipes))
    try:
        task: WorkerTask = cloudpickle.loads(supervisor.recv_bytes())
    except BaseException as error:
        report = WorkerReport(0, _load_error(error))
    else:
        task = replace(task, logging=replace(task.logging, file=None))  # the supervisor writes the log file
        _share_main(task.function)
        _forward_logs(task.logging, watch)
        worker = Worker(task, watch)
        watch.begin(worker, task)
        report = worker.run_all()
    try:
        watch.send(report)
    except OSError:  # without a supervisor, this process has to end what the function left running
        end_own_tree()


class SupervisorWatch:
    """Reports to the supervisor what the worker does, and receives its messages.

    Parameters
    ----------
    supervisor : Connection
        The connection to the supervisor.
    printed : Printed
        Knows whether there is output.
    """

    in_own_process = True

    def __init__(self, supervisor: Connection, printed: Printed) -> None:
        self.stop: Stop = _SupervisedStop()
        self._printed = printed
        self._supervisor = supervisor
        self._inode = _inode_of(supervisor)
        self._sending = threading.RLock()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def begin(self, worker: Worker, task: WorkerTask) -> None:
        """Start listening to the supervisor and to signals."""
        listen(task.config.execution.signals, self.stop)
        threading.Thread(target=self._listen, args=[worker, task], name="supervisor", daemon=True).start()

    def send(self, message: object) -> None:
        """Send the supervisor a message."""
        with self._sending:
            if not self._is_connected():
                # The descriptor may now be anything, even the connection to the database.
                print("the function closed the connection to the supervisor", file=sys.__stderr__)
                os._exit(1)
            write_messages(self._supervisor, framed(message))

    def _is_connected(self) -> bool:
        """Return whether our descriptor is still open and still the same socket."""
        return _inode_of(self._supervisor) == self._inode

    def claimed(self, attempt: Attempt) -> None:
        """Report that an execution begins."""
        self.send(Claimed(attempt))

    def holds(self) -> bool:
        """Return True: a supervisor that learns of a loss kills this process."""
        return True

    def returned(self) -> str | None:
        """Ask the supervisor for the end of the output, if there is any."""
        _flush()
        asks = self._printed.is_something()
        self.send(Returned(asks))
        if not asks:
            return None
        output: str | None = self._answers.get()
        self._printed.forget()
        return output

    def ended(self, failed: bool, resultless: bool) -> None:
        """Report that the outcome has been recorded."""
        self.send(Ended(failed, resultless))

    def look(self, selection: Selection, waits: bool) -> float | None:
        """Ask the supervisor, which has the same task, when something may be open."""
        self.send(NothingOpen())
        seconds: float | None = self._answers.get()
        return seconds

    def _listen(self, worker: Worker, task: WorkerTask) -> None:
        with suppress(EOFError, OSError):
            while True:
                message = self._supervisor.recv()
                if isinstance(message, Answer):
                    self._answers.put(message.value)
                elif isinstance(message, TracebackRequest):
                    faulthandler.dump_traceback(all_threads=True)
                else:
                    self.stop.request()
                    worker.store.hurry()
        if not self._is_connected():
            return  # the next message to be sent will notice
        # No supervisor renews the lease any more, so the experiment is released while this worker still holds it.
        timer = threading.Timer(_RELEASE_TIMEOUT, end_own_tree)
        timer.daemon = True
        timer.start()
        Worker(task, self).release_all("its supervisor died")
        end_own_tree()


class _SupervisedStop(Stop):
    """A stop that no second signal makes urgent: the supervisor enforces the grace period."""

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.request()


def _share_main(function: object) -> None:
    """Define in `__main__` what the user's script defined there, because pickle looks for it there."""
    main = vars(sys.modules["__main__"])
    if getattr(function, "__module__", None) == "__main__":
        for name, value in getattr(function, "__globals__", {}).items():
            main.setdefault(name, value)
        main.setdefault(getattr(function, "__name__", ""), function)


class _ForwardHandler(QueueHandler):
    """Sends log records to the supervisor, which has the log file and the terminal."""

    def __init__(self, watch: SupervisorWatch) -> None:
        super().__init__(queue.SimpleQueue())  # not used
        self._watch = watch

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record."""
        with suppress(OSError):
            self._watch.send(record)


def _forward_logs(settings: LogSettings, watch: SupervisorWatch) -> None:
    for name in (LogSettings.name, settings.name):  # the first is that of connections, whatever the user chose
        logger = logging.getLogger(name)
        logger.setLevel(settings.level)
        logger.propagate = False
        logger.handlers = [_ForwardHandler(watch)]
    library, shown = str(Path(pyexperimenter.__file__).parent), warnings.showwarning

    def show(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
        if filename.startswith(library):
            logger.warning("%s", message)
        else:
            shown(message, category, filename, *rest, **more)

    warnings.showwarning = show


def _flush() -> None:
    """Flush the buffers of Python and C."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(Exception):
        _c_library().fflush(None)


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None if POSIX else "ucrtbase")


def _inode_of(connection: Connection) -> int | None:
    """Return what identifies the socket of a connection; None if it is closed, or not a file, as on Windows."""
    try:
        return os.fstat(connection.fileno()).st_ino
    except OSError:
        return None


def _load_error(error: BaseException) -> ExecutionError:
    return ExecutionError(
        f"the experiment function could not be loaded in the worker's process: {type(error).__name__}: {error}; define "
        "it in the script, or in a module that can be imported from there, or set isolation: none"
    )
