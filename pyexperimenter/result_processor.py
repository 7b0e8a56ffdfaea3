"""What the user's function is handed to write with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyexperimenter.database.records import Attempt
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.logger import LogSettings


class ResultProcessor:
    """Writes results and logs of one execution of an experiment, as long as that execution holds it.

    Made by the library; the user's function gets one as its second argument.

    Parameters
    ----------
    store : ExperimentStore
        The experiments.
    attempt : Attempt
        The execution that writes.
    logging : LogSettings
        Where `log` gets its level from.
    is_to_end : callable
        Tells whether the execution is asked to end.
    """

    def __init__(
        self,
        store: ExperimentStore,
        attempt: Attempt,
        logging: LogSettings = LogSettings(),  # noqa: B008 - frozen
        is_to_end: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._attempt = attempt
        self._logging = logging
        self._is_to_end = is_to_end

    def __repr__(self) -> str:
        return f"<ResultProcessor of experiment {self.experiment_id}>"

    @property
    def experiment_id(self) -> int:
        """ID of the experiment's row."""
        return self._attempt.experiment_id

    @property
    def stop_requested(self) -> bool:
        """Whether the function is asked to come to an end: its worker is to stop, or the experiment was taken from it.

        A function that runs for long looks here now and then, saves what it has and returns, for example
        ``ExperimentStatus.PAUSED``. If it goes on, it is stopped when the configuration's ``grace`` is over, and the
        experiment is open again.
        """
        return self._is_to_end()

    @property
    def log(self) -> logging.Logger:
        """A logger whose messages go where the function's prints go: into ``output`` of the attempt, if supervised."""
        return self._logging.experiment_logger()

    def process_results(self, results: Mapping[str, Any]) -> None:
        """Write values of resultfields. May be called several times, with some of them each.

        Parameters
        ----------
        results : Mapping of str to object
            Resultfield -> value. Scalars of numpy and torch are unwrapped, dicts and lists written as JSON, NaN
            as NULL.

        Raises
        ------
        InvalidResultFieldError
            If a name is no resultfield. The others are written all the same.
        InvalidValueError
            If a value does not fit the declared type. The others are written all the same.
        ClaimLostError
            If the experiment was reset or taken over meanwhile; the row is left as it is.
        """
        self._store.write_results(self._attempt, results)

    def process_logs(self, logs: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> None:
        """Append rows to logtables.

        Parameters
        ----------
        logs : Mapping of str to mapping, or sequence of mappings
            Logtable -> {column: value}; a list of such mappings writes as many rows at once. The time is added;
            what is handed in is not changed.

        Raises
        ------
        InvalidLogtableError
            If there is no such logtable.
        InvalidLogFieldError
            If the logtable has no such column.
        InvalidValueError
            If a value does not fit the declared type. Nothing of this call is written then.
        ClaimLostError
            If the experiment was reset or taken over meanwhile.
        """
        self._store.write_logs(self._attempt, logs)


class PrintingResultProcessor(ResultProcessor):
    """Prints what it is given instead of writing it; what is wrong with it is told all the same."""

    def process_results(self, results: Mapping[str, Any]) -> None:
        """Print values of resultfields."""
        for name, value in self._store.check_results(results).items():
            print(f"{name} = {value!r}")

    def process_logs(self, logs: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> None:
        """Print rows of logtables."""
        for name, (columns, rows) in self._store.encode_logs(logs).items():
            for row in rows:
                values = zip(columns, row, strict=True)
                print(f"{name}: {', '.join(f'{column} = {value!r}' for column, value in values)}")
