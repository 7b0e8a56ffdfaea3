"""A worker: claim an open experiment, run the user's function on it, finish; again until nothing is open."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from pyexperimenter.database.records import Experiment, WorkerInfo
from pyexperimenter.exceptions import (
    ClaimLostError,
    InvalidResultFieldError,
    InvalidValueError,
    PyExperimenterError,
    ResultsInJournalError,
    TooManyErrorsError,
)
from pyexperimenter.execution.budget import Budget
from pyexperimenter.execution.emissions import EmissionsMeter
from pyexperimenter.execution.function import user_traceback
from pyexperimenter.execution.heartbeat import heart_of
from pyexperimenter.execution.journaling_store import JournalingStore
from pyexperimenter.execution.provenance import worker_info
from pyexperimenter.execution.stopping import InterruptingStop, stop_on
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.usage import Meter
from pyexperimenter.execution.watch import OwnWatch, Watch
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.machine.load import let_others_go_first
from pyexperimenter.result_processor import ResultProcessor

_FINAL = (ExperimentStatus.DONE, ExperimentStatus.ERROR, ExperimentStatus.PAUSED)


def run_worker(task: WorkerTask) -> WorkerReport:
    """Be a worker in this process until nothing is open or the limit is reached.

    Whatever stops it is reported, not raised: joblib would answer an exception by killing the other workers.
    """
    execution = task.config.execution
    try:
        with (
            stop_on(execution.signals, InterruptingStop(execution.grace)) as stop,
            heart_of(task.config, task.logging.logger()) as heart,
        ):
            report = Worker(task, OwnWatch(heart, stop)).run_all()
    except BaseException as error:
        return WorkerReport(0, error)
    if stop.signal is not None and isinstance(report.stopped_by, KeyboardInterrupt):
        return WorkerReport(report.executed)  # the stop raised it; what else its signal means was done
    return report


def run_one(task: WorkerTask, claim: Callable[[Worker], Experiment]) -> int:
    """Execute in this process the one experiment that `claim` takes; return its ID.

    Raises
    ------
    ResultsInJournalError
        If the database did not take its results.
    """
    execution = task.config.execution
    with (
        stop_on(execution.signals, InterruptingStop(execution.grace)) as stop,
        heart_of(task.config, task.logging.logger()) as heart,
    ):
        worker = Worker(task, OwnWatch(heart, stop))
        try:
            experiment = claim(worker)
            worker.run(experiment)
            worker.store.raise_if_journaled()
        except ResultsInJournalError:
            raise
        except BaseException:
            worker.release_all()
            raise
        finally:
            worker.store.close()
        return experiment.id


class Worker:
    """Executes experiments in this process.

    Parameters
    ----------
    task : WorkerTask
        What to execute.
    watch : Watch
        Who watches over it.
    """

    def __init__(self, task: WorkerTask, watch: Watch) -> None:
        self.store = JournalingStore(task.config, task.journal, task.identity)
        self.info: WorkerInfo = worker_info(task.name, task.identity)
        self._task = task
        self._watch = watch
        self._execution = task.config.execution
        self._budget = Budget(task.allowance, self._execution.min_time, self.store)
        self._errors = task.errors
        self._logger = task.logging.logger()

    def run_all(self) -> WorkerReport:
        """Execute until nothing is open, the limit is reached, or something stops the worker."""
        executed = 0
        try:
            while (self._task.limit is None or executed < self._task.limit) and self.run_next():
                executed += 1
            self.store.raise_if_journaled()
        except ResultsInJournalError as error:
            return WorkerReport(executed, error)  # it still holds what its journal tells of
        except BaseException as error:
            self.release_all()
            return WorkerReport(executed, error)
        finally:
            self.store.close()
        return WorkerReport(executed)

    def run_next(self) -> bool:
        """Claim and execute one experiment; False if none is open, or it is time to stop.

        Raises
        ------
        TooManyErrorsError
            If too many failed in a row.
        ResultsInJournalError
            If the database stayed away.
        """
        self.store.raise_if_journaled()
        most = self._execution.stop_after_errors
        if most and self._errors >= most:
            raise too_many_errors(most)
        let_others_go_first()
        while not self._watch.stop.requested and not self._is_over():
            experiment = self.store.claim(self.info, self._task.selection)
            if experiment is not None:
                self.run(experiment)
                return True
            if not self._watch.wait_for_lost(self._seconds_to_next_look()):
                break
        return False

    def run(self, experiment: Experiment) -> None:
        """Execute a claimed experiment and write down how it ended.

        A failure of the user's function is a result. Only KeyboardInterrupt goes on, after the row was released.
        """
        self._watch.claimed(experiment.attempt)
        self._logger.debug("experiment %s starts: %s", experiment.id, experiment.keyfields)
        processor = ResultProcessor(self.store, experiment.attempt, self._task.logging, self._is_to_end)
        options = self._task.codecarbon
        meter = nullcontext() if options is None else EmissionsMeter(options, self._logger)
        usage = Meter()
        outcome, error, results, retries = ExperimentStatus.DONE, None, None, 0
        try:
            with meter:
                returned = self._task.function(dict(experiment.keyfields), processor, dict(self._task.config.custom))
            outcome, results = _interpreted(returned)
        except KeyboardInterrupt:
            with self._lost_is_told(experiment):
                self.store.release(experiment.attempt, usage.usage(), self._watch.returned())
            self._watch.ended(failed=False)
            raise
        except BaseException as raised:
            outcome, error = ExperimentStatus.ERROR, user_traceback(raised)
            retries = self._execution.retries if self._is_worth_a_retry(raised) else 0
            self._logger.error("experiment %s failed:\n%s", experiment.id, error)
        if os.getpid() != self.info.pid:
            os._exit(1)  # the function forked, and this is its child, which is no worker
        failed = outcome is ExperimentStatus.ERROR
        with self._lost_is_told(experiment):
            failed = self._finish(experiment, outcome, error, usage, results, retries)
        self._errors = self._errors + 1 if failed else 0
        self._watch.ended(failed)
        if isinstance(meter, EmissionsMeter) and meter.measured:
            self._write_emissions(experiment, meter.measured)

    def release_all(self) -> None:
        """Give back whatever this worker still holds."""
        self.store.give_up_soon()
        try:
            # While something waits in the journal the database is away, and what is held there is not to be given back.
            for experiment_id in self.store.release_worker(self.info.identity) if self.store.caught_up() else []:
                self._logger.warning("experiment %s was released: its worker was stopped", experiment_id)
        except Exception as error:
            self._logger.error("could not release the experiments of worker %s: %s", self.info.identity, error)

    def _finish(
        self,
        experiment: Experiment,
        outcome: ExperimentStatus,
        error: str | None,
        usage: Meter,
        results: Mapping[str, Any] | None,
        retries: int,
    ) -> bool:
        """Write the end; return whether it is a failure."""
        took, output = usage.usage(), self._watch.returned()
        try:
            self.store.finish(experiment.attempt, outcome, error, took, results, output, retries)
        except Exception as problem:
            # A wrong result in what the function returned; or a table too old for the traceback's letters.
            ours = (InvalidResultFieldError, InvalidValueError)
            if isinstance(problem, (PyExperimenterError, OSError)) and not isinstance(problem, ours):
                raise
            told = error or "".join(traceback.format_exception_only(problem))
            told = told.encode("ascii", "backslashreplace").decode()
            self._logger.error("experiment %s failed:\n%s", experiment.id, told)
            self.store.finish(experiment.attempt, ExperimentStatus.ERROR, told, took, output=output, retries=retries)
            return True
        return outcome is ExperimentStatus.ERROR

    @contextmanager
    def _lost_is_told(self, experiment: Experiment) -> Iterator[None]:
        try:
            yield
        except ClaimLostError as lost:
            self._logger.warning("the end of experiment %s was not written: %s", experiment.id, lost)

    def _is_to_end(self) -> bool:
        return self._watch.stop.requested or not self._watch.holds()

    def _is_over(self) -> bool:
        refusal = self._budget.refusal()
        if refusal is not None:
            self._logger.warning("this worker begins no other experiment: %s", refusal)
        return refusal is not None

    def _seconds_to_next_look(self) -> float | None:
        """Tell how long to wait if nothing is open; None if there is nothing to wait for."""
        if not self._task.wait or not self.store.count_unfinished(self._task.selection):
            return None
        return min(self._execution.heartbeat, self._budget.seconds_left())

    def _is_worth_a_retry(self, error: BaseException) -> bool:
        """Tell whether the class of an exception, or one that it derives from, is named in the configuration."""
        names = {name for cls in type(error).__mro__ for name in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")}
        wanted = names & set(self._execution.retry_on) or not self._execution.retry_on
        return bool(wanted) and not names & set(self._execution.no_retry_on)

    def _write_emissions(self, experiment: Experiment, measured: Mapping[str, Any]) -> None:
        try:
            self.store.write_emissions(experiment.id, measured)
        except Exception as error:  # measuring must never cost an experiment
            self._logger.warning("the emissions of experiment %s were not written: %s", experiment.id, error)


def too_many_errors(count: int) -> TooManyErrorsError:
    """Make the error of a worker whose experiments fail one after the other."""
    return TooManyErrorsError(
        f"{count} experiments failed in a row, so the worker stopped before it burns the rest; look at their errors, "
        "mend what is wrong and reset_experiments('error'), or raise stop_after_errors (0: never stop)"
    )


def _interpreted(returned: Any) -> tuple[ExperimentStatus, Mapping[str, Any] | None]:
    """Tell what the function's return value means."""
    if returned is None:
        return ExperimentStatus.DONE, None
    if isinstance(returned, ExperimentStatus) and returned in _FINAL:
        return returned, None
    if isinstance(returned, Mapping):
        return ExperimentStatus.DONE, returned
    raise ValueError(
        f"the experiment function returned {returned!r:.80}; it may return None, one of "
        f"{', '.join(f'ExperimentStatus.{status.name}' for status in _FINAL)}, or a mapping of results"
    )
