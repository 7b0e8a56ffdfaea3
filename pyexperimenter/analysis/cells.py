"""What summaries, tests and figures have in common: the cells that the rows of a table fall into.

A cell is a combination of values of some keyfields. Rows of one cell may differ in what is averaged over, and in
nothing else: an average over a keyfield that nobody named would be a number without a meaning.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError, PyExperimenterError
from pyexperimenter.jsonable import to_json

Names = str | Sequence[str] | None
"""One column, several, or none."""

NULL = "–"
_SHOWN = 3  # cells, values or blocks that a message names before it says how many more there are


def listed(names: Names) -> list[str]:
    """Make a list of one name, several, or none.

    >>> listed("seed"), listed(("a", "b")), listed(None)
    (['seed'], ['a', 'b'], [])
    """
    return [names] if isinstance(names, str) else list(names or ())


def as_text(value: Any) -> str:
    """Return a value as people write it, in one line.

    >>> [as_text(value) for value in (10.0, 0.5, True, "rbf", None, float("nan"))]
    ['10', '0.5', 'True', 'rbf', '–', '–']
    """
    if pd.isna(value):
        return NULL
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(float(value))
    return " ".join(str(value).split())


def cell_name(names: Sequence[str], values: Sequence[Any]) -> str:
    """Return what a message calls a cell.

    >>> cell_name(["dataset", "C"], ["iris", 10.0])
    'dataset=iris, C=10'
    """
    return ", ".join(f"{name}={as_text(value)}" for name, value in zip(names, values, strict=True))


def some_of(texts: Iterable[str], separator: str = ", ") -> str:
    """Name a few and count the rest.

    >>> some_of("abcde")
    'a, b, c and 2 more'
    """
    texts = list(texts)
    rest = len(texts) - _SHOWN
    return separator.join(texts[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def warn(findings: Iterable[str]) -> None:
    """Tell all findings in one warning, as of the line outside this library that called it; none if there are none."""
    text = "\n".join(findings)
    if not text:
        return
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "pyexperimenter":
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UserWarning, stacklevel=level)


def optional_import(module: str, extra: str) -> Any:
    """Import a module that not every installation has.

    Parameters
    ----------
    module : str
        Its full name.
    extra : str
        The extra of this library that brings it.

    Raises
    ------
    PyExperimenterError
        If it is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PyExperimenterError(
            f"{module} is needed and cannot be imported ({error}); pip install pyexperimenter[{extra}]"
        ) from error


def keyfields_of(table: pd.DataFrame) -> list[str]:
    """Return the keyfields of a table of experiments: the columns between ``ID`` and ``creation_date``.

    Raises
    ------
    InvalidColumnError
        If it is no such table.
    """
    for name in ("ID", "creation_date", "status"):
        if name not in table.columns:
            raise InvalidColumnError(
                f"the table has no column {name!r}; hand in what get_table() returns "
                "(rows may be left out, columns of the library may not)"
            )
    names = [str(name) for name in table.columns]
    keyfields = names[names.index("ID") + 1 : names.index("creation_date")]
    if not keyfields:
        raise InvalidColumnError(
            "the table has no keyfields between its columns ID and creation_date; keep the order of get_table()"
        )
    return keyfields


def checked(
    table: pd.DataFrame, values: Sequence[str], keys: Sequence[str], over: Sequence[str], remedy: str
) -> pd.DataFrame:
    """Check that rows may be averaged cell by cell, and make their keyfields fit for grouping.

    Parameters
    ----------
    table : pandas.DataFrame
        As from `get_table`.
    values : sequence of str
        Columns that are averaged.
    keys : sequence of str
        Columns whose combinations are the cells.
    over : sequence of str
        Keyfields averaged over.
    remedy : str
        What to do with a keyfield that is not named.

    Returns
    -------
    pandas.DataFrame
        The same rows. Dicts and lists among the keys have become JSON texts; averaged columns are untouched.

    Raises
    ------
    InvalidColumnError
        If a column is not there, is named twice, or a keyfield named nowhere takes several values in a cell.
    InvalidValueError
        If there are no rows, or rows with equal keyfields.
    """
    keyfields = keyfields_of(table)
    named = [*values, *keys, *over]
    check_columns(table, named)
    for name in named:
        if named.count(name) > 1:
            raise InvalidColumnError(f"{name!r} is named twice; a column can have one role only")
    for name in over:
        if name not in keyfields:
            raise InvalidColumnError(f"over: {name!r} is no keyfield; keyfields are {', '.join(keyfields)}")
    if table.empty:
        raise InvalidValueError("the table has no rows; fill it, or check what was filtered out")
    table = table.reset_index(drop=True)
    table = table.assign(**{name: _hashable(table[name]) for name in {*keyfields, *keys}})
    _check_unique(table, keyfields)
    for name in keyfields:
        if name not in named:
            _check_constant(table, name, keys, remedy)
    return table


