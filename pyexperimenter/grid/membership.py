"""Whether a row is in a grid: a predicate on the values of its keyfields, which other modules may translate.

Predicates are about values, not about positions, so that they can also be answered by a database. None is NULL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


class OneOf:
    """A keyfield has one of these values, which are found without a scan in lists, ranges and progressions.

    Examples
    --------
    >>> kernel = OneOf("kernel", ["linear", "rbf"])
    >>> kernel.position("rbf"), kernel.holds({"kernel": "poly"})
    (1, False)
    """

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        self.values = values
        self._positions: dict[Any, int] | None = None
        if isinstance(values, (list, tuple)):
            self._positions = {}
            for position, value in enumerate(values):
                self._positions.setdefault(identity(value), position)

    def position(self, value: Any) -> int | None:
        """Return the position of a value, or None; of one that is there twice, the first."""
        return _position(self.values, value) if self._positions is None else self._positions.get(identity(value))

    def holds(self, row: Row) -> bool:
        """Return whether a row meets it."""
        return self.position(row[self.name]) is not None


@dataclass(frozen=True)
class Paired:
    """Keyfields have values at the same position. No list repeats a value."""

    columns: Sequence[OneOf]

    @property
    def rows(self) -> Rows:
        """The same as single combinations of values."""
        values = (column.values for column in self.columns)
        return Rows([column.name for column in self.columns], list(zip(*values, strict=True)))

    def holds(self, row: Row) -> bool:
        """Return whether a row meets it."""
        positions = {column.position(row[column.name]) for column in self.columns}
        return len(positions) == 1 and None not in positions


class Rows:
    """Keyfields have one of these combinations of values."""

    def __init__(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.names = names
        self.rows = rows
        self._keys = {identity(row) for row in rows}

    def holds(self, row: Row) -> bool:
        """Return whether a row meets it."""
        return identity([row[name] for name in self.names]) in self._keys


@dataclass(frozen=True)
class Not:
    """A predicate does not hold."""

    part: Predicate

    def holds(self, row: Row) -> bool:
        """Return whether a row meets it."""
        return not self.part.holds(row)


@dataclass(frozen=True)
class IfElse:
    """One predicate or another, depending on a third."""

    condition: Predicate
    then: Predicate
    otherwise: Predicate

    def holds(self, row: Row) -> bool:
        """Return whether a row meets it."""
        return (self.then if self.condition.holds(row) else self.otherwise).holds(row)


@dataclass(frozen=True)
class AllOf:
    """All of some predicates hold."""

    parts: Sequence[Predicate]

    def holds(self, row: Row) -> bool:
        """Return whether a row meets it."""
        return all(part.holds(row) for part in self.parts)


@dataclass(frozen=True)
class AnyOf:
    """At least one of some predicates holds."""

    parts: Sequence[Predicate]

    def holds(self, row: Row) -> bool:
        """Return whether a row meets it."""
        return any(part.holds(row) for part in self.parts)


Predicate = OneOf | Paired | Rows | Not | IfElse | AllOf | AnyOf


def meets(condition: Mapping[str, Sequence[Any]]) -> AllOf:
    """Return the predicate of a condition: each of its keyfields has one of the allowed values."""
    return AllOf([OneOf(name, allowed) for name, allowed in condition.items()])


def _position(values: Sequence[Any], value: Any) -> int | None:
    """Return the position of `value` in a range, or None."""
    if isinstance(values, range):
        # For anything but an int, `index` would compare all numbers.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 != 0:
            return None
        value = int(value)
    try:
        position = values.index(value)
    except ValueError:
        return None
    # 1 is not True. No range has both.
    return position if isinstance(value, bool) == isinstance(values[position], bool) else None


def identity(value: Any) -> Any:
    """Return a hashable key that identifies a value: 1 and True are different values, 1 and 1.0 are the same."""
    if isinstance(value, Mapping):
        return Mapping, frozenset((identity(key), identity(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return Sequence, tuple(map(identity, value))
    return (type(value) is bool, value) if value.__hash__ is not None else repr(value)
