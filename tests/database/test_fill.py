from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pyexperimenter.database import store as store_module
from pyexperimenter.database.connection import Cursor
from pyexperimenter.exceptions import (
    EmptyFillDatabaseCallError,
    InvalidConfigError,
    InvalidRowError,
    ParameterCombinationError,
)
from tests.support.study import experimenter, store, study
from tests.support.target import Target

ROWS = [("iris", 0), ("iris", 1), ("iris", 2), ("wine", 0), ("wine", 1), ("wine", 2)]


def rows_of(target: Target) -> list[tuple[object, ...]]:
    return target.query("SELECT dataset, seed FROM study ORDER BY ID")


def test_fill_from_config_adds_the_grid_in_its_order_and_once(target: Target) -> None:
    study_ = experimenter(target)
    assert study_.fill_table_from_config() == (6, 0)
    assert study_.fill_table_from_config() == (0, 6)
    assert rows_of(target) == ROWS
    statuses = target.query("SELECT status, COUNT(creation_date) FROM study GROUP BY status")
    assert statuses == [("created", 6)]


def test_fill_adds_only_what_is_missing(target: Target) -> None:
    study_ = experimenter(target)
    study_.fill_table_with_rows([{"dataset": "wine", "seed": 1}])
    assert study_.fill_table_from_config() == (5, 1)
    assert sorted(rows_of(target)) == ROWS


def test_a_refill_spends_no_ids_on_sqlite(sqlite_target: Target) -> None:
    study_ = experimenter(sqlite_target)
    for _ in range(3):
        study_.fill_table_from_config()
    study_.fill_table_with_rows([{"dataset": "new", "seed": 9}])
    assert sqlite_target.query("SELECT MAX(ID) FROM study") == [(7,)]


def test_fill_with_rows_leaves_keyfields_out_as_null(target: Target) -> None:
    study_ = experimenter(target)
    assert study_.fill_table_with_rows([{"dataset": "a"}, {"dataset": "a", "seed": None}, {"seed": 1}]) == (2, 1)
    assert rows_of(target) == [("a", None), (None, 1)]


def test_a_float32_is_the_experiment_whose_digits_it_shows(target: Target) -> None:
    keyfields = {"rate": {"type": "DOUBLE", "values": np.array([0.1, 0.3], dtype="float32")}, "seed": "INT"}
    study_ = experimenter(target, study(target, keyfields=keyfields))
    assert study_.fill_table_with_rows([{"rate": 0.1}, {"rate": 0.3}]) == (2, 0)
    assert study_.fill_table_from_config() == (0, 2)
    assert study_.fill_table_with_rows(pd.DataFrame({"rate": np.array([0.1, 0.3], dtype="float32")})) == (0, 2)
    rates = [np.float32(0.1), np.float32(0.3)]
    assert study_.fill_table_with_rows([{"rate": rate} for rate in rates]) == (0, 2)
    assert study_.fill_table_from_combination(parameters={"rate": rates, "seed": [None]}) == (0, 2)
    assert study_.get_table(where={"rate": np.float32(0.1)})["rate"].tolist() == [0.1]


def test_an_address_is_never_part_of_an_experiment(sqlite_target: Target) -> None:
    study_ = experimenter(sqlite_target)
    with pytest.raises(InvalidRowError, match=r"row 0: dataset: <object object at 0x.*contains an address in memory"):
        study_.fill_table_with_rows([{"dataset": object(), "seed": 0}])
    keyfields = {"dataset": {"type": "TEXT", "values": ["iris", object()]}}
    with pytest.raises(
        InvalidConfigError, match=r"keyfields\.dataset\.values\[1\]: <object object.* an address in memory"
    ):
        experimenter(sqlite_target, study(sqlite_target, keyfields=keyfields))


def test_objects_in_a_config_do_not_make_it_another(sqlite_target: Target) -> None:
    for model in (object(), object()):
        custom = {"model": model, "weights": np.zeros(10_000)}
        experimenter(sqlite_target, study(sqlite_target, Custom=custom)).fill_table_from_config()
    assert sqlite_target.query("SELECT COUNT(*), MAX(LENGTH(config)) < 1000 FROM study__meta") == [(1, 1)]


