"""Rules for the names of tables, columns and functions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyexperimenter.config.messages import KeyPath, dotted, odd_space
from pyexperimenter.exceptions import DuplicateNameError, InvalidNameError, ReservedNameError
from pyexperimenter.jsonable import shown

# In lower case, since databases ignore case in column names.
TABLE_COLUMNS = frozenset(
    {"id", "creation_date", "status", "start_date", "name", "machine", "end_date", "error", "pyexperimenter_identity"}
)
LOGTABLE_COLUMNS = frozenset({"id", "experiment_id", "timestamp", "attempt_id", "write_token"})
SIDE_TABLES = frozenset({"attempts", "meta"})

_NAME = re.compile(r"[^\W\d][\w\-. ]*(?<! )")  # \w matches the letters of all alphabets, digits and the underscore


def check_name(name: str, path: KeyPath, reserved: Iterable[str] = ()) -> None:
    """Check that a name is valid and not reserved.

    Raises
    ------
    InvalidNameError
        If it contains characters other than letters, digits, ``_-.`` and spaces, or starts or ends with the wrong one.
    ReservedNameError
        If the library uses this name itself.
    """
    if not _NAME.fullmatch(name):
        raise InvalidNameError(
            f"{shown(name)} is not a valid name{odd_space(name)}; start with a letter or underscore, continue with "
            "letters, digits, underscores, hyphens, dots or spaces, and do not end with a space",
            path,
        )
    if name.lower() in reserved:
        raise ReservedNameError(f"{name!r} is reserved for the library; choose another name", path)


def check_table_columns(keyfields: Iterable[str], resultfields: Iterable[str], timestamps: bool) -> None:
    """Check the columns of the experiment table; the paths of errors are relative to its section.

    Raises
    ------
    InvalidNameError
        As raised by `check_name`; DuplicateNameError if two columns would have the same name.
    """
    columns: list[tuple[str, KeyPath]] = [(name, ("keyfields", name)) for name in keyfields]
    for name in resultfields:
        columns.append((name, ("resultfields", name)))
        if timestamps:
            columns.append((f"{name}_timestamp", ("resultfields", name)))
    _check_columns(columns, TABLE_COLUMNS)


def check_logtables(logtables: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Check the names and columns of the logtables; the paths of errors are relative to their section.

    Raises
    ------
    InvalidNameError
        As raised by `check_table_columns`.
    """
    logtables = [(name, list(columns)) for name, columns in logtables]
    _check_columns([(name, (name,)) for name, _ in logtables], SIDE_TABLES)
    for name, columns in logtables:
        _check_columns([(column, (name, column)) for column in columns], LOGTABLE_COLUMNS)


def _check_columns(columns: Iterable[tuple[str, KeyPath]], reserved: frozenset[str]) -> None:
    first_paths: dict[str, KeyPath] = {}
    for name, path in columns:
        check_name(name, path, reserved)
        first = first_paths.setdefault(name.lower(), path)
        if first is not path:
            raise DuplicateNameError(
                f"{name!r} is already used by {dotted(first)} (case is ignored); rename one",
                path,
            )


def module_and_function(name: str) -> tuple[str, str]:
    """Split the name of a function, ``module:function`` or ``file.py:function``.

    Raises
    ------
    ValueError
        If it is none; the message says how to write it.

    Examples
    --------
    >>> module_and_function("experiment.evaluate")
    Traceback (most recent call last):
    ...
    ValueError: 'experiment.evaluate' does not name a function; write experiment:evaluate
    """
    module, _, function = name.rpartition(":")  # a path may have a colon, too
    if not module or module.endswith(":") or not function:
        raise ValueError(f"{name!r} does not name a function; write {_with_one_colon(name)}")
    return module, function


def _with_one_colon(name: str) -> str:
    name = name.replace("::", ":").strip(":")
    if ":" in name:
        return name
    if name.endswith(".py"):
        return f"{name}:function"
    module, dot, function = name.rpartition(".")
    if not dot:
        return "module:function or file.py:function"
    return f"{module}.py:{function}" if "/" in module and not module.endswith(".py") else f"{module}:{function}"
