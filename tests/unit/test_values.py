"""Values written to a column and read back: unchanged, or refused with the field's name, and never silently NULL."""

import math
import sqlite3
import string
import warnings
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.database.backends.sqlite import SQLITE
from pyexperimenter.database.values import Encoder, decode
from pyexperimenter.exceptions import InvalidValueError, UndecodableValueError
from pyexperimenter.fieldtypes import FieldType

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(string.printable), inner, max_size=4),
    max_leaves=10,
)
VALUES = {
    "TINYINT": st.integers(-128, 127),
    "INT": st.integers(-(2**31), 2**31 - 1),
    "INT UNSIGNED": st.integers(0, 2**32 - 1),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "DOUBLE": st.floats(allow_nan=False),
    "FLOAT": st.floats(allow_nan=False),
    "NUMERIC": st.floats(allow_nan=False),
    "DECIMAL(8,3)": st.integers(-(10**8) + 1, 10**8 - 1).map(lambda thousandths: thousandths / 1000),
    "BOOL": st.booleans(),
    "VARCHAR(60)": TEXTS,
    "LONGTEXT": TEXTS,
    "JSON": JSON_VALUES.filter(lambda value: value is not None),
    "DATETIME": st.datetimes(),
    "TIMESTAMP": st.datetimes(),
    "DATE": st.dates(),
    "BLOB": st.binary(max_size=60),
}


