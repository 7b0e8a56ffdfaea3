"""Results as for a paper: a table, a figure, and the tests between the levels of a keyfield."""

from __future__ import annotations

import math
import re
import shlex
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from markupsafe import Markup

from pyexperimenter.dashboard.charts import Line, lines, number_text, ranks
from pyexperimenter.dashboard.pages.grid_map import level, numeric, scale_of, share_of, sorted_as_found
from pyexperimenter.dashboard.rendering import cell
from pyexperimenter.dashboard.view import View, selectable
from pyexperimenter.exceptions import InvalidValueError, PyExperimenterError
from pyexperimenter.jsonable import is_missing

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T")
_STATS = ("mean±std", "median±iqr", "mean", "median", "mean±ci95")
_BEST = ("max", "min")
_ADVICE = re.compile("Say what they count as|; choose failures=")  # in Python; this page has its own
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
    best = view.one_of("best", _BEST)
    by = view.one_of("by", keyfields)
    how: dict[str, Any] = {
        "failures": _counted(view),
        # Where some levels have other keyfields than others, they have no runs in common.
        "pairing": view.one_of("pairing", ("common", "all"), "common" if _is_product(view) else "all"),
    }
    averaged = keyfields
    asked = {name: view.several_of(name, keyfields) for name in ("over", "select_by")}
    better = view.one_of("select_better", _BEST, "max")
    select_on = view.one_of("select_on", fields)
    if select_on:
        replicates = [name for name in ("seed", *view.study.config.analysis.unit) if name in keyfields]
        averaged = asked["select_by"] or list(dict.fromkeys([*rows, *columns, *([by] if by else []), *replicates]))
        # A setting that failed is chosen if no other is left, and then its failure counts like those of others.
        failed = "error" if how["failures"] == "error" else "worst"
        how["select"] = {"by": averaged, "on": select_on, "better": better, "failures": failed}
    over = [name for name in asked["over"] or averaged if name not in (*rows, *columns)]
    if view.where:
        how["where"] = view.where
    stat = view.one_of("stat", _STATS) or _STATS[0]
    shown: dict[str, Any] = {"value": value, "rows": rows, "columns": columns, "over": over, "stat": stat, "best": best}
    context = {
        "fields": fields,
        "keyfields": keyfields,
        "stats": _STATS,
        "chosen": shown | how,
        "asked": asked,
        "select_on": select_on,
        "select_better": better,
        "by": by,
        "problem": None,
        "has_failed": False,
        "summary": None,
        "heatmap": None,
        "unmapped": None,
        "comparison": None,
        "copies": [],
        "notes": [],
    }
    if value is None:
        return context | {"problem": "The study has no resultfield with numbers."}
    try:
        found, notes = warned(lambda: view.study.summarize(value, rows, columns or None, over, stat, **how))
        context |= {"notes": notes} | _rendered(view, found, shown, how)
        if len(rows) == len(columns) == 1:
            context |= _heatmap(view, found, shown, how)
        if by:
            context |= _compared(view, value, by, rows, columns, over, best or "max", how)
    except PyExperimenterError as error:
        text, *advice = _ADVICE.split(str(error), maxsplit=1)
        context |= {"problem": text.strip(), "has_failed": bool(advice)}
    return context


def _counted(view: View) -> str | float:
    """Return what failed runs count as."""
    given = view.params.get("failures") or "error"
    if given in ("error", "drop"):
        return given
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidValueError(f"failures: {given!r} is not valid here; choose error, drop or a number, such as 0")
    return number


def _is_product(view: View) -> bool:
    grid = view.study.config.table.grid
    return grid is None or grid.is_product


def warned(compute: Callable[[], _T]) -> tuple[_T, list[str]]:
    """Return a result, and the warnings about it."""
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = compute()
    return found, [str(one.message) for one in caught if issubclass(one.category, UserWarning)]


