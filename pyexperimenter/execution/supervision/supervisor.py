"""Supervises a worker in its own process: renews its leases, stops it if necessary, and records how it died."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from enum import Enum, auto
from typing import Any

from pyexperimenter.database.outages import is_news
from pyexperimenter.database.records import NOT_MEASURED, Attempt, Usage
from pyexperimenter.durations import duration_text
from pyexperimenter.exceptions import ClaimLostError, DatabaseError, InvalidValueError, WorkerProcessError
from pyexperimenter.execution.heartbeat import Heartbeat, Lease, shared_heartbeat
from pyexperimenter.execution.journaling_store import JournalingStore
from pyexperimenter.execution.stopping import Stop, stop_on
from pyexperimenter.execution.supervision.messages import Answer, Claimed, Ended, NothingOpen, Returned, StopRequest
from pyexperimenter.execution.supervision.process import ChildProcess
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.worker import too_many_errors
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.logger import failure
from pyexperimenter.tracebacks import summary_of

_TICK = 0.2  # seconds between two checks of the time
_LONGEST_TICK = 1.0  # seconds between two checks, unless this process was suspended
_RECORD_TIMEOUT = 5.0  # seconds to record the outcome, once the function has returned
_EXIT_TIMEOUT = 10.0  # seconds for a process to exit after its report
_USED_UP_EXIT_TIMEOUT = 2.0  # the same for one that is replaced: a thread that was left running may keep it
_DISCONNECTED_EXIT_TIMEOUT = 1.0  # seconds for a process to exit after its connection was closed
_MAX_FAILED_STARTS = 3  # processes in a row that may end without executing anything
_MAX_OUTPUT_IN_ERROR = 16_000  # bytes; the stack of one thread, of which 100 frames are printed, fits


def supervise(task: WorkerTask) -> WorkerReport:
    """Run a worker in its own process until nothing is open or the limit is reached.

    An exception that stops it is reported, not raised: joblib would react by killing the other workers.
    """
    logger = task.logging.logger()
    try:
        with stop_on(task.config.execution.signals, Stop()) as stop, shared_heartbeat(task.config, logger) as heartbeat:
            return Supervisor(task, stop, heartbeat, logger).run()
    except BaseException as error:
        return WorkerReport(0, error)


class _KillReason(Enum):
    STOPPED = auto()  # its experiment is released
    LOST = auto()  # its experiment belongs to another worker now
    TIMED_OUT = auto()  # its experiment gets the status error
    DISCONNECTED = auto()  # the same


class Supervisor:
    """Supervises one worker.

    Parameters
    ----------
    task : WorkerTask
        The task of the worker.
    stop : Stop
        Whether the worker should stop.
    heartbeat : Heartbeat
        Renews the leases of the worker.
    logger : logging.Logger
        Logs what happens to experiments, and what the worker logs.
    """

    def __init__(self, task: WorkerTask, stop: Stop, heartbeat: Heartbeat, logger: logging.Logger) -> None:
        self._task = task
        self._execution = task.config.execution
        self._stop = stop
        self._heartbeat = heartbeat
        self._logger = logger
        self._store = JournalingStore(task.config, task.journal, task.identity)  # used once the process is dead
        self._executed = 0
        self._resultless = 0
        self._errors = task.errors  # in a row
        self._lease: Lease | None = None  # of the current execution
        self._began = 0.0
        self._ran = 0.0  # seconds of the current execution, without those in which it was suspended
        self._looked = 0.0
        self._returned = False

    def run(self) -> WorkerReport:
        """Start one process after another, until one finishes or the worker has to stop."""
        try:
            return self._run()
        finally:
            self._store.close()

    def _run(self) -> WorkerReport:
        failed_starts = 0
        while True:
            before = self._executed
            with ChildProcess(self._remaining()) as process:
                try:
                    ended = self._monitor(process)
                    if isinstance(ended, WorkerReport):
                        process.wait(_USED_UP_EXIT_TIMEOUT if ended.used_up else _EXIT_TIMEOUT)
                        if ended.used_up and not self._is_finished():
                            continue
                        return WorkerReport(self._executed, ended.stopped_by, resultless=self._resultless)
                    cause = self._write_off(process, ended)
                except BaseException:
                    self._write_off(process, _KillReason.STOPPED)
                    raise
                finally:
                    self._drop_lease()
            failed_starts = 0 if self._executed > before else failed_starts + 1
            problem = self._problem(failed_starts, cause, process)
            if problem or self._is_finished():
                return WorkerReport(self._executed, problem, resultless=self._resultless)

    def _is_finished(self) -> bool:
        return self._stop.requested or (self._task.limit is not None and self._executed >= self._task.limit)

    def _remaining(self) -> WorkerTask:
        limit = None if self._task.limit is None else self._task.limit - self._executed
        return replace(self._task, limit=limit, errors=self._errors)

    def _problem(self, failed_starts: int, cause: str, process: ChildProcess) -> Exception | None:
        """Return why no other process should be started; None if one should be."""
        try:
            self._store.raise_if_journaled()
        except Exception as error:
            return error
        most = self._execution.stop_after_errors
        if most and self._errors >= most:
            return too_many_errors(most)
        if failed_starts >= _MAX_FAILED_STARTS:
            return WorkerProcessError(
                f"{failed_starts} processes of a worker ended before they executed anything: "
                f"{_with_output(cause, process)}"
            )
        return None

    # While the process runs

    def _monitor(self, process: ChildProcess) -> WorkerReport | _KillReason | None:
        """Handle what a process sends; return its report, why it must be killed, or None if it died."""
        stop_sent = False
        while True:
            has_ended = process.has_ended()  # asked first: what it sent before it ended is read below
            for message in process.messages(_TICK):
                if isinstance(message, WorkerReport):
                    return message
                self._handle(message, process)
            self._measure(process)
            reason = self._kill_reason()
            if reason is not None:
                return reason
            if has_ended:
                return None
            if process.is_disconnected:
                process.wait(_DISCONNECTED_EXIT_TIMEOUT)
                return None if process.has_ended() else _KillReason.DISCONNECTED
            if self._stop.requested and not stop_sent:
                process.send(StopRequest())
                stop_sent = True
                if self._stop.announce():
                    grace = duration_text(self._execution.grace)
                    message = "stopping: running experiments have %s to finish; repeat the signal to stop at once"
                    self._logger.warning(message, grace)

    def _handle(self, message: Any, process: ChildProcess) -> None:
        match message:
            case Claimed(attempt):
                process.echo.label = f"experiment {attempt.experiment_id}"
                self._lease = self._heartbeat.keep(attempt)
                self._began = self._looked = time.monotonic()
                self._ran = 0.0
            case Returned(asks):
                self._returned = True
                if asks:
                    process.read_output()
                    process.send(Answer(process.tail.text()))
            case Ended(failed, resultless):
                self._executed += 1
                self._resultless += resultless
                self._errors = self._errors + 1 if failed else 0
                process.clear_output()
                self._drop_lease()
            case NothingOpen():
                process.send(Answer(self._heartbeat.look(self._task.selection, self._task.wait)))
            case record:
                if is_news(record):
                    self._logger.handle(record)

    def _measure(self, process: ChildProcess) -> None:
        """Add the time since the last look to that of the execution, unless it, or this process, was suspended."""
        now = time.monotonic()
        if not process.is_suspended():
            self._ran += min(now - self._looked, _LONGEST_TICK)
        self._looked = now

    def _kill_reason(self) -> _KillReason | None:
        if self._stop.requested:
            grace = 0.0 if self._stop.urgent else self._execution.grace
            if self._stop.seconds_ago > (max(grace, _RECORD_TIMEOUT) if self._returned else grace):
                return _KillReason.STOPPED
        if self._lease is None:
            return None
        if self._lease.lost:
            return _KillReason.LOST
        limit = self._execution.time_limit
        if limit is not None and not self._returned and self._ran > limit:
            return _KillReason.TIMED_OUT
        return None

    def _drop_lease(self) -> None:
        if self._lease is not None:
            self._heartbeat.drop(self._lease)
        self._lease = None
        self._returned = False

    # When the process is dead or must be killed

    def _write_off(self, process: ChildProcess, reason: _KillReason | None) -> str:
        """End a process, record the outcome of what it executed, and return why it ended, in words."""
        if reason is _KillReason.TIMED_OUT:
            process.print_traceback()
        cause = process.end()
        if reason is _KillReason.TIMED_OUT:
            cause = f"exceeded time_limit {duration_text(self._execution.time_limit or 0)} and was killed"
        if reason is _KillReason.DISCONNECTED:
            cause = "its process closed the connection to its supervisor, or wrote to it, and was killed"
        held = self._held()
        if reason is _KillReason.LOST and self._lease is not None:
            held.append(self._lease.attempt)  # so that its output is recorded
        for attempt in held:
            # A claim that was not announced is that of an experiment that has not begun.
            began = self._lease is not None and attempt == self._lease.attempt
            usage, output = NOT_MEASURED, None
            if began:
                usage = Usage(time.monotonic() - self._began, None, process.max_rss_bytes)
                output = process.tail.text()
            try:
                if reason is _KillReason.STOPPED or not began:
                    why = self._stop.cause if reason is _KillReason.STOPPED else f"it had not begun: {cause}"
                    self._store.release(attempt, usage, output, why)
                    self._logger.warning("experiment %d was released: %s", attempt.experiment_id, why)
                    continue
                self._executed += 1
                error = _with_output(cause, process)
                self._store.finish(attempt, ExperimentStatus.ERROR, error, usage, output=output)
                self._errors += 1
                known = failure(cause, cause)
                self._logger.error("experiment %d failed: %s", attempt.experiment_id, summary_of(error), extra=known)
            except ClaimLostError as lost:
                self._logger.warning("experiment %d was stopped: %s", attempt.experiment_id, lost)
            except (DatabaseError, InvalidValueError) as error:  # it will be released when its lease runs out
                self._logger.error("experiment %d could not be released: %s", attempt.experiment_id, error)
        return cause

    def _held(self) -> list[Attempt]:
        """Return what the process held: it may have died between a claim and the message about it."""
        try:
            self._store.adopt()
            self._store.caught_up()
            return self._store.held_by(self._task.identity)
        except (DatabaseError, OSError):
            known = [] if self._lease is None else [self._lease.attempt]
            return [attempt for attempt in known if not self._store.has_noted_end(attempt)]


def _with_output(cause: str, process: ChildProcess) -> str:
    output = process.tail.text(_MAX_OUTPUT_IN_ERROR)
    return cause if output is None else f"{cause}\nLast output:\n{output}"
