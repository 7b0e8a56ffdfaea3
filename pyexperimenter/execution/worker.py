"""A worker: claims an open experiment, calls the user's function, records the outcome, and so on until none is open."""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyexperimenter.database.claims import Claim
from pyexperimenter.database.records import Experiment, WorkerInfo, Written
from pyexperimenter.exceptions import (
    ClaimLostError,
    DatabaseError,
    InvalidValueError,
    PyExperimenterError,
    ResultsInJournalError,
    TooManyErrorsError,
)
from pyexperimenter.execution.budget import Budget
from pyexperimenter.execution.function import user_traceback
from pyexperimenter.execution.journaling_store import JournalingStore
from pyexperimenter.execution.left_running import LeftRunning
from pyexperimenter.execution.provenance import code_state, worker_info
from pyexperimenter.execution.stopping import InterruptingStop, stop_on
from pyexperimenter.execution.surroundings import restored
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.usage import Meter
from pyexperimenter.execution.watch import OwnWatch, Watch
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.logger import failure
from pyexperimenter.machine.turns import Turns
from pyexperimenter.result_processor import ResultProcessor

if TYPE_CHECKING:
    from pyexperimenter.execution.emissions import EmissionsMeter

_FINAL = (ExperimentStatus.DONE, ExperimentStatus.ERROR, ExperimentStatus.PAUSED)


def run_worker(task: WorkerTask) -> WorkerReport:
    """Run a worker in this process until nothing is open or the limit is reached.

    An exception that stops it is reported, not raised: joblib would react by killing the other workers.
    """
    from pyexperimenter.execution.heartbeat import shared_heartbeat  # which a supervised worker does not need

    execution = task.config.execution
    code_state.cache_clear()  # the code may have changed since the last worker of this process
    try:
        with (
            stop_on(execution.signals, InterruptingStop(execution.grace)) as stop,
            shared_heartbeat(task.config, task.logging.logger()) as heartbeat,
        ):
            report = Worker(task, OwnWatch(heartbeat, stop)).run_all()
    except BaseException as error:
        return WorkerReport(0, error)
    if stop.signal is not None and isinstance(report.stopped_by, KeyboardInterrupt):
        return replace(report, stopped_by=None)  # raised by the stop, and the signal's usual effect has taken place
    return report


def run_one(task: WorkerTask, claim: Callable[[Worker], Experiment]) -> int:
    """Execute in this process the one experiment that `claim` returns; return its ID.

    Raises
    ------
    ResultsInJournalError
        If its results could not be written to the database.
    """
    from pyexperimenter.execution.heartbeat import shared_heartbeat

    execution = task.config.execution
    with (
        stop_on(execution.signals, InterruptingStop(execution.grace)) as stop,
        shared_heartbeat(task.config, task.logging.logger()) as heartbeat,
    ):
        worker = Worker(task, OwnWatch(heartbeat, stop))
        try:
            experiment = claim(worker)
            worker.run(experiment)
            worker.store.raise_if_journaled()
        except ResultsInJournalError:
            raise
        except BaseException as error:
            worker.release_all(worker.cause_of(error))
            raise
        finally:
            worker.close()
        return experiment.id


