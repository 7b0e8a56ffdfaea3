"""Templates. What is put into them is escaped, unless it was made as markup by `charts`."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pyexperimenter import __version__
from pyexperimenter.dashboard.charts import number_text, short
from pyexperimenter.durations import duration_text, interval_text
from pyexperimenter.jsonable import is_missing, one_line
from pyexperimenter.tracebacks import summary_of

if TYPE_CHECKING:
    import pandas as pd

SCREENS = {
    "overview": ("", "Overview"),
    "grid": ("grid", "Grid map"),
    "experiments": ("experiments", "Experiments"),
    "failures": ("failures", "Failures"),
    "results": ("results", "Results"),
    "parameters": ("parameters", "Parameters"),
    "curves": ("curves", "Curves"),
    "workers": ("workers", "Workers and cost"),
    "sql": ("sql", "SQL"),
}
"""Name of each screen -> its path and title, as in the menu."""

SIGNS = {"created": "○", "running": "▶", "done": "✓", "error": "✕", "paused": "‖"}
"""What distinguishes states without colors."""


def render(template: str, **context: Any) -> str:
    """Return the text of a template."""
    return _environment().get_template(template).render(**context)


def render_content(template: str, **context: Any) -> str:
    """Return only the content of a page, without the menu around it."""
    found = _environment().get_template(template)
    return "".join(found.blocks["content"](found.new_context({**context, "m": _macros(context)})))


def _macros(context: dict[str, Any]) -> Any:
    """Return the macros as the base of all pages imports them."""
    return _environment().get_template("macros.html").make_module(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "number": number_text, "short": short, "duration": duration}
    environment.filters["interval"] = lambda seconds: interval_text(*seconds)
    environment.globals |= {"SCREENS": SCREENS, "SIGNS": SIGNS, "VERSION": __version__}
    return environment


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a DataFrame, with None for what is missing, and a summary instead of a traceback."""
    found = [
        {str(name): None if is_missing(value) else value for name, value in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]
    return [{**row, "error": summary_of(str(row["error"]))} if row.get("error") else row for row in found]


def cell(value: Any) -> str:
    r"""Format a value for a table.

    >>> cell(0.1 + 0.2), cell(None), cell("a\nb")
    ('0.3', '', 'a b')
    """
    return one_line(value, 80)


def ends(first: datetime, last: datetime) -> tuple[str, str]:
    """Format the ends of an axis of times, with seconds if minutes would not distinguish them.

    >>> ends(datetime(2026, 1, 1, 9, 30), datetime(2026, 1, 2))
    ('2026-01-01 09:30', '2026-01-02 00:00 UTC')
    """
    precision = "seconds" if last - first < timedelta(minutes=10) else "minutes"
    return first.isoformat(" ", precision), f"{last.isoformat(' ', precision)} UTC"


def duration(seconds: float | None) -> str:
    """Format a duration, in whole minutes from an hour on.

    >>> duration(0.1234), duration(59.6), duration(3629)
    ('0.12s', '1m', '1h')
    """
    if seconds is None or is_missing(seconds):
        return ""
    if seconds < 1:
        return duration_text(round(seconds, 2))
    return duration_text(round(seconds) if seconds < 3600 else round(seconds / 60) * 60)
