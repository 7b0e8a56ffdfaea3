"""Tables of py-experimenter: what its versions wrote is read as what it meant, filled up and executed.

The statements are those that the versions ran, as seen in their databases: 1.2 and 1.3 put values into the text of the
statement, and 1.4 handed them to the driver.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any

import pytest

from pyexperimenter.exceptions import TableHasWrongStructureError
from pyexperimenter.jsonable import is_missing
from tests.support.study import experimenter, study
from tests.support.target import Target

DATABASES = ["sqlite", "mariadb"]  # those that it knew
COLUMNS = {
    "line": "INT",
    "flag": "BOOL",
    "number": "INT",
    "ratio": "DOUBLE",
    "text": "VARCHAR(50)",
    "moment": "DATETIME",
}
MOMENT = datetime(2026, 1, 2, 3, 4, 5)

# Literal in SQL -> what was meant, by the column.
WRITTEN: dict[str, list[tuple[str, Any]]] = {
    "flag": [
        ("1", True),
        ("0", False),
        ("'True'", True),
        ("'False'", False),
        ("'true'", True),
        ("'yes'", True),
        ("'no'", False),
        ("'on'", True),
        ("'off'", False),
        ("'None'", None),
        ("NULL", None),
        ("X'01'", True),  # numpy.bool_ in 1.4
        ("X'00'", False),
    ],
    "number": [
        ("7", 7),
        ("'7'", 7),
        ("'True'", 1),
        ("'None'", None),
        ("X'0300000000000000'", 3),  # numpy.int64 in 1.4
        ("X'fdff'", -3),  # numpy.int16
    ],
    "ratio": [
        ("0.5", 0.5),
        ("1", 1.0),
        ("'nan'", None),
        ("'inf'", float("inf")),
        ("'None'", None),
        (f"X'{struct.pack('<f', 0.1).hex()}'", 0.1),  # numpy.float32 in 1.4
        ("X'ffff7f7f'", 3.4028235e38),
        ("X'0300000000000000'", 3.0),
    ],
    "text": [("'x'", "x"), ("'None'", "None"), ("'True'", "True"), ("1.5", "1.5"), ("''", "")],
    "moment": [("'2026-01-02 03:04:05'", MOMENT), ("'2026-01-02'", datetime(2026, 1, 2)), ("'None'", None)],
}
VALUES = [pytest.param(name, *pair, id=f"{name}-{pair[0]}") for name, pairs in WRITTEN.items() for pair in pairs]


def create(target: Target) -> None:
    """Create a table as all versions do, with resultfields of the same types."""
    keys = ", ".join(f"{name} {declared} DEFAULT NULL" for name, declared in COLUMNS.items())
    results = ", ".join(f"r_{name} {declared} DEFAULT NULL" for name, declared in COLUMNS.items())
    target.query(
        f"CREATE TABLE study (ID INTEGER PRIMARY KEY AUTOINCREMENT, {keys}, creation_date DATETIME DEFAULT NULL, "
        "status VARCHAR(255) DEFAULT NULL, start_date DATETIME DEFAULT NULL, name LONGTEXT DEFAULT NULL, "
        f"machine VARCHAR(255) DEFAULT NULL, {results}, end_date DATETIME DEFAULT NULL, error LONGTEXT DEFAULT NULL)"
    )


def config(target: Target) -> dict[str, Any]:
    return study(
        target,
        keyfields={name: {"type": declared} for name, declared in COLUMNS.items()},
        resultfields={f"r_{name}": declared for name, declared in COLUMNS.items()},
        logtables={},
    )


def plain(value: Any) -> Any:
    """Return a value of a DataFrame as the function gets it; None for each kind of missing."""
    value = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
    return None if is_missing(value) else value


@pytest.mark.parametrize(("name", "literal", "meant"), VALUES)
def test_a_value_is_read_filled_and_executed_as_what_it_meant(
    sqlite_target: Target, name: str, literal: str, meant: Any
) -> None:
    create(sqlite_target)
    for row, status in ((1, "done"), (2, "created")):
        insert = f"INSERT INTO study (line, {name}, r_{name}, status) VALUES (?, {literal}, {literal}, ?)"
        sqlite_target.query(insert, row, status)
    before = sqlite_target.query("SELECT * FROM study")
    study_ = experimenter(sqlite_target, config(sqlite_target))
    for column in (name, f"r_{name}"):
        assert [plain(value) for value in study_.get_table()[column].astype(object)] == [meant, meant]
    assert sqlite_target.query("SELECT * FROM study") == before

    seen = []
    assert study_.execute(lambda keyfields, *_: seen.append(keyfields)) == 1
    assert seen[0][name] == meant
    assert study_.fill_table_with_rows([{"line": 1, name: meant}, {"line": 2, name: meant}]) == (0, 2)
    assert set(study_.get_table()["status"]) == {"done"}


def test_a_fill_recognizes_values_before_anything_is_executed(sqlite_target: Target) -> None:
    create(sqlite_target)
    sqlite_target.query("INSERT INTO study (line, flag, ratio, status) VALUES (1, 'True', 'nan', 'created')")
    study_ = experimenter(sqlite_target, config(sqlite_target))
    assert study_.fill_table_with_rows([{"line": 1, "flag": True, "ratio": None}]) == (0, 1)
    assert study_.execute(lambda *_: None, where={"flag": True}) == 1


@pytest.mark.parametrize(
    ("name", "literal", "problem"),
    [
        ("flag", "'maybe'", "'maybe', which is not true or false"),
        ("number", "2.5", "2.5, which is not an integer"),
        ("ratio", "'0.1:0.5:0.2'", "'0.1:0.5:0.2', which is not a number"),
        ("ratio", "X'000102'", "which is not a number"),
        ("text", "X'000000000000f83f0000000000000040'", "which is not a string"),  # an array of numpy
    ],
)
def test_a_table_with_values_that_mean_nothing_is_refused_as_it_is(
    sqlite_target: Target, name: str, literal: str, problem: str
) -> None:
    create(sqlite_target)
    sqlite_target.query(f"INSERT INTO study (line, {name}, status) VALUES (1, {literal}, 'created')")
    before = sqlite_target.query("SELECT * FROM study"), sqlite_target.query("SELECT name FROM sqlite_master")
    study_ = experimenter(sqlite_target, config(sqlite_target))
    for call in (study_.create_table, lambda: study_.execute(lambda *_: None)):
        with pytest.raises(TableHasWrongStructureError, match=f"column {name} holds .*{problem}.*correct it by SQL"):
            call()
    assert (sqlite_target.query("SELECT * FROM study"), sqlite_target.query("SELECT name FROM sqlite_master")) == before


# Declared type -> a value in SQL, and what it is in Python.
PASSED_ON = {
    "LONG": ("7", 7),
    "DOUBLE PRECISION": ("0.5", 0.5),
    "CHARACTER VARYING(20)": ("'x'", "x"),
    "MEDIUMINT UNSIGNED": ("7", 7),
    "INT8": ("7", 7),
    "DEC(5,2)": ("1.25", 1.25),
    "FLOAT UNSIGNED": ("0.5", 0.5),
    "NVARCHAR(20)": ("'x'", "x"),
    "BIT": ("1", True),
    "ENUM('a','b')": ("'a'", "a"),
    "LONG VARCHAR": ("'x'", "x"),
    "YEAR": ("2026", 2026),
    "VARBINARY(5)": ("'x'", b"x"),
}


def test_types_of_the_servers_that_it_passed_on(target: Target) -> None:
    taken = {declared: pair for declared, pair in PASSED_ON.items() if target.server or not declared.startswith("ENUM")}
    names = {declared: f"k{number}" for number, declared in enumerate(taken)}
    keys = ", ".join(f"{name} {declared} DEFAULT NULL" for declared, name in names.items())
    number = "INTEGER PRIMARY KEY AUTOINCREMENT" if target.server is None else "INTEGER PRIMARY KEY AUTO_INCREMENT"
    target.query(
        f"CREATE TABLE study (ID {number}, {keys}, creation_date DATETIME DEFAULT NULL, status VARCHAR(255) DEFAULT "
        "NULL, start_date DATETIME DEFAULT NULL, name LONGTEXT DEFAULT NULL, machine VARCHAR(255) DEFAULT NULL, "
        "end_date DATETIME DEFAULT NULL, error LONGTEXT DEFAULT NULL)"
    )
    values = ", ".join(literal for literal, _ in taken.values())
    target.query(f"INSERT INTO study ({', '.join(names.values())}, status) VALUES ({values}, 'created')")
    keyfields = {name: {"type": declared} for declared, name in names.items()}
    study_ = experimenter(target, study(target, keyfields=keyfields, resultfields={}, logtables={}))
    meant = {names[declared]: value for declared, (_, value) in taken.items()}
    seen = []
    assert study_.fill_table_with_rows([meant]) == (0, 1)
    assert study_.execute(lambda keyfields, *_: seen.append(keyfields)) == 1
    assert seen == [meant]
    target.query("DROP TABLE study__attempts")
    study_.delete_table()
    assert study_.fill_table_with_rows([meant]) == (1, 0)  # into a new table
    assert study_.execute(lambda keyfields, *_: seen.append(keyfields)) == 1
    assert seen == [meant, meant]
