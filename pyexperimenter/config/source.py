"""Where things are in the text of a configuration: the line of every key, and what keeps a file from being read."""

from __future__ import annotations

from pyexperimenter.config.messages import KeyPath
from pyexperimenter.exceptions import InvalidConfigError


class FileProblem(Exception):
    """What is wrong with a file's text, before it can be told which key is meant."""

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
    """The line of every key path. Paths are looked up without regard to letter case, as sections are."""

    def __init__(self) -> None:
        self._lines: dict[KeyPath, int] = {}

    def __setitem__(self, path: KeyPath, line: int) -> None:
        self._lines[_folded(path)] = line

    def of(self, path: KeyPath) -> int | None:
        """Return the line of `path`, or of the nearest section around it."""
        folded = _folded(path)
        return next((self._lines[p] for end in range(len(folded), 0, -1) if (p := folded[:end]) in self._lines), None)


def _folded(path: KeyPath) -> KeyPath:
    return tuple(key if type(key) is int else str(key).casefold() for key in path)