def _rendered(view: View, summary: pd.DataFrame, chosen: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    from pyexperimenter.analysis import to_html, to_latex

    best = {"best": chosen["best"]} if chosen["best"] else {}
    rows, columns, value, stat = chosen["rows"], chosen["columns"], chosen["value"], chosen["stat"]
    drawn = {"over": chosen["over"], "stat": stat, **how}
    call: dict[str, Any] = {"rows": rows, "columns": columns or None, **drawn}
    copies = [
        ("Command", _command(view, "table", value, call | best)),
        ("Python", _python("summarize", value, call)),
        ("LaTeX", to_latex(summary, **best)),
    ]
    figure = _figure(summary, rows, columns, value, stat)
    if figure is not None:
        call = {"x": rows[0], "hue": columns or None, **drawn}
        copies += _drawing(view, "figure", "result", value, call, _python("plot_result", value, call))
    return {"summary": Markup(to_html(summary, **best)), "figure": figure, "copies": copies}  # it escapes values


def _drawing(
    view: View, name: str, kind: str, value: str, call: Mapping[str, Any], python: str
) -> list[tuple[str, str]]:
    """Return how a figure is drawn for a paper, to be copied."""
    file = f"{name}.pdf"
    return [
        (f"Command for the {name}", _command(view, f"plot {kind}", value, {**call, "output": file})),
        (f"Python for the {name}", python),
        (f"LaTeX for the {name}", f"% needs \\usepackage{{graphicx}}\n\\includegraphics{{{file}}}"),
    ]


def _python(method: str, value: str, options: Mapping[str, Any]) -> str:
    """Return a call of the facade, to be copied."""
    return f"experimenter.{method}({', '.join([repr(value), *(f'{key}={given!r}' for key, given in options.items())])})"


def _command(view: View, command: str, value: str, options: Mapping[str, Any]) -> str:
    """Return the command that makes the same call, to be copied."""
    named = {name: given for name, given in options.items() if name != "select"}
    named |= {f"select-{name}": given for name, given in options.get("select", {}).items()}
    if "where" in named:
        named["where"] = _sql(view)
    words = ["pyexperimenter", *command.split(), value]
    for name, given in named.items():
        if given not in (None, [], "error", "common"):
            words += [f"--{name}", ",".join(given) if isinstance(given, list) else str(given)]
    return shlex.join(words)


def _sql(view: View) -> str:
    """Return what is selected as a condition in SQL, to be copied."""
    parts = [f"({view.where_text}\n)" if view.values else view.where_text] if view.where_text else []
    is_mysql = view.study.config.database.provider == "mysql"
    for name, values in view.values.items():
        column = view.quoted(name)
        options = [
            f"{column} IS NULL" if value is None else f"{column} = {_literal(value, is_mysql)}" for value in values
        ]
        parts.append(f"({' OR '.join(options)})")
    return " AND ".join(parts)


def _literal(value: Any, is_mysql: bool) -> str:
    if not isinstance(value, str):
        return str(value)
    text = value.replace("\\", "\\\\") if is_mysql else value
    return "'" + text.replace("'", "''") + "'"


def _center(stat: str) -> str:
    return "median" if stat.startswith("median") else "mean"


def _heatmap(view: View, summary: pd.DataFrame, chosen: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `plot_heatmap` draws as a map, with the colors of the grid map, and the values as text."""
    (row,), (column,), value, stat = chosen["rows"], chosen["columns"], chosen["value"], chosen["stat"]
    center = _center(stat)
    if how["pairing"] == "common":  # of all cells, whose colors are compared, not only of those of a row
        try:
            summary, _ = warned(lambda: view.study.summarize(value, [row, column], None, chosen["over"], stat, **how))
        except PyExperimenterError as error:
            return {"unmapped": str(error)}
    records = [
        {name: None if is_missing(value) else value for name, value in record.items()}
        for record in summary[[row, column, center, "n"]].to_dict("records")
    ]
    scale = scale_of(record[center] for record in records)
    selecting = [name for name in (row, column) if name in selectable(view.study.config.table.keyfields)]
    cells = {
        (record[row], record[column]): {
            "url": view.selecting("experiments", {name: record[name] for name in selecting}),
            "text": number_text(record[center]) or "–",
            "n": record["n"],
            "level": level(share_of(record[center], scale)) if scale else 0,
        }
        for record in records
    }
    heads = sorted_as_found(record[column] for record in records)
    places = sorted_as_found(record[row] for record in records)
    lines_ = [(place, [cells.get((place, head)) for head in heads]) for place in places]
    call = {"x": column, "y": row, "over": chosen["over"], "stat": stat, **how}
    copies = _drawing(view, "heatmap", "heatmap", value, call, _python("plot_heatmap", value, call))
    shown = {"row": row, "column": column, "center": center, "heads": heads, "lines": lines_, "copies": copies}
    return {"heatmap": shown}


def _figure(summary: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str, stat: str) -> Markup | None:
    """Draw the summary over a single keyfield of the rows, with a line for each combination of the columns."""
    if len(rows) != 1:
        return None
    center = _center(stat)
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
    view: View,
    value: str,
    by: str,
    rows: Sequence[str],
    columns: Sequence[str],
    over: Sequence[str],
    better: str,
    how: Mapping[str, Any],
) -> dict[str, Any]:
    from pyexperimenter.analysis.rendering import escape_latex

    blocks = [name for name in rows if name != by] or [name for name in over if name != by][:1]
    rest = [name for name in (*rows, *columns, *over) if name not in (by, *blocks)]
    call = {"by": by, "blocks": blocks, "better": better, "over": rest, **how}
    found, notes = warned(lambda: view.study.compare(value, **call))
    python = _python("compare", value, call)
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
            "copies": [
                ("Command for the comparison", _command(view, "compare", value, call)),
                ("Python for the comparison", python),
                ("LaTeX for the comparison", escape_latex(found.describe())),
                *_drawing(view, "ranks", "ranks", value, call, f"{python}.critical_difference_diagram()"),
            ],
        }
    }
