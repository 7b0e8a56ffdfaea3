"""Every error that the library raises; ``except PyExperimenterError`` catches them all.

A message names the place, the offending value and the remedy::

    PyExperimenterError
    ├── ConfigError
    │   ├── NoConfigFileError (FileNotFoundError)
    │   └── InvalidConfigError
    │       ├── UnknownKeyError
    │       ├── DuplicateKeyError
    │       ├── MissingKeyError
    │       ├── InvalidTypeError
    │       ├── InvalidNameError
    │       │   ├── DuplicateNameError
    │       │   ├── ReservedNameError
    │       │   └── NameTooLongError
    │       ├── InvalidValuesInConfiguration
    │       │   ├── EmptyDomainError
    │       │   ├── InvalidRangeError
    │       │   └── ContradictoryConditionError
    │       ├── InvalidCredentialsError
    │       └── MissingLogTableError
    ├── ParameterCombinationError
    │   └── InvalidRowError
    ├── DatabaseError
    │   ├── DatabaseConnectionError
    │   │   ├── ServerUnreachableError
    │   │   ├── AccessDeniedError
    │   │   └── MissingDatabaseError
    │   ├── DatabaseCreationError
    │   ├── DatabaseQueryError
    │   │   ├── TransientDatabaseError
    │   │   ├── ReadOnlyDatabaseError
    │   │   ├── DatabaseFullError
    │   │   ├── DatabaseLimitError
    │   │   ├── MissingTableError
    │   │   └── UndecodableValueError
    │   ├── SshTunnelError
    │   ├── EmptyFillDatabaseCallError
    │   ├── CreatingTableError
    │   │   ├── TableHasWrongStructureError
    │   │   └── DuplicateExperimentsError
    │   ├── InvalidResultFieldError
    │   └── InvalidLogFieldError
    │       └── InvalidLogtableError
    ├── InvalidValueError
    ├── InvalidColumnError
    ├── CopyError
    ├── InvalidExperimentError
    │   └── ExperimentExistsError
    ├── ClaimLostError
    ├── ExecutionError
    │   ├── ExperimentFunctionError
    │   ├── FunctionNotPicklableError
    │   ├── WorkerProcessError
    │   ├── TooManyErrorsError
    │   ├── SmokeTestError
    │   ├── ResultsInJournalError
    │   └── JournalError
    ├── SubmissionError
    ├── NoExperimentsLeftException
    └── NoPausedExperimentsException

The names from `py-experimenter` 1.4 are kept, so ``except`` clauses written for it still work.
"""

from __future__ import annotations

from typing import Literal

_Recovery = Literal["none", "repair", "wait", "retry"]


class PyExperimenterError(Exception):
    """Base class of all errors that this library raises on purpose."""


class ConfigError(PyExperimenterError):
    """The configuration file or the credential file cannot be used."""


class NoConfigFileError(ConfigError, FileNotFoundError):
    """There is no configuration file at the given path."""

    def __str__(self) -> str:
        # FileNotFoundError formats (errno, text) pairs; here there is only a message.
        return str(self.args[0]) if self.args else ""


class InvalidConfigError(ConfigError):
    """The configuration could be read, but something in it is wrong.

    Attributes
    ----------
    path : tuple of str or int
        Keys that lead to the problem, from the section ``table`` or from the root. May be empty.
    """

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str | int, ...]]]:
        return type(self), (str(self), self.path)  # errors travel between processes by pickle


class UnknownKeyError(InvalidConfigError):
    """A key is not known in its section. The message suggests the closest one that is."""


class DuplicateKeyError(InvalidConfigError):
    """A key is given twice in one section."""


class MissingKeyError(InvalidConfigError):
    """A required key is missing."""


class InvalidTypeError(InvalidConfigError):
    """A configuration value has the wrong type."""


class InvalidNameError(InvalidConfigError):
    """A table or column name that databases do not accept, or that cannot be quoted safely."""


class DuplicateNameError(InvalidNameError):
    """Two columns of a table would have the same name. Case does not distinguish columns."""


class ReservedNameError(InvalidNameError):
    """A name that the library uses for its own columns or tables."""


class NameTooLongError(InvalidNameError):
    """A name is longer than the database allows."""


class InvalidValuesInConfiguration(InvalidConfigError):
    """The values given for a keyfield are not a valid domain."""


class EmptyDomainError(InvalidValuesInConfiguration):
    """The domain of a keyfield is empty."""


class InvalidRangeError(InvalidValuesInConfiguration):
    """A range is infinite or undefined: a step of 0, a log scale that includes 0, ..."""


class ContradictoryConditionError(InvalidValuesInConfiguration):
    """A condition that no row of the grid can meet, or conditions that depend on each other."""


class InvalidCredentialsError(InvalidConfigError):
    """The credential file or the environment does not say how to reach the database."""


