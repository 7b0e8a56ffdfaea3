"""Python values <-> column values, the same on every database."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

from pyexperimenter.exceptions import InvalidValueError, PyExperimenterError, UndecodableValueError
from pyexperimenter.fieldtypes import FieldType, Kind
from pyexperimenter.jsonable import to_json


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
    """

    def __init__(self, name: str, field: FieldType, keeps_infinity: bool) -> None:
        self._name = name
        self._field = field
        self._keeps_infinity = keeps_infinity
        self._finish = _ENCODERS.get(field.kind)
        self._warned = False

    def __call__(self, value: Any) -> Any:
        """Return the column value.

        Raises
        ------
        InvalidValueError
            If the value does not fit. The message names the field.

        Warns
        -----
        UserWarning
            Once, when NaN becomes NULL, or an infinite number that the database cannot store.
        """
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
        raise UndecodableValueError(
            f"column {name} holds {value!r:.60}, which is not {field.kind.value} ({field}); correct it by SQL"
        ) from error


def _plain_integer(value: Any) -> int:
    if isinstance(value, (float, Decimal)) and value != int(value):
        raise ValueError(value)
    return int(value)


def _plain_boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def _plain_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


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
    Kind.REAL: float,
    Kind.BOOLEAN: _plain_boolean,
    Kind.TEXT: _plain_text,
    Kind.JSON: json.loads,
    Kind.DATETIME: _plain_datetime,
    Kind.DATE: _plain_date,
    Kind.BINARY: _plain_bytes,
}
