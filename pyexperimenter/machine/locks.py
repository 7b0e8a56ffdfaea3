"""Locks that all processes of a user on a machine share: on files in a directory that only this user can write to.

A lock does not outlive its process, even if that is killed, while a pid in a file may later belong to another process.
The files remain after their locks are released: if one were deleted, a second process could lock a new file of the same
name. (systemd, which cleans the temporary directory, spares locked files.)
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pyexperimenter.machine.system import at_fork, user_id

try:
    import fcntl
except ImportError:  # on Windows, which locks parts of files
    import msvcrt

    _LOCKED_BYTE = 2**31 - 1  # no other process can read it
    _TICK = 0.05  # seconds between two tries

    def lock(descriptor: int, wait: bool) -> None:
        """Lock an open file. BlockingIOError: it is locked elsewhere, and this call does not wait."""
        while True:
            try:
                _change_lock(descriptor, msvcrt.LK_NBLCK)  # type: ignore[attr-defined]
                return
            except PermissionError as error:
                if not wait:
                    raise BlockingIOError(error.errno, error.strerror) from error
            time.sleep(_TICK)

    def unlock(descriptor: int) -> None:
        """Unlock a file."""
        _change_lock(descriptor, msvcrt.LK_UNLCK)  # type: ignore[attr-defined]

    def _change_lock(descriptor: int, mode: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, mode, 1)  # type: ignore[attr-defined]

else:

    def lock(descriptor: int, wait: bool) -> None:
        """Lock an open file. BlockingIOError: it is locked elsewhere, and this call does not wait."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def unlock(descriptor: int) -> None:
        """Unlock a file. Closing it is not enough while a new process still has it open."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileLock:
    """A lock on a file, held until `release`, or the end of the block or the process. Forks do not inherit it.

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

    def release(self) -> None:
        """Release the lock."""
        if self in _held:  # not in a fork, where its descriptor may be that of another file
            _held.remove(self)
            unlock(self._descriptor)
            os.close(self._descriptor)


_held: set[FileLock] = set()


def lock_file(file: Path, wait: bool = False) -> FileLock | None:
    """Lock a file; create it if it does not exist.

    Parameters
    ----------
    file : Path
        The file.
    wait : bool
        Wait until the lock is free.

    Returns
    -------
    FileLock or None
        None if another process holds the lock.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(descriptor, wait)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return FileLock(descriptor)


def own_directory() -> Path | None:
    """Return the user's own directory in the temporary directory; None if there is none only this user can write to."""
    name = "pyexperimenter" if user_id() is None else f"pyexperimenter-{user_id()}"
    try:
        own = Path(tempfile.gettempdir(), name)
    except FileNotFoundError:  # all directories for temporary files are full or read-only
        return None
    with suppress(OSError):
        own.mkdir(mode=0o700, exist_ok=True)
    return own if _is_ours(own) else None


def runtime_directory() -> Path | None:
    """Return the directory for files of this login, or else `own_directory`; None if other users can write to it."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and _is_ours(Path(given)):  # jobs and `su` inherit it even if it is missing or another user's
        return Path(given)
    return own_directory()


def _is_ours(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except OSError:
        return False
    # Without IDs, as on Windows, each user has a temporary directory.
    is_safe = user_id() is None or (found.st_uid == user_id() and not found.st_mode & 0o022)
    return stat.S_ISDIR(found.st_mode) and is_safe


def _close_inherited() -> None:
    """Close the parent's locks in a forked child; otherwise they would be held until the child ends."""
    for lock in _held:
        os.close(lock._descriptor)
    _held.clear()


at_fork(after_in_child=_close_inherited)
