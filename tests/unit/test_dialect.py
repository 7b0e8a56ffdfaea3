"""Statements in the driver's form, quoted names, column types, and what drivers' errors mean."""

import dataclasses
import inspect
import re
import sqlite3
import sys
from contextlib import closing

import psycopg
import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.database.backends.dialect import Dialect
from pyexperimenter.database.backends.mysql import MYSQL
from pyexperimenter.database.backends.postgresql import POSTGRESQL
from pyexperimenter.database.backends.sqlite import SQLITE
from pyexperimenter.exceptions import (
    AccessDeniedError,
    DatabaseConnectionError,
    DatabaseError,
    DatabaseFullError,
    DatabaseLimitError,
    DatabaseQueryError,
    InvalidValueError,
    MissingDatabaseError,
    MissingTableError,
    ReadOnlyDatabaseError,
    ServerUnreachableError,
    TransientDatabaseError,
)
from pyexperimenter.fieldtypes import TYPE_NAMES, FieldType

DIALECTS = [SQLITE, MYSQL, POSTGRESQL]


# Parameters


PARAMETERS = {"x": 1, "y": 2, "list": [3, 4], "none": []}


@pytest.mark.parametrize(
    "sql, translated, values",
    [
        ("SELECT 1", "SELECT 1", []),
        ("a = :x AND b IN (:list)", "a = %s AND b IN (%s, %s)", [1, 3, 4]),
        ("a = :y AND b = :x AND c = :y", "a = %s AND b = %s AND c = %s", [2, 1, 2]),
        ("a IN (:list) OR b IN (:none)", "a IN (%s, %s) OR b IN ()", [3, 4]),
        ("a % :x = 0", "a %% %s = 0", [1]),
        ("a LIKE 'x%' AND b = :x", "a LIKE 'x%%' AND b = %s", [1]),
        ("a = 'at :x' AND b = :x", "a = 'at :x' AND b = %s", [1]),
        ("a = 'it''s :x' AND b = :x", "a = 'it''s :x' AND b = %s", [1]),
        (r"a = 'it\'s :x' AND b = :x", r"a = 'it\'s :x' AND b = %s", [1]),
        (r"a = '\\' AND b = :x", r"a = '\\' AND b = %s", [1]),
        ("a = '' AND b = :x", "a = '' AND b = %s", [1]),
        ("a = 'two\nlines :x' AND b = :x", "a = 'two\nlines :x' AND b = %s", [1]),
        ('a = "at :x" AND b = :x', 'a = "at :x" AND b = %s', [1]),
        ('a = "say "":x""" AND b = :x', 'a = "say "":x""" AND b = %s', [1]),
        (r'a = "say \":x" AND b = :x', r'a = "say \":x" AND b = %s', [1]),
        ("a = \"it's\" AND b = :x AND c = 'x'", "a = \"it's\" AND b = %s AND c = 'x'", [1]),
        ("`:x` = :x AND `100%` = :y", "`:x` = %s AND `100%%` = %s", [1, 2]),
        ("`a``:x` = :x", "`a``:x` = %s", [1]),
        ("a = :x -- it's :x\nAND b = 'x'", "a = %s -- it's :x\nAND b = 'x'", [1]),
        ("a = :x # it's :x\nAND b = :y", "a = %s # it's :x\nAND b = %s", [1, 2]),
        ("a = :x /* it's :x\n 5% */ AND b = :y", "a = %s /* it's :x\n 5%% */ AND b = %s", [1, 2]),
        ("a--:x = :y", "a--%s = %s", [1, 2]),
        ("a = :x --", "a = %s --", [1]),
        ("a = '12:30' AND b = :z AND @c := :xy", "a = '12:30' AND b = :z AND @c := :xy", []),
    ],
)
def test_parameters_have_names_but_not_inside_quotes_and_comments(sql, translated, values):
    assert MYSQL.statement(sql, PARAMETERS) == (translated, values)


