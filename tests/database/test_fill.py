from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

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
