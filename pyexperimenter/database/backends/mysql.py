"""MySQL and MariaDB: their dialect, and how to connect, by the package pymysql."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, cached_property
from operator import attrgetter
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT
from pymysql.converters import escape_item
from pymysql.cursors import SSCursor

from pyexperimenter.config.model import TlsConfig
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
    NO_ID,
    NO_ROOM,
    NO_TABLE,
    NO_TLS,
    READ_ONLY,
    TOO_LARGE,
    UNREACHABLE,
    Dialect,
    Remedy,
)
from pyexperimenter.database.backends.tls import tls_context
from pyexperimenter.exceptions import (
    AccessDeniedError,
    DatabaseCreationError,
    DatabaseLimitError,
    InvalidValueError,
    MissingDatabaseError,
)
from pyexperimenter.fieldtypes import FieldType, Kind

_UNKNOWN_VARIABLE = 1193
IDENTITY = "pyexperimenter_identity"
"""Name of the invisible column with the hash of a row's keyfields."""


def _identity(columns: Mapping[str, FieldType]) -> str:
    # A hash of the columns' bytes ignores collations, and takes texts of any length; no hash equals 'NULL'.
    parts = ", ".join(f"IFNULL(SHA2({column}, 256), 'NULL')" for column in columns)
    return f"UNHEX(SHA2(CONCAT_WS('-', {parts}), 256))"


OLD_FORMAT = Remedy(
    DatabaseLimitError, "the table has an old format; ALTER TABLE ... ROW_FORMAT=DYNAMIC, and try again"
)


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    # In parentheses, since only an expression can be the default of a TEXT, BLOB or JSON.
    return f"(X'{value.hex()}')" if isinstance(value, bytes) else f"({escape_item(value, 'utf8mb4')})"


_NAMED = "IF({0}_schema = DATABASE(), {0}_name, CONCAT({0}_schema, '.', {0}_name))"