def test_fill_with_a_data_frame(target: Target) -> None:
    frame = pd.DataFrame({"dataset": ["iris", None], "seed": pd.array([1, None], dtype="Int64")})
    frame.loc[1, "dataset"] = "wine"
    assert experimenter(target).fill_table_with_rows(frame) == (2, 0)
    assert rows_of(target) == [("iris", 1), ("wine", None)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"dataset": "b", "seed": "many"}, r"row 2: seed: 'many' is not an integer"),
        ({"dataset": "b" * 51, "seed": 1}, r"row 2: dataset: 'b+' has 51 characters, but VARCHAR\(50\) stores 50"),
        ({"dataset": "b", "sed": 1}, r"row 2: 'sed' is not a keyfield; choose from dataset, seed"),
        ({}, r"row 2: it has no keyfields"),
    ],
)
def test_a_bad_row_is_refused_before_anything_is_written(target: Target, bad: dict[str, object], message: str) -> None:
    study_ = experimenter(target)
    study_.fill_table_from_config()
    good = [{"dataset": "new", "seed": seed} for seed in range(2)]
    with pytest.raises(InvalidRowError, match=message):
        study_.fill_table_with_rows([*good, bad])
    assert rows_of(target) == ROWS


def test_fill_without_rows_is_refused(target: Target) -> None:
    with pytest.raises(EmptyFillDatabaseCallError, match="give at least one"):
        experimenter(target).fill_table_with_rows([])
    with pytest.raises(EmptyFillDatabaseCallError, match="give at least one of them"):
        experimenter(target).fill_table_from_combination()


def test_fill_crosses_fixed_combinations_with_domains(target: Target) -> None:
    study_ = experimenter(target)
    count = study_.fill_table_from_combination([{"dataset": "iris"}, {"dataset": "wine"}], {"seed": [0, 1, 2]})
    assert count == (6, 0)
    assert rows_of(target) == ROWS
    assert study_.fill_table_from_combination(parameters={"dataset": ["iris"], "seed": range(4)}) == (1, 3)
    assert study_.fill_table_from_combination([{"dataset": "x", "seed": 7}]) == (1, 0)


@pytest.mark.parametrize(
    ("datasets", "seeds"),
    [
        (np.array(["iris"]), np.arange(2)),
        (pd.Series(["iris"]), pd.Series([0, 1])),
        (("iris",), (seed for seed in (0, 1))),
        ("iris", {0: "a", 1: "b"}.keys()),
    ],
)
def test_parameters_are_any_iterables(sqlite_target: Target, datasets: object, seeds: object) -> None:
    study_ = experimenter(sqlite_target)
    assert study_.fill_table_from_combination(parameters={"dataset": datasets, "seed": seeds}) == (2, 0)
    assert rows_of(sqlite_target) == ROWS[:2]


@pytest.mark.parametrize("frame", [True, False])
def test_rows_and_combinations_are_any_iterables(sqlite_target: Target, frame: bool) -> None:
    study_ = experimenter(sqlite_target)
    rows = pd.DataFrame(ROWS, columns=["dataset", "seed"])
    datasets = rows[["dataset"]].drop_duplicates()
    if frame:
        assert study_.fill_table_with_rows(rows) == (6, 0)
        assert study_.fill_table_from_combination(datasets, {"seed": range(3)}) == (0, 6)
        assert study_.fill_table_from_combination(parameters=rows[:1]) == (0, 1)
    else:
        assert study_.fill_table_with_rows(row for _, row in rows.iterrows()) == (6, 0)
        combinations = (row for _, row in datasets.iterrows())
        assert study_.fill_table_from_combination(combinations, {"seed": range(3)}) == (0, 6)
    assert rows_of(sqlite_target) == ROWS


