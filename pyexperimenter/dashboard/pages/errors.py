"""Experiments in error, grouped by what went wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from pyexperimenter.dashboard.pages.grid_map import key, level, sorted_as_found
from pyexperimenter.dashboard.rendering import rows
from pyexperimenter.dashboard.view import View, of_columns, selectable

_MOST = 5_000  # experiments in error that are looked at
_LONGEST = 20_000  # characters of a traceback
_MAPS = 30  # groups with a map, the largest ones
_MOST_VALUES = 20  # of a keyfield on a map


def failures(view: View) -> dict[str, Any]:
    """Return the groups, each with what its experiments share and where in the grid they are."""
    errors = view.study.counts()["error"]
    groups = view.study.error_groups(limit=_MOST)
    keyfields = list(view.study.config.table.keyfields)
    drawn = [experiment_id for group in groups[:_MAPS] for experiment_id in group.ids]
    failed = rows(view.study.get_table({"ID": drawn}, ["ID", *keyfields]))
    places = {row["ID"]: {name: key(row[name]) for name in keyfields} for row in failed}
    domains = {name: _values(view, name, {place[name] for place in places.values()}) for name in keyfields}
    shown = [
        {"group": group, "error": group.error[-_LONGEST:], "url": view.url("experiments", state="error")}
        | {"shared_url": view.selecting("experiments", group.shared, state="error")}
        | {"map": _map(view, [places[one] for one in group.ids if one in places], domains)}
        for group in groups
    ]
    return {"groups": shown, "errors": errors, "looked_at": min(errors, _MOST)}


def _values(view: View, name: str, found: set[Any]) -> list[Any]:
    """Return the values of a keyfield in the grid, or those of failures if they are not in it or if it has too many."""
    grid = view.study.config.table.grid
    if grid is not None and len(grid.values_of(name)) <= _MOST_VALUES:
        known = {key(value) for value in grid.values_of(name)}
        if found <= {*known, None}:
            found = found | known
    return sorted_as_found(found)


def _map(
    view: View, places: Sequence[Mapping[str, Any]], domains: Mapping[str, Sequence[Any]]
) -> dict[str, Any] | None:
    """Return the number of failures by the two keyfields that tell most about where they are, if there are two.

    The second one is one in which they differ, if there is such a one: others say again what all of them share.
    """
    telling = {
        name: evidence([place[name] for place in places], len(values))
        for name, values in domains.items()
        if 2 <= len(values) <= _MOST_VALUES
    }
    if len(places) < 2 or len(telling) < 2:
        return None
    first, *others = sorted(telling, key=lambda name: -telling[name])
    differing = [name for name in others if len({place[name] for place in places}) > 1]
    down, across = (name for name in domains if name in (first, (differing or others)[0]))
    counts = Counter((place[down], place[across]) for place in places)
    most = max(counts.values())
    selecting = selectable(view.study.config.table.keyfields)

    def cell(row: Any, head: Any) -> dict[str, Any] | None:
        if not (number := counts[row, head]):
            return None
        chosen = {name: value for name, value in ((down, row), (across, head)) if name in selecting}
        return {
            "number": number,
            "text": f"{number:,} in error",
            "level": level(number / most),
            "select": urlencode(of_columns(chosen)),
        }

    lines = [(row, [cell(row, head) for head in domains[across]]) for row in domains[down]]
    return {"rows": down, "columns": across, "heads": domains[across], "lines": lines}


def evidence(values: Sequence[Any], number: int) -> float:
    """Return how strongly values speak against coming evenly from so many different ones.

    This is the statistic of the likelihood-ratio test (G-test), less its mean if they did.

    >>> evidence(["rbf"] * 10, 2) > evidence(["rbf", "linear"] * 5, 2)
    True
    """
    statistic = 2 * sum(count * math.log(count * number / len(values)) for count in Counter(values).values())
    return statistic - (number - 1)
