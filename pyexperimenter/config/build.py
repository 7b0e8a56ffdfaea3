"""Check a document and turn it into an `ExperimentConfig`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from pydantic import ValidationError

from pyexperimenter.config import names, schema
from pyexperimenter.config.credentials import credentials_of
from pyexperimenter.config.document import Document
from pyexperimenter.config.domains import design_of, grid_of, replication_of, requirements_of
from pyexperimenter.config.interpolation import ENVIRONMENT, interpolate
from pyexperimenter.config.messages import KeyPath, nearest, problems_of, within
from pyexperimenter.config.model import (
    FILE_COLUMNS,
    FILES,
    AnalysisConfig,
    DatabaseConfig,
    ExecutionConfig,
    ExperimentConfig,
    PrimaryConfig,
    TableConfig,
)
from pyexperimenter.exceptions import (
    DuplicateKeyError,
    DuplicateNameError,
    InvalidConfigError,
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    MissingKeyError,
    UnknownKeyError,
)
from pyexperimenter.fieldtypes import FieldType
from pyexperimenter.paths import absolute_path

_ROOT = "PY_EXPERIMENTER"
_TABLE: KeyPath = (_ROOT, "Database", "table")


@dataclass(frozen=True)
class Overrides:
    """Settings of the caller that take precedence over the file; None leaves them to the file."""

    table_name: str | None = None
    database_name: str | None = None
    use_ssh_tunnel: bool | None = None
    provider: str | None = None


def build_config(
    document: Document, credentials_path: str | PathLike[str] | None, overrides: Overrides
) -> ExperimentConfig:
    """Return the configuration in a document.

    Raises
    ------
    InvalidConfigError
        If something in it is wrong. The message starts with file, line and key path.
    """
    for problem in document.warnings:
        _warn_of(problem, document)
    with _located(document):
        experiment = _validated(document)
        if "database" in experiment.database.table.model_fields_set:
            text = "ignored: the key 'database' around the table names the database"
            _warn_of(UnknownKeyError(text, (*_TABLE, "database")), document)
        logtables = _logtables(experiment)
        table = _table(experiment.database.table, overrides.table_name)
        execution = _execution(experiment.execution)
        analysis = _analysis(experiment.analysis, table.keyfields, table.resultfields)
        provider = overrides.provider or experiment.database.provider
        use_ssh_tunnel = _use_ssh_tunnel(experiment.database, overrides.use_ssh_tunnel)
        name = overrides.database_name or experiment.database.database
    database = database_config(provider, name, credentials_path, use_ssh_tunnel)
    files = experiment.database.files
    folder = absolute_path(f"{database.database}.files" if files is True else files) / table.name if files else None
    return ExperimentConfig(
        source=document.source,
        text=document.text,
        n_jobs=experiment.n_jobs,
        database=database,
        table=table,
        logtables=logtables,
        files=None if folder is None else str(folder),
        execution=execution,
        cluster=experiment.cluster,
        custom=experiment.custom,
        codecarbon=experiment.codecarbon,
        analysis=analysis,
    )


def _warn_of(problem: InvalidConfigError, document: Document) -> None:
    # Level 6 is the caller of PyExperimenter(...).
    warnings.warn(str(document.locate(problem)), stacklevel=6)


@contextmanager
def _located(document: Document) -> Iterator[None]:
    try:
        yield
    except InvalidConfigError as error:
        raise document.locate(error) from error.__cause__


def _validated(document: Document) -> schema.Experiment:
    if document.data is None:
        raise MissingKeyError(f"the file is empty; start with the key {_ROOT}")
    data = interpolate(document.data, ENVIRONMENT)
    try:
        return schema.ConfigFile.model_validate(data).experiment
    except ValidationError as error:
        problems = problems_of(error)
    raise document.first(problems)


def _table(table: schema.Table, name: str | None) -> TableConfig:
    if name is None:
        names.check_name(table.name, (*_TABLE, "name"))
    else:
        names.check_name(name, ("table_name",))
    resultfields, result_timestamps = dict(table.resultfields), _result_timestamps(table)
    with within(*_TABLE):
        names.check_table_columns(table.keyfields, resultfields, result_timestamps)
        grid = grid_of(table)
        return TableConfig(
            name=table.name if name is None else name,
            keyfields={keyfield: table.keyfield(keyfield).type for keyfield in table.keyfields},
            resultfields=resultfields,
            result_timestamps=result_timestamps,
            grid=grid,
            design=design_of(table),
            replicate=replication_of(table, grid),
            requires=requirements_of(table),
        )


def _result_timestamps(table: schema.Table) -> bool:
    if table.resultfields_timestamps is None:
        return table.result_timestamps
    if "result_timestamps" in table.model_fields_set:
        path = (*_TABLE, "resultfields.timestamps")
        raise DuplicateKeyError("this is the name of result_timestamps in INI files; delete one of the two", path)
    # Level 7 is the caller of PyExperimenter(...).
    warnings.warn(
        "resultfields.timestamps is deprecated; write result_timestamps instead", DeprecationWarning, stacklevel=7
    )
    return table.resultfields_timestamps


def _logtables(experiment: schema.Experiment) -> dict[str, dict[str, FieldType]]:
    """Return the logtables: from the section Database, as in py-experimenter, or from the section around it."""
    inner, outer = experiment.database.logtables, experiment.logtables
    if inner and outer:
        raise DuplicateKeyError(
            "there are logtables here and in the section Database; put them in one place", (_ROOT, "logtables")
        )
    with within(_ROOT, *(["logtables"] if outer else ["Database", "logtables"])):
        names.check_logtables((inner or outer).items())
    logtables = {name: dict(columns) for name, columns in (inner or outer).items()}
    if experiment.database.files:
        if any(name.casefold() == FILES for name in logtables):
            raise DuplicateNameError(
                f"the files of the runs are in the logtable {FILES}, and there is another one of this name; rename it",
                (_ROOT, "Database", "files"),
            )
        logtables[FILES] = dict(FILE_COLUMNS)
    return logtables


def _execution(section: schema.Execution) -> ExecutionConfig:
    if section.lease <= section.heartbeat:
        raise InvalidTypeError(
            f"lease is {section.lease:g} s and heartbeat {section.heartbeat:g} s, so every worker would soon count as "
            "dead; make the lease several heartbeats long",
            (_ROOT, "Execution", "lease" if "lease" in section.model_fields_set else "heartbeat"),
        )
    return ExecutionConfig(**dict(section))


def _analysis(section: schema.Analysis, keyfields: Iterable[str], resultfields: Iterable[str]) -> AnalysisConfig:
    for name in section.unit:
        if name not in keyfields and name != "seed":
            raise UnknownKeyError(
                f"{name!r} is not a keyfield{nearest(name, keyfields)} (choose from {', '.join(keyfields)})",
                (_ROOT, "Analysis", "unit"),
            )
    primary = None if section.primary is None else _primary(section.primary, keyfields, resultfields)
    if section.resampling is None:
        return AnalysisConfig(section.unit, primary=primary)
    path = (_ROOT, "Analysis", "resampling")
    if not section.unit:
        raise MissingKeyError("the unit is missing; say which keyfield is split, as in unit: dataset", path)
    if not 0 < section.resampling.test < 1:
        raise InvalidTypeError(
            f"{section.resampling.test} is not a share between 0 and 1; for 30 % of the data, write 0.3",
            (*path, "test"),
        )
    return AnalysisConfig(section.unit, float(section.resampling.test), primary)


def _primary(section: schema.Primary, keyfields: Iterable[str], resultfields: Iterable[str]) -> PrimaryConfig:
    path, better = (_ROOT, "Analysis", "primary"), section.better
    aims = dict.fromkeys(section.value, better) if isinstance(better, str) else better

    def check(key: str, wanted: Iterable[str], known: Iterable[str], what: str) -> None:
        for name in wanted:
            if name not in known:
                raise UnknownKeyError(
                    f"{name!r} is not a {what}{nearest(name, known)} (choose from {', '.join(known)})", (*path, key)
                )

    check("value", section.value, resultfields, "resultfield")
    check("by", [section.by], keyfields, "keyfield")
    check("blocks", section.blocks, keyfields, "keyfield")
    check("over", section.over, [*keyfields, "seed"], "keyfield")
    check("better", aims, section.value, "value of this test")
    for name in section.value:
        if name not in aims:
            raise MissingKeyError(f"it is not known what is better; add {name}: max or {name}: min", (*path, "better"))
    return PrimaryConfig(**{**dict(section), "better": tuple(aims[name] for name in section.value)})


def _use_ssh_tunnel(section: schema.Database, override: bool | None) -> bool:
    if section.use_ssh is not None and section.use_ssh_tunnel is not None:
        path = (_ROOT, "Database", "use_ssh")
        raise DuplicateKeyError("use_ssh is the old name of use_ssh_tunnel; delete one of the two", path)
    if section.use_ssh is not None:
        # Level 6 is the caller of PyExperimenter(...).
        warnings.warn("use_ssh is deprecated; write use_ssh_tunnel instead", DeprecationWarning, stacklevel=6)
    return bool(section.use_ssh_tunnel or section.use_ssh) if override is None else override


def database_config(
    provider: str, name: str, credentials_path: str | PathLike[str] | None, use_ssh_tunnel: bool
) -> DatabaseConfig:
    """Return where a database is, with the errors of `load_database`."""
    # SQLite needs no credentials, so a credential file is ignored, even if it is broken.
    if provider == "sqlite":
        return DatabaseConfig(provider, _sqlite_file(name))
    port = schema.PORTS.get(provider)
    if port is None:
        raise InvalidValueError(f"provider: {provider!r} is unknown; choose from sqlite, {', '.join(schema.PORTS)}")
    credentials = credentials_of(credentials_path, use_ssh_tunnel, port)
    return DatabaseConfig(provider, name, credentials, use_ssh_tunnel)


def _sqlite_file(database: str) -> str:
    if Path(database).name in ("", ".."):
        raise InvalidNameError(f"database: {database!r} is a directory; give the path of a file")
    path = absolute_path(database)  # workers may be started in another directory
    with_suffix = path.with_name(f"{path.name}.db")  # as py-experimenter called it, also that of "study_v1.2"
    return str(with_suffix if not path.suffix or (with_suffix.exists() and not path.exists()) else path)
