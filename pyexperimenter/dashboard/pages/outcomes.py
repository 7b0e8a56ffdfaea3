"""Results as for a paper: a table, a figure, and the tests between the levels of a keyfield."""

from __future__ import annotations

import shlex
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from markupsafe import Markup

from pyexperimenter.dashboard.charts import Line, lines, ranks
from pyexperimenter.dashboard.pages.grid_map import numeric, sorted_as_found
from pyexperimenter.dashboard.rendering import cell
from pyexperimenter.dashboard.view import View
from pyexperimenter.exceptions import PyExperimenterError
from pyexperimenter.jsonable import is_missing

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T")
_STATS = ("mean±std", "median±iqr", "mean", "median", "mean±ci95")
_BEST = ("max", "min")
_ADVICE = "Say what they count as"  # in Python; this page has its own
_ENDS = {"std": ("mean", "std"), "ci95": ("mean", "ci95")}
_LOCK = threading.Lock()  # warnings are caught for the whole process


def results(view: View) -> dict[str, Any]:
    """Return a summary of a result, and on demand a comparison."""
    table = view.study.config.table
    keyfields, fields = list(table.keyfields), numeric(table.resultfields)
    value = view.one_of("value", fields, fields[0] if fields else None)
    others = [name for name in keyfields if name != "seed"] or keyfields
    rows = view.several_of("rows", keyfields) or others[:1]
    columns = view.several_of("columns", keyfields) or ([] if "rows" in view.params else others[1:2])
    columns = [name for name in columns if name not in rows]
    over = [name for name in keyfields if name not in (*rows, *columns)]
    options: dict[str, Any] = {
        "stat": view.one_of("stat", _STATS, _STATS[0]),
        "failures": view.one_of("failures", ("error", "drop"), "error"),
        # Where some levels have other keyfields than others, they have no runs in common.
        "pairing": view.one_of("pairing", ("common", "all"), "common" if _is_product(view) else "all"),
    }
    best = view.one_of("best", _BEST)
    by = view.one_of("by", keyfields)
    shown: dict[str, Any] = {"value": value, "rows": rows, "columns": columns, "over": over, **options, "best": best}
    context = {
        "fields": fields,
        "keyfields": keyfields,
        "stats": _STATS,
        "chosen": shown,
        "by": by,
        "problem": None,
        "has_failed": False,
        "summary": None,
        "comparison": None,
        "copies": [],
        "notes": [],
    }
    if value is None:
        return context | {"problem": "The study has no resultfield with numbers."}
    try:
        found, notes = warned(
            lambda: view.study.summarize(value, rows, columns or None, over, where=view.where, **options)
        )
        context |= {"notes": notes} | _rendered(view, found, shown)
        if by:
            how = {"failures": options["failures"], "pairing": options["pairing"]}
            context |= _compared(view, value, by, rows, over, best or "max", how)
    except PyExperimenterError as error:
        text, *advice = str(error).partition(_ADVICE)
        context |= {"problem": text.strip(), "has_failed": bool(advice[0])}
    return context


def _is_product(view: View) -> bool:
    grid = view.study.config.table.grid
    return grid is None or grid.is_product


def warned(compute: Callable[[], _T]) -> tuple[_T, list[str]]:
    """Return a result, and the warnings about it."""
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = compute()
    return found, [str(one.message) for one in caught if issubclass(one.category, UserWarning)]


def _rendered(view: View, summary: pd.DataFrame, chosen: Mapping[str, Any]) -> dict[str, Any]:
    from pyexperimenter.analysis import to_html, to_latex

    best = {"best": chosen["best"]} if chosen["best"] else {}
    words = ["pyexperimenter", "table", chosen["value"], "--rows", ",".join(chosen["rows"])]
    for name in ("columns", "over"):
        words += [f"--{name}", ",".join(chosen[name])] if chosen[name] else []
    words += ["--stat", str(chosen["stat"])]
    words += [word for name in ("failures", "pairing", "best") for word in _option(name, chosen[name])]
    if where := _sql(view):
        words += ["--where", where]
    python = (
        f"experimenter.summarize({chosen['value']!r}, rows={chosen['rows']!r}, columns={chosen['columns'] or None!r}, "
        f"over={chosen['over']!r}, stat={chosen['stat']!r}, failures={chosen['failures']!r}, "
        f"pairing={chosen['pairing']!r}, where={view.where!r})"
    )
    figure = _figure(summary, chosen["rows"], chosen["columns"], str(chosen["value"]), str(chosen["stat"]))
    return {
        "summary": Markup(to_html(summary, **best)),  # which escapes values
        "figure": figure,
        "copies": [("Command", shlex.join(words)), ("Python", python), ("LaTeX", to_latex(summary, **best))],
    }


