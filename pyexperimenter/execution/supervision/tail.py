"""The last of what an experiment printed."""

from __future__ import annotations

LARGEST = 64 * 1024  # bytes


class Tail:
    r"""Keeps the end of a stream of bytes, at most 64 KiB of UTF-8 with the mark that tells what is missing.

    Attributes
    ----------
    seen : int
        Bytes printed in all.

    Examples
    --------
    >>> tail = Tail()
    >>> tail.add(b"a" * 70_000 + b"the end")
    >>> tail.text()[:29], tail.text()[-7:], len(tail.text())
    ('... 4571 bytes left out ...\na', 'the end', 65464)
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self.seen = 0

    def add(self, data: bytes) -> None:
        """Append what was printed."""
        self.seen += len(data)
        self._kept += data
        if len(self._kept) > 2 * LARGEST:
            del self._kept[:-LARGEST]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.seen = 0

    def text(self, largest: int = LARGEST) -> str | None:
        """Return the end as text that every database takes; None if nothing was printed."""
        if not self.seen:
            return None
        room = largest - 100  # for the mark
        # What is no UTF-8 grows when it is replaced, so the cut comes after that.
        clean = bytes(self._kept).decode(errors="replace").replace("\0", "\\0").encode()
        if self.seen <= largest and len(clean) <= largest:
            return clean.decode()
        end = clean[-room:].decode(errors="ignore")  # the cut may go through a letter
        return f"... {max(self.seen, len(clean)) - len(end.encode())} bytes left out ...\n{end}"
