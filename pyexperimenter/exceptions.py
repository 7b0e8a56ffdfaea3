"""Every error of the library, so that one ``except PyExperimenterError`` catches them all.

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
    ├── InvalidExperimentError
    │   └── ExperimentExistsError
    ├── ClaimLostError
    ├── ExecutionError
    │   ├── ExperimentFunctionError
    │   ├── FunctionNotPicklableError
    │   ├── WorkerProcessError
    │   ├── TooManyErrorsError
    │   ├── ResultsInJournalError
    │   └── JournalError
    ├── SubmissionError
    ├── NoExperimentsLeftException
    └── NoPausedExperimentsException

The names that `py-experimenter` 1.4 had are kept, so that ``except`` clauses written for it still work.
"""

from __future__ import annotations


class PyExperimenterError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(PyExperimenterError):
    """The configuration or credential file cannot be used."""


class NoConfigFileError(ConfigError, FileNotFoundError):
    """There is no configuration file at the given path."""

    def __str__(self) -> str:
        # FileNotFoundError formats (errno, text) pairs; here there is only a message.
        return str(self.args[0]) if self.args else ""


class InvalidConfigError(ConfigError):
    """A configuration file was read, but something in it is wrong.

    Attributes
    ----------
    path : tuple of str or int
        Where in the configuration, as keys from the section ``table`` or the root on; may be empty.
    """

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str | int, ...]]]:
        return type(self), (str(self), self.path)  # errors travel between processes by pickle


class UnknownKeyError(InvalidConfigError):
    """A key that no section knows; the message names the nearest known one."""


class DuplicateKeyError(InvalidConfigError):
    """A key stands twice in one section."""


class MissingKeyError(InvalidConfigError):
    """A key that has to be there is not."""


class InvalidTypeError(InvalidConfigError):
    """A configuration value has the wrong type."""


class InvalidNameError(InvalidConfigError):
    """A table or column name that no database would take, or that would not survive quoting."""


class DuplicateNameError(InvalidNameError):
    """Two columns of one table would have the same name (letter case does not tell columns apart)."""


class ReservedNameError(InvalidNameError):
    """A name that the library's own columns or tables have."""


class NameTooLongError(InvalidNameError):
    """A name longer than the database allows."""


class InvalidValuesInConfiguration(InvalidConfigError):
    """The values given for a keyfield make no domain."""


class EmptyDomainError(InvalidValuesInConfiguration):
    """A keyfield's domain has no values."""


class InvalidRangeError(InvalidValuesInConfiguration):
    """A range that never ends or cannot be computed: step 0, a log scale through 0, ..."""


class ContradictoryConditionError(InvalidValuesInConfiguration):
    """A condition that no row of the grid can ever meet, or conditions that wait for each other."""


class InvalidCredentialsError(InvalidConfigError):
    """The credential file (or environment) does not tell how to reach the database."""


class MissingLogTableError(InvalidConfigError):
    """A logtable is named but its columns are not given."""


class ParameterCombinationError(PyExperimenterError):
    """Parameters that cannot be combined to rows of this table."""


class InvalidRowError(ParameterCombinationError):
    """A row handed in for filling is refused; nothing was written."""


class DatabaseError(PyExperimenterError):
    """Something went wrong in or on the way to the database."""


class DatabaseConnectionError(DatabaseError):
    """The database could not be reached."""


class ServerUnreachableError(DatabaseConnectionError):
    """No server answers at the given address."""


class AccessDeniedError(DatabaseConnectionError):
    """The server refused the user or the password."""


class MissingDatabaseError(DatabaseConnectionError):
    """The server has no database of that name."""


class DatabaseCreationError(DatabaseError):
    """The database could not be created."""


class DatabaseQueryError(DatabaseError):
    """A statement failed."""


class TransientDatabaseError(DatabaseQueryError):
    """A statement failed in a way that a second try may mend: deadlock, lock timeout, lost connection."""


class ReadOnlyDatabaseError(DatabaseQueryError):
    """The database may only be read."""


class DatabaseFullError(DatabaseQueryError):
    """The database has no room left; what was committed before is intact."""


class MissingTableError(DatabaseQueryError):
    """There is no such table yet."""


class UndecodableValueError(DatabaseQueryError):
    """A column holds a value that its declared type cannot mean (edited by hand, perhaps)."""


class SshTunnelError(DatabaseError):
    """The SSH tunnel could not be opened."""


class EmptyFillDatabaseCallError(DatabaseError):
    """A fill without any rows."""


class CreatingTableError(DatabaseError):
    """The table could not be created."""


class TableHasWrongStructureError(CreatingTableError):
    """The existing table differs from the configuration; every difference is named."""


class DuplicateExperimentsError(CreatingTableError):
    """The existing table holds several rows with equal keyfields, so none can be told apart."""


class InvalidResultFieldError(DatabaseError):
    """A result was reported for something that is not a resultfield."""


class InvalidLogFieldError(DatabaseError):
    """A log was reported for a logtable or column that the configuration does not have."""


class InvalidLogtableError(InvalidLogFieldError):
    """A logtable that the configuration does not have."""


class InvalidValueError(PyExperimenterError):
    """A value that does not fit the declared type of its field."""


class InvalidColumnError(PyExperimenterError):
    """A column that the table does not have."""


class InvalidExperimentError(PyExperimenterError):
    """There is no such experiment, or it is not in a status that allows this."""


class ExperimentExistsError(InvalidExperimentError):
    """An experiment with these keyfields exists already and is not open."""


class ClaimLostError(PyExperimenterError):
    """The attempt no longer holds its experiment: it was reset, released or taken over meanwhile."""


class ExecutionError(PyExperimenterError):
    """A worker could not go on; experiments that failed are no such case."""


class ExperimentFunctionError(ExecutionError):
    """The experiment function that was named cannot be imported."""


class FunctionNotPicklableError(ExecutionError):
    """The experiment function cannot be handed to a process of its own."""


class WorkerProcessError(ExecutionError):
    """The processes of a worker end before they execute anything."""


class TooManyErrorsError(ExecutionError):
    """So many experiments failed in a row that the next ones are not worth the try."""


class ResultsInJournalError(ExecutionError):
    """The database stayed away; what could not be written waits in a journal file to be written later."""


class JournalError(ExecutionError):
    """The database was away, and the journal could not be written either."""


class SubmissionError(PyExperimenterError):
    """Workers could not be submitted to a cluster."""


class NoExperimentsLeftException(PyExperimenterError):
    """There is no open experiment."""


class NoPausedExperimentsException(PyExperimenterError):
    """There is no paused experiment with this ID."""
