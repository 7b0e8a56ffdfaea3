"""PostgreSQL: its dialect, and how to connect, by the package psycopg (an extra), which only this module imports."""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Generator, Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from pyexperimenter.database.backends.base import CONNECT_TIMEOUT, Server, translated_errors
from pyexperimenter.database.backends.dialect import (
    ASIDE,
    BAD_CERTIFICATE,
    BUSY,
    CONSTRAINT,
    DENIED,
    EXISTS,
    LOST,
    MISFIT,
    NO_COLUMN,
    NO_GRANT,
    NO_ROOM,
    NO_TABLE,
    NO_TLS,
    READ_ONLY,
    TOO_LARGE,
    UNREACHABLE,
    Dialect,
    Remedy,
)
from pyexperimenter.exceptions import (
    AccessDeniedError,
    DatabaseConnectionError,
    DatabaseCreationError,
    DatabaseQueryError,
    MissingDatabaseError,
)
from pyexperimenter.fieldtypes import FieldType, Kind
from pyexperimenter.machine.system import poll_socket

try:
    import psycopg
    from psycopg.sql import Literal
    from psycopg.types.string import TextLoader
    from psycopg.waiting import Ready, Wait
except ImportError as missing:
    raise DatabaseConnectionError(f"{missing}; pip install 'pyexperimenter[postgresql]'") from missing

_IN_USE = "2BP01"  # a view or a foreign key depends on a table
# Locks are waited for as long as MySQL does by default. DOUBLEs are read with all their digits, whatever a role or a
# database has set. Without standard strings, psycopg's COPY would double the backslashes of bytes.
_SESSION = "SET lock_timeout = '50s'; SET extra_float_digits = 3; SET standard_conforming_strings = on"
_ANY_DATABASE = "postgres"  # every server has it
_NO_FILE = f"{os.devnull}/none"  # cannot exist


def _identity(columns: Mapping[str, FieldType]) -> str:
    # A hash takes texts of any length and any number of keyfields, and ignores collations. What it hashes is the same
    # in every session: a JSON object of the keyfields as texts, or as the hex digits of their binary form where the
    # text depends on settings. All its keys are empty. The expression has to fit into one row of the catalog, of about
    # 8000 bytes after compression, so all that can be is said once, and not for each keyfield.
    doubles: list[str] = []
    others: list[str] = []
    for column, field in columns.items():
        exact = field.kind is Kind.REAL and field.length is not None  # NUMERIC, whose text is always the same
        send = None if exact else _BINARY_FORMS.get(field.kind)
        same = doubles if send == _BINARY_FORMS[Kind.REAL] else others
        same.append(f"encode({send}({column}), 'hex')" if send else column)
    one_zero = f"array_replace(ARRAY[{', '.join(doubles)}]::text[], '80{'0' * 14}', '{'0' * 16}')"  # -0.0 is 0.0
    values = f"ARRAY[{', '.join(others)}]::text[] || {one_zero}"
    text = f"json_object(array_fill(''::text, ARRAY[{len(columns)}]), {values})::text"
    # The bytes of the text: only a backslash has a meaning of its own in a bytea. (An index cannot use convert_to.)
    return f"sha256(replace({text}, chr(92), repeat(chr(92), 2))::bytea)"


_BINARY_FORMS = {
    Kind.REAL: "float8send",
    Kind.DATETIME: "timestamp_send",
    Kind.DATE: "date_send",
    Kind.BINARY: "sha256",
}

_UTC = "(clock_timestamp() AT TIME ZONE 'UTC')"

_NAMED = "replace({}::regclass::text, '\"', '')"  # with its schema, if it cannot be found without

