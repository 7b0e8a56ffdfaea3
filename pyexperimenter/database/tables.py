"""The tables of a study in a live database: create, compare, migrate, drop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pyexperimenter.database.connection import Cursor, Database, retried
from pyexperimenter.database.schema import Schema
from pyexperimenter.database.values import Encoder
from pyexperimenter.exceptions import (
    CreatingTableError,
    DatabaseError,
    DatabaseLimitError,
    DatabaseQueryError,
    DuplicateExperimentsError,
    InvalidColumnError,
    TableHasWrongStructureError,
)
from pyexperimenter.fieldtypes import FieldType, Kind


class Tables:
    """Creates and changes tables. Several processes may call any method at the same time.

    Parameters
    ----------
    database : Database
        The database.
    schema : Schema
        The tables that it should have.
    """

    def __init__(self, database: Database, schema: Schema) -> None:
        self.database = database
        self._schema = schema
        self._dialect = database.dialect

    @retried
    def create(self, codecarbon: bool, identity: bool = True) -> None:
        """Create the tables and indexes that are missing, and compare the others with the configuration.

        A table of py-experimenter is used as it is.

        Parameters
        ----------
        codecarbon : bool
            Whether to include the table of emissions.
        identity : bool
            Whether to make the database refuse equal rows, which a fill needs.

        Raises
        ------
        TableHasWrongStructureError
            If the main table or a logtable differs from the configuration.
        DuplicateExperimentsError
            If `identity` is set, but the table has rows with equal keyfields.
        CreatingTableError
            If a table would be larger than the database allows. Nothing is created then.
        """
        if self._dialect.exclusive[0] is not None and self._are_complete(codecarbon, identity):
            return  # thousands of workers that start together do not queue for the lock
        with self._exclusively() as cursor, self._all_or_none(cursor) as made:
            existing = self._columns(cursor, self._schema.table)
            with self._within_limits(self._schema.table):
                if existing:
                    self._refuse_differences(cursor, existing)
                    self._warn_of_rounding(existing)
                else:
                    self._create(cursor, self._schema.table, [self._schema.create_main()], made)
                indexes = self._indexes(cursor)
                if self._schema.status_index not in indexes:
                    cursor.run(self._schema.create_status_index())
                if identity and self._schema.identity_index not in indexes:
                    self._add_identity(cursor)
            self._create_side_tables(cursor, codecarbon, made)

    @retried
    def exist(self) -> bool:
        """Return whether the main table exists."""
        with self.database.query() as cursor:
            return bool(self._columns(cursor, self._schema.table))

    def migrate(self, dry_run: bool, defaults: Mapping[str, Any], codecarbon: bool) -> list[str]:
        """Add the columns and tables that the configuration has and the database lacks, in place.

        Parameters
        ----------
        dry_run : bool
            Report the changes without applying them.
        defaults : Mapping of str to object
            Values of new keyfields in existing rows.
        codecarbon : bool
            Whether to include the table of emissions.

        Returns
        -------
        list of str
            The changes.

        Raises
        ------
        TableHasWrongStructureError
            If existing rows need a default that is not given, or the table has columns that the configuration lacks.
        InvalidColumnError
            If a default is not for a new keyfield.
        """
        with self._exclusively() as cursor:
            existing = self._columns(cursor, self._schema.table)
            if not existing:
                done = [f"create table {self._schema.table}"]
            else:
                done = self._migrate_main(cursor, existing, dry_run, defaults)
                done += self._migrate_logtables(cursor, dry_run)
        if not dry_run and done:
            self.create(codecarbon)
        return done

    @retried
    def drop(self) -> None:
        """Drop the main table and all side tables, including logtables that are no longer configured."""
        with self._exclusively() as cursor:
            referring = [name for (name,) in cursor.all(self._dialect.list_references, table=self._schema.table)]
            side = [name for name in referring if name.startswith(f"{self._schema.table}_")]
            for name in [*side, self._schema.meta, self._schema.table]:
                cursor.run(f"DROP TABLE IF EXISTS {self._schema.q(name)}")

    @contextmanager
    def _exclusively(self) -> Iterator[Cursor]:
        """Let one process at a time change the tables, in one transaction if DDL can be part of one."""
        take, give_back = self._dialect.exclusive
        with self.database.query() if give_back else self.database.transaction(create=True) as cursor:
            name = f"{self.database.config.database}.{self._schema.table}"
            if take and cursor.one(take, name=name) != (1,):
                raise DatabaseQueryError(
                    f"another process has been changing the tables of {name} for a minute; try again"
                )
            try:
                yield cursor
            finally:
                if give_back:
                    cursor.all(give_back, name=name)

    def _columns(self, cursor: Cursor, table: str) -> dict[str, str]:
        """Return a table's columns and declared types; empty if there is no such table."""
        return {name: _text(declared) for name, declared in cursor.all(self._dialect.list_columns, table=table)}

    def _indexes(self, cursor: Cursor) -> set[str]:
        return {name for (name,) in cursor.all(self._dialect.list_indexes, table=self._schema.table)}

    # Comparing

    def _are_complete(self, codecarbon: bool, identity: bool) -> bool:
        """Return whether `create` has nothing to do. No lock is taken, so `create` checks differences again."""
        with suppress(TableHasWrongStructureError), self.database.query() as cursor:
            existing = self._columns(cursor, self._schema.table)
            self._refuse_differences(cursor, existing)
            indexes = {self._schema.status_index, *([self._schema.identity_index] if identity else [])}
            if not indexes <= self._indexes(cursor):
                return False
            for name in self._schema.create_side_tables("", codecarbon):
                if not self._schema.library_columns(name).keys() <= self._columns(cursor, name).keys():
                    return False
            self._warn_of_rounding(existing)
            return True
        return False

    def _refuse_differences(self, cursor: Cursor, existing: Mapping[str, str]) -> None:
        differences = self._differences(self._schema.table, existing, self._schema.columns)
        for name in self._schema.logtables.values():
            columns = self._columns(cursor, name)
            if columns:
                wanted = {n: f for n, f in self._schema.types_of(name).items() if n != "attempt_id"}
                columns.pop("attempt_id", None)
                differences += self._differences(name, columns, wanted)
        if differences:
            raise TableHasWrongStructureError(
                f"{self._schema.table} in {self.database.config.database} differs from the configuration:\n  "
                + "\n  ".join(differences)
                + "\nChange the configuration, name another table, or call migrate() to add what is missing."
            )

    def _differences(self, table: str, existing: Mapping[str, str], wanted: Mapping[str, FieldType]) -> list[str]:
        found = {name.lower(): name for name in existing}
        differences = []
        for name, field in wanted.items():
            declared = existing.get(found.pop(name.lower(), ""))
            if declared is None:
                differences.append(f"{table}.{name} is missing; migrate() adds it")
            elif name not in ("ID", "experiment_id") and not self._holds(table, name, declared, field):
                differences.append(f"{table}.{name} is {declared}, configured is {field}; change one of the two")
        for name in found.values():
            differences.append(f"{table}.{name} is not configured; configure it, or drop the column")
        return differences

    def _warn_of_rounding(self, existing: Mapping[str, str]) -> None:
        """Warn of columns that py-experimenter declared as DECIMAL, which are DECIMAL(10,0) on MySQL."""
        for name, declared in existing.items():
            wanted, found = self._schema.columns.get(name), _parsed(declared)
            if wanted and found and wanted.kind is Kind.REAL and wanted.length is None and found.length is not None:
                table, column = self._schema.q(self._schema.table), self._schema.q(name)
                warnings.warn(
                    f"{self._schema.table}.{name} is {declared}, which rounds numbers to {found.scale} decimal places; "
                    f"to keep all digits: ALTER TABLE {table} MODIFY {column} DOUBLE",
                    stacklevel=2,
                )

    def _holds(self, table: str, name: str, declared: str, field: FieldType) -> bool:
        if declared.upper() == self._dialect.column_type(field):
            return True
        existing = _parsed(declared)
        if existing is None:
            return False
        if self._schema.is_timestamp(table, name) and existing.kind is Kind.TEXT:
            return True  # as py-experimenter and older versions declared it
        if not self._dialect.lengths_matter:
            return existing.kind is field.kind
        return existing.holds(field)

    # Making

    @contextmanager
    def _all_or_none(self, cursor: Cursor) -> Iterator[list[str]]:
        """Drop the tables that the block has put into the list if it fails, unless its transaction undoes them."""
        made: list[str] = []
        try:
            yield made
        except DatabaseError:
            if self._dialect.exclusive[1] is not None:
                with suppress(DatabaseError):
                    for table in reversed(made):
                        cursor.run(f"DROP TABLE {self._schema.q(table)}")
            raise

    @contextmanager
    def _within_limits(self, table: str) -> Iterator[None]:
        """Name the fields of a table that is larger than the database allows."""
        try:
            yield
        except DatabaseLimitError as error:
            raise CreatingTableError(
                f"{table} is too large for {self._dialect.name} with {self._schema.fields_of(table)}: {error}. "
                "One JSON field holds many values, and each logtable has columns of its own. Nothing was created."
            ) from error

    def _create(self, cursor: Cursor, table: str, statements: Sequence[str], made: list[str]) -> None:
        columns, most = len(self._schema.types_of(table)), self._dialect.most_columns
        if most is not None and columns >= most:  # one may be that of the identity
            raise DatabaseLimitError(f"{columns} columns, of which {most} are the most")
        create, *indexes = statements
        cursor.run(create)
        made.append(table)
        for index in indexes:
            cursor.run(index)
        if self._dialect.complete_row is not None:
            size, most = cursor.one(self._dialect.complete_row, table=table) or (0, 0)
            if size > most:
                raise DatabaseLimitError(f"a complete row has at least {size} bytes, and the most is {most}")

    def _add_identity(self, cursor: Cursor) -> None:
        duplicates = cursor.one(self._schema.find_duplicates())
        if duplicates is not None:
            raise DuplicateExperimentsError(
                f"the table {self._schema.table} has several rows with equal keyfields, for example "
                f"IDs {duplicates[0]} and {duplicates[1]}; delete all but one of each by SQL, then fill again. "
                "Reading, executing and resetting work without that."
            )
        cursor.run(self._schema.add_identity())

    def _create_side_tables(self, cursor: Cursor, codecarbon: bool, made: list[str]) -> None:
        id_type = next(t for n, t in self._columns(cursor, self._schema.table).items() if n.lower() == "id")
        for name, statements in self._schema.create_side_tables(id_type, codecarbon).items():
            columns = self._columns(cursor, name)
            if not columns:
                with self._within_limits(name):
                    self._create(cursor, name, statements, made)
                continue
            # An older version of the library, or py-experimenter, made the table.
            for column, field in self._schema.library_columns(name).items():
                if column not in columns:
                    cursor.run(self._schema.add_column(name, column, field))

    # Migrating

    def _migrate_main(
        self, cursor: Cursor, existing: Mapping[str, str], dry_run: bool, defaults: Mapping[str, Any]
    ) -> list[str]:
        table, wanted = self._schema.table, self._schema.columns
        present = {name.lower() for name in existing}
        missing = [name for name in wanted if name.lower() not in present]
        new_keyfields = [name for name in missing if name in self._schema.keyfields]
        for name in defaults:
            if name not in new_keyfields:
                raise InvalidColumnError(
                    f"defaults: {name!r} is not a new keyfield; new are {', '.join(new_keyfields) or 'none'}"
                )
        (rows,) = cursor.one(f"SELECT COUNT(*) FROM {self._schema.q(table)}") or (0,)
        without = [name for name in new_keyfields if name not in defaults] if rows else []
        if without:
            raise TableHasWrongStructureError(
                f"{table} has {rows} rows, which need a value for the new keyfields {', '.join(without)}; "
                f"call migrate(defaults={{{', '.join(f'{name!r}: ...' for name in without)}}}), None for NULL"
            )
        encoded = {
            name: Encoder(name, wanted[name], self._dialect.keeps_infinity)(value) for name, value in defaults.items()
        }
        self._refuse_unmigratable(existing)
        done = [f"add column {table}.{name} {wanted[name]}" for name in missing]
        done += [f"set {table}.{name} to {value!r} in {rows} rows" for name, value in encoded.items()]
        if dry_run or not missing:
            return done
        if new_keyfields and self._schema.identity_index in self._indexes(cursor):
            cursor.run(self._schema.drop_identity())
        order = list(wanted)
        for name in missing:
            cursor.run(self._schema.add_column(table, name, wanted[name], after=order[order.index(name) - 1]))
        for name, value in encoded.items():
            cursor.run(f"UPDATE {self._schema.q(table)} SET {self._schema.q(name)} = :value", value=value)
        return done

    def _refuse_unmigratable(self, existing: Mapping[str, str]) -> None:
        wanted = {name: field for name, field in self._schema.columns.items() if name in existing}
        differences = self._differences(self._schema.table, existing, wanted)
        if differences:
            raise TableHasWrongStructureError(
                "migrate() adds what is missing, but cannot change this:\n  " + "\n  ".join(differences)
            )

    def _migrate_logtables(self, cursor: Cursor, dry_run: bool) -> list[str]:
        done = []
        for name in self._schema.logtables.values():
            columns, wanted = self._columns(cursor, name), self._schema.types_of(name)
            if not columns:
                done.append(f"create table {name}")
                continue
            before = "timestamp"
            for column, field in wanted.items():
                if column not in columns:
                    done.append(f"add column {name}.{column} {field}")
                    if not dry_run:
                        cursor.run(self._schema.add_column(name, column, field, after=before))
                before = column
        return done


def _parsed(declared: str) -> FieldType | None:
    """Parse the type of a column in the database; None if it is not one of ours."""
    try:
        return FieldType.parse("JSON" if declared.upper() == "JSON TEXT" else declared)
    except ValueError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
