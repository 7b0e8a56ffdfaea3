"""Where a database is and how it is opened: a SQLite file, or a MySQL or MariaDB server."""

from __future__ import annotations

import sqlite3
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import pymysql
from pymysql.connections import Connection

from pyexperimenter.config.model import Credentials, DatabaseConfig, TlsConfig
from pyexperimenter.database.backends.dialect import MYSQL, SQLITE, Dialect
from pyexperimenter.exceptions import (
    AccessDeniedError,
    DatabaseConnectionError,
    DatabaseCreationError,
    DatabaseError,
    DatabaseQueryError,
    InvalidCredentialsError,
    MissingDatabaseError,
    PyExperimenterError,
)

_LOCK_TIMEOUT = 60.0  # seconds SQLite waits for another writer
_CONNECT_TIMEOUT = 10  # seconds
_MOUNTS = Path("/proc/mounts")  # Linux's list of what is mounted where
_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "fuse.sshfs"}


class Backend(Protocol):
    """A database that connections can be opened to."""

    dialect: Dialect
    config: DatabaseConfig
    silence: float | None
    """Seconds after which a server that does not answer counts as away; None: never."""
    plain: bool
    """Whether connections are left as the server makes them, which spares it statements."""
    errors: tuple[type[Exception], ...]
    """What the driver raises."""

    def told(self, error: Exception) -> str:
        """Return what the driver's error says, on one line."""

    def connect(self, create: bool) -> Any:
        """Open a connection of the driver, in autocommit mode; make a SQLite file if `create` and it is missing."""

    def create(self) -> None:
        """Make the database, if it is not there."""

    def close_tunnel(self) -> None:
        """Close the SSH tunnel, if there is one."""


def backend_of(config: DatabaseConfig) -> Backend:
    """Return the backend that a configuration speaks of."""
    if config.provider == "sqlite":
        return SqliteFile(config)
    if config.provider == "mysql":
        return MySqlServer(config)
    from pyexperimenter.database.backends.postgresql import PostgreSqlServer  # its driver is an extra

    return PostgreSqlServer(config)


def translated(error: Exception, backend: Backend, doing: str) -> PyExperimenterError:
    """Turn a driver's error into ours, naming what was being done and what can be done about it."""
    remedy = backend.dialect.meaning_of(error)
    told, doing = (" ".join(str(text).split()) for text in (backend.told(error), doing))  # a message is one line
    doing = doing if len(doing) <= 200 else doing[:197] + "..."
    if remedy is None:
        return DatabaseQueryError(f"{told} (while {doing})")
    return remedy.error(f"{told}; {remedy.advice} (while {doing})")


@contextmanager
def translated_errors(backend: Backend, doing: str) -> Iterator[None]:
    """Raise our errors where opening a connection raises the driver's.

    The driver's frames are cut off: the password is among their variables, which some show with a traceback.
    """
    try:
        yield
    except backend.errors as error:
        raise translated(error, backend, doing) from error.with_traceback(None)


class SqliteFile:
    """A SQLite database: one file, made when first written to."""

    dialect = SQLITE
    silence: float | None = None  # a file always answers
    plain = False
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OverflowError)

    def __init__(self, config: DatabaseConfig) -> None:
        path = Path(config.database).expanduser()
        if not path.suffix:
            path = path.with_suffix(".db")
        self.path = path.absolute()
        self.config = DatabaseConfig(config.provider, str(self.path))

    def __str__(self) -> str:
        return f"sqlite {self.path}"

    def told(self, error: Exception) -> str:
        """Return what the error says."""
        return str(error)

    def connect(self, create: bool) -> sqlite3.Connection:
        """Open the file; make it if `create` and it is missing."""
        if not create and not self.path.exists():
            raise MissingDatabaseError(
                f"there is no database file {self.path}; fill the table first, or check the path"
            )
        with translated_errors(self, f"opening {self.path}"):
            # Used by one thread only; but another may be the one that collects, and so closes it.
            connection = sqlite3.connect(
                self.path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
            )
        try:
            with translated_errors(self, f"opening {self.path}"):
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = FULL")
                if create:
                    self._choose_journal(connection)
        except DatabaseError:
            connection.close()
            raise
        return connection

    def _choose_journal(self, connection: sqlite3.Connection) -> None:
        """Let readers and one writer work at the same time, where that is safe; the file remembers it."""
        kind = network_file_system(self.path)
        if kind:
            warnings.warn(
                f"{self.path} is on a network file system ({kind}), on whose locks SQLite cannot rely: use it from one "
                "machine only, or take a server (provider: mysql)",
                stacklevel=2,
            )
        # Somebody else is busy in the file: it works as it is, and the next one to open it tries again.
        with suppress(sqlite3.OperationalError):
            connection.execute(f"PRAGMA journal_mode = {'DELETE' if kind else 'WAL'}")

    def close_tunnel(self) -> None:
        """There is none: a file is not reached through SSH."""

    def create(self) -> None:
        """Check that the file can be made, which the first table does."""
        if not self.path.parent.is_dir():
            raise DatabaseCreationError(f"{self.path.parent} is no directory; make it, or name another path")


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the kind of network file system that a path lies on; None on a local disk, or where nobody tells."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    # A space in a name is written as \040.
    points = [(Path(line[1].encode().decode("unicode_escape")), line[2]) for line in lines]
    resolved = path.resolve()
    holding = [(point, kind) for point, kind in points if resolved.is_relative_to(point)]
    _, kind = max(holding, key=lambda mount: len(mount[0].parts), default=(None, ""))
    return kind if kind in _NETWORK_FILE_SYSTEMS else None


