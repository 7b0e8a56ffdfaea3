"""Values of keyfields: lists, ranges and samples become the declared type, lazily."""

import enum
from collections import deque
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.config import load_config
from pyexperimenter.config.model import ExecutionConfig
from pyexperimenter.durations import seconds
from pyexperimenter.exceptions import InvalidConfigError, InvalidRangeError


def values_of(type_, values):
    """Return the values that a keyfield has in the grid."""
    keyfields = {"a": {"type": type_, "values": values}}
    table = {"name": "t", "keyfields": keyfields}
    config = load_config({"PY_EXPERIMENTER": {"Database": {"provider": "sqlite", "database": "d", "table": table}}})
    return [row["a"] for row in config.table.grid]


@pytest.mark.parametrize(
    "type_, values, expected",
    [
        ("INT", [1, 2], [1, 2]),
        ("INT", 7, [7]),
        ("INT", ["1", 2.0, None], [1, 2, None]),
        ("INT", {"start": 0, "stop": 3}, [0, 1, 2]),
        ("INT", {"start": 3, "stop": 0, "step": -1}, [3, 2, 1]),
        ("INT", {"start": 0, "stop": 4, "step": 2, "inclusive": True}, [0, 2, 4]),
        ("INT", {"start": "0", "stop": "2.0", "step": 1.0}, [0, 1]),
        ("INT", {"start": 0, "stop": 10, "num": 3}, [0, 5, 10]),
        ("INT", {"start": 1, "stop": 11, "num": 3}, [1, 6, 11]),
        ("INT", {"start": 5, "stop": 5, "num": 1}, [5]),
        ("INT", {"start": 1, "stop": 1000, "num": 4, "scale": "log"}, [1, 10, 100, 1000]),
        ("INT", {"start": 1, "stop": 1024, "num": 11, "scale": "log"}, [2**n for n in range(11)]),
        ("BIGINT", {"start": 2**62, "stop": 2**62 + 2}, [2**62, 2**62 + 1]),
        ("DOUBLE", [0, "1e-3", 0.5], [0.0, 0.001, 0.5]),
        ("DOUBLE", {"start": 0, "stop": 3}, [0.0, 1.0, 2.0]),
        ("DOUBLE", {"start": 1, "stop": 1.5, "step": 0.1}, [1.0, 1.1, 1.2, 1.3, 1.4]),
        ("DOUBLE", {"start": 0, "stop": 1, "num": 5}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("DOUBLE", {"start": "1e-3", "stop": "1e3", "num": 3, "scale": "log"}, [0.001, 1.0, 1000.0]),
        ("DECIMAL(5,2)", {"start": 0, "stop": 0.5, "step": 0.25}, [0.0, 0.25]),
        ("DECIMAL(5,2)", {"start": 1, "stop": 2, "num": 4}, [1.0, 1.33, 1.67, 2.0]),
        ("VARCHAR(9)", ["a", 1, 0.5], ["a", "1", "0.5"]),
        ("VARCHAR(9)", "abc", ["abc"]),
        ("VARCHAR(9)", {"start": 0, "stop": 2}, ["0", "1"]),
        ("BOOL", [True, False], [True, False]),
        ("BOOL", {"start": 0, "stop": 2}, [False, True]),
        ("JSON", [{"depth": 3}, [1, 2]], [{"depth": 3}, [1, 2]]),
    ],
)
def test_values_have_the_declared_type(type_, values, expected):
    found = values_of(type_, values)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize(
    "type_, sample, kind",
    [
        ("DOUBLE", {"sample": "uniform", "low": 0, "high": 1}, float),
        ("DOUBLE", {"sample": "loguniform", "low": "1e-4", "high": 0.1}, float),
        ("DOUBLE", {"sample": "normal", "mean": 0, "std": 2}, float),
        ("DOUBLE", {"sample": "integers", "low": 0, "high": 9}, float),
        ("INT", {"sample": "integers", "low": 0, "high": 9}, int),
        ("VARCHAR(5)", {"sample": "integers", "low": 0, "high": 9}, str),
    ],
)
def test_samples_are_repeatable_and_have_the_declared_type(type_, sample, kind):
    first = values_of(type_, {**sample, "num": 4})
    assert len(set(first)) == 4
    assert {type(value) for value in first} == {kind}
    assert first == values_of(type_, {**sample, "num": 4, "seed": 0})
    assert first != values_of(type_, {**sample, "num": 4, "seed": 1})


@pytest.mark.parametrize(
    "type_, values",
    [
        ("DECIMAL(5,2)", {"start": 0, "stop": 1, "step": 0.001}),
        ("INT", {"start": 1, "stop": 1000, "num": 5, "scale": "log"}),
        ("INT", {"start": 1, "stop": 10**9, "num": 10**6, "scale": "log"}),
        ("BIGINT", {"start": 2**60, "stop": 2**62, "num": 100, "scale": "log"}),
        ("DATETIME", {"start": 0, "stop": 3}),
        ("VARCHAR(1)", {"start": 0, "stop": 11}),
        ("INT", {"start": 0, "stop": 3, "num": 0}),
        ("INT", [[1]]),
    ],
)
def test_values_that_do_not_fit(type_, values):
    with pytest.raises(InvalidConfigError, match=r"keyfields\.a\.values"):
        values_of(type_, values)


@given(
    start=st.integers(-(10**6), 10**6),
    length=st.integers(1, 200),
    step=st.integers(-1000, 1000).filter(bool),
)
def test_integer_ranges_are_those_of_python(start, length, step):
    stop = start + length * step
    assert values_of("INT", {"start": start, "stop": stop, "step": step}) == list(range(start, stop, step))


@given(
    digits=st.integers(0, 6),
    start=st.integers(-1000, 1000),
    step=st.integers(-1000, 1000).filter(bool),
    length=st.integers(1, 100),
)
def test_decimal_ranges_do_not_drift(digits, start, step, length):
    def number(units):
        return float(f"{units}e-{digits}")

    found = values_of("DOUBLE", {"start": number(start), "stop": number(start + length * step), "step": number(step)})
    assert found == [number(start + index * step) for index in range(length)]


def test_keyfields_without_values_are_null_and_may_be_included():
    table = {
        "name": "t",
        "keyfields": {"a": "INT", "b": {"type": "DOUBLE"}, "c": {"type": "INT", "values": 1}},
        "include": [{"a": "5", "b": 1}],
    }
    source = {"PY_EXPERIMENTER": {"Database": {"provider": "sqlite", "database": "d", "table": table}}}
    grid = load_config(source).table.grid
    assert list(grid) == [{"a": None, "b": None, "c": 1}, {"a": 5, "b": 1.0, "c": None}]
    # Only single rows: no additional row of NULLs.
    del table["keyfields"]["c"]
    table["include"].append({"b": 2})
    assert list(load_config(source).table.grid) == [{"a": 5, "b": 1.0}, {"a": None, "b": 2.0}]
    # No values at all: no grid; the table is filled by rows.
    del table["include"]
    assert load_config(source).table.grid is None
    table["exclude"] = [{"a": 1}]
    with pytest.raises(InvalidConfigError, match=r"table\.exclude: no keyfield has values"):
        load_config(source)


def test_conditions_compare_values_of_the_declared_type():
    table = {
        "name": "t",
        "keyfields": {
            "C": {"type": "DOUBLE", "values": ["1e-3", 1]},
            "flag": {"type": "BOOL", "values": [True, False]},
            "x": {"type": "INT", "values": [1, 2], "when": {"C": "0.001", "flag": "true"}},
            "y": {"type": "INT", "values": [7], "when": {"x": [None, 1]}},
        },
        "exclude": [{"C": 1, "flag": False}, {"x": None, "flag": True}],
    }
    grid = load_config(
        {"PY_EXPERIMENTER": {"Database": {"provider": "sqlite", "database": "d", "table": table}}}
    ).table.grid
    assert [tuple(row.values()) for row in grid] == [
        (0.001, True, 1, 7),
        (0.001, True, 2, None),
        (0.001, False, None, 7),
    ]


def test_a_numpy_like_array_in_a_dict():
    class Array:
        shape = (2,)

        def tolist(self):
            return [1, 2]

    assert values_of("INT", Array()) == [1, 2]


class Letter(enum.Enum):
    A = "a"
    B = "b"


@pytest.mark.parametrize(
    "type_, values, expected",
    [
        ("INT", range(3), [0, 1, 2]),
        ("INT", range(3, 0, -1), [3, 2, 1]),
        ("INT", np.arange(2), [0, 1]),
        ("INT", pd.Series([1, 2]), [1, 2]),
        ("INT", pd.Series([7]), [7]),
        ("INT", (1, 2), [1, 2]),
        ("INT", deque([1, 2]), [1, 2]),
        ("INT", map(int, "12"), [1, 2]),
        ("INT", (n * n for n in (1, 2)), [1, 4]),
        ("VARCHAR(9)", np.array(["abc"]), ["abc"]),
        ("VARCHAR(9)", pd.Index(["a", "b"]), ["a", "b"]),
        ("VARCHAR(9)", {"a": 1, "b": 2}.keys(), ["a", "b"]),
        ("VARCHAR(9)", Letter, ["a", "b"]),
        ("VARCHAR(9)", "abc", ["abc"]),
        ("VARCHAR(9)", Path("abc"), ["abc"]),
        ("VARCHAR(9)", [(28, 28), (64,)], ["[28,28]", "[64]"]),
        ("JSON", np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ("BLOB", b"abc", [b"abc"]),
    ],
)
def test_an_iterable_is_a_list_of_values(type_, values, expected):
    assert repr(values_of(type_, values)) == repr(expected)


@pytest.mark.parametrize("values", [{1, 2}, frozenset([1])])
@pytest.mark.parametrize("type_", ["INT", "TEXT"])
def test_a_set_has_no_order(type_, values):
    with pytest.raises(InvalidConfigError, match=r"keyfields\.a\.values: a set has no order; write a list"):
        values_of(type_, values)


def test_a_table_is_not_a_list_of_its_columns():
    with pytest.raises(InvalidConfigError, match="a DataFrame is not a string"):
        values_of("TEXT", pd.DataFrame({"x": [1]}))


@pytest.mark.parametrize("allowed", [(1, 2), {1, 2}, range(1, 3), np.array([1, 2]), pd.Series([1, 2]), iter([1, 2])])
def test_conditions_take_all_kinds_of_lists(allowed):
    seed = {"type": "INT", "values": range(4)}
    table = {"name": "t", "keyfields": {"seed": seed}, "exclude": [{"seed": allowed}]}
    config = load_config({"PY_EXPERIMENTER": {"Database": {"provider": "sqlite", "database": "d", "table": table}}})
    assert [row["seed"] for row in config.table.grid] == [0, 3]


def test_paths_may_be_path_objects(tmp_path):
    table = {"name": "t", "keyfields": {"a": "INT"}}
    database = {"provider": "sqlite", "database": tmp_path / "d", "table": table}
    config = load_config({"PY_EXPERIMENTER": {"Database": database, "Execution": {"journal": tmp_path}}})
    assert (config.database.database, config.execution.journal) == (str(tmp_path / "d.db"), str(tmp_path))


@pytest.mark.parametrize(
    "text, expected",
    [("60s", 60), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1.5 H", 5400), (90, 90), ("0.5", 0.5)],
)
def test_durations(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "h", "2x", "1h-5m", "-1", 0, True, None, "inf", "nan", "5 minutes"])
def test_invalid_durations(text):
    with pytest.raises(ValueError, match="is not a positive duration; write 60s"):
        seconds(text)


def test_error_class_of_a_range_is_its_own():
    with pytest.raises(InvalidRangeError):
        values_of("DOUBLE", {"start": 0, "stop": 1, "num": 1})


def test_defaults_and_least_values_may_be_written():
    table = {"name": "t", "keyfields": {"a": {"type": "INT", "values": 1}}}
    table |= {"zip": [["a"]], "requires": [{"resources": {"gpus": 0}}]}
    database = {"provider": "sqlite", "database": "d", "table": table}

    def load(**sections):
        return load_config({"PY_EXPERIMENTER": {"Database": database, **sections}})

    def execution(**options):
        return load(Execution=options).execution

    defaults = asdict(ExecutionConfig())
    written = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    assert execution(**written) == ExecutionConfig()
    assert execution(experiments_per_process=1, max_lost=1) == ExecutionConfig(experiments_per_process=1, max_lost=1)
    assert load(n_jobs=-1).n_jobs == -1
    assert execution(stop_after_errors=0).stop_after_errors == 0
    for share in (0.25, "0.25"):
        assert load(Analysis={"unit": "a", "resampling": {"test": share}}).analysis.test_share == 0.25
