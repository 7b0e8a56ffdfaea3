"""The values in the section ``table`` as a grid. The paths of errors are relative to that section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pyexperimenter.config.messages import nearest, within
from pyexperimenter.config.model import ReplicationConfig, Requirement
from pyexperimenter.config.schema import Keyfield, Sampled, Spaced, Stepped, Table
from pyexperimenter.config.source import Written, plain
from pyexperimenter.exceptions import (
    EmptyDomainError,
    InvalidRangeError,
    InvalidValueError,
    InvalidValuesInConfiguration,
    MissingKeyError,
    UnknownKeyError,
)
from pyexperimenter.fieldtypes import FieldType, Kind
from pyexperimenter.grid import Design, Domain, Grid, Lazy, sampled, spaced, stepped
from pyexperimenter.jsonable import listed

# If n integers have a constant ratio p/q, the first is divisible by q**(n - 1) and the last by p**(n - 1), so there
# cannot be more of 64 bits.
_LONGEST_LOG_RANGE_OF_INTEGERS = 64


def grid_of(table: Table) -> Grid | None:
    """Return the grid of a table; None if no keyfield has values and no row is included.

    A keyfield without values is NULL in all rows of the grid except those of `include` that set it.

    Raises
    ------
    InvalidConfigError
        If values do not fit the keyfield's type, are not a valid domain, or contradict each other.
    """
    fields = {name: table.keyfield(name) for name in table.keyfields}
    has_values = any("values" in field.model_fields_set for field in fields.values())
    if not has_values and not table.include:
        for key in ("exclude", "zip"):
            if getattr(table, key):
                raise InvalidValuesInConfiguration(
                    "no keyfield has values, so the table has no grid; add 'values' to a keyfield", (key,)
                )
        return None
    types = {name: field.type for name, field in fields.items()}
    domains = {name: _domain(name, field, types) for name, field in fields.items()}
    exclude = [_condition(condition, types, "exclude", i) for i, condition in enumerate(table.exclude)]
    include = [_row(row, types, "include", i) for i, row in enumerate(table.include)]
    if not has_values:
        # There is nothing to cross; the grid would consist of one row of NULLs.
        exclude.append({next(iter(types)): [None]})
    for index, names in enumerate(table.zip):
        _check_known(names, types, "zip", index)
    return Grid(domains, exclude, include, table.zip, design_of(table))


def design_of(table: Table) -> Design | None:
    """Return how the grid of a table is divided into blocks.

    Raises
    ------
    InvalidConfigError
        If it names an unknown keyfield, or one twice.
    """
    if table.design is None:
        return None
    design = Design(table.design.blocks, table.design.compare, table.design.shuffle)
    for key, names in (("blocks", design.blocks), ("compare", design.compare)):
        _check_known(names, table.keyfields, "design", key)
    return design


def replication_of(table: Table, grid: Grid | None) -> ReplicationConfig | None:
    """Return how many values of a keyfield are used.

    Raises
    ------
    InvalidConfigError
        If it names unknown fields, or the keyfield has too few values.
    """
    rule = table.replicate
    if rule is None:
        return None
    with within("replicate"):
        _check_known([rule.over], table.keyfields, "over")
        if rule.of not in table.resultfields:
            known = table.resultfields
            raise UnknownKeyError(f"{rule.of!r} is not a resultfield{nearest(rule.of, known)}", ("of",))
        design = table.design
        if design is None or rule.over not in design.blocks or (rule.paired and not design.compare):
            raise MissingKeyError(
                "whole blocks are added; add a design that says what is compared, and whose blocks have "
                f"{rule.over}, as in design: {{blocks: [dataset, {rule.over}], compare: method}}"
            )
        values = grid.values_of(rule.over) if grid is not None else []
        most = len(values) if rule.max is None else rule.max
        if not rule.min <= most <= len(values):
            raise InvalidValuesInConfiguration(
                f"{rule.over} has {len(values)} values, but {rule.min} to {most} of them are to be used; give it as "
                "many values as there may be at most"
            )
        reference = rule.reference
        if reference is not None and design.compare:
            name = design.compare[0]
            reference = _coerce(table.keyfield(name).type, reference)
            if reference not in (grid.values_of(name) if grid is not None else []):
                raise InvalidValuesInConfiguration(f"{name} is never {reference!r}", ("reference",))
    precision = float(rule.until.ci95)
    return ReplicationConfig(rule.over, rule.of, precision, most, rule.paired, reference, rule.min, rule.step)


def requirements_of(table: Table) -> list[Requirement]:
    """Return the resources that experiments need.

    Raises
    ------
    InvalidConfigError
        If a condition names an unknown keyfield, or a value does not fit.
    """
    types = {name: table.keyfield(name).type for name in table.keyfields}
    return [
        Requirement(_condition(entry.when, types, "requires", index, "when"), entry.resources)
        for index, entry in enumerate(table.requires)
    ]


def _domain(name: str, field: Keyfield, types: Mapping[str, FieldType]) -> Domain:
    when = None if field.when is None else _condition(field.when, types, "keyfields", name, "when")
    with within("keyfields", name):
        if "values" not in field.model_fields_set:
            if when is not None:
                raise InvalidValuesInConfiguration("it has a condition but no values; add 'values'", ("when",))
            return Domain([None])
        with within("values"):
            return Domain(_values(field.type, field.values), when)


def _values(field: FieldType, values: Any) -> Sequence[Any]:
    """Return the values of a domain, converted to its type. Ranges stay lazy, however long they are."""
    if isinstance(values, Stepped):
        return _as_type(field, _stepped(field, values))
    if isinstance(values, Spaced):
        return _as_type(field, _spaced(field, values))
    if isinstance(values, Sampled):
        return _sampled(field, values)
    if values is None:
        raise EmptyDomainError(
            "the values are missing; add some, write [null] for NULL, or remove the key to fill from rows only"
        )
    if isinstance(values, (set, frozenset)):
        raise InvalidValuesInConfiguration("a set has no order; write a list, such as sorted(...)")
    if not isinstance(values, list):
        return [_coerce(field, values)]
    if not values:
        raise EmptyDomainError("the list is empty; add at least one value, or remove the key to fill from rows only")
    return [_coerce(field, value, index) for index, value in enumerate(values)]


def _stepped(field: FieldType, values: Stepped) -> Sequence[Any]:
    numbers = {"start": values.start, "stop": values.stop, "step": values.step}
    if field.kind is Kind.INTEGER:
        numbers = {key: _whole(field, number, key) for key, number in numbers.items()}
    elif field.kind is Kind.REAL:
        for key in ("start", "step"):
            if field.coerce(numbers[key]) != numbers[key]:
                raise InvalidRangeError(f"{numbers[key]!r} has more digits than {field} stores; declare DOUBLE", (key,))
        numbers = {key: float(number) for key, number in numbers.items()}
    return stepped(**numbers, inclusive=values.inclusive)


def _spaced(field: FieldType, values: Spaced) -> Sequence[Any]:
    if field.kind is not Kind.INTEGER:
        return spaced(values.start, values.stop, values.num, values.scale)
    start, stop = (_whole(field, getattr(values, key), key) for key in ("start", "stop"))
    numbers = spaced(start, stop, values.num, values.scale)  # checks the arguments
    if values.scale == "linear" and values.num > 1:
        step, rest = divmod(stop - start, values.num - 1)
        if rest:
            raise InvalidRangeError(
                f"{values.num} evenly spaced values from {start} to {stop} are not all integers, but the type is "
                f"{field}; change num, or declare DOUBLE"
            )
        return stepped(start, stop, step, inclusive=True)
    if values.num > _LONGEST_LOG_RANGE_OF_INTEGERS:
        raise InvalidRangeError(f"{values.num} values on a log scale are not all integers; declare DOUBLE")
    return [_coerce(field, number) for number in numbers]


def _sampled(field: FieldType, values: Sampled) -> Sequence[Any]:
    if field.kind is Kind.INTEGER and values.sample != "integers":
        raise InvalidValuesInConfiguration(
            f"a {values.sample} sample contains fractions, but the type is {field}; use 'integers', or declare DOUBLE",
            ("sample",),
        )
    given = values.model_fields_set & {"low", "high", "mean", "std"}
    parameters = {key: getattr(values, key) for key in ("low", "high", "mean", "std") if key in given}
    return [_coerce(field, value) for value in sampled(values.sample, values.num, values.seed, **parameters)]


def _as_type(field: FieldType, numbers: Sequence[Any]) -> Sequence[Any]:
    """Return the numbers as values of the field's type; only the first and the last are checked."""
    for end in (0, -1) if len(numbers) else ():
        _coerce(field, numbers[end])
    if field.kind is Kind.INTEGER or (field.kind is Kind.REAL and field.length is None):
        return numbers
    return Lazy(len(numbers), partial(_coerced_item, field, numbers))