def test_a_row_is_a_mapping(sqlite_target: Target) -> None:
    study_ = experimenter(sqlite_target)
    with pytest.raises(InvalidRowError, match=r"row 0: \('iris', 0\) is not a mapping of keyfields to values"):
        study_.fill_table_with_rows(ROWS)
    with pytest.raises(InvalidRowError, match="row 0: 'dataset' is not a mapping of keyfields to values"):
        study_.fill_table_with_rows({"dataset": "iris", "seed": 1})
    with pytest.raises(ParameterCombinationError, match="combination 0: 'dataset' is not a mapping"):
        study_.fill_table_from_combination({"dataset": "iris"}, {"seed": [0]})
    with pytest.raises(ParameterCombinationError, match=r"parameters\['seed'\]: a set has no order; give a list"):
        study_.fill_table_from_combination([{"dataset": "iris"}], {"seed": {0, 1}})


@pytest.mark.parametrize(
    ("combinations", "parameters", "message"),
    [
        ([{"dataset": "iris"}], {}, "combination 0: missing: seed"),
        ([{"dataset": "iris", "seed": 1}], {"seed": [1]}, "combination 0: given twice: seed"),
        ([{"dataset": "iris"}], {"sed": [1]}, "combination 0: not a keyfield: sed"),
        ([{"dataset": "iris"}], {"seed": [1, "x"]}, r"parameters\['seed'\]\[1\]: seed: 'x' is not an integer"),
    ],
)
def test_combinations_that_make_no_rows_are_refused(
    sqlite_target: Target, combinations: list[dict[str, object]], parameters: dict[str, list[object]], message: str
) -> None:
    study_ = experimenter(sqlite_target)
    study_.create_table()
    with pytest.raises(ParameterCombinationError, match=message):
        study_.fill_table_from_combination(combinations, parameters)
    assert rows_of(sqlite_target) == []


def test_a_config_without_values_says_how_to_fill(sqlite_target: Target) -> None:
    study_ = experimenter(sqlite_target, study(sqlite_target, keyfields={"seed": "INT"}))
    with pytest.raises(ParameterCombinationError, match="gives no values for the keyfields"):
        study_.fill_table_from_config()


def test_filling_streams(sqlite_target: Target) -> None:
    """A fill streams its rows: the last is generated only after the first were written."""
    opened = store(sqlite_target)

    def rows() -> object:
        for seed in range(30_000):
            if seed == 25_000:
                assert sqlite_target.query("SELECT COUNT(*) FROM study") == [(20_006,)]
            yield ("streamed", seed)

    assert opened.fill(rows()) == (30_000, 0)


TYPES = {"text": "LONGTEXT", "whole": "BIGINT", "real": "DOUBLE", "flag": "BOOL", "moment": "DATETIME", "data": "BLOB"}
TEXTS = [
    *(
        "",
        " ",
        "a",
        "A",
        "a ",
        "\t",
        "a\tb",
        "\n",
        "\r\n",
        "\\",
        "\\N",
        "\\.",
        "\\t",
        "'",
        '"',
        "`",
        "%",
        "%s",
        "%(text)s",
    ),
    *("?", ":row", "{}", "{created}", ";", "--", "NULL", "(1), (2", "ä", "🎲", "x" * 300_000),
]
VALUES: dict[str, list[Any]] = {
    "text": TEXTS,
    "whole": [0, -1, 2**63 - 1, -(2**63)],
    "real": [0.0, 1.0, 0.1, 1e22, -1.7976931348623157e308, 5e-324],
    "flag": [True, False],
    "moment": [pd.Timestamp(2026, 1, 2), pd.Timestamp(1999, 12, 31, 23, 59, 59, 123456)],
    "data": [b"", b"\0\xff", b"\\x41", b"'"],
}
ROWS_OF_ALL_KINDS = [
    *({name: value} for name, values in VALUES.items() for value in values),
    {"text": None},
    {"text": "a", "whole": 1, "real": 0.5, "flag": True, "moment": pd.Timestamp(2026, 1, 2), "data": b"a"},
]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_CHUNK", 5)


def every_kind(target: Target) -> Any:
    keyfields = {name: {"type": declared} for name, declared in TYPES.items()}
    return experimenter(target, study(target, keyfields=keyfields))


