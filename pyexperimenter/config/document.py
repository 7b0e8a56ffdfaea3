"""A configuration as read from its file: plain data, and the line of each key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from pyexperimenter.config import ini_file, yaml_file
from pyexperimenter.config.messages import dotted
from pyexperimenter.config.model import KeptConfig
from pyexperimenter.config.source import FileProblem, Lines, is_for_anchors
from pyexperimenter.exceptions import ConfigError, InvalidConfigError, NoConfigFileError
from pyexperimenter.jsonable import ADDRESS, unwrap
from pyexperimenter.paths import absolute_path, candidates, found

_INI_SUFFIXES = (".cfg", ".ini", ".conf")
_LONGEST_ARRAY = 1000  # items; from here on, its text is shortened


@dataclass(frozen=True)
class Document:
    """A configuration as read, not yet checked.

    Attributes
    ----------
    source : str
        Path of the file, as given, or ``<dict>``.
    text : str
        The text of the file, or the dict as JSON.
    data : Any
        Nested dicts, lists and scalars; numbers and booleans of YAML are `Written`.
    lines : Lines
        The line of each key; empty for a dict.
    warnings : sequence of InvalidConfigError
        What is hardly meant, such as what nothing uses.
    """

    source: str
    text: str
    data: Any
    lines: Lines = field(default_factory=Lines)
    warnings: Sequence[InvalidConfigError] = ()

    def locate(self, error: InvalidConfigError) -> InvalidConfigError:
        """Return the same error with file, line and key path in front of its message."""
        line = self.lines.of(error.path)
        parts = [self.source if line is None else f"{self.source}:{line}", dotted(error.path), str(error)]
        return type(error)(": ".join(part for part in parts if part), error.path)

    def first(self, errors: Sequence[InvalidConfigError]) -> InvalidConfigError:
        """Return the error that comes first in the file; its message says how many more there are."""
        first = min(errors, key=lambda error: self.lines.of(error.path) or 0)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return type(first)(f"{first}{more}", first.path)


def document_of(source: str | PathLike[str] | Mapping[str, Any] | KeptConfig) -> Document:
    """Read a configuration from a file, a dict, or the database that keeps it.

    Raises
    ------
    NoConfigFileError
        If the file does not exist.
    ConfigError
        If it cannot be read.
    InvalidConfigError
        If it is neither YAML nor INI, or contains a key twice.
    """
    if isinstance(source, Mapping):
        data = {key: section for key, section in source.items() if not is_for_anchors(key)}
        return Document("<dict>", _as_json(data), data)
    if isinstance(source, KeptConfig):
        with suppress(ValueError):  # the text of a dict is JSON, whose escapes are not those of YAML
            return Document(source.source, source.text, json.loads(source.text))
        return _parsed(source.text.encode(), Path(source.source))
    path = found(source)
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        searched = " or ".join(str(absolute_path(candidate)) for candidate in candidates(source))
        raise NoConfigFileError(
            f"{searched}: there is no such configuration file; give the path of a YAML or INI file "
            "(relative paths start at the working directory)"
        ) from None
    except OSError as error:
        raise ConfigError(f"{absolute_path(path)}: the file cannot be read: {error.strerror}") from error
    return _parsed(content, path)


def _parsed(content: bytes, path: Path) -> Document:
    try:
        return parsed(content, path)
    except FileProblem as problem:
        place = f"{path}:{problem.line}" if problem.column is None else f"{path}:{problem.line}:{problem.column}"
        parts = [place, dotted(problem.path), str(problem)]
        raise problem.kind(": ".join(part for part in parts if part), problem.path) from None


def _as_json(source: Mapping[str, Any]) -> str:
    try:
        return json.dumps(source, default=_plainer)
    except (TypeError, ValueError, RecursionError) as error:  # odd keys, huge integers, a dict in itself
        raise InvalidConfigError(f"<dict>: {error}") from None


def _plainer(value: Any) -> Any:
    """Return a value that `json` does not know as one that it knows, such as an array as a list."""
    if isinstance(value, Mapping):
        return dict(value)
    shape = getattr(value, "shape", ())
    is_data = isinstance(shape, tuple) and math.prod(shape) > _LONGEST_ARRAY
    plain = value if is_data else unwrap(value)
    return ADDRESS.sub("", str(value)) if plain is value else plain  # the same text in each process


def parsed(content: bytes, path: Path, credentials: bool = False) -> Document:
    """Parse the content of a file.

    Parameters
    ----------
    content : bytes
        The bytes of the file.
    path : Path
        Its path, whose suffix may decide the format.
    credentials : bool
        Read a credential file: scalars stay strings, so that the password 0123 does not become a number.

    Raises
    ------
    FileProblem
        If it cannot be parsed.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileProblem("this is not UTF-8 text; save the file as UTF-8", line) from None
    if not is_ini(text, path):
        return Document(str(path), text, *yaml_file.read(text, as_text=credentials))
    return Document(str(path), text, *(ini_file.read_credentials(text) if credentials else ini_file.read(text)))


def is_ini(text: str, path: Path = Path()) -> bool:
    """Return whether a configuration is an INI file, and not YAML."""
    if path.suffix.lower() in _INI_SUFFIXES:
        return True
    stripped = (line.strip() for line in text.splitlines())
    return next((line.startswith("[") for line in stripped if line and line[0] not in "#;"), False)
