"""A DataFrame that is read in parts is the same as one of all rows together, whatever the values are."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from datetime import date, datetime, timezone
from decimal import Decimal
from io import BytesIO
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from pyexperimenter.analysis import frame as frame_module
from pyexperimenter.analysis import to_frame
from pyexperimenter.analysis.export import export_parts
from pyexperimenter.analysis.frame import FrameInParts, read_frame
from pyexperimenter.fieldtypes import FieldType

# What the databases return for a column, and what it holds after an edit by hand, or in tables of py-experimenter.
USUAL: dict[str, list[Any]] = {
    "INT": [0, 1, -5, 2**31 - 1],
    "BIGINT UNSIGNED": [0, 2**63 - 1, 2**63, 2**64 - 1],
    "DOUBLE": [0.5, -0.0, 1e300, float("inf"), 3],
    "DECIMAL(10,2)": [Decimal("1.10"), Decimal("-3"), 0.25],
    "BOOL": [0, 1, True, False],
    "VARCHAR(50)": ["", "a", "ä\n", "1", "None", "nan"],
    "LONGTEXT": ["x" * 50, "NULL"],
    "JSON": ['{"a": [1, null]}', "1", '"text"', "null"],
    "DATETIME": [
        "2026-01-02 03:04:05",
        "2026-01-02 03:04:05.678901",
        datetime(2026, 1, 2),
        datetime(1, 2, 3, 4, 5, 6, 7),
    ],
    "DATE": ["2026-01-02", date(2026, 1, 2)],
    "BLOB": [b"", b"\xff"],
}
ODD: list[Any] = [
    *(
        2,
        2**70,
        1.5,
        1.0,
        "1",
        "1.5",
        "True",
        "text",
        "2026-01-02T03:04:05+01:00",
        "0000-00-00",
        b"bytes",
        b"\xff",
        "{",
    ),
    *(True, Decimal("NaN"), float("nan"), datetime(2026, 1, 2, tzinfo=timezone.utc), date(2026, 1, 2)),
]
COLUMNS = ["ID", *USUAL, "added"]
TYPES = {
    "ID": FieldType.parse("BIGINT"),
    **{name: FieldType.parse(name) for name in USUAL},
    "absent": FieldType.parse("INT"),
}


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    count = draw(st.integers(0, 12))
    columns: list[list[Any]] = [list(range(1, count + 1))]
    for values in [*USUAL.values(), [1, 2.5, "x"]]:
        some = st.one_of(st.none(), st.sampled_from(values), *([st.sampled_from(ODD)] if draw(st.booleans()) else []))
        columns.append(
            draw(st.lists(st.none() if draw(st.integers(0, 5)) == 0 else some, min_size=count, max_size=count))
        )
    return list(zip(*columns, strict=True)) * draw(st.sampled_from([1, 6]))  # a value may come again and again


def in_parts(rows: list[tuple[Any, ...]], size: int, calls: list[int]) -> Callable[..., Any]:
    def read(take: Callable[..., Any]) -> Any:
        calls.append(1)
        return take(COLUMNS, (rows[start : start + size] for start in range(0, len(rows), size)))

    return read


@given(rows=tables(), size=st.sampled_from([1, 2, 3, 5, 50]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")  # of pandas, about the odd values
def test_parts_make_the_same_frame(monkeypatch: pytest.MonkeyPatch, rows: list[tuple[Any, ...]], size: int) -> None:
    monkeypatch.setattr(frame_module, "_PIECE", 4)
    found = read_frame(in_parts(rows, size, []), TYPES)
    expected = to_frame(COLUMNS, rows, TYPES)
    assert_frame_equal(found, expected, check_exact=True, check_column_type=True)
    with tempfile.TemporaryFile() as file:
        parts = FrameInParts(in_parts(rows, size, []), TYPES, lambda part: part, file)
        for _ in range(2):
            every = [*parts]
            assert max(map(len, every)) < 4 + size
            # Column by column, as pandas 2 concatenates missing values of tables as None.
            columns = {name: pd.concat([part[name] for part in every], ignore_index=True) for name in expected}
            assert_frame_equal(pd.DataFrame(columns), expected, check_exact=True)
            assert all((part.dtypes == expected.dtypes).all() for part in every)


def exported(parts: Iterable[pd.DataFrame], kind: str, escape: bool) -> Any:
    """Return what a file has, or the error. The times of a CSV file are shorter if none of a part need all digits."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with tempfile.NamedTemporaryFile(suffix=f".{kind}") as file:
        try:
            export_parts(parts, file.name, kind, escape)
        except (pyarrow.ArrowException, OverflowError) as error:
            return type(error)
        with open(file.name, "rb") as written:
            data = written.read()
    if kind != "parquet":
        return re.sub(r" 00:00:00|\.000000", "", data.decode())
    found = parquet.read_table(BytesIO(data))
    return found.schema, found.schema.metadata, found.to_pydict()


