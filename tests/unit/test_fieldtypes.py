"""Declared types: which exist, which values they accept and convert, and which columns can hold them."""

import enum
import fractions
import math
import re
import sys
import types
from collections import deque
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.fieldtypes import TYPE_NAMES, FieldType, Kind


class Color(enum.Enum):
    RED = "red"
    BROKEN = 7


class Level(enum.IntEnum):
    HIGH = 3


class Pipeline:
    def __str__(self):
        return "Pipeline(scaler, svm)"


class Broken:
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Frame:
    """A table of another library than pandas: it can become an array, and shows its first and last rows."""

    def __array__(self, dtype=None, copy=None):
        return np.arange(1000)


class Tensor:
    """A tensor of torch, as far as this library uses it; torch itself is too large for these tests."""

    def __init__(self, data):
        self.data = np.asarray(data)

    @property
    def shape(self):
        return type("Size", (tuple,), {})(self.data.shape)

    dtype = "torch.float32"

    def numel(self):
        return self.data.size

    def reshape(self, shape):
        return Tensor(self.data.reshape(shape))

    def item(self):
        return self.data.item()

    def tolist(self):
        return self.data.tolist()


def coerce(type_, value):
    return FieldType.parse(type_).coerce(value)


def refusal(type_, value):
    with pytest.raises(InvalidValueError) as caught:
        coerce(type_, value)
    return str(caught.value)


# Declarations


@pytest.mark.parametrize(
    "declaration, shown, kind",
    [
        ("INT", "INT", Kind.INTEGER),
        ("int(11)", "INT", Kind.INTEGER),
        ("  bigint ( 20 )  unsigned ", "BIGINT UNSIGNED", Kind.INTEGER),
        ("tinyint(1)", "TINYINT", Kind.INTEGER),
        ("integer", "INTEGER", Kind.INTEGER),
        ("Double Precision", "DOUBLE", Kind.REAL),
        ("FLOAT(24)", "FLOAT", Kind.REAL),
        ("DECIMAL", "DECIMAL", Kind.REAL),
        ("numeric(8 , 3)", "DECIMAL(8,3)", Kind.REAL),
        ("DECIMAL(5)", "DECIMAL(5,0)", Kind.REAL),
        ("bool", "BOOL", Kind.BOOLEAN),
        ("VARCHAR", "VARCHAR(255)", Kind.TEXT),
        ("varchar(50)", "VARCHAR(50)", Kind.TEXT),
        ("CHAR(3)", "VARCHAR(3)", Kind.TEXT),
        ("str", "VARCHAR(255)", Kind.TEXT),
        ("string(7)", "VARCHAR(7)", Kind.TEXT),
        ("longtext", "LONGTEXT", Kind.TEXT),
        ("json", "JSON", Kind.JSON),
        ("datetime(6)", "DATETIME", Kind.DATETIME),
        ("timestamp", "TIMESTAMP", Kind.DATETIME),
        ("date", "DATE", Kind.DATE),
        ("MEDIUMBLOB", "MEDIUMBLOB", Kind.BINARY),
    ],
)
def test_a_declaration_is_read(declaration, shown, kind):
    field = FieldType.parse(declaration)
    assert str(field) == shown
    assert field.kind is kind
    assert FieldType.parse(str(field)) == field


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_every_known_type_is_read_as_it_is_written(name):
    field = FieldType.parse(name)
    assert field == FieldType.parse(f" {name.lower()} ") == FieldType.parse(str(field))
    assert field.coerce(None) is None


@pytest.mark.parametrize(
    "declaration",
    ["", "VARCHA", "VARCHAR(x)", "INT)", "INT('a')", "BIT(8)", "INT VARYING", "INT NOT NULL", "INT(1,2,3)"],
)
def test_an_unknown_type_is_refused_with_the_known_ones(declaration):
    with pytest.raises(ValueError) as caught:
        FieldType.parse(declaration)
    message = str(caught.value)
    assert message.startswith(f"{declaration!r} is not a valid type; choose from TINYINT, SMALLINT, ")
    assert message.endswith(", LONGBLOB")


@pytest.mark.parametrize("declaration", ["TEXT UNSIGNED", "UNSIGNED BOOL"])
def test_only_numbers_can_be_unsigned(declaration):
    with pytest.raises(ValueError, match="only numbers can be UNSIGNED"):
        FieldType.parse(declaration)


