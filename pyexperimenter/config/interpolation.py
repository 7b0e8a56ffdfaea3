r"""``${...}`` in the strings of a configuration.

=================================== ==============================================================================
``${VARIABLE}``                     an environment variable
``${oc.env:VARIABLE}``              the same, in OmegaConf's notation
``${oc.env:VARIABLE,default}``      with a default for when the variable is not set
``${PY_EXPERIMENTER.Custom.path}``  another key of the file, by its full path; keeps its type if it is the whole string
``${.other}``, ``${..other}``       a key in the same section, or in the section around it
``$${`` and ``\${``                  a literal ``${``
=================================== ==============================================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pyexperimenter.config.messages import KeyPath, dotted, nearest
from pyexperimenter.config.source import MOST_LEVELS
from pyexperimenter.exceptions import InvalidConfigError

_ESCAPES = ("$${", "\\${")
_ENVIRONMENT = "oc.env:"
_MOST_RESOLUTIONS = 20_000
_NAME = re.compile(r"[A-Za-z_]\w*")
_REFERENCE = re.compile(r"\.*[\w-]+(?:\.[\w -]+|\[\d+\])*")


def interpolate(data: Any, environment: Mapping[str, str]) -> Any:
    r"""Resolve ``${...}`` in all strings of nested dicts and lists.

    Raises
    ------
    InvalidConfigError
        If a variable or key does not exist, or if keys refer to each other in a circle.

    Examples
    --------
    >>> interpolate({"home": "${HOME}/data", "copy": "${.home}", "cost": "$${5}"}, {"HOME": "/home/me"})
    {'home': '/home/me/data', 'copy': '/home/me/data', 'cost': '${5}'}
    """
    return _Interpolation(data, environment).value(data, ())


class _Environment(Mapping[str, str]):
    """The environment, with a repr that hides its values: they may be passwords, and some tracebacks show variables."""

    def __getitem__(self, name: str) -> str:
        return os.environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)

    def __repr__(self) -> str:
        return "<environment>"


ENVIRONMENT = _Environment()


class _Interpolation:
    def __init__(self, root: Any, environment: Mapping[str, str]) -> None:
        self._root = root
        self._environment = environment
        self._open: list[KeyPath] = []  # strings being resolved, outermost first
        self._resolutions = 0

    def value(self, value: Any, path: KeyPath) -> Any:
        if len(path) > MOST_LEVELS:
            raise InvalidConfigError(f"this is nested more than {MOST_LEVELS} levels deep", path[:4])
        if isinstance(value, Mapping):
            return {key: self.value(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, (*path, index)) for index, item in enumerate(value)]
        return self._text(value, path) if isinstance(value, str) and "${" in value else value

    def _text(self, text: str, path: KeyPath) -> Any:
        if path in self._open:
            circle = " -> ".join(dotted(p) for p in (*self._open[self._open.index(path) :], path))
            raise InvalidConfigError(f"these keys refer to each other in a circle: {circle}", path)
        self._open.append(path)
        result = self._resolved(text, path)
        self._open.pop()
        return result

    def _resolved(self, text: str, path: KeyPath) -> Any:
        """Replace each ``${...}``; a string that consists of a single one becomes the value itself."""
        parts: list[Any] = []
        position = 0
        while (start := text.find("${", position)) >= 0:
            escape = next((e for e in _ESCAPES if text.endswith(e, position, start + 2)), None)
            if escape is not None:
                parts.append(text[position : start + 2 - len(escape)] + "${")
                position = start + 2
                continue
            end = _closing(text, start)
            if end is None:
                raise InvalidConfigError("a '${' has no closing '}'; add it, or write \\${ for a literal ${", path)
            value = self._expression(text[start + 2 : end].strip(), path)
            if start == 0 and end == len(text) - 1:
                return value
            parts += [text[position:start], self._inside_a_string(value, text[start : end + 1], path)]
            position = end + 1
        return "".join([*parts, text[position:]])

    def _inside_a_string(self, value: Any, expression: str, path: KeyPath) -> str:
        if isinstance(value, (dict, list)):
            raise InvalidConfigError(f"{expression} is a section or a list and cannot be part of a string", path)
        return str(value)

    def _expression(self, expression: str, path: KeyPath) -> Any:
        self._resolutions += 1
        if self._resolutions > _MOST_RESOLUTIONS:  # keys that refer twice to others double at each level
            raise InvalidConfigError(
                f"resolving all ${{...}} takes more than {_MOST_RESOLUTIONS} steps; refer to keys without references",
                path,
            )
        if expression.startswith(_ENVIRONMENT):
            name, comma, default = expression.removeprefix(_ENVIRONMENT).partition(",")
            return self._variable(name.strip(), path, default.strip() if comma else None)
        if _REFERENCE.fullmatch(expression) and (re.search(r"[.\[]", expression) or self._is_root_key(expression)):
            return self._reference(expression, path)
        if _NAME.fullmatch(expression):
            return self._variable(expression, path)
        raise InvalidConfigError(
            f"${{{expression}}} cannot be resolved; write ${{VARIABLE}}, ${{oc.env:VARIABLE,default}} or "
            "${section.key}, or \\${ for a literal ${",
            path,
        )

    def _variable(self, name: str, path: KeyPath, default: str | None = None) -> Any:
        if name in self._environment:
            return self._environment[name]
        if default is None:
            raise InvalidConfigError(
                f"the environment variable {name} is not set; set it, or give a default: ${{oc.env:{name},default}}",
                path,
            )
        if len(default) > 1 and default[0] == default[-1] and default[0] in "'\"":
            return default[1:-1]
        return None if default == "null" else self._resolved(default, path)

    def _is_root_key(self, name: str) -> bool:
        return isinstance(self._root, Mapping) and name in self._root  # case matters: ${HOME} is not the key home

    def _reference(self, expression: str, path: KeyPath) -> Any:
        """Look up another key of the file, and resolve its value in turn."""
        name = expression.lstrip(".")
        outwards = len(expression) - len(name)
        target: KeyPath = path[: max(len(path) - outwards, 0)] if outwards else ()
        found = _item(self._root, target)
        for part in re.findall(r"[^.\[\]]+", name):
            key = _key_like(found, part)
            if key is None:
                known = [str(k) for k in found] if isinstance(found, Mapping) else []
                raise InvalidConfigError(
                    f"${{{expression}}}: there is no {part!r} in {dotted(target) or 'the file'}{nearest(part, known)}",
                    path,
                )
            target = (*target, key)
            found = found[key]
        if target == path[: len(target)]:
            raise InvalidConfigError(f"${{{expression}}} refers to itself; name another key", path)
        return self.value(found, target)


def _closing(text: str, start: int) -> int | None:
    """Return the position of the brace that closes the one at `start`; None if there is none."""
    depth = 0
    for match in re.finditer(r"\$\{|\}", text[start:]):
        depth += 1 if match[0] == "${" else -1
        if depth == 0:
            return start + match.start()
    return None


def _item(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data


def _key_like(found: Any, part: str) -> Any:
    """Return the key of a section, or the index into a list, that `part` names; None if there is none."""
    if isinstance(found, Mapping):
        if part in found:
            return part
        return next((key for key in found if str(key).lower() == part.lower()), None)
    if isinstance(found, list) and part.isdigit() and int(part) < len(found):
        return int(part)
    return None
