"""The grid map: two keyfields as rows and columns, and in each cell how far its experiments are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from pyexperimenter.dashboard.charts import number_text
from pyexperimenter.dashboard.view import View, of_columns, selectable, text_of
from pyexperimenter.fieldtypes import Kind
from pyexperimenter.study.groups import ExperimentGroup

_MOST = 4_000  # cells
_LEVELS = 5
COLORS = ("progress", "failures", "value")


def grid(view: View) -> dict[str, Any]:
    """Return a table for each value of the facet."""
    table = view.study.config.table
    keyfields = list(table.keyfields)
    results = numeric(table.resultfields)
    rows = view.one_of("rows", keyfields, keyfields[0])
    columns = view.one_of("columns", keyfields, next((name for name in keyfields if name != rows), rows))
    facet = view.one_of("facet", keyfields)
    value = view.one_of("value", results)
    color = view.one_of("color", COLORS, "value" if value else "progress")
    by = list(dict.fromkeys(name for name in (facet, rows, columns) if name))
    groups = hashable(view.study.group_by(by, value, view.where, limit=_MOST + 1))
    parts: dict[Any, list[ExperimentGroup]] = {}
    for group in groups[:_MOST]:
        parts.setdefault(group.values[facet] if facet else None, []).append(group)
    scale = scale_of(group.mean for group in groups)
    selecting = [name for name in by if name in selectable(table.keyfields)]
    return {
        "keyfields": keyfields,
        "results": results,
        "chosen": {"rows": rows, "columns": columns, "facet": facet, "value": value, "color": color},
        "colors": COLORS,
        "maps": [(name, _map(part, rows, columns, selecting, color, scale)) for name, part in parts.items()],
        "more": len(groups) > _MOST,
    }


def numeric(fields: Any) -> list[str]:
    """Return the names of the fields that hold numbers."""
    return [name for name, field in fields.items() if field.kind in (Kind.INTEGER, Kind.REAL)]


def hashable(groups: Sequence[ExperimentGroup]) -> list[ExperimentGroup]:
    """Return groups with JSON as text, so that their values can be compared and counted."""
    return [replace(group, values={name: key(value) for name, value in group.values.items()}) for group in groups]


def key(value: Any) -> Any:
    """Return a value, or the text of JSON."""
    return text_of(value) if isinstance(value, (dict, list)) else value


def _map(
    groups: Sequence[ExperimentGroup], rows: Any, columns: Any, selecting: Sequence[str], color: str | None, scale: Any
) -> dict[str, Any]:
    """Return a table of cells. Values are in the order in which the database sorts them."""
    heads = sorted_as_found(group.values[columns] for group in groups)
    by_place = {(group.values[rows], group.values[columns]): group for group in groups}
    lines = []
    for row in sorted_as_found(group.values[rows] for group in groups):
        cells = [_cell(by_place.get((row, head)), selecting, color, scale) for head in heads]
        lines.append((row, cells))
    return {"heads": heads, "lines": lines}


def sorted_as_found(values: Any) -> list[Any]:
    """Return different values, sorted if they can be, with None first."""
    different = list(dict.fromkeys(values))
    try:
        return sorted(different, key=lambda value: (value is not None, value))
    except TypeError:
        return different


def scale_of(values: Iterable[float | None]) -> tuple[float, float] | None:
    """Return the smallest and the largest finite value."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return (min(finite), max(finite)) if finite else None


def share_of(value: float | None, scale: tuple[float, float]) -> float:
    """Return where a value is on a scale, above 0 if there is a value."""
    if value is None or math.isnan(value):
        return 0.0
    low, high = scale
    place = min(max(value, low), high)
    return max((place - low) / (high - low), 0.01) if high > low else 1.0


def level(share: float) -> int:
    """Return which color a share has: 0 for none, and from 1 on the larger the stronger.

    >>> level(0.0), level(0.01), level(1.0), level(math.nan)
    (0, 1, 5, 0)
    """
    return math.ceil(share * _LEVELS) if share > 0 else 0


def _cell(
    group: ExperimentGroup | None, selecting: Sequence[str], color: str | None, scale: Any
) -> dict[str, Any] | None:
    if group is None:
        return None
    counts = group.counts
    if color == "failures":
        share = counts["error"] / group.total
    elif color == "value" and scale is not None:
        share = share_of(group.mean, scale)
    else:
        share = counts["done"] / group.total
    text = ", ".join(f"{number:,} {state}" for state, number in counts.items() if number)
    mean = None
    if group.mean is not None:
        mean = number_text(group.mean) + (f" ± {number_text(group.std)}" if group.std is not None else "")
        text += f"; mean {mean} of {group.number:,}"
    return {
        "select": urlencode(of_columns({name: group.values[name] for name in selecting})),
        "done": counts["done"],
        "total": group.total,
        "failed": counts["error"],
        "running": counts["running"],
        "mean": mean,
        "level": level(share),
        "text": text,
    }