@pytest.mark.parametrize(
    "sql, translated, values",
    [
        ("a % :x = 'at :x'", "a % ? = 'at :x'", [1]),
        (r"a = 'C:\' AND b IN (:list)", r"a = 'C:\' AND b IN (?, ?)", [3, 4]),
        ('":x" = "a"":x" AND `:x` = [:x] AND a = :x', '":x" = "a"":x" AND `:x` = [:x] AND a = ?', [1]),
        ("a = :x -- :x\nAND b = /* :x */ :y", "a = ? -- :x\nAND b = /* :x */ ?", [1, 2]),
        ("time = '12:30' AND a = ?", "time = '12:30' AND a = ?", []),
    ],
)
def test_sqlite_has_rules_of_its_own_for_quotes(sql, translated, values):
    assert SQLITE.statement(sql, PARAMETERS) == (translated, values)


@pytest.mark.parametrize(
    "sql, translated, values",
    [
        ("a = :x AND b LIKE 'x%:x'", "a = %s AND b LIKE 'x%%:x'", [1]),
        ("SELECT ID, t.ID, \"ID\", 'ID', IDS FROM t -- ID", 'SELECT "ID", t."ID", "ID", \'ID\', IDS FROM t -- ID', []),
        (r"a = 'C:\' AND b = :x", r"a = 'C:\' AND b = %s", [1]),
        (r"a = E'it\'s :x' AND b = :x", r"a = E'it\'s :x' AND b = %s", [1]),
        ("a #>> '{b}' = :x", "a #>> '{b}' = %s", [1]),
        ("a = $$ID :x$$ AND b = $x$it's $$:x$x$ AND c = :x", "a = $$ID :x$$ AND b = $x$it's $$:x$x$ AND c = %s", [1]),
        ("a = :x --ID :x\nAND b = :y", "a = %s --ID :x\nAND b = %s", [1, 2]),
        ("a::x = :x::text", "a::x = %s::text", [1]),
        ("a::jsonb ? 'key' AND b[1:x] = c[:z]", "a::jsonb ? 'key' AND b[1:x] = c[:z]", []),
    ],
)
def test_postgresql_has_rules_of_its_own_for_quotes_and_comments_and_folds_names(sql, translated, values):
    assert POSTGRESQL.statement(sql, PARAMETERS) == (translated, values)


@st.composite
def quoted(draw):
    mark = draw(st.sampled_from("'\"`"))
    content = draw(st.text("ab:%'\"`\\-#/* \n", max_size=8))
    if mark != "`":
        content = content.replace("\\", "\\\\")
    twice = mark == "`" or draw(st.booleans())
    return mark + content.replace(mark, mark * 2 if twice else f"\\{mark}") + mark


PARTS = st.lists(
    quoted()
    | st.sampled_from([":a", "%", " ", "a", "1", "=", "-", "/", "*"]).map(lambda part: f"{part} ")
    | st.text("ab:%'\"` ", max_size=8).map(lambda text: f"/*{text}*/")
    | st.text("ab:%'\"` ", max_size=8).map(lambda text: f"-- {text}\n"),
    max_size=12,
)


@given(PARTS)
def test_the_driver_gets_every_part_as_it_was_written(parts):
    sql = " ".join(parts)  # so that no two quoted parts become one
    text, values = MYSQL.statement(sql, {"a": ":a"})
    assert len(values) == sum(part == ":a " for part in parts)
    # This is how pymysql puts parameters in.
    assert text % tuple(values) == sql


@pytest.mark.timeout(20)
@pytest.mark.parametrize("start", ["'", "''" * 5000, "it's " * 5000, "/* " * 20_000, '"' + "\\" * 9999])
def test_text_without_an_end_takes_no_time(start):
    for dialect in DIALECTS:
        assert dialect.statement(start + "a" * 100_000, {})[0].startswith(start)


# Names


