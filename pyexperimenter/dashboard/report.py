"""The content of the pages in one file, for readers who cannot reach the database."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.datastructures import QueryParams

from pyexperimenter.dashboard.app import MOST_ANALYZED
from pyexperimenter.dashboard.pages import PAGES
from pyexperimenter.dashboard.pages.grid_map import numeric
from pyexperimenter.dashboard.rendering import SCREENS, render, render_content
from pyexperimenter.dashboard.view import View
from pyexperimenter.exceptions import PyExperimenterError

if TYPE_CHECKING:
    from pyexperimenter.experimenter import PyExperimenter

_TIME_LIMIT = 600.0  # seconds of a query
_SCREENS = ("overview", "grid", "failures", "parameters", "curves", "workers")
# What makes no sense without a server. All of it is our own markup: what comes from the database is escaped.
_LIVE = re.compile(r'<form\b.*?</form>|<button\b.*?</button>|<(p|span) class="live">.*?</\1>', re.S)
_LINKS = re.compile(r"</?a\b[^>]*>")
_HEADINGS = re.compile(r"(</?h)([2-5])\b")


def report(experimenter: PyExperimenter, where: str | None) -> str:
    """Return the progress, failures and results of a study as one HTML file without scripts.

    Parameters
    ----------
    experimenter : PyExperimenter
        The study.
    where : str or None
        Only results of experiments that match this SQL condition.
    """
    study = experimenter.read_only(_TIME_LIMIT, MOST_ANALYZED)
    study.get_table(where, ["ID"], limit=0)  # says so if the table is missing, or the condition is wrong
    fields = numeric(study.config.table.resultfields)
    selected = [("where", where)] if where else []
    shown = [(name, SCREENS[name][1], selected) for name in _SCREENS]
    results = [
        ("results", f"Results: {field}", [*selected, ("value", field), ("failures", "drop")]) for field in fields
    ]
    sections = [
        {"title": title, "content": _section(study, name, QueryParams(params))}
        for name, title, params in shown[:3] + results + shown[3:]
    ]
    style = (Path(__file__).parent / "static" / "dashboard.css").read_text(encoding="utf-8")
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return render("report.html", table=study.config.table.name, made=made, sections=sections, style=style, where=where)


def _section(study: PyExperimenter, name: str, params: QueryParams) -> Any:
    show = next(page for _, template, page in PAGES if template == name)
    context: dict[str, Any] = {"root": "", "csrf": "", "changes": False, "screen": name}
    view = View(study, "", params)
    try:
        content = render_content(f"{name}.html", **context, view=view, **show(view))
    except PyExperimenterError as error:
        content = render_content("error.html", **context, title="", text=str(error), again=False)
    content = _LINKS.sub("", _LIVE.sub("", content))
    return _HEADINGS.sub(lambda match: f"{match[1]}{int(match[2]) + 1}", content)
