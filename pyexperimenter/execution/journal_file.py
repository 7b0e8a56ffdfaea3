"""A file that keeps results while the database is away: JSON lines, each flushed to disk before the next."""

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
_BYTES = "\0base64"  # key of an object with bytes; no column has such a name


class Entry(NamedTuple):
    """A line of a journal: the worker, its attempt, and what it has to write."""

    worker: str
    attempt: Attempt
    note: Note


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
        end = os.fstat(self._file.fileno()).st_size
        try:
            torn = end and os.pread(self._file.fileno(), 1, end - 1) != b"\n"  # a writer was stopped within a line
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
        """Return the entries in order, each once. Incomplete lines are logged and skipped."""
        found: dict[str, Entry] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            if line:
                try:
                    entry = _entry(json.loads(line, object_hook=_restored))
                except ValueError:
                    logger.warning("%s: skipped an incomplete line; its writer was stopped while writing it", self.path)
                else:
                    found.setdefault(entry.note.token, entry)
        return list(found.values())

    def close(self, left: Sequence[Entry] | None = None) -> None:
        """Close the file; with `left`, keep only these entries, or delete the file if there are none."""
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
        file.close()  # another process has written it to the database and deleted it
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
    raise TypeError(f"{value!r} cannot be written to a journal")


def _restored(value: dict[str, Any]) -> Any:
    return base64.b64decode(value[_BYTES]) if value.keys() == {_BYTES} else value


def _sync_directory(directory: Path) -> None:
    """Flush the name of a new file to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