def check_columns(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Check that a table has some columns.

    Raises
    ------
    InvalidColumnError
        If one is not there.
    """
    for name in names:
        if name not in table.columns:
            raise InvalidColumnError(f"there is no column {name!r}; columns are {', '.join(map(str, table))}")


def _hashable(column: pd.Series[Any]) -> pd.Series[Any]:
    if column.dtype != object:
        return column
    return column.map(lambda value: to_json(value) if isinstance(value, dict | list) else value)


def _check_unique(table: pd.DataFrame, keyfields: list[str]) -> None:
    repeated = table.duplicated(keyfields)
    if repeated.any():
        raise InvalidValueError(
            f"{repeated.sum()} rows repeat the keyfields of another row, for example the one with ID "
            f"{table.loc[repeated, 'ID'].iloc[0]}, and would count twice; was the table merged or concatenated?"
        )


def _check_constant(table: pd.DataFrame, name: str, keys: Sequence[str], remedy: str) -> None:
    """Refuse a keyfield that takes several values in a cell; NULL is one of them."""
    if table[name].nunique(dropna=False) == 1:
        return  # the common case, and much faster than groups
    codes, cells = levels(table, keys)
    counts = table[name].groupby(codes).nunique(dropna=False)
    if counts.max() > 1:
        cell = int(counts.to_numpy().argmax())  # they are numbered from 0 on
        where = f" at {cell_name(keys, cells[cell])}" if keys else ""
        found = some_of(as_text(value) for value in table.loc[codes == cell, name].drop_duplicates())
        raise InvalidColumnError(
            f"keyfield {name!r} takes several values ({found}){where}; {remedy}, or keep rows with one of its values"
        )


def levels(table: pd.DataFrame, names: Sequence[str]) -> tuple[pd.Series[int], list[tuple[Any, ...]]]:
    """Number the combinations of values that occur in some columns.

    Parameters
    ----------
    table : pandas.DataFrame
        Any table.
    names : sequence of str
        Its columns; if there are none, all rows belong to one empty combination.

    Returns
    -------
    (pandas.Series of int, list of tuples)
        The number of each row's combination, and the combinations in sorted order, NULL last.
    """
    if not names:
        return pd.Series(0, index=table.index), [()]
    columns = table[list(names)]
    codes = columns.groupby(list(names), dropna=False, observed=True, sort=True).ngroup()
    _, firsts = np.unique(codes.to_numpy(), return_index=True)
    return codes, list(columns.iloc[firsts].itertuples(index=False, name=None))


def numbers(table: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return a column of numbers as floats, NaN for NULL. Booleans are 0 and 1.

    Raises
    ------
    InvalidColumnError
        If there is no such column.
    InvalidValueError
        If it does not hold numbers.
    """
    check_columns(table, [name])
    column = table[name]
    if not pd.api.types.is_numeric_dtype(column.dtype):  # of booleans it is true, of times it is not
        examples = some_of(repr(found) for found in column.dropna().iloc[: _SHOWN + 1])
        raise InvalidValueError(
            f"{name!r} is no column of numbers but of {column.dtype} ({examples or 'all NULL'}); "
            "take one of numbers or booleans"
        )
    return pd.Series(column.to_numpy(dtype=float, na_value=float("nan")), index=table.index, name=name)


def scores(table: pd.DataFrame, value: str) -> pd.Series[float]:
    """Return the `numbers` of a resultfield, NaN where the experiment is not done."""
    return numbers(table, value).where(table["status"] == "done")
