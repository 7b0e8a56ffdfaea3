"""Fixed combinations of some keyfields, crossed with the values of the others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pyexperimenter.exceptions import ParameterCombinationError
from pyexperimenter.jsonable import listed, shown

Encoder = Callable[[Mapping[str, Any], str], tuple[Any, ...]]
"""Converts a row, and its place for messages, to a tuple of all keyfields; missing ones are None."""


class Combinations:
    """The rows that `PyExperimenter.fill_table_from_combination` adds.

    Parameters
    ----------
    keyfields : tuple of str
        All keyfields, in order.
    fixed : sequence of mappings
        Combinations of values of some keyfields.
    parameters : Mapping of str to iterable
        The values of the other keyfields. A single value is the same as a list with one item.

    Raises
    ------
    ParameterCombinationError
        If a combination and the parameters together do not give each keyfield once, or the values are a set.

    Examples
    --------
    >>> rows = Combinations(("a", "b"), [{"a": 1}, {"a": 2}], {"b": ["x", "y"]})
    >>> len(rows)
    4
    >>> list(rows.encoded(lambda row, place: (row.get("a"), row.get("b"))))
    [(1, 'x'), (1, 'y'), (2, 'x'), (2, 'y')]
    """

    def __init__(
        self, keyfields: tuple[str, ...], fixed: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> None:
        self._keyfields = keyfields
        self._fixed = fixed
        self._parameters = {name: _as_sequence(name, values) for name, values in parameters.items()}
        for index, combination in enumerate(fixed):
            self._check(f"combination {index}", combination)

    def __len__(self) -> int:
        return len(self._fixed) * math.prod(len(values) for values in self._parameters.values())

    def encoded(self, encode: Encoder) -> Iterator[tuple[Any, ...]]:
        """Return the encoded rows. All values are encoded at once, so that an error is raised before the first row."""
        places = [self._keyfields.index(name) for name in self._parameters]
        columns = [
            [encode({name: value}, f"parameters[{name!r}][{i}]")[place] for i, value in enumerate(values)]
            for (name, values), place in zip(self._parameters.items(), places, strict=True)
        ]
        nothing = (None,) * len(self._keyfields)
        fixed = [encode(row, f"combination {i}") if row else nothing for i, row in enumerate(self._fixed)]
        return self._crossed(fixed, places, columns)

    def _crossed(
        self, fixed: Sequence[tuple[Any, ...]], places: Sequence[int], columns: Sequence[Sequence[Any]]
    ) -> Iterator[tuple[Any, ...]]:
        for combination in fixed:
            for values in itertools.product(*columns):
                row = list(combination)
                for place, value in zip(places, values, strict=True):
                    row[place] = value
                yield tuple(row)

    def _check(self, place: str, row: Mapping[str, Any]) -> None:
        if not isinstance(row, Mapping):
            raise ParameterCombinationError(f"{place}: {shown(row)} is not a mapping of keyfields to values")
        given = [*row, *self._parameters]
        faults = {
            "not a keyfield": [name for name in given if name not in self._keyfields],
            "given twice": [name for name in row if name in self._parameters],
            "missing": [name for name in self._keyfields if name not in given],
        }
        for fault, names in faults.items():
            if names:
                raise ParameterCombinationError(
                    f"{place}: {fault}: {', '.join(names)}; combination and parameters together must give each of "
                    f"{', '.join(self._keyfields)} once"
                )


def _as_sequence(name: str, values: Any) -> Sequence[Any]:
    values = listed(values)
    if isinstance(values, (set, frozenset)):
        raise ParameterCombinationError(f"parameters[{name!r}]: a set has no order; give a list, such as sorted(...)")
    return values if isinstance(values, (list, tuple, range)) else [values]
