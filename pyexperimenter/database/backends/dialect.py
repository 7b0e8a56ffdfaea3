"""All that differs between databases, as data. Nothing else in the library asks which database it speaks to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

from pyexperimenter.exceptions import (
    AccessDeniedError,
    DatabaseConnectionError,
    DatabaseFullError,
    DatabaseQueryError,
    InvalidValueError,
    MissingDatabaseError,
    MissingTableError,
    PyExperimenterError,
    ReadOnlyDatabaseError,
    ServerUnreachableError,
    TransientDatabaseError,
)
from pyexperimenter.fieldtypes import FieldType, Kind

IDENTITY = "pyexperimenter_identity"
"""Name of the invisible column that holds a row's identity, where a database needs one."""


@dataclass(frozen=True)
class Remedy:
    """What a driver's error means to us, and what a person can do about it."""

    error: type[PyExperimenterError]
    advice: str


@dataclass(frozen=True, eq=False)  # each is itself, and so has a hash
class Dialect:
    """One database's way to say what every database can do.

    Attributes
    ----------
    name : str
        The value of ``provider``.
    quote_mark : str
        What identifiers are put in.
    placeholder : str
        What the driver replaces by a parameter. Statements are written with ``?`` everywhere.
    opaque : str
        Regular expression of quoted texts and comments, in which a ``?`` is no parameter.
    begin : str
        Starts a transaction that may write, with whatever lock keeps two of them apart.
    now, now_exact : str
        UTC time by the database's clock, to the second and to the microsecond.
    later : str
        UTC time by the database's clock that many seconds (a parameter) from now, to the microsecond.
    row_lock, skip_locked : str
        Suffixes of a SELECT that lock its rows; the second passes over rows that others have locked.
    insert_missing : str
        Suffix of an INSERT that makes it pass over rows that exist, and nothing else: no data error is hidden.
    id_column : str
        Type of a primary key that numbers itself and never reuses a number.
    column_types : Mapping of str to str
        Declared types that are stored as another type here.
    table_options : str
        Suffix of a CREATE TABLE.
    whole_seconds : str
        Type of a time to the second.
    identity : Callable
        Quoted keyfields with their types -> expressions that are equal for two rows exactly if all their keyfields are,
        NULL being equal to NULL.
    add_identity, drop_identity : str
        Statement that makes the database refuse a second row with equal ``{identity}``, and the one that undoes it.
    add_after : str
        Suffix of ADD COLUMN that puts it behind another, or nothing.
    list_columns, list_indexes, list_references : str
        Queries for (name, declared type) of a table's columns, the names of its indexes, and the tables whose
        foreign keys refer to it.
    exclusive : tuple of str or None
        Statements that take and give back a named lock under which tables are changed. None for the first: starting a
        transaction is enough. None for the second: the lock ends with the transaction that DDL is part of.
    savepoint : tuple of str or None
        Statements that set a savepoint and go back to it, where an error spoils its transaction.
    returning_id, inserted_id : str, Callable
        Suffix of an INSERT that makes it tell the new ID, if it needs one; the driver's cursor -> that ID.
    folded : frozenset of str
        The library's own names that mean something else unless they are quoted.
    largest_packet : str or None
        Query for the most bytes of a statement with its values, where exceeding it costs the connection.
    longest_name : int or None
        Most characters of an identifier.
    lengths_matter : bool
        Whether the database itself refuses what is longer than declared.
    comparable : Mapping of Kind to str
        Kinds of columns ``{}`` that cannot be compared -> an expression for them that can.
    keeps_infinity : bool
        Whether a DOUBLE can be infinite.
    states : Mapping
        SQLSTATE of an error, or its first two letters, -> what it means.
    remedies : Mapping
        Driver's error code, or part of its message, -> what it means.
    """

    name: str
    quote_mark: str
    placeholder: str
    opaque: str
    begin: str
    now: str
    now_exact: str
    later: str
    row_lock: str
    skip_locked: str
    insert_missing: str
    id_column: str
    column_types: Mapping[str, str]
    table_options: str
    whole_seconds: str
    identity: Callable[[Mapping[str, FieldType]], str]
    add_identity: str
    drop_identity: str
    add_after: str
    list_columns: str
    list_indexes: str
    list_references: str
    exclusive: tuple[str | None, str | None]
    savepoint: tuple[str, str] | None
    returning_id: str
    inserted_id: Callable[[Any], Any]
    folded: frozenset[str]
    largest_packet: str | None
    longest_name: int | None
    lengths_matter: bool
    comparable: Mapping[Kind, str]
    keeps_infinity: bool
    states: Mapping[str, Remedy]
    remedies: Mapping[int | str, Remedy]

    def quote(self, name: str) -> str:
        """Quote an identifier, so that ``order`` and ``rank`` are fine names."""
        mark = self.quote_mark
        return f"{mark}{name.replace(mark, mark * 2)}{mark}"

    def column_type(self, field: FieldType) -> str:
        """Return the type with which a field's column is declared."""
        return self.column_types.get(str(field), str(field))

    def statement(self, sql: str) -> str:
        """Translate a statement written with ``?`` into the driver's form."""
        return sql if self.placeholder == "?" else _translated(sql, self)

    def meaning_of(self, error: Exception) -> Remedy | None:
        """Return what a driver's error means, or None where it has no special meaning."""
        state = getattr(error, "sqlstate", None)
        if self.states and state:  # then its text may hold anything
            return self.states.get(state) or self.states.get(state[:2])
        message = str(error)
        for part, remedy in self.remedies.items():
            if isinstance(part, str) and part in message:
                return remedy
        code = error.args[0] if error.args else None
        return self.remedies.get(code) if isinstance(code, int) else None


