"""Configuration -> names, columns and DDL of an experiment's tables."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

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
COLUMNS_OF_EVERY_STUDY = frozenset({"ID", *_BEFORE_RESULTS, *_AFTER_RESULTS})
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
    "replayed": _LONGTEXT,
    "output": _LONGTEXT,
    "token": _VARCHAR,
    "git_diff_hash": _VARCHAR,
    "environment": _VARCHAR,
}
_META_COLUMNS = {
    "created": _DATETIME,
    "schema_version": _INT,
    "library_version": _VARCHAR,
    "config": _LONGTEXT,
    "event": _JSON,
}

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
# The token of the note of an attempt that wrote a row; by it, a repeated note is recognized.
_WRITE_TOKEN = {"write_token": FieldType.parse("VARCHAR(32)")}
LOG_COLUMNS: Mapping[str, FieldType] = {"attempt_id": _BIGINT, **_WRITE_TOKEN}
"""The last columns of a logtable, which py-experimenter does not have."""


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
    suffixes : dict of str to str
        Each side table -> what follows the name of the main table in its name, before that is shortened. The attempts
        come last, since their name tells those of others when the main table has been renamed.
    marks : dict of str to str
        Each side table that is not a logtable -> a column that only it has.
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
        self.attempts = self._derived("__attempts")
        self.meta = self._derived("__meta")
        self.codecarbon = self._derived("_codecarbon")
        self.logtables = {name: self._derived(f"__{name}") for name in config.logtables}
        self.suffixes = {
            **{table: f"__{name}" for name, table in self.logtables.items()},
            self.codecarbon: "_codecarbon",
            self.meta: "__meta",
            self.attempts: "__attempts",
        }
        self.marks = {self.attempts: "lease_until", self.meta: "schema_version", self.codecarbon: "emissions_kg"}
        self.identity_index = self._derived("__identity")
        self.status_index = self._derived("__status")
        self.keyfields = config.table.keyfields
        self.resultfields = config.table.resultfields
        self.result_timestamps = config.table.result_timestamps
        self.logfields = config.logtables
        self._timestamps = {f"{name}_timestamp" for name in self.resultfields} if self.result_timestamps else set()
        self.columns = {"ID": _BIGINT, **dict(self._main_columns())}
        self._check_lengths()

    def _derived(self, suffix: str) -> str:
        return self.dialect.side_name(self.table, suffix)

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
            return side | _META_COLUMNS
        if table == self.codecarbon:
            return {**side, **CODECARBON_COLUMNS, **_WRITE_TOKEN}
        short = next(short for short, name in self.logtables.items() if name == table)
        return {**side, "timestamp": _DATETIME, **self.logfields[short], **LOG_COLUMNS}

    def is_timestamp(self, table: str, name: str) -> bool:
        """Return whether a column has the times when a result was written."""
        return table == self.table and name in self._timestamps

    def fields_of(self, table: str) -> str:
        """Return how many fields of each kind a table has, for messages."""
        if table != self.table:
            return _counted("column", self.types_of(table))
        timestamps = " with timestamps" if self.result_timestamps else ""
        return f"{_counted('keyfield', self.keyfields)} and {_counted('resultfield', self.resultfields)}{timestamps}"

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

    def create_index(self, name: str, table: str, columns: Sequence[str]) -> str:
        """Return the CREATE INDEX of some columns."""
        return f"CREATE INDEX {self.q(name)} ON {self.q(table)} ({', '.join(map(self.q, columns))})"

    def add_identity(self, index: str) -> str:
        """Return the statement that makes the database refuse rows with equal keyfields."""
        return self.dialect.add_identity.format(table=self.q(self.table), index=self.q(index), identity=self.identity())

    def drop_identity(self, index: str) -> str:
        """Return the statement that reverts `add_identity`."""
        return self.dialect.drop_identity.format(table=self.q(self.table), index=self.q(index))

    def find_duplicates(self) -> str:
        """Return the query for the lowest and highest ID of some rows with equal keyfields."""
        return (
            f"SELECT MIN(ID), MAX(ID) FROM {self.q(self.table)} GROUP BY {self.identity()} HAVING COUNT(*) > 1 LIMIT 1"
        )

    def identity(self, before: str = "") -> str:
        """Return what is equal for rows with equal keyfields, whose names may have something before them."""
        return self.dialect.identity({f"{before}{self.q(name)}": field for name, field in self.keyfields.items()})

    def add_column(self, table: str, name: str, field: FieldType, default: Any = None, after: str | None = None) -> str:
        """Return the ALTER TABLE that adds a column with a value, after another if the database supports that."""
        where = self.dialect.add_after.format(self.q(after)) if after else ""
        value = self.dialect.literal(default)
        return f"ALTER TABLE {self.q(table)} ADD COLUMN {self._declaration(table, name, field)} DEFAULT {value}{where}"

    def add_reference(self, table: str, id_type: str) -> str:
        """Return the ALTER TABLE that makes a table without experiments a side table."""
        column = self.q("experiment_id")
        reference = self.dialect.add_reference.format(column=column, reference=self._reference, key=self._new_key())
        return f"ALTER TABLE {self.q(table)} ADD COLUMN {column} {id_type} DEFAULT NULL{reference}"

    def create_side_table(self, table: str, id_type: str) -> str:
        """Return the CREATE TABLE of a side table.

        Parameters
        ----------
        table : str
            Its name, unquoted.
        id_type : str
            Type of the main table's ``ID``; a foreign key needs the same.
        """
        # The rows of a study's `meta` are about no experiment. The foreign key says which study they belong to.
        needed = "DEFAULT NULL" if table == self.meta else "NOT NULL"
        columns = [f"{self.q('ID')} {self.dialect.id_column}", f"{self.q('experiment_id')} {id_type} {needed}"]
        for name, field in self.types_of(table).items():
            if name not in ("ID", "experiment_id"):
                columns.append(f"{self._declaration(table, name, field)} DEFAULT NULL")
        key = f"CONSTRAINT {self._new_key()} FOREIGN KEY ({self.q('experiment_id')})"
        columns.append(f"{key} REFERENCES {self._reference}")
        return f"CREATE TABLE {self.q(table)} ({', '.join(columns)}){self.dialect.table_options}"

    def _new_key(self) -> str:
        """Return a name for a foreign key. MySQL's own, after the table, can be too long, or that of another table."""
        return self.q(f"pyexperimenter_{uuid.uuid4().hex}")

    @property
    def _reference(self) -> str:
        return f"{self.q(self.table)} ({self.q('ID')}) ON DELETE CASCADE"

    def indexes_of(self, table: str) -> dict[str, Sequence[str]]:
        """Return the names of a table's indexes and their columns; that of the identity is apart."""
        columns: dict[str, Sequence[str]] = {"__experiment": ("experiment_id",)}
        if table == self.attempts:
            # Few attempts are open. Searches for silent workers read only those.
            columns["__open"] = ("ended", "lease_until")
        return {self._derived(f"{self.suffixes[table]}{end}"): of for end, of in columns.items()}

    def drop(self, tables: Iterable[str]) -> list[str]:
        """Return the statements that drop these tables together."""
        names = [self.q(table) for table in tables]
        return [f"DROP TABLE IF EXISTS {name}" for name in ([", ".join(names)] if self.dialect.ddl_commits else names)]

    def together(self, changes: Sequence[str], table: str | None = None) -> list[str]:
        """Return the statements that change the main table, or another, together.

        It is one, where a transaction does not join them.
        """
        alter = f"ALTER TABLE {self.q(table or self.table)} "
        if not self.dialect.ddl_commits or not changes:
            return list(changes)
        return [alter + ", ".join(change.removeprefix(alter) for change in changes)]

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
        """Refuse what the user has named; derived names are shortened."""
        longest, unit = self.dialect.longest_name, self.dialect.name_unit
        columns = [*self.columns, *(name for fields in self.logfields.values() for name in fields)]
        for name in [self.table, *columns]:
            length = self.dialect.length(name)
            if length > longest:
                raise NameTooLongError(
                    f"the name {name!r} has {length} {unit}, but {self.dialect.name} allows {longest}; shorten it, or "
                    "the name of the resultfield that it comes from"
                )


def _counted(kind: str, names: Collection[str]) -> str:
    """Return for example ``400 keyfields (k0, ..., k399)``."""
    first, *others = names or ["none"]
    shown = [first, *others] if len(others) < 4 else [first, "...", others[-1]]
    return f"{len(names)} {kind if len(names) == 1 else f'{kind}s'} ({', '.join(shown)})"


_KEPT_BY_RESET = {"ID", "creation_date", "status"}
