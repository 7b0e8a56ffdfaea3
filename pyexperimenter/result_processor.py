"""The object through which the user's function writes results and logs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyexperimenter.config.model import FILES
from pyexperimenter.database.records import Attempt
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.jsonable import shown
from pyexperimenter.logger import LogSettings
from pyexperimenter.machine.contents import hash_of
from pyexperimenter.predecessor import advising

_LONGEST_NAME = 255  # characters


class ResultProcessor:
    """Writes results and logs of one execution of an experiment, as long as that execution holds it.

    The library creates it and passes it to the user's function as the second argument.
    """

    @advising("the library makes them; to write results outside of execute, call attach(function, experiment_id)")
    def __init__(
        self,
        store: ExperimentStore,
        attempt: Attempt,
        logging: LogSettings = LogSettings(),  # noqa: B008 - frozen
        should_stop: Callable[[], bool] = lambda: False,
        keyfields: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._attempt = attempt
        self._logging = logging
        self._should_stop = should_stop
        self._keyfields = keyfields
        self._has_results = False

    def __repr__(self) -> str:
        return f"<ResultProcessor of experiment {self.experiment_id}>"

    @property
    def experiment_id(self) -> int:
        """ID of the experiment's row."""
        return self._attempt.experiment_id

    @property
    def stop_requested(self) -> bool:
        """Whether the function should stop: its worker is stopping, or the experiment was taken from it.

        A long-running function checks this now and then, saves its state and returns, for example
        ``ExperimentStatus.PAUSED``. If it continues, it is stopped after the configuration's ``grace``, and the
        experiment is open again.
        """
        return self._should_stop()

    @property
    def log(self) -> logging.Logger:
        """A logger that writes to stderr, as part of the attempt's ``output`` if supervised."""
        return self._logging.experiment_logger()

    def block_seed(self, stream: str = "") -> int:
        """Return a seed that all experiments of the same block share: those that are compared with each other.

        Parameters
        ----------
        stream : str
            What the random numbers are for, such as ``"split"`` or ``"initialization"``. The seeds of two streams are
            independent.

        Returns
        -------
        int
            From 0 to 2**32 - 1: a hash of the values of the block's keyfields. It never changes.

        Raises
        ------
        InvalidValueError
            If the table has no design.
        """
        design = self._store.design
        if design is None:
            raise InvalidValueError(
                "block_seed: the table has no design; add one to the configuration, as in "
                "design: {blocks: [dataset, seed]}"
            )
        if self._keyfields is None:
            self._keyfields = self._store.keyfields_of(self.experiment_id)
        from pyexperimenter.grid import block_seed

        return block_seed({name: self._keyfields[name] for name in design.blocks}, stream)

    def process_results(self, results: Mapping[str, Any]) -> None:
        """Write values of resultfields. May be called several times, each time with some of them.

        Parameters
        ----------
        results : Mapping of str to object
            Resultfield -> value. Scalars of numpy and torch are unwrapped, dicts and lists written as JSON, NaN
            as NULL.

        Raises
        ------
        InvalidResultFieldError
            If a name is not a resultfield. The others are written anyway.
        InvalidValueError
            If a value does not fit the declared type. The others are written anyway.
        ClaimLostError
            If the experiment was reset or taken over; its row is not changed.
        """
        self._has_results |= bool(results)
        self._store.write_results(self._attempt, results)

    def process_logs(self, logs: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> None:
        """Append rows to logtables.

        Parameters
        ----------
        logs : Mapping of str to mapping, or sequence of mappings
            Logtable -> {column: value}; a list of such mappings writes several rows at once. The time is added;
            the arguments are not modified.

        Raises
        ------
        InvalidLogtableError
            If a logtable does not exist.
        InvalidLogFieldError
            If a logtable does not have a column of that name.
        InvalidValueError
            If a value does not fit the declared type. This call writes nothing then.
        ClaimLostError
            If the experiment was reset or taken over.
        """
        self._store.write_logs(self._attempt, logs)

    def save_file(self, source: str | os.PathLike[str] | bytes, name: str | None = None) -> str:
        """Keep a file with the experiment, such as a model or a picture.

        It is copied to the folder that the configuration's key ``files`` names, under the hash of its contents, so that
        equal files are kept once. A reset experiment does not lose its files until they are pruned.

        Parameters
        ----------
        source : str, path or bytes
            The path of the file, or its contents.
        name : str, optional
            Its name for readers; by default that of the file.

        Returns
        -------
        str
            The SHA-256 of the contents, in hexadecimal digits.

        Raises
        ------
        InvalidValueError
            If no folder is configured, or the name is missing or longer than 255 characters.
        OSError
            If the file cannot be read or copied. Nothing is left of it then.
        ClaimLostError
            If the experiment was reset or taken over.
        """
        if name is None and not isinstance(source, bytes):
            name = os.path.basename(source)
        if not name or len(name) > _LONGEST_NAME:
            raise InvalidValueError(f"name: {shown(name)} is not a name of 1 to {_LONGEST_NAME} characters")
        digest, size = self._keep(source)
        self.process_logs({FILES: {"name": name, "sha256": digest, "bytes": size, "role": "saved"}})
        return digest

    def uses(self, path: str | os.PathLike[str]) -> str:
        """Record that the experiment depends on a file, such as a data set: its path, hash and size.

        Parameters
        ----------
        path : str or path
            The file.

        Returns
        -------
        str
            The SHA-256 of the contents, in hexadecimal digits.

        Raises
        ------
        InvalidValueError
            If the configuration has no folder for files, with whose names the hash is kept.
        OSError
            If the file cannot be read.
        ClaimLostError
            If the experiment was reset or taken over.
        """
        _ = self._store.contents  # raises if none is configured
        digest, size = hash_of(path)
        name = os.path.abspath(path)[-_LONGEST_NAME:]
        self.process_logs({FILES: {"name": name, "sha256": digest, "bytes": size, "role": "used"}})
        return digest

    def _keep(self, source: str | os.PathLike[str] | bytes) -> tuple[str, int]:
        return self._store.contents.add(source)


class PrintingResultProcessor(ResultProcessor):
    """Prints results and logs instead of writing them. They are checked as usual."""

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

    def _keep(self, source: str | os.PathLike[str] | bytes) -> tuple[str, int]:
        return hash_of(source)