@lru_cache(maxsize=512)
def _translated(sql: str, dialect: Dialect) -> str:
    """Replace each ``?`` that stands for a parameter, and quote what is folded, none inside quotes or comments.

    Each ``%`` is doubled.
    """

    def replace(match: re.Match[str]) -> str:
        if match[0] in dialect.folded:
            return dialect.quote(match[0])
        return dialect.placeholder if match[0] == "?" else match[0].replace("%", "%%")

    return re.sub(rf"{dialect.opaque}|\?|%|\b[A-Z]+\b", replace, sql, flags=re.S)


# A second worker, or the researcher's own SQL session, was at it at the same time.
_BUSY = Remedy(TransientDatabaseError, "others use the database at the same time; try again")
_NO_TABLE = Remedy(MissingTableError, "fill the table first, or check its name")
_NO_COLUMN = Remedy(DatabaseQueryError, "check the names of columns; texts stand in single quotes")
_LOST = Remedy(TransientDatabaseError, "the connection was lost; try again")


def _sqlite_identity(columns: Mapping[str, FieldType]) -> str:
    # In a unique index each NULL differs from every other. So NULL is indexed as 0, and a mask that says which
    # columns are NULL keeps that 0 apart from a real one. Collations of hand-made columns are overruled.
    values = ", ".join(f"ifnull({column}, 0) COLLATE BINARY" for column in columns)
    nulls = " || ".join(f"({column} IS NULL)" for column in columns)
    return f"{values}, {nulls}"