@pytest.mark.parametrize("declaration", ["FLOAT UNSIGNED", "decimal(5,2) unsigned zerofill"])
def test_only_integers_are_unsigned(declaration):
    # A FLOAT UNSIGNED would keep 7 digits on MySQL, and refuse there what SQLite takes.
    assert FieldType.parse(declaration) == FieldType.parse(declaration.lower().partition(" unsigned")[0])


# Names in the manuals of MySQL 9 and MariaDB 11 ("Data Types"), PostgreSQL 17 (table 8.1) and SQLite 3 ("Datatypes",
# 3.1.1), and what INI files make of them, where py-experimenter removed the spaces.
OTHER_NAMES = {
    "TINYINT": "INT1, TINYINT SIGNED",
    "SMALLINT": "INT2, YEAR, YEAR(4)",
    "MEDIUMINT": "INT3, MIDDLEINT",
    "MEDIUMINT UNSIGNED": "MEDIUMINTUNSIGNED, MEDIUMINT(8) ZEROFILL",
    "INT": "INT4, INT(11)",
    "BIGINT": "INT8, bigint signed",
    "BIGINT UNSIGNED": "UNSIGNED BIG INT, BIGINT UNSIGNED ZEROFILL",
    "LONG": "long",
    "LONG UNSIGNED": "LONG UNSIGNED",
    "FLOAT": "FLOAT4, FLOAT(7,4), FLOAT(53)",
    "DOUBLE": "DOUBLE PRECISION, double precision(10,2), DOUBLEPRECISION, FLOAT8, DOUBLE(10,2)",
    "DECIMAL": "DEC, FIXED, NUMBER",
    "DECIMAL(10,2)": "DEC(10,2), NUMERIC( 10,2 ), FIXED(10,2), NUMBER(10,2)",
    "BOOL": "BIT, BIT(1)",
    "VARCHAR(20)": "CHARACTER VARYING(20), character  varying (20), CHARACTERVARYING(20), CHARACTER(20), NCHAR(20), "
    "CHAR VARYING(20), NATIONAL VARCHAR(20), NATIONAL CHARACTER VARYING(20), NVARCHAR(20), VARYING CHARACTER(20), "
    "NATIVE CHARACTER(20), VARCHAR2(20)",
    "VARCHAR(255)": "ENUM('a','b (c)'), TIME(6), TIME WITHOUT TIME ZONE, TIME(3) WITH TIME ZONE, TIMETZ, INTERVAL",
    "VARCHAR(64)": "UUID, INET6, INET, CIDR, MACADDR",
    "TEXT": "SET('a','b'), TEXT(100)",
    "MEDIUMTEXT": "LONG VARCHAR",
    "LONGTEXT": "CLOB, XML",
    "JSON": "JSONB, JSON TEXT",
    "TIMESTAMP": "TIMESTAMP(3), TIMESTAMPTZ, TIMESTAMP WITH TIME ZONE, TIMESTAMP(6) WITHOUT TIME ZONE",
    "BLOB": "BINARY(16), VARBINARY(16), BLOB(100), CHAR BYTE",
    "MEDIUMBLOB": "LONG VARBINARY",
    "LONGBLOB": "BYTEA",
}


@pytest.mark.parametrize(
    ("name", "ours"), [(name, ours) for ours, names in OTHER_NAMES.items() for name in re.split(r", (?=\w)", names)]
)
def test_names_of_the_servers_are_known(name, ours):
    assert str(FieldType.parse(name)) == str(FieldType.parse(name.lower())) == ours


def test_a_long_is_an_integer_also_in_the_text_that_mysql_makes_of_it():
    long = FieldType.parse("LONG")
    assert long.coerce("7") == 7
    assert FieldType.parse("mediumtext").holds(long)
    assert not FieldType.parse("longtext").holds(long)


# None and NaN


@pytest.mark.parametrize("nothing", [None, pd.NA, pd.NaT, np.datetime64("NaT", "s"), np.array(None)])
@pytest.mark.parametrize("name", TYPE_NAMES)
def test_none_stays_none(name, nothing):
    assert coerce(name, nothing) is None


