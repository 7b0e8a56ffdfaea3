"""Connections and transactions, errors of drivers as errors of ours, and retries."""

from __future__ import annotations

import atexit
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

from pyexperimenter.config.model import DatabaseConfig
from pyexperimenter.database.backends.base import Backend, translated
from pyexperimenter.database.backends.choice import backend_of
from pyexperimenter.database.connector import Connector
from pyexperimenter.database.outages import back, outage
from pyexperimenter.exceptions import (
    DatabaseError,
    InvalidValueError,
    PyExperimenterError,
    ReadOnlyDatabaseError,
    SshTunnelError,
    TransientDatabaseError,
)
from pyexperimenter.machine.system import at_fork, system_random

_LONGEST_WAIT = 4.0  # seconds between two tries
_LONGEST_SILENCE = 60.0  # seconds; more than a server waits for a lock by default
_MUTE = 1.0  # seconds without an answer after which a user wants to know why
_READ_AT_ONCE = 500  # rows; more tuples would make the garbage collector look at them again and again
_LARGE = 100_000  # characters or bytes of a statement that may be too large for a server
_LONGEST_INSERT = 250_000  # characters of the rows of one INSERT, so that it has less than a megabyte
_IDLE_SECONDS = 0.5  # after which a released connection is closed
# Those of a worker are kept for longer while the server has room, and for less time while others need them.
_IDLE_WITH_ROOM, _IDLE_IN_A_CROWD = 5.0, 0.1  # seconds
_ROOM = 0.75  # of the connections that the server allows
_LONGEST_KEPT = 60.0  # seconds from the opening of a connection, after which others get their chance


Statement = tuple[str, Mapping[str, Any]]
"""A statement, and its parameters by name."""


class Result(NamedTuple):
    """What a statement did: the number of rows it changed or found, the rows it found, and the ID it inserted.

    And the seconds that it took, with all others that were sent together with it.
    """

    changed: int
    rows: list[tuple[Any, ...]]
    inserted: Any
    seconds: float

    @property
    def first(self) -> tuple[Any, ...] | None:
        """The first row found, if any."""
        return self.rows[0] if self.rows else None


