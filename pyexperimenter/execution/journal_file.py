"""A file that keeps results while the database is away: JSON lines, each flushed to disk before the next."""

from __future__ import annotations

import base64
import errno
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from pyexperimenter.database.records import Attempt, Ending, Note, Usage
from pyexperimenter.machine.locks import lock
from pyexperimenter.machine.system import POSIX

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # on some network file systems, which cannot lock
SUFFIX = ".journal.jsonl"
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows lets only administrators make links
_BYTES = "\0base64"  # key of an object with bytes; no column has such a name


class Entry(NamedTuple):
    """A line of a journal: the worker, its attempt, and what it has to write."""

    worker: str
    attempt: Attempt
    note: Note


class Content(NamedTuple):
    """What a journal has.

    Attributes
    ----------
    entries : dict of bytes to Entry
        Its lines in order, each note once.
    unreadable : dict of bytes to str
        The lines that are not entries, and why.
    size : int
        How many bytes it had.
    """

    entries: dict[bytes, Entry]
    unreadable: dict[bytes, str]
    size: int


class JournalFile:
    """An open journal, which no other process can open. Get one from `open_journal`.

    Parameters
    ----------
    path : Path
        The file.
    file : file object
        The open file, locked.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self._file = file

    def add(self, entry: Entry) -> None:
        """Append an entry and flush it to disk.

        Raises
        ------
        OSError
            If it cannot be written. Then no part of it is.
        """
        line = {"worker": entry.worker, "attempt": asdict(entry.attempt), "note": asdict(entry.note)}
        self._append(json.dumps(line, default=_plain).encode())

    def _append(self, line: bytes) -> None:
        end = self.size
        try:
            self._file.seek(max(end - 1, 0))
            torn = self._file.read(1) not in (b"", b"\n")  # a writer was stopped within a line
            self._write((b"\n" if torn else b"") + line + b"\n")
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            raise

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return os.fstat(self._file.fileno()).st_size

    def read(self) -> Content:
        """Return what it has. Nothing in it can raise an error."""
        self._file.seek(0)
        data = self._file.read()
        entries, unreadable, tokens = {}, {}, set()
        for line in filter(None, data.split(b"\n")):
            try:
                entry = _entry(line)
            except Exception as error:
                unreadable[line] = f"{line[:60]!r} is not an entry of this version: {type(error).__name__}: {error}"
            else:
                if entry.note.token not in tokens:
                    entries[line] = entry
                tokens.add(entry.note.token)
        return Content(entries, unreadable, len(data))

    def set_aside(self, lines: Iterable[bytes]) -> Path:
        """Append lines to a file that is not a journal, and return its path."""
        path = self.path.with_name(f"{self.path.name}.rejected")
        _keep(path, lines)
        return path

    def close(self, left: Iterable[bytes] | None = None) -> None:
        """Close the file; with `left`, keep only these lines, or delete the file if there are none."""
        rest = self.path.with_suffix(".new")
        if left:
            rest.unlink(missing_ok=True)
            _keep(rest, left)
        if not POSIX:
            self._file.close()  # Windows keeps open files as they are
        # If another process has opened it since, that one writes all of it once more, which does no harm.
        with suppress(*(() if POSIX else (PermissionError,))):
            if left:
                rest.replace(self.path)
            elif left is not None:
                self.path.unlink(missing_ok=True)
        self._file.close()


def _keep(path: Path, lines: Iterable[bytes]) -> None:
    with _open(path) as file:
        copy = JournalFile(path, file)
        for line in lines:
            copy._append(line)
    _sync_directory(path.parent)


def open_journal(path: Path, wait: bool) -> JournalFile | None:
    """Open a journal, and create it if it is missing.

    Parameters
    ----------
    path : Path
        The file.
    wait : bool
        Whether to wait while another process has it open; if not, return None then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = _open(path)
        try:
            _lock(file, wait)
            if os.fstat(file.fileno()).st_ino == path.lstat().st_ino:
                break
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise
        file.close()  # another process has written it to the database and deleted it
    _sync_directory(path.parent)
    return JournalFile(path, file)


def _open(path: Path) -> FileIO:
    """Open a file to append to, unless it is a link, which another user may have put into a shared directory."""
    return open(path, "a+b", buffering=0, opener=lambda name, flags: os.open(name, flags | _NO_LINKS, 0o666))


def _lock(file: FileIO, wait: bool) -> None:
    try:
        lock(file.fileno(), wait)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _entry(line: bytes) -> Entry:
    content = json.loads(line.decode(), object_hook=_restored)
    fields = dict(content["note"])
    if fields["ending"] is not None:
        fields["ending"] = Ending(**{**fields["ending"], "usage": Usage(**fields["ending"]["usage"])})
    entry = Entry(content["worker"], Attempt(**content["attempt"]), Note(**fields))
    hash((entry.worker, entry.attempt, entry.note.token))  # TypeError unless they are numbers and texts
    return entry


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    raise TypeError(f"{value!r} cannot be written to a journal")


def _restored(value: dict[str, Any]) -> Any:
    return base64.b64decode(value[_BYTES]) if value.keys() == {_BYTES} else value


def _sync_directory(directory: Path) -> None:
    """Flush the name of a new file to disk."""
    if not POSIX:
        return  # Windows opens no directories
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
