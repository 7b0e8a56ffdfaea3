"""A PostgreSQL server, by the package psycopg (an extra), which only this module imports."""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections.abc import Generator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from pyexperimenter.database.backends.backend import Server, tls_context, translated_errors
from pyexperimenter.database.backends.dialect import POSTGRESQL
from pyexperimenter.exceptions import AccessDeniedError, DatabaseConnectionError, DatabaseCreationError

try:
    import psycopg
    from psycopg.types.string import TextLoader
    from psycopg.waiting import Ready, Wait
except ImportError as missing:
    raise DatabaseConnectionError(f"{missing}; pip install pyexperimenter[postgresql]") from missing

_CONNECT_TIMEOUT = 10  # seconds
_LOCK_TIMEOUT = 50  # seconds; as others have it by default
_ANY_DATABASE = "postgres"  # the one that is always there
_NO_FILE = f"{os.devnull}/none"  # cannot be there


class _Connection(psycopg.Connection[Any]):
    """Gives up on a server that says nothing for `silence` seconds, which psycopg would wait for."""

    silence: float | None = None

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Run what psycopg does until it needs the server's answer, again and again."""
        if self.silence is None:
            return super().wait(gen, *args, **kwargs)
        poll = select.poll()
        try:
            wanted = next(gen)
            while True:
                poll.register(self.pgconn.socket, _EVENTS[int(wanted)])
                events = poll.poll(self.silence * 1000)
                if not events:
                    raise psycopg.OperationalError(f"no answer for {self.silence:g} seconds")
                ((_, event),) = events
                ready = (Ready.R if event & ~select.POLLOUT else 0) | (Ready.W if event & ~select.POLLIN else 0)
                wanted = gen.send(ready & wanted)
        except StopIteration as end:
            return end.value


_EVENTS = {
    int(Wait.R): select.POLLIN,
    int(Wait.W): select.POLLOUT,
    int(Wait.RW): select.POLLIN | select.POLLOUT,
}


class PostgreSqlServer(Server):
    """A database on a PostgreSQL server."""

    dialect = POSTGRESQL
    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def told(self, error: Exception) -> str:
        """Return what the error says, without the lines that point into the statement."""
        primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        return " ".join((primary or str(error)).split())

    def _connect(self, database: str | None) -> Any:
        credentials = self.config.credentials
        host, port = self._address()
        address: dict[str, Any] = {"host": host, "port": port}
        if self._certified_name:
            address |= {"host": self._certified_name, "hostaddr": socket.gethostbyname(host)}
        if credentials.unix_socket:
            address = {"port": credentials.port} | _socket(credentials.unix_socket)
        with translated_errors(self, f"connecting to {self}"):
            connection = _Connection.connect(
                **address,
                **self._encryption,
                user=credentials.user,
                password=self._password,
                dbname=database or _ANY_DATABASE,
                client_encoding="utf8",
                connect_timeout=_CONNECT_TIMEOUT,
                tcp_user_timeout=int((self.silence or 0) * 1000),
                autocommit=True,
                prepare_threshold=None,  # a connection pooler between us and the server need not know of them
            )
            connection.silence = self.silence
            connection.adapters.register_loader("json", TextLoader)
            if not self.plain:
                connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}s'")
        return connection

    def create(self) -> None:
        """Make the database, if it is not there."""
        try:
            with closing(self._connect(None)) as connection, translated_errors(self, f"creating {self}"):
                found = "SELECT 1 FROM pg_database WHERE datname = %s"
                if connection.execute(found, [self.config.database]).fetchone():
                    return
                try:
                    name = POSTGRESQL.quote(self.config.database)
                    connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
                except psycopg.Error:
                    if not connection.execute(found, [self.config.database]).fetchone():  # another was faster
                        raise
        except AccessDeniedError as error:
            raise DatabaseCreationError(str(error)) from error

    @cached_property
    def _encryption(self) -> dict[str, Any]:
        tls = self.config.credentials.tls
        if tls is None:
            return {}
        tls_context(tls)  # tells what is wrong with the files
        files = {"sslcert": tls.cert, "sslkey": tls.key}
        given = {name: file for name, file in files.items() if file}
        if not tls.verify:
            # Without a name, one in ~/.postgresql would be taken, and checked with.
            return {"sslmode": "require", "sslrootcert": _NO_FILE, **given}
        # The driver may bring an OpenSSL of its own, which does not know where this system has its authorities.
        trusted = tls.ca or ssl.get_default_verify_paths().cafile or "system"
        return {"sslmode": "verify-full", "sslrootcert": trusted, **given}


def _socket(path: str) -> dict[str, Any]:
    """Return how libpq names a socket: by its directory, and the port that its file is called after."""
    file = Path(path)
    if file.name.startswith(".s.PGSQL."):
        return {"host": str(file.parent), "port": int(file.suffix[1:])}
    return {"host": path}
