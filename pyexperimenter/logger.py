"""The library's logger."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyexperimenter.paths import absolute_path

_COUNTED_EVERY = 30.0  # seconds at least between two messages that count failures
_FORMAT = "%(asctime)s | %(name)s - %(levelname)-8s | %(message)s"


@dataclass(frozen=True)
class LogSettings:
    """How the library logs, in any of its processes.

    Attributes
    ----------
    name : str
        Name of the logger.
    level : int or str
        Minimum level of logged messages.
    file : str or None
        File that also receives the messages.
    """

    name: str = "py-experimenter"
    level: int | str = logging.INFO
    file: str | None = None

    def logger(self) -> logging.Logger:
        """Return the logger with its handlers attached; handlers that the user attached stay as they are."""
        logger = logging.getLogger(self.name)
        logger.setLevel(self.level)
        if not logger.hasHandlers():
            logger.addHandler(_StderrHandler())
        if self.file is not None:
            _add_file(logger, absolute_path(self.file))
        return logger

    def experiment_logger(self) -> logging.Logger:
        """Return the logger for experiments. It has the library's level and writes to stderr only."""
        logger = logging.getLogger(f"{self.name}.experiment")
        if not logger.handlers:
            logger.addHandler(_StderrHandler())
            logger.propagate = False
        logger.setLevel(self.level)
        return logger


def _add_file(logger: logging.Logger, path: Path) -> None:
    if any(getattr(handler, "baseFilename", None) == str(path) for handler in logger.handlers):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current sys.stderr, which notebooks and test runners replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter(_FORMAT))

    @property
    def stream(self) -> Any:
        """The current sys.stderr."""
        return sys.stderr


# What is printed while experiments are executed


def failure(kind: str, details: str) -> dict[str, Any]:
    """Return `extra` for the message that an experiment failed, by which `folded_failures` knows it.

    Parameters
    ----------
    kind : str
        Under which it is counted.
    details : str
        Of the failures of a kind, the first one with these details is printed.
    """
    return {"failure": (kind, details)}


@contextmanager
def folded_failures() -> Iterator[None]:
    """Print only the first failure of each kind, and count the others. Files still get all of them."""
    foldings = {handler: _Folding(handler) for handler in printing_handlers()}
    try:
        with filtered(foldings):
            yield
    finally:
        for folding in foldings.values():
            folding.print_counts()


@contextmanager
def hidden_failures() -> Iterator[None]:
    """Print no failures."""
    with filtered(dict.fromkeys(printing_handlers(), lambda record: not hasattr(record, "failure"))):
        yield


@contextmanager
def filtered(filters: Mapping[logging.Handler, Callable[[logging.LogRecord], bool]]) -> Iterator[None]:
    """Add a filter to each of these handlers, and remove it in the end."""
    for handler, keep in filters.items():
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler, keep in filters.items():
            handler.removeFilter(keep)


def printing_handlers() -> set[logging.Handler]:
    """Return the handlers of all loggers that write to stdout or stderr."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return {handler for handler in handlers if getattr(handler, "stream", None) in (sys.stderr, sys.stdout)}


class _Folding:
    """Lets the first failure of each kind through to a handler, and counts the others."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler
        self._seen: set[tuple[str, str]] = set()
        self._more: Counter[str] = Counter()
        self._counted = time.monotonic()  # when
        self._lock = threading.Lock()

    def __call__(self, record: logging.LogRecord) -> bool:
        """Return whether to handle a message."""
        failure = getattr(record, "failure", None)
        if failure is None:
            return True
        with self._lock:
            if failure not in self._seen:
                self._seen.add(failure)
                return True
            self._more[failure[0]] += 1
        if time.monotonic() - self._counted > _COUNTED_EVERY:
            self.print_counts()
        return False

    def print_counts(self) -> None:
        """Print how many failures were left out since the last time."""
        with self._lock:
            self._counted = time.monotonic()
            counts, self._more = self._more, Counter()
        for kind, more in counts.most_common():
            arguments = (LogSettings.name, logging.ERROR, __file__, 0, "%s: %d more", (kind, more), None)
            self._handler.handle(logging.LogRecord(*arguments))
