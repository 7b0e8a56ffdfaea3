"""The wording of configuration errors: place, key path, what is wrong, what was expected."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyexperimenter import exceptions
from pyexperimenter.exceptions import InvalidConfigError, InvalidTypeError, MissingKeyError
from pyexperimenter.jsonable import shown

if TYPE_CHECKING:
    from pydantic import ValidationError

KeyPath = tuple[str | int, ...]

# Pydantic's name for a problem -> what it expected.
_EXPECTED = {
    "bool": "true or false",
    "dict": "a section of 'key: value' pairs",
    "float": "a number",
    "int": "an integer",
    "is_instance_of": "a string",
    "list": "a list; put [ ] around it",
    "tuple": "a list; put [ ] around it",
    "literal_error": "one of {expected}",
    "mapping": "a section of 'key: value' pairs",
    "model": "a section of 'key: value' pairs",
    "string": "a string; quote it",
    "string_too_short": "a valid name",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def dotted(path: KeyPath) -> str:
    """Format a key path, as in ``PY_EXPERIMENTER.n_jobs`` or ``values[2]``.

    >>> dotted(("table", "exclude", 0, "kernel"))
    'table.exclude[0].kernel'
    """
    return "".join(f"[{key}]" if type(key) is int else f".{key}" for key in path).removeprefix(".")


def nearest(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a hint with the known name that is closest to `name`, or an empty string if none is similar enough.

    A character that looks like a space, or like nothing, is the hint if there is one.

    >>> nearest("keyfeilds", ["keyfields", "resultfields"])
    "; did you mean 'keyfields'?"
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    if odd := odd_space(name):
        return odd
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=cutoff)
    return f"; did you mean {by_lower[matches[0]]!r}?" if matches else ""


def odd_space(text: object) -> str:
    r"""Return a hint that names the first character that looks like a space or like nothing, or an empty string.

    >>> odd_space("n_jobs\u00a0")
    '; it contains a no-break space (U+00A0), delete it'
    """
    odd = next((char for char in str(text) if unicodedata.category(char) in ("Zs", "Cf") and char != " "), None)
    return "" if odd is None else f"; it contains a {unicodedata.name(odd).lower()} (U+{ord(odd):04X}), delete it"


@contextmanager
def within(*prefix: str | int) -> Iterator[None]:
    """Prepend `prefix` to the paths of errors raised in this block."""
    try:
        yield
    except InvalidConfigError as error:
        raise type(error)(str(error), (*prefix, *error.path)) from error.__cause__


def problems_of(error: ValidationError, quote: bool = True) -> list[InvalidConfigError]:
    """Translate pydantic's findings into our errors, still without file and line.

    Parameters
    ----------
    error : ValidationError
        The error that pydantic raised.
    quote : bool
        Whether messages may quote keys and values of the file; False where they may be secret.
    """
    return [_problem(dict(detail), quote) for detail in error.errors(include_url=False)]


def _problem(detail: dict[str, Any], quote: bool) -> InvalidConfigError:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    path = tuple(key for key in detail["loc"] if not _is_union_tag(key))
    if kind.endswith(("Error", "Configuration")):  # the name of one of our errors, from one of our validators
        where = (*path, context["key"]) if "key" in context and quote else path
        return _class(kind)(context["message"], where)
    if kind == "missing":
        return MissingKeyError(f"the key {path[-1]!r} is missing; add it", path[:-1])
    if kind == "too_short":
        return MissingKeyError("it is empty; add at least one entry", path)
    if path and path[-1] == "[key]":  # pydantic's marker for a problem with the preceding key
        return InvalidTypeError(f"the key {shown(value)} is not a string; quote it", (*path[:-2], value))
    expected = next((_EXPECTED[stem] for stem in _stems(kind) if stem in _EXPECTED), "valid")
    return InvalidTypeError(f"{shown(value) if quote else 'the value'} is not {expected.format(**context)}", path)


def _stems(kind: str) -> Iterator[str]:
    """Yield pydantic's name for a problem, then ever more general ones: int_from_float, int_from, int."""
    while kind:
        yield kind
        kind = kind.rpartition("_")[0]


def _class(name: str) -> type[InvalidConfigError]:
    found: type[InvalidConfigError] = getattr(exceptions, name)
    return found


def _is_union_tag(key: str | int) -> bool:
    """Return whether pydantic added this part of the path to name a member of a union; our tags are in <...>."""
    return isinstance(key, str) and key.startswith("<") and key.endswith(">")
