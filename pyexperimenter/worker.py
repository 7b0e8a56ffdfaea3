"""A worker: claim an open experiment, run the user's function on it, finish; again until nothing is open."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.database.records import Experiment, WorkerInfo
from pyexperimenter.database.selection import Selection
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.emissions import EmissionsMeter
from pyexperimenter.exceptions import ClaimLostError, InvalidResultFieldError, InvalidValueError
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.logs import LogSettings
from pyexperimenter.provenance import Meter, worker_info
from pyexperimenter.result_processor import ResultProcessor

ExperimentFunction = Callable[[dict[str, Any], ResultProcessor, dict[str, Any]], Any]
"""``function(keyfields, result_processor, custom_fields)`` -> None, an ExperimentStatus, or a mapping of results."""

_FINAL = (ExperimentStatus.DONE, ExperimentStatus.ERROR, ExperimentStatus.PAUSED)
_LONGEST_ERROR = 1_000_000  # characters


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker needs to know, wherever it runs.

    Attributes
    ----------
    config : ExperimentConfig
        The experiments.
    function : ExperimentFunction
        The user's function.
    name, identity : str
        As recorded with each attempt; `identity` is unique.
    selection : Selection
        What it may claim.
    limit : int or None
        Most experiments to execute; None for all that are open.
    codecarbon : Mapping or None
        Options of CodeCarbon; None if emissions are not measured.
    logging : LogSettings
        How the library's logger is set up.
    """

    config: ExperimentConfig
    function: ExperimentFunction
    name: str
    identity: str
    selection: Selection = field(default_factory=Selection)
    limit: int | None = None
    codecarbon: Mapping[str, Any] | None = None
    logging: LogSettings = field(default_factory=LogSettings)


@dataclass(frozen=True)
class WorkerReport:
    """How a worker ended: experiments executed, and the exception that stopped it, if one did."""

    executed: int
    stopped_by: BaseException | None = None


def run_worker(task: WorkerTask) -> WorkerReport:
    """Be a worker until nothing is open or the limit is reached.

    Whatever stops it is reported, not raised: joblib would answer an exception by killing the other workers.
    """
    worker = Worker(task)
    executed = 0
    try:
        while task.limit is None or executed < task.limit:
            if not worker.run_next():
                break
            executed += 1
    except BaseException as error:
        worker.release_all()
        return WorkerReport(executed, error)
    return WorkerReport(executed)


class Worker:
    """Executes experiments in this process.

    Parameters
    ----------
    task : WorkerTask
        What to execute.
    """

    def __init__(self, task: WorkerTask) -> None:
        self.store = ExperimentStore(task.config)
        self.info: WorkerInfo = worker_info(task.name, task.identity)
        self._task = task
        self._logger = task.logging.logger()

    def run_next(self) -> bool:
        """Claim and execute one experiment; False if none is open."""
        experiment = self.store.claim(self.info, self._task.selection)
        if experiment is None:
            return False
        self.run(experiment)
        return True

    def run(self, experiment: Experiment) -> None:
        """Execute a claimed experiment and write down how it ended.

        A failure of the user's function is a result. Only KeyboardInterrupt goes on, after the row was released.
        """
        self._logger.debug("experiment %s starts: %s", experiment.id, experiment.keyfields)
        processor = ResultProcessor(self.store, experiment.attempt)
        options = self._task.codecarbon
        meter = nullcontext() if options is None else EmissionsMeter(options, self._logger)
        usage = Meter()
        outcome, error, results = ExperimentStatus.DONE, None, None
        try:
            with meter:
                returned = self._task.function(dict(experiment.keyfields), processor, dict(self._task.config.custom))
            outcome, results = _interpreted(returned)
        except KeyboardInterrupt:
            self._end(experiment, lambda: self.store.release(experiment.attempt, usage.usage()))
            raise
        except (Exception, SystemExit) as raised:
            outcome, error = ExperimentStatus.ERROR, _traceback_of_user(raised)
            self._logger.error("experiment %s failed:\n%s", experiment.id, error)
        self._end(experiment, lambda: self._finish(experiment, outcome, error, usage, results))
        if isinstance(meter, EmissionsMeter) and meter.measured:
            self._write_emissions(experiment, meter.measured)

    def release_all(self) -> None:
        """Give back whatever this worker still holds."""
        try:
            for experiment_id in self.store.release_worker(self.info.identity):
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
    ) -> None:
        try:
            self.store.finish(experiment.attempt, outcome, error, usage.usage(), results)
        except (InvalidResultFieldError, InvalidValueError) as problem:
            # A wrong result in what the function returned; or a table too old for the traceback's letters.
            told = error or "".join(traceback.format_exception_only(problem))
            told = told.encode("ascii", "backslashreplace").decode()
            self._logger.error("experiment %s failed:\n%s", experiment.id, told)
            self.store.finish(experiment.attempt, ExperimentStatus.ERROR, told, usage.usage())

    def _end(self, experiment: Experiment, write: Callable[[], None]) -> None:
        try:
            write()
        except ClaimLostError as lost:
            self._logger.warning("the end of experiment %s was not written: %s", experiment.id, lost)

    def _write_emissions(self, experiment: Experiment, measured: Mapping[str, Any]) -> None:
        try:
            self.store.write_emissions(experiment.id, measured)
        except Exception as error:  # measuring must never cost an experiment
            self._logger.warning("the emissions of experiment %s were not written: %s", experiment.id, error)


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


def _traceback_of_user(error: BaseException) -> str:
    """Format an exception from the user's function on: our own frames say nothing to its author."""
    frames = error.__traceback__
    text = "".join(traceback.format_exception(type(error), error, frames.tb_next if frames else None))
    if len(text) > _LONGEST_ERROR:
        half = _LONGEST_ERROR // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
