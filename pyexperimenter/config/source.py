"""Positions in a configuration file: the line of each key, and the line of a problem in the text."""

from __future__ import annotations

from pyexperimenter.config.messages import KeyPath
from pyexperimenter.exceptions import InvalidConfigError

MOST_LEVELS = 100
"""How deep sections and lists may be nested; Python's own limit depends on who calls."""


class FileProblem(Exception):
    """A problem in the text of a file; `document` turns it into an error of the given kind, with the file's name."""

    def __init__(
        self,
        text: str,
        line: int,
        column: int | None = None,
        kind: type[InvalidConfigError] = InvalidConfigError,
        path: KeyPath = (),
    ) -> None:
        super().__init__(text)
        self.line = line
        self.column = column
        self.kind = kind
        self.path = path


class Lines:
    """The line of each key path. Lookups ignore case, as section names do."""

    def __init__(self) -> None:
        self._lines: dict[KeyPath, int] = {}

    def __setitem__(self, path: KeyPath, line: int) -> None:
        self._lines[_folded(path)] = line

    def of(self, path: KeyPath) -> int | None:
        """Return the line of `path`, or of the innermost section around it that has one."""
        folded = _folded(path)
        return next((self._lines[p] for end in range(len(folded), 0, -1) if (p := folded[:end]) in self._lines), None)


def _folded(path: KeyPath) -> KeyPath:
    return tuple(key if type(key) is int else str(key).casefold() for key in path)
