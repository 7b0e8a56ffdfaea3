"""What the backends share: their interface, errors of drivers as errors of ours, and servers."""

from __future__ import annotations

import subprocess
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

from pyexperimenter.config.model import Credentials, DatabaseConfig, SshConfig
from pyexperimenter.database.backends.dialect import LOST, Dialect, Remedy
from pyexperimenter.exceptions import (
    AccessDeniedError,
    DatabaseConnectionError,
    DatabaseError,
    DatabaseQueryError,
    PyExperimenterError,
    ServerUnreachableError,
    TransientDatabaseError,
)

CONNECT_TIMEOUT = 10  # seconds, for a server


class Backend(Protocol):
    """A database that connections can be opened to.

    Attributes
    ----------
    dialect : Dialect
        Its SQL.
    silence : float or None
        Seconds after which a server that does not answer counts as away; None: never.
    time_limit : float or None
        Seconds after which a statement is cut, on connections that can only read and take one statement at a time;
        None: connections are not restricted.
    plain : bool
        Whether connections keep the server's own settings, which saves it some statements.
    errors : tuple of exception classes
        What the driver raises.
    """

    dialect: Dialect
    silence: float | None
    time_limit: float | None
    plain: bool
    errors: tuple[type[Exception], ...]

    def message_of(self, error: Exception) -> str:
        """Return the message of an error of the driver."""

    def is_closed(self, connection: Any) -> bool:
        """Return whether a connection of the driver has been closed, by us or because it was lost."""

    def is_outdated(self, connection: Any) -> bool:
        """Return whether what was read without locks on a connection of the driver may be wrong."""

    def with_many_parameters(self, cursor: Any, sql: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Return statement and values for a statement with more parameters than the dialect allows."""

    def connect(self, create: bool) -> Any:
        """Open a connection of the driver in autocommit mode; `create` makes a missing SQLite file."""

    def streaming(self, connection: Any) -> Any:
        """Return a cursor of the driver that need not have all rows of a query in memory."""
        return connection.cursor()

    def create(self) -> None:
        """Create the database if it does not exist."""

    def close_tunnel(self) -> None:
        """Close the SSH tunnel, if there is one."""


def translated(error: Exception, backend: Backend, doing: str, connection: Any = None) -> PyExperimenterError:
    """Return our error for a driver's error: its message, the remedy, and what was being done.

    Parameters
    ----------
    error : Exception
        The driver's error.
    backend : Backend
        The database.
    doing : str
        What was being done.
    connection : object, optional
        The connection of the statement that failed; by default, it could not be opened.
    """
    remedy = backend.dialect.meaning_of(error, connecting=connection is None)
    if backend.time_limit is not None and backend.dialect.was_cut(error):
        advice = f"it was cut after {backend.time_limit:g} s; select fewer experiments, or allow more time"
        remedy = Remedy(DatabaseQueryError, advice)
    if remedy is None and connection is not None and backend.is_closed(connection):
        remedy = LOST
    message, doing = (" ".join(text.split()) for text in (backend.message_of(error), doing))  # on one line
    doing = doing if len(doing) <= 200 else doing[:197] + "..."
    if remedy is None:
        # What is not known is not taken for an outage, but a connection that cannot be opened is one.
        return (DatabaseConnectionError if connection is None else DatabaseQueryError)(f"{message} (while {doing})")
    ours = remedy.error(f"{message}; {remedy.advice} (while {doing})")
    if remedy.lasts and isinstance(ours, DatabaseError):
        ours.recovery = "none"
    return ours


@contextmanager
def translated_errors(backend: Backend, doing: str) -> Iterator[None]:
    """Raise our errors where opening a connection raises the driver's.

    The driver's frames are removed: their variables include the password, and some tools show variables with a
    traceback.
    """
    try:
        yield
    except backend.errors as error:
        raise translated(error, backend, doing) from error.with_traceback(None)


class Server(Backend):
    """A database on a server: what is the same for all servers, such as address, SSH and password."""

    dialect: Dialect
    silence: float | None = None
    time_limit: float | None = None
    plain = False

    def __init__(self, config: DatabaseConfig) -> None:
        self.config = config

    def __str__(self) -> str:
        credentials = self.config.credentials
        place = credentials.unix_socket or f"{credentials.host}:{credentials.port}"
        return f"{self.dialect.name} {self.config.database} on {place}"

    def connect(self, create: bool) -> Any:
        """Open a connection to the server; `create` has no effect here."""
        return self._connect(self.config.database)

    def is_outdated(self, connection: Any) -> bool:
        """Return False: servers have locks."""
        return False

    @abstractmethod
    def _connect(self, database: str | None) -> Any:
        """Open a connection of the driver to a database, or to the server without one."""

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Raise our errors where the driver's are raised, or what the SSH server says about the database."""
        doing = f"connecting to {self}"
        if self._ssh is None:
            with translated_errors(self, doing):
                yield
            return
        from pyexperimenter.database.ssh.shared_tunnel import refusal, ssh_log

        before = ssh_log(self._ssh)
        try:
            with translated_errors(self, doing):
                yield
        except (ServerUnreachableError, TransientDatabaseError) as error:
            if (reason := refusal(self._ssh, before)) is None:
                raise
            raise ServerUnreachableError(f"{reason} (while {doing})") from error.__cause__

    def with_many_parameters(self, cursor: Any, sql: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Return statement and values as they are."""
        return self.dialect.statement(sql, parameters)

    def close_tunnel(self) -> None:
        """Stop using the SSH tunnel, if there is one."""
        if self._ssh is not None:
            from pyexperimenter.database.ssh.shared_tunnel import close_tunnel

            close_tunnel(self._ssh)

    @property
    def _ssh(self) -> SshConfig | None:
        """The SSH server that leads to the database; None for a direct connection."""
        return self.config.credentials.ssh if self.config.use_ssh_tunnel else None

    def _address(self) -> tuple[str, int]:
        """Return host and port to connect to: those of the server, or of the local end of the tunnel."""
        credentials = self.config.credentials
        if self._ssh is None:
            return credentials.host, credentials.port
        from pyexperimenter.database.ssh.shared_tunnel import tunnel_address

        return tunnel_address(self._ssh, credentials.host, credentials.port)

    @property
    def _certified_name(self) -> str | None:
        """Return the name that the server's certificate must have, if it is not the host that we connect to."""
        if self._ssh is None:
            return None
        # We connect to the local end of the tunnel, which no certificate names.
        host = self.config.credentials.host
        return self._ssh.remote_address if host == Credentials.host else host

    @cached_property
    def _password(self) -> str:
        credentials = self.config.credentials
        if credentials.password_command is None or credentials.password is not None:
            return credentials.password.reveal() if credentials.password is not None else ""
        done = subprocess.run(credentials.password_command, shell=True, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message, code = done.stderr.strip()[:200], done.returncode
            del done  # some tools show variables with a traceback, and its output may hold the password
            raise AccessDeniedError(f"password_command exited with {code}: {message}; run it by hand to see why")
        return done.stdout.rstrip("\r\n")
