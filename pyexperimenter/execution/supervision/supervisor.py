"""Watches over a worker in a process of its own: beats for it, stops it when need be, writes its death certificates."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from enum import Enum, auto
from typing import Any

from pyexperimenter.database.records import Attempt, Usage
from pyexperimenter.durations import duration_text
from pyexperimenter.exceptions import ClaimLostError, DatabaseError, WorkerProcessError
from pyexperimenter.execution.heartbeat import Heart, Pulse, heart_of
from pyexperimenter.execution.journaling_store import JournalingStore
from pyexperimenter.execution.stopping import Stop, stop_on
from pyexperimenter.execution.supervision.messages import Answer, Claimed, Ended, NothingOpen, Returned, StopRequest
from pyexperimenter.execution.supervision.process import ChildProcess
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.worker import too_many_errors
from pyexperimenter.experiment_status import ExperimentStatus

_TICK = 0.2  # seconds between two looks at the clock
_TO_WRITE = 5.0  # seconds that an execution has to write its end, once its function is through
_EXIT = 10.0  # seconds for a process that is through to end by itself
_EXIT_AFTER_CUT = 1.0  # seconds for a process that we do not hear of any more
_VAIN_STARTS = 3  # processes that may end without executing anything
_SHOWN = 4000  # bytes of output in the error of an experiment


def supervise(task: WorkerTask) -> WorkerReport:
    """Run a worker in a process of its own until nothing is open or the limit is reached.

    Whatever stops it is reported, not raised: joblib would answer an exception by killing the other workers.
    """
    logger = task.logging.logger()
    try:
        with stop_on(task.config.execution.signals, Stop()) as stop, heart_of(task.config, logger) as heart:
            report = Supervisor(task, stop, heart, logger).run()
    except BaseException as error:
        return WorkerReport(0, error)
    return report


class _Fate(Enum):
    """Why a process was killed by us."""

    STOPPED = auto()  # its experiment is released
    LOST = auto()  # its experiment is somebody else's
    TOO_LONG = auto()  # its experiment is an error
    CUT_OFF = auto()  # likewise


class Supervisor:
    """Watches over one worker.

    Parameters
    ----------
    task : WorkerTask
        What the worker has to do.
    stop : Stop
        Whether it is to end.
    heart : Heart
        What beats for it.
    logger : logging.Logger
        Where messages go.
    """

    def __init__(self, task: WorkerTask, stop: Stop, heart: Heart, logger: logging.Logger) -> None:
        self._task = task
        self._execution = task.config.execution
        self._stop = stop
        self._heart = heart
        self._logger = logger
        self._store = JournalingStore(task.config, task.journal, task.identity)  # used when the process is dead
        self._executed = 0
        self._errors = task.errors  # in a row
        self._pulse: Pulse | None = None  # of the execution that runs
        self._began = 0.0
        self._returned = False

    def run(self) -> WorkerReport:
        """Let one process after the other work, until one ends in good order or has to."""
        try:
            return self._run()
        finally:
            self._store.close()

    def _run(self) -> WorkerReport:
        vain = 0
        while True:
            before = self._executed
            with ChildProcess(self._remaining()) as process:
                try:
                    ended = self._accompany(process)
                    if isinstance(ended, WorkerReport):
                        process.wait(_EXIT)
                        return WorkerReport(self._executed, ended.stopped_by)
                    cause = self._bury(process, ended)
                except BaseException:
                    self._bury(process, _Fate.STOPPED)
                    raise
                finally:
                    self._forget()
            vain = 0 if self._executed > before else vain + 1
            problem = self._problem(vain, cause, process)
            if problem or self._stop.requested or (self._task.limit is not None and self._executed >= self._task.limit):
                return WorkerReport(self._executed, problem)

    def _remaining(self) -> WorkerTask:
        limit = None if self._task.limit is None else self._task.limit - self._executed
        return replace(self._task, limit=limit, errors=self._errors)

    def _problem(self, vain: int, cause: str, process: ChildProcess) -> Exception | None:
        """Return what forbids another process."""
        try:
            self._store.raise_if_journaled()
        except Exception as error:
            return error
        most = self._execution.stop_after_errors
        if most and self._errors >= most:
            return too_many_errors(most)
        if vain >= _VAIN_STARTS:
            return WorkerProcessError(
                f"{vain} processes of a worker ended before they executed anything: {_with_output(cause, process)}"
            )
        return None

    # While the process lives

    def _accompany(self, process: ChildProcess) -> WorkerReport | _Fate | None:
        """Listen to a process; return its report, why it is to be killed, or None if it died."""
        told_to_stop = False
        while True:
            for message in process.messages(_TICK):
                if isinstance(message, WorkerReport):
                    return message
                self._hear(message, process)
            fate = self._fate()
            if fate is not None:
                return fate
            if process.is_cut_off:
                process.wait(_EXIT_AFTER_CUT)
                return None if process.has_ended() else _Fate.CUT_OFF
            if process.has_ended():
                for message in process.messages(0):  # said before its death
                    if isinstance(message, WorkerReport):
                        return message
                    self._hear(message, process)
                return None
            if self._stop.requested and not told_to_stop:
                process.send(StopRequest())
                told_to_stop = True
                if self._stop.announce():
                    grace = duration_text(self._execution.grace)
                    self._logger.warning("stopping: experiments have %s to end; ask again to stop at once", grace)

    def _hear(self, message: Any, process: ChildProcess) -> None:
        match message:
            case Claimed(attempt):
                process.label = f"experiment {attempt.experiment_id}"
                self._pulse = self._heart.watch(attempt)
                self._began = time.monotonic()
            case Returned():
                self._returned = True
                process.read_output()
                process.send(Answer(process.tail.text()))
            case Ended(failed):
                self._executed += 1
                self._errors = self._errors + 1 if failed else 0
                process.begin_anew()
                self._forget()
            case NothingOpen():
                process.send(Answer(self._heart.look_if_possible()))
            case logging.LogRecord():
                self._logger.handle(message)

    def _fate(self) -> _Fate | None:
        if self._stop.requested:
            patience = 0.0 if self._stop.urgent else self._execution.grace
            if self._stop.seconds_ago > (max(patience, _TO_WRITE) if self._returned else patience):
                return _Fate.STOPPED
        if self._pulse is None:
            return None
        if self._pulse.lost.is_set():
            return _Fate.LOST
        limit = self._execution.time_limit
        if limit is not None and not self._returned and time.monotonic() - self._began > limit:
            return _Fate.TOO_LONG
        return None

    def _forget(self) -> None:
        if self._pulse is not None:
            self._heart.forget(self._pulse)
        self._pulse = None
        self._returned = False

    # When it is dead, or has to be

    def _bury(self, process: ChildProcess, fate: _Fate | None) -> str:
        """End a process, write down what became of what it executed, and return why it ended, in words."""
        if fate is _Fate.TOO_LONG:
            process.tell_where()
        cause = process.end()
        if fate is _Fate.TOO_LONG:
            cause = f"exceeded time_limit {duration_text(self._execution.time_limit or 0)}, and was killed"
        if fate is _Fate.CUT_OFF:
            cause = "its process closed the way to its supervisor, and was killed"
        held = self._held()
        if fate is _Fate.LOST and self._pulse is not None:
            held.append(self._pulse.attempt)  # for its output
        for attempt in held:
            wall = time.monotonic() - self._began if self._pulse is not None else None
            usage, output = Usage(wall, None, process.max_rss_bytes), process.tail.text()
            try:
                if fate is _Fate.STOPPED:
                    self._store.release(attempt, usage, output)
                    self._logger.warning("experiment %d was released: its worker was stopped", attempt.experiment_id)
                    continue
                self._executed += 1
                self._store.finish(attempt, ExperimentStatus.ERROR, _with_output(cause, process), usage, output=output)
                self._errors += 1
                self._logger.error("experiment %d failed: %s", attempt.experiment_id, cause)
            except ClaimLostError as lost:
                self._logger.warning("experiment %d was stopped: %s", attempt.experiment_id, lost)
            except DatabaseError as error:  # of a release; the lease will do it
                self._logger.error("experiment %d could not be released: %s", attempt.experiment_id, error)
        return cause

    def _held(self) -> list[Attempt]:
        """Return what the process held: it may have claimed without having had the time to tell us."""
        self._store.adopt()
        try:
            self._store.caught_up()
            return self._store.held_by(self._task.identity)
        except DatabaseError:
            known = [] if self._pulse is None else [self._pulse.attempt]
            return [attempt for attempt in known if not self._store.has_noted_end(attempt)]


def _with_output(cause: str, process: ChildProcess) -> str:
    output = process.tail.text(_SHOWN)
    return cause if output is None else f"{cause}\nThe last that it printed:\n{output}"
