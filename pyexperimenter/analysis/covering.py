"""A few experiments in which every value of each keyfield occurs: what a smoke test runs first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyexperimenter.analysis.cells import SEED, cell_name, levels, some_of
from pyexperimenter.jsonable import whole_number


def covering(table: pd.DataFrame, keyfields: Sequence[str], strength: int = 1) -> pd.DataFrame:
    """Choose open experiments that together have all values, or pairs of values, which occur in the table.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments. Only those with the status ``created`` are chosen; what occurs in those that are done is covered.
        Of rows that cover as much, the first is chosen, so have the cheap ones first.
    keyfields : sequence of str
        Columns whose values are covered, NULL like any other. The column ``seed`` is not.
    strength : int
        1: each value occurs; 2: each pair of values of two keyfields that occurs together in some row.

    Returns
    -------
    pandas.DataFrame
        The chosen rows, as few as a greedy choice finds: each next row covers the most of what is not yet covered.

    Raises
    ------
    InvalidValueError
        If the strength is not 1 or 2.

    Notes
    -----
    The greedy choice is that of Cohen, Dalal, Fredman and Patton (1997), *The AETG system*, IEEE Transactions on
    Software Engineering 23(7), among all rows of the table.

    Examples
    --------
    >>> rows = itertools.product(["a", "b", "c"], [1, 2], [True, False])
    >>> table = pd.DataFrame(rows, columns=["method", "size", "scaled"]).assign(status="created")
    >>> covering(table, ["method", "size", "scaled"])[["method", "size", "scaled"]].values.tolist()
    [['a', 1, True], ['b', 2, False], ['c', 1, True]]
    """
    strength = whole_number("strength", strength, least=1, most=2)
    names = [name for name in keyfields if name != SEED]
    rows = table[table["status"].isin(["created", "done"])].reset_index(drop=True)
    codes = [_codes(rows[name]) for name in names] or [np.zeros(len(rows), dtype=int)]
    groups = itertools.combinations(codes, min(strength, len(codes)))
    occurring, offset = [], 0
    for group in groups:
        combined = group[0] if len(group) == 1 else pd.factorize(group[0] * (group[1].max(initial=0) + 1) + group[1])[0]
        occurring.append(combined + offset)
        offset += int(combined.max(initial=-1)) + 1
    is_open = (rows["status"] == "created").to_numpy()
    cells = np.column_stack(occurring)  # rows x (values or pairs)
    left = np.ones(offset, dtype=bool)
    left[cells[~is_open].ravel()] = False
    candidates = np.flatnonzero(is_open)
    candidates = candidates[np.sort(np.unique(cells[candidates], axis=0, return_index=True)[1])]  # one of equal rows
    chosen: list[int] = []
    while (gains := left[cells[candidates]].sum(axis=1)).any():
        chosen.append(int(candidates[gains.argmax()]))
        left[cells[chosen[-1]]] = False
    return rows.iloc[chosen]


def failures_by_value(table: pd.DataFrame, keyfields: Sequence[str]) -> str:
    """Say which values the failed ones among some experiments have in common, those that always fail first.

    Examples
    --------
    >>> table = pd.DataFrame({"method": ["a", "a", "b"], "size": [1, 2, 1], "status": ["done", "error", "done"]})
    >>> failures_by_value(table, ["method", "size"])
    'size=2 (1 of 1), method=a (1 of 2)'
    """
    found = []
    for name in keyfields:
        codes, labels = levels(table, [name])
        failed = (table["status"] != "done").groupby(codes).agg(["sum", "size"])
        found += [
            (n / of, f"{cell_name([name], label)} ({n} of {of})")
            for label, (n, of) in zip(labels, failed.to_numpy(), strict=True)
            if n
        ]
    return some_of(text for _, text in sorted(found, key=lambda each: -each[0]))


def _codes(column: pd.Series[Any]) -> Any:
    """Number the values of a column; NULL is one of them."""
    try:
        return pd.factorize(column, use_na_sentinel=False)[0]
    except TypeError:  # lists and dicts
        return pd.factorize(column.map(repr))[0]
