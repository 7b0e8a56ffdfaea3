"""Who executed what and when, what it took, and what the rest will take."""

from __future__ import annotations

from typing import Any

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
    times = [
        (row, row["started"], row["heartbeat"] if is_missing(row["ended"]) else row["ended"])
        for row in attempts
        if not is_missing(row["started"])
    ]
    times = [(row, start, end) for row, start, end in times if not is_missing(end)]
    if not times:
        return {"chart": None, "executions": 0, "more_workers": 0}
    first, last = min(start for _, start, _ in times), max(end for _, _, end in times)
    span = max((last - first).total_seconds(), 1e-3)
    rows: dict[str, list[tuple[float, float, str, str]]] = {}
    for row, start, end in times:
        outcome = row["outcome"] if isinstance(row["outcome"], str) else "running"
        shown = outcome if outcome in ("done", "error", "lost", "running") else "other"
        piece = (start - first).total_seconds() / span, (end - first).total_seconds() / span
        text = f"experiment {row['experiment_id']}: {outcome}, from {start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"
        rows.setdefault(f"{row['machine']}, {row['pid']}", []).append((*piece, shown, text))
    names = list(rows)[-_MOST_ROWS:]
    chart = gantt([(name, rows[name]) for name in names], *ends(first, last))
    return {"chart": chart, "executions": len(times), "more_workers": len(rows) - len(names)}