SQLITE = Dialect(
    name="sqlite",
    quote_mark='"',
    placeholder="?",
    opaque="",  # the driver sees to it
    begin="BEGIN IMMEDIATE",
    now="datetime('now')",
    now_exact="strftime('%Y-%m-%d %H:%M:%f', 'now')",
    later="strftime('%Y-%m-%d %H:%M:%f', 'now', ? || ' seconds')",
    row_lock="",  # BEGIN IMMEDIATE lets one writer in at a time
    skip_locked="",
    insert_missing=" ON CONFLICT DO NOTHING",
    id_column="INTEGER PRIMARY KEY AUTOINCREMENT",
    # A column's affinity follows from its type's name: TEXT keeps JSON from being read as a number.
    column_types={"JSON": "JSON TEXT", "FLOAT": "DOUBLE", "NUMERIC": "DOUBLE", "DECIMAL": "DOUBLE"},
    table_options="",
    whole_seconds="DATETIME",
    identity=_sqlite_identity,
    add_identity="CREATE UNIQUE INDEX {index} ON {table} ({identity})",
    drop_identity="DROP INDEX {index}",
    add_after="",
    list_columns="SELECT name, type FROM pragma_table_info(?) ORDER BY cid",
    list_indexes="SELECT name FROM pragma_index_list(?)",
    list_references=(
        "SELECT DISTINCT m.name FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f "
        "WHERE m.type = 'table' AND lower(f.\"table\") = lower(?) ORDER BY m.name"
    ),
    exclusive=(None, None),
    savepoint=None,
    returning_id="",
    inserted_id=attrgetter("lastrowid"),
    folded=frozenset(),
    largest_packet=None,
    longest_name=None,
    lengths_matter=False,
    comparable={},
    keeps_infinity=True,
    states={},
    remedies={
        "database is locked": _BUSY,
        "database table is locked": _BUSY,
        "database schema has changed": _BUSY,
        "no such table": _NO_TABLE,
        "no such column": _NO_COLUMN,
        "attempt to write a readonly database": Remedy(
            ReadOnlyDatabaseError, "make the file and its directory writable for you"
        ),
        "database or disk is full": Remedy(DatabaseFullError, "free some space; nothing committed was lost"),
        "disk I/O error": Remedy(DatabaseFullError, "look at the disk and its quota; nothing committed was lost"),
        "unable to open database file": Remedy(
            DatabaseConnectionError, "check that the directory exists and that you may read and write there"
        ),
        "file is not a database": Remedy(DatabaseConnectionError, "the file holds something else; name another path"),
        "UNIQUE constraint failed": Remedy(InvalidValueError, "a row with these values exists already"),
        "int too large": Remedy(InvalidValueError, "SQLite holds integers up to 9223372036854775807"),
    },
)


def _mysql_identity(columns: Mapping[str, FieldType]) -> str:
    # A hash of the columns' bytes is blind to collations, takes texts of any length, and tells NULL from all.
    parts = ", ".join(f"IFNULL(SHA2({column}, 256), 'NULL')" for column in columns)
    return f"UNHEX(SHA2(CONCAT_WS('-', {parts}), 256))"


_UNREACHABLE = Remedy(ServerUnreachableError, "check host, port and that the server runs")
_DENIED = Remedy(AccessDeniedError, "check user, password and the user's grants")
_NO_ROOM = Remedy(DatabaseFullError, "free some space on the server; nothing committed was lost")
_MISFIT = Remedy(InvalidValueError, "the column of the table is narrower than the configuration declares")
_BAD_CERTIFICATE = Remedy(
    DatabaseConnectionError, "the server's certificate is not of the given ca, or another host's; check 'tls'"
)
_NO_TLS = Remedy(DatabaseConnectionError, "let the server encrypt, or take 'tls' out of the credentials")
_READ_ONLY = Remedy(ReadOnlyDatabaseError, "connect to a server that may be written to")