class Server:
    """A database on a server, as far as servers are alike: their address, the way there, and the password."""

    dialect: Dialect
    silence: float | None = None
    plain = False

    def __init__(self, config: DatabaseConfig) -> None:
        self.config = config

    def __str__(self) -> str:
        credentials = self.config.credentials
        place = credentials.unix_socket or f"{credentials.host}:{credentials.port}"
        return f"{self.dialect.name} {self.config.database} on {place}"

    def connect(self, create: bool) -> Any:
        """Open a connection to the server; `create` says nothing here."""
        return self._connect(self.config.database)

    def _connect(self, database: str | None) -> Any:
        raise NotImplementedError

    def close_tunnel(self) -> None:
        """Close this process's tunnel, if there is one."""
        if self.config.use_ssh_tunnel and self.config.credentials.ssh is not None:
            from pyexperimenter.database.ssh.shared_tunnel import close_tunnel

            close_tunnel(self.config.credentials.ssh)

    def _address(self) -> tuple[str, int]:
        """Return where to connect to: the server, or this machine's tunnel to it."""
        credentials = self.config.credentials
        if not self.config.use_ssh_tunnel:
            return credentials.host, credentials.port
        if credentials.ssh is None:
            raise InvalidCredentialsError(
                "use_ssh_tunnel is on, but the credentials have no section Connection: Ssh; add one with 'address'"
            )
        from pyexperimenter.database.ssh.shared_tunnel import tunnel_address

        return tunnel_address(credentials.ssh, credentials.host, credentials.port)

    @property
    def _certified_name(self) -> str | None:
        """Whom the server's certificate must name, where that is not the host to which the connection is."""
        credentials = self.config.credentials
        if not self.config.use_ssh_tunnel or credentials.ssh is None:
            return None
        # It is not of this end of the tunnel.
        return credentials.ssh.remote_address if credentials.host == Credentials.host else credentials.host

    @cached_property
    def _password(self) -> str:
        credentials = self.config.credentials
        if credentials.password_command is None or credentials.password is not None:
            return credentials.password.reveal() if credentials.password is not None else ""
        done = subprocess.run(credentials.password_command, shell=True, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            told, code = done.stderr.strip()[:200], done.returncode
            del done  # what it printed may be shown with a traceback
            raise AccessDeniedError(f"password_command exited with {code}: {told}; run it by hand to see why")
        return done.stdout.rstrip("\r\n")


_SESSION: dict[str, Any] = {
    # Others' locks on rows that do not concern us must not hold us up.
    "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    # What does not fit is an error, never cut to size.
    "sql_mode": "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",
}


class _Connection(Connection):
    """Encrypts where the server can, unchecked, if nothing is said of it: as the driver does, but it begins faster."""

    def _create_ssl_ctx(self, sslp: Any) -> Any:
        # The driver would load all authorities that the machine trusts, to check nothing: 60 ms for each new process.
        return super()._create_ssl_ctx(sslp or _unchecked())  # type: ignore[misc] # not in stubs


@cache
def _unchecked() -> Any:
    return tls_context(TlsConfig(verify=False))


class _PlainConnection(_Connection):
    """Does without SET NAMES: the handshake tells the character set, which some servers ignore."""

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """Leave it as it is."""


class MySqlServer(Server):
    """A database on a MySQL or MariaDB server."""

    dialect = MYSQL
    # RuntimeError is raised where a package of pymysql's own is missing.
    errors: tuple[type[Exception], ...] = (pymysql.Error, RuntimeError)

    def told(self, error: Exception) -> str:
        """Return what the error says, without its number."""
        return str(error.args[-1] if error.args else error)

    def _connect(self, database: str | None) -> Any:
        credentials = self.config.credentials
        options: dict[str, Any] = dict(zip(("host", "port"), self._address(), strict=True))
        if credentials.unix_socket:
            options = {"unix_socket": credentials.unix_socket}
        with translated_errors(self, f"connecting to {self}"):
            connect: Any = _PlainConnection if self.plain else _Connection
            return connect(
                **options,
                **self._encryption,
                **({} if self.plain else _SESSION),
                user=credentials.user,
                password=self._password,
                database=database,
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=_CONNECT_TIMEOUT,
                read_timeout=self.silence,
                write_timeout=self.silence,
            )

    def create(self) -> None:
        """Make the database, if it is not there."""
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


class _TlsContext(ssl.SSLContext):
    """Checks certificates for a name other than that of the host to which the connection is, if it has one."""

    name: str | None = None

    def wrap_socket(self, sock: Any, **options: Any) -> ssl.SSLSocket:  # type: ignore[override] # as the driver calls it
        """Encrypt a connection."""
        return super().wrap_socket(sock, **options | ({"server_hostname": self.name} if self.name else {}))


def tls_context(tls: TlsConfig, name: str | None = None) -> Any:
    """Make what the driver needs to encrypt.

    Parameters
    ----------
    tls : TlsConfig
        How.
    name : str, optional
        Whom the certificate must name; by default the host to which the connection is.

    Raises
    ------
    DatabaseConnectionError
        If a certificate or key cannot be read.
    """
    context = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.name = name
    try:
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif tls.ca:
            context.load_verify_locations(tls.ca)
        else:
            context.load_default_certs()
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        files = [f"{name} {path}" for name, path in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)) if path]
        raise DatabaseConnectionError(
            f"cannot use the TLS files ({', '.join(files)}): {error}; give PEM files that exist"
        ) from error
    return context