def _option(name: str, value: Any) -> list[str]:
    return [] if value in (None, "error", "common") else [f"--{name}", str(value)]


def _sql(view: View) -> str:
    """Return what is selected as a condition in SQL, to be copied."""
    parts = [view.where_text] if view.where_text else []
    for name, values in view.values.items():
        options = [f"{name} IS NULL" if value is None else f"{name} = {_literal(value)}" for value in values]
        parts.append(f"({' OR '.join(options)})")
    return " AND ".join(parts)


def _literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def _figure(summary: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str, stat: str) -> Markup | None:
    """Draw the summary over a single keyfield of the rows, with a line for each combination of the columns."""
    if len(rows) != 1:
        return None
    center = "median" if stat.startswith("median") else "mean"
    records = summary.to_dict("records")
    places = sorted_as_found(None if is_missing(row[rows[0]]) else row[rows[0]] for row in records)
    numbers = all(isinstance(place, (int, float)) and not isinstance(place, bool) for place in places)
    labels = None if numbers else ["NULL" if place is None else cell(place) for place in places]
    series: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
    for row in records:
        place = None if is_missing(row[rows[0]]) else row[rows[0]]
        x = float(place if numbers else places.index(place))  # type: ignore[arg-type] # None is not among numbers
        y = row[center]
        if is_missing(y):
            continue
        low, high = _interval(row, center, stat)
        name = ", ".join(f"{one} = {cell(row[one]) or 'NULL'}" for one in columns)
        series.setdefault(name, []).append((x, float(y), low, high))
    drawn = [Line(name, sorted(points, key=itemgetter(0))) for name, points in series.items()]
    return lines(drawn, rows[0], f"{center} of {value}", labels) if drawn else None


def _interval(row: Mapping[Any, Any], center: str, stat: str) -> tuple[float | None, float | None]:
    if stat == "median±iqr":
        ends = row["q1"], row["q3"]
    elif "±" in stat and not is_missing(row[stat.partition("±")[2]]):
        half = row[stat.partition("±")[2]]
        ends = row[center] - half, row[center] + half
    else:
        return None, None
    return (None, None) if any(map(is_missing, ends)) else (float(ends[0]), float(ends[1]))


def _compared(
    view: View, value: str, by: str, rows: Sequence[str], over: Sequence[str], better: str, how: Mapping[str, Any]
) -> dict[str, Any]:
    blocks = [name for name in rows if name != by] or [name for name in over if name != by][:1]
    rest = [name for name in view.study.config.table.keyfields if name not in (by, *blocks)]
    found, notes = warned(lambda: view.study.compare(value, by, blocks, better, rest, where=view.where, **how))
    words = ["pyexperimenter", "compare", value, "--by", by, "--blocks", ",".join(blocks), "--better", better]
    words += ["--over", ",".join(rest)] if rest else []
    words += [word for name, setting in how.items() for word in _option(name, setting)]
    words += ["--where", _sql(view)] if view.where else []
    places = list(found.average_ranks.index)
    # The description has the notes of the comparison.
    others = [line for note in notes for line in note.splitlines() if line not in found.notes]
    cliques = [[places.index(level) for level in clique] for clique in found.cliques()]
    return {
        "comparison": {
            "text": str(found),
            "describe": found.describe(),
            "ranks": ranks([(cell(level), float(rank)) for level, rank in found.average_ranks.items()], cliques),
            "notes": others,
            "blocks": blocks,
            "copies": [("Command for the comparison", shlex.join(words))],
        }
    }