class Worker:
    """Executes experiments in this process.

    Parameters
    ----------
    task : WorkerTask
        What to execute.
    watch : Watch
        Follows its executions and renews their leases.
    """

    def __init__(self, task: WorkerTask, watch: Watch) -> None:
        self.store = JournalingStore(task.config, task.journal, task.identity)
        self.info: WorkerInfo = worker_info(task.name, task.identity, task.function, task.environment)
        self._task = task
        self._watch = watch
        self._execution = task.config.execution
        self._budget = Budget(task.allowance, self._execution.min_time, self.store)
        self._errors = task.errors
        self._logger = task.logging.logger()
        self._turns = Turns()
        self._left_threads = False  # whether the last experiment left threads running
        self._executed = 0
        self._resultless = 0
        self._claims_ahead = False  # whether the next experiment is claimed when one ends
        self._claimed: Experiment | None = None  # in that way

    def run_all(self) -> WorkerReport:
        """Execute until nothing is open, the limit is reached, or something stops the worker or uses up its process."""
        self._claims_ahead = True
        try:
            while not self._is_finished() and self.run_next():
                pass
            self.store.raise_if_journaled()
        except ResultsInJournalError as error:
            return self._report(error)  # it still holds the experiments in its journal
        except BaseException as error:
            self.release_all(self.cause_of(error))
            return self._report(error)
        finally:
            self.close()
        return self._report()

    def close(self) -> None:
        """Close its journal, so that another process can write it to the database, and let others have its turn."""
        self._turns.end()
        self.store.close()

    def _report(self, stopped_by: BaseException | None = None) -> WorkerReport:
        used_up = stopped_by is None and self._is_used_up()
        return WorkerReport(self._executed, stopped_by, used_up, self._resultless)

    def run_next(self) -> bool:
        """Claim and execute one experiment; return False if none is open or the worker should stop.

        Raises
        ------
        TooManyErrorsError
            If too many experiments failed in a row.
        ResultsInJournalError
            If the database could not be reached for too long.
        """
        self.store.raise_if_journaled()
        most = self._execution.stop_after_errors
        if most and self._errors >= most:
            raise too_many_errors(most)
        if self._claimed is None:
            self._turns.wait(lambda: self._watch.stop.requested or not self._budget.seconds_left())
        may_be_open = True
        while not self._watch.stop.requested and not self._is_time_up():
            if may_be_open:
                experiment, self._claimed = self._claimed or self.store.claim(*self._next), None
                if experiment is not None:
                    self.run(experiment)
                    return True
            self._turns.end()
            seconds = self._watch.look(self._task.selection, self._task.wait)
            if seconds is None:
                break
            may_be_open = seconds == 0
            self._watch.stop.wait(min(seconds, self._budget.seconds_left()))
        if self._claimed is not None or self.store.in_doubt:
            self.release_all(self._watch.stop.cause)  # it has not begun
        return False

    def run(self, experiment: Experiment) -> None:
        """Execute a claimed experiment and record its outcome.

        An exception in the user's function is a result. Only the KeyboardInterrupt of a signal is raised, after the row
        was released.
        """
        self._watch.claimed(experiment.attempt)
        self._logger.debug("experiment %s starts: %s", experiment.id, experiment.keyfields)
        processor = ResultProcessor(
            self.store, experiment.attempt, self._task.logging, self._should_stop, experiment.keyfields
        )
        emissions = self._emissions_meter()
        left_running = LeftRunning()
        usage = Meter()
        outcome, error, results, retries = ExperimentStatus.DONE, None, None, 0
        try:
            with restored(), emissions or nullcontext():
                returned = self._task.function(dict(experiment.keyfields), processor, copies(self._task.config.custom))
            outcome, results = interpret(returned)
        except BaseException as raised:
            if isinstance(raised, KeyboardInterrupt) and self._watch.stop.interrupted:
                with self._log_lost_claim(experiment):
                    self.store.release(
                        experiment.attempt, usage.usage(), self._watch.returned(), self._watch.stop.cause
                    )
                self._watch.ended(failed=False, resultless=False)
                raise
            outcome, error = ExperimentStatus.ERROR, user_traceback(raised)
            retries = self._execution.retries if self._should_retry(raised) else 0
        if os.getpid() != self.info.pid:
            os._exit(1)  # the function forked; this child process must not go on as a worker
        self._end_what_runs(left_running, experiment)
        failed, resultless = outcome is ExperimentStatus.ERROR, False
        with self._log_lost_claim(experiment):
            measured = None if emissions is None else emissions.measured
            failed = self._finish(experiment, outcome, error, usage, results, retries, measured)
            resultless = outcome is ExperimentStatus.DONE and not (failed or results or processor._has_results)
        self._errors = self._errors + 1 if failed else 0
        self._executed += 1
        self._resultless += resultless
        self._watch.ended(failed, resultless)

    @property
    def _next(self) -> Claim:
        return Claim(self.info, self._task.selection)

    def _claim_after(self, outcome: ExperimentStatus) -> Claim | None:
        """Return what to claim when an experiment ends; None if this worker may not go on then."""
        most = self._execution.stop_after_errors
        too_many = outcome is ExperimentStatus.ERROR and most and self._errors + 1 >= most
        stops = too_many or self._watch.stop.requested or self._budget.refusal() is not None
        may_claim = self._claims_ahead and not stops and not self._is_finished(1)
        return self._next if may_claim and not self._turns.are_over() else None

    def _is_used_up(self, more: int = 0) -> bool:
        """Return whether a fresh process should go on in place of this one, perhaps after more experiments."""
        return self._watch.in_own_process and (
            self._left_threads or self._executed + more == self._execution.experiments_per_process
        )

    def _is_finished(self, more: int = 0) -> bool:
        """Return whether this process should execute nothing more, perhaps after more experiments."""
        return self._executed + more == self._task.limit or self._is_used_up(more)

    def _end_what_runs(self, left: LeftRunning, experiment: Experiment) -> None:
        """End what an experiment has left running: processes now, and threads with this process; or warn of it."""
        alone = self._watch.in_own_process
        threads, processes = left.threads(), left.end_processes() if alone else list(left.processes().values())
        self._left_threads = bool(threads)
        if threads or processes:
            remedy = "ended" if alone else "it may disturb the experiments that follow"
            names = ", ".join(threads + processes)
            self._logger.warning("experiment %s left running: %s; %s", experiment.id, names, remedy)

    def cause_of(self, error: BaseException) -> str:
        """Return why this worker releases its experiments when this exception stops it."""
        stop = self._watch.stop
        return stop.cause if stop.requested else f"{stop.cause} by {type(error).__name__}: {error}".rstrip(": ")

    def release_all(self, cause: str) -> None:
        """Release all experiments that this worker still holds."""
        self.store.give_up_soon()
        try:
            # With entries left in the journal, the database cannot be reached, and they belong to held experiments.
            for experiment_id in self.store.release_worker(self.info.identity, cause) if self.store.caught_up() else []:
                self._logger.warning("experiment %s was released: %s", experiment_id, cause)
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
        emissions: Mapping[str, Any] | None,
    ) -> bool:
        """Record the outcome; return whether it is an error."""
        used, output = usage.usage(), self._watch.returned()
        self._turns.ran(used.wall_seconds or 0.0)
        if emissions:
            self._write_emissions(experiment, emissions)
        written = Written()
        try:
            claim = self._claim_after(outcome)
            written = self.store.finish(experiment.attempt, outcome, error, used, results, output, retries, claim)
        except Exception as problem:
            # The function returned an invalid result, the table's encoding lacks characters of the traceback, or the
            # database refuses the results for a reason of its own.
            refused = isinstance(problem, InvalidValueError)
            refused |= isinstance(problem, DatabaseError) and problem.recovery == "none"
            if isinstance(problem, (PyExperimenterError, OSError)) and not refused:
                raise
            error = error or "".join(traceback.format_exception_only(problem))
            error = error.encode("ascii", "backslashreplace").decode()
            outcome = ExperimentStatus.ERROR
            claim = self._claim_after(outcome)
            written = self.store.finish(
                experiment.attempt, outcome, error, used, output=output, retries=retries, claim=claim
            )
        finally:
            self._claimed = written.claimed
            if error is not None:
                self._log_failure(experiment, error, written.attempts_left)
        return outcome is ExperimentStatus.ERROR

    def _log_failure(self, experiment: Experiment, error: str, attempts_left: int) -> None:
        from pyexperimenter.tracebacks import cause_of, kind_of, without_details

        known = failure(kind_of(error), without_details(cause_of(error)))
        if attempts_left:
            left = f"{attempts_left} {'attempt is' if attempts_left == 1 else 'attempts are'} left"
            message = "experiment %s failed, and is open again; %s:\n%s"
            self._logger.warning(message, experiment.id, left, error, extra=known)
        else:
            self._logger.error("experiment %s failed:\n%s", experiment.id, error, extra=known)

    @contextmanager
    def _log_lost_claim(self, experiment: Experiment) -> Iterator[None]:
        try:
            yield
        except ClaimLostError as lost:
            self._logger.warning("the outcome of experiment %s was not recorded: %s", experiment.id, lost)

    def _should_stop(self) -> bool:
        return self._watch.stop.requested or not self._watch.holds()

    def _is_time_up(self) -> bool:
        refusal = self._budget.refusal()
        if refusal is not None:
            self._logger.warning("this worker starts no more experiments: %s", refusal)
        return refusal is not None

    def _should_retry(self, error: BaseException) -> bool:
        """Return whether the configuration allows a retry after an exception of this class or its base classes."""
        names = {name for cls in type(error).__mro__ for name in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")}
        included = names & set(self._execution.retry_on) or not self._execution.retry_on
        return bool(included) and not names & set(self._execution.no_retry_on)

    def _emissions_meter(self) -> EmissionsMeter | None:
        if self._task.codecarbon is None:
            return None
        from pyexperimenter.execution.emissions import EmissionsMeter

        return EmissionsMeter(self._task.codecarbon, self._logger)

    def _write_emissions(self, experiment: Experiment, measured: Mapping[str, Any]) -> None:
        try:
            self.store.write_emissions(experiment.attempt, measured)
        except Exception as error:  # a failed measurement must not fail the experiment
            self._logger.warning("the emissions of experiment %s were not written: %s", experiment.id, error)


def copies(custom: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the custom fields for one run, all but what cannot be copied."""
    copied = {}
    for name, value in custom.items():
        try:
            copied[name] = copy.deepcopy(value)
        except Exception:
            copied[name] = value
    return copied


def too_many_errors(count: int) -> TooManyErrorsError:
    """Return the error for a worker that stops because of its errors."""
    errors = "1 error" if count == 1 else f"{count} errors in a row"
    return TooManyErrorsError(
        f"the worker stopped after {errors}, to spare the remaining experiments; look at the errors, fix the cause and "
        "call reset_experiments('error'), or raise stop_after_errors (0: never stop)"
    )


def interpret(returned: Any) -> tuple[ExperimentStatus, Mapping[str, Any] | None]:
    """Return the status and the results that the function's return value means."""
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
