"""Domains, conditions and exclusions, expanded to the rows of a grid.

Rows are generated one at a time, as by nested loops over the keyfields, so that only one is in memory. The number of
rows is computed without generating them.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyexperimenter.exceptions import ContradictoryConditionError, EmptyDomainError, InvalidValuesInConfiguration
from pyexperimenter.grid.blocks import Design
from pyexperimenter.grid.membership import AllOf, AnyOf, IfElse, Not, OneOf, Paired, Predicate, Rows, identity, meets
from pyexperimenter.grid.ranges import Lazy

Row = dict[str, Any]
Condition = Mapping[str, Sequence[Any]]
"""Keyfield -> allowed values. A row meets the condition if each keyfield has one of its values; None means not set."""


@dataclass(frozen=True)
class Domain:
    """The values of a keyfield, and the condition under which it is set (otherwise it is None)."""

    values: Sequence[Any]
    when: Condition | None = None


class Grid:
    """The Cartesian product of domains, restricted by conditions and exclusions, plus single rows.

    Parameters
    ----------
    domains : Mapping of str to Domain
        Keyfields, in order. A sequence is the same as a domain without a condition.
    exclude : sequence of conditions
        Rows that meet one of them are left out.
    include : sequence of mappings
        Single rows to add; missing keyfields are None. Rows that are in the grid anyway do not count twice.
    zipped : sequence of sequences of str
        Keyfields whose values are paired instead of crossed; their domains must have equal lengths.
    design : Design, optional
        How the rows are divided into blocks. Without one, all are one block.

    Raises
    ------
    EmptyDomainError
        If a keyfield has no value.
    ContradictoryConditionError
        If a condition can never be met, or if conditions depend on each other in a circle.
    InvalidValuesInConfiguration
        If a condition names an unknown keyfield, a domain repeats a value, zipped lengths differ, there are more rows
        than Python can count with `len`, or what a block is depends on other keyfields.

    Attributes
    ----------
    columns : tuple of str
        The keyfields.
    membership : Predicate
        What a row has to meet to be in the grid. Its size is that of the configuration, not of the grid.

    Notes
    -----
    The rows are in the order of nested loops over the keyfields, the last one varying fastest. A keyfield whose
    condition depends on a later one is moved behind it. Rows of `include` come last. With a design, the rows come block
    by block, and those of `include` at the end of their block.

    Examples
    --------
    >>> grid = Grid({"kernel": ["linear", "rbf"], "gamma": Domain([0.1, 1.0], when={"kernel": ["rbf"]})})
    >>> len(grid)
    3
    >>> for row in grid:
    ...     print(row)
    {'kernel': 'linear', 'gamma': None}
    {'kernel': 'rbf', 'gamma': 0.1}
    {'kernel': 'rbf', 'gamma': 1.0}
    >>> grid.membership.holds({"kernel": "linear", "gamma": 1.0})
    False
    """

    def __init__(
        self,
        domains: Mapping[str, Domain | Sequence[Any]],
        exclude: Sequence[Condition] = (),
        include: Sequence[Mapping[str, Any]] = (),
        zipped: Sequence[Sequence[str]] = (),
        design: Design | None = None,
    ) -> None:
        self.columns: tuple[str, ...] = tuple(domains)
        self._design = design or Design((), shuffle=None)
        self._domains = {n: d if isinstance(d, Domain) else Domain(d) for n, d in domains.items()}
        self._values = {name: OneOf(name, domain.values) for name, domain in self._domains.items()}
        self._check_domains()
        self._check_zipped(zipped)
        self._check_design(zipped)
        for index, row in enumerate(include):
            self._check_names(row, ("include", index))
        for index, condition in enumerate(exclude):
            self._check_condition(condition, ("exclude", index))
        self._axes = self._order_axes(zipped)
        self._levels = {name: level for level, axis in enumerate(self._axes) for name in axis}
        self._when = [self._when_of(axis) for axis in self._axes]
        self._exclude = self._exclusions_by_level(exclude)
        self._check_reachable()
        product, nothing = self._membership_of_product(exclude), dict.fromkeys(self.columns)
        added = [
            tuple(row.get(name) for name in self.columns) for row in include if not product.holds({**nothing, **row})
        ]
        self._extra = list({identity(row): row for row in added}.values())
        self.membership: Predicate = AnyOf([product, Rows(self.columns, self._extra)]) if self._extra else product
        self._size = _Counter(self).count() + len(self._extra)
        if self._size > sys.maxsize:
            raise InvalidValuesInConfiguration(f"the grid has {self._size} rows; take fewer values", ("keyfields",))

    def __len__(self) -> int:
        return self._size

    def values_of(self, name: str) -> Sequence[Any]:
        """Return the values of a keyfield, without those of `include`."""
        return self._domains[name].values

    @property
    def is_product(self) -> bool:
        """Whether the rows are all combinations of the values, so that all values of a keyfield are in as many rows."""
        restricted = any(self._when) or any(self._exclude)
        return not (restricted or self._extra)

    def __iter__(self) -> Iterator[Row]:
        """Yield each row as a dict, with the keyfields in the order of the configuration."""
        for values in self.tuples():
            yield dict(zip(self.columns, values, strict=True))

    def tuples(self, convert: Mapping[str, Callable[[Any], Any]] | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the rows as tuples in the order of `columns`.

        Parameters
        ----------
        convert : Mapping of str to callable, optional
            Keyfield -> conversion of its values. It is called once for each value of a small domain, not once for
            each row.
        """
        convert = convert or {}
        order = [name for axis in self._axes for name in axis]
        positions = [order.index(name) for name in self.columns]
        in_order = positions == list(range(len(positions)))
        converters = [convert.get(name) for name in self.columns]
        # Small domains are converted in advance; large ones, usually ranges, during iteration.
        columns = [_converted(self._domains[name].values, convert.get(name)) for name in order]
        extra = defaultdict(list)
        for row in self._extra:
            extra[identity([row[self.columns.index(name)] for name in self._design.blocks])].append(
                tuple(
                    value if value is None or convert_value is None else convert_value(value)
                    for value, convert_value in zip(row, converters, strict=True)
                )
            )
        for block, rows in self._walk(columns):
            yield from rows if in_order else (tuple(values[position] for position in positions) for values in rows)
            yield from extra.pop(identity(block), ())
        yield from itertools.chain.from_iterable(extra.values())

    def implied(self, values: Mapping[str, Any]) -> list[str]:
        """Return the keyfields whose values follow from the other values by their conditions.

        Parameters
        ----------
        values : Mapping of str to object
            Keyfield -> value, of some keyfields.

        Examples
        --------
        >>> grid = Grid({"kernel": ["linear", "rbf"], "gamma": Domain([0.1, 1.0], when={"kernel": ["rbf"]})})
        >>> grid.implied({"kernel": "linear", "gamma": None}), grid.implied({"kernel": "rbf", "gamma": 0.1})
        (['gamma'], [])
        """
        return [
            name
            for name, domain in self._domains.items()
            if domain.when is not None and name in values and self._follows(name, domain, domain.when, values)
        ]

    def _follows(self, name: str, domain: Domain, when: Condition, values: Mapping[str, Any]) -> bool:
        if not all(OneOf(other, allowed).holds(values) for other, allowed in when.items() if other in values):
            return values[name] is None
        return when.keys() <= values.keys() and len(domain.values) == 1 and self._values[name].holds(values)

    # Iteration

    def _walk(self, columns: Sequence[Sequence[Any]]) -> Iterator[tuple[list[Any], Iterator[tuple[Any, ...]]]]:
        """Yield each block, and its rows as converted values in axis order.

        Conditions are evaluated on positions in the domains.
        """
        axes: list[list[Sequence[Any]]] = []
        start = 0
        for axis in self._axes:
            axes.append(list(columns[start : start + len(axis)]))
            start += len(axis)
        watched = {level for when in self._when if when for level in when}
        watched |= {level for exclusions in self._exclude for exclusion in exclusions for level in exclusion}
        outer = len({self._levels[name] for name in self._design.blocks})
        watched |= {*range(outer)}
        chosen: list[int | None] = [None] * len(axes)  # positions of the watched levels only
        free = len(axes)  # the levels from this one on are simply crossed
        while free > outer and self._is_free(free - 1, axes) and free - 1 not in watched:
            free -= 1

        def choices(level: int) -> Iterator[tuple[Any, ...]]:
            """Yield the values of an axis that may follow those chosen for the axes before it."""
            if level == free:
                yield from itertools.product(*(values for (values,) in axes[free:]))
                return
            when, exclusions = self._when[level], self._exclude[level]
            if when is not None and not _holds(when, chosen):
                chosen[level] = None
                if not any(_holds(exclusion, chosen) for exclusion in exclusions):
                    yield (None,) * len(axes[level])
                return
            values = zip(*axes[level], strict=True)
            if level not in watched:
                yield from values
                return
            for position, value in enumerate(values):
                chosen[level] = position
                if not any(_holds(exclusion, chosen) for exclusion in exclusions):
                    yield value

        def walk(first: int, end: int, before: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
            """Yield the values of the axes before `end`, for those that are chosen for the axes before `first`.

            It is not recursive, as there may be more axes than Python allows calls within calls.
            """
            prefixes = [before] if first < end else []
            iterators = [choices(first)] if first < end else []
            while iterators:
                prefix = prefixes[-1]
                if first + len(iterators) == min(free + 1, end):
                    yield from map(prefix.__add__, iterators[-1])
                elif (chosen_next := next(iterators[-1], None)) is not None:
                    prefixes.append(prefix + chosen_next)
                    iterators.append(choices(first + len(iterators)))
                    continue
                iterators.pop()
                prefixes.pop()

        if not outer:
            yield [], walk(0, len(axes), ())
            return
        blocks: Iterable[_Block] = ((self._block_at(chosen), chosen[:outer], values) for values in walk(0, outer, ()))
        if self._design.shuffle is not None:
            names, place = self._design.blocks, self._design.place
            blocks = sorted(blocks, key=lambda block: place(dict(zip(names, block[0], strict=True))))
        for block, chosen[:outer], values in blocks:
            yield block, walk(outer, len(axes), values)

    def _block_at(self, chosen: Sequence[int | None]) -> list[Any]:
        """Return the values of the keyfields that make a block."""
        positions = [(name, chosen[self._levels[name]]) for name in self._design.blocks]
        return [None if at is None else self._domains[name].values[at] for name, at in positions]

    def _is_free(self, level: int, axes: Sequence[Sequence[Sequence[Any]]]) -> bool:
        """Return whether an axis has one keyfield, no condition, and so few values that they may be kept in memory."""
        columns = axes[level]
        conditions = self._when[level] is not None or self._exclude[level]
        return not conditions and len(columns) == 1 and len(columns[0]) <= _CONVERTED_BEFOREHAND

    # Compilation: names and values to levels and positions

    def _order_axes(self, zipped: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
        """Group zipped keyfields, and move each behind those that its condition depends on."""
        group_of = {name: tuple(n for n in self.columns if n in group) for group in zipped for name in group}
        blocks, compare = self._design.blocks, self._design.compare
        names = sorted(self.columns, key=lambda name: (name not in blocks) + (name in compare))
        axes = list(dict.fromkeys(group_of.get(name, (name,)) for name in names))
        ordered: list[tuple[str, ...]] = []
        placed: set[str] = set()
        while axes:
            for axis in axes:
                if all(set(self._domains[name].when or ()) <= placed for name in axis):
                    break
            else:
                names = [name for axis in axes for name in axis if self._domains[name].when]
                raise ContradictoryConditionError(
                    f"the conditions of {', '.join(names)} depend on each other in a circle, so none can be met; "
                    "remove at least one 'when' of the circle",
                    ("keyfields", names[0], "when"),
                )
            axes.remove(axis)
            ordered.append(axis)
            placed.update(axis)
        return ordered

    def _positions(self, condition: Condition) -> _Positions:
        """Compile a condition to level -> positions in the domain (None: not set)."""
        result: _Positions = {}
        for name, allowed in condition.items():
            domain = self._domains[name]
            positions: set[int | None] = {self._values[name].position(value) for value in allowed}
            if domain.when is not None and any(value is None for value in allowed):
                positions.add(None)
            level = self._levels[name]
            result[level] = result[level] & positions if level in result else frozenset(positions)
        return result

    def _when_of(self, axis: tuple[str, ...]) -> _Positions | None:
        when = self._domains[axis[0]].when
        return None if when is None else self._positions(when)

    def _exclusions_by_level(self, exclude: Sequence[Condition]) -> list[list[_Positions]]:
        """Sort exclusions by the level at which they can be decided: the deepest that they depend on."""
        by_level: list[list[_Positions]] = [[] for _ in self._axes]
        for condition in exclude:
            positions = self._positions(condition)
            by_level[max(positions)].append(positions)
        return by_level

    def _membership_of_product(self, exclude: Sequence[Condition]) -> AllOf:
        """Return what the rows of the product have in common, without those of `include`."""
        parts: list[Predicate] = []
        for axis in self._axes:
            columns = [self._values[name] for name in axis]
            given: Predicate = columns[0] if len(columns) == 1 else Paired(columns)
            when = self._domains[axis[0]].when
            if when is not None:
                given = IfElse(meets(when), given, OneOf(axis[0], [None]))
            parts.append(given)
        return AllOf([*parts, *(Not(meets(condition)) for condition in exclude)])

    # Checks

    def _check_names(self, names: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
        for name in names:
            if name not in self._domains:
                raise InvalidValuesInConfiguration(
                    f"{name!r} is not a keyfield; choose from {', '.join(self.columns)}", (*path, name)
                )

    def _check_condition(self, condition: Condition, path: tuple[str | int, ...]) -> None:
        self._check_names(condition, path)
        if not condition:
            raise ContradictoryConditionError("the condition is empty; name at least one keyfield and value", path)
        for name, allowed in condition.items():
            domain = self._domains[name]
            if not allowed:
                raise ContradictoryConditionError(
                    f"the list of values of {name} is empty; give at least one", (*path, name)
                )
            for value in allowed:
                if self._values[name].position(value) is None and not (value is None and domain.when is not None):
                    raise ContradictoryConditionError(
                        f"{name} is never {value!r}; its values are {_shown(domain.values)}", (*path, name)
                    )

    def _check_domains(self) -> None:
        for name, domain in self._domains.items():
            path: tuple[str | int, ...] = ("keyfields", name)
            if len(domain.values) == 0:
                raise EmptyDomainError(f"{name} has no values; give at least one", (*path, "values"))
            if isinstance(domain.values, (list, tuple)):
                for index, value in enumerate(domain.values):
                    if self._values[name].position(value) != index:
                        raise InvalidValuesInConfiguration(
                            f"{name} has the value {value!r} twice; give each value once", (*path, "values", index)
                        )
        for name, domain in self._domains.items():
            if domain.when is not None:
                self._check_condition(domain.when, ("keyfields", name, "when"))

    def _check_zipped(self, zipped: Sequence[Sequence[str]]) -> None:
        seen: set[str] = set()
        for index, group in enumerate(zipped):
            path: tuple[str | int, ...] = ("zip", index)
            self._check_names(dict.fromkeys(group), path)
            for name in group:
                if name in seen or list(group).count(name) > 1:
                    raise InvalidValuesInConfiguration(f"{name} is zipped twice; remove one", path)
                if self._domains[name].when is not None:
                    raise InvalidValuesInConfiguration(
                        f"{name} is zipped, so it cannot have a 'when'; remove the condition or the zip", path
                    )
            seen.update(group)
            lengths = {name: len(self._domains[name].values) for name in group}
            if len(set(lengths.values())) > 1:
                counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
                raise InvalidValuesInConfiguration(f"zipped keyfields need the same number of values: {counts}", path)

    def _check_design(self, zipped: Sequence[Sequence[str]]) -> None:
        blocks = self._design.blocks
        for key, names in (("blocks", blocks), ("compare", self._design.compare)):
            self._check_names(dict.fromkeys(names), ("design", key))
        path = ("design", "blocks")
        for name in blocks:
            together = next((group for group in zipped if name in group), (name,))
            others = [other for other in (*together, *(self._domains[name].when or ())) if other not in blocks]
            if others:
                raise InvalidValuesInConfiguration(
                    f"{name} depends on {others[0]}, which is not in blocks; add it, or take {name} out", path
                )
        if blocks and len(blocks) == len(self.columns):
            raise InvalidValuesInConfiguration("all keyfields are in blocks, so there is nothing to compare", path)
        for name in self._design.compare:
            if name in blocks:
                message = f"{name} is in blocks, too; a keyfield is either compared or the same in a block"
                raise InvalidValuesInConfiguration(message, ("design", "compare"))

    def _check_reachable(self) -> None:
        for axis, when in zip(self._axes, self._when, strict=True):
            if when is not None and _Counter(self, when).count() == 0:
                raise ContradictoryConditionError(
                    f"no row of the grid meets the condition of {axis[0]}; change or remove it",
                    ("keyfields", axis[0], "when"),
                )


_Block = tuple[list[Any], list["int | None"], tuple[Any, ...]]
"""The values of a block, its positions in the domains, and its converted values in axis order."""

_Positions = dict[int, frozenset["int | None"]]


def _holds(condition: _Positions, chosen: Sequence[int | None]) -> bool:
    return all(chosen[level] in positions for level, positions in condition.items())


class _Counter:
    """Counts the rows of a grid level by level; rows that no later condition distinguishes are counted together."""

    def __init__(self, grid: Grid, required: _Positions | None = None) -> None:
        self._sizes = [len(grid._domains[axis[0]].values) for axis in grid._axes]
        self._when, self._exclude = grid._when, grid._exclude
        self._required = required or {}

    def count(self) -> int:
        """Return the number of rows of the grid that meet the required condition."""
        if not self._sizes:
            return 0
        # Each condition with the level at which it is decided.
        decided = [(level, when) for level, when in enumerate(self._when) if when]
        decided += [(level, exclusion) for level, exclusions in enumerate(self._exclude) for exclusion in exclusions]
        last_use: dict[int, int] = {}
        for at, condition in decided:
            for level in condition:
                last_use[level] = max(at, last_use.get(level, 0))
        conditions = [self._required, *(condition for _, condition in decided)]
        # State: the positions on the levels that a later condition depends on -> number of partial rows.
        states: dict[tuple[int | None, ...], int] = {(): 1}
        alive: list[int] = []
        for level, size in enumerate(self._sizes):
            asked = frozenset[int | None]().union(*(c[level] for c in conditions if level in c))
            positions = [p for p in asked if p is not None]
            next_alive = [a for a in [*alive, level] if last_use.get(a, -1) > level]
            next_states: dict[tuple[int | None, ...], int] = {}
            for state, rows in states.items():
                chosen: list[int | None] = [None] * (level + 1)
                for a, position in zip(alive, state, strict=True):
                    chosen[a] = position
                when = self._when[level]
                choices: list[tuple[int | None, int]]
                if when is not None and not _holds(when, chosen):
                    choices = [(None, 1)]
                else:
                    # -1 represents all positions that no condition mentions.
                    choices = [*((p, 1) for p in positions), (-1, size - len(positions))]
                for position, multiplicity in choices:
                    chosen[level] = position
                    if multiplicity == 0 or any(_holds(e, chosen) for e in self._exclude[level]):
                        continue
                    if level in self._required and position not in self._required[level]:
                        continue
                    key = tuple(chosen[a] for a in next_alive)
                    next_states[key] = next_states.get(key, 0) + rows * multiplicity
            states, alive = next_states, next_alive
        return sum(states.values())


_CONVERTED_BEFOREHAND = 10_000


def _converted(values: Sequence[Any], convert: Callable[[Any], Any] | None) -> Sequence[Any]:
    if convert is None:
        return values
    if len(values) <= _CONVERTED_BEFOREHAND:
        return [convert(value) for value in values]
    return Lazy(len(values), lambda index: convert(values[index]))


def _shown(values: Sequence[Any], most: int = 6) -> str:
    shown = ", ".join(repr(value) for value in values[:most])
    return shown if len(values) <= most else f"{shown}, ... ({len(values)} in all)"
