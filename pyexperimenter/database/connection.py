"""Opening connections, running transactions on them, and turning drivers' errors into ours."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, TypeVar, cast

from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backend import DRIVER_ERRORS, backend_of, translated
from pyexperimenter.database.dialect import Dialect
from pyexperimenter.exceptions import DatabaseError, InvalidValueError, PyExperimenterError, TransientDatabaseError

_RETRY_TIMEOUT = 60.0  # seconds that passing trouble is tried again
_LARGE = 100_000  # characters or bytes of a value that may be too large for a server
_IDLE_SECONDS = 0.5  # after which a released connection is closed


class Cursor:
    """A database cursor that takes ``?`` for parameters on every database, and raises our errors."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor = cursor
        self._dialect = dialect

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement and return the number of rows it changed."""
        if self._dialect.largest_packet is not None and any(_is_large(value) for value in parameters):
            self._refuse_too_large(parameters)
        try:
            self._cursor.execute(self._dialect.statement(sql), tuple(parameters))
        except DRIVER_ERRORS as error:
            raise translated(error, self._dialect, f"running: {sql}") from error
        return int(self._cursor.rowcount)

    def _refuse_too_large(self, parameters: Sequence[Any]) -> None:
        """Refuse what the server would answer by cutting the connection, which looks like passing trouble."""
        assert self._dialect.largest_packet is not None
        self._cursor.execute(self._dialect.largest_packet)
        (most,) = self._cursor.fetchone()
        size = sum(len(value.encode() if isinstance(value, str) else value) for value in parameters if _is_large(value))
        if size + _LARGE > most:
            raise InvalidValueError(
                f"the values have {size} bytes, but the server takes statements of {most}; "
                "store less (or a file's path), or raise the server's max_allowed_packet"
            )

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run one statement for each row of parameters and return the number of rows changed in all."""
        if not rows:
            return 0
        try:
            self._cursor.executemany(self._dialect.statement(sql), rows)
        except DRIVER_ERRORS as error:
            raise translated(error, self._dialect, f"running: {sql}") from error
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


def _is_large(value: Any) -> bool:
    return isinstance(value, (str, bytes)) and len(value) > _LARGE


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
        self._local.drop()

    def release(self) -> None:
        """Have the connection closed soon, where an idle one takes another's place or is cut by the server.

        If this thread wants it back within a moment, it gets the same one, which spares short runs the opening.
        """
        if not self.dialect.keeps_connection:
            self._local.park()

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
                self._local.drop()  # whatever state it is in, a new one is clean
            raise
        except BaseException:
            self._local.drop()
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


_KEYS = itertools.count()


class _PerThread(threading.local):
    """A thread's connection. After a fork the child has its own: the parent's is left alone, unclosed."""

    def __init__(self) -> None:
        self.key = next(_KEYS)
        self._connection: Any = None
        self._pid = os.getpid()

    def connection(self) -> Any:
        """Return the connection, taken back from the car park if it is still there; None if there is none."""
        if self._pid != os.getpid():
            _FROM_BEFORE_A_FORK.append(self._connection)
            self._connection, self._pid = None, os.getpid()
        return self._connection if self._connection is not None else self.keep(_CAR_PARK.fetch(self))

    def keep(self, connection: Any) -> Any:
        """Make a connection the thread's."""
        self._connection = connection
        return connection

    def park(self) -> None:
        """Leave the connection where it is closed if not fetched soon."""
        connection, self._connection = self.connection(), None
        if connection is not None:
            _CAR_PARK.leave(self, connection)

    def drop(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self.connection(), None
        _close(connection)


_FROM_BEFORE_A_FORK: list[Any] = []  # closing or collecting them would disturb the parent's


class _CarPark:
    """Holds connections that are idle, and closes each that nobody fetched for a moment.

    A connection is either parked or its thread's: whoever takes it out of `_parked` owns it.
    """

    def __init__(self) -> None:
        self._parked: dict[int, tuple[Any, float]] = {}
        self._changed = threading.Condition()
        self._warden: threading.Thread | None = None

    def leave(self, slot: _PerThread, connection: Any) -> None:
        with self._changed:
            self._parked[slot.key] = (connection, time.monotonic() + _IDLE_SECONDS)
            if self._warden is None:
                self._warden = threading.Thread(target=self._close_expired, name="idle connections", daemon=True)
                self._warden.start()
            self._changed.notify()

    def fetch(self, slot: _PerThread) -> Any:
        with self._changed:
            return self._parked.pop(slot.key, (None, 0))[0]

    def forget(self) -> None:
        """Start anew in the child of a fork, which has none of the parent's threads."""
        _FROM_BEFORE_A_FORK.extend(self._parked.values())
        self.__init__()  # type: ignore[misc]

    def _close_expired(self) -> None:
        while True:
            with self._changed:
                while not self._parked:
                    self._changed.wait()
                now = time.monotonic()
                expired = [key for key, (_, deadline) in self._parked.items() if deadline <= now]
                connections = [self._parked.pop(key)[0] for key in expired]
                if not connections:
                    self._changed.wait(min(deadline for _, deadline in self._parked.values()) - now)
            for connection in connections:
                _close(connection)


def _close(connection: Any) -> None:
    if connection is not None:
        with suppress(Exception):
            connection.close()


_CAR_PARK = _CarPark()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CAR_PARK.forget)
