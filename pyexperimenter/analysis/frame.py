"""Rows of the database, converted to DataFrames with the types of the configuration."""

from __future__ import annotations

import math
import pickle
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import count
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

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
        Declared types, in the order that the columns should have. Other columns come last, with their values unchanged.

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
    known, left, size = len(unusual), iter(parts), _PIECE
    while size >= _PIECE:
        gathered = {name: _gatherer(name, types[name]) for name in columns if name not in whole}
        add = [whole[name].extend if name in whole else gathered[name].add for name in columns]
        size = 0
        for part in left:
            for name, add_to, values in zip(columns, add, zip(*part, strict=True), strict=True):
                try:
                    add_to(values)
                except _UNFIT:
                    unusual.add(name)
            size += len(part)
            if size >= _PIECE:
                break
        pieces: dict[str, pd.Series[Any] | int] = {}
        for name, column in gathered.items():
            try:
                pieces[name] = column.piece()
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


class _Gatherer(Protocol):
    """Gathers the values of a column, of so many rows that it is worth making a Series of them."""

    def add(self, values: tuple[Any, ...]) -> None:
        """Take the values of more rows, while they are in the processor's cache."""

    def piece(self) -> pd.Series[Any] | int:
        """Return what was gathered; if all is NULL, only how much."""


def _gatherer(name: str, field: FieldType) -> _Gatherer:
    if field.kind is Kind.REAL:
        return _Reals()
    return _Integers(name) if field.kind is Kind.INTEGER else _Objects(name, field)


class _Reals:
    """Real numbers. An array of Python takes nothing but numbers, so that no type has to be looked at."""

    def __init__(self) -> None:
        self._numbers = array("d")

    def add(self, values: tuple[Any, ...]) -> None:
        try:
            more = array("d", values)
        except TypeError:
            more = array("d", [math.nan if value is None else value for value in values])
        self._numbers += more

    def piece(self) -> pd.Series[Any]:
        import numpy as np
        import pandas as pd

        return pd.Series(np.array(self._numbers, np.float64))


class _Integers:
    """The same for integers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._integers = array("q")
        self._nulls: list[int] = []

    def add(self, values: tuple[Any, ...]) -> None:
        try:
            more = array("q", values)
        except TypeError:
            more = array("q", [0 if value is None else value for value in values])
            self._nulls += [place for place, value in enumerate(values, len(self._integers)) if value is None]
        self._integers += more

    def piece(self) -> pd.Series[Any] | int:
        import numpy as np
        import pandas as pd

        integers = np.array(self._integers, np.int64)
        if self._name in _NEVER_NULL:
            if self._nulls:
                raise ValueError(f"{self._name} is NULL")
            return pd.Series(integers)
        mask = np.zeros(len(integers), bool)
        mask[self._nulls] = True
        return pd.Series(pd.arrays.IntegerArray(integers, mask))


class _Objects:
    """Values of other kinds. Of texts and times that come again and again, each is looked at and converted once."""

    def __init__(self, name: str, field: FieldType) -> None:
        self._name = name
        self._field = field
        self._repeats = field.kind in (Kind.DATETIME, Kind.TEXT)
        self._values: list[Any] = []
        self._places: dict[Any, int] = defaultdict(count().__next__)  # which calls nothing of Python for a value
        self._found: list[Any] = []  # arrays of places

    def add(self, values: tuple[Any, ...]) -> None:
        import numpy as np

        if self._repeats and not self._found:
            self._repeats = len({*values}) <= len(values) / 4
        if not self._repeats:
            self._values += values
        elif values[0] == values[-1] and values.count(values[0]) == len(values):
            self._found.append(np.full(len(values), self._places[values[0]]))
        else:
            self._found.append(np.fromiter(map(self._places.__getitem__, values), np.intp, len(values)))

    def piece(self) -> pd.Series[Any] | int:
        import numpy as np
        import pandas as pd

        values = [*self._places] if self._found else self._values
        kinds = {*map(type, values)} - {type(None)}
        if not kinds:
            return sum(map(len, self._found)) or len(values)
        usual = _USUAL.get(self._field.kind)
        if usual is not None and not kinds <= usual:
            raise ValueError(self._name)
        make: Callable[[Sequence[Any]], pd.Series[Any]] | None = _MAKERS.get(self._field.kind)
        if not make:
            return _objects([decode(self._name, self._field, value) for value in values])
        series = make(values)
        return pd.Series(series.array.take(np.concatenate(self._found))) if self._found else series


def _concatenated(name: str, pieces: Sequence[pd.Series[Any] | int], field: FieldType) -> pd.Series[Any]:
    import pandas as pd

    typed = next((piece for piece in pieces if not isinstance(piece, int)), None)
    if typed is None:
        return _missing(name, sum(piece for piece in pieces if isinstance(piece, int)), field, None)
    parts = [_missing(name, piece, field, typed.dtype) if isinstance(piece, int) else piece for piece in pieces]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else typed


def _missing(name: str, count: int, field: FieldType, dtype: Any) -> pd.Series[Any]:
    """Return so many NULLs of a column with this dtype, or with that of a column that has no other values."""
    import numpy as np
    import pandas as pd

    values = [None] * min(count, 1)  # since each takes as long to convert as any other
    one = _series(name, values, field) if dtype is None else _objects(values).astype(dtype)
    return pd.Series(one.array.take(np.zeros(count, np.intp)))


def _series(name: str, values: Sequence[Any], field: FieldType | None) -> pd.Series[Any]:
    import pandas as pd

    if field is None:
        if {*map(type, values)} == {int, type(None)}:  # pandas would make floats of them
            with suppress(OverflowError):
                return _objects(values).astype("Int64")
            return _objects(values)
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

    # pandas would read the number 2026 as a year, and these words as the present.
    if not {*map(type, values)} <= {type(None), *_USUAL[Kind.DATETIME]} or not {"now", "today"}.isdisjoint(values):
        raise ValueError
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
    Kind.BOOLEAN: {bool, int},
    Kind.DATETIME: {str, datetime},
    Kind.TEXT: {str},
}
_PIECE = 20_000  # rows of a Series
