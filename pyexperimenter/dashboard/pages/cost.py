"""Who executed what and when, what it took, and what the rest will take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pyexperimenter.dashboard.charts import gantt
from pyexperimenter.dashboard.rendering import ends
from pyexperimenter.dashboard.view import View
from pyexperimenter.jsonable import is_missing

_LAST = 2_000  # executions
_MOST_ROWS = 60  # workers
_COLUMNS = ("experiment_id", "machine", "pid", "started", "heartbeat", "ended", "outcome")


def workers(view: View) -> dict[str, Any]:
    """Return the last executions by worker, and sums over all."""
    usage, counts = view.study.usage(), view.study.counts()
    done = next((one for one in usage["outcomes"] if one["outcome"] == "done"), None)
    left = counts["created"] + counts["running"]
    forecast = None
    if done and done["executions"] and left:
        forecast = {name: done[name] / done["executions"] * left for name in ("wall_seconds", "cpu_seconds")}
        if "emissions_kg" in usage:
            forecast["emissions_kg"] = usage["emissions_kg"] / done["executions"] * left
    return {"usage": usage, "forecast": forecast, "left": left, **_timeline(view)}


def _timeline(view: View) -> dict[str, Any]:
    attempts = view.study.get_attempts(columns=_COLUMNS, last=_LAST).to_dict("records")
    chart, executions, more = timeline(
        attempts, lambda row: f"{row['machine']}, {row['pid']}", "Executions of each worker over time"
    )
    return {"chart": chart, "executions": executions, "more_workers": more}


def timeline(
    attempts: Sequence[Mapping[Any, Any]], name: Callable[[Mapping[Any, Any]], str], title: str
) -> tuple[Markup | None, int, int]:
    """Return a figure with a row for each name, the number of executions in it, and of rows that are left out."""
    times = [
        (row, row["started"], row["heartbeat"] if is_missing(row["ended"]) else row["ended"])
        for row in attempts
        if not is_missing(row["started"])
    ]
    times = [(row, start, end) for row, start, end in times if not is_missing(end)]
    if not times:
        return None, 0, 0
    first, last = min(start for _, start, _ in times), max(end for _, _, end in times)
    span = max((last - first).total_seconds(), 1e-3)
    rows: dict[str, list[tuple[float, float, str, str]]] = {}
    for row, start, end in times:
        outcome = row["outcome"] if isinstance(row["outcome"], str) else "running"
        shown = outcome if outcome in ("done", "error", "lost", "running") else "other"
        piece = (start - first).total_seconds() / span, (end - first).total_seconds() / span
        text = f"experiment {row['experiment_id']}: {outcome}, from {start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"
        rows.setdefault(name(row), []).append((*piece, shown, text))
    names = list(rows)[-_MOST_ROWS:]
    chart = gantt([(one, rows[one]) for one in names], *ends(first, last), title)
    return chart, len(times), len(rows) - len(names)
