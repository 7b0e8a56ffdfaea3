"""`where` and `order_by` become SQL that finds exactly those rows."""

import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.config import load_config
from pyexperimenter.database.backends.mysql import MYSQL
from pyexperimenter.database.backends.sqlite import SQLITE
from pyexperimenter.database.schema import Schema
from pyexperimenter.database.selection import Condition, Selection, Selector
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError
from pyexperimenter.experiment_status import ExperimentStatus

KEYFIELDS = {"dataset": "VARCHAR(20)", "seed": "INT", "flag": "BOOL", "options": "JSON", "order": "DOUBLE"}
ROWS = [
    # ID, dataset, seed, flag, options, order, status
    (1, "iris", 0, 1, '{"a":1}', 0.5, "created"),
    (2, "iris", 1, 0, "[1,2]", 1.5, "done"),
    (3, "wine", None, None, None, None, "error"),
    (4, "it's 100%?", 3, 1, '"x"', -1.0, "paused"),
    (5, "Iris", 4, 0, "5", 2.5, "created"),
]


def schema(dialect=SQLITE):
    table = {"name": "study", "keyfields": KEYFIELDS, "resultfields": {"accuracy": "DOUBLE"}}
    database = {"provider": "sqlite", "database": "d", "table": table}
    return Schema(load_config({"PY_EXPERIMENTER": {"Database": database}}), dialect)


@pytest.fixture(scope="module")
def selector():
    return Selector(schema())


@pytest.fixture(scope="module")
def connection():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(schema().create_main())
        names = ", ".join(f'"{name}"' for name in ("ID", *KEYFIELDS, "status"))
        connection.executemany(f"INSERT INTO study ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)", ROWS)
        yield connection


def found(connection, condition, order="ID"):
    sql = f"SELECT ID FROM study WHERE {condition.sql} ORDER BY {order or 'ID'}"
    return [id_ for (id_,) in connection.execute(*SQLITE.statement(sql, condition.parameters))]


# Where


@pytest.mark.parametrize(
    "where, ids",
    [
        (None, [1, 2, 3, 4, 5]),
        ({}, [1, 2, 3, 4, 5]),
        ({"dataset": "iris"}, [1, 2]),
        ({"dataset": ["iris", "wine"]}, [1, 2, 3]),
        ({"dataset": ("iris", "wine"), "seed": {0, 4}}, [1]),
        ({"dataset": frozenset({"iris"})}, [1, 2]),
        ({"dataset": "it's 100%?"}, [4]),
        ({"seed": range(1, 4)}, [2, 4]),
        ({"seed": np.arange(1, 4)}, [2, 4]),
        ({"seed": pd.Series(range(1, 4))}, [2, 4]),
        ({"seed": (n for n in range(1, 4))}, [2, 4]),
        ({"seed": "1"}, [2]),
        ({"seed": np.int64(1)}, [2]),
        ({"seed": None}, [3]),
        ({"seed": [0, None]}, [1, 3]),
        ({"seed": [None, None]}, [3]),
        ({"seed": []}, []),
        ({"seed": [0], "dataset": []}, []),
        ({"flag": True}, [1, 4]),
        ({"flag": ["false", None]}, [2, 3, 5]),
        ({"order": 1.5}, [2]),
        ({"order": "-1"}, [4]),
        ({"ID": [5, 1]}, [1, 5]),
        ({"status": ExperimentStatus.DONE}, [2]),
        ({"status": ["done", ExperimentStatus.ERROR]}, [2, 3]),
        ({"seed": range(200)}, [1, 2, 4, 5]),
        ("seed > 2", [4, 5]),
        ("seed = 0 OR dataset = 'wine'", [1, 3]),
    ],
)
def test_where_finds_just_those_rows(connection, selector, where, ids):
    assert found(connection, selector.condition(where)) == ids


def test_a_condition_in_sql_keeps_to_itself(connection, selector):
    # Without parentheses, the OR would include row 3 with any status.
    condition = selector.rows(["created"], "dataset = 'iris' OR dataset = 'wine'", None)
    assert found(connection, condition) == [1]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_values_are_parameters_and_never_sql(selector, value):
    condition = selector.condition({"dataset": [value, "iris"]})
    sql = '1 = 1 AND ("dataset" COLLATE BINARY IN (:where_0))'  # once, since a list may be long
    assert condition == Condition(sql, {"where_0": [value, "iris"]})


