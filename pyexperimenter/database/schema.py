"""Configuration -> names, columns and DDL of an experiment's tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pyexperimenter.config.model import ExperimentConfig
from pyexperimenter.database.backends.dialect import Dialect
from pyexperimenter.exceptions import NameTooLongError
from pyexperimenter.fieldtypes import FieldType

SCHEMA_VERSION = 1

_VARCHAR = FieldType.parse("VARCHAR(255)")
_LONGTEXT = FieldType.parse("LONGTEXT")
_DATETIME = FieldType.parse("DATETIME")
_BIGINT = FieldType.parse("BIGINT")
_INT = FieldType.parse("INT")
_DOUBLE = FieldType.parse("DOUBLE")
_BOOL = FieldType.parse("BOOL")
_JSON = FieldType.parse("JSON")

# The columns of py-experimenter around the keyfields and resultfields, in its order.
_BEFORE_RESULTS = {
    "creation_date": _DATETIME,
    "status": _VARCHAR,
    "start_date": _DATETIME,
    "name": _LONGTEXT,
    "machine": _VARCHAR,
}
_AFTER_RESULTS = {"end_date": _DATETIME, "error": _LONGTEXT}
# As py-experimenter declares them. The names are reserved, so no user's field has them.
_WHOLE_SECONDS = {"creation_date", "start_date", "end_date", "timestamp", "codecarbon_timestamp"}

_ATTEMPT_COLUMNS = {
    "number": _INT,
    "run": _INT,
    "worker": _VARCHAR,
    "machine": _VARCHAR,
    "pid": _BIGINT,
    "job_id": _VARCHAR,
    "started": _DATETIME,
    "heartbeat": _DATETIME,
    "lease_until": _DATETIME,
    "ended": _DATETIME,
    "outcome": _VARCHAR,
    "concludes": _BOOL,
    "error": _LONGTEXT,
    "wall_seconds": _DOUBLE,
    "cpu_seconds": _DOUBLE,
    "max_rss_bytes": _BIGINT,
    "git_commit": _VARCHAR,
    "git_dirty": _BOOL,
    "python": _VARCHAR,
    "library_version": _VARCHAR,
    "late_results": _JSON,
    "last_write": _VARCHAR,
    "output": _LONGTEXT,
    "token": _VARCHAR,
}
_META_COLUMNS = {"created": _DATETIME, "schema_version": _INT, "library_version": _VARCHAR, "config": _LONGTEXT}

# As py-experimenter declares them, after `experiment_id`.
CODECARBON_COLUMNS: Mapping[str, FieldType] = {
    "codecarbon_timestamp": _DATETIME,
    **dict.fromkeys(("project_name", "run_id"), _VARCHAR),
    **dict.fromkeys(
        (
            "duration_seconds",
            "emissions_kg",
            "emissions_rate_kg_sec",
            "cpu_power_watt",
            "gpu_power_watt",
            "ram_power_watt",
            "cpu_energy_kw",
            "gpu_energy_kw",
            "ram_energy_kw",
            "energy_consumed_kw",
        ),
        _DOUBLE,
    ),
    **dict.fromkeys(
        (
            "country_name",
            "country_iso_code",
            "region",
            "cloud_provider",
            "cloud_region",
            "os",
            "python_version",
            "codecarbon_version",
        ),
        _VARCHAR,
    ),
    "cpu_count": _DOUBLE,
    "cpu_model": _VARCHAR,
    "gpu_count": _DOUBLE,
    **dict.fromkeys(("gpu_model", "longitude", "latitude"), _VARCHAR),
    "ram_total_size": _DOUBLE,
    **dict.fromkeys(("tracking_mode", "on_cloud"), _VARCHAR),
    "power_usage_efficiency": _DOUBLE,
    "offline_mode": _BOOL,
}


class Schema:
    """The tables of one experiment in one dialect.

    Parameters
    ----------
    config : ExperimentConfig
        The configuration of the study.
    dialect : Dialect
        The SQL of the database.

    Attributes
    ----------
    table, attempts, meta, codecarbon : str
        Names of the tables, unquoted.
    logtables : dict of str to str
        Short name -> name of the table.
    keyfields, resultfields : Mapping of str to FieldType
        Columns as configured.
    columns : dict of str to FieldType
        All columns of the main table in the order of py-experimenter, ``ID`` first.

    Raises
    ------
    NameTooLongError
        If a name is longer than the database allows.
    """

    def __init__(self, config: ExperimentConfig, dialect: Dialect) -> None:
        self.dialect = dialect
        self.table = config.table.name
        self.attempts = f"{self.table}__attempts"
        self.meta = f"{self.table}__meta"
        self.codecarbon = f"{self.table}_codecarbon"
        self.logtables = {name: f"{self.table}__{name}" for name in config.logtables}
        self.identity_index = f"{self.table}__identity"
        self.status_index = f"{self.table}__status"
        self.keyfields = config.table.keyfields
        self.resultfields = config.table.resultfields
        self.result_timestamps = config.table.result_timestamps
        self.logfields = config.logtables
        self._timestamps = {f"{name}_timestamp" for name in self.resultfields} if self.result_timestamps else set()
        self.columns = {"ID": _BIGINT, **dict(self._main_columns())}
        self._check_lengths()

    def q(self, name: str) -> str:
        """Quote a name."""
        return self.dialect.quote(name)

    def types_of(self, table: str) -> Mapping[str, FieldType]:
        """Return the columns and types of any of the tables, by its unquoted name."""
        if table == self.table:
            return self.columns
        side = {"ID": _BIGINT, "experiment_id": _BIGINT}
        if table == self.attempts:
            return side | _ATTEMPT_COLUMNS
        if table == self.meta:
            return {"ID": _BIGINT, **_META_COLUMNS}
        if table == self.codecarbon:
            return {**side, **CODECARBON_COLUMNS}
        short = next(short for short, name in self.logtables.items() if name == table)
        return {**side, "timestamp": _DATETIME, **self.logfields[short], "attempt_id": _BIGINT}

    def library_columns(self, table: str) -> Mapping[str, FieldType]:
        """Return the columns of a side table that the library itself needs."""
        if table in self.logtables.values():
            return {"attempt_id": _BIGINT}
        return {self.attempts: _ATTEMPT_COLUMNS, self.meta: _META_COLUMNS, self.codecarbon: CODECARBON_COLUMNS}[table]

    def is_timestamp(self, table: str, name: str) -> bool:
        """Return whether a column has the times when a result was written."""
        return table == self.table and name in self._timestamps

    def fields_of(self, table: str) -> str:
        """Return how many fields of each kind a table has, for messages."""
        if table != self.table:
            return _counted("columns", self.types_of(table))
        timestamps = " with timestamps" if self.result_timestamps else ""
        return f"{_counted('keyfields', self.keyfields)} and {_counted('resultfields', self.resultfields)}{timestamps}"

    def result_columns(self) -> list[str]:
        """Return the columns that a reset empties: results, their timestamps, and what else an execution writes."""
        return [name for name in self.columns if name not in self.keyfields and name not in _KEPT_BY_RESET]

    # DDL

    def create_main(self) -> str:
        """Return the CREATE TABLE of the main table."""
        # Because of the defaults, a row inserted by hand is an open experiment.
        defaults = {"creation_date": f"({self.dialect.now})", "status": "'created'"}
        columns = [f"{self.q('ID')} {self.dialect.id_column}"]
        for name, field in self._main_columns():
            columns.append(f"{self._declaration(self.table, name, field)} DEFAULT {defaults.get(name, 'NULL')}")
        return f"CREATE TABLE {self.q(self.table)} ({', '.join(columns)}){self.dialect.table_options}"

    def create_status_index(self) -> str:
        """Return the CREATE INDEX for the claim."""
        return f"CREATE INDEX {self.q(self.status_index)} ON {self.q(self.table)} ({self.q('status')}, {self.q('ID')})"

    def add_identity(self) -> str:
        """Return the statement that makes the database refuse rows with equal keyfields."""
        return self.dialect.add_identity.format(
            table=self.q(self.table), index=self.q(self.identity_index), identity=self._identity
        )

    def drop_identity(self) -> str:
        """Return the statement that reverts `add_identity`."""
        return self.dialect.drop_identity.format(table=self.q(self.table), index=self.q(self.identity_index))

    def find_duplicates(self) -> str:
        """Return the query for the lowest and highest ID of some rows with equal keyfields."""
        return (
            f"SELECT MIN(ID), MAX(ID) FROM {self.q(self.table)} GROUP BY {self._identity} HAVING COUNT(*) > 1 LIMIT 1"
        )

    @property
    def _identity(self) -> str:
        return self.dialect.identity({self.q(name): field for name, field in self.keyfields.items()})

    def add_column(self, table: str, name: str, field: FieldType, after: str | None = None) -> str:
        """Return the ALTER TABLE that adds a column, after another if the database supports that."""
        where = self.dialect.add_after.format(self.q(after)) if after else ""
        return f"ALTER TABLE {self.q(table)} ADD COLUMN {self._declaration(table, name, field)} DEFAULT NULL{where}"

    def create_side_tables(self, id_type: str, codecarbon: bool) -> dict[str, list[str]]:
        """Return the statements that create each side table, by its name.

        Parameters
        ----------
        id_type : str
            Type of the main table's ``ID``; a foreign key needs the same.
        codecarbon : bool
            Whether to include the table of emissions.
        """
        # Few attempts are open. Searches for silent workers read only those.
        opened = f"CREATE INDEX {self.q(f'{self.attempts}__open')} ON {self.q(self.attempts)} (ended, lease_until)"
        tables = {self.attempts: [*self._create_side(self.attempts, _ATTEMPT_COLUMNS, id_type), opened]}
        for short, name in self.logtables.items():
            columns = {"timestamp": _DATETIME, **self.logfields[short], "attempt_id": _BIGINT}
            tables[name] = self._create_side(name, columns, id_type)
        tables[self.meta] = [self._create(self.meta, _META_COLUMNS)]
        if codecarbon:
            tables[self.codecarbon] = self._create_side(self.codecarbon, CODECARBON_COLUMNS, id_type)
        return tables

    def _create_side(self, table: str, columns: Mapping[str, FieldType], id_type: str) -> list[str]:
        reference = f"{self.q('experiment_id')} {id_type} NOT NULL"
        foreign_key = f"FOREIGN KEY ({self.q('experiment_id')}) REFERENCES {self.q(self.table)} ({self.q('ID')})"
        return [
            self._create(table, columns, reference, f"{foreign_key} ON DELETE CASCADE"),
            f"CREATE INDEX {self.q(f'{table}__experiment')} ON {self.q(table)} ({self.q('experiment_id')})",
        ]

    def _create(
        self, table: str, columns: Mapping[str, FieldType], reference: str | None = None, foreign_key: str | None = None
    ) -> str:
        declared = [f"{self._declaration(table, name, field)} DEFAULT NULL" for name, field in columns.items()]
        parts = [f"{self.q('ID')} {self.dialect.id_column}", reference, *declared, foreign_key]
        return f"CREATE TABLE {self.q(table)} ({', '.join(filter(None, parts))}){self.dialect.table_options}"

    def _declaration(self, table: str, name: str, field: FieldType) -> str:
        """Return a column's name and type as in a CREATE TABLE."""
        if name in _WHOLE_SECONDS or self.is_timestamp(table, name):
            return f"{self.q(name)} {self.dialect.whole_seconds}"
        if field.name == "VARCHAR" and name not in _BEFORE_RESULTS and self._is_wide(table):
            field = _LONGTEXT
        return f"{self.q(name)} {self.dialect.column_type(field)}"

    def _is_wide(self, table: str) -> bool:
        """Return whether the VARCHARs of a table are too many for one row, which a LONGTEXT hardly counts towards."""
        if self.dialect.longest_row is None:
            return False
        fields = self.types_of(table).values()
        # A character may take 4 bytes, and no other type more than 30.
        most = sum(4 * (field.length or 0) if field.name == "VARCHAR" else 30 for field in fields)
        return most > self.dialect.longest_row

    def _main_columns(self) -> Iterator[tuple[str, FieldType]]:
        yield from self.keyfields.items()
        yield from _BEFORE_RESULTS.items()
        for name, field in self.resultfields.items():
            yield name, field
            if self.result_timestamps:
                yield f"{name}_timestamp", _DATETIME
        yield from _AFTER_RESULTS.items()

    def _check_lengths(self) -> None:
        longest = self.dialect.longest_name
        if longest is None:
            return
        side = [self.attempts, self.meta, self.codecarbon, *self.logtables.values()]
        indexes = [self.identity_index, self.status_index, *(f"{name}__experiment" for name in side)]
        columns = [*self.columns, *(name for fields in self.logfields.values() for name in fields)]
        for name in [self.table, *side, *columns, *indexes]:
            if len(name) > longest:
                raise NameTooLongError(
                    f"the name {name!r} has {len(name)} characters, but {self.dialect.name} allows {longest}; "
                    "shorten the name of the table, logtable or field that it comes from"
                )


def _counted(kind: str, names: Collection[str]) -> str:
    """Return for example ``400 keyfields (k0, ..., k399)``."""
    first, *others = names or ["none"]
    return f"{len(names)} {kind} ({', '.join([first, *others] if len(others) < 4 else [first, '...', others[-1]])})"


_KEPT_BY_RESET = {"ID", "creation_date", "status"}
