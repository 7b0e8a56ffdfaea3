"""YAML text -> plain data and the line of every key; a key that stands twice in a section is refused."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import yaml

from pyexperimenter.config.messages import KeyPath
from pyexperimenter.config.source import FileProblem, Lines
from pyexperimenter.exceptions import DuplicateKeyError
from pyexperimenter.jsonable import shown

if TYPE_CHECKING:
    from yaml import SafeLoader as _FastestLoader
else:
    # The parser in C is some ten times faster: a list of 10,000 values is read in a tenth of a second.
    _FastestLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_MAP, _SEQUENCE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_TIMESTAMP, _FLOAT = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"


def _resolvers_without(*tags: str, only: tuple[str, ...] = ()) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    return {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in tags and (not only or tag in only)]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _ConfigLoader(_FastestLoader):
    """Reads scalars as the predecessor did: ``1e-3`` is a number, a date stays the text that it is."""

    yaml_implicit_resolvers = _resolvers_without(_TIMESTAMP)


_ConfigLoader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789"))


class _TextLoader(_FastestLoader):
    """Reads every scalar but null as the text that it is."""

    yaml_implicit_resolvers = _resolvers_without(only=(_NULL, _MERGE))


def read(text: str, as_text: bool = False) -> tuple[Any, Lines]:
    """Parse YAML.

    Parameters
    ----------
    text : str
        The YAML.
    as_text : bool
        Leave scalars the texts that they are.

    Raises
    ------
    FileProblem
        If it is not YAML, or holds a key twice.
    """
    try:
        loader = (_TextLoader if as_text else _ConfigLoader)(text)
        try:
            root = loader.get_single_node()
            reader = _Reader(loader)
            return (None if root is None else reader.read(root, ())), reader.lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _problem(error, text) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise FileProblem(
            f"the character {_character(error)} cannot stand in YAML; is this a text file?", line
        ) from None


class _Reader:
    """Walks the nodes of a parsed file; `lines` fills on the way."""

    def __init__(self, loader: _FastestLoader) -> None:
        self.lines = Lines()
        self._loader = loader
        self._open: list[yaml.Node] = []

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        if any(node is outer for outer in self._open):
            raise FileProblem("this alias contains itself", node.start_mark.line + 1, path=path)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
                return self._sequence(node, path)
            return self._loader.construct_object(node, deep=True)
        except ValueError as error:  # an int or float with an explicit tag that is none
            raise FileProblem(str(error), node.start_mark.line + 1, path=path) from None
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Any]:
        self._refuse_duplicates(node, path)
        self._loader.flatten_mapping(node)  # resolves `<<`; what it merges comes first, so that own keys win
        result = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            scalar = isinstance(value_node, yaml.ScalarNode)
            self.lines[(*path, key)] = (value_node if scalar else key_node).start_mark.line + 1
            result[key] = self.read(value_node, (*path, key))
        return result

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        result = []
        for index, item in enumerate(node.value):
            self.lines[(*path, index)] = item.start_mark.line + 1
            result.append(self.read(item, (*path, index)))
        return result

    def _refuse_duplicates(self, node: yaml.MappingNode, path: KeyPath) -> None:
        first_lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key, line = self._key(key_node, path), key_node.start_mark.line + 1
            if key in first_lines:
                raise FileProblem(
                    f"the key stands twice here, first on line {first_lines[key]}; delete or rename one",
                    line,
                    kind=DuplicateKeyError,
                    path=(*path, key),
                )
            first_lines[key] = line

    def _key(self, node: yaml.Node, path: KeyPath) -> Any:
        key = self._loader.construct_object(node, deep=True)
        if not isinstance(key, Hashable):
            raise FileProblem(f"{shown(key)} cannot be a key; give a text", node.start_mark.line + 1, path=path)
        return key


def _problem(error: yaml.MarkedYAMLError, text: str) -> FileProblem:
    """Say in one line where the YAML breaks, with the remedy where the usual mistakes can be told."""
    mark = error.problem_mark or error.context_mark
    number = mark.line if mark is not None else 0
    column = mark.column if mark is not None else 0
    lines = text.splitlines()
    line = lines[number] if number < len(lines) else ""
    if "\t" in line[: column + 1]:
        remedy = "; indent with spaces, not with tabs"
    elif "${" in line:
        remedy = "; put quotes around a text with ${...}"
    else:
        remedy = "; check indentation, brackets and quotes here and just above"
    return FileProblem(f"not valid YAML: {error.problem}{remedy}", number + 1, column + 1)


def _character(error: yaml.reader.ReaderError) -> str:
    return f"#x{error.character:04x}" if isinstance(error.character, int) else repr(error.character)
