"""The application: which page is where, how it is rendered, and what is shown instead if it cannot be."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pyexperimenter.dashboard import pages
from pyexperimenter.dashboard.rendering import render
from pyexperimenter.dashboard.security import CSRF, FORM
from pyexperimenter.dashboard.view import View
from pyexperimenter.exceptions import (
    AccessDeniedError,
    ConfigError,
    DatabaseError,
    InvalidExperimentError,
    InvalidLogtableError,
    MissingDatabaseError,
    MissingTableError,
    PyExperimenterError,
)

if TYPE_CHECKING:
    from pyexperimenter.experimenter import PyExperimenter

TIME_LIMIT = 10.0
"""Seconds after which a query is cut."""
MOST_ANALYZED = 100_000
"""Experiments that are in memory for an analysis."""

_STATIC = Path(__file__).parent / "static"
# What took long is shown again for so many times as long, so that no browser keeps the database busy.
_KEPT_TIMES, _KEPT_AT_LEAST, _KEPT_AT_MOST = 20, 1.0, 60.0  # the latter two in seconds
_MOST_KEPT = 100  # pages


class Studies:
    """The studies of a database: that of an experimenter, and others when they are asked for."""

    def __init__(self, first: PyExperimenter) -> None:
        self._first = first
        self._lock = threading.Lock()
        self._opened = {first.config.table.name: first}
        self._reading: dict[str, PyExperimenter] = {}

    def names(self) -> list[str]:
        """Return the names of their tables."""
        return sorted({self._first.config.table.name, *self._first.read_only(TIME_LIMIT).studies()})

    def open(self, table: str) -> PyExperimenter:
        """Return the experimenter of a study."""
        with self._lock:
            if table not in self._opened:
                self._opened[table] = self._first.other_study(table)
            return self._opened[table]

    def reading(self, table: str) -> PyExperimenter:
        """Return the experimenter of a study that can only read, and whose queries are cut."""
        opened = self.open(table)
        with self._lock:
            return self._reading.setdefault(table, opened.read_only(TIME_LIMIT, MOST_ANALYZED))


@dataclass(frozen=True)
class _Kept:
    until: float
    response: Response


class _Cache:
    """Pages that were rendered a moment ago. What several browsers ask for at once is made once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, _Kept] = {}
        self._locks: dict[str, threading.Lock] = {}

    def get(self, key: str, make: Callable[[], Response]) -> Response:
        with self._lock:
            if len(self._locks) >= _MOST_KEPT:
                self._clear()
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            kept = self._pages.get(key)
            start = time.monotonic()
            if kept is not None and kept.until > start:
                return kept.response
            response, took = make(), time.monotonic() - start
            if type(response) is HTMLResponse:
                until = start + took + min(max(_KEPT_TIMES * took, _KEPT_AT_LEAST), _KEPT_AT_MOST)
                with self._lock:
                    self._pages[key] = _Kept(until, response)
            return response

    def clear(self) -> None:
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._pages.clear()
        self._locks.clear()


def create_app(experimenter: PyExperimenter, allow_changes: bool = False) -> Starlette:
    """Return the dashboard of a study as an ASGI application, which has to be guarded.

    Parameters
    ----------
    experimenter : PyExperimenter
        The study that is shown first.
    allow_changes : bool
        Whether its pages can change experiments.
    """
    studies, cache = Studies(experimenter), _Cache()
    common = {"changes": allow_changes}

    def page(show: Callable[[View], Any], name: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            def make() -> Response:
                context = {**common, "screen": name, "root": _root(request), "csrf": request.scope.get(CSRF, "")}
                try:
                    study = studies.reading(request.path_params["table"])
                    view = View(study, _root(request), request.query_params, request.path_params)
                    context["view"] = view
                    shown = show(view)
                    if isinstance(shown, Response):
                        return shown
                    return HTMLResponse(render(f"{name}.html", **context, **shown))
                except PyExperimenterError as error:
                    return _sorry(error, context)

            return await run_in_threadpool(cache.get, f"{request.url.path}?{request.url.query}", make)

        return answer

    async def index(request: Request) -> Response:
        def make() -> Response:
            context = {**common, "screen": "studies", "root": _root(request), "csrf": ""}
            try:
                return HTMLResponse(
                    render("studies.html", **context, **pages.studies(studies.names(), studies.reading))
                )
            except PyExperimenterError as error:
                return _sorry(error, context)

        return await run_in_threadpool(cache.get, "studies", make)

    def change(request: Request) -> Response:
        context = {**common, "screen": "change", "root": _root(request), "csrf": request.scope.get(CSRF, "")}
        try:
            table = request.path_params["table"]
            view = View(studies.reading(table), _root(request), request.query_params, request.path_params)
            shown = pages.change(view, studies.open(table), request.scope[FORM])
        except PyExperimenterError as error:
            return _sorry(error, context)
        if isinstance(shown, str):
            cache.clear()
            return RedirectResponse(shown, 303)
        return HTMLResponse(render("change.html", **context, view=view, **shown))

    routes = [
        Route("/", index),
        Route("/favicon.ico", lambda request: FileResponse(_STATIC / "icon.svg")),
        Mount("/static", StaticFiles(directory=_STATIC)),
        Route("/s/{table}", lambda request: RedirectResponse(f"{_root(request)}{_study_path(request)}/")),
        *(Route(f"/s/{{table}}/{path}", page(show, name)) for path, name, show in pages.PAGES),
    ]
    if allow_changes:
        routes.append(Route("/s/{table}/change", change, methods=["POST"]))
    return Starlette(
        routes=routes,
        exception_handlers={HTTPException: _not_found, Exception: _failed},
    )


def _study_path(request: Request) -> str:
    return f"/s/{quote(request.path_params['table'], safe='')}"


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _sorry(error: PyExperimenterError, context: dict[str, Any]) -> Response:
    """Return a page that says what is wrong. It loads again by itself if the database or the table may come back."""
    title, status, text, again = "This cannot be shown", 400, str(error), False
    if isinstance(error, ConfigError | AccessDeniedError):
        # It may name the file of the credentials, or the user.
        logging.getLogger("py-experimenter").error("dashboard: %s", error)
        text = (
            "The configuration of this study cannot be read here. Where the dashboard was started, a message says why."
        )
    elif isinstance(error, MissingTableError | MissingDatabaseError):
        title, status, again = "The table is not there", 404, True
    elif isinstance(error, InvalidExperimentError | InvalidLogtableError):
        title, status = "Not found", 404
    elif isinstance(error, DatabaseError) and error.recovery != "none":
        title, status, again = "The database does not answer", 503, True
    return HTMLResponse(render("error.html", **context, title=title, text=text, again=again), status)


def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    context = {"screen": "error", "root": _root(request), "changes": False, "csrf": ""}
    return HTMLResponse(
        render("error.html", **context, title=error.detail, text="There is no such page.", again=False),
        error.status_code,
    )


def _failed(request: Request, error: Exception) -> Response:
    logging.getLogger("py-experimenter").error("dashboard: %s", request.url.path, exc_info=error)
    context = {"screen": "error", "root": _root(request), "changes": False, "csrf": ""}
    text = "This is an error in the dashboard. Where it was started, a message says more."
    return HTMLResponse(render("error.html", **context, title="Error", text=text, again=False), 500)