@given(rows=tables(), size=st.sampled_from([1, 2, 3, 5, 50]))
@example(rows=[(number, None, value, *[None] * 10) for number, value in enumerate([None] * 3 + [2**63, 1.5])], size=1)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")  # of pandas, about the odd values
def test_parts_make_the_same_file(monkeypatch: pytest.MonkeyPatch, rows: list[tuple[Any, ...]], size: int) -> None:
    monkeypatch.setattr(frame_module, "_PIECE", 4)
    whole = to_frame(COLUMNS, rows, TYPES)
    whole.attrs = {"unit": ["ID"]}
    with tempfile.TemporaryFile() as file:

        def finish(part: pd.DataFrame) -> pd.DataFrame:
            part.attrs = whole.attrs
            return part

        parts = FrameInParts(in_parts(rows, size, []), TYPES, finish, file)
        for kind, escape in (("csv", False), ("csv", True), ("json", False), ("parquet", False)):
            assert repr(exported(parts, kind, escape)) == repr(exported([whole], kind, escape))  # NaN is not NaN


@pytest.mark.parametrize("declared", list(USUAL))
@pytest.mark.filterwarnings("ignore")  # of pandas, about the odd values
def test_one_odd_value_makes_the_same_column(monkeypatch: pytest.MonkeyPatch, declared: str) -> None:
    """It is the last value, after others that are usual or NULL, each row in a part of its own or all in one."""
    monkeypatch.setattr(frame_module, "_PIECE", 4)
    types = {"column": FieldType.parse(declared)}
    for before in ([], [None] * 4, [USUAL[declared][0]] * 8, [*USUAL[declared], None] * 4):
        for value in [None, *USUAL[declared], *ODD]:
            for last in ([value], [value] * 4):
                rows = [(value,) for value in [*before, *last]]
                whole = to_frame(["column"], rows, types)
                for parts in ([[row] for row in rows], [rows]):
                    found = read_frame(lambda take, parts=parts: take(["column"], parts), types)
                    assert_frame_equal(found, whole, check_exact=True)


def test_rows_are_read_again_only_for_odd_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "_PIECE", 4)
    usual = [(number, *(values[0] for values in USUAL.values()), None) for number in range(20)]
    once: list[int] = []
    read_frame(in_parts(usual, 3, once), TYPES)
    twice: list[int] = []
    read_frame(in_parts([*usual, (20, "odd", *usual[0][2:])], 3, twice), TYPES)
    assert (len(once), len(twice)) == (1, 2)


def test_one_part_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of a part are let go when they were converted."""
    monkeypatch.setattr(frame_module, "_PIECE", 10)
    alive = 0

    class Counted(str):
        def __new__(cls, text: str) -> Counted:
            nonlocal alive
            alive += 1
            return super().__new__(cls, text)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    most = 0

    def parts() -> Any:
        nonlocal most
        for number in range(100):
            most = max(most, alive)
            yield [(Counted(str(number)),)]

    types = {"text": FieldType.parse("LONGTEXT")}
    monkeypatch.setitem(frame_module._USUAL, types["text"].kind, {str, Counted})
    table = read_frame(lambda take: take(["text"], parts()), types)
    assert len(table) == 100
    assert most <= 30
    assert isinstance(table.dtypes["text"], type(pd.Series(["a"], dtype=str).dtype))


@pytest.mark.parametrize("values", [[None, 2**63 - 1], [1, None], [None, 2**63], [2**63, 2**64 - 1], [1, 2]])
def test_integers_of_a_column_that_a_person_added_keep_all_digits(values: list[int | None]) -> None:
    own = to_frame(["own"], [(value,) for value in values], {})["own"]
    assert [None if value is pd.NA else value for value in own] == values
