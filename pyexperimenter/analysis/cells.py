"""What summaries, tests and figures share: the grouping of the rows of a table into cells.

A cell is a combination of values of some keyfields. The rows of a cell may differ only in the keyfields that are
averaged over: an average over a keyfield that was not named would be meaningless.
"""

from __future__ import annotations

import importlib
import math
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
SEED = "seed"
"""The keyfield that repeats a run, unless another one is named."""

_SHOWN = 3  # the cells, values or blocks that a message lists before it counts the rest


def listed(names: Names) -> list[str]:
    """Return one name, several, or none as a list.

    >>> listed("seed"), listed(("a", "b")), listed(None)
    (['seed'], ['a', 'b'], [])
    """
    return [names] if isinstance(names, str) else list(names or ())


def as_text(value: Any) -> str:
    """Format a value for readers, on one line.

    >>> [as_text(value) for value in (10.0, 0.5, True, "rbf", None, float("nan"))]
    ['10', '0.5', 'True', 'rbf', '–', '–']
    """
    if pd.isna(value):
        return NULL
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(float(value))
    return " ".join(str(value).split())


def decimals_for(spread: float, center: float = 0.0) -> int | None:
    """Return the number of decimal places that show two significant digits of a spread.

    Returns
    -------
    int or None
        None if the spread says nothing: if it is 0, a rounding error of the center, infinite or NaN.

    Examples
    --------
    >>> [decimals_for(spread) for spread in (3.2e-5, 0.0996, 0.0994, 4.2, 120, 0, float("inf"))]
    [6, 2, 3, 1, 0, None, None]
    """
    if not 1e-9 * abs(center) < spread < math.inf:
        return None
    return max(0, 1 - int(f"{spread:.1e}".partition("e")[2]))


def cell_name(names: Sequence[str], values: Sequence[Any]) -> str:
    """Format a cell for a message.

    >>> cell_name(["dataset", "C"], ["iris", 10.0])
    'dataset=iris, C=10'
    """
    return ", ".join(f"{name}={as_text(value)}" for name, value in zip(names, values, strict=True))


