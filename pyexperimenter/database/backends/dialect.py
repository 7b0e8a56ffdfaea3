"""What differs between the SQL of databases, as data, and what their errors have in common."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyexperimenter.exceptions import (
    AccessDeniedError,
    DatabaseConnectionError,
    DatabaseFullError,
    DatabaseLimitError,
    DatabaseQueryError,
    InvalidValueError,
    MissingTableError,
    PyExperimenterError,
    ReadOnlyDatabaseError,
    ServerUnreachableError,
    TransientDatabaseError,
)
from pyexperimenter.fieldtypes import FieldType, Kind

ASIDE = "pyexperimenter_aside"
"""Name of a temporary table."""

_SUFFIXES = len("__attempts__experiment")  # room for what follows the name of a table in derived names


@dataclass(frozen=True)
class Remedy:
    """The error of ours for an error of a driver, and what the user can do about it.

    Attributes
    ----------
    error : type
        The class of the error.
    advice : str
        What the user can do.
    lasts : bool
        Whether the server refuses this statement only, so that it makes no sense to repeat or to keep it.
    """

    error: type[PyExperimenterError]
    advice: str
    lasts: bool = False


class Subquery(str):
    """A query that gives the items of a list which is too long for parameters."""


@dataclass(frozen=True, eq=False)  # compared by identity, which makes it hashable
class Dialect:
    """How one database says what every database can do.

    Attributes
    ----------
    name : str
        The value of ``provider``.
    quote_mark : str
        Encloses identifiers.
    placeholder : str
        What the driver replaces by a parameter.
    opaque : str
        Regular expression of quoted texts and comments, which contain no parameters.
    begin : str
        Starts a transaction that may write. If the database has no row locks, only one at a time.
    snapshot : tuple of str
        Statements that start a transaction that only reads, and sees the database as it is at its beginning.
    read_only : tuple of str
        Statements that start a transaction that can only read, if transactions are what restricts statements.
    cut : frozenset
        The driver's error codes of a statement that took longer than it may; a message, where the driver gives no code.
    now, now_exact : str
        UTC time by the database's clock, to the second and to the microsecond.
    later : str
        UTC time by the database's clock, ``:lease`` seconds from now, to the microsecond.
    row_lock, skip_locked : str
        Suffixes of a SELECT that lock its rows; the second skips rows that others have locked.
    insert_missing : str
        Suffix of an INSERT that skips existing rows, and hides no other error.
    make_aside : tuple of str
        Statements that make the temporary table `ASIDE` with the columns ``{keyfields}`` of ``{table}``, if a fill is
        faster through one where many rows exist.
    unless_known : str
        Condition that leaves out the rows of `ASIDE`, with this ``{identity}``, that are in ``{table}``, if that is
        faster than `insert_missing`.
    update_triggers : str or None
        Query for triggers of ``:table`` that `insert_missing` starts for existing rows, if it does that.
    id_column : str
        Type of a primary key that numbers itself and never reuses a number.
    column_types : Mapping of str to str
        Declared type -> type of the column, where they differ.
    table_options : str
        Suffix of a CREATE TABLE.
    whole_seconds : str
        Type of a time to the second.
    identity : Callable
        Quoted keyfields with their types -> expressions that are equal for two rows if and only if all keyfields are,
        where NULL equals NULL.
    add_identity, drop_identity : str
        Statement that makes the database refuse a second row with equal ``{identity}``, and one that reverts it.
    add_after : str
        Suffix of ADD COLUMN that puts it after another column, or an empty string.
    list_columns : str
        Query for the columns of ``:table``: name, declared type, whether an INSERT must give it a value, and the table
        that a foreign key of it refers to. A table of another schema is named with it, here and below.
    list_with_column : str
        Query for the names of the tables that have a ``:column``.
    list_indexes, list_references : str
        Queries for the names of the indexes of ``:table``, and of the tables whose foreign keys refer to it.
    list_identity : str
        Query for what makes a second row with equal keyfields impossible: the index, and each column that it concerns.
    find_name : str or None
        Query for a table or index ``:name``; None if the names of indexes need not differ between tables.
    ignores_case : str or None
        Query whether the names of tables are the same in upper and lower case; None if they never are.
    add_reference : str
        What follows ``ADD COLUMN`` and a ``{column}``'s declaration to make it refer to ``{reference}``, by ``{key}``.
    literal : Callable
        A column value -> its text in DDL, which takes no parameters.
    exclusive : tuple of str or None
        Statements that take and release the lock ``:name`` under which tables are changed. The first is None if a
        transaction is enough; the second is None if the lock ends with the transaction, of which DDL is a part.
    savepoint : tuple of str or None
        Statements that set a savepoint and roll back to it, if an error makes the whole transaction fail.
    returning_id, inserted_id : str, Callable
        Suffix of an INSERT that makes it return the new ID, if it needs one; its `Result` -> that ID.
    sends_together : bool
        Whether the driver takes several statements at once.
    crowd : tuple of str or None
        Queries whose last column is the number of connections that the server has, and how many it allows.
    copies : bool
        Whether it takes many rows by ``COPY``.
    advance_ids : str or None
        Statement that lets the IDs of new rows begin after the largest in ``{table}``, if rows with IDs do not do that.
    folded : frozenset of str
        Our own names that would mean another column without quotes.
    largest_packet : str or None
        Query for the maximum size of a statement with its values in bytes, if exceeding it breaks the connection.
    most_parameters : int or None
        How many parameters a statement may have.
    longest_name : int
        Maximum length of an identifier in `name_unit`.
    name_unit : str
        What the database counts in an identifier: ``characters`` or ``bytes``.
    longest_row : int or None
        Maximum size of a row in bytes, if VARCHARs count with all that they may hold.
    most_columns : int or None
        How many columns a table may have, if the error of the database does not say that they are too many.
    complete_row : str or None
        Query for the smallest size in bytes of a row of ``:table`` in which nothing is NULL, and for the largest size
        that a row may have, if the database checks that only when a row is written.
    lengths_matter : bool
        Whether the database itself refuses values longer than declared.
    comparable : Mapping of Kind to str
        Kind of columns of which no two, or not only equal ones, are equal -> expression of a column ``{}`` that is
        compared byte by byte.
    indexes_comparable : bool
        Whether an index on a column finds what these expressions are compared with.
    grouped : Mapping of Kind to tuple of str
        The same kinds -> a column's value, and what else GROUP BY needs to keep apart what is not equal.
    sorted : Mapping of Kind to str
        Kind of columns that cannot be sorted, or only by their beginnings -> expression of a column ``{}`` to sort by.
        It has no space.
    number : str
        A column ``{0}`` of numbers, with NULL for what is not one.
    squares : str
        The sum of the squares of the distances of a column's values ``{}`` to their mean. It may use ``:center``.
    uses_one_core : bool
        Whether a server uses one core for a statement, whatever it has to read.
    keeps_infinity : bool
        Whether a DOUBLE can be infinite.
    null_is_largest : bool
        Whether NULL is sorted after all values, not before them.
    states : Mapping
        SQLSTATE of an error, or its first two letters -> what it means.
    remedies : Mapping
        The driver's error code -> what it means; a part of its message, where the driver gives no code.
    refusals : Mapping
        A part of the message of an error of connecting -> what it means.
    """

    name: str
    quote_mark: str
    placeholder: str
    opaque: str
    begin: str
    snapshot: tuple[str, ...]
    read_only: tuple[str, ...]
    cut: frozenset[int | str]
    now: str
    now_exact: str
    later: str
    row_lock: str
    skip_locked: str
    insert_missing: str
    make_aside: tuple[str, ...]
    unless_known: str
    update_triggers: str | None
    id_column: str
    column_types: Mapping[str, str]
    table_options: str
    whole_seconds: str
    identity: Callable[[Mapping[str, FieldType]], str]
    add_identity: str
    drop_identity: str
    add_after: str
    list_columns: str
    list_with_column: str
    list_indexes: str
    list_references: str
    list_identity: str
    find_name: str | None
    ignores_case: str | None
    add_reference: str
    literal: Callable[[Any], str]
    exclusive: tuple[str | None, str | None]
    savepoint: tuple[str, str] | None
    returning_id: str
    inserted_id: Callable[[Any], Any]
    sends_together: bool
    crowd: tuple[str, str] | None
    copies: bool
    advance_ids: str | None
    folded: frozenset[str]
    largest_packet: str | None
    most_parameters: int | None
    longest_name: int
    name_unit: str
    longest_row: int | None
    most_columns: int | None
    complete_row: str | None
    lengths_matter: bool
    comparable: Mapping[Kind, str]
    indexes_comparable: bool
    grouped: Mapping[Kind, tuple[str, ...]]
    sorted: Mapping[Kind, str]
    number: str
    squares: str
    uses_one_core: bool
    keeps_infinity: bool
    null_is_largest: bool
    states: Mapping[str, Remedy]
    remedies: Mapping[int | str, Remedy]
    refusals: Mapping[str, Remedy]

    @property
    def ddl_commits(self) -> bool:
        """Whether a DDL statement cannot be part of a transaction."""
        return self.exclusive[1] is not None

    def quote(self, name: str) -> str:
        """Quote an identifier, so that it may be a reserved word, such as ``order``."""
        mark = self.quote_mark
        return f"{mark}{name.replace(mark, mark * 2)}{mark}"

    def length(self, name: str) -> int:
        """Return the length of an identifier as the database counts it."""
        return len(name.encode()) if self.name_unit == "bytes" else len(name)

    def shortened(self, name: str, room: int) -> str:
        """Return a name that is at most this long: the beginning and a hash of one that is longer."""
        if self.length(name) <= room:
            return name
        end = f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        start = name[: room - len(end)]
        while self.length(start + end) > room:
            start = start[:-1]
        return start + end

    def side_name(self, table: str, suffix: str) -> str:
        """Return the name of a side table: a name and a suffix, each shortened if both together are too long."""
        stem = self.shortened(table, self.longest_name - _SUFFIXES)
        return f"{stem}{self.shortened(suffix, self.longest_name - self.length(stem))}"

    def column_type(self, field: FieldType) -> str:
        """Return the type of a field's column."""
        return self.column_types.get(str(field), str(field))

    def statement(self, sql: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Translate a statement with named parameters into the driver's form.

        Parameters
        ----------
        sql : str
            The statement, with parameters written ``:name``.
        parameters : Mapping of str to object
            Their values. A list gives as many parameters as it has items, with commas between them. A `Subquery` is
            put in as it is.

        Returns
        -------
        text : str
            The statement with the driver's placeholders.
        values : list
            Their values, in order.
        """
        text, names, pieces, places = _translated(sql, tuple(parameters), self)
        values = [parameters[name] for name in names]
        if _SEVERAL.isdisjoint(map(type, values)):
            return text, values
        replaced, items = list(pieces), list[Any]()
        for place, value in zip(places, values, strict=True):
            several = value if isinstance(value, list) else [value]
            if isinstance(value, Subquery):
                replaced[place] = value
            else:
                replaced[place] = ", ".join([self.placeholder] * len(several))
                items += several
        return "".join(replaced), items

    def was_cut(self, error: Exception) -> bool:
        """Return whether a driver's error says that a statement took longer than it may."""
        codes = (getattr(error, name, None) for name in ("sqlstate", "sqlite_errorcode"))
        return not self.cut.isdisjoint([*codes, *error.args[:1]])

    def meaning_of(self, error: Exception, connecting: bool = False) -> Remedy | None:
        """Return what a driver's error means; None if it is not one of those that we know.

        A message may quote anything: a value, the text of a trigger. So words count only for errors without a code.
        """
        if self.states and (state := getattr(error, "sqlstate", None)):
            return self.states.get(state) or self.states.get(state[:2])
        if connecting and (found := _named_in(str(error), self.refusals)):
            return found
        code = getattr(error, "sqlite_errorcode", None)  # since Python 3.11
        if code is None:
            code = error.args[0] if error.args and isinstance(error.args[0], int) else None
            return self.remedies.get(code) if code is not None else _named_in(str(error), self.remedies)
        found = self.remedies.get(code) or self.remedies.get(code & 0xFF)  # the general code of an extended one
        return _named_in(str(error), self.remedies) if found is None and code == 1 else found


def _named_in(message: str, remedies: Mapping[Any, Remedy]) -> Remedy | None:
    return next((remedy for part, remedy in remedies.items() if isinstance(part, str) and part in message), None)


_SEVERAL = frozenset([list, Subquery])


@lru_cache(maxsize=512)
def _translated(sql: str, known: tuple[str, ...], dialect: Dialect) -> tuple[str, list[str], list[str], list[int]]:
    """Return a statement in the driver's form, the names of its parameters, its pieces, and which are parameters.

    Nothing is a parameter inside quotes and comments, nor are the type in ``::json``, the end of a slice in ``[1:n]``,
    and a name without a value. Folded names are quoted, and ``%`` is doubled where placeholders begin with it.
    """
    names, pieces, places, end = list[str](), list[str](), list[int](), 0
    percent = "%%" if "%" in dialect.placeholder else "%"
    special = rf"{dialect.opaque}|(?<![\w:]):(?P<parameter>\w+)|%|\b[A-Z]+\b"
    for match in re.finditer(special, sql, flags=re.S):
        pieces.append(sql[end : match.start()])
        end = match.end()
        if match["parameter"] in known:
            names.append(match["parameter"])
            places.append(len(pieces))
            pieces.append(dialect.placeholder)
        else:
            pieces.append(dialect.quote(match[0]) if match[0] in dialect.folded else match[0].replace("%", percent))
    pieces.append(sql[end:])
    return "".join(pieces), names, pieces, places


# Another worker, or the user's own SQL session, was working on the same rows.
BUSY = Remedy(TransientDatabaseError, "other processes are using the database; try again")
NO_TABLE = Remedy(MissingTableError, "fill the table first, or check its name")
NO_COLUMN = Remedy(DatabaseQueryError, "check the names of columns, and put string literals in single quotes")
LOST = Remedy(TransientDatabaseError, "the connection was lost; try again")
UNREACHABLE = Remedy(ServerUnreachableError, "check host, port and that the server is running")
DENIED = Remedy(AccessDeniedError, "check user, password and the user's grants")
NO_GRANT = Remedy(AccessDeniedError, DENIED.advice, lasts=True)
NO_ROOM = Remedy(DatabaseFullError, "free some space on the server; nothing committed was lost")
MISFIT = Remedy(InvalidValueError, "the column of the table is narrower than the configuration declares")
CONSTRAINT = Remedy(InvalidValueError, "a constraint or trigger of the table refuses the values")
EXISTS = Remedy(InvalidValueError, "a row with these values exists already")
NO_ID = Remedy(
    DatabaseLimitError,
    "the IDs are used up; by SQL, give the row with the largest another ID, and lower the table's counter "
    "(AUTO_INCREMENT on MySQL, the table sqlite_sequence on SQLite)",
)
TOO_LARGE = Remedy(DatabaseLimitError, "declare fewer fields, or store less in them")
BAD_CERTIFICATE = Remedy(
    DatabaseConnectionError,
    "the server's certificate is not signed by the given ca, or is for another host; check 'tls'",
)
NO_TLS = Remedy(DatabaseConnectionError, "enable TLS on the server, or remove 'tls' from the credentials")
READ_ONLY = Remedy(ReadOnlyDatabaseError, "connect to a server that accepts writes")
