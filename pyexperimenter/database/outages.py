"""Log when a database is away and when it is back: once, however many threads and child processes notice."""

from __future__ import annotations

import logging
import threading
import time

from pyexperimenter.durations import duration_text

_LOGGER = logging.getLogger("py-experimenter")
_SHORT = 2.0  # seconds: what is over by then is not logged

_since: dict[str, float] = {}  # when the outage of each database began
_ended: dict[str, float] = {}  # when its last outage ended
_lock = threading.Lock()


def outage(database: str, began: float, patience: float, error: Exception, at_once: bool = False) -> None:
    """Log that a database is away, if it is for some time; nothing if that was logged already.

    Parameters
    ----------
    database : str
        The database.
    began : float
        When a statement failed for the first time, on the monotonic clock.
    patience : float
        Seconds for which it is tried again.
    error : Exception
        Why the last try failed.
    at_once : bool
        Log it even if it has only begun.
    """
    if at_once or time.monotonic() - began >= _SHORT:
        until = duration_text(patience)
        _log(database, True, began, "waiting up to %s for %s: %s", until, database, error)


def back(database: str) -> None:
    """Log that a database works again, if it was away."""
    if _since:  # rarely
        with _lock:
            began = _since.get(database)
        if began is not None:
            _log(database, False, began, "%s works again, after %s", database, duration_text(time.monotonic() - began))


def is_away(database: str) -> bool:
    """Return whether a database was away, and nothing in this process has seen it back yet."""
    return database in _since


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a record of another process says what has not been logged here, and remember that it was."""
    return _changes(*record.outage) if hasattr(record, "outage") else True


def _changes(database: str, away: bool, began: float) -> bool:
    with _lock:
        if away == (database in _since):
            return False
        if away:
            if began < _ended.get(database, 0.0):
                return False  # a process that is late; the clock is that of the machine
            _since[database] = began
        else:
            del _since[database]
            _ended[database] = time.monotonic()
        return True


def _log(database: str, away: bool, began: float, message: str, *values: object) -> None:
    if _changes(database, away, began):
        _LOGGER.warning(message, *values, extra={"outage": (database, away, began)})
