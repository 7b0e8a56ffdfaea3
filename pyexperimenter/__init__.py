"""Run large grids of experiments from one config file, with a database as the meeting place of the workers."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "2.0.0.dev0"

if TYPE_CHECKING:
    from pyexperimenter.analysis import Anytime, Audit, Comparison
    from pyexperimenter.cluster.submission import Submission
    from pyexperimenter.dashboard.server import Dashboard
    from pyexperimenter.database.records import FillCount
    from pyexperimenter.exceptions import (
        AccessDeniedError,
        ClaimLostError,
        ConfigError,
        ContradictoryConditionError,
        CopyError,
        CreatingTableError,
        DatabaseConnectionError,
        DatabaseCreationError,
        DatabaseError,
        DatabaseFullError,
        DatabaseLimitError,
        DatabaseQueryError,
        DuplicateExperimentsError,
        DuplicateKeyError,
        DuplicateNameError,
        EmptyDomainError,
        EmptyFillDatabaseCallError,
        ExecutionError,
        ExperimentExistsError,
        ExperimentFunctionError,
        FunctionNotPicklableError,
        InvalidColumnError,
        InvalidConfigError,
        InvalidCredentialsError,
        InvalidExperimentError,
        InvalidLogFieldError,
        InvalidLogtableError,
        InvalidNameError,
        InvalidRangeError,
        InvalidResultFieldError,
        InvalidRowError,
        InvalidTypeError,
        InvalidValueError,
        InvalidValuesInConfiguration,
        JournalError,
        MissingDatabaseError,
        MissingKeyError,
        MissingLogTableError,
        MissingTableError,
        NameTooLongError,
        NoConfigFileError,
        NoExperimentsLeftException,
        NoPausedExperimentsException,
        ParameterCombinationError,
        PyExperimenterError,
        ReadOnlyDatabaseError,
        ReservedNameError,
        ResultsInJournalError,
        ServerUnreachableError,
        SmokeTestError,
        SshTunnelError,
        SubmissionError,
        TableHasWrongStructureError,
        TooManyErrorsError,
        TransientDatabaseError,
        UndecodableValueError,
        UnknownKeyError,
        WorkerProcessError,
    )
    from pyexperimenter.experiment_status import ExperimentStatus
    from pyexperimenter.experimenter import PyExperimenter
    from pyexperimenter.result_processor import ResultProcessor
    from pyexperimenter.study.details import ExperimentDetails
    from pyexperimenter.study.errors import ErrorGroup
    from pyexperimenter.study.groups import ExperimentGroup
    from pyexperimenter.study.status import BlockCounts, StudyStatus, WorkerState

__all__ = [
    "AccessDeniedError",
    "Anytime",
    "Audit",
    "BlockCounts",
    "ClaimLostError",
    "Comparison",
    "ConfigError",
    "ContradictoryConditionError",
    "CopyError",
    "CreatingTableError",
    "Dashboard",
    "DatabaseConnectionError",
    "DatabaseCreationError",
    "DatabaseError",
    "DatabaseFullError",
    "DatabaseLimitError",
    "DatabaseQueryError",
    "DuplicateExperimentsError",
    "DuplicateKeyError",
    "DuplicateNameError",
    "EmptyDomainError",
    "EmptyFillDatabaseCallError",
    "ErrorGroup",
    "ExecutionError",
    "ExperimentDetails",
    "ExperimentExistsError",
    "ExperimentFunctionError",
    "ExperimentGroup",
    "ExperimentStatus",
    "FillCount",
    "FunctionNotPicklableError",
    "InvalidColumnError",
    "InvalidConfigError",
    "InvalidCredentialsError",
    "InvalidExperimentError",
    "InvalidLogFieldError",
    "InvalidLogtableError",
    "InvalidNameError",
    "InvalidRangeError",
    "InvalidResultFieldError",
    "InvalidRowError",
    "InvalidTypeError",
    "InvalidValueError",
    "InvalidValuesInConfiguration",
    "JournalError",
    "MissingDatabaseError",
    "MissingKeyError",
    "MissingLogTableError",
    "MissingTableError",
    "NameTooLongError",
    "NoConfigFileError",
    "NoExperimentsLeftException",
    "NoPausedExperimentsException",
    "ParameterCombinationError",
    "PyExperimenter",
    "PyExperimenterError",
    "ReadOnlyDatabaseError",
    "ReservedNameError",
    "ResultProcessor",
    "ResultsInJournalError",
    "ServerUnreachableError",
    "SmokeTestError",
    "SshTunnelError",
    "StudyStatus",
    "Submission",
    "SubmissionError",
    "TableHasWrongStructureError",
    "TooManyErrorsError",
    "TransientDatabaseError",
    "UndecodableValueError",
    "UnknownKeyError",
    "WorkerProcessError",
    "WorkerState",
    "__version__",
]

# Where a name is defined. Those that are not listed are errors.
_MODULES = {
    "Anytime": "analysis",
    "Audit": "analysis",
    "BlockCounts": "study.status",
    "Comparison": "analysis",
    "Dashboard": "dashboard.server",
    "ErrorGroup": "study.errors",
    "ExperimentDetails": "study.details",
    "ExperimentGroup": "study.groups",
    "ExperimentStatus": "experiment_status",
    "FillCount": "database.records",
    "PyExperimenter": "experimenter",
    "ResultProcessor": "result_processor",
    "StudyStatus": "study.status",
    "Submission": "cluster.submission",
    "WorkerState": "study.status",
}


_SQL = "run SQL with PyExperimenter.execute_custom_query, or read with get_table(where=...)"
_GONE = {
    "pyexperimenter.database_connector": _SQL,
    "pyexperimenter.database_connector_lite": _SQL,
    "pyexperimenter.database_connector_mysql": _SQL,
    "pyexperimenter.utils": "load a configuration with pyexperimenter.config.load_config; the rest is internal",
}


class _Gone:
    """Says what to use instead of modules that py-experimenter had. It is asked last, and finds none."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname in _GONE:
            raise ModuleNotFoundError(f"No module named {fullname!r}, which py-experimenter had; {_GONE[fullname]}")


sys.meta_path.append(_Gone())


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that jobs and commands load only what they need."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'exceptions')}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