@pytest.mark.parametrize(
    "name, in_sqlite, in_mysql",
    [
        ("order", '"order"', "`order`"),
        ("two words", '"two words"', "`two words`"),
        ('say "hi"', '"say ""hi"""', '`say "hi"`'),
        ("a`b", '"a`b"', "`a``b`"),
    ],
)
def test_names_are_quoted(name, in_sqlite, in_mysql):
    assert (SQLITE.quote(name), MYSQL.quote(name)) == (in_sqlite, in_mysql)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
def test_any_name_survives(name):
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(*SQLITE.statement(f"CREATE TABLE {SQLITE.quote(name)} ({SQLITE.quote(name)} INT)", {}))
        columns = connection.execute(*SQLITE.statement(SQLITE.list_columns, {"table": name}))
        assert columns.fetchall() == [(name, "INT", 0, None)]
    # A quoted name has no parameters, whatever is in it.
    assert MYSQL.statement(MYSQL.quote(name), {})[0] % () == MYSQL.quote(name)


# Types


@pytest.mark.parametrize(
    "declared, in_sqlite, in_mysql",
    [
        ("INT", "INT", "INT"),
        ("INT(11) UNSIGNED", "INT UNSIGNED", "INT UNSIGNED"),
        ("FLOAT", "DOUBLE", "DOUBLE"),
        ("REAL", "REAL", "DOUBLE"),
        ("NUMERIC", "DOUBLE", "DOUBLE"),
        ("DECIMAL", "DOUBLE", "DOUBLE"),
        ("NUMERIC(5,2)", "DECIMAL(5,2)", "DECIMAL(5,2)"),
        ("BOOL", "BOOL", "BOOL"),
        ("STR", "VARCHAR(255)", "VARCHAR(255)"),
        ("CHAR(3)", "VARCHAR(3)", "VARCHAR(3)"),
        ("JSON", "JSON TEXT", "JSON"),
        ("DATETIME", "DATETIME", "DATETIME(6)"),
        ("TIMESTAMP", "TIMESTAMP", "DATETIME(6)"),
    ],
)
def test_types_are_stored_as_the_type_that_keeps_their_values(declared, in_sqlite, in_mysql):
    field = FieldType.parse(declared)
    assert (SQLITE.column_type(field), MYSQL.column_type(field)) == (in_sqlite, in_mysql)


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_a_column_made_for_a_type_holds_it(name):
    field = FieldType.parse(name)
    assert FieldType.parse(MYSQL.column_type(field)).holds(field)
    assert FieldType.parse(SQLITE.column_type(field).removesuffix(" TEXT")).kind is field.kind


# Errors


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_remedy_is_an_error_of_ours_and_says_what_to_do(dialect):
    for remedy in (*dialect.remedies.values(), *dialect.states.values(), *dialect.refusals.values()):
        assert issubclass(remedy.error, DatabaseError | InvalidValueError)
        assert len(remedy.advice.split()) > 3


@pytest.mark.parametrize(
    "error, meaning, advice",
    [
        (pymysql.err.OperationalError(1213, "Deadlock found"), TransientDatabaseError, "try again"),
        (pymysql.err.OperationalError(1205, "Lock wait timeout"), TransientDatabaseError, "try again"),
        (pymysql.err.OperationalError(2006, "gone away"), TransientDatabaseError, "try again"),
        (pymysql.err.OperationalError(2013, "Lost connection"), TransientDatabaseError, "try again"),
        (pymysql.err.InterfaceError(0, ""), TransientDatabaseError, "try again"),
        (pymysql.err.OperationalError(2003, "Can't connect"), ServerUnreachableError, "host, port"),
        (pymysql.err.OperationalError(1045, "Access denied"), AccessDeniedError, "user, password"),
        (pymysql.err.OperationalError(1049, "Unknown database"), MissingDatabaseError, "create it"),
        (pymysql.err.ProgrammingError(1146, "no table"), MissingTableError, "fill the table first"),
        (pymysql.err.OperationalError(1290, "read-only"), ReadOnlyDatabaseError, "accepts writes"),
        (pymysql.err.InternalError(1114, "The table is full"), DatabaseFullError, "free some space"),
        (pymysql.err.DataError(1406, "Data too long"), InvalidValueError, "narrower"),
        (pymysql.err.IntegrityError(1062, "Duplicate entry"), InvalidValueError, "exists already"),
        (pymysql.err.OperationalError(1118, "Row size too large"), DatabaseLimitError, "store less"),
        (pymysql.err.OperationalError(1709, "Index column size too large"), DatabaseLimitError, "ROW_FORMAT=DYNAMIC"),
        (pymysql.err.OperationalError(1143, "UPDATE command denied"), AccessDeniedError, "grants"),
        (pymysql.err.OperationalError(4025, "CONSTRAINT failed"), InvalidValueError, "constraint or trigger"),
        (pymysql.err.OperationalError(1644, "Lost connection, says a trigger"), InvalidValueError, "trigger"),
    ],
)
def test_mysql_errors_have_a_meaning(error, meaning, advice):
    remedy = MYSQL.meaning_of(error)
    assert remedy is not None
    assert remedy.error is meaning
    assert advice in remedy.advice


