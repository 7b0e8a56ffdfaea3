"""YAML, read into nested dicts and lists with the line of each key. A key twice in a section is an error."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import yaml

from pyexperimenter.config.messages import KeyPath, odd_space
from pyexperimenter.config.source import MOST_LEVELS, FileProblem, Lines, Written, is_for_anchors
from pyexperimenter.exceptions import DuplicateKeyError
from pyexperimenter.jsonable import shown

if TYPE_CHECKING:
    from yaml import SafeLoader as _FastestLoader
else:
    # The parser written in C is about ten times faster: it reads a list of 10,000 values in a tenth of a second.
    _FastestLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_MOST_REPEATED = 100_000

_COLON_MISSES = re.compile(r"\s*[\w-]+(?:\s[^:]*)?")
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_MAP, _SEQUENCE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_TIMESTAMP, _FLOAT = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"


def _resolvers_without(*tags: str, only: tuple[str, ...] = ()) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    return {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in tags and (not only or tag in only)]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _ConfigLoader(_FastestLoader):
    """Reads scalars as py-experimenter did: ``1e-3`` is a number, and dates stay strings."""

    yaml_implicit_resolvers = _resolvers_without(_TIMESTAMP)


_ConfigLoader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789"))


class _TextLoader(_FastestLoader):
    """Reads all scalars except null as strings."""

    yaml_implicit_resolvers = _resolvers_without(only=(_NULL, _MERGE))


def read(text: str, as_text: bool = False) -> tuple[Any, Lines]:
    """Parse YAML. Numbers and booleans are `Written`.

    Parameters
    ----------
    text : str
        The YAML.
    as_text : bool
        Leave all scalars except null strings.

    Raises
    ------
    FileProblem
        If it is not YAML, or contains a key twice.
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
            f"YAML cannot contain the character {_character(error)}; is this a text file?", line
        ) from None
    except (ValueError, RecursionError) as error:  # of the parser in Python, which has no libyaml
        raise FileProblem(f"not valid YAML: {error}", 1) from None


class _Reader:
    """Converts the nodes of a parsed file, and notes the line of each key in `lines`."""

    def __init__(self, loader: _FastestLoader) -> None:
        self.lines = Lines()
        self._loader = loader
        self._open: list[yaml.Node] = []
        self._seen: set[yaml.Node] = set()
        self._repeated = 0  # nodes that aliases have repeated

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        if any(node is outer for outer in self._open):
            raise FileProblem("this alias contains itself", node.start_mark.line + 1, path=path)
        if len(path) > MOST_LEVELS:
            raise FileProblem(f"this is nested more than {MOST_LEVELS} levels deep", node.start_mark.line + 1)
        self._repeated += node in self._seen
        if self._repeated > _MOST_REPEATED:
            raise FileProblem(
                f"the aliases repeat more than {_MOST_REPEATED} values; write a range, or fewer aliases within aliases",
                node.start_mark.line + 1,
                path=path,
            )
        self._seen.add(node)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
                return self._sequence(node, path)
            value = self._loader.construct_object(node, deep=True)
            return Written(value, node.value) if isinstance(value, (int, float)) else value
        except (ValueError, AttributeError, KeyError, IndexError) as error:  # of an explicit tag on something else
            message = f"{node.value!r} is not a valid !!{node.tag.rpartition(':')[2]}: {error}"
            raise FileProblem(message, node.start_mark.line + 1, path=path) from None
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Any]:
        self._refuse_duplicates(node, path)
        self._loader.flatten_mapping(node)  # resolves `<<`: merged keys come first, so that the section's own keys win
        result = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if not path and is_for_anchors(key):
                continue
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
                    f"the key appears twice in this section, first on line {first_lines[key]}; delete or rename one",
                    line,
                    kind=DuplicateKeyError,
                    path=(*path, key),
                )
            first_lines[key] = line

    def _key(self, node: yaml.Node, path: KeyPath) -> Any:
        key = self._loader.construct_object(node, deep=True)
        if not isinstance(key, Hashable):
            raise FileProblem(f"{shown(key)} cannot be a key; use a string", node.start_mark.line + 1, path=path)
        return key


def _problem(error: yaml.MarkedYAMLError, text: str) -> FileProblem:
    """Return a one-line message for a syntax error, with a remedy for the usual mistakes."""
    mark = error.problem_mark or error.context_mark
    number = mark.line if mark is not None else 0
    column = mark.column if mark is not None else 0
    lines = text.splitlines()
    line = lines[number] if number < len(lines) else ""
    above = lines[number - 1] if 0 < number <= len(lines) else ""
    if odd_space(above):
        return FileProblem(f"not valid YAML: {error.problem}{odd_space(above)}", number)
    if odd_space(line):
        remedy = odd_space(line)
    elif "\t" in line[: column + 1]:
        remedy = "; indent with spaces, not with tabs"
    elif error.problem == "mapping values are not allowed in this context" and _COLON_MISSES.fullmatch(
        above.partition(" #")[0]
    ):
        remedy = f"; a colon may be missing in line {number}"
    elif "${" in line:
        remedy = "; put quotes around a string with ${...}"
    else:
        remedy = "; check the indentation, brackets and quotes here and just above"
    return FileProblem(f"not valid YAML: {error.problem}{remedy}", number + 1, column + 1)


def _character(error: yaml.reader.ReaderError) -> str:
    return f"#x{error.character:04x}" if isinstance(error.character, int) else repr(error.character)
