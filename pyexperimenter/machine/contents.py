"""Files in a folder, named by the hash of what is in them."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Collection, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

_YOUNG = 3600.0  # seconds in which a file may have been added whose use is not recorded yet
_BLOCK = 2**20


def hash_of(source: str | os.PathLike[str] | bytes) -> tuple[str, int]:
    """Return the SHA-256 and the size of bytes, or of what is in a file."""
    digest, size = hashlib.sha256(), 0
    for block in _blocks(source):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


class Contents:
    """A folder of files that are named by their SHA-256, so that equal ones are kept once.

    A file is there completely or not at all, also if several processes add it at the same time.

    Parameters
    ----------
    folder : str or Path
        The folder, which is created with the first file.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def add(self, source: str | os.PathLike[str] | bytes) -> tuple[str, int]:
        """Keep the bytes, or what is in a file; return the hash and the size in bytes.

        Raises
        ------
        OSError
            If it cannot be read or written. Nothing is left of it then.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        digest, size, copy = hashlib.sha256(), 0, self._folder / f".{uuid.uuid4().hex}"
        try:
            with open(copy, "xb") as file:
                for block in _blocks(source):
                    digest.update(block)
                    size += len(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            path = self.path(digest.hexdigest())
            path.parent.mkdir(exist_ok=True)
            os.replace(copy, path)  # also one that is there: it is young again, so that it is not pruned now
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        return digest.hexdigest(), size

    def path(self, digest: str) -> Path:
        """Return where the file with this hash is, or would be."""
        return self._folder / digest[:2] / digest

    def prune(self, keep: Collection[str], dry_run: bool = False) -> int:
        """Remove all files but those with these hashes, and those that are so young that they may be in use.

        Returns
        -------
        int
            How many were (or would be) removed.
        """
        before, removed = time.time() - _YOUNG, 0
        for path in self._files():
            if path.name not in keep and path.stat().st_mtime < before:
                removed += 1
                if not dry_run:
                    path.unlink(missing_ok=True)
        return removed

    def _files(self) -> Iterator[Path]:
        """Yield all files, also those that a process which died had begun."""
        yield from self._folder.glob(".*")
        yield from self._folder.glob("??/*")


def _blocks(source: str | os.PathLike[str] | bytes) -> Iterator[bytes]:
    with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as data:
        yield from iter(partial(data.read, _BLOCK), b"")
