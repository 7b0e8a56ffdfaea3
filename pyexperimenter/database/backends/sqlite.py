"""SQLite: its dialect, and how to open a database file."""

from __future__ import annotations

import math
import os
import shlex
import sqlite3
import stat
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backends.base import translated_errors
from pyexperimenter.database.backends.dialect import (
    BUSY,
    CONSTRAINT,
    EXISTS,
    NO_COLUMN,
    NO_TABLE,
    TOO_LARGE,
    Dialect,
    Remedy,
    Subquery,
)
from pyexperimenter.exceptions import (
    DatabaseConnectionError,
    DatabaseCreationError,
    DatabaseError,
    DatabaseFullError,
    DatabaseQueryError,
    InvalidValueError,
    MissingDatabaseError,
    ReadOnlyDatabaseError,
)
from pyexperimenter.fieldtypes import FieldType, Kind
from pyexperimenter.machine.system import user_name

_LOCK_TIMEOUT = 60.0  # seconds to wait for another writer
_LONG_LIST = 100  # values
_MOST_PARAMETERS = 999  # of a statement, in any version of SQLite
_LOOK = 10_000  # instructions of SQLite's virtual machine, after which it looks at the clock
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_ABOUT_TABLES = {"table_info", "foreign_key_list", "index_list"}
_BITS = 62  # of an integer that are used
_MOUNTS = Path("/proc/mounts")  # Linux's list of mounted file systems
_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "fuse.sshfs"}


_READ_ONLY = Remedy(ReadOnlyDatabaseError, "make the file and its directory writable for you")
_RESTRICTED = Remedy(ReadOnlyDatabaseError, "the study was opened for reading only")
_FULL = Remedy(DatabaseFullError, "free some space; nothing committed was lost")
_DISK = Remedy(DatabaseFullError, "check the disk and its quota; nothing committed was lost")
_NO_FILE = Remedy(DatabaseConnectionError, "check that the directory exists and that you may read and write there")
_OTHER_FILE = Remedy(DatabaseConnectionError, "the file is something else; choose another path")
_DAMAGED = Remedy(DatabaseConnectionError, "the file is damaged; restore a copy of it")
_TOO_LONG = Remedy(InvalidValueError, "SQLite holds texts and bytes of up to a billion")
_TOO_LARGE = Remedy(InvalidValueError, "SQLite holds integers up to 9223372036854775807")

# The code, which Python has since 3.11, and the message of the same error.
_BY_CODE: list[tuple[int, str, Remedy]] = [
    (5, "database is locked", BUSY),
    (6, "database table is locked", BUSY),
    (15, "locking protocol", BUSY),
    (17, "database schema has changed", BUSY),
    (8, "attempt to write a readonly database", _READ_ONLY),
    (13, "database or disk is full", _FULL),
    (10, "disk I/O error", _DISK),
    (14, "unable to open database file", _NO_FILE),
    (26, "file is not a database", _OTHER_FILE),
    (11, "database disk image is malformed", _DAMAGED),
    (2067, "UNIQUE constraint failed", EXISTS),
    (19, "constraint failed", CONSTRAINT),
    (18, "string or blob too big", _TOO_LONG),
    (23, "not authorized", _RESTRICTED),
    (23, "prohibited", _RESTRICTED),
]


def _identity(columns: Mapping[str, FieldType]) -> str:
    # In a unique index, NULLs differ from each other. So NULL is indexed as 0, and a last part, whose bits say which
    # columns are NULL, distinguishes that 0 from a real one. The collation of a column made by hand has no effect.
    values = [f"ifnull({column}, 0) COLLATE BINARY" for column in columns]
    nulls = [f"({column} IS NULL) * {1 << number % _BITS}" for number, column in enumerate(columns)]
    parts = [" + ".join(nulls[first : first + _BITS]) for first in range(0, len(nulls), _BITS)]
    return ", ".join([*values, *parts])


def _literal(value: Any) -> str:
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        return f"'{value.replace(chr(39), chr(39) * 2)}'"
    return "NULL" if value is None else repr(+value).replace("inf", "9e999")