def _coerced_item(field: FieldType, numbers: Sequence[Any], index: int) -> Any:
    return field.coerce(numbers[index])


def _whole(field: FieldType, number: float, key: str) -> int:
    if number != number or number in (float("inf"), float("-inf")) or int(number) != number:
        raise InvalidRangeError(
            f"{key} is {number!r}, but the type is {field}; give an integer, or declare DOUBLE", (key,)
        )
    return int(number)


def _condition(
    condition: Mapping[str, Any], types: Mapping[str, FieldType], *path: str | int
) -> dict[str, Sequence[Any]]:
    """Return a condition with its values as lists, converted to the types of their keyfields."""
    _check_known(condition, types, *path)
    result: dict[str, Sequence[Any]] = {}
    for name, allowed in condition.items():
        allowed = listed(allowed)
        with within(*path, name):
            if isinstance(allowed, (list, tuple, range, set, frozenset)):
                result[name] = [_coerce(types[name], value, index) for index, value in enumerate(allowed)]
            else:
                result[name] = [_coerce(types[name], allowed)]
    return result


def _row(row: Mapping[str, Any], types: Mapping[str, FieldType], *path: str | int) -> dict[str, Any]:
    _check_known(row, types, *path)
    result = {}
    for name, value in row.items():
        with within(*path, name):
            result[name] = _coerce(types[name], value)
    return result


