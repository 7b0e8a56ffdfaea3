"""The experiments of a smoke test: all values or pairs that occur, in few rows."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.analysis.covering import covering, failures_by_value
from pyexperimenter.exceptions import InvalidValueError


def product(*sizes: int) -> tuple[pd.DataFrame, list[str]]:
    names = [f"k{index}" for index in range(len(sizes))]
    return pd.DataFrame(itertools.product(*map(range, sizes)), columns=names).assign(status="created"), names


def tuples(table: pd.DataFrame, names: list[str], strength: int) -> set[tuple[tuple[str, str], ...]]:
    rows = table[names].astype(str).to_dict("records")
    return {combination for row in rows for combination in itertools.combinations(row.items(), strength)}


@pytest.mark.parametrize(
    ("sizes", "optimum"),
    [((3,) * 4, 9), ((2,) * 10, 6), ((5, 4, 3, 2), 20), ((10, 10, 10), 100), ((4,) * 5, 16)],
)
def test_pairs_are_covered_by_few(sizes: tuple[int, ...], optimum: int) -> None:
    table, names = product(*sizes)
    chosen = covering(table, names, 2)
    assert tuples(chosen, names, 2) == tuples(table, names, 2)
    assert len(chosen) <= 1.5 * optimum
    assert len(covering(table, names)) == max(sizes)


ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([None, 1.5, 2.0]), st.integers(0, 3), st.booleans()), max_size=40
)


@given(ROWS, st.lists(st.sampled_from(["created", "done", "error"]), min_size=40, max_size=40), st.integers(1, 2))
def test_what_occurs_in_open_rows_is_covered_unless_it_is_done(rows, states, strength) -> None:
    names = ["a", "b", "c", "d"]
    table = pd.DataFrame(rows, columns=names).assign(status=states[: len(rows)])
    chosen = covering(table, names, strength)
    done, is_open = (tuples(table[table["status"] == state], names, strength) for state in ("done", "created"))
    assert tuples(chosen, names, strength) | done >= is_open
    assert (chosen["status"] == "created").all()
    assert not set(chosen.index) & set(chosen.index[chosen.index.duplicated()])
    if is_open <= done:
        assert chosen.empty


def test_the_first_of_equal_rows_is_chosen_and_no_seed_is_covered() -> None:
    table = pd.DataFrame({"method": ["a"] * 3, "seed": [7, 8, 9], "status": "created"})
    assert covering(table, ["method", "seed"])["seed"].tolist() == [7]
    assert covering(table[::-1], ["method", "seed"])["seed"].tolist() == [9]


def test_keyfields_of_json_are_values_too() -> None:
    table = pd.DataFrame({"layers": [[1], [1, 2], [1]], "status": "created"})
    for strength in (1, 2):
        assert covering(table, ["layers"], strength)["layers"].tolist() == [[1], [1, 2]]


def test_a_table_without_open_rows_or_keyfields() -> None:
    table, names = product(2, 2)
    assert covering(table.assign(status="running"), names, 2).empty
    assert covering(table[:0], names).empty
    assert covering(table, [], 2).index.tolist() == [0]  # one experiment, to see that it works


def test_strengths_that_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="strength: 3 is not"):
        covering(*product(2), 3)  # type: ignore[arg-type]


def test_what_always_fails_is_named_first() -> None:
    table, names = product(2, 2)
    table["status"] = ["done", "error", "done", "error"]
    assert failures_by_value(table, names).startswith("k1=1 (2 of 2), k0=0 (1 of 2)")