class MissingLogTableError(InvalidConfigError):
    """A logtable is declared without columns."""


class ParameterCombinationError(PyExperimenterError):
    """Parameters cannot be combined into rows of this table."""


class InvalidRowError(ParameterCombinationError):
    """A row given to a fill is not valid. Nothing was written."""


class DatabaseError(PyExperimenterError):
    """An error of the database, or of the connection to it.

    Attributes
    ----------
    recovery : {"none", "repair", "wait", "retry"}
        When the same statement may succeed: never, as far as is known; once someone has fixed the cause, such as a
        full disk; once the server is back, which workers wait for; or at once, at a second try. Unless it is
        ``"none"``, workers keep in a journal what they could not write.
    """

    recovery: _Recovery = "none"


class DatabaseConnectionError(DatabaseError):
    """A connection to the database could not be opened."""

    recovery: _Recovery = "repair"


class ServerUnreachableError(DatabaseConnectionError):
    """No server answers at the given address."""

    recovery: _Recovery = "wait"


class AccessDeniedError(DatabaseConnectionError):
    """The server rejected the user or the password, or the user lacks a privilege."""


class MissingDatabaseError(DatabaseConnectionError):
    """The server has no database of this name, or there is no such SQLite file."""


class DatabaseCreationError(DatabaseError):
    """The database could not be created."""


class DatabaseQueryError(DatabaseError):
    """A statement failed."""


class TransientDatabaseError(DatabaseQueryError):
    """A statement failed for a reason that may pass: a deadlock, a lock timeout, a lost connection."""

    recovery: _Recovery = "retry"


class ReadOnlyDatabaseError(DatabaseQueryError):
    """The database is read-only."""

    recovery: _Recovery = "repair"


class DatabaseFullError(DatabaseQueryError):
    """The database has run out of space. Everything committed before is intact."""

    recovery: _Recovery = "repair"


class DatabaseLimitError(DatabaseQueryError):
    """A table, a row or a statement is larger than the database allows."""


class MissingTableError(DatabaseQueryError):
    """The table does not exist yet."""


class UndecodableValueError(DatabaseQueryError):
    """A stored value does not fit its column's declared type, perhaps after an edit by hand."""


class SshTunnelError(DatabaseError):
    """The SSH tunnel could not be opened."""

    recovery: _Recovery = "wait"


class EmptyFillDatabaseCallError(DatabaseError):
    """A fill was called without rows."""


class CreatingTableError(DatabaseError):
    """The table could not be created."""


class TableHasWrongStructureError(CreatingTableError):
    """The existing table differs from the configuration. The message lists every difference."""


class DuplicateExperimentsError(CreatingTableError):
    """The existing table has rows with equal keyfields, which cannot be distinguished."""


class InvalidResultFieldError(DatabaseError):
    """A result was reported for a name that is not a resultfield."""


class InvalidLogFieldError(DatabaseError):
    """A log was reported for a logtable or column that the configuration does not declare."""


class InvalidLogtableError(InvalidLogFieldError):
    """The configuration does not declare this logtable."""


class InvalidValueError(PyExperimenterError):
    """A value does not fit the declared type of its field, or an argument is not valid."""


class InvalidColumnError(PyExperimenterError):
    """The table does not have this column."""


class CopyError(PyExperimenterError):
    """A study cannot be copied, or the copy is not like the original."""


class InvalidExperimentError(PyExperimenterError):
    """The experiment does not exist, or its status does not allow the operation."""


class ExperimentExistsError(InvalidExperimentError):
    """An experiment with these keyfields already exists and is not open."""


class ClaimLostError(PyExperimenterError):
    """The attempt no longer holds its experiment, which was reset, released or taken over."""


class ExecutionError(PyExperimenterError):
    """A worker could not continue. A failed experiment does not raise this."""


class ExperimentFunctionError(ExecutionError):
    """The experiment function cannot be imported, or cannot be called with what an experiment passes."""


class FunctionNotPicklableError(ExecutionError):
    """The experiment function cannot be pickled, so it cannot be sent to another process."""


class WorkerProcessError(ExecutionError):
    """The processes of a worker end before they execute anything."""


class TooManyErrorsError(ExecutionError):
    """Too many experiments failed in a row (``stop_after_errors``)."""


class SmokeTestError(ExecutionError):
    """Some of the few experiments that were to be executed before all others have failed."""


class ResultsInJournalError(ExecutionError):
    """The database stayed unavailable. What could not be written is kept in a journal file."""


class JournalError(ExecutionError):
    """The database was unavailable, and the journal could not be written either."""


class SubmissionError(PyExperimenterError):
    """Workers could not be submitted to a cluster."""


class NoExperimentsLeftException(PyExperimenterError):
    """There is no open experiment."""


class NoPausedExperimentsException(PyExperimenterError):
    """There is no paused experiment with this ID."""
