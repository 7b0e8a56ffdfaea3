"""Experiments in error, grouped by what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.grid import Grid
from pyexperimenter.study.details import readable
from pyexperimenter.tracebacks import cause_of, normalized, summary_of, without_details

_EXAMPLES = 5  # IDs shown per group
_VARIANTS = 3  # kept per group
_COUNTED_VARIANTS = 10_000  # per group, while the errors are read
_LONGEST_VARIANT = 500  # characters


@dataclass(frozen=True)
class ErrorGroup:
    """Experiments that failed in the same way.

    Attributes
    ----------
    summary : str
        The exception, without details in which the experiments differ.
    count : int
        Number of experiments.
    example_ids : sequence of int
        The first IDs of them.
    shared : Mapping
        Keyfields that have the same value in all of them, but not in the whole table, without those whose value
        follows from the others by their condition (``when``).
    error : str
        The error of the first example.
    variants : Mapping of str to int
        The commonest of the texts that `summary` stands for, with their numbers of experiments; empty if all have the
        same text.
    ids : sequence of int
        IDs of all of them.
    """

    summary: str
    count: int
    example_ids: Sequence[int]
    shared: Mapping[str, Any]
    error: str
    variants: Mapping[str, int] = field(default_factory=dict)
    ids: Sequence[int] = field(default=(), repr=False)


@dataclass
class _Group:
    """A group while the errors are read."""

    error: str
    shared: dict[str, Any]
    ids: list[int] = field(default_factory=list)
    texts: Counter[str] = field(default_factory=Counter)

    @property
    def summary(self) -> str:
        return without_details(cause_of(self.error)) if len(self.texts) > 1 else summary_of(self.error)

    def add(self, experiment_id: int, keyfields: Mapping[str, Any], text: str) -> None:
        if text in self.texts or len(self.texts) < _COUNTED_VARIANTS:
            self.texts[text] += 1
        self.ids.append(experiment_id)
        self.shared = {name: value for name, value in self.shared.items() if keyfields[name] == value}


def error_groups(reader: ExperimentReader, grid: Grid | None, limit: int | None = None) -> list[ErrorGroup]:
    """Group the experiments in error by what went wrong, with the largest group first."""
    types = reader.schema.keyfields
    groups: dict[str, _Group] = {}
    everywhere: dict[str, Any] | None = None  # keyfields with the same value in all experiments in error
    for experiment_id, *values, error in islice(reader.error_rows(), limit):
        keyfields = dict(zip(types, values, strict=True))
        everywhere = keyfields if everywhere is None else everywhere
        everywhere = {name: value for name, value in everywhere.items() if keyfields[name] == value}
        text = "" if error is None else str(error)
        group = groups.setdefault(normalized(text), _Group(text, keyfields))
        group.add(experiment_id, keyfields, summary_of(text)[:_LONGEST_VARIANT])
    found = sorted(groups.values(), key=lambda group: len(group.ids), reverse=True)
    constant = {name for name in everywhere or () if not reader.has_other(name, found[0].ids[0])}
    return [
        ErrorGroup(
            group.summary,
            len(group.ids),
            group.ids[:_EXAMPLES],
            _telling({name: readable(name, value, types) for name, value in group.shared.items()}, grid, constant)
            if len(group.ids) > 1
            else {},
            group.error,
            dict(group.texts.most_common(_VARIANTS)) if len(group.texts) > 1 else {},
            group.ids,
        )
        for group in found
    ]


def _telling(shared: Mapping[str, Any], grid: Grid | None, constant: set[str]) -> dict[str, Any]:
    """Leave out what is the same in the whole table, and what follows from other shared values."""
    implied = grid.implied(shared) if grid is not None else ()
    return {name: value for name, value in shared.items() if name not in constant and name not in implied}
