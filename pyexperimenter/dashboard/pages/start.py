"""The studies of a database, and how one of them is doing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pyexperimenter.dashboard.charts import bars, state_bar
from pyexperimenter.dashboard.rendering import ends, rows
from pyexperimenter.dashboard.view import View
from pyexperimenter.exceptions import PyExperimenterError
from pyexperimenter.study.status import StudyStatus, outside_grid_text

if TYPE_CHECKING:
    from pyexperimenter.experimenter import PyExperimenter

_FAILURES = 5
_WORKERS = 200


def studies(names: Iterable[str], opened: Callable[[str], PyExperimenter]) -> dict[str, Any]:
    """Return the studies of a database with their progress."""
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            counts = opened(name).counts()
            ended = opened(name).ended_over_time(1)
        except PyExperimenterError as error:
            found.append({"name": name, "problem": type(error).__name__})
            continue
        last = ended[-1][0] if ended else None
        found.append({"name": name, "counts": counts, "bar": state_bar(counts), "last": last, "problem": None})
    return {"studies": found}


def overview(view: View) -> dict[str, Any]:
    """Return how the study is doing; of that, for the script of the page, only what changes every moment."""
    status = view.study.status()
    progress: dict[str, Any] = {
        "status": status,
        "bar": state_bar(dict(status.counts)),
        "workers": status.workers[:_WORKERS],
        "alive": sum(worker.alive for worker in status.workers),
        "warnings": list(_warnings(view, status)),
        "chart": None,
        "failures": [],
    }
    return progress if view.params.get("part") == "progress" else progress | _ends(view.study)


def _ends(study: PyExperimenter) -> dict[str, Any]:
    newest = study.newest_errors(_FAILURES)
    failures = rows(study.get_table({"ID": newest}, ["ID", "end_date", "error"], states="error"))
    ended = study.ended_over_time()
    labels = ends(ended[0][0], ended[-1][0]) if ended else ("", "")
    numbers = [(f"{end:%Y-%m-%d %H:%M:%S}", float(number)) for end, number in ended]
    return {
        "chart": bars(numbers, *labels, "Executions that ended, over time", "executions") if ended else None,
        "failures": sorted(failures, key=lambda row: newest.index(row["ID"])),
    }


def _warnings(view: View, status: StudyStatus) -> Iterable[str]:
    outside = status.outside_grid
    if outside:
        yield outside_grid_text(outside)
    grid = view.study.config.table.grid
    commits = view.study.commits()
    hashes = {commit for commit, _, _ in commits if commit}
    if len(hashes) > 1:
        yield f"The last executions ran {len(hashes)} commits: {', '.join(sorted(name[:8] for name in hashes))}"
    if dirty := sum(number for _, changed, number in commits if changed):
        yield f"{dirty:,} of the last executions ran code with uncommitted changes"
    if waiting := len(view.study.journals()):
        files = "1 journal" if waiting == 1 else f"{waiting} journals"
        yield f"{files} may have results that are not in the database; run: pyexperimenter sync"
    if grid is not None:
        missing = len(grid) - status.total + sum(outside.values())
        if missing > 0:
            yield f"{missing:,} experiments of the grid are not in the table; run: pyexperimenter fill"