def some_of(texts: Iterable[str], separator: str = ", ") -> str:
    """List a few and count the rest.

    >>> some_of("abcde")
    'a, b, c and 2 more'
    """
    texts = list(texts)
    rest = len(texts) - _SHOWN
    return separator.join(texts[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def warn(findings: Iterable[str]) -> None:
    """Issue one warning with all findings, if any, at the line outside this library that called it."""
    text = "\n".join(findings)
    if not text:
        return
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "pyexperimenter":
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UserWarning, stacklevel=level)


def optional_import(module: str, extra: str) -> Any:
    """Import a module of an optional dependency.

    Parameters
    ----------
    module : str
        Its full name.
    extra : str
        The extra of this library that installs it.

    Raises
    ------
    PyExperimenterError
        If it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PyExperimenterError(
            f"{module} is needed but cannot be imported ({error}); pip install 'pyexperimenter[{extra}]'"
        ) from error


def keyfields_of(table: pd.DataFrame) -> list[str]:
    """Return the keyfields of a table of experiments: the columns between ``ID`` and ``creation_date``.

    Raises
    ------
    InvalidColumnError
        If it is not such a table.
    """
    for name in ("ID", "creation_date", "status"):
        if name not in table.columns:
            raise InvalidColumnError(
                f"the table has no column {name!r}; pass the table that get_table() returns "
                "(you may drop rows, but not the columns of the library)"
            )
    names = [str(name) for name in table.columns]
    keyfields = names[names.index("ID") + 1 : names.index("creation_date")]
    if not keyfields:
        raise InvalidColumnError(
            "the table has no keyfields between its columns ID and creation_date; keep the columns in the order of "
            "get_table()"
        )
    return keyfields


def checked(
    table: pd.DataFrame, values: Sequence[str], keys: Sequence[str], over: Sequence[str], remedy: str
) -> pd.DataFrame:
    """Check that the rows of each cell may be averaged, and make their keyfields groupable.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by `get_table`.
    values : sequence of str
        Columns to average.
    keys : sequence of str
        Columns whose combinations are the cells.
    over : sequence of str
        Keyfields to average over.
    remedy : str
        What to do about a keyfield that is not named.

    Returns
    -------
    pandas.DataFrame
        The same rows. Dicts and lists in keyfields and keys are replaced by JSON; the columns to average are
        unchanged.

    Raises
    ------
    InvalidColumnError
        If a column does not exist or is named twice, or if a keyfield that is not named varies within a cell.
    InvalidValueError
        If there are no rows, or several with the same keyfields.
    """
    keyfields = keyfields_of(table)
    named = [*values, *keys, *over]
    check_columns(table, named)
    for name in named:
        if named.count(name) > 1:
            raise InvalidColumnError(f"{name!r} is named twice; a column can have one role only")
    for name in over:
        if name not in keyfields:
            raise InvalidColumnError(f"over: {name!r} is not a keyfield; choose from {', '.join(keyfields)}")
    if table.empty:
        raise InvalidValueError("the table has no rows; fill it, or check your filters")
    table = table.reset_index(drop=True)
    table = table.assign(**{name: _hashable(table[name]) for name in {*keyfields, *keys}})
    _check_unique(table, keyfields)
    for name in keyfields:
        if name not in named:
            _check_constant(table, name, keys, remedy)
    return table


def averaged_over(table: pd.DataFrame, over: Names, keys: Sequence[str]) -> list[str]:
    """Return the keyfields to average over: ``seed``, the default, only if there is one that has no other role."""
    return [name for name in listed(over) if name != SEED or (name in keyfields_of(table) and name not in keys)]


def check_columns(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Check that a table has the given columns.

    Raises
    ------
    InvalidColumnError
        If it lacks one.
    """
    for name in names:
        if name not in table.columns:
            raise InvalidColumnError(f"the table has no column {name!r}; choose from {', '.join(map(str, table))}")


def _hashable(column: pd.Series[Any]) -> pd.Series[Any]:
    if column.dtype != object:
        return column
    return column.map(lambda value: to_json(value) if isinstance(value, dict | list) else value)


def _check_unique(table: pd.DataFrame, keyfields: list[str]) -> None:
    repeated = table.duplicated(keyfields)
    if repeated.any():
        raise InvalidValueError(
            f"rows repeat the keyfields of other rows and would count twice ({repeated.sum()} in total, such as the "
            f"one with ID {table.loc[repeated, 'ID'].iloc[0]}); did you merge or concatenate tables?"
        )


def _check_constant(table: pd.DataFrame, name: str, keys: Sequence[str], remedy: str) -> None:
    """Raise an error if a keyfield varies within a cell; NULL counts as a value."""
    if table[name].nunique(dropna=False) == 1:
        return  # the common case, checked without slow groups
    codes, cells = levels(table, keys)
    counts = table[name].groupby(codes).nunique(dropna=False)
    if counts.max() > 1:
        cell = int(counts.to_numpy().argmax())  # cells are numbered from 0
        where = f" at {cell_name(keys, cells[cell])}" if keys else ""
        found = some_of(as_text(value) for value in table.loc[codes == cell, name].drop_duplicates())
        raise InvalidColumnError(
            f"keyfield {name!r} has several values ({found}){where}; {remedy}, or keep only rows with one of its values"
        )


def levels(table: pd.DataFrame, names: Sequence[str]) -> tuple[pd.Series[int], list[tuple[Any, ...]]]:
    """Number the combinations of values in the given columns.

    Parameters
    ----------
    table : pandas.DataFrame
        Any table.
    names : sequence of str
        Its columns. Without any, all rows belong to one empty combination.

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
        If the column does not exist.
    InvalidValueError
        If it is not numeric.
    """
    check_columns(table, [name])
    column = table[name]
    if not pd.api.types.is_numeric_dtype(column.dtype):  # true for booleans, false for times
        examples = some_of(repr(found) for found in column.dropna().iloc[: _SHOWN + 1])
        raise InvalidValueError(
            f"column {name!r} is not numeric but {column.dtype} ({examples or 'all NULL'}); "
            "choose a column of numbers or booleans"
        )
    return pd.Series(column.to_numpy(dtype=float, na_value=float("nan")), index=table.index, name=name)