def _check_known(names: Iterable[str], types: Mapping[str, object], *path: str | int) -> None:
    for name in names:
        if name not in types:
            message = f"{name!r} is not a keyfield{nearest(name, types)} (choose from {', '.join(types)})"
            raise UnknownKeyError(message, (*path, name) if path[0] not in ("zip", "design", "over") else path)


def as_declared(field: FieldType, value: Any) -> Any:
    """Return a scalar of YAML as its text, if the field is one, and otherwise as its value.

    no, off and yes stay booleans: as texts, they would hardly be meant.

    >>> as_declared(FieldType.parse("VARCHAR(9)"), Written(3.1, "3.10"))
    '3.10'
    """
    if not isinstance(value, Written) or field.kind is not Kind.TEXT:
        return plain(value)
    is_word = isinstance(value.value, bool) and value.text.lower() not in ("true", "false")
    return value.value if is_word else value.text


def _coerce(field: FieldType, value: Any, *path: int) -> Any:
    value = as_declared(field, value)
    if field.kind is Kind.TEXT and isinstance(value, bool):
        # YAML reads no, off and yes as booleans, which is hardly what is meant here.
        raise InvalidValuesInConfiguration(f"{value} is not a string; quote it", path)
    try:
        result = field.coerce(value)
    except InvalidValueError as error:
        raise InvalidValuesInConfiguration(f"{error} (the keyfield's type is {field})", path) from error
    if result != result:
        raise InvalidValuesInConfiguration("NaN cannot be the value of a keyfield; write null for NULL", path)
    return result
