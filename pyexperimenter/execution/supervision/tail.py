"""The end of an experiment's output."""

from __future__ import annotations

MAX_BYTES = 64 * 1024


class Tail:
    r"""Keeps the end of a stream of bytes, at most 64 KiB of UTF-8 including a note on what was left out.

    Attributes
    ----------
    seen : int
        Total number of bytes printed.

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
        """Append output."""
        self.seen += len(data)
        self._kept += data
        if len(self._kept) > 2 * MAX_BYTES:
            del self._kept[:-MAX_BYTES]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.seen = 0

    def text(self, max_bytes: int = MAX_BYTES) -> str | None:
        """Return the end as text that every database accepts; None without output."""
        if not self.seen:
            return None
        room = max_bytes - 100  # for the note
        # Replacing invalid UTF-8 makes the text longer, so it is cut afterwards.
        clean = bytes(self._kept).decode(errors="replace").replace("\0", "\\0").encode()
        if self.seen <= max_bytes and len(clean) <= max_bytes:
            return clean.decode()
        end = clean[-room:].decode(errors="ignore")  # the cut may split a character
        return f"... {max(self.seen, len(clean)) - len(end.encode())} bytes left out ...\n{end}"