MYSQL = Dialect(
    name="mysql",
    quote_mark="`",
    placeholder="%s",
    opaque=(
        r"""'(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*"|`(?:[^`]|``)*`"""
        r"""|--(?=\s|\Z)[^\n]*|\#[^\n]*|/\*.*?(?:\*/|\Z)"""
    ),
    begin="START TRANSACTION READ WRITE",
    read_only=("START TRANSACTION READ ONLY",),
    cut=frozenset([1969, 3024]),  # of MariaDB, of MySQL
    snapshot=(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ),
    now="UTC_TIMESTAMP()",
    now_exact="UTC_TIMESTAMP(6)",
    later="UTC_TIMESTAMP(6) + INTERVAL :lease SECOND",
    row_lock=" FOR UPDATE",
    skip_locked=" FOR UPDATE SKIP LOCKED",
    # Unlike INSERT IGNORE this hides no data error. The row is not changed, and not counted as affected.
    insert_missing=" ON DUPLICATE KEY UPDATE status = status",
    make_aside=(
        f"DROP TEMPORARY TABLE IF EXISTS {ASIDE}",
        f"CREATE TEMPORARY TABLE {ASIDE} AS SELECT {{keyfields}} FROM {{table}} LIMIT 0",
    ),
    # An INSERT locks each row that exists, after it has written and removed another.
    unless_known=f" WHERE NOT EXISTS (SELECT 1 FROM {{table}} known WHERE known.`{IDENTITY}` = {{identity}})",
    update_triggers=(
        "SELECT 1 FROM information_schema.triggers WHERE event_object_schema = DATABASE() "
        "AND event_object_table = :table AND event_manipulation = 'UPDATE' LIMIT 1"
    ),
    id_column="BIGINT PRIMARY KEY AUTO_INCREMENT",
    # A bare DECIMAL would round to whole numbers, FLOAT keeps 7 digits, TIMESTAMP depends on the time zone.
    column_types={
        "LONG": "BIGINT",
        "LONG UNSIGNED": "BIGINT UNSIGNED",
        "FLOAT": "DOUBLE",
        "REAL": "DOUBLE",
        "NUMERIC": "DOUBLE",
        "DECIMAL": "DOUBLE",
        "DATETIME": "DATETIME(6)",
        "TIMESTAMP": "DATETIME(6)",
    },
    # The default format of a server may be an older one, which refuses our indexes. Persistent statistics are renewed
    # every ten seconds at most: a table that grows faster is taken for one without different values, and whoever opens
    # it then remembers that. So the server would read all attempts where an index finds a few.
    table_options=" ENGINE=InnoDB ROW_FORMAT=DYNAMIC STATS_PERSISTENT=0 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
    whole_seconds="DATETIME",
    identity=_identity,
    add_identity=(
        f"ALTER TABLE {{table}} ADD COLUMN `{IDENTITY}` BINARY(32) GENERATED ALWAYS AS ({{identity}}) STORED "
        f"INVISIBLE, ADD UNIQUE INDEX {{index}} (`{IDENTITY}`)"
    ),
    drop_identity=f"ALTER TABLE {{table}} DROP INDEX {{index}}, DROP COLUMN `{IDENTITY}`",
    add_after=" AFTER {}",
    # Without DISTINCT, MariaDB would look up the foreign keys again for each column.
    list_columns=(
        "SELECT c.column_name, c.column_type, c.is_nullable = 'NO' AND c.column_default IS NULL "
        "AND c.extra <> 'auto_increment' AND COALESCE(c.generation_expression, '') = '', "
        f"{_NAMED.format('k.referenced_table')} FROM information_schema.columns c LEFT JOIN "
        "(SELECT DISTINCT column_name, referenced_table_schema, referenced_table_name "
        "FROM information_schema.key_column_usage "
        "WHERE table_schema = DATABASE() AND table_name = :table AND referenced_table_name IS NOT NULL) k "
        "ON k.column_name = c.column_name "
        f"WHERE c.table_schema = DATABASE() AND c.table_name = :table AND c.column_name <> '{IDENTITY}' "
        "ORDER BY c.ordinal_position"
    ),
    list_with_column=(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = DATABASE() AND column_name = :column"
    ),
    list_indexes=(
        "SELECT DISTINCT index_name FROM information_schema.statistics "
        "WHERE table_schema = DATABASE() AND table_name = :table"
    ),
    list_references=(
        f"SELECT DISTINCT {_NAMED.format('table')} FROM information_schema.key_column_usage "
        "WHERE referenced_table_schema = DATABASE() AND (BINARY referenced_table_name = :table "
        "OR @@lower_case_table_names AND LOWER(referenced_table_name) = LOWER(:table)) ORDER BY 1"
    ),
    list_identity=(
        "SELECT i.index_name, c.column_name FROM information_schema.columns c "
        "JOIN information_schema.columns g ON g.generation_expression <> '' "
        "JOIN information_schema.statistics i ON i.column_name = g.column_name "
        "AND LOCATE(CONCAT('`', REPLACE(LOWER(c.column_name), '`', '``'), '`'), LOWER(g.generation_expression)) "
        f"WHERE g.column_name = '{IDENTITY}' "
        + "".join(f"AND {t}.table_schema = DATABASE() AND {t}.table_name = :table " for t in "cgi")
        + "ORDER BY c.ordinal_position"
    ),
    find_name=None,
    ignores_case="SELECT @@lower_case_table_names",
    add_reference=", ADD CONSTRAINT {key} FOREIGN KEY ({column}) REFERENCES {reference}",
    literal=_literal,
    exclusive=("SELECT GET_LOCK(SHA2(:name, 256), 60)", "SELECT RELEASE_LOCK(SHA2(:name, 256))"),
    savepoint=None,
    returning_id="",
    inserted_id=attrgetter("inserted"),
    sends_together=True,
    # The limit of an account is compared with the connections of all, as an account need not see those of others.
    crowd=(
        "SHOW GLOBAL STATUS LIKE 'Threads_connected'",
        "SELECT LEAST(@@max_connections, COALESCE(NULLIF(@@max_user_connections, 0), @@max_connections))",
    ),
    copies=False,
    advance_ids=None,
    folded=frozenset(),
    largest_packet="SELECT @@max_allowed_packet",
    most_parameters=None,  # the driver puts them in
    longest_name=64,
    longest_row=65_535,
    most_columns=1017,
    complete_row=None,  # checked when the table is made
    name_unit="characters",
    lengths_matter=True,
    comparable={Kind.TEXT: "CAST(CONVERT({} USING utf8mb4) AS BINARY)"},  # no collation, no padding
    indexes_comparable=False,
    # Texts that differ only in spaces at their ends are equal here. As BINARY, long ones would be grouped on the disk.
    grouped=dict.fromkeys((Kind.TEXT, Kind.JSON), ("CONVERT({} USING utf8mb4) COLLATE utf8mb4_bin", "LENGTH({})")),
    # Of long ones, it sorts by the first `max_sort_length` bytes, but compares all.
    sorted=dict.fromkeys((Kind.TEXT, Kind.JSON, Kind.BINARY), "LEFT({},255)"),
    number="{0}",
    squares="VAR_POP({0}) * COUNT({0})",
    uses_one_core=True,
    keeps_infinity=False,
    null_is_largest=False,
    states={},
    remedies={
        1020: BUSY,  # the row changed since the snapshot (MariaDB's innodb_snapshot_isolation)
        1205: BUSY,  # lock wait timeout
        1213: BUSY,  # deadlock
        3058: BUSY,  # the same of named locks
        1412: BUSY,  # a table was changed within the transaction
        3572: BUSY,  # a row is locked
        1040: BUSY,  # too many connections
        1203: BUSY,  # too many connections of this user
        1047: BUSY,  # a node of a Galera cluster is not ready
        1053: LOST,  # server shutdown in progress
        1317: BUSY,  # an administrator killed the statement
        1969: BUSY,  # or a limit of its time did (MariaDB)
        3024: BUSY,  # the same on MySQL
        1927: LOST,  # or the connection
        4031: LOST,  # the server closed an idle connection
        **dict.fromkeys((1152, 1158, 1159, 1160, 1161, 1184), LOST),  # of the network
        2006: LOST,
        2013: LOST,
        2014: LOST,
        0: LOST,  # pymysql: the connection has been closed
        2002: UNREACHABLE,
        2003: UNREACHABLE,
        2005: UNREACHABLE,
        1044: DENIED,
        1045: DENIED,
        1142: NO_GRANT,
        1143: NO_GRANT,
        1698: DENIED,
        1049: Remedy(MissingDatabaseError, "create it, or let create_table(create_database=True) do so"),
        1146: NO_TABLE,
        1054: NO_COLUMN,
        1290: READ_ONLY,
        1836: READ_ONLY,
        1792: READ_ONLY,
        3: NO_ROOM,  # a file cannot be written
        1026: NO_ROOM,
        1030: NO_ROOM,
        1021: NO_ROOM,
        1114: NO_ROOM,
        1264: MISFIT,
        1366: MISFIT,
        1406: MISFIT,
        1265: MISFIT,
        167: NO_ID,
        1467: NO_ID,
        1117: TOO_LARGE,  # columns
        1118: TOO_LARGE,  # row size
        1713: TOO_LARGE,  # undo log record
        1071: OLD_FORMAT,
        1709: OLD_FORMAT,
        1153: Remedy(InvalidValueError, "the value is larger than the server's max_allowed_packet"),
        1062: EXISTS,
        **dict.fromkeys((1048, 1452, 1644, 3819, 4025), CONSTRAINT),
        3159: Remedy(AccessDeniedError, "the server wants TLS; give 'tls' in the credentials"),
    },
    refusals={
        "certificate verify failed": BAD_CERTIFICATE,
        "SSL is required": NO_TLS,
        "cryptography": Remedy(
            AccessDeniedError, "this server's passwords need the package cryptography (pip install cryptography) or TLS"
        ),
    },
)


