"""The tables of a study in a live database: create, compare, migrate, drop."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from pyexperimenter.database.connection import Cursor, Database, retried
from pyexperimenter.database.schema import LOG_COLUMNS, Schema
from pyexperimenter.database.values import Encoder, decode
from pyexperimenter.exceptions import (
    CreatingTableError,
    DatabaseError,
    DatabaseLimitError,
    DatabaseQueryError,
    DuplicateExperimentsError,
    InvalidColumnError,
    InvalidValueError,
    TableHasWrongStructureError,
    UndecodableValueError,
)
from pyexperimenter.fieldtypes import FieldType, Kind
from pyexperimenter.jsonable import is_missing


class _Column(NamedTuple):
    """A column in the database: its type, whether an INSERT must give it a value, and the table that it refers to."""

    declared: str
    required: bool
    refers_to: str | None


_Columns = Mapping[str, _Column]


class _Identity(NamedTuple):
    """The index that makes a second row with equal keyfields impossible, and the keyfields that it is about."""

    name: str | None
    keyfields: Sequence[str]


class _Rename(NamedTuple):
    """A side table of `owner` that gets another name."""

    owner: str
    name: str
    wanted: str


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
        self._folding: Callable[[str], str] | None = None

    @retried
    def create(self, codecarbon: bool, identity: bool = True) -> None:
        """Create the tables and indexes that are missing, and compare the others with the configuration.

        A table of py-experimenter is used as it is, and so is what a person has added, if rows can be inserted.

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
        with self._exclusively() as cursor:
            self._create(cursor, codecarbon, identity)

    @retried
    def exist(self) -> bool:
        """Return whether the main table exists."""
        with self.database.query() as cursor:
            return bool(self._columns(cursor, self._schema.table))

    @retried
    def columns(self, table: str) -> list[str]:
        """Return the columns of the main table or a side table; none if it does not exist."""
        with self.database.query() as cursor:
            return list(self._columns(cursor, table))

    @retried
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
            If existing rows need a default that is not given, or something has to be changed that is not missing.
        InvalidColumnError
            If a default is not for a new keyfield.
        """
        with self._exclusively() as cursor:
            existing = self._columns(cursor, self._schema.table)
            done = [] if existing else [f"create table {self._schema.table}"]
            if existing:
                renames = self._misnamed(cursor, exists=True)
                done += [f"rename table {name} to {wanted}" for _, name, wanted in renames]
                done += self._migrate_main(cursor, existing, dry_run, defaults)
                if not dry_run:
                    self._rename_side_tables(cursor, exists=True)
                names = {wanted: name for _, name, wanted in renames} if dry_run else {}
                done += self._migrate_logtables(cursor, dry_run, names)
            if done and not dry_run:
                identity = not existing or self._identity(cursor).name is not None or not self._duplicates(cursor)
                self._create(cursor, codecarbon, identity)
        return done

    @retried
    def drop(self) -> None:
        """Drop the main table and its side tables, including logtables that are no longer configured: all or none.

        Raises
        ------
        DatabaseQueryError
            If something else depends on one of them.
        """
        with self._exclusively() as cursor:
            ours, others = self._referring(cursor)
            for side in ours.values():
                others += [name for name in self._references(cursor, side) if name not in ours.values()]
            if others:
                raise DatabaseQueryError(
                    f"foreign keys of {', '.join(dict.fromkeys(others))} refer to {self._schema.table} or its side "
                    "tables; drop those foreign keys or tables first. Nothing was deleted"
                )
            for statement in self._schema.drop([*ours.values(), self._schema.table]):
                cursor.run(statement)

    @contextmanager
    def _exclusively(self) -> Iterator[Cursor]:
        """Let one process at a time change the tables, in one transaction if DDL can be part of one."""
        database, commits = self.database, self._dialect.ddl_commits
        opened = database.query() if commits else database.transaction(create=True)
        with opened as cursor, self._locked(cursor, self._schema.table):
            yield cursor

    @contextmanager
    def _locked(self, cursor: Cursor, table: str) -> Iterator[None]:
        """Hold the lock under which a main table and its side tables are changed."""
        take, give_back = self._dialect.exclusive
        name = f"{self.database.config.database}.{table}"
        if take and cursor.one(take, name=name) != (1,):
            raise DatabaseQueryError(f"another process has been changing the tables of {name} for a minute; try again")
        try:
            yield
        finally:
            if give_back:
                cursor.all(give_back, name=name)

    # What is there

    def _columns(self, cursor: Cursor, table: str) -> dict[str, _Column]:
        """Return a table's columns; empty if it does not exist."""
        rows = cursor.all(self._dialect.list_columns, table=table)
        return {name: _Column(_text(declared), bool(required), refers) for name, declared, required, refers in rows}

    def _references(self, cursor: Cursor, table: str) -> list[str]:
        """Return the tables whose foreign keys refer to a table, as `_fold` writes them."""
        return [self._fold(cursor)(name) for (name,) in cursor.all(self._dialect.list_references, table=table)]

    def _identity(self, cursor: Cursor) -> _Identity:
        found = cursor.all(self._dialect.list_identity, table=self._schema.table)
        return _Identity(found[0][0] if found else None, [keyfield for _, keyfield, *_ in found])

    def _fold(self, cursor: Cursor) -> Callable[[str], str]:
        """Return what makes names of tables equal that the database considers equal."""
        if self._folding is None:
            query = self._dialect.ignores_case
            self._folding = str if query is None or cursor.one(query) == (0,) else str.lower
        return self._folding

    def _referring(self, cursor: Cursor) -> tuple[dict[str, str], list[str]]:
        """Return our side tables by the names that they should have, and the other tables that refer to the main table.

        A side table belongs to the main table by its foreign key, which follows when the main table is renamed. The
        columns say what it is for; which logtable it is follows from its name, and from that of the attempts.
        """
        schema, fold = self._schema, self._fold(cursor)
        tables = {name: self._columns(cursor, name) for name in self._references(cursor, schema.table)}
        left = set(tables)
        ours: dict[str, str] = {}

        def take(wanted: str, name: str) -> None:
            if wanted not in ours and fold(name) in left:
                left.remove(fold(name))
                ours[wanted] = fold(name)

        for wanted in schema.suffixes:
            take(wanted, wanted)
        for wanted, column in schema.marks.items():
            for name in sorted(left):
                if {"experiment_id", column} <= tables[name].keys():
                    take(wanted, name)
        stem = fold(ours.get(schema.attempts, schema.attempts)).removesuffix("__attempts")
        for wanted, suffix in schema.suffixes.items():
            take(wanted, self._dialect.side_name(stem, suffix))
            take(wanted, f"{schema.table}{suffix}")  # py-experimenter shortens no names
        for name in sorted(left):  # logtables that are no longer configured
            if name.startswith(f"{stem}__") and _is_logtable(tables[name]):
                take(self._dialect.side_name(schema.table, name.removeprefix(stem)), name)
        if schema.meta not in ours:  # that of an older version has no foreign key
            name = self._dialect.side_name(stem, "__meta")
            columns = self._columns(cursor, name)
            if columns and self._owner(cursor, name, columns) in (None, fold(schema.table)):
                ours[schema.meta] = fold(name)
        return ours, sorted(left)

    def _owner(self, cursor: Cursor, name: str, columns: _Columns) -> str | None:
        """Return the main table that a side table belongs to; None if no foreign key says so."""
        if "experiment_id" not in columns and name.endswith("__meta"):
            # That of an older version has no foreign key. The attempts beside it have one.
            columns = self._columns(cursor, f"{name.removesuffix('__meta')}__attempts")
        owner = columns["experiment_id"].refers_to if "experiment_id" in columns else None
        return None if owner is None else self._fold(cursor)(owner)

    def _misnamed(self, cursor: Cursor, exists: bool) -> list[_Rename]:
        """Return the side tables that need another name because a main table was renamed: ours, and those in their way.

        Raises
        ------
        TableHasWrongStructureError
            If something else has the name of a side table, or if side tables are left of a main table that is gone.
        """
        schema, fold = self._schema, self._fold(cursor)
        ours, _ = self._referring(cursor)
        if ours.keys() - {schema.meta} and not exists:
            raise TableHasWrongStructureError(
                f"{', '.join(ours.values())} are left of a table {schema.table}, which was dropped or renamed without "
                "them; delete_table() drops them, or choose another name for the new table"
            )
        wrong = {name: ours.get(name) for name in [*ours, *schema.suffixes] if ours.get(name) != fold(name)}
        in_the_way: dict[str, set[str]] = {}
        for wanted, name in wrong.items():
            columns = self._columns(cursor, wanted)
            owner = self._owner(cursor, wanted, columns) if columns else None
            if owner is not None:
                in_the_way.setdefault(owner, set()).add(fold(wanted))
            elif columns and not (exists and name is None and "experiment_id" in columns):  # made without foreign keys
                raise TableHasWrongStructureError(
                    f"{wanted} exists, but is not a side table of {schema.table}; rename it, or {schema.table}"
                )
        renames = [rename for owner, names in in_the_way.items() for rename in self._aside(cursor, owner, names)]
        renames += [_Rename(schema.table, name, wanted) for wanted, name in wrong.items() if name is not None]
        # The name of the attempts tells which logtables are which, so it changes last.
        return sorted(renames, key=lambda rename: rename.name.endswith("__attempts"))

    def _aside(self, cursor: Cursor, owner: str, names: set[str]) -> list[_Rename]:
        """Return the renames of another study's side tables that have our names, and of its other logtables."""
        stem = self._fold(cursor)(self._schema.attempts).removesuffix("__attempts")
        for name in self._references(cursor, owner):
            if name.startswith(f"{stem}__") and _is_logtable(self._columns(cursor, name)):
                names.add(name)

        def under(main: str) -> dict[str, str]:
            return {name: self._dialect.side_name(main, name.removeprefix(stem)) for name in names}

        wanted = under(owner)
        if any(self._columns(cursor, name) for name in wanted.values()):
            # Its own names are taken, too: by ours, if the two studies have swapped names. It will find its tables.
            wanted = under(f"{owner}_{_token()}")
        return [_Rename(owner, name, wanted[name]) for name in sorted(names)]

    def _rename_side_tables(self, cursor: Cursor, exists: bool) -> None:
        """Do what `_misnamed` says, under the locks of all studies that it concerns."""
        owners = {rename.owner for rename in self._misnamed(cursor, exists)} - {self._schema.table}
        with ExitStack() as locks:
            for owner in sorted(owners):
                locks.enter_context(self._locked(cursor, owner))
            for _, name, wanted in self._misnamed(cursor, exists):  # again, since others may have renamed them
                cursor.run(f"ALTER TABLE {self._schema.q(name)} RENAME TO {self._schema.q(wanted)}")

    # Comparing

    def _are_complete(self, codecarbon: bool, identity: bool) -> bool:
        """Return whether `create` has nothing to do. No lock is taken, so `create` checks differences again."""
        with suppress(TableHasWrongStructureError), self.database.query() as cursor:
            tables, found = self._tables(cursor), self._identity(cursor)
            self._refuse_differences(tables, found)
            if (identity and not self._identifies(found)) or not self._has_status_index(cursor):
                return False
            for name in self._side_tables(codecarbon):
                if self._missing(name, tables[name]):
                    return False
                if self._owner(cursor, name, tables[name]) not in (None, self._fold(cursor)(self._schema.table)):
                    return False
            self._warn_of_rounding(tables[self._schema.table])
            return True
        return False

    def _tables(self, cursor: Cursor) -> dict[str, dict[str, _Column]]:
        """Return the columns of all our tables; those that do not exist have none."""
        return {name: self._columns(cursor, name) for name in (self._schema.table, *self._schema.suffixes)}

    def _side_tables(self, codecarbon: bool) -> list[str]:
        return [name for name in self._schema.suffixes if codecarbon or name != self._schema.codecarbon]

    def _missing(self, table: str, columns: _Columns) -> list[str]:
        """Return the columns that one of our tables lacks."""
        present = {name.lower() for name in columns}
        return [name for name in self._schema.types_of(table) if name.lower() not in present]

    def _refuse_differences(self, tables: Mapping[str, _Columns], found: _Identity) -> None:
        differences = []
        for name, columns in tables.items():
            if name == self._schema.table or (name in self._schema.logtables.values() and columns):
                wanted = {n: f for n, f in self._schema.types_of(name).items() if n not in LOG_COLUMNS}
                differences += self._differences(name, columns, wanted)
            differences += self._obstacles(name, columns, found)
        if differences:
            raise TableHasWrongStructureError(
                f"{self._schema.table} in {self.database.config.database} differs from the configuration:\n  "
                + "\n  ".join(differences)
                + "\nChange the configuration, name another table, or call migrate() to add what is missing."
            )

    def _differences(self, table: str, existing: _Columns, wanted: Mapping[str, FieldType]) -> list[str]:
        """Return what is missing or has another type. Other columns may be there: a person has added them."""
        found = {name.lower(): column for name, column in existing.items()}
        differences = []
        for name, field in wanted.items():
            column = found.get(name.lower())
            if column is None:
                differences.append(f"{table}.{name} is missing; migrate() adds it")
            elif name not in ("ID", "experiment_id") and not self._holds(table, name, column.declared, field):
                differences.append(f"{table}.{name} is {column.declared}, configured is {field}; change one of the two")
        return differences

    def _obstacles(self, table: str, existing: _Columns, found: _Identity) -> list[str]:
        """Return the columns because of which the rows of the configuration cannot be inserted, or would be others."""
        given = {"id", "experiment_id", "timestamp", "creation_date", "status"}
        given |= {name.lower() for name in self._schema.keyfields}
        obstacles = [
            f"{table}.{name} is NOT NULL without a default, so that no row can be inserted; give it a default"
            for name, column in existing.items()
            if column.required and name.lower() not in given
        ]
        if table == self._schema.table:
            for name in found.keyfields or _columns_before("creation_date", existing):
                if name.lower() not in given:
                    obstacles.append(f"{table}.{name} is a keyfield of the table, but not configured; configure it")
        return obstacles

    def _warn_of_rounding(self, existing: _Columns) -> None:
        """Warn of columns that py-experimenter declared as DECIMAL, which are DECIMAL(10,0) on MySQL."""
        for name, (declared, *_) in existing.items():
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

    def _create(self, cursor: Cursor, codecarbon: bool, identity: bool) -> None:
        main = self._columns(cursor, self._schema.table)
        self._rename_side_tables(cursor, bool(main))
        with self._all_or_none(cursor) as made:
            with self._within_limits(self._schema.table):
                if main:
                    self._refuse_differences(self._tables(cursor), self._identity(cursor))
                    self._warn_of_rounding(main)
                    self._rewrite_keyfields(cursor, identity)
                else:
                    self._create_table(cursor, self._schema.table, self._schema.create_main(), made)
                if not self._has_status_index(cursor):
                    self._create_index(cursor, self._schema.status_index, self._schema.table, ["status", "ID"])
                if identity:
                    for statement in self._schema.together(self._new_identity(cursor)):
                        cursor.run(statement)
            self._create_side_tables(cursor, codecarbon, made)

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
        """Name the fields of a table if the block would make it larger than the database allows."""
        columns, most = len(self._schema.types_of(table)), self._dialect.most_columns
        try:
            if most is not None and columns >= most:  # one may be that of the identity
                raise DatabaseLimitError(f"{columns} columns, but at most {most} are possible")
            yield
        except DatabaseLimitError as error:
            raise CreatingTableError(
                f"{table} would be too large for {self._dialect.name} with {self._schema.fields_of(table)}: {error}. "
                "One JSON field holds many values, and each logtable has columns of its own."
            ) from error

    def _create_table(self, cursor: Cursor, table: str, create: str, made: list[str]) -> None:
        cursor.run(create)
        made.append(table)
        self._check_size(cursor, table)

    def _check_size(self, cursor: Cursor, table: str) -> None:
        """Raise if no row with all its values fits into a table that has just been made or changed."""
        if self._dialect.complete_row is not None:
            size, most = cursor.one(self._dialect.complete_row, table=table) or (0, 0)
            if size > most:
                raise DatabaseLimitError(f"a complete row has at least {size} bytes, but at most {most} are possible")

    def _rewrite_keyfields(self, cursor: Cursor, identity: bool) -> None:
        """Write the keyfields of py-experimenter's rows as a fill does, where columns hold values of any type.

        Otherwise, a fill would not recognize the row whose boolean is the text ``True``.
        """
        adopted = self._identity(cursor).name or (not identity and self._columns(cursor, self._schema.attempts))
        if self._dialect.lengths_matter or adopted:
            return
        table = self._schema.q(self._schema.table)
        for name, field in self._schema.keyfields.items():
            column, encode = self._schema.q(name), Encoder(name, field, self._dialect.keeps_infinity)
            for (value,) in cursor.all(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL"):
                try:
                    plain = decode(name, field, value)
                except UndecodableValueError as error:
                    raise TableHasWrongStructureError(f"{self._schema.table}: {error}") from error
                with suppress(InvalidValueError):  # it can be read, so it is left as it is
                    wanted = None if is_missing(plain) else encode(plain)
                    if (type(wanted), wanted) != (type(value), value):
                        update = f"UPDATE {table} SET {column} = :wanted WHERE {column} = :value"
                        cursor.run(update, wanted=wanted, value=value)

    def _has_status_index(self, cursor: Cursor) -> bool:
        found = cursor.all(self._dialect.list_indexes, table=self._schema.table)
        return any("__status" in name for (name,) in found)

    def _create_index(self, cursor: Cursor, name: str, table: str, columns: Sequence[str]) -> None:
        cursor.run(self._schema.create_index(self._free(cursor, name), table, columns))

    def _free(self, cursor: Cursor, index: str) -> str:
        """Return a name for a new index. Where a name is free only once, the index of a renamed table may have it."""
        if self._dialect.find_name is None or cursor.one(self._dialect.find_name, name=index) is None:
            return index
        end = f"_{_token()}"
        return self._dialect.shortened(index, self._dialect.longest_name - len(end)) + end

    def _identifies(self, found: _Identity) -> bool:
        return {name.lower() for name in found.keyfields} == {name.lower() for name in self._schema.keyfields}

    def _duplicates(self, cursor: Cursor) -> tuple[Any, ...] | None:
        return cursor.one(self._schema.find_duplicates())

    def _new_identity(self, cursor: Cursor) -> list[str]:
        """Return the statements that make the keyfields the identity of a row, if they are not."""
        found = self._identity(cursor)
        if self._identifies(found):
            return []
        if found.name is not None:  # keyfields have been added, so rows that differed still do
            return [self._schema.drop_identity(found.name), self._schema.add_identity(found.name)]
        duplicates = self._duplicates(cursor)
        if duplicates is not None:
            raise DuplicateExperimentsError(
                f"the table {self._schema.table} has several rows with equal keyfields, for example "
                f"IDs {duplicates[0]} and {duplicates[1]}; delete all but one of each by SQL, then fill again. "
                "Reading, executing and resetting work without that."
            )
        return [self._schema.add_identity(self._free(cursor, self._schema.identity_index))]

    def _create_side_tables(self, cursor: Cursor, codecarbon: bool, made: list[str]) -> None:
        id_type = next(c.declared for n, c in self._columns(cursor, self._schema.table).items() if n.lower() == "id")
        for name in self._side_tables(codecarbon):
            columns = self._columns(cursor, name)
            if not columns:
                with self._within_limits(name):
                    self._create_table(cursor, name, self._schema.create_side_table(name, id_type), made)
                for index, indexed in self._schema.indexes_of(name).items():
                    self._create_index(cursor, index, name, indexed)
                continue
            for column in self._missing(name, columns):  # in a table of py-experimenter or of an older version
                if column == "experiment_id":
                    cursor.run(self._schema.add_reference(name, id_type))
                else:
                    cursor.run(self._schema.add_column(name, column, self._schema.types_of(name)[column]))

    # Migrating

    def _migrate_main(
        self, cursor: Cursor, existing: _Columns, dry_run: bool, defaults: Mapping[str, Any]
    ) -> list[str]:
        table, wanted = self._schema.table, self._schema.columns
        missing = self._missing(table, existing)
        new_keyfields = [name for name in missing if name in self._schema.keyfields]
        for name in defaults:
            if name not in self._schema.keyfields:  # one that is no longer new has got its value with its column
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
            name: Encoder(name, wanted[name], self._dialect.keeps_infinity)(value)
            for name, value in defaults.items()
            if name in new_keyfields
        }
        found = self._identity(cursor)
        self._refuse_unmigratable(existing, found)
        done = [f"add column {table}.{name} {wanted[name]}" for name in missing]
        done += [f"set {table}.{name} to {value!r} in {rows} rows" for name, value in encoded.items()]
        if not new_keyfields and not self._identifies(found) and (found.name or not self._duplicates(cursor)):
            done.append(f"identify the rows of {table} by {', '.join(self._schema.keyfields)}")
        if dry_run or not missing:
            return done
        order = list(wanted)
        changes = [
            self._schema.add_column(table, name, wanted[name], encoded.get(name), order[order.index(name) - 1])
            for name in missing
        ]
        if found.name is not None:
            changes += self._new_identity(cursor)
        with self._within_limits(table):
            for statement in self._schema.together(changes):
                cursor.run(statement)
            self._check_size(cursor, table)
        return done

    def _refuse_unmigratable(self, existing: _Columns, found: _Identity) -> None:
        wanted = {name: field for name, field in self._schema.columns.items() if name in existing}
        differences = self._differences(self._schema.table, existing, wanted)
        differences += self._obstacles(self._schema.table, existing, found)
        if differences:
            raise TableHasWrongStructureError(
                "migrate() adds what is missing, but cannot change this:\n  " + "\n  ".join(differences)
            )

    def _migrate_logtables(self, cursor: Cursor, dry_run: bool, names: Mapping[str, str]) -> list[str]:
        done = []
        for name in self._schema.logtables.values():
            columns, wanted = self._columns(cursor, names.get(name, name)), self._schema.types_of(name)
            if not columns:
                done.append(f"create table {name}")
                continue
            before, changes = "timestamp", []
            for column, field in wanted.items():
                if column not in columns and column not in LOG_COLUMNS:  # the next fill or execution adds those
                    done.append(f"add column {name}.{column} {field}")
                    changes.append(self._schema.add_column(name, column, field, after=before))
                before = column
            if changes and not dry_run:
                with self._within_limits(name):
                    for statement in self._schema.together(changes, name):
                        cursor.run(statement)
                    self._check_size(cursor, name)
        return done


def _is_logtable(columns: _Columns) -> bool:
    return [name.lower() for name in columns][:3] == ["id", "experiment_id", "timestamp"]


def _token() -> str:
    return uuid.uuid4().hex[:8]


def _columns_before(name: str, columns: _Columns) -> list[str]:
    """Return the columns after the first and before another, where tables have their keyfields."""
    names = list(columns)
    folded = [other.lower() for other in names]
    return names[1 : folded.index(name)] if name in folded else []


def _parsed(declared: str) -> FieldType | None:
    """Parse the type of a column in the database; None if it is not one of ours."""
    try:
        return FieldType.parse(declared)
    except ValueError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
