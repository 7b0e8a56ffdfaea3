"""Paths as users give them."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from pyexperimenter.exceptions import InvalidValueError


def absolute_path(path: str | PathLike[str]) -> Path:
    r"""Return a path that other directories and processes can use; ``~`` is the home directory.

    Raises
    ------
    InvalidValueError
        If it cannot be a path, or its start is unknown: the home directory of ``~user``, or the working directory.

    Examples
    --------
    >>> absolute_path("a\0b")
    Traceback (most recent call last):
    ...
    pyexperimenter.exceptions.InvalidValueError: 'a\x00b' is not a path: it contains a null character
    """
    try:
        found = Path(path)
        os.fsencode(found)
        if "\0" in str(found):
            raise ValueError("it contains a null character")
        return found.expanduser().absolute()
    except FileNotFoundError:
        raise InvalidValueError(
            f"{str(path)!r} is relative to the working directory, which no longer exists; change to another directory"
        ) from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidValueError(f"{path!r} is not a path: {error}") from None