# A statement does not wait for locks on rows that it does not concern. DDL, which is never in a transaction, may write.
_BEGIN = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
_BEGIN_READING = _BEGIN.replace("READ WRITE", "READ ONLY")  # DDL would end a transaction that only reads
# A value that does not fit is an error, and never truncated. The rest is the usual, whatever the server's default.
_SETTINGS = (
    "SET sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', completion_type = 0, sql_safe_updates = 0, "
    "sql_select_limit = 18446744073709551615, sql_big_selects = 1, foreign_key_checks = 1, unique_checks = 1"
)


class _Connection(Connection):
    """Without TLS settings, encrypts if the server can, without checks: as the driver does, but it starts faster."""

    def _create_ssl_ctx(self, sslp: Any) -> Any:
        # The driver would load all authorities that the machine trusts, and then check nothing: 60 ms a process.
        return super()._create_ssl_ctx(sslp or _unchecked())  # type: ignore[misc] # not in stubs


@cache
def _unchecked() -> Any:
    return tls_context(TlsConfig(verify=False))


class _PlainConnection(_Connection):
    """Skips SET NAMES, which repeats the character set of the handshake for servers that ignore it."""

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """Do nothing."""


class MySqlServer(Server):
    """A database on a MySQL or MariaDB server."""

    dialect = MYSQL
    # pymysql raises RuntimeError if a package that it needs is missing.
    errors: tuple[type[Exception], ...] = (pymysql.Error, RuntimeError)

    def message_of(self, error: Exception) -> str:
        """Return the message of an error of the driver, without its number."""
        return str(error.args[-1] if error.args else error)

    def is_closed(self, connection: Any) -> bool:
        """Return whether a connection of the driver has been closed."""
        return not connection.open

    def _connect(self, database: str | None) -> Any:
        credentials = self.config.credentials
        options: dict[str, Any] = dict(zip(("host", "port"), self._address(), strict=True))
        if credentials.unix_socket:
            options = {"unix_socket": credentials.unix_socket}
        with self._connecting():
            connect: Any = _PlainConnection if self.plain else _Connection
            connection = connect(
                **options,
                **self._encryption,
                init_command=_BEGIN if self.time_limit is None else _BEGIN_READING,
                user=credentials.user,
                password=self._password,
                database=database,
                charset="utf8mb4",
                autocommit=True,
                client_flag=CLIENT.MULTI_STATEMENTS if self.time_limit is None else 0,
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=self.silence,
                write_timeout=self.silence,
            )
            if not self.plain:
                connection.query(_SETTINGS)
            if self.time_limit is not None:
                self._restrict(connection, self.time_limit)
            return connection

    def _restrict(self, connection: Any, seconds: float) -> None:
        """Set the time limit of statements, which MariaDB and MySQL call differently."""
        try:
            connection.query(f"SET SESSION max_statement_time = {seconds:f}")
        except pymysql.err.OperationalError as error:
            if error.args[0] != _UNKNOWN_VARIABLE:
                raise
            connection.query(f"SET SESSION max_execution_time = {math.ceil(seconds * 1000)}")

    def streaming(self, connection: Any) -> Any:
        """Return a cursor that reads the rows as they come; the usual one has all of them as Python objects."""
        return connection.cursor(SSCursor)

    def create(self) -> None:
        """Create the database if it does not exist."""
        name = MYSQL.quote(self.config.database)
        try:
            connection = self._connect(None)
            with connection, translated_errors(self, f"creating {self}"):
                connection.cursor().execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
        except AccessDeniedError as error:
            raise DatabaseCreationError(str(error)) from error

    @cached_property
    def _encryption(self) -> dict[str, Any]:
        tls = self.config.credentials.tls
        return {} if tls is None else {"ssl": tls_context(tls, self._certified_name)}