@pytest.mark.usefixtures("small_chunks")
def test_values_of_every_kind_are_filled_in_once_as_they_are(target: Target) -> None:
    study_, rows = every_kind(target), ROWS_OF_ALL_KINDS
    some = rows[1::3]
    assert study_.fill_table_with_rows(some) == (len(some), 0)
    assert study_.fill_table_with_rows(rows) == (len(rows) - len(some), len(some))
    for _ in range(2):
        assert study_.fill_table_with_rows([*rows, *rows]) == (0, 2 * len(rows))
    table = study_.get_table(columns=list(TYPES)).astype(object)
    found = table.where(table.notna(), None).to_dict("records")
    assert sorted(map(str, found)) == sorted(str({**dict.fromkeys(TYPES), **row}) for row in rows)


def test_the_way_of_a_fill_follows_from_what_is_there(
    target: Target, monkeypatch: pytest.MonkeyPatch, small_chunks: None
) -> None:
    """New rows are copied where that is possible; if some exist, the next chunk goes through a temporary table."""
    ways: list[str] = []

    def note(method: str) -> None:
        original = getattr(Cursor, method)

        def noted(self: Cursor, sql: str, rows: Sequence[Any]) -> int:
            ways.append(f"{method} {'aside' if 'aside' in sql else 'directly'}")
            return int(original(self, sql, rows))

        monkeypatch.setattr(Cursor, method, noted)

    note("copy")
    note("run_many")
    study_ = experimenter(target)
    rows = [{"dataset": "a", "seed": seed} for seed in range(15)]
    assert study_.fill_table_with_rows(rows) == (15, 0)
    first, ways[:] = ways[:], []
    assert study_.fill_table_with_rows(rows) == (0, 15)
    expected = {
        "sqlite": ["run_many directly"] * 3,
        "mysql": ["run_many directly", "run_many aside", "run_many aside"],
        "postgresql": ["copy directly", "run_many directly", "copy aside", "copy aside"],
    }
    assert first == ["copy directly" if target.provider == "postgresql" else "run_many directly"] * 3
    assert ways == expected[target.provider]
    assert study_.fill_table_with_rows([*rows, {"dataset": "new", "seed": 1}]) == (1, 15)
    assert study_.counts()["created"] == 16


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("target", ["mariadb", "postgresql", "mysql"], indirect=True)
def test_a_refill_needs_no_temporary_tables(target: Target) -> None:
    """Users may not be allowed to create them."""
    assert target.server is not None and target.credentials_file is not None
    user = f"filler_{uuid.uuid4().hex[:8]}"
    every_kind(target).create_table()
    if target.provider == "postgresql":
        target.query(f'REVOKE TEMPORARY ON DATABASE "{target.database}" FROM PUBLIC')
        target.query(f"CREATE USER {user} PASSWORD 'secret'")
        target.query(f"GRANT SELECT, INSERT ON study, study__attempts, study__meta TO {user}")
    else:
        target.query(f"CREATE USER {user}@'%' IDENTIFIED BY 'secret'")
        target.query(f"GRANT SELECT, INSERT, UPDATE ON `{target.database}`.* TO {user}@'%'")
    try:
        given = yaml.safe_load(target.credentials_file.read_text())
        given["CREDENTIALS"]["Database"] = {"user": user, "password": "secret"}
        target.credentials_file.write_text(yaml.safe_dump(given))
        rows = ROWS_OF_ALL_KINDS
        for counts in ((len(rows), 0), (0, len(rows)), (0, len(rows))):
            assert every_kind(target).fill_table_with_rows(rows) == counts
    finally:
        if target.provider == "postgresql":
            target.query(f"DROP OWNED BY {user}")
            target.query(f"DROP USER {user}")
        else:
            target.query(f"DROP USER {user}@'%'")


def test_a_configuration_is_kept_unless_it_is_the_last(target: Target) -> None:
    first, second = store(target), store(target, filled=False, n_jobs=2)
    for opened in (first, second, second):
        opened.keep_config("1")
    assert target.query("SELECT COUNT(*) FROM study__meta") == [(2,)]