def test_texts_are_equal_byte_by_byte_and_found_by_indexes(selector):
    """Those on the column, which MySQL does not use for an expression."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE study (ID INTEGER PRIMARY KEY, dataset VARCHAR(20) COLLATE NOCASE)")
        connection.executemany("INSERT INTO study (dataset) VALUES (?)", [("iris",), ("Iris",)])
        assert found(connection, selector.condition({"dataset": "iris"})) == [1]
    condition = Selector(schema(MYSQL)).condition({"dataset": ["iris", None]})
    assert condition.sql == (
        "1 = 1 AND ((`dataset` IN (:where_0) AND CAST(CONVERT(`dataset` USING utf8mb4) AS BINARY) IN (:where_0)) "
        "OR `dataset` IS NULL)"
    )


def test_conditions_are_written_with_quoted_names(selector):
    assert selector.condition({"order": [1, None]}) == Condition(
        '1 = 1 AND ("order" IN (:where_0) OR "order" IS NULL)', {"where_0": [1.0]}
    )
    assert Selector(schema(MYSQL)).condition({"order": 1}).sql == "1 = 1 AND (`order` IN (:where_0))"
    both = Condition("a = :a", {"a": 1}) & Condition("b IN (:b)", {"b": [2, 3]})
    assert both == Condition("a = :a AND b IN (:b)", {"a": 1, "b": [2, 3]})


def test_conditions_with_the_same_parameter_are_not_combined():
    with pytest.raises(AssertionError):
        Condition("a = :x", {"x": 1}) & Condition("b = :x", {"x": 2})


def test_an_unknown_column_is_named_with_those_there_are(selector):
    for where in ({"sed": 1}, {"dataset": "iris", "sed": []}):
        with pytest.raises(InvalidColumnError) as caught:
            selector.condition(where)
        assert str(caught.value) == (
            "the table has no column 'sed'; it has ID, dataset, seed, flag, options, order, creation_date, status, "
            "start_date, name, machine, accuracy, end_date, error"
        )


def test_a_value_that_does_not_fit_its_column_is_refused_and_named(selector):
    with pytest.raises(InvalidValueError) as caught:
        selector.condition({"dataset": "iris", "seed": [0, "many"]})
    assert str(caught.value) == "seed: 'many' is not an integer"


# States and IDs


@pytest.mark.parametrize(
    "states, where, ids, expected",
    [
        (["created"], None, None, [1, 5]),
        ([ExperimentStatus.CREATED, "done"], None, None, [1, 2, 5]),
        (["all"], None, None, [1, 2, 3, 4, 5]),
        ([ExperimentStatus.ALL], {"seed": [0, 1]}, None, [1, 2]),
        (["done", "all"], None, [2, 3, 99], [2, 3]),
        (["created"], {"dataset": "iris"}, [1, 2], [1]),
        (["created"], None, [], []),
        ([], None, None, []),
    ],
)
def test_rows_are_found_by_status_condition_and_id(connection, selector, states, where, ids, expected):
    assert found(connection, selector.rows(states, where, ids)) == expected


# Order


@pytest.mark.parametrize(
    "order_by, order",
    [
        (None, ""),
        ("", ""),
        ([], ""),
        ("seed", '"seed"'),
        ("-seed", '"seed" DESC'),
        ("seed desc", '"seed" DESC'),
        ("seed ASC", '"seed"'),
        (pd.Index(["seed", "-dataset"]), '"seed", "dataset" DESC'),
        ("order", '"order"'),
        ("dataset, -seed", '"dataset", "seed" DESC'),
        (["dataset", "-seed"], '"dataset", "seed" DESC'),
        (["dataset,seed DESC", "ID"], '"dataset", "seed" DESC, "ID"'),
        (("-order",), '"order" DESC'),
    ],
)
def test_order_by_is_columns_and_directions(selector, order_by, order):
    assert selector.selection(None, order_by, random=False) == Selection(Condition(), order, False)


def test_rows_come_in_the_order_asked_for(connection, selector):
    selection = selector.selection({"seed": range(10)}, "dataset, -seed", random=True)
    assert found(connection, selection.condition, selection.order) == [5, 2, 1, 4]
    assert selection.random


@pytest.mark.parametrize(
    "order_by, unknown",
    [
        ("sed", "'sed'"),
        ("-sed", "'sed'"),
        ("seed DOWN", "'seed DOWN'"),
        (["seed", "sed desc"], "'sed'"),
        ('seed"; DROP TABLE study', """'seed"; DROP TABLE study'"""),
        ("RANDOM()", "'RANDOM()'"),
        ("seed,", "''"),
    ],
)
def test_only_columns_can_be_ordered_by(selector, order_by, unknown):
    with pytest.raises(InvalidColumnError) as caught:
        selector.selection(None, order_by, random=False)
    assert str(caught.value).startswith(f"the table has no column {unknown}; it has ID, dataset, ")


def test_json_is_not_compared_with_values(selector):
    with pytest.raises(InvalidColumnError, match=r"options is JSON, .* write a condition in SQL"):
        selector.condition({"options": {"a": 1}})
    assert "IS NULL" in selector.condition({"options": None}).sql
