"""Rows of the database, converted to DataFrames with the types of the configuration."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import count
from typing import IO, TYPE_CHECKING, Any, cast

from pyexperimenter.database.values import decode
from pyexperimenter.exceptions import UndecodableValueError
from pyexperimenter.fieldtypes import FieldType, Kind

if TYPE_CHECKING:
    import pandas as pd

_Columns = tuple[int, dict[str, "pd.Series[Any] | int"]]
"""The number of rows of a part, and its columns; of one in which all is NULL, only how much."""


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
    return cast("pd.DataFrame", _read(rows, partial(_joined, types=types), types))


class FrameInParts:
    """A DataFrame that is never in memory as a whole: its parts wait in a temporary file.

    Iterating yields them, as often as it is done. Together they are what `read_frame` returns; columns that it
    converts as a whole are in memory.

    Parameters
    ----------
    rows, types
        As of `read_frame`.
    finish : callable
        Called with each part; returns what takes its place.
    file : binary file
        A temporary file.
    """

    def __init__(
        self,
        rows: Callable[..., Any],
        types: Mapping[str, FieldType],
        finish: Callable[[pd.DataFrame], pd.DataFrame],
        file: IO[bytes],
    ) -> None:
        self._types = types
        self._finish = finish
        self._file = file
        _read(rows, self._keep, types)

    def _keep(self, columns: Sequence[str], parts: Iterable[_Columns], whole: dict[str, list[Any]]) -> None:
        self._order = _order(columns, self._types)
        self._file.seek(0)
        self._file.truncate()
        self._sizes: list[int] = []
        self._dtypes: dict[str, Any] = {}
        for size, pieces in parts:
            pickle.dump(pieces, self._file)
            self._sizes.append(size)
            self._dtypes |= {name: piece.dtype for name, piece in pieces.items() if not isinstance(piece, int)}
        self._whole = {name: _series(name, values, self._types.get(name)) for name, values in whole.items()}

    def __iter__(self) -> Iterator[pd.DataFrame]:
        import pandas as pd

        self._file.seek(0)
        start = 0
        for size in self._sizes:
            found = {
                name: _missing(name, piece, self._types[name], self._dtypes.get(name))
                if isinstance(piece, int)
                else piece
                for name, piece in pickle.load(self._file).items()
            }
            for name, values in self._whole.items():
                found[name] = values.iloc[start : start + size].reset_index(drop=True)
            yield self._finish(pd.DataFrame(found, columns=self._order, copy=False))
            start += size


class _UnusualValuesError(Exception):
    """A column has values of other types than usual, and must be converted as a whole."""


def _read(rows: Callable[..., Any], gather: Callable[..., Any], types: Mapping[str, FieldType]) -> Any:
    """Read rows until it is known which columns must be converted as a whole; return what `gather` makes of them."""
    unusual: set[str] = set()

    def take(columns: Sequence[str], parts: Iterable[Sequence[tuple[Any, ...]]]) -> Any:
        whole: dict[str, list[Any]] = {name: [] for name in columns if name not in types or name in unusual}
        return gather(columns, _converted(columns, parts, types, whole, unusual), whole)

    while True:
        with suppress(_UnusualValuesError):
            return rows(take=take)


def _converted(
    columns: Sequence[str],
    parts: Iterable[Sequence[tuple[Any, ...]]],
    types: Mapping[str, FieldType],
    whole: Mapping[str, list[Any]],
    unusual: set[str],
) -> Iterator[_Columns]:
    """Yield parts of the typed columns, and append the values of others to `whole`.

    Raises
    ------
    _UnusualValuesError
        At the end, if `unusual` got more columns.
    """
    known = len(unusual)
    for size, column_values in _together(columns, parts):
        pieces: dict[str, pd.Series[Any] | int] = {}
        for name, values in column_values.items():
            if name in whole:
                whole[name].extend(values)
            elif name not in unusual:
                try:
                    pieces[name] = _piece(name, values, types[name])
                except _UNFIT:
                    unusual.add(name)
        if len(unusual) == known:
            yield size, pieces
    if len(unusual) > known:
        raise _UnusualValuesError


def _joined(
    columns: Sequence[str], parts: Iterable[_Columns], whole: dict[str, list[Any]], types: Mapping[str, FieldType]
) -> pd.DataFrame:
    import pandas as pd

    gathered: dict[str, list[pd.Series[Any] | int]] = {name: [] for name in columns if name not in whole}
    for _, pieces in parts:
        for name, piece in pieces.items():
            gathered[name].append(piece)
    order = _order(columns, types)
    joined = {
        name: _series(name, whole.pop(name), types.get(name))
        if name in whole
        else _concatenated(name, gathered.pop(name), types[name])
        for name in order
    }
    return pd.DataFrame(joined, columns=order, copy=False)


def _order(columns: Sequence[str], types: Mapping[str, FieldType]) -> list[str]:
    return [name for name in types if name in columns] + [name for name in columns if name not in types]


def _together(
    columns: Sequence[str], parts: Iterable[Sequence[tuple[Any, ...]]]
) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """Yield the values of all columns, of so many rows that it is worth converting them, and their number."""
    gathered: dict[str, list[Any]] = {name: [] for name in columns}
    size = 0
    for part in parts:
        for values, more in zip(gathered.values(), zip(*part, strict=True), strict=True):
            values += more
        size += len(part)
        if size >= _CONVERTED_AT_ONCE:
            yield size, gathered
            gathered, size = {name: [] for name in columns}, 0
    yield size, gathered


def _piece(name: str, values: list[Any], field: FieldType) -> pd.Series[Any] | int:
    """Return a part of a column; if all is NULL, only how much."""
    if values.count(None) == len(values):
        return len(values)
    few = _few(values) if field.kind in (Kind.DATETIME, Kind.TEXT) else None
    kinds = {*map(type, values if few is None else few[0])} - {type(None)}
    usual = _USUAL.get(field.kind)
    if usual is not None and not kinds <= usual:
        raise ValueError(name)
    make: Callable[[Sequence[Any]], pd.Series[Any]] | None = _MAKERS.get(field.kind)
    if field.kind is Kind.INTEGER:
        return _integers(values, nullable=name not in _NEVER_NULL)
    if make and few is not None:
        distinct, places = few
        return make(distinct).take(places).reset_index(drop=True)
    return make(values) if make else _objects([decode(name, field, value) for value in values])


def _concatenated(name: str, pieces: Sequence[pd.Series[Any] | int], field: FieldType) -> pd.Series[Any]:
    import pandas as pd

    typed = next((piece for piece in pieces if not isinstance(piece, int)), None)
    if typed is None:
        return _missing(name, sum(piece for piece in pieces if isinstance(piece, int)), field, None)
    parts = [_missing(name, piece, field, typed.dtype) if isinstance(piece, int) else piece for piece in pieces]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else typed


def _missing(name: str, count: int, field: FieldType, dtype: Any) -> pd.Series[Any]:
    """Return so many NULLs of a column with this dtype, or with that of a column that has no other values."""
    values = [None] * count
    return _series(name, values, field) if dtype is None else _objects(values).astype(dtype)


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
    data = np.fromiter(values if mask is None else (value or 0 for value in values), np.int64, len(values))
    if not nullable:
        if mask is not None:
            raise ValueError("an ID is NULL")
        return pd.Series(data)
    return pd.Series(pd.arrays.IntegerArray(data, np.zeros(len(data), bool) if mask is None else mask))


def _few(values: list[Any]) -> tuple[list[Any], Any] | None:
    """Return the distinct values, and the place of each value among them; None if there seem to be many."""
    import numpy as np

    first = values[:1000]
    if len({*first}) > len(first) / 4:
        return None
    places: dict[Any, int] = defaultdict(count().__next__)  # which calls nothing of Python for a value
    of_values = np.fromiter(map(places.__getitem__, values), np.intp, len(values))
    return [*places], of_values


def _objects(values: Sequence[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(values, dtype=object)


def _texts(values: Sequence[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(values, dtype=str if values.count(None) < len(values) else object)


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
