"""One experiment in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.database.values import decode
from pyexperimenter.exceptions import InvalidExperimentError, UndecodableValueError
from pyexperimenter.fieldtypes import FieldType


@dataclass(frozen=True)
class ExperimentDetails:
    """One experiment in full.

    Attributes
    ----------
    row : Mapping of str to object
        Its row in the table, by column.
    attempts : sequence of Mapping
        Its attempts, each by column.
    """

    row: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]]


def details_of(reader: ExperimentReader, experiment_id: int) -> ExperimentDetails:
    """Return the row and the attempts of an experiment.

    Raises
    ------
    InvalidExperimentError
        If there is no such experiment.
    """
    columns, rows = reader.table_rows(ids=[experiment_id])
    if not rows:
        raise InvalidExperimentError(f"the table {reader.schema.table} has no experiment with ID {experiment_id}")
    names, attempts = reader.attempt_rows([experiment_id])
    types = reader.schema.types_of(reader.schema.attempts)
    return ExperimentDetails(
        _decoded(columns, rows[0], reader.schema.columns), [_decoded(names, attempt, types) for attempt in attempts]
    )


def _decoded(names: Sequence[str], values: Sequence[Any], types: Mapping[str, FieldType]) -> dict[str, Any]:
    return {name: readable(name, value, types) for name, value in zip(names, values, strict=True)}


def readable(name: str, value: Any, types: Mapping[str, FieldType]) -> Any:
    """Return the Python value, or the raw value if it cannot be decoded because a person edited the column."""
    try:
        return decode(name, types[name], value) if name in types else value
    except UndecodableValueError:
        return value
