"""The process in which a supervised worker lives, seen from inside: it tells its supervisor what it does."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import warnings
from contextlib import suppress
from dataclasses import replace
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import cloudpickle

import pyexperimenter
from pyexperimenter.database.records import Attempt
from pyexperimenter.exceptions import ExecutionError
from pyexperimenter.execution.stopping import Stop, listen
from pyexperimenter.execution.supervision.messages import (
    TRACEBACK_SIGNAL,
    Answer,
    Claimed,
    Ended,
    NothingOpen,
    Returned,
)
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.watch import sooner
from pyexperimenter.execution.worker import Worker
from pyexperimenter.logger import LogSettings

_FAREWELL = 10.0  # seconds that a process without supervisor has to give its experiment back


def main(supervisor: Connection) -> None:
    """Live as a worker; the supervisor sends the task first."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable(all_threads=False)
    faulthandler.register(TRACEBACK_SIGNAL, all_threads=True, chain=True)  # it may also be the limit of CPU time
    os.set_inheritable(supervisor.fileno(), False)
    watch = SupervisorWatch(supervisor)
    try:
        task: WorkerTask = cloudpickle.loads(supervisor.recv_bytes())
    except BaseException as error:
        report = WorkerReport(0, _load_error(error))
    else:
        task = replace(task, logging=replace(task.logging, file=None))  # the supervisor writes it
        _share_main(task.function)
        _hand_on_logs(task.logging, watch)
        worker = Worker(task, watch)
        watch.begin(worker, task)
        report = worker.run_all()
    try:
        watch.send(_picklable(report))
    except OSError:  # without a supervisor nobody else ends what the function has left running
        os.killpg(os.getpgrp(), signal.SIGKILL)


class SupervisorWatch:
    """Tells the supervisor what the worker does, and hears from it.

    Parameters
    ----------
    supervisor : Connection
        The way to it.
    """

    def __init__(self, supervisor: Connection) -> None:
        self.stop: Stop = _PatientStop()
        self._supervisor = supervisor
        self._socket = os.fstat(supervisor.fileno()).st_ino
        self._sending = threading.RLock()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def begin(self, worker: Worker, task: WorkerTask) -> None:
        """Listen to the supervisor and to signals."""
        listen(task.config.execution.signals, self.stop)
        threading.Thread(target=self._listen, args=[worker, task], name="supervisor", daemon=True).start()

    def send(self, message: object) -> None:
        """Tell the supervisor something."""
        with self._sending:
            if not self._is_connected():
                # What has its number now may be anything, the database too.
                print("the function closed the way to the supervisor", file=sys.__stderr__)
                os._exit(1)
            self._supervisor.send(message)

    def _is_connected(self) -> bool:
        """Tell whether nobody has closed our descriptor, or put another in its place."""
        try:
            return os.fstat(self._supervisor.fileno()).st_ino == self._socket
        except OSError:
            return False

    def claimed(self, attempt: Attempt) -> None:
        """Tell that an execution begins."""
        self.send(Claimed(attempt))

    def holds(self) -> bool:
        """A supervisor that hears of a loss stops this process."""
        return True

    def returned(self) -> str | None:
        """Ask for the last of what was printed."""
        _flush()
        self.send(Returned())
        output: str | None = self._answers.get()
        return output

    def ended(self, failed: bool) -> None:
        """Tell that the execution's end is written."""
        self.send(Ended(failed))

    def wait_for_lost(self, seconds: float | None) -> bool:
        """Wait for as long as the supervisor says that it is worth it, or the seconds given."""
        self.send(NothingOpen())
        seconds = sooner(self._answers.get(), seconds)
        return seconds is not None and not self.stop.wait(seconds)

    def _listen(self, worker: Worker, task: WorkerTask) -> None:
        with suppress(EOFError, OSError):
            while True:
                message = self._supervisor.recv()
                if isinstance(message, Answer):
                    self._answers.put(message.value)
                else:
                    self.stop.request()
                    worker.store.hurry()
        if not self._is_connected():
            return  # whoever sends next notices
        # Without supervisor nobody beats: the experiment is given back as long as it is this worker's.
        give_up = threading.Timer(_FAREWELL, os.killpg, [os.getpgrp(), signal.SIGKILL])
        give_up.daemon = True
        give_up.start()
        Worker(task, self).release_all()
        os.killpg(os.getpgrp(), signal.SIGKILL)


class _PatientStop(Stop):
    """A stop whose second signal is not urgent: the supervisor minds how long there is."""

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.request()


def _share_main(function: object) -> None:
    """Let what the user's script defines be found where it was, for those who pickle it, as multiprocessing does."""
    main = vars(sys.modules["__main__"])
    if getattr(function, "__module__", None) == "__main__":
        for name, value in getattr(function, "__globals__", {}).items():
            main.setdefault(name, value)
        main.setdefault(getattr(function, "__name__", ""), function)


class _HandOn(QueueHandler):
    """Sends messages to the supervisor, which has the log file and the terminal."""

    def __init__(self, watch: SupervisorWatch) -> None:
        super().__init__(queue.SimpleQueue())  # is not used
        self._watch = watch

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a message."""
        with suppress(OSError):
            self._watch.send(record)


def _hand_on_logs(settings: LogSettings, watch: SupervisorWatch) -> None:
    logger = logging.getLogger(settings.name)
    logger.setLevel(settings.level)
    logger.propagate = False
    logger.handlers = [_HandOn(watch)]
    library, shown = str(Path(pyexperimenter.__file__).parent), warnings.showwarning

    def show(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
        if filename.startswith(library):
            logger.warning("%s", message)
        else:
            shown(message, category, filename, *rest, **more)

    warnings.showwarning = show


def _flush() -> None:
    """Write what Python and C have buffered."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(Exception):
        ctypes.CDLL(None).fflush(None)


def _load_error(error: BaseException) -> ExecutionError:
    return ExecutionError(
        f"the experiment function could not be loaded in the worker's process: {type(error).__name__}: {error}; define "
        "it in the script, or in a module that can be imported from there, or set isolation: none"
    )


def _picklable(report: WorkerReport) -> WorkerReport:
    try:
        cloudpickle.loads(cloudpickle.dumps(report))
    except Exception:
        return WorkerReport(report.executed, ExecutionError(f"{type(report.stopped_by).__name__}: {report.stopped_by}"))
    return report
