"""Two rows with equal keyfields cannot exist, however they are written."""

from __future__ import annotations

import sqlite3

import psycopg
import pymysql
import pytest

from pyexperimenter.exceptions import DuplicateExperimentsError
from tests.support.study import experimenter, store, study
from tests.support.target import Target

KEYFIELDS = {
    "text": "VARCHAR(100)",
    "number": "DOUBLE",
    "whole": "INT",
    "flag": "BOOL",
    "long": "LONGTEXT",
    "options": "JSON",
    "day": "DATETIME",
}
REFUSED = (sqlite3.IntegrityError, pymysql.err.IntegrityError, psycopg.IntegrityError)


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "a"}, {"text": "A"}, {"text": "a "}, {"text": "ä"}, {"text": ""}, {"text": "NULL"}, {"text": "0"}],
        [{"number": 0.1}, {"number": 0.1 + 1e-17 + 1e-16}, {"number": 0}, {"number": 1e300}, {"number": -1}],
        [{"whole": 0}, {"whole": 1}, {"whole": -1}, {"text": "x"}],
        [{"flag": True}, {"flag": False}, {"flag": None, "whole": 1}],
        [{"long": "x" * 100_000}, {"long": "x" * 100_001}, {"long": "x"}],
        [{"options": {"a": 1}}, {"options": {"a": 1.5}}, {"options": {"a": "1"}}, {"options": [1]}, {"options": 1}],
        [{"day": "2026-01-01 00:00:00"}, {"day": "2026-01-01 00:00:00.000001"}],
        [{"text": "a", "long": None}, {"text": None, "long": "a"}, {"text": "a", "long": "a"}],
        [{"text": "a"}, {"text": "a", "whole": 0}, {"text": "a", "number": 0}, {"text": "a", "flag": False}],
    ],
)
def test_rows_that_differ_are_kept_apart_and_equal_ones_are_not(target: Target, rows: list[dict[str, object]]) -> None:
    study_ = experimenter(target, study(target, keyfields=KEYFIELDS))
    assert study_.fill_table_with_rows(rows) == (len(rows), 0)
    assert study_.fill_table_with_rows(rows) == (0, len(rows))


def test_numbers_are_equal_where_the_type_says_so(target: Target) -> None:
    study_ = experimenter(target, study(target, keyfields=KEYFIELDS))
    assert study_.fill_table_with_rows([{"number": 1}, {"number": 1.0}, {"number": "1e0"}]) == (1, 2)
    assert study_.fill_table_with_rows([{"text": 1}, {"text": "1"}, {"text": 1.0}]) == (2, 1)
    assert study_.fill_table_with_rows([{"number": 0.0}, {"number": -0.0}]) == (1, 1)
    assert study_.fill_table_with_rows([{"options": {"a": 1, "b": 2}}, {"options": {"b": 2, "a": 1}}]) == (1, 1)


def test_the_database_refuses_a_double_inserted_by_hand(target: Target) -> None:
    store(target)
    with pytest.raises(REFUSED):
        target.query("INSERT INTO study (dataset, seed) VALUES ('iris', 1)")
    with pytest.raises(REFUSED):
        target.query("UPDATE study SET seed = 1 WHERE dataset = 'iris' AND seed = 2")
    target.query("INSERT INTO study (dataset, seed) VALUES ('Iris', 1), ('iris ', 1), (NULL, 1)")
    with pytest.raises(REFUSED):
        target.query("INSERT INTO study (dataset, seed) VALUES (NULL, 1)")


def test_the_identity_is_not_seen_in_the_table(target: Target) -> None:
    opened = store(target)
    connection = target.connect()
    cursor = connection.cursor()
    cursor.execute("SELECT * FROM study")
    assert [column[0] for column in cursor.description] == list(opened.schema.columns)
    connection.close()


def test_a_table_with_duplicates_warns_on_fill_but_is_usable(target: Target) -> None:
    opened = store(target)
    target.query(opened.schema.drop_identity("study__identity"))
    target.query("INSERT INTO study (dataset, seed) VALUES ('iris', 1)")
    study_ = experimenter(target)
    with pytest.raises(DuplicateExperimentsError, match=r"study has several rows .* IDs 2 and 7"):
        study_.fill_table_from_config()
    assert study_.execute(lambda keyfields, results, custom: {"accuracy": 1}) == 7
    target.query("DELETE FROM study WHERE ID = 7")
    assert study_.fill_table_from_config() == (0, 6)
