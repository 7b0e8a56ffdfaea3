"""A file in which results wait while the database is away: JSON lines, each on the disk before the next is written."""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from pyexperimenter.database.records import Attempt, Ending, Note, Usage

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # on some network file systems, which cannot lock
SUFFIX = ".journal.jsonl"
_BYTES = "\0base64"  # key of an object that stands for bytes; no column has such a name


class Entry(NamedTuple):
    """A line of a journal: who noted what, for which execution."""

    worker: str
    attempt: Attempt
    note: Note


class JournalFile:
    """An open journal, which no other process opens meanwhile. Make it by `open_journal`.

    Parameters
    ----------
    path : Path
        Where it is.
    file : file object
        The open file, locked.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self._file = file

    def add(self, entry: Entry) -> None:
        """Append an entry; it is on the disk at the end of this call.

        Raises
        ------
        OSError
            If it cannot be written; nothing of it is.
        """
        line = {"worker": entry.worker, "attempt": asdict(entry.attempt), "note": asdict(entry.note)}
        end = os.fstat(self._file.fileno()).st_size
        try:
            torn = end and os.pread(self._file.fileno(), 1, end - 1) != b"\n"  # its writer was stopped in a line
            self._write((b"\n" if torn else b"") + json.dumps(line, default=_plain).encode() + b"\n")
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            raise

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]

    def entries(self, logger: logging.Logger) -> list[Entry]:
        """Return the entries in their order, each once; a line that was not written to its end is told and left out."""
        found: dict[str, Entry] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            if line:
                try:
                    entry = _entry(json.loads(line, object_hook=_restored))
                except ValueError:
                    logger.warning(
                        "%s: a line is not complete, as its writer was stopped in the middle of it", self.path
                    )
                else:
                    found.setdefault(entry.note.token, entry)
        return list(found.values())

    def close(self, left: Sequence[Entry] | None = None) -> None:
        """Close the file; with `left`, keep these entries only, or delete it if there are none."""
        if left:
            rest = self.path.with_suffix(".new")
            with rest.open("w+b", buffering=0) as file:
                copy = JournalFile(rest, file)
                for entry in left:
                    copy.add(entry)
            rest.replace(self.path)
        elif left is not None:
            self.path.unlink()
        self._file.close()


def open_journal(path: Path, wait: bool) -> JournalFile | None:
    """Open a journal, and make it if it is missing.

    Parameters
    ----------
    path : Path
        Where it is.
    wait : bool
        Whether to wait for another process that has it open; without, None is returned then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+b", buffering=0)
        try:
            _lock(file, wait)
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        file.close()  # it was written to the database and deleted before we had it
    _sync_directory(path.parent)
    return JournalFile(path, file)


def _lock(file: FileIO, wait: bool) -> None:
    import fcntl  # not on Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _entry(line: Mapping[str, Any]) -> Entry:
    fields = dict(line["note"])
    if fields["ending"] is not None:
        fields["ending"] = Ending(**{**fields["ending"], "usage": Usage(**fields["ending"]["usage"])})
    return Entry(line["worker"], Attempt(**line["attempt"]), Note(**fields))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    raise TypeError(f"{value!r} has no place in a journal")


def _restored(value: dict[str, Any]) -> Any:
    return base64.b64decode(value[_BYTES]) if value.keys() == {_BYTES} else value


def _sync_directory(directory: Path) -> None:
    """Make sure that a new file's name is on the disk, too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
