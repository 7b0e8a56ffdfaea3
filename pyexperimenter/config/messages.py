"""How an error in a configuration reads: place, key path, what is wrong, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyexperimenter import exceptions
from pyexperimenter.exceptions import InvalidConfigError, InvalidTypeError, MissingKeyError
from pyexperimenter.jsonable import shown

if TYPE_CHECKING:
    from pydantic import ValidationError

KeyPath = tuple[str | int, ...]

# What pydantic calls a problem -> what it expected there.
_EXPECTED = {
    "bool": "true or false",
    "dict": "a section of 'key: value' pairs",
    "float": "a number",
    "int": "a whole number",
    "is_instance_of": "a text",
    "list": "a list; put [ ] around it",
    "tuple": "a list; put [ ] around it",
    "literal_error": "one of {expected}",
    "mapping": "a section of 'key: value' pairs",
    "model": "a section of 'key: value' pairs",
    "string": "a text; quote it if a text is meant",
    "string_too_short": "a name",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def dotted(path: KeyPath) -> str:
    """Write a key path as in ``PY_EXPERIMENTER.n_jobs`` or ``values[2]``.

    >>> dotted(("table", "exclude", 0, "kernel"))
    'table.exclude[0].kernel'
    """
    return "".join(f"[{key}]" if type(key) is int else f".{key}" for key in path).removeprefix(".")


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a hint at the known name that was perhaps meant, or nothing.

    >>> nearest("keyfeilds", ["keyfields", "resultfields"])
    "; did you mean 'keyfields'?"
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[matches[0]]!r}?" if matches else ""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Return the message for a name that is not among the known ones."""
    names = list(known)
    return f"{name!r} is no {what}{nearest(name, names)} (known: {', '.join(names)})"


@contextmanager
def within(*prefix: str | int) -> Iterator[None]:
    """Let the paths of errors raised in this block start with `prefix`."""
    try:
        yield
    except InvalidConfigError as error:
        raise type(error)(str(error), (*prefix, *error.path)) from error.__cause__


def problems_of(error: ValidationError, quote: bool = True) -> list[InvalidConfigError]:
    """Translate what pydantic found into errors of ours, still without file and line.

    Parameters
    ----------
    error : ValidationError
        What pydantic raised.
    quote : bool
        Whether messages may show keys and values of the file; False where they may be secret.
    """
    return [_problem(dict(detail), quote) for detail in error.errors(include_url=False)]


def _problem(detail: dict[str, Any], quote: bool) -> InvalidConfigError:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    path = tuple(key for key in detail["loc"] if not _is_union_tag(key))
    if kind.endswith(("Error", "Configuration")):  # the name of one of our classes, given by a validator of ours
        where = (*path, context["key"]) if "key" in context and quote else path
        return _class(kind)(context["message"], where)
    if kind == "missing":
        return MissingKeyError(f"the key {path[-1]!r} is missing; add it", path[:-1])
    if kind == "too_short":
        return MissingKeyError("there is nothing in it; give at least one", path)
    if path and path[-1] == "[key]":  # pydantic's marker for a problem with the key before it
        return InvalidTypeError(f"the key {shown(value)} is not a text; quote it", (*path[:-2], value))
    expected = next((_EXPECTED[stem] for stem in _stems(kind) if stem in _EXPECTED), "valid")
    return InvalidTypeError(f"{shown(value) if quote else 'the value'} is not {expected.format(**context)}", path)


def _stems(kind: str) -> Iterator[str]:
    """Yield pydantic's name of a problem, ever more general: int_from_float, int_from, int."""
    while kind:
        yield kind
        kind = kind.rpartition("_")[0]


def _class(name: str) -> type[InvalidConfigError]:
    found: type[InvalidConfigError] = getattr(exceptions, name)
    return found


def _is_union_tag(key: str | int) -> bool:
    """Tell whether pydantic put this into the path to name the member of a union; ours are written <so>."""
    return isinstance(key, str) and key.startswith("<") and key.endswith(">")
