"""Rows of the database, converted to DataFrames with the types of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pyexperimenter.database.values import decode
from pyexperimenter.exceptions import UndecodableValueError
from pyexperimenter.fieldtypes import FieldType, Kind

if TYPE_CHECKING:
    import pandas as pd


def to_frame(columns: Sequence[str], rows: Sequence[tuple[Any, ...]], types: Mapping[str, FieldType]) -> pd.DataFrame:
    """Convert rows of a table to a DataFrame.

    Parameters
    ----------
    columns : sequence of str
        Names of the columns, as returned by the database.
    rows : sequence of tuples
        Column values.
    types : Mapping of str to FieldType
        Declared types, in the order that the columns should have. Other columns come last, unchanged.

    Returns
    -------
    pandas.DataFrame
        Integers as ``Int64`` and booleans as ``boolean`` (both nullable), real numbers as ``float64``, times as
        ``datetime64``, JSON as Python objects, and text as pandas strings. ``ID`` and ``experiment_id`` are never
        NULL and therefore ``int64``.
    """
    import pandas as pd

    # Column by column, since converting all rows at once would keep two copies of them in memory.
    values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    by_name = dict(zip(columns, values, strict=True))
    order = [name for name in types if name in by_name] + [name for name in columns if name not in types]
    return pd.DataFrame({name: _series(name, by_name[name], types.get(name)) for name in order}, columns=order)


def read_frame(rows: Callable[..., Any], types: Mapping[str, FieldType]) -> pd.DataFrame:
    """Read rows into a DataFrame: the same as `to_frame`, but the rows are never in memory all together.

    Parameters
    ----------
    rows : callable
        Reads them. Its argument ``take`` is called with the names of the columns and the rows in parts, and it returns
        what this returns. It is called again if a column has values of other types than usual, such as texts in a
        column of numbers, to get that column as it is.
    types : Mapping of str to FieldType
        As of `to_frame`.
    """
    unusual: set[str] = set()
    while True:
        known = len(unusual)
        frame: pd.DataFrame = rows(take=partial(_joined, types=types, as_they_are={*unusual}, unusual=unusual))
        if len(unusual) == known:
            return frame


def _joined(
    columns: Sequence[str],
    parts: Iterable[Sequence[tuple[Any, ...]]],
    types: Mapping[str, FieldType],
    as_they_are: set[str],
    unusual: set[str],
) -> pd.DataFrame:
    """Return a DataFrame of rows, and note in `unusual` which columns of it are not valid."""
    import pandas as pd

    untyped = {name for name in columns if name not in types or name in as_they_are}
    pieces: dict[str, list[Any]] = {name: [] for name in columns}
    for column_values in _together(columns, parts):
        for name, values in column_values.items():
            if name in untyped:
                pieces[name] += values
            elif name not in unusual:
                try:
                    pieces[name].append(_piece(name, values, types[name]))
                except _UNFIT:
                    unusual.add(name)
                    pieces[name].clear()
    order = [name for name in types if name in pieces] + [name for name in columns if name not in types]
    joined = {
        name: _series(name, pieces.pop(name), types.get(name))
        if name in untyped
        else _concatenated(name, pieces.pop(name), types[name])
        for name in order
    }
    return pd.DataFrame(joined, columns=order, copy=False)


def _together(columns: Sequence[str], parts: Iterable[Sequence[tuple[Any, ...]]]) -> Iterator[dict[str, list[Any]]]:
    """Yield the values of all columns, of so many rows that it is worth converting them."""
    gathered: dict[str, list[Any]] = {name: [] for name in columns}
    count = 0
    for part in parts:
        for values, more in zip(gathered.values(), zip(*part, strict=True), strict=True):
            values += more
        count += len(part)
        if count >= _CONVERTED_AT_ONCE:
            yield gathered
            gathered, count = {name: [] for name in columns}, 0
    yield gathered


def _piece(name: str, values: Sequence[Any], field: FieldType) -> pd.Series[Any] | int:
    """Return a part of a column; if all is NULL, only how much."""
    kinds = {*map(type, values)} - {type(None)}
    if not kinds:
        return len(values)
    usual = _USUAL.get(field.kind)
    if usual is not None and not kinds <= usual:
        raise ValueError(name)
    make: Callable[[Sequence[Any]], pd.Series[Any]] | None = _MAKERS.get(field.kind)
    if field.kind is Kind.INTEGER:
        return _integers(values, nullable=name not in _NEVER_NULL)
    if make and field.kind in (Kind.DATETIME, Kind.TEXT):
        return _repeated(values, make)
    return make(values) if make else _objects([decode(name, field, value) for value in values])


def _concatenated(name: str, pieces: Sequence[pd.Series[Any] | int], field: FieldType) -> pd.Series[Any]:
    import pandas as pd

    typed = next((piece for piece in pieces if not isinstance(piece, int)), None)
    if typed is None:
        return _series(name, [None] * sum(piece for piece in pieces if isinstance(piece, int)), field)
    parts = [_objects([None] * piece).astype(typed.dtype) if isinstance(piece, int) else piece for piece in pieces]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else typed


def _series(name: str, values: Sequence[Any], field: FieldType | None) -> pd.Series[Any]:
    import pandas as pd

    if field is None:
        return _objects(values).infer_objects()
    if name in _NEVER_NULL:
        return pd.Series(values, dtype="int64")
    make: Callable[[Sequence[Any]], pd.Series[Any]] | None = _MAKERS.get(field.kind)
    with suppress(ValueError, TypeError, OverflowError):
        if make:
            return make(values)
    try:
        plain = [decode(name, field, value) for value in values]
        return make(plain) if make else _objects(plain)
    except _UNFIT:
        return _objects(values)  # edited by hand to something else: shown as it is


def _integers(values: Sequence[Any], nullable: bool) -> pd.Series[Any]:
    """Return a series of integers and None, faster than pandas does."""
    import numpy as np
    import pandas as pd

    mask = np.fromiter((value is None for value in values), bool, len(values)) if None in values else None
    data = np.array(values if mask is None else [value or 0 for value in values], np.int64)
    if not nullable:
        if mask is not None:
            raise ValueError("an ID is NULL")
        return pd.Series(data)
    return pd.Series(pd.arrays.IntegerArray(data, np.zeros(len(data), bool) if mask is None else mask))


def _repeated(values: Sequence[Any], make: Callable[[Sequence[Any]], pd.Series[Any]]) -> pd.Series[Any]:
    """Return what `make` does, which is called with each value once if they are few."""
    import numpy as np

    distinct = {value: place for place, value in enumerate(dict.fromkeys(values))}
    if len(distinct) > len(values) / 4:
        return make(values)
    places = np.fromiter(map(distinct.__getitem__, values), np.intp, len(values))
    return make(list(distinct)).take(places).reset_index(drop=True)


def _objects(values: Sequence[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(values, dtype=object)


def _texts(values: Sequence[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(values, dtype=str if any(value is not None for value in values) else object)


def _typed(dtype: str) -> Callable[[Sequence[Any]], pd.Series[Any]]:
    def make(values: Sequence[Any]) -> pd.Series[Any]:
        series: Any = _objects(values)
        return cast("pd.Series[Any]", series.astype(dtype))

    return make


def _datetimes(values: Sequence[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(pd.to_datetime(pd.Series(values, dtype=object), format="ISO8601")).astype("datetime64[us]")


_MAKERS: dict[Kind, Callable[[Sequence[Any]], Any]] = {
    Kind.INTEGER: _typed("Int64"),
    Kind.BOOLEAN: _typed("boolean"),
    Kind.REAL: _typed("float64"),
    Kind.DATETIME: _datetimes,
    Kind.TEXT: _texts,
}
_NEVER_NULL = ("ID", "experiment_id")
_UNFIT = (ValueError, TypeError, OverflowError, UndecodableValueError)
# What databases have for each kind, unless it was edited by hand. Parts of a column with these types become what the
# whole column does.
_USUAL: dict[Kind, set[type]] = {
    Kind.INTEGER: {int},
    Kind.BOOLEAN: {bool, int},
    Kind.REAL: {float, int, Decimal},
    Kind.DATETIME: {str, datetime},
    Kind.TEXT: {str},
}
_CONVERTED_AT_ONCE = 20_000  # rows
