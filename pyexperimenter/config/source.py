"""What a configuration file says besides its data: the line of each key and problem, and the texts of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyexperimenter.config.messages import KeyPath
from pyexperimenter.exceptions import InvalidConfigError

MOST_LEVELS = 100
"""How deep sections and lists may be nested; Python's own limit depends on who calls."""


def is_for_anchors(key: object) -> bool:
    """Return whether a top-level key is left alone. In YAML, its value is read where aliases repeat it."""
    return str(key).startswith(("x-", "."))


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


@dataclass(frozen=True, slots=True, repr=False)
class Written:
    """A number or boolean as YAML reads it, and as it is written: 3.10 is the number 3.1 and the text '3.10'."""

    value: bool | int | float
    text: str

    def __repr__(self) -> str:
        return repr(self.value)


def plain(data: Any, for_programs: bool = False) -> Any:
    """Return nested dicts and lists with the values of all numbers and booleans.

    Parameters
    ----------
    data : Any
        Dicts, lists and scalars.
    for_programs : bool
        Whether the data are options of a program, which gets numbers as they are written.

    Examples
    --------
    >>> plain({"versions": [Written(3.1, "3.10"), "3.10"]})
    {'versions': [3.1, '3.10']}
    >>> plain({"nodes": Written(2, "2"), "account": Written(83, "0123"), "requeue": Written(True, "yes")}, True)
    {'nodes': 2, 'account': '0123', 'requeue': True}
    """
    if isinstance(data, Written):
        is_changed = for_programs and not isinstance(data.value, bool) and str(data.value) != data.text
        return data.text if is_changed else data.value
    if isinstance(data, dict):
        return {key: plain(item, for_programs) for key, item in data.items()}
    return [plain(item, for_programs) for item in data] if isinstance(data, list) else data


def _folded(path: KeyPath) -> KeyPath:
    return tuple(key if type(key) is int else str(key).casefold() for key in path)
