"""Paths as users give them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from pyexperimenter.exceptions import InvalidValueError

DEFAULT_CONFIG = "config/experiment_configuration.yml"
DEFAULT_CREDENTIALS = "config/database_credentials.yml"


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


def candidates(path: str | PathLike[str]) -> list[Path]:
    """Return a path, and after a default one that of the INI file that py-experimenter looked for.

    Raises
    ------
    InvalidValueError
        As raised by `absolute_path`.
    """
    absolute_path(path)
    path = Path(path)
    return [path, path.with_suffix(".cfg")] if path in (Path(DEFAULT_CONFIG), Path(DEFAULT_CREDENTIALS)) else [path]


def found(path: str | PathLike[str]) -> Path:
    """Return the first of the candidates that exists, or the first one if none does."""
    return next((candidate for candidate in candidates(path) if os.path.exists(candidate)), Path(path))


@contextmanager
def written_whole(path: Path) -> Iterator[str]:
    """Yield the name of a file to write, which takes the place of `path` at the end of the block, unless it raises."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """Return the umask of the process, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