MYSQL = Dialect(
    name="mysql",
    quote_mark="`",
    placeholder="%s",
    opaque=(
        r"""'(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*"|`(?:[^`]|``)*`"""
        r"""|--(?=\s|\Z)[^\n]*|\#[^\n]*|/\*.*?(?:\*/|\Z)"""
    ),
    begin="START TRANSACTION",
    now="UTC_TIMESTAMP()",
    now_exact="UTC_TIMESTAMP(6)",
    later="UTC_TIMESTAMP(6) + INTERVAL ? SECOND",
    row_lock=" FOR UPDATE",
    skip_locked=" FOR UPDATE SKIP LOCKED",
    # Unlike INSERT IGNORE this hides no data error. The row is not changed, and not counted as affected.
    insert_missing=" ON DUPLICATE KEY UPDATE status = status",
    id_column="BIGINT PRIMARY KEY AUTO_INCREMENT",
    # A bare DECIMAL would round to whole numbers, FLOAT keeps 7 digits, TIMESTAMP depends on the time zone.
    column_types={
        "FLOAT": "DOUBLE",
        "REAL": "DOUBLE",
        "NUMERIC": "DOUBLE",
        "DECIMAL": "DOUBLE",
        "DATETIME": "DATETIME(6)",
        "TIMESTAMP": "DATETIME(6)",
    },
    table_options=" ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
    whole_seconds="DATETIME",
    identity=_mysql_identity,
    add_identity=(
        f"ALTER TABLE {{table}} ADD COLUMN `{IDENTITY}` BINARY(32) GENERATED ALWAYS AS ({{identity}}) STORED "
        f"INVISIBLE, ADD UNIQUE INDEX {{index}} (`{IDENTITY}`)"
    ),
    drop_identity=f"ALTER TABLE {{table}} DROP INDEX {{index}}, DROP COLUMN `{IDENTITY}`",
    add_after=" AFTER {}",
    list_columns=(
        "SELECT column_name, column_type FROM information_schema.columns "
        f"WHERE table_schema = DATABASE() AND table_name = ? AND column_name <> '{IDENTITY}' ORDER BY ordinal_position"
    ),
    list_indexes=(
        "SELECT DISTINCT index_name FROM information_schema.statistics "
        "WHERE table_schema = DATABASE() AND table_name = ?"
    ),
    list_references=(
        "SELECT DISTINCT table_name FROM information_schema.key_column_usage "
        "WHERE table_schema = DATABASE() AND referenced_table_schema = DATABASE() AND referenced_table_name = ? "
        "ORDER BY table_name"
    ),
    exclusive=("SELECT GET_LOCK(SHA2(?, 256), 60)", "SELECT RELEASE_LOCK(SHA2(?, 256))"),
    savepoint=None,
    returning_id="",
    inserted_id=attrgetter("lastrowid"),
    folded=frozenset(),
    largest_packet="SELECT @@max_allowed_packet",
    longest_name=64,
    lengths_matter=True,
    comparable={},
    keeps_infinity=False,
    states={},
    remedies={
        1020: _BUSY,  # the row changed since the snapshot (MariaDB's innodb_snapshot_isolation)
        1205: _BUSY,  # lock wait timeout
        1213: _BUSY,  # deadlock
        1040: _BUSY,  # too many connections
        1203: _BUSY,  # too many connections of this user
        1053: _LOST,  # server shutdown in progress
        1317: _BUSY,  # an administrator killed the statement
        1927: _LOST,  # or the connection
        2006: _LOST,
        2013: _LOST,
        2014: _LOST,
        0: _LOST,  # pymysql's word for a connection closed from under it
        2002: _UNREACHABLE,
        2003: _UNREACHABLE,
        2005: _UNREACHABLE,
        1044: _DENIED,
        1045: _DENIED,
        1142: _DENIED,
        1698: _DENIED,
        1049: Remedy(MissingDatabaseError, "create it, or let create_table(create_database=True) do so"),
        1146: _NO_TABLE,
        1054: _NO_COLUMN,
        1290: _READ_ONLY,
        1836: _READ_ONLY,
        1792: _READ_ONLY,
        1021: _NO_ROOM,
        1114: _NO_ROOM,
        1264: _MISFIT,
        1366: _MISFIT,
        1406: _MISFIT,
        1265: _MISFIT,
        1153: Remedy(InvalidValueError, "the value is larger than the server's max_allowed_packet"),
        1062: Remedy(InvalidValueError, "a row with these values exists already"),
        3159: Remedy(AccessDeniedError, "the server wants TLS; give 'tls' in the credentials"),
        "certificate verify failed": _BAD_CERTIFICATE,
        "SSL is required": _NO_TLS,
        "cryptography": Remedy(
            AccessDeniedError, "this server's passwords need the package cryptography (pip install cryptography) or TLS"
        ),
    },
)


