"""What the keyfields do to a result: parallel coordinates, and shares of its variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from pyexperimenter.dashboard.charts import Line, lines, parallel
from pyexperimenter.dashboard.pages.grid_map import hashable, key, numeric, sorted_as_found
from pyexperimenter.dashboard.rendering import cell
from pyexperimenter.dashboard.view import View
from pyexperimenter.jsonable import records
from pyexperimenter.study.groups import ExperimentGroup

_MOST_LINES = 500
_MOST_CELLS = 20_000
_MOST_LEVELS = 40  # of a keyfield whose means are drawn


def parameters(view: View) -> dict[str, Any]:
    """Return both for one result."""
    table = view.study.config.table
    fields = numeric(table.resultfields)
    value = view.one_of("value", fields, fields[0] if fields else None)
    context: dict[str, Any] = {"fields": fields, "value": value, "figure": None, "effects": [], "means": []}
    context |= {"complete": True, "lines": 0, "too_many": False}
    if value is None:
        return context
    keyfields = list(table.keyfields)
    shown = view.study.get_table(view.where, [*keyfields, value], states="done", limit=_MOST_LINES)
    rows = [row for row in records(shown) if _is_number(row[value])]
    if len(rows) > 1:
        axes = [_axis(name, [key(row[name]) for row in rows]) for name in (*keyfields, value)]
        context["figure"] = parallel(axes, [float(row[value]) for row in rows])
        context["lines"] = len(rows)
    factors = [name for name in keyfields if name != "seed"] or keyfields
    groups = hashable(view.study.group_by(factors, value, view.where, "done", limit=_MOST_CELLS + 1))
    cells = [group for group in groups if _is_number(group.mean)]
    if len(groups) > _MOST_CELLS:
        return context | {"too_many": True}
    effects, complete = shares(cells, factors)
    return context | {"effects": effects, "complete": complete, "means": list(_means(cells, factors, value))}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _axis(name: str, values: Sequence[Any]) -> tuple[str, list[str] | None, list[float]]:
    """Return an axis with the position of each value; what is not all numbers gets places in order."""
    if all(map(_is_number, values)):
        return name, None, [float(value) for value in values]
    places = sorted_as_found(values)
    return (
        name,
        ["NULL" if place is None else cell(place) for place in places],
        [float(places.index(one)) for one in values],
    )


def shares(cells: Sequence[ExperimentGroup], factors: Sequence[str]) -> tuple[list[tuple[str, float]], bool]:
    """Return the share of the variance that each factor and each pair of factors explains, largest first.

    And whether the cells are a complete grid with the same number of results in each. Only then do the shares add up,
    as in an analysis of variance of a balanced design (R. A. Fisher. *Statistical Methods for Research Workers*.
    Oliver and Boyd, 1925).

    Examples
    --------
    >>> cells = [
    ...     ExperimentGroup({"a": a, "b": b}, {}, 1, 3.0 * a + b, None) for a in (0, 1) for b in (0, 1)
    ... ]
    >>> [(name, round(share, 2)) for name, share in shares(cells, ["a", "b"])[0]]
    [('a', 0.9), ('b', 0.1), ('a × b', 0.0)]
    """
    number = sum(one.number for one in cells)
    if number < 2:
        return [], True
    mean = sum(one.number * _mean(one) for one in cells) / number
    within = sum((one.number - 1) * (one.std or 0) ** 2 for one in cells)
    total = within + sum(one.number * (_mean(one) - mean) ** 2 for one in cells)
    if total <= 0:
        return [], True

    def between(names: Sequence[str]) -> float:
        levels: dict[Any, list[float]] = {}
        for one in cells:
            level = levels.setdefault(tuple(one.values[name] for name in names), [0.0, 0.0])
            level[0] += one.number
            level[1] += one.number * _mean(one)
        return sum(n * (weighted / n - mean) ** 2 for n, weighted in levels.values())

    varying = [name for name in factors if len({one.values[name] for one in cells}) > 1]
    main = {name: between([name]) for name in varying}
    found = [(name, part / total) for name, part in main.items()]
    for first, second in combinations(varying, 2):
        part = between([first, second]) - main[first] - main[second]
        found.append((f"{first} × {second}", max(part, 0) / total))
    size = math.prod(len({one.values[name] for one in cells}) for name in factors)
    complete = len(cells) == size and len({one.number for one in cells}) == 1
    return sorted(found, key=lambda effect: -effect[1]), complete


def _mean(group: ExperimentGroup) -> float:
    return group.mean if group.mean is not None else 0.0


def _means(cells: Sequence[ExperimentGroup], factors: Sequence[str], value: str) -> Any:
    for name in factors:
        levels: dict[Any, list[ExperimentGroup]] = {}
        for one in cells:
            levels.setdefault(one.values[name], []).append(one)
        if not 1 < len(levels) <= _MOST_LEVELS:
            continue
        axis, labels, places = _axis(name, sorted_as_found(levels))
        points: list[tuple[float, float, float | None, float | None]] = []
        for level, place in zip(sorted_as_found(levels), places, strict=True):
            number = sum(one.number for one in levels[level])
            points.append((place, sum(one.number * _mean(one) for one in levels[level]) / number, None, None))
        yield lines([Line("", points)], axis, f"mean of {value}", labels)
