"""Selecting experiments: ``where``, ``order_by``, states and IDs as SQL."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pyexperimenter.config.model import Requirement
from pyexperimenter.database.records import OUTCOMES
from pyexperimenter.database.schema import Schema
from pyexperimenter.database.values import Encoder
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError, PyExperimenterError
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.fieldtypes import Kind
from pyexperimenter.jsonable import listed, whole_number

if TYPE_CHECKING:
    from pyexperimenter.grid.membership import OneOf, Predicate

_Item = TypeVar("_Item")

_ANY_ID = -(2**63)
_LONG = 100  # values; SQLite puts longer lists into temporary tables
_LONGEST = 10_000  # values of a domain, for a statement that servers accept
_SORTED_WHOLE = 255  # characters; every database sorts by all of so many
_MOST_VALUES = 800  # in short lists; SQLite may take only 999 parameters, and expressions of 1000 operators

_MEANT = {
    **dict.fromkeys(["failed", "failure", "errors", "exception"], "error"),
    **dict.fromkeys(["finished", "completed", "success", "succeeded"], "done"),
    **dict.fromkeys(["open", "pending", "queued", "waiting", "new"], "created"),
    **dict.fromkeys(["active", "started", "executing"], "running"),
}

Where = Mapping[str, Any] | str | Sequence[Mapping[str, Any] | str] | None
"""A mapping of columns to values or lists of values, all of which must match; or a condition in SQL; or several."""

States = str | Sequence[str] | None
"""A status or several; None or ``"all"`` for all."""

OrderBy = str | Sequence[str] | None
"""Column names; a leading ``-`` or a trailing ``DESC`` means descending."""


class Latest(NamedTuple):
    """What the last execution of an experiment must be like; None for anything.

    Attributes
    ----------
    commit : str or None
        Beginning of the git commit; after a ``+``, that of the hash of the uncommitted changes.
    job : str or int or None
        ID of the cluster job. Without the array task, it is that of all tasks; without the restart, of all restarts.
    outcome : str or None
        How it ended.
    """

    commit: str | None = None
    job: str | int | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Condition:
    """A condition in SQL, and the values of its parameters by name."""

    sql: str = "1 = 1"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __and__(self, other: Condition) -> Condition:
        assert self.parameters.keys().isdisjoint(other.parameters)
        return Condition(f"{self.sql} AND {other.sql}", {**self.parameters, **other.parameters})

    def __invert__(self) -> Condition:
        return Condition(f"NOT ({self.sql})", self.parameters)


@dataclass(frozen=True)
class Selection:
    """What a worker may claim: rows under a condition, in an order.

    Attributes
    ----------
    condition : Condition
        The condition for rows.
    order : str
        Columns for ORDER BY, quoted; empty for the order of IDs.
    random : bool
        Whether to pick at random.
    """

    condition: Condition = Condition()
    order: str = ""
    random: bool = False


class _NotInSql(PyExperimenterError):
    """A predicate cannot be expressed in SQL."""


def statuses(states: States) -> list[ExperimentStatus]:
    """Return these statuses; None is ``"all"``.

    Raises
    ------
    InvalidValueError
        If one is not a valid status.
    """
    named = [ExperimentStatus.ALL] if states is None else [states] if isinstance(states, str) else states
    return [_status(state) for state in _items(named, "states")]


def _items(values: Iterable[_Item], parameter: str) -> list[_Item]:
    """Return the items of a list, which users may have given without the brackets."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidValueError(f"{parameter}: {values!r} is not a list; write [{values!r}]")
    return list(values)


def _escaped(text: str) -> str:
    """Return a text for a LIKE with the escape character ``!``."""
    return re.sub(r"[!%_]", r"!\g<0>", text)


def _in_single_precision(numbers: Iterable[float]) -> list[float]:
    """Return what a FLOAT column makes of finite numbers. Only py-experimenter made such columns."""
    import ctypes

    return [single for number in numbers if math.isfinite(single := ctypes.c_float(number).value)]


def _status(state: str) -> ExperimentStatus:
    try:
        return ExperimentStatus(state)
    except ValueError:
        known = ", ".join(status.value for status in ExperimentStatus)
        hint = f"; did you mean {_MEANT[state]!r}?" if state in _MEANT else ""
        raise InvalidValueError(f"{state!r} is not a valid status{hint} (choose from {known})") from None


