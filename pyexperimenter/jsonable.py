"""Values as plain Python objects, as JSON, and as a message shows them.

`pydantic_core.to_jsonable_python` is not used: importing it would make the start of each child process a third slower,
and it writes sets, bytes and UTC times differently from the JSON that existing tables hold.
"""

from __future__ import annotations

import json
import math
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from pyexperimenter.exceptions import InvalidValueError

if TYPE_CHECKING:
    import pandas as pd

_PLAIN = frozenset({bool, int, float, str, bytes, bytearray, memoryview, dict, list, datetime, date})
_LONGEST_SHOWN = 60

ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
"""The part of an object's text that differs from process to process."""


def unwrap(value: Any) -> Any:
    """Return the plain Python object in a scalar or array of numpy, torch or pandas; other values unchanged."""
    if value is None or type(value) in _PLAIN or isinstance(value, type):
        return value
    if isinstance(value, Enum):
        return unwrap(value.value)
    if type(value).__module__.partition(".")[0] == "pandas":
        if type(value).__name__ in ("NAType", "NaTType"):
            return None
        if type(value).__name__ == "Timestamp":
            return value.to_pydatetime(warn=False)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        if getattr(getattr(value, "dtype", None), "kind", None) == "M":
            value = value.astype("datetime64[us]")  # nanoseconds would become an integer
        plain = value.item()
        if type(plain) is not type(value):
            return unwrap(_as_shown(plain, value))
        return float(plain) if type(value).__name__ == "longdouble" else str(plain)  # its item is of its own type
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        return _as_shown(value.tolist(), value)
    return value


def listed(values: Any) -> Any:
    """Return the values of an iterable as a list; a list, tuple or range, and what is not several values, unchanged.

    Not several values are texts, bytes, mappings, sets, which have no order, and tables.

    >>> listed(letter for letter in "ab"), listed("ab")
    (['a', 'b'], 'ab')
    """
    values = unwrap(values)  # arrays and Series
    single = (str, bytes, bytearray, memoryview, Mapping, set, frozenset, list, tuple, range)
    if not isinstance(values, Iterable) or isinstance(values, single) or hasattr(type(values), "columns"):
        return values
    return list(values)


def _as_shown(plain: Any, source: Any) -> Any:
    """Return the numbers of a float32 scalar or array with the digits that it shows: 0.1, not 0.10000000149011612."""
    dtype = getattr(source, "dtype", None)
    name = str(getattr(dtype, "name", dtype)).rpartition(".")[2].lower()  # torch.float32, or Float32 of pandas
    if name not in ("float16", "float32"):
        return plain
    import numpy as np

    return _shortest(plain, getattr(np, name))


def _shortest(numbers: Any, dtype: Callable[[float], object]) -> Any:
    if isinstance(numbers, list):
        return [_shortest(number, dtype) for number in numbers]
    return float(str(dtype(numbers))) if isinstance(numbers, float) else numbers


def shown(value: Any) -> str:
    """Return the representation of a value for a message, shortened if it is long."""
    try:
        text = re.sub(r"\s*\n\s*", " ", repr(value))  # that of a DataFrame has several lines
    except Exception:  # the user's own __repr__ may raise, and deep nesting exhausts the stack
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def one_line(value: Any, most: int) -> str:
    r"""Format a value for a table of a person, as one line of at most so many characters; a number with six digits.

    >>> one_line(0.1 + 0.2, 60), one_line(None, 60), one_line("first\nsecond", 60), one_line("a long name", 6)
    ('0.3', '', 'first second', 'a lon…')
    """
    if is_missing(value):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts.

    >>> counted(1, "experiment"), counted(12_000, "row")
    ('1 experiment', '12000 rows')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def whole_number(name: str, value: Any, least: int, most: int = sys.maxsize) -> int:
    """Return an argument that is a whole number.

    Raises
    ------
    InvalidValueError
        If it is none, or too small or too large.

    Examples
    --------
    >>> whole_number("limit", 3, least=0)
    3
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        raise InvalidValueError(f"{name}: {shown(value)} is not a whole number from {least} to {most}")
    return number


def jsonable(value: Any, strict: bool = False) -> Any:
    r"""Return a value as plain JSON types: times in ISO format, None for NaN and infinity.

    Parameters
    ----------
    value : Any
        Any value.
    strict : bool
        Refuse values that have no JSON form. By default they become text, and bytes hexadecimal digits.

    Raises
    ------
    TypeError, ValueError
        If `strict` is set and there is no JSON form.

    Examples
    --------
    >>> jsonable({"a": float("nan"), "b": [1.5, datetime(2024, 1, 2)], "c": b"\xff"})
    {'a': None, 'b': [1.5, '2024-01-02T00:00:00'], 'c': 'ff'}
    """
    value = unwrap(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        items = {_key(key) if strict else str(key): jsonable(item, strict) for key, item in value.items()}
        if strict and len(items) < len(value):
            raise ValueError("some of its keys are the same in JSON")
        return items
    if isinstance(value, (list, tuple)):
        return [jsonable(item, strict) for item in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if not strict:
        return value.hex() if isinstance(value, bytes) else str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(jsonable(item, strict) for item in value)
    raise TypeError(f"{shown(value)} has no JSON form")


def to_json(value: Any) -> str:
    """Return the canonical JSON text of `value`: sorted keys, no spaces, null for NaN and infinity.

    Raises
    ------
    InvalidValueError
        If the value, or something in it, has no JSON form.

    Examples
    --------
    >>> to_json({"b": 1, "a": [2.5, float("nan"), None]})
    '{"a":[2.5,null,null],"b":1}'
    """
    try:
        plain = jsonable(value, strict=True)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidValueError(f"{shown(value)} cannot be written as JSON: {error}") from error


def _key(key: Any) -> str:
    key = unwrap(key)
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (int, float)):
        return json.dumps(key, allow_nan=False)
    raise TypeError(f"the key {shown(key)} is not a string")


def is_missing(value: Any) -> bool:
    """Return whether a single value is None, NaN or one of pandas' missing values; pandas is not imported."""
    return value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, float) and math.isnan(value))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a DataFrame as dicts of plain JSON types."""
    return [jsonable(row) for row in frame.astype(object).to_dict("records")]