def _postgresql_identity(columns: Mapping[str, FieldType]) -> str:
    # A hash takes texts of any length and any number of keyfields, and is blind to collations. What it is made of has
    # to be the same in every session, so that no number or date is written in that session's style.
    def form(column: str, field: FieldType) -> str:
        exact = field.kind is Kind.REAL and field.length is not None  # NUMERIC, whose text depends on nothing
        return f"{column}::text" if exact else _POSTGRESQL_FORMS.get(field.kind, "{}::text").format(column)

    parts = " || ' ' || ".join(f"coalesce({form(*column)}, 'NULL')" for column in columns.items())
    return f"sha256(({parts})::bytea)"


# The text's own bytes: in a bytea's notation only a backslash means something else. (convert_to may not be indexed.)
_HASHED = "encode(sha256(replace({}::text, chr(92), repeat(chr(92), 2))::bytea), 'hex')"
_POSTGRESQL_FORMS = {
    Kind.TEXT: _HASHED,
    Kind.JSON: _HASHED,
    Kind.BINARY: "encode(sha256({}), 'hex')",
    Kind.REAL: "encode(float8send({} + 0.0), 'hex')",  # -0.0 and 0.0 are one value
    Kind.DATETIME: "encode(timestamp_send({}), 'hex')",
    Kind.DATE: "encode(date_send({}), 'hex')",
}

_POSTGRESQL_UTC = "(clock_timestamp() AT TIME ZONE 'UTC')"

