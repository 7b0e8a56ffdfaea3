"""Experiments counted by the values of columns, with the mean of a result."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.database.selection import States, Where
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.study.details import readable


@dataclass(frozen=True)
class ExperimentGroup:
    """Experiments that have the same values in some columns.

    Attributes
    ----------
    values : Mapping of str to object
        The values, by column.
    counts : Mapping of str to int
        Number of experiments by status.
    number : int
        How many of them have the result.
    mean, std : float or None
        Mean of the result, and its standard deviation, from two results on.
    """

    values: Mapping[str, Any]
    counts: Mapping[str, int]
    number: int = 0
    mean: float | None = None
    std: float | None = None

    @property
    def total(self) -> int:
        """Number of all experiments of the group."""
        return sum(self.counts.values())


def grouped(
    reader: ExperimentReader, by: Sequence[str], value: str | None, where: Where, states: States, limit: int | None
) -> list[ExperimentGroup]:
    """Return the experiments of a table, counted by the values of columns."""
    rows = reader.groups(by, value, states, where, limit)
    none = {status.value: 0 for status in ExperimentStatus if status is not ExperimentStatus.ALL}
    groups = []
    for values, parts in groupby(rows, key=lambda row: tuple(row[: len(by)])):
        found = [row[len(by) :] for row in parts]
        named = {name: readable(name, one, reader.schema.columns) for name, one in zip(by, values, strict=True)}
        counts = Counter(none)
        for status, number, *_ in found:
            counts[str(status)] += int(number)
        groups.append(ExperimentGroup(named, dict(counts), *_moments([row[2:] for row in found])))
    return groups if limit is None else groups[:limit]


def _moments(parts: Sequence[Sequence[Any]]) -> tuple[int, float | None, float | None]:
    """Return number, mean and standard deviation of values, given number, mean and squares of each part.

    SQLite has NULL for what infinite values make of them.
    """
    nan = math.nan
    given = [
        (int(number), float(nan if mean is None else mean), float(nan if squares is None else squares))
        for number, mean, squares in parts
        if number
    ]
    number = sum(part for part, _, _ in given)
    if not number:
        return 0, None, None
    mean = sum(part * mean for part, mean, _ in given) / number
    if number == 1:
        return 1, mean, None
    squares = sum(squares + part * (part_mean - mean) ** 2 for part, part_mean, squares in given)
    return number, mean, math.sqrt(max(squares, 0) / (number - 1))