POSTGRESQL = Dialect(
    name="postgresql",
    quote_mark='"',
    placeholder="%s",
    # A backslash is special only after E; some operators begin with #.
    opaque=(
        r"""\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*\""""
        r"""|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?(?:\*/|\Z)"""
    ),
    # A statement neither waits for nor fails because of changes to rows that it does not concern.
    begin="BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    read_only=("BEGIN READ ONLY",),
    cut=frozenset(["57014"]),
    snapshot=("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",),
    now=f"date_trunc('second', {_UTC})",
    now_exact=_UTC,
    later=f"({_UTC} + make_interval(secs => :lease))",
    row_lock=" FOR UPDATE",
    skip_locked=" FOR UPDATE SKIP LOCKED",
    insert_missing=" ON CONFLICT DO NOTHING",
    make_aside=(f"CREATE TEMPORARY TABLE {ASIDE} ON COMMIT DROP AS SELECT {{keyfields}} FROM {{table}} LIMIT 0",),
    unless_known="",
    # ALWAYS: an ID given by hand would not advance the counter, and collide with that of a later row.
    update_triggers=None,
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
        "LONG": "BIGINT",
        "LONG UNSIGNED": "NUMERIC(20,0)",
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
    identity=_identity,
    add_identity="CREATE UNIQUE INDEX {index} ON {table} ({identity})",
    drop_identity="DROP INDEX {index}",
    add_after="",
    # Types by our names: a TEXT is as long as our LONGTEXT, and a REAL has 7 digits.
    list_columns=(
        "SELECT attname, CASE type WHEN 'text' THEN 'longtext' WHEN 'bytea' THEN 'longblob' "
        "WHEN 'real' THEN 'float' WHEN 'character varying' THEN 'longtext' "
        "ELSE replace(replace(type, 'character varying', 'varchar'), ' without time zone', '') END, "
        "attnotnull AND NOT atthasdef AND attidentity = '', "
        f"(SELECT MIN({_NAMED.format('confrelid')}) FROM pg_constraint "
        "WHERE contype = 'f' AND conrelid = attrelid AND attnum = ANY (conkey)) "
        "FROM pg_attribute, trim('\"' FROM format_type(atttypid, atttypmod)) type "  # quote_all_identifiers may be on
        "WHERE attrelid = to_regclass(quote_ident(:table)) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ),
    list_with_column=(
        "SELECT c.relname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND a.attname = :column "
        "AND NOT a.attisdropped"
    ),
    list_indexes=(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = to_regclass(quote_ident(:table))"
    ),
    list_references=(
        f"SELECT DISTINCT {_NAMED.format('conrelid')} FROM pg_constraint "
        "WHERE contype = 'f' AND confrelid = to_regclass(quote_ident(:table)) ORDER BY 1"
    ),
    # An index depends on the columns of its expression.
    list_identity=(
        "SELECT DISTINCT c.relname, a.attname, a.attnum FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refobjid = i.indrelid "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = d.refobjsubid "
        "WHERE i.indrelid = to_regclass(quote_ident(:table)) AND i.indisunique AND strpos(c.relname, '__identity') > 0 "
        "ORDER BY a.attnum"
    ),
    find_name="SELECT 1 WHERE to_regclass(quote_ident(:name)) IS NOT NULL",
    ignores_case=None,
    add_reference=" REFERENCES {reference}",
    literal=lambda value: Literal(value).as_string(None),
    exclusive=("SELECT 1 FROM pg_advisory_xact_lock(hashtextextended(:name, 0))", None),
    savepoint=("SAVEPOINT before", "ROLLBACK TO SAVEPOINT before"),
    returning_id=' RETURNING "ID"',
    inserted_id=lambda result: result.rows[0][0],
    sends_together=True,
    crowd=(
        "SELECT COUNT(*) FROM pg_stat_get_backend_idset()",
        "SELECT LEAST(current_setting('max_connections')::int, NULLIF(rolconnlimit, -1)) "
        "FROM pg_roles WHERE rolname = current_user",
    ),
    copies=True,
    advance_ids="SELECT setval(pg_get_serial_sequence(:table, 'ID'), MAX(\"ID\")) FROM {table}",
    folded=frozenset({"ID"}),
    largest_packet=None,
    most_parameters=None,  # the driver puts them in
    longest_name=63,
    longest_row=None,
    most_columns=None,
    complete_row=(
        "SELECT 24 + COUNT(*) / 8 + SUM(GREATEST(attlen, 1)), current_setting('block_size')::int - 32 "
        "FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(:table)) AND attnum > 0 AND NOT attisdropped"
    ),
    name_unit="bytes",
    lengths_matter=True,
    comparable={Kind.JSON: "{}::text"},
    indexes_comparable=False,
    grouped={Kind.JSON: ("{}::text",)},
    sorted={Kind.JSON: "{}::text"},
    number="{0}",
    squares="VAR_POP({0}) * COUNT({0})",
    uses_one_core=False,
    keeps_infinity=True,
    null_is_largest=True,
    states={
        "40001": BUSY,  # serialization failure
        "40P01": BUSY,  # deadlock
        "55P03": BUSY,  # lock timeout
        "55006": BUSY,  # the database is in use
        "57014": BUSY,  # an administrator cancelled the statement
        "53300": BUSY,  # too many connections
        "57": LOST,  # shutdown, crash, or an administrator ended the connection
        "08": LOST,
        "25P03": LOST,  # idle in a transaction for too long
        "25P04": LOST,  # a transaction took too long
        "28": DENIED,
        "42501": NO_GRANT,
        "3D000": Remedy(MissingDatabaseError, "create it, or let create_table(create_database=True) do so"),
        "42P01": NO_TABLE,
        "42703": NO_COLUMN,
        _IN_USE: Remedy(DatabaseQueryError, "drop them first; nothing was deleted"),
        "25006": READ_ONLY,
        "53": NO_ROOM,
        "54": TOO_LARGE,
        "58": NO_ROOM,  # errors of its machine, such as I/O errors
        "22": MISFIT,
        "23505": EXISTS,
        "23": CONSTRAINT,
        "P0001": CONSTRAINT,  # RAISE of a trigger
    },
    remedies={},
    # Errors of connecting have no SQLSTATE.
    refusals={
        "password authentication failed": DENIED,
        "no password supplied": DENIED,
        "no pg_hba.conf entry": DENIED,
        "authentication failed": DENIED,
        "permission denied for database": DENIED,
        "is not permitted to log in": DENIED,
        "certificate verify failed": BAD_CERTIFICATE,
        "server certificate for": BAD_CERTIFICATE,
        "server does not support SSL": NO_TLS,
        "root certificate file": Remedy(
            DatabaseConnectionError,
            "the authorities of this system were not found; set 'ca' in 'tls' to a file of them",
        ),
        "private key file": Remedy(
            DatabaseConnectionError, "the 'key' of 'tls' must be yours, and readable by you only: chmod 600"
        ),
        "requires a valid client certificate": Remedy(
            AccessDeniedError, "the server requires a client certificate; give 'cert' and 'key' in 'tls'"
        ),
        "alert unknown ca": Remedy(AccessDeniedError, "the server does not trust who signed 'cert'; check 'tls'"),
        "too many clients": BUSY,
        "too many connections": BUSY,
        "remaining connection slots": BUSY,
        'FATAL:  role "': DENIED,
        "does not exist": Remedy(MissingDatabaseError, "create it, or let create_table(create_database=True) do so"),
        "the database system is": UNREACHABLE,  # starting up, shutting down, in recovery
        "connection to server": UNREACHABLE,
        "failed to resolve host": UNREACHABLE,
        "connection timeout expired": UNREACHABLE,
        "could not translate host name": UNREACHABLE,
        "connection failed": UNREACHABLE,
        "server closed the connection": LOST,
        "the connection is closed": LOST,
        "the connection is lost": LOST,
        "connection has been closed": LOST,
        "consuming input failed": LOST,
        "sending query": LOST,
        "flushing failed": LOST,
        "no answer": LOST,
    },
)


# What libpq says before the message of the server. Behind SSH, this is not the address of the server.
_LOCAL_END = re.compile(r'connection to server at "[^"]*"(?: \([^)]*\))?, port \d+ failed: ')


class _Connection(psycopg.Connection[Any]):
    """A connection that breaks if the server does not answer for `silence` seconds; psycopg would wait for ever."""

    silence: float | None = None

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Run a generator of psycopg, which yields whenever it needs the server."""
        if self.silence is None:
            return super().wait(gen, *args, **kwargs)
        try:
            wanted = next(gen)
            while True:
                readable, writable = poll_socket(
                    self.pgconn.socket, bool(wanted & Wait.R), bool(wanted & Wait.W), self.silence
                )
                if not (readable or writable):
                    self.close()
                    raise psycopg.OperationalError(f"no answer for {self.silence:g} seconds")
                ready = (Ready.R if readable else 0) | (Ready.W if writable else 0)
                wanted = gen.send(ready & wanted)
        except StopIteration as end:
            return end.value


class PostgreSqlServer(Server):
    """A database on a PostgreSQL server."""

    dialect = POSTGRESQL
    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def message_of(self, error: Exception) -> str:
        """Return the message of an error of the driver, without the lines that point into the statement."""
        if not isinstance(error, psycopg.Error) or not error.diag.message_primary:
            return str(error) if self._ssh is None else _LOCAL_END.sub("", str(error))
        if error.sqlstate == _IN_USE:  # the details of others may quote values
            return f"{error.diag.message_primary}: {error.diag.message_detail}"
        return error.diag.message_primary

    def is_closed(self, connection: Any) -> bool:
        """Return whether a connection of the driver has been closed."""
        return bool(connection.closed)

    def _connect(self, database: str | None) -> Any:
        credentials = self.config.credentials
        host, port = self._address()
        address: dict[str, Any] = {"host": host, "port": port}
        if self._certified_name:
            address |= {"host": self._certified_name, "hostaddr": socket.gethostbyname(host)}
        if credentials.unix_socket:
            address = {"port": credentials.port} | _socket(credentials.unix_socket)
        with self._connecting():
            connection = _Connection.connect(
                **address,
                **self._encryption,
                user=credentials.user,
                password=self._password,
                dbname=database or _ANY_DATABASE,
                client_encoding="utf8",
                connect_timeout=CONNECT_TIMEOUT,
                tcp_user_timeout=int((self.silence or 0) * 1000),
                autocommit=True,
                # The first puts the values in: several statements take no parameters.
                cursor_factory=psycopg.ClientCursor if self.time_limit is None else psycopg.Cursor,
            )
            connection.silence = self.silence
            connection.adapters.register_loader("json", TextLoader)
            if not self.plain:
                connection.execute(_SESSION)
            if self.time_limit is not None:
                connection.execute(f"SET statement_timeout = {math.ceil(self.time_limit * 1000)}")
                connection.prepare_threshold = 0  # what is prepared is one statement
        return connection

    def create(self) -> None:
        """Create the database if it does not exist."""
        try:
            with closing(self._connect(None)) as connection, translated_errors(self, f"creating {self}"):
                found = "SELECT 1 FROM pg_database WHERE datname = %s"
                if connection.execute(found, [self.config.database]).fetchone():
                    return
                try:
                    name = POSTGRESQL.quote(self.config.database)
                    connection.execute("SET default_transaction_read_only = off")  # BEGIN cannot say so here
                    connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
                except psycopg.Error:
                    if not connection.execute(
                        found, [self.config.database]
                    ).fetchone():  # another process has just created it
                        raise
        except AccessDeniedError as error:
            raise DatabaseCreationError(str(error)) from error

    @cached_property
    def _encryption(self) -> dict[str, Any]:
        tls = self.config.credentials.tls
        if tls is None:
            return {}
        from pyexperimenter.database.backends.tls import authorities, tls_context

        tls_context(tls)  # has better messages for files that cannot be used
        files = {"sslcert": tls.cert, "sslkey": tls.key}
        given = {name: file for name, file in files.items() if file}
        if not tls.verify:
            # Without a file name, libpq would check with the one in ~/.postgresql.
            return {"sslmode": "require", "sslrootcert": _NO_FILE, **given}
        # The driver may bring its own OpenSSL, which does not know where the authorities of this system are.
        trusted = tls.ca or authorities() or "system"
        return {"sslmode": "verify-full", "sslrootcert": trusted, **given}


def _socket(path: str) -> dict[str, Any]:
    """Return a socket as libpq names it: by its directory, and the port in the name of its file."""
    file = Path(path)
    if file.name.startswith(".s.PGSQL."):
        return {"host": str(file.parent), "port": int(file.suffix[1:])}
    return {"host": path}