POSTGRESQL = Dialect(
    name="postgresql",
    quote_mark='"',
    placeholder="%s",
    # A backslash means something only after E; some operators begin with #.
    opaque=(
        r"""\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*\""""
        r"""|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?(?:\*/|\Z)"""
    ),
    # Others' locks on rows that do not concern us must not hold us up, nor fail us.
    begin="BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    now=f"date_trunc('second', {_POSTGRESQL_UTC})",
    now_exact=_POSTGRESQL_UTC,
    later=f"({_POSTGRESQL_UTC} + make_interval(secs => ?))",
    row_lock=" FOR UPDATE",
    skip_locked=" FOR UPDATE SKIP LOCKED",
    insert_missing=" ON CONFLICT DO NOTHING",
    # ALWAYS: an ID given by hand would not be counted, and collide with a later row's.
    id_column="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    column_types={
        "TINYINT": "SMALLINT",
        "MEDIUMINT": "INTEGER",
        "INT": "INTEGER",
        "TINYINT UNSIGNED": "SMALLINT",
        "SMALLINT UNSIGNED": "INTEGER",
        "MEDIUMINT UNSIGNED": "INTEGER",
        "INT UNSIGNED": "BIGINT",
        "INTEGER UNSIGNED": "BIGINT",
        "BIGINT UNSIGNED": "NUMERIC(20,0)",
        "DOUBLE": "DOUBLE PRECISION",
        "FLOAT": "DOUBLE PRECISION",
        "REAL": "DOUBLE PRECISION",
        "NUMERIC": "DOUBLE PRECISION",
        "DECIMAL": "DOUBLE PRECISION",
        "BOOL": "BOOLEAN",
        **dict.fromkeys(("TINYTEXT", "MEDIUMTEXT", "LONGTEXT"), "TEXT"),
        **dict.fromkeys(("TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB"), "BYTEA"),
        "DATETIME": "TIMESTAMP",
    },
    table_options="",
    whole_seconds="TIMESTAMP(0)",
    identity=_postgresql_identity,
    add_identity="CREATE UNIQUE INDEX {index} ON {table} ({identity})",
    drop_identity="DROP INDEX {index}",
    add_after="",
    # Types in words of ours: a TEXT is as long as a LONGTEXT here, and a REAL has 7 digits.
    list_columns=(
        "SELECT attname, CASE format_type(atttypid, atttypmod) "
        "WHEN 'text' THEN 'longtext' WHEN 'bytea' THEN 'longblob' "
        "WHEN 'real' THEN 'float' WHEN 'character varying' THEN 'longtext' ELSE replace(replace("
        "format_type(atttypid, atttypmod), 'character varying', 'varchar'), ' without time zone', '') END "
        "FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(?)) AND attnum > 0 AND NOT attisdropped "
        "ORDER BY attnum"
    ),
    list_indexes=(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = to_regclass(quote_ident(?))"
    ),
    list_references=(
        "SELECT DISTINCT c.relname FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid "
        "WHERE f.contype = 'f' AND f.confrelid = to_regclass(quote_ident(?)) ORDER BY c.relname"
    ),
    exclusive=("SELECT 1 FROM pg_advisory_xact_lock(hashtextextended(?, 0))", None),
    savepoint=("SAVEPOINT before", "ROLLBACK TO SAVEPOINT before"),
    returning_id=' RETURNING "ID"',
    inserted_id=lambda cursor: cursor.fetchone()[0],
    folded=frozenset({"ID"}),
    largest_packet=None,
    longest_name=63,
    lengths_matter=True,
    comparable={Kind.JSON: "{}::text"},
    keeps_infinity=True,
    states={
        "40001": _BUSY,  # serialization failure
        "40P01": _BUSY,  # deadlock
        "55P03": _BUSY,  # lock timeout
        "55006": _BUSY,  # the database is in use
        "57014": _BUSY,  # an administrator cancelled the statement
        "53300": _BUSY,  # too many connections
        "0A000": _BUSY,  # a plan made before the table was changed
        "57": _LOST,  # shutdown, crash, or an administrator ended the connection
        "08": _LOST,
        "25P03": _LOST,  # idle in a transaction for too long
        "28": _DENIED,
        "42501": _DENIED,
        "3D000": Remedy(MissingDatabaseError, "create it, or let create_table(create_database=True) do so"),
        "42P01": _NO_TABLE,
        "25006": _READ_ONLY,
        "53": _NO_ROOM,
        "58030": _NO_ROOM,  # I/O error
        "22": _MISFIT,
        "23505": Remedy(InvalidValueError, "a row with these values exists already"),
    },
    # While connecting there are no codes.
    remedies={
        "password authentication failed": _DENIED,
        "no password supplied": _DENIED,
        "no pg_hba.conf entry": _DENIED,
        "authentication failed": _DENIED,
        "permission denied for database": _DENIED,
        "is not permitted to log in": _DENIED,
        "certificate verify failed": _BAD_CERTIFICATE,
        "server certificate for": _BAD_CERTIFICATE,
        "server does not support SSL": _NO_TLS,
        "root certificate file": Remedy(
            DatabaseConnectionError, "this system's authorities are not found; name a file of them by 'ca' in 'tls'"
        ),
        "private key file": Remedy(DatabaseConnectionError, "make the 'key' of 'tls' yours and chmod 600 it"),
        "requires a valid client certificate": Remedy(
            AccessDeniedError, "the server wants a certificate of yours; give 'cert' and 'key' in 'tls'"
        ),
        "alert unknown ca": Remedy(AccessDeniedError, "the server does not trust who signed 'cert'; check 'tls'"),
        "too many clients": _BUSY,
        "too many connections": _BUSY,
        "remaining connection slots": _BUSY,
        'FATAL:  role "': _DENIED,
        "does not exist": Remedy(MissingDatabaseError, "create it, or let create_table(create_database=True) do so"),
        "the database system is": _UNREACHABLE,  # starting up, shutting down, in recovery
        "connection to server": _UNREACHABLE,
        "failed to resolve host": _UNREACHABLE,
        "connection timeout expired": _UNREACHABLE,
        "could not translate host name": _UNREACHABLE,
        "connection failed": _UNREACHABLE,
        "server closed the connection": _LOST,
        "the connection is closed": _LOST,
        "the connection is lost": _LOST,
        "connection has been closed": _LOST,
        "consuming input failed": _LOST,
        "sending query": _LOST,
        "flushing failed": _LOST,
        "no answer": _LOST,
    },
)
