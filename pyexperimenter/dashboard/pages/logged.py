"""What experiments logged, as curves: means over runs, or single runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pyexperimenter.dashboard.charts import SERIES, Line, lines
from pyexperimenter.dashboard.pages.grid_map import numeric
from pyexperimenter.dashboard.rendering import cell
from pyexperimenter.dashboard.view import View

if TYPE_CHECKING:
    import pandas as pd

_MOST_RUNS = 300
_MOST_POINTS = 200  # of a line


def curves(view: View) -> dict[str, Any]:
    """Return curves of a column of a logtable over another."""
    config = view.study.config
    logtables = [name for name, fields in config.logtables.items() if numeric(fields)]
    name = view.one_of("logtable", logtables, logtables[0] if logtables else None)
    context: dict[str, Any] = {"logtables": logtables, "keyfields": list(config.table.keyfields), "figure": None}
    if name is None:
        return context | {"chosen": None}
    fields = numeric(config.logtables[name])
    x = view.one_of("index", fields, fields[0])
    value = view.one_of("value", fields, fields[min(1, len(fields) - 1)])
    hue = view.one_of("hue", list(config.table.keyfields))
    single, log_x, log_y = (view.params.get(flag) == "1" for flag in ("runs", "logx", "logy"))
    columns = ["ID", *([hue] if hue else [])]
    states = view.states or ["done", "running", "paused", "error"]
    runs = view.study.get_table(view.where, columns, limit=_MOST_RUNS + 1, states=states)
    chosen = runs.head(_MOST_RUNS)
    context |= {
        "fields": fields,
        "chosen": {"logtable": name, "index": x, "value": value, "hue": hue}
        | {"runs": single, "logx": log_x, "logy": log_y},
        "runs": len(chosen),
        "more": len(runs) > _MOST_RUNS,
    }
    if chosen.empty:
        return context
    condition = f"experiment_id IN ({', '.join(map(str, chosen['ID']))})"
    logs = view.study.get_logtable(name, condition)[["experiment_id", str(x), str(value)]].dropna()
    groups = dict(zip(chosen["ID"], chosen[hue] if hue else [""] * len(chosen), strict=True))
    labels = {run: (f"{hue} = {cell(group) or 'NULL'}" if hue else "") for run, group in groups.items()}
    logs = logs.assign(line=logs["experiment_id"].map(labels))
    drawn = _runs(logs, str(x), str(value)) if single else _means(logs, str(x), str(value))
    return context | {"figure": lines(drawn, str(x), str(value), log_x=log_x, log_y=log_y) if drawn else None}


def _thinned(points: list[Any]) -> list[Any]:
    step = math.ceil(len(points) / _MOST_POINTS)
    return [*points[:-1:step], points[-1]] if step > 1 else points


def _means(logs: pd.DataFrame, x: str, value: str) -> list[Line]:
    """Return the mean of each line at each x, with the standard error of the mean times 1.96 on both sides."""
    found = []
    for label, part in logs.groupby("line", sort=True):
        stats = part.groupby(x)[value].agg(["mean", "std", "count"]).reset_index()
        points = []
        for row in stats.to_dict("records"):
            half = 1.96 * row["std"] / math.sqrt(row["count"]) if row["count"] > 1 else None
            mean = float(row["mean"])
            points.append((float(row[x]), mean, *((mean - half, mean + half) if half is not None else (None, None))))
        found.append(Line(str(label), _thinned(points)))
    return found


def _runs(logs: pd.DataFrame, x: str, value: str) -> list[Line]:
    found = []
    for (label, run), part in logs.groupby(["line", "experiment_id"], sort=True):
        points = [(float(px), float(py), None, None) for px, py in zip(part[x], part[value], strict=True)]
        found.append(Line(", ".join(filter(None, [str(label), f"experiment {run}"])), _thinned(points)))
    return found[: 3 * SERIES]