def stored(connection, type_, value):
    """Return what SQLite makes of a value in a column of that type."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("DELETE FROM t")
        cursor.execute(f'INSERT INTO t ("{type_}") VALUES (?)', [value])
        return cursor.execute(f'SELECT "{type_}" FROM t').fetchone()[0]


@pytest.fixture(scope="module")
def connection():
    columns = ", ".join(f'"{name}" {SQLITE.column_type(FieldType.parse(name))}' for name in VALUES)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE t ({columns})")
        yield connection


@pytest.mark.parametrize("type_", VALUES)
@given(data=st.data())
def test_a_value_comes_back_as_it_went_in(connection, type_, data):
    value = data.draw(VALUES[type_])
    field = FieldType.parse(type_)
    encoded = Encoder("field", field, keeps_infinity=True)(value)
    for column_value in (encoded, stored(connection, type_, encoded)):
        result = decode("field", field, column_value)
        assert result == value
        assert type(result) is type(value)
    assert Encoder("field", field, keeps_infinity=True)(result) == encoded  # one value, one form: identity needs it


@pytest.mark.parametrize("type_", VALUES)
def test_none_is_null_and_null_is_none(type_):
    field = FieldType.parse(type_)
    assert Encoder("field", field, keeps_infinity=False)(None) is None
    assert Encoder("field", field, keeps_infinity=False)(pd.NA) is None
    assert decode("field", field, None) is None


@pytest.mark.parametrize(
    "type_, value, expected",
    [
        ("BOOL", True, True),
        ("BOOL", "false", False),
        ("INT", np.int64(5), 5),
        ("DOUBLE", "1e-3", 0.001),
        ("JSON", {"b": (1, math.nan), "a": None}, '{"a":null,"b":[1,null]}'),
        ("JSON", "text", '"text"'),
        ("VARCHAR(9)", [1, None], "[1,null]"),
        ("DATETIME", datetime(2026, 1, 31, 13, 30), "2026-01-31 13:30:00"),
        ("DATETIME", datetime(2026, 1, 31, 13, 30, 0, 7), "2026-01-31 13:30:00.000007"),
        (
            "DATETIME",
            datetime(2026, 1, 31, 13, 30, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-31 11:30:00",
        ),
        ("DATE", datetime(2026, 1, 31), "2026-01-31"),
        ("BLOB", bytearray(b"\0\xff"), b"\0\xff"),
        ("DOUBLE", math.inf, math.inf),
    ],
)
def test_columns_get_plain_values(type_, value, expected):
    encoded = Encoder("field", FieldType.parse(type_), keeps_infinity=True)(value)
    assert (type(encoded), encoded) == (type(expected), expected)


def test_a_refusal_names_the_field():
    with pytest.raises(InvalidValueError) as caught:
        Encoder("accuracy", FieldType.parse("INT"), keeps_infinity=True)("high")
    assert str(caught.value) == "accuracy: 'high' is not an integer"
    assert isinstance(caught.value.__cause__, InvalidValueError)


# What is rounded, with a warning


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (2.4, 2),
        (2.5, 3),
        (-2.5, -3),
        (3.5, 4),
        ("2.6", 3),
        (np.float32(0.5), 1),
        (Decimal("1.49"), 1),
        (0.49999999999, 0),
    ],
)
def test_a_fraction_of_a_result_is_rounded_with_one_warning_that_names_the_field(value, rounded):
    encode = Encoder("epochs", FieldType.parse("INT"), keeps_infinity=True, rounds=True)
    told = rf"^epochs: .* is stored as {rounded}, since its type is INT; DOUBLE keeps fractions$"
    with pytest.warns(UserWarning, match=told) as caught:
        assert (encode(value), encode(value), encode(7)) == (rounded, rounded, 7)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="epochs: nan is stored as NULL"):  # which is another loss
        assert encode(math.nan) is None


@pytest.mark.parametrize("value", [2**31 - 0.5, math.inf, "many", [1.5, 2]])
def test_what_is_not_near_an_integer_of_the_type_is_refused(value):
    encode = Encoder("epochs", FieldType.parse("INT"), keeps_infinity=True, rounds=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="epochs: .* is stored as")
        with pytest.raises(InvalidValueError, match=r"^epochs: "):
            encode(value)


def test_other_values_are_kept_where_integers_are_rounded():
    values = [7, "7", True, 2**53 + 1, str(2**53 + 1), None, 2.0]
    encode = Encoder("epochs", FieldType.parse("BIGINT"), keeps_infinity=True, rounds=True)
    assert [encode(value) for value in values] == [7, 7, 1, 2**53 + 1, 2**53 + 1, None, 2]
    for type_ in ("DOUBLE", "VARCHAR(9)", "JSON"):
        assert Encoder("x", FieldType.parse(type_), keeps_infinity=True, rounds=True)(2.5) in (2.5, "2.5")


# What becomes NULL, with a warning


@pytest.mark.parametrize("type_", VALUES)
def test_nan_becomes_null_with_one_warning_that_names_the_field(type_):
    encode = Encoder("loss", FieldType.parse(type_), keeps_infinity=True)
    with pytest.warns(UserWarning, match="^loss: nan is stored as NULL$") as caught:
        assert encode(math.nan) is None
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode(np.float32("nan")) is None  # reported once
        assert encode(math.nan) is None


def test_every_field_warns_for_itself():
    fields = [Encoder(name, FieldType.parse("DOUBLE"), keeps_infinity=True) for name in ("loss", "gain")]
    with pytest.warns(UserWarning) as caught:
        assert [encode(math.nan) for encode in fields for _ in range(3)] == [None] * 6
    told = ["loss: nan is stored as NULL", "gain: nan is stored as NULL"]
    assert [str(warning.message) for warning in caught] == told


@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
def test_infinity_is_kept_where_the_database_can(infinity, connection):
    field = FieldType.parse("DOUBLE")
    assert Encoder("loss", field, keeps_infinity=True)(infinity) == infinity
    assert decode("loss", field, stored(connection, "DOUBLE", infinity)) == infinity
    encode = Encoder("loss", field, keeps_infinity=False)
    with pytest.warns(UserWarning, match=f"^loss: {infinity} is stored as NULL$") as caught:
        assert (encode(infinity), encode(infinity), encode(math.nan)) == (None, None, None)
    assert len(caught) == 1


def test_infinity_is_not_a_json_value_on_any_database():
    with pytest.warns(UserWarning, match="^options: nan is stored as NULL$"):
        assert Encoder("options", FieldType.parse("JSON"), keeps_infinity=True)(math.inf) is None


# What people and other drivers leave in a column


@pytest.mark.parametrize(
    "type_, value, expected",
    [
        ("INT", 3.0, 3),
        ("INT", Decimal(3), 3),
        ("INT", "3", 3),
        ("DOUBLE", 3, 3.0),
        ("DOUBLE", Decimal("0.1"), 0.1),
        ("DOUBLE", "0.5", 0.5),
        ("DECIMAL(5,2)", Decimal("0.10"), 0.1),
        ("BOOL", 1, True),
        ("BOOL", 0.0, False),
        ("VARCHAR(9)", b"abc", "abc"),
        ("VARCHAR(9)", 5, "5"),
        ("JSON", '{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        ("JSON", b'{"a":1}', {"a": 1}),
        ("DATETIME", datetime(2026, 1, 31, 13), datetime(2026, 1, 31, 13)),
        ("DATETIME", "2026-01-31", datetime(2026, 1, 31)),
        ("DATETIME", "2026-01-31 13:30:00.123", datetime(2026, 1, 31, 13, 30, 0, 123_000)),
        ("DATETIME", "2026-01-31 13:30:00+02:00", datetime(2026, 1, 31, 11, 30)),
        ("DATE", date(2026, 1, 31), date(2026, 1, 31)),
        ("BLOB", "abc", b"abc"),
        ("BLOB", memoryview(b"abc"), b"abc"),
    ],
)
def test_what_has_a_meaning_is_decoded(type_, value, expected):
    result = decode("field", FieldType.parse(type_), value)
    assert repr(result) == repr(expected)


@pytest.mark.parametrize(
    "type_, value, shown",
    [
        ("INT", "many", "'many', which is not an integer (INT)"),
        ("INT", 1.5, "1.5, which is not an integer (INT)"),
        ("INT", Decimal("1.5"), "Decimal('1.5'), which is not an integer (INT)"),
        ("INT", math.inf, "inf, which is not an integer (INT)"),
        ("DOUBLE", "high", "'high', which is not a number (DOUBLE)"),
        ("BOOL", 2, "2, which is not true or false (BOOL)"),
        ("BOOL", "maybe", "'maybe', which is not true or false (BOOL)"),
        ("VARCHAR(5)", b"\xff", r"b'\xff', which is not a string (VARCHAR(5))"),
        ("JSON", "{'a': 1}", """"{'a': 1}", which is not a JSON value (JSON)"""),
        ("JSON", 5, "5, which is not a JSON value (JSON)"),
        ("JSON", "[" * 100_000, f"'{'[' * 59}, which is not a JSON value (JSON)"),
        ("DATETIME", "yesterday", "'yesterday', which is not a date and time (DATETIME)"),
        ("DATETIME", 2026, "2026, which is not a date and time (DATETIME)"),
        ("DATE", "31.1.2026", "'31.1.2026', which is not a date (DATE)"),
        ("DATE", datetime(2026, 1, 31, 5), "datetime.datetime(2026, 1, 31, 5, 0), which is not a date (DATE)"),
        ("BLOB", 5, "5, which is not bytes (BLOB)"),
        ("BLOB", 1.5, "1.5, which is not bytes (BLOB)"),
    ],
)
def test_what_has_none_is_named_with_a_remedy(type_, value, shown):
    with pytest.raises(UndecodableValueError) as caught:
        decode("depth", FieldType.parse(type_), value)
    assert str(caught.value) == f"column depth holds {shown}; correct it by SQL"
    assert caught.value.__cause__ is not None