@pytest.mark.parametrize(
    "not_a_number",
    [math.nan, np.nan, np.float32("nan"), Decimal("NaN"), Decimal("sNaN"), np.array(math.nan), Tensor(math.nan)],
)
@pytest.mark.parametrize("name", TYPE_NAMES)
def test_nan_stays_nan_for_every_type(name, not_a_number):
    result = coerce(name, not_a_number)
    assert type(result) is float
    assert math.isnan(result)


@pytest.mark.parametrize("name", ["INT", "DOUBLE", "DECIMAL(5,2)"])
def test_the_text_nan_is_a_number_for_numeric_types(name):
    assert math.isnan(coerce(name, "nan"))


# Values and their canonical forms. The types of results matter as much as the values.


@pytest.mark.parametrize(
    "type_, value, expected",
    [
        ("INT", 5, 5),
        ("INT", -(2**31), -(2**31)),
        ("INT", 2**31 - 1, 2**31 - 1),
        ("INT", True, 1),
        ("INT", 5.0, 5),
        ("INT", -0.0, 0),
        ("INT", "17", 17),
        ("INT", " -17 ", -17),
        ("INT", "1e3", 1000),
        ("INT", "2.0", 2),
        ("INT", Decimal("4.00"), 4),
        ("INT", Level.HIGH, 3),
        ("INT", np.int8(7), 7),
        ("INT", np.uint64(7), 7),
        ("INT", np.float32(7), 7),
        ("INT", np.bool_(True), 1),
        ("INT", np.array(7), 7),
        ("INT", np.array([7]), 7),
        ("INT", np.array([[7]]), 7),
        ("INT", Tensor(7), 7),
        ("INT", Tensor([7]), 7),
        ("INT", pd.Series([7]), 7),
        ("TINYINT UNSIGNED", 255, 255),
        ("BIGINT", 2**63 - 1, 2**63 - 1),
        ("BIGINT", "9223372036854775807", 2**63 - 1),
        ("BIGINT UNSIGNED", np.uint64(2**64 - 1), 2**64 - 1),
        ("DOUBLE", 0.1, 0.1),
        ("DOUBLE", 3, 3.0),
        ("DOUBLE", True, 1.0),
        ("DOUBLE", "1e-3", 0.001),
        ("DOUBLE", "-inf", -math.inf),
        ("DOUBLE", Decimal("0.1"), 0.1),
        ("DOUBLE", -0.0, 0.0),
        ("DOUBLE", "-0.0", 0.0),
        ("DOUBLE", math.inf, math.inf),
        ("DOUBLE", Decimal("-Infinity"), -math.inf),
        ("DOUBLE", np.float32(0.1), 0.1),
        ("DOUBLE", np.float16(0.1), 0.1),
        ("DOUBLE", np.array([0.1], "float32"), 0.1),
        ("DOUBLE", np.float32(-math.inf), -math.inf),
        ("DOUBLE", Tensor(np.float32(0.1)), 0.1),
        ("DOUBLE", pd.Series([0.1], dtype="float32"), 0.1),
        ("DOUBLE", pd.Series([0.1], dtype="Float32"), 0.1),
        ("DOUBLE", np.longdouble(1.5), 1.5),
        ("DOUBLE", np.array(np.longdouble(1.5)), 1.5),
        ("DOUBLE", np.int64(2), 2.0),
        ("DOUBLE", np.array([0.1]), 0.1),
        ("DOUBLE", Tensor(0.1), 0.1),
        ("DOUBLE", Tensor([[0.1]]), 0.1),
        ("DOUBLE", pd.Series([0.1]), 0.1),
        ("FLOAT", 0.123456789012345, 0.123456789012345),
        ("NUMERIC", 0.97, 0.97),
        ("DECIMAL", "0.97", 0.97),
        ("DECIMAL(5,2)", 1.005, 1.0),
        ("DECIMAL(5,2)", 2.675, 2.67),
        ("DECIMAL(5,2)", "2.5", 2.5),
        ("DECIMAL(5,2)", 0.125, 0.12),
        ("DECIMAL(5,2)", -0.001, 0.0),
        ("DECIMAL(5,2)", 999.994, 999.99),
        ("DECIMAL(5,2)", -999.99, -999.99),
        ("DECIMAL(3)", 2.5, 2.0),
        ("DECIMAL(3)", 999.4, 999.0),
        ("BOOL", True, True),
        ("BOOL", False, False),
        ("BOOL", 0, False),
        ("BOOL", 1.0, True),
        ("BOOL", "True", True),
        ("BOOL", "false", False),
        ("BOOLEAN", np.bool_(False), False),
        ("BOOL", np.array([True]), True),
        ("VARCHAR(5)", "", ""),
        ("VARCHAR(5)", " a b ", " a b "),
        ("VARCHAR(5)", 12, "12"),
        ("VARCHAR(9)", 1e-3, "0.001"),
        ("VARCHAR(9)", Decimal("1.50"), "1.50"),
        ("VARCHAR(9)", np.float64(0.5), "0.5"),
        ("VARCHAR(9)", np.str_("abc"), "abc"),
        ("VARCHAR(9)", Color.RED, "red"),
        ("VARCHAR(9)", ExperimentStatus.DONE, "done"),
        ("VARCHAR(9)", "nan", "nan"),
        ("VARCHAR(9)", math.inf, "inf"),
        ("TEXT", {"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        ("TEXT", (1, 2.5), "[1,2.5]"),
        ("TEXT", {3, 1}, "[1,3]"),
        ("TEXT", np.array([1, 2]), "[1,2]"),
        ("TEXT", np.array([1]), "[1]"),
        ("TEXT", np.float32(0.1), "0.1"),
        ("TEXT", np.arange(2000), f"[{','.join(map(str, range(2000)))}]"),
        ("TEXT", pd.Series(range(2000)), f"[{','.join(map(str, range(2000)))}]"),
        ("TEXT", types.MappingProxyType({"a": np.arange(2000)}), f'{{"a":[{",".join(map(str, range(2000)))}]}}'),
        ("TEXT", Pipeline(), "Pipeline(scaler, svm)"),
        ("TEXT", Path("a/b"), "a/b"),
        ("TEXT", range(3), "range(0, 3)"),
        ("TEXT", "'\"`%?\\ 🎉 ü\n", "'\"`%?\\ 🎉 ü\n"),
        ("JSON", {"a": (1, np.float32(0.1), {2})}, {"a": [1, 0.1, [2]]}),
        ("JSON", np.array([[0.1, 0.3]], "float32"), [[0.1, 0.3]]),
        ("JSON", Tensor(np.array([0.1], "float32")), [0.1]),
        ("JSON", [1, True, None, "ü"], [1, True, None, "ü"]),
        ("JSON", "text", "text"),
        ("JSON", 5, 5),
        ("JSON", False, False),
        ("JSON", np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ("JSON", np.array([0.5]), [0.5]),
        ("JSON", Tensor([0.5]), [0.5]),
        ("JSON", Tensor(0.5), 0.5),
        ("JSON", pd.Series([1, 2]), [1, 2]),
        ("JSON", {"n": [math.nan, math.inf, np.float64("nan")]}, {"n": [None, None, None]}),
        ("JSON", {"t": datetime(2026, 1, 31, 13, 30)}, {"t": "2026-01-31T13:30:00"}),
        ("DATETIME", datetime(2026, 1, 31, 13, 30, 5, 7), datetime(2026, 1, 31, 13, 30, 5, 7)),
        ("DATETIME", "2026-01-31 13:30:00", datetime(2026, 1, 31, 13, 30)),
        ("DATETIME", "2026-01-31T13:30:00Z", datetime(2026, 1, 31, 13, 30)),
        ("DATETIME", "2026-01-31T13:30:00+02:00", datetime(2026, 1, 31, 11, 30)),
        ("DATETIME", "2026-01-31", datetime(2026, 1, 31)),
        ("DATETIME", date(2026, 1, 31), datetime(2026, 1, 31)),
        (
            "DATETIME",
            datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=5))),
            datetime(2025, 12, 31, 20, 0),
        ),
        ("DATETIME", pd.Timestamp("2026-01-31 13:30:00.000007"), datetime(2026, 1, 31, 13, 30, 0, 7)),
        ("DATETIME", pd.Timestamp("2026-01-31 13:30:00", tz="Europe/Berlin"), datetime(2026, 1, 31, 12, 30)),
        ("DATETIME", pd.Timestamp("2026-01-31 13:30:00.123456789"), datetime(2026, 1, 31, 13, 30, 0, 123456)),
        ("DATETIME", np.datetime64("2026-01-31T13:30:00"), datetime(2026, 1, 31, 13, 30)),
        ("DATETIME", np.datetime64("2026-01-31T13:30:00", "ns"), datetime(2026, 1, 31, 13, 30)),
        ("DATETIME", np.array(["2026-01-31T13:30:00"], "datetime64[ns]"), datetime(2026, 1, 31, 13, 30)),
        ("TIMESTAMP", np.datetime64("2026-01-31", "D"), datetime(2026, 1, 31)),
        ("DATE", date(2026, 1, 31), date(2026, 1, 31)),
        ("DATE", "2026-01-31", date(2026, 1, 31)),
        ("DATE", datetime(2026, 1, 31), date(2026, 1, 31)),
        ("DATE", np.datetime64("2026-01-31"), date(2026, 1, 31)),
        ("DATE", pd.Timestamp("2026-01-31"), date(2026, 1, 31)),
        ("BLOB", b"\0\xff", b"\0\xff"),
        ("BLOB", bytearray(b"ab"), b"ab"),
        ("BLOB", memoryview(b"ab"), b"ab"),
        ("BLOB", np.bytes_(b"ab"), b"ab"),
        ("TINYBLOB", bytes(255), bytes(255)),
    ],
)
def test_a_value_becomes_its_canonical_form(type_, value, expected):
    result = coerce(type_, value)
    assert repr(result) == repr(expected)  # which distinguishes 1, 1.0 and True, at any depth
    assert repr(coerce(type_, result)) == repr(expected)  # which is its own canonical form


