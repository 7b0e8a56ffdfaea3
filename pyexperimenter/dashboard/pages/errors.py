"""Experiments in error, grouped by what went wrong."""

from __future__ import annotations

from typing import Any

from pyexperimenter.dashboard.view import View

_MOST = 5_000  # experiments in error that are looked at
_LONGEST = 20_000  # characters of a traceback


def failures(view: View) -> dict[str, Any]:
    """Return the groups, each with what its experiments share."""
    errors = view.study.counts()["error"]
    groups = view.study.error_groups(limit=_MOST)
    shown = [
        {"group": group, "error": group.error[-_LONGEST:], "url": view.url("experiments", state="error")}
        | {"shared_url": view.selecting("experiments", group.shared, state="error")}
        for group in groups
    ]
    return {"groups": shown, "errors": errors, "looked_at": min(errors, _MOST)}
