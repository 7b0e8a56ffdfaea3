"""Shows on stdout what supervised experiments print, as it comes."""

from __future__ import annotations

import codecs
import re
import sys
import threading
from contextlib import suppress

_END_OF_LINE = re.compile(r"(\r\n|\n|\r)")  # progress bars end their lines with \r

_lock = threading.Lock()
_unfinished: Echo | None = None  # whose line is the last one shown, if it has no end yet


class Echo:
    """Shows the output of one process, with a label before each line. Nothing is held back until its line ends.

    Attributes
    ----------
    label : str
        Names what prints.
    """

    def __init__(self) -> None:
        self.label = "worker"
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(self, data: bytes) -> None:
        """Show output; that of another process never continues an unfinished line."""
        global _unfinished  # noqa: PLW0603 - all share stdout
        *parts, rest = _END_OF_LINE.split(self._decoder.decode(data))
        if not (parts or rest):
            return
        with _lock:
            shown = []
            if _unfinished not in (None, self):
                shown.append("\n")
            begins = _unfinished is not self
            for text, end in zip(parts[::2], parts[1::2], strict=True):
                shown += [f"[{self.label}] " if begins else "", text, end]
                begins = True
            if rest:
                shown += [f"[{self.label}] " if begins else "", rest]
            _unfinished = self if rest else None
            _write("".join(shown))

    def end(self) -> None:
        """End an unfinished line: what follows belongs to another experiment."""
        if _unfinished is self:
            self.show(b"\n")


def _write(text: str) -> None:
    with suppress(ValueError, OSError):  # stdout is closed, or its reader is gone
        sys.stdout.write(text)
        sys.stdout.flush()
