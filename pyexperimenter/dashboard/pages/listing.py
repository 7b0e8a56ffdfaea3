"""Experiments: those that a condition selects, as pages and as a CSV file; and one of them in full."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from starlette.responses import StreamingResponse

from pyexperimenter.dashboard.charts import Line, lines
from pyexperimenter.dashboard.pages.cost import timeline
from pyexperimenter.dashboard.rendering import rows
from pyexperimenter.dashboard.view import STATES, View, selectable
from pyexperimenter.exceptions import PyExperimenterError
from pyexperimenter.fieldtypes import Kind

if TYPE_CHECKING:
    import pandas as pd

_PAGE = 50  # rows
_PART = 2_000  # rows of a download that are read at a time
_FEW = 20_000  # experiments of which values are counted without being asked for that
_FACETS = 12  # values of a keyfield that are shown
_MOST_LOGGED = 2_000  # rows of a logtable that are drawn
_OWN_FRAMES = re.compile(r'^  File "(?!<frozen)(?!.*(?:site-packages|lib/python3))', re.M)


def experiments(view: View) -> dict[str, Any]:
    """Return one page of the selected experiments."""
    study = view.study
    existing = list(study.get_table(limit=0).columns)
    order = view.params.get("order") or None
    columns = view.several_of("col", existing) or _columns(view, existing)
    after, before = (_id(view.params.get(name, "")) for name in ("after", "before"))
    names = ["ID", *(name for name in columns if name != "ID")]
    table = study.get_table(view.where, names, order, _PAGE + 1, view.states or None, after=after, before=before)
    shown = rows(table.head(_PAGE) if before is None else table.tail(_PAGE))
    more = len(table) > _PAGE
    is_before, is_after = (more, True) if before is not None else (after is not None, more)
    return {
        "columns": names,
        "existing": existing,
        "rows": shown,
        "first": after is None and before is None,
        "previous": shown[0]["ID"] if shown and is_before else None,
        "next": shown[-1]["ID"] if shown and is_after else None,
        "order": order or "ID",
        "facets": _facets(view, [name for name in selectable(study.config.table.keyfields) if name in existing]),
        "numbers": {name for name in names if table[name].dtype.kind in "if"},
    }


def _id(text: str) -> int | None:
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else None


def _columns(view: View, existing: list[str]) -> list[str]:
    table = view.study.config.table
    shown = ["ID", "status", *table.keyfields, *table.resultfields]
    shown += ["error"] if "error" in view.states else []
    return [name for name in shown if name in existing]


def _facets(view: View, keyfields: list[str]) -> list[dict[str, Any]]:
    """Return the values of states and keyfields; those of large tables only when they are asked for."""
    counts = view.study.counts()
    states = [(state, counts[state], view.changing("experiments", state=state)) for state in STATES]
    facets: list[dict[str, Any]] = [{"name": "status", "values": states, "more": False}]
    few = sum(counts.values()) <= _FEW
    for name in keyfields:
        if not few and view.params.get("facet") != name:
            facets.append({"name": name, "values": None, "url": view.changing("experiments", facet=name)})
            continue
        try:
            groups = view.study.group_by(name, None, view.where, view.states or None, limit=_FACETS + 1)
        except PyExperimenterError:  # types that cannot be grouped
            continue
        values = [
            (group.values[name], group.total, view.selecting("experiments", {name: group.values[name]}))
            for group in groups[:_FACETS]
        ]
        facets.append({"name": name, "values": values, "more": len(groups) > _FACETS})
    return facets


def download(view: View) -> StreamingResponse:
    """Return the selected experiments as a CSV file, of which a part at a time is in memory."""
    first = _part(view, None)
    file = re.sub(r"[^\w.-]+", "_", view.table, flags=re.A)
    return StreamingResponse(
        _csv(view, first),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{file}.csv"'},
    )


def _part(view: View, after: int | None) -> pd.DataFrame:
    return view.study.get_table(view.where, None, None, _PART, view.states or None, after=after)


def _csv(view: View, part: pd.DataFrame) -> Iterator[str]:
    from pyexperimenter.analysis import export_frame

    header = io.StringIO()
    export_frame(part.head(0), header, "csv")
    yield header.getvalue()
    while len(part):
        text = io.StringIO()
        export_frame(part, text, "csv", escape_formulas=True)
        yield text.getvalue()[len(header.getvalue()) :]
        if len(part) < _PART:
            return
        part = _part(view, int(part["ID"].iloc[-1]))


def rows_as_csv(columns: list[str], rows: list[tuple[Any, ...]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue()


def experiment(view: View) -> dict[str, Any]:
    """Return one experiment in full."""
    study, experiment_id = view.study, int(view.path["id"])
    details = study.get_experiment(experiment_id)
    table, row = study.config.table, details.row
    error = str(row["error"] or "")
    return {
        "id": experiment_id,
        "row": row,
        "inputs": [(name, row[name]) for name in table.keyfields if name in row],
        "results": [(name, row[name]) for name in table.resultfields if name in row],
        "attempts": details.attempts,
        "timeline": _timeline(details.attempts),
        "error": error,
        "own_frames": _own_frames(error),
        "output": details.attempts[-1]["output"] if details.attempts else None,
        "curves": list(_curves(view, experiment_id)),
        "copies": [
            ("Debug command", f"pyexperimenter debug -c {shlex.quote(study.config.source)} {experiment_id}"),
            ("Python", f"experimenter.get_experiment({experiment_id})"),
            ("SQL", f"SELECT * FROM {view.quoted(table.name)} WHERE {view.quoted('ID')} = {experiment_id}"),
        ],
    }


def _timeline(attempts: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return a figure with a row for each attempt. Those that are running have taken until now."""
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    drawn = [
        {**row, "heartbeat": max(now, row["started"])}
        for row in attempts
        if isinstance(row["started"], datetime) and isinstance(row["ended"], datetime | None)  # no edits by hand
    ]
    return timeline(drawn, lambda row: f"{row['number']}: {row['outcome'] or 'running'}", "Attempts over time")[0]


def _own_frames(error: str) -> str:
    """Return the places of a traceback that are in files of the user, with the exception."""
    lines_, kept, own = error.splitlines(), list[str](), False
    for line in lines_:
        if line.startswith('  File "'):
            own = _OWN_FRAMES.match(line) is not None
        elif not line.startswith("    "):
            own = True
        if own:
            kept.append(line)
    return "\n".join(kept) if len(kept) < len(lines_) else ""


def _curves(view: View, experiment_id: int) -> Iterator[tuple[str, Any]]:
    for name, fields in view.study.config.logtables.items():
        numbers = [field for field, kind in fields.items() if kind.kind in (Kind.INTEGER, Kind.REAL)]
        if not numbers:
            continue
        logs = view.study.get_logtable(name, f"experiment_id = {experiment_id}")
        if logs.empty:
            continue
        counting = next((field for field in numbers if logs[field].is_monotonic_increasing and len(numbers) > 1), None)
        step = max(1, len(logs) // _MOST_LOGGED)
        logs = logs.iloc[::step]
        for field in numbers:
            if field == counting:
                continue
            x = logs[counting] if counting else range(len(logs))
            points = [
                (float(px), float(py), None, None)
                for px, py in zip(x, logs[field], strict=True)
                if px is not None and py is not None and px == px and py == py
            ]
            if points:
                yield name, lines([Line("", points)], counting or "row", field)
