"""SQL column types in Python: which values a field accepts, and what they are converted to.

A declared type means the same on every database. `FieldType.coerce` converts each value to its canonical Python
object, or rejects it, before it gets into a statement.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.jsonable import ADDRESS, shown, to_json, unwrap


class Kind(Enum):
    """What the values of a type are in Python, as messages call it."""

    INTEGER = "an integer"
    REAL = "a number"
    BOOLEAN = "true or false"
    TEXT = "a string"
    JSON = "a JSON value"
    DATETIME = "a date and time"
    DATE = "a date"
    BINARY = "bytes"


# SQL type name -> (kind, limit): the largest integer of an integer type, the most bytes of a text or binary type.
_TYPES: dict[str, tuple[Kind, int | None]] = {
    "TINYINT": (Kind.INTEGER, 2**7 - 1),
    "SMALLINT": (Kind.INTEGER, 2**15 - 1),
    "MEDIUMINT": (Kind.INTEGER, 2**23 - 1),
    "INT": (Kind.INTEGER, 2**31 - 1),
    "INTEGER": (Kind.INTEGER, 2**31 - 1),
    "BIGINT": (Kind.INTEGER, 2**63 - 1),
    "LONG": (Kind.INTEGER, 2**63 - 1),
    "DOUBLE": (Kind.REAL, None),
    "FLOAT": (Kind.REAL, None),
    "REAL": (Kind.REAL, None),
    "DECIMAL": (Kind.REAL, None),
    "NUMERIC": (Kind.REAL, None),
    "BOOL": (Kind.BOOLEAN, None),
    "BOOLEAN": (Kind.BOOLEAN, None),
    "VARCHAR": (Kind.TEXT, None),
    "CHAR": (Kind.TEXT, None),
    "STR": (Kind.TEXT, None),
    "STRING": (Kind.TEXT, None),
    "TINYTEXT": (Kind.TEXT, 2**8 - 1),
    "TEXT": (Kind.TEXT, 2**16 - 1),
    "MEDIUMTEXT": (Kind.TEXT, 2**24 - 1),
    "LONGTEXT": (Kind.TEXT, 2**32 - 1),
    "JSON": (Kind.JSON, 2**32 - 1),
    "DATETIME": (Kind.DATETIME, None),
    "TIMESTAMP": (Kind.DATETIME, None),
    "DATE": (Kind.DATE, None),
    "TINYBLOB": (Kind.BINARY, 2**8 - 1),
    "BLOB": (Kind.BINARY, 2**16 - 1),
    "MEDIUMBLOB": (Kind.BINARY, 2**24 - 1),
    "LONGBLOB": (Kind.BINARY, 2**32 - 1),
}
# Ours -> its other names in the manuals of MySQL, MariaDB, PostgreSQL and SQLite, without spaces. If ours has a size,
# that of the declaration does not count.
_ALIASES = {
    alias: name
    for name, aliases in {
        "TINYINT": "INT1",
        "SMALLINT": "INT2 YEAR",
        "MEDIUMINT": "INT3 MIDDLEINT",
        "INT": "INT4",
        "BIGINT": "INT8 BIGINTEGER",
        "FLOAT": "FLOAT4",
        "DOUBLE": "DOUBLEPRECISION FLOAT8",
        "DECIMAL": "DEC FIXED NUMBER",
        "BOOL": "BIT BIT(1)",
        "VARCHAR": "CHARACTER CHARVARYING CHARACTERVARYING VARCHARACTER VARYINGCHARACTER VARCHAR2 BPCHAR "
        "NCHAR NCHARVARCHAR NCHARVARYING NVARCHAR NVARCHAR2 NATIVECHARACTER NATIONALCHAR NATIONALCHARACTER "
        "NATIONALVARCHAR NATIONALVARCHARACTER NATIONALCHARVARYING NATIONALCHARACTERVARYING",
        "VARCHAR(255)": "ENUM TIME TIMETZ TIMEWITHTIMEZONE TIMEWITHOUTTIMEZONE INTERVAL",
        "VARCHAR(64)": "INET INET4 INET6 CIDR MACADDR MACADDR8 UUID",
        "TEXT": "SET",
        "MEDIUMTEXT": "LONGVARCHAR LONGVARCHARACTER LONGCHARVARYING",
        "LONGTEXT": "CLOB NCLOB XML",
        "JSON": "JSONB JSONTEXT",
        "TIMESTAMP": "TIMESTAMPTZ TIMESTAMPWITHTIMEZONE TIMESTAMPWITHOUTTIMEZONE",
        "BLOB": "BINARY VARBINARY CHARBYTE RAW",
        "MEDIUMBLOB": "LONGVARBINARY",
        "LONGBLOB": "BYTEA",
    }.items()
    for alias in aliases.split()
}
_SIGN = "((?:UNSIGNED|SIGNED|ZEROFILL)*)"
_DECLARATION = re.compile(rf"{_SIGN}(\w+?){_SIGN}((?:\(\d+(?:,\d+)?\))?)((?:VARYING|WITH(?:OUT)?TIMEZONE)?){_SIGN}")
_VALUES = re.compile(r"^(ENUM|SET)\(['\"].*['\"]\)$")  # which a column of MySQL allows
_DEFAULT_VARCHAR_LENGTH = 255

TYPE_NAMES = tuple(_TYPES)


def type_pattern() -> str:
    """Return the declarations that `FieldType.parse` accepts as a regular expression of JSON Schema.

    It also accepts a few others, such as an UNSIGNED text. It has no flags, so letters are in both cases.

    Examples
    --------
    >>> [bool(re.search(type_pattern(), text)) for text in ("varchar(50)", "double precision", "VARHCAR(50)")]
    [True, True, False]
    """

    def words(*names: str) -> str:
        return "|".join(r"\s*".join(map(in_any_case, name)) for name in names)

    sign = rf"\s*(?:(?:{words('UNSIGNED', 'SIGNED', 'ZEROFILL')})\s*)*"
    names = {name.partition("(")[0] for name in (*_TYPES, *_ALIASES)}
    size = r"(?:\(\s*\d[\d\s]*(?:,\s*\d[\d\s]*)?\))?\s*"
    end = rf"(?:{words('VARYING', 'WITHTIMEZONE', 'WITHOUTTIMEZONE')})?"
    values = rf"\s*(?:{words('ENUM', 'SET')})\s*\(\s*['\"].*['\"]\s*\)\s*"
    return f"^(?:{sign}(?:{words(*sorted(names))}){sign}{size}{end}{sign}|{values})$"


def in_any_case(name: str) -> str:
    """Return a regular expression of a name in upper and lower case, without a flag.

    >>> in_any_case("int8")
    '[Ii][Nn][Tt]8'
    """
    return "".join(f"[{letter.upper()}{letter.lower()}]" if letter.isalpha() else letter for letter in name)


BOOLEAN_WORDS = {
    "true": True,
    "false": False,
    "yes": True,
    "no": False,
    "on": True,
    "off": False,
    "1": True,
    "0": False,
}
"""Texts in lower case that mean true or false in an INI file, and in tables filled from one by py-experimenter."""


@dataclass(frozen=True)
class FieldType:
    """A declared column type.

    Attributes
    ----------
    name : str
        The SQL name in upper case, such as ``VARCHAR``.
    kind : Kind
        What its values are in Python.
    length : int or None
        ``n`` of ``VARCHAR(n)``, in characters, or ``p`` of ``DECIMAL(p, s)``, in digits.
    scale : int or None
        ``s`` of ``DECIMAL(p, s)``: the digits after the decimal point.
    unsigned : bool
        Whether negative integers are rejected.
    """

    name: str
    kind: Kind
    length: int | None = None
    scale: int | None = None
    unsigned: bool = False

    @classmethod
    def parse(cls, declaration: str) -> FieldType:
        """Parse a declaration from a configuration or a ``CREATE TABLE`` statement.

        Raises
        ------
        ValueError
            If this library does not know the type.

        Examples
        --------
        >>> str(FieldType.parse("varchar(50)"))
        'VARCHAR(50)'
        >>> FieldType.parse("DECIMAL").kind.name
        'REAL'
        """
        text = _VALUES.sub(r"\1", "".join(declaration.upper().split()))
        match = _DECLARATION.fullmatch(text)
        before, name, after, size, end, last = match.groups() if match else [""] * 6
        name = f"{name}{end}" if name != "BIT" else f"BIT{size}"  # a longer bit field is not true or false
        name, _, own_size = _ALIASES.get(name, name).partition("(")
        if name not in _TYPES:
            raise ValueError(f"{declaration!r} is not a valid type; choose from {', '.join(TYPE_NAMES)}")
        kind, _ = _TYPES[name]
        unsigned = any(word in before + after + last for word in ("UNSIGNED", "ZEROFILL"))
        if unsigned and kind not in (Kind.INTEGER, Kind.REAL):
            raise ValueError(f"{declaration!r} is not a valid type; only numbers can be UNSIGNED")
        sizes = [int(number) for number in re.findall(r"\d+", own_size or size)]
        length = sizes[0] if sizes else None
        scale = sizes[1] if len(sizes) > 1 else None
        if name in ("VARCHAR", "CHAR", "STR", "STRING"):
            length = _DEFAULT_VARCHAR_LENGTH if length is None else length
            name = "VARCHAR"  # a CHAR would lose trailing spaces
        elif name in ("DECIMAL", "NUMERIC") and length is not None:
            name, scale = "DECIMAL", scale or 0
        else:
            length = scale = None  # a display width such as INT(11) limits nothing
        return cls(name, kind, length, scale, unsigned and kind is Kind.INTEGER)

    def __str__(self) -> str:
        size = (
            "" if self.length is None else f"({self.length})" if self.scale is None else f"({self.length},{self.scale})"
        )
        return f"{self.name}{size}{' UNSIGNED' if self.unsigned else ''}"

    @property
    def limit(self) -> int | None:
        """The largest integer, or the most bytes of a text; None where neither applies."""
        limit = _TYPES[self.name][1]
        return 2 * limit + 1 if limit is not None and self.unsigned else limit

    def coerce(self, value: Any) -> Any:
        """Convert `value` to the canonical Python object for a field of this type.

        None stays None and NaN stays NaN, for all types. Scalars of numpy, torch and similar libraries are
        unwrapped, and so are arrays with one item where a single value is expected. Strings that contain a number
        become numbers in numeric fields, since YAML reads ``1e-3`` as a string.

        Raises
        ------
        InvalidValueError
            If the value does not fit the type. The message says why, not where.

        Examples
        --------
        >>> FieldType.parse("DOUBLE").coerce("1e-3")
        0.001
        >>> FieldType.parse("INT").coerce(0.5)
        Traceback (most recent call last):
        ...
        pyexperimenter.exceptions.InvalidValueError: 0.5 is not an integer
        """
        value = unwrap(value if self.kind in (Kind.TEXT, Kind.JSON) else _only_item(value))
        if value is None or _is_nan(value):
            return None if value is None else math.nan  # the store writes it as NULL, with a warning
        return _COERCERS[self.kind](self, value)

    def holds(self, other: FieldType) -> bool:
        """Return whether a column of this type can store every value of `other`.

        >>> FieldType.parse("BIGINT").holds(FieldType.parse("INT"))
        True
        >>> FieldType.parse("VARCHAR(20)").holds(FieldType.parse("VARCHAR(50)"))
        False
        """
        if self.name == "MEDIUMTEXT" and other.name == "LONG":
            return True  # which MySQL takes for its LONG VARCHAR
        if self.name == other.name and self.length == other.length and self.scale == other.scale:
            return self.unsigned == other.unsigned
        if self.kind is Kind.INTEGER and other.kind is Kind.BOOLEAN:
            return True  # MySQL has no BOOL: it reports such a column as TINYINT
        if self.kind is Kind.INTEGER is other.kind:
            assert self.limit is not None and other.limit is not None
            return self.limit >= other.limit and (other.unsigned or not self.unsigned)
        if self.kind is Kind.REAL is other.kind:
            return self._holds_number(other)
        if self.kind is Kind.TEXT and other.kind in (Kind.TEXT, Kind.JSON):
            return self._holds_text(other)  # MariaDB's JSON is a LONGTEXT
        return self.kind is other.kind and (self.limit or 0) >= (other.limit or 0)

    def _holds_number(self, other: FieldType) -> bool:
        if self.length is None:
            return self.name != "FLOAT"  # a DOUBLE stores all of them, a FLOAT column only 7 digits
        if other.length is None:
            # Values are rounded, but py-experimenter declared a bare DECIMAL, which MySQL made a DECIMAL(10,0).
            return other.name in ("DECIMAL", "NUMERIC")
        scale, other_scale = self.scale or 0, other.scale or 0
        return scale >= other_scale and self.length - scale >= other.length - other_scale

    def _holds_text(self, other: FieldType) -> bool:
        if other.length is None:  # n bytes can be n characters
            return (self.length or self.limit or 0) >= (other.limit or 0)
        # A character can take four bytes.
        return self.length >= other.length if self.length is not None else (self.limit or 0) >= 4 * other.length


def _only_item(value: Any) -> Any:
    """Return the item of an array with one item; other values unchanged."""
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or any(size != 1 for size in shape):
        return value
    if hasattr(value, "reshape"):
        return value.reshape(())
    return unwrap(value)[0] if hasattr(value, "tolist") else value  # a pandas Series


def _is_nan(value: Any) -> bool:
    return value.is_nan() if isinstance(value, Decimal) else isinstance(value, float) and math.isnan(value)


def _refuse(value: Any, kind: Kind, remedy: str = "") -> InvalidValueError:
    return InvalidValueError(f"{shown(value)} is not {kind.value}{remedy}")


def _integer(field: FieldType, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            value = _real_from_text(field, value)
    if not isinstance(value, (int, float, Decimal)):
        raise _refuse(value, field.kind)
    if _is_nan(value):
        return value  # it was the string "nan"
    if not isinstance(value, int) and (not math.isfinite(value) or value != int(value)):
        raise _refuse(value, field.kind)
    assert field.limit is not None
    low = 0 if field.unsigned else -field.limit - 1
    if not low <= value <= field.limit:
        raise InvalidValueError(f"{shown(value)} is outside {field}: {low} to {field.limit}")
    return int(value)


def _real_from_text(field: FieldType, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise _refuse(value, field.kind) from None


def _real(field: FieldType, value: Any) -> float:
    if isinstance(value, str):
        number = _real_from_text(field, value)
    elif isinstance(value, (int, float, Decimal)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number) and value != number:
            raise _refuse(value, field.kind, " that a DOUBLE can store")
    else:
        raise _refuse(value, field.kind)
    if field.length is not None and math.isfinite(number):
        scale = field.scale or 0
        number = round(number, scale)
        if abs(number) >= 10 ** (field.length - scale):
            raise InvalidValueError(f"{number!r} is outside {field}")
    return number + 0.0  # makes -0.0 the same value as 0.0


def _boolean(field: FieldType, value: Any) -> bool:
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise _refuse(value, field.kind)


def _text(field: FieldType, value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        value = to_json(value)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        raise _refuse(value, field.kind, "; decode it, or declare a BLOB")
    elif not isinstance(value, str):
        value = _text_of_object(field, value)
    return _fitting(field, value)


def _text_of_object(field: FieldType, value: Any) -> str:
    if hasattr(type(value), "__array__") or hasattr(type(value), "toarray"):
        raise InvalidValueError(
            f"a {type(value).__name__} is not {field.kind.value}, and its text may leave out parts of it; store its "
            "values as a list or dict, a text such as its CSV, or the path of a file"
        )
    try:
        text = str(value)
    except Exception as error:  # its own __str__ may raise, and that of an integer refuses too many digits
        raise _refuse(value, field.kind, f": {type(error).__name__}: {error}") from error
    if ADDRESS.search(text):
        raise _refuse(
            value,
            field.kind,
            ": its text contains an address in memory, which differs in each process; store a name, a list or dict of "
            "its values, or the path of a file",
        )
    return text


def _fitting(field: FieldType, text: str) -> str:
    if "\0" in text:
        raise _refuse(text, field.kind, " that a database can store: it contains a NUL character")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise _refuse(text, field.kind, " that a database can store: it contains a lone surrogate") from None
    size, most, unit = (
        (len(encoded), field.limit, "bytes") if field.length is None else (len(text), field.length, "characters")
    )
    if most is not None and size > most:
        raise InvalidValueError(f"{shown(text)} has {size} {unit}, but {field} stores {most}; declare a longer type")
    return text


def _json(field: FieldType, value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return math.nan  # like NaN, infinity has no JSON form
    text = to_json(value)
    _fitting(field, text)
    return json.loads(text)


def _datetime(field: FieldType, value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.removesuffix("Z") + ("+00:00" if value.endswith("Z") else ""))
        except ValueError:
            raise _refuse(value, field.kind, " as in 2026-01-31 13:30:00") from None
    if isinstance(value, datetime):
        try:
            return value.astimezone(timezone.utc).replace(tzinfo=None) if value.tzinfo else value
        except OverflowError:
            raise _refuse(value, field.kind, " in UTC") from None
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    raise _refuse(value, field.kind)


def _date(field: FieldType, value: Any) -> date:
    if isinstance(value, datetime):
        if value.time() == datetime.min.time():
            return value.date()
    elif isinstance(value, date):
        return value
    elif isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise _refuse(value, field.kind, " as in 2026-01-31")


def _binary(field: FieldType, value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise _refuse(value, field.kind)
    data = bytes(value)
    if field.limit is not None and len(data) > field.limit:
        raise InvalidValueError(
            f"the value has {len(data)} bytes, but {field} stores {field.limit}; declare a longer type"
        )
    return data


_COERCERS = {
    Kind.INTEGER: _integer,
    Kind.REAL: _real,
    Kind.BOOLEAN: _boolean,
    Kind.TEXT: _text,
    Kind.JSON: _json,
    Kind.DATETIME: _datetime,
    Kind.DATE: _date,
    Kind.BINARY: _binary,
}