class Cursor:
    """A database cursor that takes named parameters on every database, and raises our errors.

    Servers get statements together, separated by semicolons, where nothing has to be known in between. So a transaction
    takes few round trips.
    """

    def __init__(self, connection: Any, backend: Backend) -> None:
        try:
            self._cursor = connection.cursor()
        except backend.errors as error:  # psycopg knows that the connection was lost
            raise translated(error, backend, "using a connection", connection) from error
        self._backend = backend
        self._dialect = backend.dialect
        self._deferred: list[str] = []
        self._is_open = False
        self._running = ""  # the statement

    def begin(self, *statements: str) -> None:
        """Begin a transaction, in the usual way or by these statements, together with the next statement."""
        self._deferred += statements or [self._dialect.begin]

    def commit(self) -> None:
        """Commit, unless nothing was done."""
        self._deferred.clear()
        if self._is_open:
            self.run("COMMIT")

    def roll_back(self) -> None:
        """Roll back, unless nothing was done."""
        self._deferred.clear()
        if self._is_open:
            self.run("ROLLBACK")

    def run(self, sql: str, /, **parameters: Any) -> int:
        """Run one statement and return the number of rows it changed. Lists may have any length."""
        return self.run_together((sql, parameters))[0].changed

    def run_together(self, *statements: Statement, commit: bool = False) -> list[Result]:
        """Run statements one after the other, sent at once if possible; none after one that fails.

        With `commit`, the transaction ends with them.
        """
        if commit:
            statements = (*statements, ("COMMIT", {}))
        before = len(self._deferred)
        if before:
            statements = (*((sql, {}) for sql in self._deferred), *statements)
        # This may refuse a value, and then nothing is sent.
        translated = [self._translated(sql, parameters) for sql, parameters in statements]
        if before:
            self._is_open = True
            self._deferred.clear()
        results: list[Result] = []
        start, execute, result_of = time.monotonic(), self._cursor.execute, self._result
        try:
            if self._dialect.sends_together:
                self._running = "; ".join([sql for sql, _ in statements[before:]])
                text = "; ".join([text for text, _ in translated])
                execute(text, [value for _, values in translated for value in values])
                results.append(result_of(start))
                while self._cursor.nextset():
                    results.append(result_of(start))
            else:
                for (self._running, _), (text, values) in zip(statements, translated, strict=True):
                    execute(text, values)
                    results.append(result_of(start))
                    start += results[-1].seconds
            self._refuse_outdated()
        except Exception as error:
            self._raise_ours(error)
            raise
        if commit:
            self._is_open = False
            results.pop()
        return results[before:]

    def _translated(self, sql: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
        text, values = self._dialect.statement(sql, parameters)
        most = self._dialect.most_parameters
        self._running = sql
        self._refuse_too_large(values)
        if most is not None and len(values) > most:
            with self._translated_errors():
                text, values = self._backend.with_many_parameters(self._cursor, sql, parameters)
        return text, values

    def _result(self, start: float) -> Result:
        cursor = self._cursor
        rows = list(cursor.fetchall()) if cursor.description else []
        return Result(int(cursor.rowcount), rows, getattr(cursor, "lastrowid", None), time.monotonic() - start)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]], commit: bool = False) -> int:
        """Run ``INSERT ... VALUES (:row)`` for several rows and return the number of rows changed in all.

        With `commit`, the transaction ends with it if that can be sent with it.
        """
        if not rows:
            return 0
        text, _ = self._dialect.statement(sql, {"row": list(rows[0])})
        if self._deferred:
            self.run_together()
        self._running = sql
        with self._translated_errors():
            if self._dialect.sends_together:
                changed = sum(self._insert(statement) for statement in self._together(text, rows, commit))
                self._is_open = self._is_open and not commit
                return changed
            self._cursor.executemany(text, rows)
            return int(self._cursor.rowcount)

    def _insert(self, statement: str) -> int:
        self._cursor.execute(statement)
        changed = int(self._cursor.rowcount)
        while self._cursor.nextset():
            pass
        return changed

    def _together(self, text: str, rows: Iterable[Sequence[Any]], commit: bool) -> Iterator[str]:
        """Yield INSERTs of many rows each, with the values in them, for an INSERT of one. No name has parentheses."""
        head, _, rest = text.partition("VALUES (")
        values, _, tail = rest.partition(")")
        parts, length = list[str](), 0
        for row in rows:
            part = self._cursor.mogrify(f"({values})", row)
            if len(part) > _LARGE:
                self._refuse_too_large(row)
            if parts and length + len(part) > _LONGEST_INSERT:
                yield f"{head}VALUES {', '.join(parts)}{tail}"
                parts, length = [], 0
            parts.append(part)
            length += len(part)
        yield f"{head}VALUES {', '.join(parts)}{tail}{'; COMMIT' if commit else ''}"

    def copy(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run ``COPY ... FROM STDIN`` and return the number of rows added. If one cannot be added, none is."""
        text, _ = self._dialect.statement(sql, {})
        if self._deferred:
            self.run_together()
        self._running = sql
        with self._translated_errors():
            with self._cursor.copy(text) as copy:
                for row in rows:
                    copy.write_row(row)
            return int(self._cursor.rowcount)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
            self._refuse_outdated()
        except Exception as error:
            self._raise_ours(error)
            raise

    def _raise_ours(self, error: Exception) -> None:
        """Raise our error for one of the driver, if it is one."""
        if isinstance(error, self._backend.errors):
            self._refuse_outdated()
            raise translated(error, self._backend, f"running: {self._running}", self._cursor.connection) from error
        if isinstance(error, UnicodeEncodeError):  # arguments of a command line that are not UTF-8 have lone surrogates
            text = error.object.encode("utf-8", "backslashreplace").decode()
            raise InvalidValueError(f"{text:.200} is not text that a database can read: {error.reason}") from None

    def _refuse_outdated(self) -> None:
        if self._backend.is_outdated(self._cursor.connection):
            raise TransientDatabaseError(f"{self._backend} was written while it was read; repeat the query")

    def _refuse_too_large(self, values: Sequence[Any]) -> None:
        """Refuse values because of which the server would close the connection, as if it had failed."""
        if self._dialect.largest_packet is None or sum(map(_length, values)) <= _LARGE:
            return
        with self._translated_errors():
            self._cursor.execute(self._dialect.largest_packet)
            (most,) = self._cursor.fetchone()
        size = sum(len(value if isinstance(value, bytes) else str(value).encode()) for value in values)
        if size + _LARGE > most:
            raise InvalidValueError(
                f"the values have {size} bytes, but the server takes statements of {most}; "
                "store less (or a file's path), or raise the server's max_allowed_packet"
            )

    def one(self, sql: str, /, **parameters: Any) -> tuple[Any, ...] | None:
        """Run a query and return its first row, or None."""
        return self.run_together((sql, parameters))[0].first

    def all(self, sql: str, /, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows."""
        return self.run_together((sql, parameters))[0].rows

    @contextmanager
    def stream(self, sql: str, /, **parameters: Any) -> Iterator[tuple[list[str], Iterator[list[tuple[Any, ...]]]]]:
        """Run a query; yield the names of its columns, and its rows in parts, of which one at a time is in memory."""
        text, values = self._translated(sql, parameters)
        with self._translated_errors():
            cursor = self._backend.streaming(self._cursor.connection)

        def parts() -> Iterator[list[tuple[Any, ...]]]:
            while True:
                with self._translated_errors():
                    rows = cursor.fetchmany(_READ_AT_ONCE)
                if not rows:
                    return
                yield rows

        try:
            with self._translated_errors():
                cursor.execute(text, values)
            yield [column[0] for column in cursor.description or ()], parts()
        finally:
            with suppress(*self._backend.errors):
                cursor.close()

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost, so that the fate of the last statement is not known."""
        return self._backend.is_closed(self._cursor.connection)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the last query; empty if the last statement was not a query."""
        return [column[0] for column in self._cursor.description or ()]

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Roll back only the block if the database refuses a statement in it, and keep the transaction."""
        if self._dialect.savepoint is None:
            yield
            return
        save, go_back = self._dialect.savepoint
        self._deferred.append(save)
        try:
            yield
        except PyExperimenterError as error:
            if _passes(error):
                raise
            if save in self._deferred:  # nothing was done
                self._deferred.remove(save)
            else:
                self.run(go_back)
            raise

    def first_accepted(self, *ways: Callable[[], int]) -> int:
        """Return what the first of these functions returns that the database does not refuse; the last may fail."""
        for way in ways[:-1]:
            try:
                with self.savepoint():
                    return way()
            except PyExperimenterError as error:
                if _passes(error):
                    raise
        return ways[-1]()


def _passes(error: PyExperimenterError) -> bool:
    """Return whether an error may pass by itself, so that the whole transaction should be repeated."""
    return isinstance(error, DatabaseError) and error.recovery in ("wait", "retry")


def _length(value: Any) -> int:
    """Return about how many characters a value has in a statement."""
    return len(value) if isinstance(value, (str, bytes)) else 20


class Database:
    """A database, with one connection for each thread and process, opened when it is needed.

    Creating an instance opens nothing, so it can be passed to other threads and, pickled, to other processes. A
    connection is closed half a second after its last use, unless `keep_connections` was called.

    Parameters
    ----------
    config : DatabaseConfig
        Where it is.

    Attributes
    ----------
    patience : float
        Seconds for which statements are retried.
    for_user : bool
        Whether a user is waiting for answers, instead of a worker.
    """

    patience = 60.0
    _waits_for_server = False
    _keeps = False
    for_user = False

    def __init__(self, config: DatabaseConfig) -> None:
        self._backend = backend_of(config)
        self.config = config
        self.dialect = self._backend.dialect
        self._local: _Slot = _PerThread()

    def __reduce__(self) -> tuple[type[Database], tuple[DatabaseConfig]]:
        return type(self), (self.config,)

    def __repr__(self) -> str:
        return f"<Database {self._backend}>"

    def __str__(self) -> str:
        return str(self._backend)

    @contextmanager
    def transaction(self, create: bool = False) -> Iterator[Cursor]:
        """Run the block in one transaction: commit at its end, roll back if it raises.

        Parameters
        ----------
        create : bool
            Whether to create a SQLite file that does not exist.

        Raises
        ------
        DatabaseError
            If the database cannot be reached, or a statement fails.
        """
        if self._backend.time_limit is not None:
            raise ReadOnlyDatabaseError("the study was opened for reading only, so nothing can be changed with it")
        with self._cursor(create) as cursor:
            cursor.begin()
            try:
                yield cursor
                cursor.commit()
            except BaseException:
                with suppress(DatabaseError):
                    cursor.roll_back()
                raise

    @contextmanager
    def query(self) -> Iterator[Cursor]:
        """Run the block without a transaction, so that no lock outlives its statement. It should only read.

        Outside transactions, a database may refuse to write unless it is asked for that.
        """
        with self._cursor(create=False) as cursor:
            if self._backend.time_limit is None or not self.dialect.read_only:
                yield cursor
                return
            cursor.begin(*self.dialect.read_only)
            cursor.run_together()
            try:
                yield cursor
            finally:
                with suppress(DatabaseError):
                    cursor.roll_back()

    @contextmanager
    def snapshot(self) -> Iterator[Cursor]:
        """Run the block, which only reads, in one transaction that sees the database as it is at its beginning."""
        with self._cursor(create=False) as cursor:
            cursor.begin(*self.dialect.snapshot)
            try:
                yield cursor
            finally:
                with suppress(DatabaseError):
                    cursor.roll_back()

    def wait_out(self, outage: float, silence: float | None = None, for_user: bool = False) -> None:
        """Wait for a database that is away, even if it has never answered. Workers do.

        Parameters
        ----------
        outage : float
            Seconds to wait; the new patience.
        silence : float, optional
            Seconds after which a server that does not answer a statement counts as away; by default a minute, or half
            of `outage` if that is less.
        for_user : bool
            Whether a user is waiting for the answer, who soon wants to know that the database is away.
        """
        self.patience = outage
        self.for_user = for_user
        self._waits_for_server = True
        self._backend.silence = min(silence or outage / 2, _LONGEST_SILENCE)

    def only_read(self, time_limit: float) -> None:
        """Let the database itself refuse to write, and cut statements that take longer than so many seconds.

        A statement is then always one: what follows a semicolon is refused, wherever users may write SQL.
        """
        self._backend.time_limit = self.patience = time_limit

    @property
    def only_reads(self) -> bool:
        """Whether `only_read` was called."""
        return self._backend.time_limit is not None

    def spare_settings(self) -> None:
        """Open connections with settings of the server that do for numbers, times and ASCII texts."""
        self._backend.plain = True

    def share_connection(self) -> None:
        """Use one connection for all threads. They must take turns."""
        self._local = _Slot()

    def keep_connections(self) -> None:
        """Keep a connection for as long as the server has room for others, up to a minute. Workers do."""
        self._keeps = self.dialect.crowd is not None

    def _connect(self, create: bool) -> _Held:
        connection = self._backend.connect(create)
        if not self._keeps:
            return _Held(connection, _IDLE_SECONDS)
        assert self.dialect.crowd is not None
        try:
            answers = Cursor(connection, self._backend).run_together(*((sql, {}) for sql in self.dialect.crowd))
        except DatabaseError:  # it is not allowed, or the connection was lost, as its first use will tell
            return _Held(connection, _IDLE_SECONDS)
        connections, most = (int(answer.rows[0][-1]) for answer in answers)
        return _Held(connection, _IDLE_WITH_ROOM if connections < _ROOM * most else _IDLE_IN_A_CROWD)

    def _may_retry(self, error: DatabaseError) -> bool:
        """Return whether a second try may succeed after this error."""
        if error.recovery == "wait":
            # Logins that fail again and again may lock the user out, so a user who reads sees the error at once.
            return self._waits_for_server and not (self.for_user and isinstance(error, SshTunnelError))
        return error.recovery == "retry"

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Log that the database is away if the block takes long."""
        silent = TransientDatabaseError(f"no answer for {_MUTE:g} s")
        timer = threading.Timer(_MUTE, outage, [str(self), time.monotonic(), self.patience, silent, True])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close this thread's connection, if there is one. The next statement opens another."""
        self._local.drop()

    def close_tunnel(self) -> None:
        """Close this process's SSH tunnel, if there is one."""
        self.close()
        self._backend.close_tunnel()

    def connector(self) -> Connector:
        """Return what py-experimenter's users ran SQL with."""
        return Connector(self._backend)

    def create_if_missing(self) -> None:
        """Create the database on the server if it does not exist.

        Raises
        ------
        DatabaseCreationError
            If the server does not allow it.
        """
        self._backend.create()

    @contextmanager
    def _cursor(self, create: bool) -> Iterator[Cursor]:
        with self._timed() if self.for_user else nullcontext():
            connection = self._local.take() or self._local.use(self._connect(create))
            try:
                yield Cursor(connection, self._backend)
            except PyExperimenterError as error:
                if isinstance(error, TransientDatabaseError):
                    self._local.drop()  # its state is unknown; a new one is clean
                raise
            except BaseException:
                self._local.drop()
                raise
            finally:
                if self._backend.is_closed(connection):
                    self._local.drop()
                self._local.release()


_Method = TypeVar("_Method", bound=Callable[..., Any])


def retried(method: _Method) -> _Method:
    """Retry a method that is one transaction after a deadlock, a lock timeout or a lost connection.

    The waits double and are random, so that two processes do not collide again. The object has a `database`, whose
    patience may change during a wait.
    """

    @wraps(method)
    def trying(self: Any, *args: Any, **kwargs: Any) -> Any:
        database: Database = self.database
        start = time.monotonic()
        wait = 0.005
        while True:
            try:
                result = method(self, *args, **kwargs)
            except DatabaseError as error:
                if not database._may_retry(error) or time.monotonic() - start > database.patience:
                    raise
                at_once = database.for_user and error.recovery == "wait"
                outage(str(database), start, database.patience, error, at_once)
            else:
                back(str(database))
                return result
            time.sleep(wait * system_random.random())
            wait = min(2 * wait, _LONGEST_WAIT)

    return cast(_Method, trying)


class _Held:
    """A connection of this process, closed with the last reference to it, or if it is idle for some seconds."""

    def __init__(self, connection: Any, idle_seconds: float) -> None:
        self.connection = connection
        self._idle_seconds = idle_seconds
        self._oldest = time.monotonic() + _LONGEST_KEPT * system_random.uniform(0.5, 1)  # not all of a study at once
        self._pid = os.getpid()

    def close(self) -> None:
        """Close the connection, unless this process is a fork of the one that opened it."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if self.inherited:
            _INHERITED.append(connection)
            return
        with suppress(Exception):
            connection.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():  # another thread may still be using it, for ever; the system closes it
            self.close()

    def idle_until(self) -> float:
        """Return when to close the connection if it is not used from now on."""
        return min(time.monotonic() + self._idle_seconds, self._oldest)

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one that opened the connection."""
        return self._pid != os.getpid()


_INHERITED: list[Any] = []  # connections of a parent, which garbage collection would close for it, too
_KEYS = itertools.count()


class _Slot:
    """A connection while it is in use."""

    def __init__(self) -> None:
        self.key = next(_KEYS)
        self._held: _Held | None = None
        self._users = 0

    def take(self) -> Any:
        """Return the connection in use or the idle one of this thread, until `release`; None if there is none."""
        if self._held is None or self._held.inherited:
            self._held = _IDLE.take(self)
        return self._held and self.use(self._held)

    def use(self, held: _Held) -> Any:
        """Return a connection, and use it until `release`."""
        self._held = held
        self._users += 1
        return held.connection

    def release(self) -> None:
        """End a use. After the last one, the connection is idle."""
        self._users -= 1
        if self._held is not None and not self._users:
            _IDLE.put(self, self._held)
            self._held = None

    def drop(self) -> None:
        """Close the connection, if there is one."""
        held, self._held = self._held or _IDLE.take(self), None
        if held is not None:
            held.close()


class _PerThread(threading.local, _Slot):
    """A thread's connection while it is in use."""


class _IdleConnections:
    """Keeps idle connections for a moment, and then closes them.

    So none is open during a long experiment: the server would close it at some time, and it would count towards the
    server's limit. Short experiments do not have to open a new one. A connection is either here or with its thread: the
    thread that takes it out of `_connections` owns it.
    """

    def __init__(self) -> None:
        self._connections: dict[int, tuple[_Held, float]] = {}
        self._changed = threading.Condition()
        self._closer: threading.Thread | None = None
        self._next_look = math.inf  # of the closer

    def put(self, slot: _Slot, held: _Held) -> None:
        with self._changed:
            deadline = held.idle_until()
            self._connections[slot.key] = (held, deadline)
            if self._closer is None:
                self._closer = threading.Thread(target=self._close_expired, name="idle connections", daemon=True)
                self._closer.start()
            if deadline < self._next_look:
                self._changed.notify()

    def take(self, slot: _Slot) -> _Held | None:
        with self._changed:
            return self._connections.pop(slot.key, (None, 0))[0]

    def clear(self) -> None:
        """Close all idle connections."""
        with self._changed:
            closing, self._connections = self._connections, {}
        for held, _ in closing.values():
            held.close()

    def forget(self) -> None:
        """Start again in the child of a fork, which has none of the parent's threads."""
        self.__init__()  # type: ignore[misc]

    def _close_expired(self) -> None:
        while True:
            for held in self._expired():
                held.close()

    def _expired(self) -> list[_Held]:
        """Wait until connections may have expired, and remove those that have."""
        with self._changed:
            self._next_look = min((deadline for _, deadline in self._connections.values()), default=math.inf)
            seconds = self._next_look - time.monotonic()
            self._changed.wait(None if seconds == math.inf else max(0, seconds))
            now = time.monotonic()
            return [
                self._connections.pop(key)[0]
                for key, (_, deadline) in list(self._connections.items())
                if deadline <= now
            ]


_IDLE = _IdleConnections()
atexit.register(_IDLE.clear)
# SQLite's records of open files are wrong in a child, so idle connections are closed before a fork.
at_fork(before=_IDLE.clear, after_in_child=_IDLE.forget)
