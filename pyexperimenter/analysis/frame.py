"""Rows of the database, converted to DataFrames with the types of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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


def _series(name: str, values: Sequence[Any], field: FieldType | None) -> pd.Series[Any]:
    import pandas as pd

    if field is None:
        return _objects(values).infer_objects()
    if name in ("ID", "experiment_id"):
        return pd.Series(values, dtype="int64")
    make: Callable[[Sequence[Any]], pd.Series[Any]] | None = _MAKERS.get(field.kind)
    with suppress(ValueError, TypeError, OverflowError):
        if make:
            return make(values)
    try:
        plain = [decode(name, field, value) for value in values]
        return make(plain) if make else _objects(plain)
    except (ValueError, TypeError, OverflowError, UndecodableValueError):
        return _objects(values)  # edited by hand to something else: shown as it is


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
