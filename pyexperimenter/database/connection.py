"""Opening connections, running transactions on them, and turning drivers' errors into ours."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, TypeVar, cast

from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backend import backend_of, translated_errors
from pyexperimenter.database.dialect import Dialect
from pyexperimenter.exceptions import DatabaseError, PyExperimenterError, TransientDatabaseError

_RETRY_TIMEOUT = 60.0  # seconds that passing trouble is tried again


class Cursor:
    """A database cursor that takes ``?`` for parameters on every database, and raises our errors."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor = cursor
        self._dialect = dialect

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement and return the number of rows it changed."""
        with translated_errors(self._dialect, sql):
            self._cursor.execute(self._dialect.statement(sql), tuple(parameters))
        return int(self._cursor.rowcount)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run one statement for each row of parameters and return the number of rows changed in all."""
        if not rows:
            return 0
        with translated_errors(self._dialect, sql):
            self._cursor.executemany(self._dialect.statement(sql), rows)
        return int(self._cursor.rowcount)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Run a query and return its first row, or None."""
        self.run(sql, parameters)
        row: tuple[Any, ...] | None = self._cursor.fetchone()
        return row

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows."""
        self.run(sql, parameters)
        return list(self._cursor.fetchall())

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the last query gave; empty if it was no query."""
        return [column[0] for column in self._cursor.description or ()]

    @property
    def last_id(self) -> int:
        """ID of the row inserted last."""
        return int(self._cursor.lastrowid)


class Database:
    """A database that can be reached again and again: one connection a thread and process, opened when needed.

    Nothing is opened by making one, so it can be handed to other threads and, pickled, to other processes.

    Parameters
    ----------
    config : DatabaseConfig
        Where it is.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        self._backend = backend_of(config)
        self.config = self._backend.config
        self.dialect = self._backend.dialect
        self._local = _PerThread()

    def __reduce__(self) -> tuple[type[Database], tuple[DatabaseConfig]]:
        return type(self), (self.config,)

    def __repr__(self) -> str:
        return f"<Database {self._backend}>"

    @contextmanager
    def transaction(self, create: bool = False) -> Iterator[Cursor]:
        """Run the block in one transaction: committed at its end, rolled back if it raises.

        Parameters
        ----------
        create : bool
            Whether a SQLite file that does not exist is made.

        Raises
        ------
        DatabaseError
            If the database cannot be reached, or refuses.
        """
        with self._cursor(create) as cursor:
            cursor.run(self.dialect.begin)
            try:
                yield cursor
            except BaseException:
                with suppress(DatabaseError):
                    cursor.run("ROLLBACK")
                raise
            cursor.run("COMMIT")

    @contextmanager
    def query(self) -> Iterator[Cursor]:
        """Run the block's queries without a transaction around them, so that no lock outlives a statement."""
        with self._cursor(create=False) as cursor:
            yield cursor

    def close(self) -> None:
        """Close this thread's connection, if there is one. The next statement opens another."""
        self._local.drop(close=True)

    def release(self) -> None:
        """Close the connection where an idle one would take another worker's place or be cut by the server."""
        if not self.dialect.keeps_connection:
            self.close()

    def close_tunnel(self) -> None:
        """Close this process's SSH tunnel, if there is one."""
        self.close()
        self._backend.close_tunnel()

    def create_if_missing(self) -> None:
        """Make the database itself on the server, if it is not there.

        Raises
        ------
        DatabaseCreationError
            If the server refuses.
        """
        self._backend.create()

    @contextmanager
    def _cursor(self, create: bool) -> Iterator[Cursor]:
        connection = self._local.connection()
        if connection is None:
            connection = self._local.keep(self._backend.connect(create))
        try:
            yield Cursor(connection.cursor(), self.dialect)
        except PyExperimenterError as error:
            if isinstance(error, TransientDatabaseError):
                self._local.drop(close=True)  # whatever state it is in, a new one is clean
            raise
        except BaseException:
            self._local.drop(close=True)
            raise


_Method = TypeVar("_Method", bound=Callable[..., Any])


def retried(method: _Method) -> _Method:
    """Try a method that is one transaction again when it met a deadlock, a lock or a cut connection.

    The waits double and are random, so that those who met do not meet again.
    """

    @wraps(method)
    def trying(*args: Any, **kwargs: Any) -> Any:
        deadline = time.monotonic() + _RETRY_TIMEOUT
        wait = 0.005
        while True:
            try:
                return method(*args, **kwargs)
            except TransientDatabaseError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(wait * random.random())
            wait = min(2 * wait, 2.0)

    return cast(_Method, trying)


class _PerThread(threading.local):
    """A thread's connection. After a fork the child has its own: the parent's is left alone, unclosed."""

    _connection: Any = None
    _pid = 0
    _abandoned: list[Any] = []  # noqa: RUF012 - shared on purpose: keeps forked connections from being collected

    def connection(self) -> Any:
        if self._connection is not None and self._pid != os.getpid():
            self._abandoned.append(self._connection)
            self._connection = None
        return self._connection

    def keep(self, connection: Any) -> Any:
        self._connection, self._pid = connection, os.getpid()
        return connection

    def drop(self, close: bool) -> None:
        connection = self.connection()
        self._connection = None
        if connection is not None and close:
            with suppress(Exception):
                connection.close()
