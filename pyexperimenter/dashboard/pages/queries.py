"""Queries in SQL, which can only read."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from pyexperimenter.dashboard.pages.listing import rows_as_csv
from pyexperimenter.dashboard.view import View
from pyexperimenter.exceptions import InvalidValueError, PyExperimenterError

_MOST = 500  # rows of the page
_MOST_IN_FILE = 100_000
# The database refuses to change what it stores. This also refuses what writes files of its machine.
_QUERY = re.compile(r"(?:\s|--[^\n]*\n|/\*(?!!).*?\*/)*(?:SELECT|WITH|VALUES|EXPLAIN|\()\b", re.I | re.S)
_TO_FILE = re.compile(r"\bINTO\s+(?:OUTFILE|DUMPFILE)\b|/\*!", re.I)


def sql(view: View) -> dict[str, Any]:
    """Return the result of a query, or what is wrong with it."""
    text = view.params.get("sql", "").strip()
    context: dict[str, Any] = {"text": text, "columns": [], "rows": [], "problem": None, "more": False}
    context["examples"] = view.study.example_queries()
    if not text:
        return context
    try:
        columns, rows = _run(view, text, _MOST + 1)
    except PyExperimenterError as error:
        return context | {"problem": str(error)}
    return context | {"columns": columns, "rows": rows[:_MOST], "more": len(rows) > _MOST}


def sql_download(view: View) -> Response:
    """Return the result of a query as a CSV file."""
    columns, rows = _run(view, view.params.get("sql", ""), _MOST_IN_FILE)
    headers = {"content-disposition": 'attachment; filename="query.csv"'}
    return Response(rows_as_csv(columns, rows), media_type="text/csv; charset=utf-8", headers=headers)


def _run(view: View, text: str, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    text = text.strip().removesuffix(";")
    if not _QUERY.match(text) or _TO_FILE.search(text):
        raise InvalidValueError("only queries can be run here: statements that begin with SELECT, WITH or VALUES")
    return view.study.query(text, limit)