@pytest.mark.parametrize(
    "type_, value, message",
    [
        ("INT", 1.5, "1.5 is not an integer"),
        ("INT", "1.5", "1.5 is not an integer"),
        ("INT", "many", "'many' is not an integer"),
        ("INT", "", "'' is not an integer"),
        ("INT", math.inf, "inf is not an integer"),
        ("INT", Decimal("Infinity"), "Decimal('Infinity') is not an integer"),
        ("INT", "9" * 5000, "inf is not an integer"),
        ("INT", [1], "[1] is not an integer"),
        ("INT", np.array([1, 2]), "[1, 2] is not an integer"),
        ("INT", np.array([]), "[] is not an integer"),
        ("INT", b"1", "b'1' is not an integer"),
        ("INT", datetime(2026, 1, 31), "datetime.datetime(2026, 1, 31, 0, 0) is not an integer"),
        ("INT", Color.RED, "'red' is not an integer"),
        ("INT", fractions.Fraction(4), "Fraction(4, 1) is not an integer"),
        ("INT", 2**31, "2147483648 is outside INT: -2147483648 to 2147483647"),
        ("INT", -(2**31) - 1, "-2147483649 is outside INT: -2147483648 to 2147483647"),
        ("TINYINT", 128, "128 is outside TINYINT: -128 to 127"),
        ("SMALLINT", 2**15, "32768 is outside SMALLINT: -32768 to 32767"),
        ("MEDIUMINT", 2**23, "8388608 is outside MEDIUMINT: -8388608 to 8388607"),
        ("BIGINT", 2**63, "9223372036854775808 is outside BIGINT: -9223372036854775808 to 9223372036854775807"),
        ("BIGINT", 2.0**63, "9.223372036854776e+18 is outside BIGINT: -9223372036854775808 to 9223372036854775807"),
        ("INT UNSIGNED", -1, "-1 is outside INT UNSIGNED: 0 to 4294967295"),
        ("BIGINT UNSIGNED", 2**64, "18446744073709551616 is outside BIGINT UNSIGNED: 0 to 18446744073709551615"),
        ("DOUBLE", "a lot", "'a lot' is not a number"),
        ("DOUBLE", 10**400, f"{str(10**400)[:57]}... is not a number that a DOUBLE can store"),
        ("DOUBLE", Decimal("1e400"), "Decimal('1E+400') is not a number that a DOUBLE can store"),
        ("DOUBLE", 1j, "1j is not a number"),
        ("DOUBLE", np.complex64(1), "(1+0j) is not a number"),
        ("DOUBLE", {"a": 1}, "{'a': 1} is not a number"),
        ("DOUBLE", [0.5], "[0.5] is not a number"),
        ("DOUBLE", Tensor([0.5, 1]), "[0.5, 1.0] is not a number"),
        ("DECIMAL(5,2)", 1000, "1000.0 is outside DECIMAL(5,2)"),
        ("DECIMAL(5,2)", -999.996, "-1000.0 is outside DECIMAL(5,2)"),
        ("DECIMAL(3)", 999.5, "1000.0 is outside DECIMAL(3,0)"),
        ("BOOL", 2, "2 is not true or false"),
        ("BOOL", "yes", "'yes' is not true or false"),
        ("BOOL", "1", "'1' is not true or false"),
        ("BOOL", [], "[] is not true or false"),
        ("VARCHAR(5)", b"abc", "b'abc' is not a string; decode it, or declare a BLOB"),
        ("TEXT", bytearray(b"abc"), "bytearray(b'abc') is not a string; decode it, or declare a BLOB"),
        ("VARCHAR(5)", "abcdef", "'abcdef' has 6 characters, but VARCHAR(5) stores 5; declare a longer type"),
        ("VARCHAR(3)", 0.25, "'0.25' has 4 characters, but VARCHAR(3) stores 3; declare a longer type"),
        ("VARCHAR(5)", "a\0b", r"'a\x00b' is not a string that a database can store: it contains a NUL character"),
        ("VARCHAR(5)", "\ud800", r"'\ud800' is not a string that a database can store: it contains a lone surrogate"),
        ("LONGTEXT", "x\udfff", r"'x\udfff' is not a string that a database can store: it contains a lone surrogate"),
        ("JSON", {"a": "\ud800"}, "it contains a lone surrogate"),
        ("JSON", {"a": Pipeline}, "cannot be written as JSON: <class 'test_fieldtypes.Pipeline'> has no JSON form"),
        ("JSON", [b"x"], "[b'x'] cannot be written as JSON: b'x' has no JSON form"),
        ("JSON", {(1, 2): 3}, "{(1, 2): 3} cannot be written as JSON: the key (1, 2) is not a string"),
        ("JSON", {1: "a", "1": "b"}, "cannot be written as JSON: some of its keys are the same in JSON"),
        ("DATETIME", "yesterday", "'yesterday' is not a date and time as in 2026-01-31 13:30:00"),
        ("DATETIME", 1577836800, "1577836800 is not a date and time"),
        ("DATETIME", True, "True is not a date and time"),
        ("DATETIME", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), "is not a date and time in UTC"),
        ("DATE", "31.1.2026", "'31.1.2026' is not a date as in 2026-01-31"),
        ("DATE", datetime(2026, 1, 31, 13), "datetime.datetime(2026, 1, 31, 13, 0) is not a date as in 2026-01-31"),
        ("DATE", 20260131, "20260131 is not a date as in 2026-01-31"),
        ("BLOB", "text", "'text' is not bytes"),
        ("BLOB", 5, "5 is not bytes"),
        ("BLOB", [1, 2], "[1, 2] is not bytes"),
        ("TINYBLOB", bytes(256), "the value has 256 bytes, but TINYBLOB stores 255; declare a longer type"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_named(type_, value, message):
    assert refusal(type_, value).endswith(message)


def test_limits_are_characters_for_varchar_and_bytes_for_texts():
    assert coerce("VARCHAR(3)", "🎉🎉🎉") == "🎉🎉🎉"
    assert refusal("VARCHAR(3)", "🎉🎉🎉🎉").startswith("'🎉🎉🎉🎉' has 4 characters, but VARCHAR(3) stores 3")
    assert coerce("TINYTEXT", "ü" * 127) == "ü" * 127
    assert "has 256 bytes, but TINYTEXT stores 255; declare a longer type" in refusal("TINYTEXT", "ü" * 128)
    assert coerce("TINYTEXT", "u" * 255) == "u" * 255
    assert coerce("TEXT", "u" * 65_535)
    assert "has 65536 bytes, but TEXT stores 65535" in refusal("TEXT", "u" * 65_536)
    assert coerce("MEDIUMTEXT", "u" * 65_536)


@pytest.mark.parametrize(
    "type_, low, high",
    [
        ("TINYINT", -128, 127),
        ("SMALLINT", -32_768, 32_767),
        ("MEDIUMINT", -8_388_608, 8_388_607),
        ("INT", -2_147_483_648, 2_147_483_647),
        ("INTEGER", -2_147_483_648, 2_147_483_647),
        ("BIGINT", -9_223_372_036_854_775_808, 9_223_372_036_854_775_807),
        ("TINYINT UNSIGNED", 0, 255),
        ("SMALLINT UNSIGNED", 0, 65_535),
        ("MEDIUMINT UNSIGNED", 0, 16_777_215),
        ("INT UNSIGNED", 0, 4_294_967_295),
        ("BIGINT UNSIGNED", 0, 18_446_744_073_709_551_615),
    ],
)
def test_integers_have_the_limits_that_mysql_has(type_, low, high):
    assert (coerce(type_, low), coerce(type_, str(high))) == (low, high)
    for outside in (low - 1, high + 1):
        assert refusal(type_, outside) == f"{outside} is outside {type_}: {low} to {high}"


def test_a_long_value_is_shown_shortened():
    told = refusal("INT", "x" * 1000)
    assert told == f"'{'x' * 56}... is not an integer"
    assert len(refusal("VARCHAR(5)", "y" * 10_000)) < 150


def test_a_value_without_a_working_repr_is_refused():
    class Shy:
        def __repr__(self):
            raise RuntimeError("no")

    assert refusal("INT", Shy()) == "<Shy> is not an integer"
    nested = []
    for _ in range(sys.getrecursionlimit() * 10):
        nested = [nested]
    assert refusal("JSON", nested).startswith("<list> cannot be written as JSON")
    assert "cannot be written as JSON: '<' not supported" in refusal("JSON", {1, "a"})
    circular = []
    circular.append(circular)
    assert "cannot be written as JSON" in refusal("JSON", circular)


def test_arguments_are_not_modified():
    value = {"b": [1, (2, math.nan)], "a": {"c": np.float32(1)}}
    before = repr(value)
    coerce("JSON", value)
    coerce("TEXT", value)
    assert repr(value) == before


def test_bytes_are_no_list_of_numbers():
    assert "is not a string; decode it, or declare a BLOB" in refusal("TEXT", memoryview(b"ab"))
    assert "cannot be written as JSON" in refusal("JSON", {"a": memoryview(b"ab")})


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_are_exact_in_any_form(number):
    assert coerce("BIGINT", number) == number
    assert coerce("BIGINT", str(number)) == number
    assert coerce("BIGINT", np.int64(number)) == number
    assert coerce("BIGINT", Decimal(number)) == number


@given(st.floats(allow_nan=False))
def test_doubles_are_exact_in_any_form(number):
    for worn in (number, repr(number), np.float64(number), Decimal(number), np.array([number])):
        assert coerce("DOUBLE", worn) == number
        assert math.copysign(1, coerce("DOUBLE", worn)) == math.copysign(1, number + 0.0)


@given(st.integers(-99_999, 99_999), st.floats(-0.0049, 0.0049))
def test_decimals_are_rounded_to_their_scale(hundredths, rest):
    assert coerce("DECIMAL(5,2)", hundredths / 100 + rest) == hundredths / 100


# Columns that exist


@pytest.mark.parametrize(
    "column, field",
    [
        ("BIGINT", "INT"),
        ("INT", "INTEGER"),
        ("int(11)", "INT"),
        ("INT", "BOOL"),
        ("tinyint(1)", "BOOLEAN"),
        ("BIGINT", "INT UNSIGNED"),
        ("bigint(20) unsigned", "INT UNSIGNED"),
        ("BOOL", "BOOLEAN"),
        ("double", "FLOAT"),
        ("double", "REAL"),
        ("double", "NUMERIC"),
        ("double", "DECIMAL(5,2)"),
        ("float", "FLOAT"),
        ("decimal(8,3)", "DECIMAL(5,2)"),
        ("decimal(5,2)", "NUMERIC(5,2)"),
        ("decimal(10,0)", "DECIMAL"),
        ("decimal(10,0)", "NUMERIC"),
        ("varchar(255)", "VARCHAR(50)"),
        ("varchar(255)", "STR"),
        ("varchar(255)", "TINYTEXT"),
        ("tinytext", "VARCHAR(63)"),
        ("text", "VARCHAR(255)"),
        ("longtext", "TEXT"),
        ("longtext", "JSON"),
        ("json", "JSON"),
        ("datetime(6)", "DATETIME"),
        ("datetime", "TIMESTAMP"),
        ("date", "DATE"),
        ("longblob", "BLOB"),
    ],
)
def test_a_column_holds_what_fits(column, field):
    assert FieldType.parse(column).holds(FieldType.parse(field))


@pytest.mark.parametrize(
    "column, field",
    [
        ("INT", "BIGINT"),
        ("INT", "INT UNSIGNED"),
        ("INT UNSIGNED", "INT"),
        ("BIGINT UNSIGNED", "INT"),
        ("INT", "DOUBLE"),
        ("DOUBLE", "INT"),
        ("BOOL", "INT"),
        ("BOOL", "TINYINT"),
        ("float", "DOUBLE"),
        ("decimal(10,0)", "DOUBLE"),
        ("decimal(10,0)", "FLOAT"),
        ("decimal(8,3)", "DECIMAL(8,2)"),
        ("decimal(8,3)", "DECIMAL(9,4)"),
        ("varchar(20)", "VARCHAR(50)"),
        ("varchar(254)", "TINYTEXT"),
        ("tinytext", "VARCHAR(64)"),
        ("text", "LONGTEXT"),
        ("text", "JSON"),
        ("json", "LONGTEXT"),
        ("json", "VARCHAR(5)"),
        ("varchar(255)", "INT"),
        ("INT", "VARCHAR(5)"),
        ("date", "DATETIME"),
        ("datetime", "DATE"),
        ("blob", "LONGBLOB"),
        ("blob", "TEXT"),
        ("text", "BLOB"),
        ("datetime", "VARCHAR(30)"),
    ],
)
def test_a_column_does_not_hold_what_it_would_alter(column, field):
    assert not FieldType.parse(column).holds(FieldType.parse(field))


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_a_column_holds_its_own_type(name):
    assert FieldType.parse(name).holds(FieldType.parse(name))


INTEGERS = [f"{name}{sign}" for name in TYPE_NAMES if name.endswith(("INT", "INTEGER")) for sign in ("", " UNSIGNED")]


@given(st.sampled_from(INTEGERS), st.sampled_from(INTEGERS))
def test_an_integer_column_holds_a_type_only_if_it_takes_its_limits(column, field):
    def takes(number):
        try:
            return coerce(column, number) == number
        except InvalidValueError:
            return False

    other = FieldType.parse(field)
    ends = [0 if other.unsigned else -other.limit - 1, other.limit]
    assert FieldType.parse(column).holds(other) == all(map(takes, ends))


@pytest.mark.parametrize(
    "value",
    [object(), Pipeline().__str__, len.__call__, iter([]), (i for i in "a"), lambda: 1, deque([object()])],
)
def test_a_text_with_an_address_is_refused(value):
    assert "its text contains an address in memory, which differs in each process; " in refusal("TEXT", value)


@pytest.mark.parametrize("kind", [dict, np.float32, pd.Series, Tensor])
def test_a_class_is_shown_by_its_name(kind):
    assert coerce("TEXT", kind) == str(kind)


@pytest.mark.parametrize("value", [pd.DataFrame({"a": range(1000)}), scipy.sparse.eye_array(1000), Frame()])
def test_a_text_that_may_be_shortened_is_refused(value):
    name = type(value).__name__
    assert refusal("TEXT", value).startswith(f"a {name} is not a string, and its text may leave out parts of it; store")


def test_a_text_that_cannot_be_made_is_refused():
    assert refusal("TEXT", 10**5000).startswith("<int> is not a string: ValueError: Exceeds the limit")
    assert refusal("TEXT", Broken()) == "<Broken> is not a string: RuntimeError: no text"


def test_a_refusal_has_one_line():
    assert refusal("DOUBLE", pd.DataFrame({"a": [1, 2]})) == "   a 0  1 1  2 is not a number"
    assert refusal("DOUBLE", "two  spaces\n") == r"'two  spaces\n' is not a number"


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float32_keeps_the_digits_that_it_shows(number):
    short = np.float32(number)
    assert coerce("DOUBLE", short) == float(str(short))
    assert np.float32(coerce("DOUBLE", short)) == short


def test_what_is_not_text_becomes_text():
    text = FieldType.parse("VARCHAR(30)")
    values = [True, 0.5, date(2026, 1, 31), datetime(2026, 1, 31, 13, 30), Path("a/b")]
    assert [text.coerce(value) for value in values] == ["True", "0.5", "2026-01-31", "2026-01-31 13:30:00", "a/b"]
