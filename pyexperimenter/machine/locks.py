"""Locks that all processes of a user on a machine see: on files in a directory in which nobody else may write.

A lock cannot outlive its holder, however that dies; a pid in a file may by then be somebody else's. Files stay when
their locks are gone: to delete one would let a second process lock a new file of the same name. (systemd, which cleans
the temporary directory, spares those that are locked.)
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


class FileLock:
    """A lock on a file, until `release`, the end of the block, or that of this process. Forks do not have it.

    Parameters
    ----------
    descriptor : int
        The open file, locked.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _held.add(self)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def write(self, text: str) -> None:
        """Append to the file."""
        os.write(self._descriptor, text.encode())

    def release(self) -> None:
        """Let others lock the file."""
        if self in _held:  # in a fork it is the parent's, and the number of its descriptor may be anybody's
            _held.remove(self)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # to close it is not enough while a new process still has it
            os.close(self._descriptor)


_held: set[FileLock] = set()


def lock_file(file: Path, wait: bool = False) -> FileLock | None:
    """Lock a file and empty it; it is made if it is missing.

    Parameters
    ----------
    file : Path
        The file.
    wait : bool
        Whether to wait for it.

    Returns
    -------
    FileLock or None
        None if somebody else has it.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    return FileLock(descriptor)


def own_directory() -> Path | None:
    """Return the user's own in the temporary directory, the same for all logins; None if others may write in it."""
    own = Path(tempfile.gettempdir(), f"pyexperimenter-{os.getuid()}")
    with suppress(OSError):
        own.mkdir(mode=0o700, exist_ok=True)
    return own if _is_ours(own) else None


def runtime_directory() -> Path | None:
    """Return that of this login, or else the user's own, if nobody else may write in it."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and _is_ours(Path(given)):  # jobs and `su` inherit it where it is not there, or another user's
        return Path(given)
    return own_directory()


def _is_ours(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _forget() -> None:
    """In the child of a fork: leave all to the parent, whose locks would else be held until the child ends."""
    for lock in _held:
        os.close(lock._descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
