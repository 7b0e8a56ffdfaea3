"""What the user's function is handed to write with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyexperimenter.database.records import Attempt
from pyexperimenter.database.store import ExperimentStore


class ResultProcessor:
    """Writes results and logs of one execution of an experiment, as long as that execution holds it.

    Made by the library; the user's function gets one as its second argument.

    Parameters
    ----------
    store : ExperimentStore
        The experiments.
    attempt : Attempt
        The execution that writes.
    """

    def __init__(self, store: ExperimentStore, attempt: Attempt) -> None:
        self._store = store
        self._attempt = attempt

    def __repr__(self) -> str:
        return f"<ResultProcessor of experiment {self.experiment_id}>"

    @property
    def experiment_id(self) -> int:
        """ID of the experiment's row."""
        return self._attempt.experiment_id

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