@pytest.mark.parametrize(
    "error, meaning",
    [
        (RuntimeError("'cryptography' package is required for sha256_password"), AccessDeniedError),
        (pymysql.err.OperationalError(2003, "Can't connect (certificate verify failed)"), DatabaseConnectionError),
        (pymysql.err.OperationalError(2003, "Can't connect (Connection refused)"), ServerUnreachableError),
    ],
)
def test_mysql_errors_of_connecting_are_told_by_their_words_too(error, meaning):
    remedy = MYSQL.meaning_of(error, connecting=True)
    assert remedy is not None
    assert remedy.error is meaning


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.ProgrammingError(1064, "You have an error in your SQL"),
        RuntimeError("certificate verify failed, says a value"),
        ValueError(),
    ],
)
def test_errors_without_a_special_meaning_have_none(error):
    assert MYSQL.meaning_of(error) is None
    assert SQLITE.meaning_of(error) is None


@pytest.mark.parametrize(
    "error, meaning",
    [
        (psycopg.errors.DeadlockDetected("deadlock detected"), TransientDatabaseError),
        (psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"), TransientDatabaseError),
        (psycopg.errors.ProgramLimitExceeded("row is too big: size 9632, maximum size 8160"), DatabaseLimitError),
        (psycopg.errors.AdminShutdown("terminating connection"), TransientDatabaseError),
        (psycopg.errors.TooManyConnections("too many"), TransientDatabaseError),
        (psycopg.errors.InsufficientPrivilege("permission denied for table study"), AccessDeniedError),
        (psycopg.errors.UndefinedTable("relation does not exist"), MissingTableError),
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE"), ReadOnlyDatabaseError),
        (psycopg.errors.DiskFull("could not extend file"), DatabaseFullError),
        (psycopg.errors.StringDataRightTruncation("value too long"), InvalidValueError),
        (psycopg.errors.UniqueViolation("duplicate key"), InvalidValueError),
        (psycopg.errors.CheckViolation("violates check constraint"), InvalidValueError),
        (psycopg.errors.RaiseException("deadlock detected, says a trigger"), InvalidValueError),
    ],
)
def test_postgresql_errors_have_a_meaning(error, meaning):
    remedy = POSTGRESQL.meaning_of(error)
    assert remedy is not None
    assert remedy.error is meaning


@pytest.mark.parametrize(
    "error, meaning",
    [
        (psycopg.OperationalError("server closed the connection unexpectedly"), TransientDatabaseError),
        (psycopg.OperationalError('connection to server at "::1" failed: refused'), ServerUnreachableError),
        (
            psycopg.OperationalError('connection to server at "::1" failed: FATAL:  database "d" does not exist'),
            MissingDatabaseError,
        ),
        (
            psycopg.OperationalError('connection to server at "::1" failed: SSL error: tlsv1 alert unknown ca'),
            AccessDeniedError,
        ),
        (
            psycopg.OperationalError(
                'connection to server at "::1" failed: root certificate file "system" does not exist'
            ),
            DatabaseConnectionError,
        ),
    ],
)
def test_postgresql_errors_of_connecting_are_told_by_their_words(error, meaning):
    remedy = POSTGRESQL.meaning_of(error, connecting=True)
    assert remedy is not None
    assert remedy.error is meaning


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.SyntaxError("near 'password authentication failed'"),
        psycopg.errors.FeatureNotSupported("connection failed"),
        # Of psycopg itself, so it has no SQLSTATE.
        psycopg.OperationalError("sending query and params failed: number of parameters must be between 0 and 65535"),
    ],
)
def test_words_of_a_postgresql_error_have_no_meaning_once_connected(error):
    assert POSTGRESQL.meaning_of(error) is None