class Selector:
    """Translates what users write into conditions on the main table.

    Parameters
    ----------
    schema : Schema
        The table's columns.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def selection(self, where: Where, order_by: OrderBy, random: bool) -> Selection:
        """Return what a worker may claim.

        Raises
        ------
        InvalidColumnError
            If the table does not have one of the columns.
        """
        return Selection(self.condition(where), self.order(order_by), random)

    def condition(self, where: Where, parameter: str = "where") -> Condition:
        """Translate `where`; names of parameters begin with `parameter`.

        Raises
        ------
        InvalidColumnError
            If the table does not have one of the columns.
        InvalidValueError
            If a value does not fit its column.
        """
        if where is None:
            return Condition()
        if isinstance(where, str):
            return Condition(f"({where}\n)")  # the condition may end in a comment
        if isinstance(where, (list, tuple)):
            parts = (self.condition(part, f"{parameter}_{number}") for number, part in enumerate(where))
            return reduce(and_, parts, Condition())
        if not isinstance(where, Mapping):
            raise InvalidValueError(
                f"where: {where!r} is neither a mapping of columns to values nor a condition in SQL"
            )
        condition = Condition()
        for number, (name, value) in enumerate(where.items()):
            values = listed(value)
            several = isinstance(values, (list, tuple, set, frozenset, range))
            condition &= self._one_of(name, values if several else [value], f"{parameter}_{number}")
        return condition

    def fitting(self, requires: Sequence[Requirement], resources: Mapping[str, float]) -> Condition:
        """Return the condition for rows that need no more than these resources; others are not available."""
        condition = Condition()
        for number, requirement in enumerate(requires):
            if any(amount > resources.get(name, 0) for name, amount in requirement.resources.items()):
                needy = self.condition(requirement.when, f"requires_{number}")
                # A comparison with NULL is neither true nor false.
                condition &= Condition(f"({needy.sql}) IS NOT TRUE", needy.parameters)
        return condition

    def meeting(self, predicate: Predicate) -> Condition | None:
        """Return the condition for rows whose keyfields meet a predicate; it is never NULL.

        None if it cannot be expressed in SQL: for JSON where databases rewrite it, for values that are too many, and
        for long ranges of what is not an integer, which only Python computes exactly.
        """
        parameters: dict[str, list[Any]] = {}
        try:
            sql = self._meeting(predicate, parameters)
        except _NotInSql:
            return None
        return Condition(f"({sql})", parameters)

    def _meeting(self, predicate: Predicate, parameters: dict[str, list[Any]]) -> str:
        """Translate a predicate, and add what its values are."""
        from pyexperimenter.grid.membership import AllOf, AnyOf, IfElse, Not, OneOf, Paired, Rows

        if sum(len(values) for values in parameters.values() if len(values) <= _LONG) > _MOST_VALUES:
            raise _NotInSql
        match predicate:
            case OneOf():
                return self._is_one_of(predicate, parameters)
            case Not():
                return f"NOT ({self._meeting(predicate.part, parameters)})"
            case IfElse(condition, then, otherwise):
                when, met, unmet = (self._meeting(part, parameters) for part in (condition, then, otherwise))
                return f"CASE WHEN {when} THEN {met} ELSE {unmet} END"
            case AllOf() | AnyOf():
                parts = [f"({self._meeting(part, parameters)})" for part in predicate.parts]
                return " AND ".join(parts) or "1 = 1" if isinstance(predicate, AllOf) else " OR ".join(parts) or "1 = 0"
            case Paired():
                if len(predicate.columns[0].values) > _MOST_VALUES:
                    raise _NotInSql
                return self._meeting(predicate.rows, parameters)
            case Rows():
                if len(predicate.rows) > _MOST_VALUES:
                    raise _NotInSql
                named = (zip(predicate.names, row, strict=True) for row in predicate.rows)
                rows = [AllOf([OneOf(name, [value]) for name, value in row]) for row in named]
                return self._meeting(AnyOf(rows), parameters)

    def _is_one_of(self, one_of: OneOf, parameters: dict[str, list[Any]]) -> str:
        field = self._schema.keyfields[one_of.name]
        column = self.comparable(one_of.name)
        values: Sequence[Any] = one_of.values
        if isinstance(values, range) and len(values) > _LONG:
            step = abs(values.step)
            # Databases give a remainder the sign of the dividend. No sum is negative, which UNSIGNED columns cannot be.
            steps = f" AND ({column} % {step} + {step - values[0] % step}) % {step} = 0" if step > 1 else ""
            return f"{column} IS NOT NULL AND {column} BETWEEN {min(values)} AND {max(values)}{steps}"
        if (field.kind is Kind.JSON and Kind.JSON not in self._schema.dialect.comparable) or len(values) > _LONGEST:
            raise _NotInSql
        encode = Encoder(one_of.name, field, self._schema.dialect.keeps_infinity)
        encoded: list[Any] = [encode(value) for value in values]
        given = [value for value in encoded if value is not None]
        if field.name == "FLOAT":
            given += _in_single_precision(given)
        null = f"{column} IS NULL"
        if not given:
            return null
        name = f"member_{len(parameters)}"
        parameters[name] = given
        among = f"{column} IN (:{name})"
        return f"{null} OR {among}" if len(given) < len(encoded) else f"NOT ({null}) AND {among}"

    def rows(
        self,
        states: States = None,
        where: Where = None,
        ids: Sequence[int] | None = None,
        error: str | None = None,
        latest: Latest = Latest(),  # noqa: B008 - frozen
    ) -> Condition:
        """Return the condition for rows that meet all of these conditions; `error` is a part of the error's text."""
        condition = self.condition(where) & self._latest(latest)
        if error is not None:
            text = {"text": f"%{_escaped(error.lower())}%"}
            condition &= Condition(f"LOWER({self._schema.q('error')}) LIKE :text ESCAPE '!'", text)
        wanted = statuses(states)
        if ExperimentStatus.ALL not in wanted:
            condition &= self._one_of("status", [status.value for status in wanted], "states")
        if ids is not None:
            condition &= self._one_of("ID", _items(ids, "ids"), "ids")
        return condition

    def columns(self, names: Sequence[str]) -> str:
        """Return columns for a SELECT.

        Raises
        ------
        InvalidColumnError
            If the table does not have one of them.
        """
        return ", ".join(self._column(name) for name in _items(names, "columns"))

    def comparable(self, name: str, row: str | None = None) -> str:
        """Return a column as an expression that equals another value only if it is the same; `row` is its table."""
        column = self._column(name) if row is None else f"{row}.{self._column(name)}"
        return self._schema.dialect.comparable.get(self._schema.columns[name].kind, "{}").format(column)

    def grouped(self, name: str) -> list[str]:
        """Return a column, and what else GROUP BY needs to keep apart what is not equal.

        Raises
        ------
        InvalidColumnError
            If the table does not have it.
        """
        column = self._column(name)
        parts = self._schema.dialect.grouped.get(self._schema.columns[name].kind, ("{}",))
        return [part.format(column) for part in parts]

    def order(self, order_by: OrderBy, backwards: bool = False) -> str:
        """Return columns for ORDER BY, or an empty string; with `backwards`, for the reversed order.

        Raises
        ------
        InvalidColumnError
            If the table does not have one of them.
        """
        directions = self._directions(order_by)
        return ", ".join(f"{name} DESC" if descends is not backwards else name for name, descends in directions)

    def after(self, order_by: OrderBy, experiment_id: int) -> Condition:
        """Return the condition for rows that come after an experiment in an order, which ends with the ID."""
        return self._beyond("after", order_by, experiment_id)

    def before(self, order_by: OrderBy, experiment_id: int) -> Condition:
        """Return the condition for rows that come before an experiment in an order, which ends with the ID."""
        return self._beyond("before", order_by, experiment_id)

    def _beyond(self, side: str, order_by: OrderBy, experiment_id: int) -> Condition:
        """Return the condition for rows on one side of an experiment in an order.

        NULL is before all other values, or after them, as the database sorts it.
        """
        table, key = self._schema.q(self._schema.table), {side: whole_number(side, experiment_id, least=_ANY_ID)}
        parts, equal = list[str](), list[str]()
        for name, direction in [*self._directions(order_by), ("ID", False)]:
            descends = direction is not (side == "before")
            here = f"(SELECT {name} FROM {table} WHERE ID = :{side})" if name != "ID" else f":{side}"
            null_first = descends is self._schema.dialect.null_is_largest
            nulls = f"{here} IS {'' if null_first else 'NOT '}NULL AND {name} IS {'NOT ' if null_first else ''}NULL"
            parts.append(" AND ".join([*equal, f"({name} {'<' if descends else '>'} {here} OR {nulls})"]))
            equal.append(f"({name} = {here} OR {name} IS NULL AND {here} IS NULL)")
            if name == "ID":  # an ID is unique, and never NULL
                parts[-1] = " AND ".join([*equal[:-1], f"ID {'<' if descends else '>'} :{side}"])
                break
        return Condition(f"({' OR '.join(parts)})", key)

    def _latest(self, latest: Latest) -> Condition:
        """Return the condition on the last execution. Attempts without a lease were opened by `attach`."""
        condition = Condition()
        if latest.commit is not None:
            commit = re.fullmatch(r"([0-9a-f]+)(?:\+([0-9a-f]*))?", str(latest.commit).lower())
            if commit is None:
                raise InvalidValueError(
                    f"commit: {latest.commit!r} is not the beginning of a commit's hash; write for example '3f2a9c', "
                    "or '3f2a9c+9d0c' with the hash of uncommitted changes"
                )
            condition &= Condition("a.git_commit LIKE :commit", {"commit": f"{commit[1]}%"})
            if commit[2] is not None:
                condition &= Condition("a.git_diff_hash LIKE :changes", {"changes": f"{commit[2]}%"})
        if latest.job is not None:
            job = _escaped(str(latest.job))
            condition &= Condition(
                "(a.job_id = :job OR a.job_id LIKE :task ESCAPE '!' OR a.job_id LIKE :restart ESCAPE '!')",
                {"job": str(latest.job), "task": f"{job}!_%", "restart": f"{job} %"},
            )
        if latest.outcome is not None:
            if latest.outcome not in OUTCOMES:
                raise InvalidValueError(f"outcome: {latest.outcome!r} is unknown; choose from {', '.join(OUTCOMES)}")
            condition &= Condition("a.outcome = :outcome", {"outcome": latest.outcome})
        if not condition.parameters:
            return condition
        table, attempts = self._schema.q(self._schema.table), self._schema.q(self._schema.attempts)
        return Condition(
            f"EXISTS (SELECT 1 FROM {attempts} a WHERE a.experiment_id = {table}.ID AND {condition.sql} AND a.number = "
            f"(SELECT MAX(number) FROM {attempts} WHERE experiment_id = {table}.ID AND lease_until IS NOT NULL))",
            condition.parameters,
        )

    def _one_of(self, name: str, values: Iterable[Any], parameter: str) -> Condition:
        column = self._column(name)
        encode: Callable[[Any], Any] = Encoder(name, self._schema.columns[name], self._schema.dialect.keeps_infinity)
        encoded = [encode(value) for value in values]
        given = [value for value in encoded if value is not None]
        if given and self._schema.columns[name].kind is Kind.JSON:
            # No text equals a value of a native JSON type.
            raise InvalidColumnError(f"{name} is JSON, which cannot be compared with values; write a condition in SQL")
        # Of a status, spaces at its end and the collation count as little as in all other statements.
        exact = column if name == "status" else self.comparable(name)
        equal = f"{exact} IN (:{parameter})"
        if exact != column and not self._schema.dialect.indexes_comparable and len(given) <= _LONG:
            equal = f"({column} IN (:{parameter}) AND {equal})"  # by an index of the column, if it has one
        options = [equal] if given else []
        if len(given) < len(encoded):
            options.append(f"{column} IS NULL")
        return Condition(f"({' OR '.join(options) or '1 = 0'})", {parameter: given} if given else {})

    def _directions(self, order_by: OrderBy) -> list[tuple[str, bool]]:
        """Return what is sorted by, and whether it descends."""
        if order_by is None or isinstance(order_by, str):
            order_by = [order_by] if order_by else []
        parts = (part for name in _items(order_by, "order_by") for part in str(name).split(","))
        return [self._direction(part.strip()) for part in parts]

    def _direction(self, name: str) -> tuple[str, bool]:
        words = name.split()
        if len(words) == 2 and words[1].upper() in ("ASC", "DESC"):
            return self._sorted(words[0]), words[1].upper() == "DESC"
        descends = name.startswith("-")
        return self._sorted(name[1:] if descends else name), descends

    def _sorted(self, name: str) -> str:
        column, field = self._column(name), self._schema.columns[name]
        short = field.length is not None and field.length <= _SORTED_WHOLE
        return column if short else self._schema.dialect.sorted.get(field.kind, "{}").format(column)

    def _column(self, name: str) -> str:
        if name not in self._schema.columns:
            raise InvalidColumnError(f"the table has no column {name!r}; it has {', '.join(self._schema.columns)}")
        return self._schema.q(name)