SQLITE = Dialect(
    name="sqlite",
    quote_mark='"',
    placeholder="?",
    opaque=r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)""",
    begin="BEGIN IMMEDIATE",
    snapshot=("BEGIN",),
    read_only=(),  # the connection does
    cut=frozenset([9, "interrupted"]),
    now="datetime('now')",
    now_exact="strftime('%Y-%m-%d %H:%M:%f', 'now')",
    later="strftime('%Y-%m-%d %H:%M:%f', 'now', :lease || ' seconds')",
    row_lock="",  # BEGIN IMMEDIATE lets one writer in at a time
    skip_locked="",
    insert_missing=" ON CONFLICT DO NOTHING",
    make_aside=(),
    unless_known="",
    update_triggers=None,
    id_column="INTEGER PRIMARY KEY AUTOINCREMENT",
    # A column's affinity follows from its type's name: TEXT keeps JSON from being read as a number.
    column_types={"JSON": "JSON TEXT", "FLOAT": "DOUBLE", "NUMERIC": "DOUBLE", "DECIMAL": "DOUBLE"},
    table_options="",
    whole_seconds="DATETIME",
    identity=_identity,
    add_identity="CREATE UNIQUE INDEX {index} ON {table} ({identity})",
    drop_identity="DROP INDEX {index}",
    add_after="",
    list_columns=(
        'SELECT t.name, t.type, t."notnull" AND t.dflt_value IS NULL AND NOT t.pk, MAX(f."table") '
        "FROM pragma_table_info(:table) t "
        'LEFT JOIN pragma_foreign_key_list(:table) f ON lower(f."from") = lower(t.name) GROUP BY t.cid ORDER BY t.cid'
    ),
    list_with_column=(
        "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c "
        "WHERE m.type = 'table' AND c.name = :column"
    ),
    list_indexes="SELECT name FROM pragma_index_list(:table)",
    list_references=(
        "SELECT DISTINCT m.name FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f "
        "WHERE m.type = 'table' AND lower(f.\"table\") = lower(:table) ORDER BY m.name"
    ),
    # The expression is what follows the first parenthesis of the statement that made the index.
    list_identity=(
        "SELECT i.name, t.name FROM pragma_index_list(:table) i "
        "JOIN sqlite_master m ON m.type = 'index' AND m.name = i.name JOIN pragma_table_info(:table) t "
        "ON instr(lower(substr(m.sql, instr(m.sql, '('))), '\"' || replace(lower(t.name), '\"', '\"\"') || '\"') > 0 "
        "WHERE i.\"unique\" AND instr(i.name, '__identity') > 0 ORDER BY t.cid"
    ),
    find_name="SELECT 1 FROM sqlite_master WHERE lower(name) = lower(:name)",
    ignores_case="SELECT 1",
    add_reference=" REFERENCES {reference}",
    literal=_literal,
    exclusive=(None, None),
    savepoint=None,
    returning_id="",
    inserted_id=attrgetter("inserted"),
    sends_together=False,
    crowd=None,
    copies=False,
    advance_ids=None,
    folded=frozenset(),
    largest_packet=None,
    most_parameters=999,  # the limit of old versions; later ones have others
    longest_name=1_000_000,  # only a statement has a limit
    name_unit="characters",
    longest_row=None,
    most_columns=None,
    complete_row=None,
    lengths_matter=False,
    comparable=dict.fromkeys((Kind.TEXT, Kind.JSON), "{} COLLATE BINARY"),
    indexes_comparable=True,
    grouped=dict.fromkeys((Kind.TEXT, Kind.JSON), ("{} COLLATE BINARY",)),
    sorted={},
    number="CASE WHEN typeof({0}) IN ('integer', 'real') THEN {0} END",  # a text would count as 0
    # Measured from a number near the mean, so that the difference of the two is exact.
    squares=("SUM(({0} - :center) * ({0} - :center)) - COUNT({0}) * (AVG({0}) - :center) * (AVG({0}) - :center)"),
    uses_one_core=False,  # there is no server
    keeps_infinity=True,
    null_is_largest=False,
    states={},
    remedies={
        "error in view": Remedy(DatabaseQueryError, "drop that view, or make what it selects from"),
        "error in trigger": Remedy(DatabaseQueryError, "drop that trigger, or make what it uses"),
        "no such table": NO_TABLE,
        "no such column": NO_COLUMN,
        "too many": TOO_LARGE,  # columns, terms
        "Expression tree is too large": TOO_LARGE,
        **{key: remedy for code, message, remedy in _BY_CODE for key in (code, message)},
        "int too large": _TOO_LARGE,
    },
    refusals={},
)


class _Archive(sqlite3.Connection):
    """Reads a file without locks, as it was when it was opened."""

    opened: tuple[tuple[int, ...] | None, ...] = ()


class _ReadOnly(_Archive):
    """Refuses to write, except into temporary tables, and cuts what takes too long after a cursor was opened."""

    time_limit = math.inf
    _deadline = math.inf

    def restrict(self, time_limit: float) -> None:
        """Refuse to write from now on, and cut what takes longer."""
        self.time_limit = time_limit
        self.set_progress_handler(lambda: time.monotonic() > self._deadline, _LOOK)
        self.set_authorizer(_may_read)

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor, and measure the time from now on."""
        self._deadline = time.monotonic() + self.time_limit
        return super().cursor(*args, **kwargs)


