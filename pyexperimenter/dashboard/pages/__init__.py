"""The pages: each takes a view, calls the facade, and returns what its template shows."""

from collections.abc import Callable
from typing import Any

from pyexperimenter.dashboard.pages.changes import change
from pyexperimenter.dashboard.pages.cost import workers
from pyexperimenter.dashboard.pages.effects import parameters
from pyexperimenter.dashboard.pages.errors import failures
from pyexperimenter.dashboard.pages.grid_map import grid
from pyexperimenter.dashboard.pages.listing import download, experiment, experiments
from pyexperimenter.dashboard.pages.logged import curves
from pyexperimenter.dashboard.pages.outcomes import results
from pyexperimenter.dashboard.pages.queries import sql, sql_download
from pyexperimenter.dashboard.pages.start import overview, studies
from pyexperimenter.dashboard.view import View

PAGES: tuple[tuple[str, str, Callable[[View], Any]], ...] = (
    ("", "overview", overview),
    ("grid", "grid", grid),
    ("experiments", "experiments", experiments),
    ("experiments.csv", "experiments", download),
    ("experiments/{id:int}", "experiment", experiment),
    ("failures", "failures", failures),
    ("results", "results", results),
    ("parameters", "parameters", parameters),
    ("curves", "curves", curves),
    ("workers", "workers", workers),
    ("sql", "sql", sql),
    ("sql.csv", "sql", sql_download),
)
"""Path below that of the study, name of the template, and function of each page."""

__all__ = ["PAGES", "change", "studies"]
