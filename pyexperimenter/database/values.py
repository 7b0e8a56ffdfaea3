"""Python values <-> column values, the same on every database."""

from __future__ import annotations

import json
import math
import struct
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from pyexperimenter.exceptions import InvalidValueError, PyExperimenterError, UndecodableValueError
from pyexperimenter.fieldtypes import BOOLEAN_WORDS, FieldType, Kind
from pyexperimenter.jsonable import shown, to_json

_DOUBLE = FieldType.parse("DOUBLE")


class Encoder:
    """Turns Python values into column values of a field.

    Parameters
    ----------
    name : str
        The field's name, for messages.
    field : FieldType
        Its declared type.
    keeps_infinity : bool
        Whether the database can store infinite numbers.
    rounds : bool
        Whether an integer field takes numbers with a fraction, as columns of servers do.
    """

    def __init__(self, name: str, field: FieldType, keeps_infinity: bool, rounds: bool = False) -> None:
        self._name = name
        self._field = field
        self._keeps_infinity = keeps_infinity
        self._rounds = rounds and field.kind is Kind.INTEGER
        self._finish = _ENCODERS.get(field.kind)
        self._warned = self._warned_of_rounding = False

    def __call__(self, value: Any) -> Any:
        """Return the column value.

        Raises
        ------
        InvalidValueError
            If the value does not fit. The message names the field.

        Warns
        -----
        UserWarning
            Once, when a number is rounded, when NaN becomes NULL, or an infinite number that the database cannot store.
        """
        if self._rounds and (rounded := _rounded(value)) is not None:
            if not self._warned_of_rounding:
                self._warned_of_rounding = True
                text = f"{shown(value)} is stored as {rounded}, since its type is {self._field}; DOUBLE keeps fractions"
                warnings.warn(f"{self._name}: {text}", stacklevel=2)
            value = rounded
        try:
            value = self._field.coerce(value)
        except InvalidValueError as error:
            raise InvalidValueError(f"{self._name}: {error}") from error
        if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and not self._keeps_infinity)):
            if not self._warned:
                self._warned = True
                warnings.warn(f"{self._name}: {value} is stored as NULL", stacklevel=2)
            return None
        return value if value is None or self._finish is None else self._finish(value)


def _rounded(value: Any) -> int | None:
    """Return the integer nearest to a number with a fraction, away from 0 between two; else None."""
    with suppress(InvalidValueError):
        number = _DOUBLE.coerce(value)
        if number is not None and math.isfinite(number) and not number.is_integer():
            return int(Decimal(repr(number)).to_integral_value(ROUND_HALF_UP))
    return None


@dataclass
class Encoded:
    """Column values by field, and what is wrong with the first value that has none."""

    values: dict[str, Any] = field(default_factory=dict)
    problem: PyExperimenterError | None = None


def encode_all(
    values: Mapping[str, Any], encoders: Mapping[str, Encoder], unknown: Callable[[str], PyExperimenterError]
) -> Encoded:
    """Encode all values that can be encoded; `unknown` makes the error for a name without encoder."""
    encoded = Encoded()
    for name, value in values.items():
        try:
            if name not in encoders:
                raise unknown(name)
            encoded.values[name] = encoders[name](value)
        except PyExperimenterError as problem:
            encoded.problem = encoded.problem or problem
    return encoded


def _datetime_text(value: datetime) -> str:
    return value.isoformat(" ")


# Numbers, texts and bytes need no encoding.
_ENCODERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.JSON: to_json,
    Kind.DATETIME: _datetime_text,
    Kind.DATE: date.isoformat,
}


def decode(name: str, field: FieldType, value: Any) -> Any:
    """Return the Python value of a column value.

    Raises
    ------
    UndecodableValueError
        If it has none, for example after an edit by hand.

    Examples
    --------
    >>> decode("flag", FieldType.parse("BOOL"), 1)
    True
    >>> decode("options", FieldType.parse("JSON"), '{"depth":3}')
    {'depth': 3}
    """
    if value is None:
        return None
    try:
        return _DECODERS[field.kind](value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        with suppress(ValueError):
            return _of_py_experimenter(field.kind, value)
        raise UndecodableValueError(
            f"column {name} holds {value!r:.60}, which is not {field.kind.value} ({field}); correct it by SQL"
        ) from error


def _of_py_experimenter(kind: Kind, value: Any) -> Any:
    """Return what a value of py-experimenter in SQLite means, where columns hold anything.

    It wrote what Python's `str` makes of booleans and None (1.2, 1.3), and the memory of numpy's numbers (1.4).
    """
    if value == "None":
        return None
    if kind not in (Kind.BOOLEAN, Kind.INTEGER, Kind.REAL) or not isinstance(value, (str, bytes)):
        raise ValueError(value)
    number = _number_of_numpy(value, kind) if isinstance(value, bytes) else BOOLEAN_WORDS.get(value.lower())
    if number is None:
        raise ValueError(value)
    return _DECODERS[kind](number)


def _number_of_numpy(memory: bytes, kind: Kind) -> int | float | None:
    if kind is Kind.REAL and len(memory) == 4:
        import ctypes

        (exact,) = struct.unpack("<f", memory)
        shorter = (float(f"{exact:.{digits}g}") for digits in range(1, 9))
        return next((number for number in shorter if ctypes.c_float(number).value == exact), exact)
    # A float64 is a float of Python, which is stored as a number.
    return int.from_bytes(memory, "little", signed=True) if len(memory) in (1, 2, 4, 8) else None


def _plain_integer(value: Any) -> int:
    if isinstance(value, bytes):
        raise ValueError(value)  # int(b"1") is 1
    if isinstance(value, (float, Decimal)) and value != int(value):
        raise ValueError(value)
    return int(value)


def _plain_boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def _plain_real(value: Any) -> float:
    if isinstance(value, bytes):
        raise ValueError(value)
    return float(value)


def _plain_text(value: Any) -> str:
    text = value.decode() if isinstance(value, bytes) else str(value)
    if "\0" in text:
        raise ValueError(value)  # the memory of an array, which py-experimenter 1.4 put into texts
    return text


def _plain_datetime(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.astimezone(timezone.utc).replace(tzinfo=None) if moment.tzinfo else moment


def _plain_date(value: Any) -> date:
    if isinstance(value, datetime):
        raise ValueError(value)
    return value if isinstance(value, date) else date.fromisoformat(value)


def _plain_bytes(value: Any) -> bytes:
    if isinstance(value, int):
        raise TypeError(value)  # bytes(5) would be five zeros
    return value.encode() if isinstance(value, str) else bytes(value)


_DECODERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.INTEGER: _plain_integer,
    Kind.REAL: _plain_real,
    Kind.BOOLEAN: _plain_boolean,
    Kind.TEXT: _plain_text,
    Kind.JSON: json.loads,
    Kind.DATETIME: _plain_datetime,
    Kind.DATE: _plain_date,
    Kind.BINARY: _plain_bytes,
}