def _may_read(action: int, name: str | None, _: str | None, database: str | None, __: str | None) -> int:
    allowed = action in _READING or database == "temp" or (action == sqlite3.SQLITE_PRAGMA and name in _ABOUT_TABLES)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


class SqliteFile:
    """A SQLite database: one file, created by the first write."""

    dialect = SQLITE
    silence: float | None = None  # a file always answers
    time_limit: float | None = None
    plain = False
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OverflowError)

    def __init__(self, config: DatabaseConfig) -> None:
        self.path = Path(config.database)

    def __str__(self) -> str:
        return f"sqlite {self.path}"

    def message_of(self, error: Exception) -> str:
        """Return the message of an error of the driver; if it is about a missing right, with the files and owners."""
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            text = "; ".join([text, *self._unwritable()])
        return text

    def is_closed(self, connection: sqlite3.Connection) -> bool:
        """Return False: the connection to a file is not lost."""
        return False

    def is_outdated(self, connection: sqlite3.Connection) -> bool:
        """Return whether a file that is read without locks was written, so that what was read may be wrong."""
        return isinstance(connection, _Archive) and connection.opened not in ((), self._version())

    def with_many_parameters(
        self, cursor: sqlite3.Cursor, sql: str, parameters: Mapping[str, Any]
    ) -> tuple[str, list[Any]]:
        """Put long lists into temporary tables, which are in no file of the database and end with the connection."""
        replaced = dict(parameters)
        for name, values in parameters.items():
            if isinstance(values, list) and len(values) > _LONG_LIST:
                table = SQLITE.quote(f"pyexperimenter_{name}")
                cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table} (value)")
                cursor.execute(f"DELETE FROM temp.{table}")
                for begin in range(0, len(values), _MOST_PARAMETERS):  # each statement is a transaction of its own
                    chunk = values[begin : begin + _MOST_PARAMETERS]
                    cursor.execute(f"INSERT INTO temp.{table} VALUES {', '.join(['(?)'] * len(chunk))}", chunk)
                replaced[name] = Subquery(f"SELECT value FROM temp.{table}")
        return SQLITE.statement(sql, replaced)

    def connect(self, create: bool) -> sqlite3.Connection:
        """Open the file; `create` makes it if it is missing."""
        if not create and not _exists(self.path):
            raise MissingDatabaseError(
                f"there is no database file {self.path}; fill the table first, or check the path"
            )
        with translated_errors(self, f"opening {self.path}"):
            if create:
                self._make_file()
            version, uri = self._version(), self._uri_of_archive()
            factory = sqlite3.Connection if self.time_limit is None else _ReadOnly
            # Only one thread uses it, but the garbage collector may close it in another.
            connection = sqlite3.connect(
                uri or self.path,
                timeout=_LOCK_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
                factory=_Archive if uri and self.time_limit is None else factory,
                uri=bool(uri),
            )
            if isinstance(connection, _Archive) and uri:
                connection.opened = version
        try:
            with translated_errors(self, f"opening {self.path}"):
                if uri:
                    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # keeps the index of the log in memory
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = FULL")
                if create:
                    self._choose_journal(connection)
                if isinstance(connection, _ReadOnly) and self.time_limit is not None:
                    connection.restrict(self.time_limit)
        except DatabaseError:
            connection.close()
            raise
        return connection

    def _make_file(self) -> None:
        """Create the file with the rights of the umask: SQLite takes away those of the group.

        One that exists is not opened: closing it would end the locks of all connections of this process (POSIX).
        """
        with suppress(OSError):  # it exists, or opening it will say why
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))

    @property
    def _log_files(self) -> tuple[Path, Path]:
        """The write-ahead log and its index, which SQLite creates with the rights of the database's file."""
        return Path(f"{self.path}-wal"), Path(f"{self.path}-shm")

    def _version(self) -> tuple[tuple[int, ...] | None, ...]:
        """Return what changes when the database is written."""
        return tuple(map(_version_of, (self.path, self._log_files[0])))

    def _unwritable(self) -> Iterator[str]:
        """Say which files and directories the user cannot write, and whose they are."""
        for path in (self.path.parent, self.path, *self._log_files):
            if os.path.exists(path) and not os.access(path, os.W_OK):
                found = path.stat()
                remedy = f", who can run: chmod g+w {shlex.quote(str(path))}" if path in self._log_files else ""
                yield f"{path} ({stat.filemode(found.st_mode)}) belongs to {user_name(found.st_uid)}{remedy}"

    def _uri_of_archive(self) -> str | None:
        """Return how to open a file with a write-ahead log if its user can write only it or its directory, or neither.

        SQLite would create the log and its index. Where the directory is not writable, it cannot. Where the file is not
        writable, they would belong to the reader, who could not remove them, and would stop all writers. None if
        they are there, as they are while another user writes.
        """
        writable = os.access(self.path.parent, os.W_OK) and os.access(self.path, os.W_OK)
        if writable or all(map(os.path.exists, self._log_files)) or not self._has_log():
            return None
        # A log that was left behind has rows that the file lacks, and `immutable` ignores it.
        without_locks = "win32-none" if os.name == "nt" else "unix-none"
        options = f"mode=ro&vfs={without_locks}" if self._log_files[0].exists() else "immutable=1"
        return _uri(self.path, options)

    def _has_log(self) -> bool:
        try:
            with self.path.open("rb") as file:
                return file.read(20)[18:] == b"\2\2"  # the versions of the format
        except OSError:
            return False  # opening it will say why

    def _choose_journal(self, connection: sqlite3.Connection) -> None:
        """Allow readers to work at the same time as a writer, where that is safe; the setting stays in the file."""
        kind = network_file_system(self.path)
        if kind:
            warnings.warn(
                f"{self.path} is on a network file system ({kind}), whose locks SQLite cannot rely on: use it from one "
                "machine only, or use a server (provider: mysql or postgresql)",
                stacklevel=2,
            )
        # If another process is using the file, it works as it is, and the next to open it tries again.
        with suppress(sqlite3.OperationalError):
            connection.execute(f"PRAGMA journal_mode = {'DELETE' if kind else 'WAL'}")

    def close_tunnel(self) -> None:
        """Do nothing: files are not opened through SSH."""

    def streaming(self, connection: sqlite3.Connection) -> sqlite3.Cursor:
        """Return a cursor, which reads rows when they are asked for."""
        return connection.cursor()

    def create(self) -> None:
        """Check that the file can be created; creating the first table creates it."""
        if not self.path.parent.is_dir():
            raise DatabaseCreationError(f"{self.path.parent} is not a directory; create it, or choose another path")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True  # as far as is known; opening it will say why it cannot be read


def is_sqlite_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a SQLite database. SQLite itself has to look: see `_make_file`."""
    with suppress(sqlite3.Error, OSError, ValueError):
        with closing(sqlite3.connect(_uri(Path(path), "mode=ro&immutable=1"), uri=True)) as file:
            file.execute("PRAGMA schema_version")
        return os.path.getsize(path) > 0
    return False


def as_one_file(path: Path) -> None:
    """Let a database that no one uses be one file, which can be copied and read without a write-ahead log."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode = DELETE")


def _uri(path: Path, options: str) -> str:
    return f"{path.absolute().as_uri()}?{options}"


def _version_of(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the kind of network file system that a path is on; None for a local disk, or if it is unknown."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    # A space in a path is written as \040.
    points = [(Path(line[1].encode().decode("unicode_escape")), line[2]) for line in lines]
    resolved = path.resolve()
    holding = [(point, kind) for point, kind in points if resolved.is_relative_to(point)]
    _, kind = max(holding, key=lambda mount: len(mount[0].parts), default=(None, ""))
    return kind if kind in _NETWORK_FILE_SYSTEMS else None
