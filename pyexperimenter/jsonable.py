"""Values of Python, pandas and numpy -> values that JSON knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def jsonable(value: Any) -> Any:
    r"""Return a value as JSON knows it: times in ISO format, bytes in hexadecimal, None where JSON has nothing.

    Examples
    --------
    >>> jsonable({"a": float("nan"), "b": [1.5, datetime(2024, 1, 2)], "c": b"\xff"})
    {'a': None, 'b': [1.5, '2024-01-02T00:00:00'], 'c': 'ff'}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if is_missing(value):
        return None
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return jsonable(value.item()) if hasattr(value, "item") else str(value)


def is_missing(value: Any) -> bool:
    """Tell whether a single value is None, NaN, or one of pandas' missing values, without importing pandas."""
    return value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, float) and math.isnan(value))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a DataFrame's rows as JSON knows them."""
    return [jsonable(row) for row in frame.astype(object).to_dict("records")]