needs_codes = pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 tells no codes")


def no_table(connection, directory):
    connection.execute("SELECT * FROM nowhere")


def twice(connection, directory):
    connection.execute("CREATE TABLE t (a UNIQUE)")
    connection.execute("INSERT INTO t VALUES (1), (1)")


def too_large(connection, directory):
    connection.execute("SELECT ?", [2**64])


def locked(connection, directory):
    with closing(sqlite3.connect(directory / "a.db", timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(directory / "a.db", timeout=0)) as late:
            late.execute("BEGIN IMMEDIATE")


def read_only(connection, directory):
    sqlite3.connect(directory / "b.db").close()
    with closing(sqlite3.connect(f"file:{directory}/b.db?mode=ro", uri=True)) as reader:
        reader.execute("CREATE TABLE t (a)")


def not_there(connection, directory):
    sqlite3.connect(directory / "missing" / "a.db")


def no_database(connection, directory):
    (directory / "c.db").write_text("something else, and long enough to be looked at " * 9)
    with closing(sqlite3.connect(directory / "c.db")) as other:
        other.execute("SELECT * FROM sqlite_master")


def full(connection, directory):
    connection.execute("CREATE TABLE t (a)")
    connection.execute("PRAGMA max_page_count = 3")
    connection.execute("INSERT INTO t VALUES (?)", ["x" * 100_000])


def refused_by_a_trigger(connection, directory):
    connection.execute("CREATE TABLE t (a)")
    words = "database is locked, no such table: t"
    connection.execute(f"CREATE TRIGGER r BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, '{words}'); END")
    connection.execute("INSERT INTO t VALUES (1)")


def no_column(connection, directory):
    connection.execute("SELECT [database is locked]")


def damaged(connection, directory):
    with closing(sqlite3.connect(directory / "d.db")) as other:
        other.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(9000));")
    content = (directory / "d.db").read_bytes()
    (directory / "d.db").write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with closing(sqlite3.connect(directory / "d.db")) as other:
        other.execute("SELECT * FROM t").fetchall()


@pytest.mark.parametrize(
    "mistake, meaning",
    [
        pytest.param(refused_by_a_trigger, InvalidValueError, marks=needs_codes),
        (no_column, DatabaseQueryError),
        (damaged, DatabaseConnectionError),
        (no_table, MissingTableError),
        (twice, InvalidValueError),
        (too_large, InvalidValueError),
        (locked, TransientDatabaseError),
        (read_only, ReadOnlyDatabaseError),
        (not_there, DatabaseConnectionError),
        (no_database, DatabaseConnectionError),
        (full, DatabaseFullError),
    ],
)
def test_sqlite_errors_have_a_meaning(mistake, meaning, tmp_path):
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises((sqlite3.Error, OverflowError)) as caught:
        mistake(connection, tmp_path)
    remedy = SQLITE.meaning_of(caught.value)
    assert remedy is not None
    assert remedy.error is meaning


def test_every_difference_is_documented():
    lines = re.findall(r"^(\w[\w, ]*) : ", inspect.getdoc(Dialect) or "", re.M)
    assert {name for line in lines for name in line.split(", ")} == {
        field.name for field in dataclasses.fields(Dialect)
    }
