"""Progress bars, on terminals and in notebooks only."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.exceptions import PyExperimenterError
from pyexperimenter.logger import filtered, printing_handlers

if TYPE_CHECKING:
    from tqdm import tqdm

_LONG_FILL = 20_000  # rows; shorter fills end before anyone could read a bar
_INTERVAL = 0.5  # minimum seconds between two queries
_SHARE = 20  # the pause before the next query, in durations of the last one
_LAST_LOOK = 2.0  # seconds that the end of an execution waits for the last query


@contextmanager
def fill_bar(total: int | None) -> Iterator[Callable[[int], object]]:
    """Provide a function to call with the number of rows added, which advances a bar if there are many rows.

    Parameters
    ----------
    total : int or None
        Number of all rows, if known.
    """
    if not _is_watched() or (total is not None and total < _LONG_FILL):
        yield lambda rows: None
        return
    with _bar(total=total, desc="fill", unit=" rows") as bar:
        yield bar.update


@contextmanager
def execution_bar(store: ExperimentReader) -> Iterator[None]:
    """Show how many of the unfinished experiments end, in all processes, while the block runs.

    Without the database the bar does not move, or does not appear. The workers report the error.
    """
    look = _Look(store) if _is_watched() else None
    if look is None or not look.again() or not look.left:
        yield
        return
    stop = threading.Event()
    with _bar(total=look.left, desc="experiments") as bar, _kept_clear_of_messages(bar):

        def watch() -> None:
            stopped = False
            while not stopped:
                stopped = stop.wait(max(_INTERVAL, _SHARE * look.seconds))
                if look.again():
                    bar.set_postfix(error=look.since("error"), refresh=False)
                    bar.n, bar.total = look.finished, look.finished + look.left
                    bar.refresh()  # unless it has been closed

        # A daemon, joined with a timeout: a server may never answer.
        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join(_LAST_LOOK)


class _Look:
    """Counts of experiments, compared with those at the start."""

    def __init__(self, store: ExperimentReader) -> None:
        self._store = store
        self._before: dict[str, int] | None = None
        self._now: dict[str, int] = {}
        self.seconds = 0.0  # that the last query took

    def again(self) -> bool:
        """Query the counts; return whether that was possible."""
        start = time.monotonic()
        try:
            self._now = self._store.counts_at_once()
        except PyExperimenterError:
            return False
        finally:
            self.seconds = time.monotonic() - start
        self._before = self._before or self._now
        return True

    def since(self, status: str) -> int:
        """Return how many more experiments have this status than at the start."""
        return self._now[status] - (self._before or self._now)[status]

    @property
    def finished(self) -> int:
        """Number of experiments that ended; at least 0, even if more were reset than ended."""
        return max(0, sum(self.since(status) for status in ("done", "error", "paused")))

    @property
    def left(self) -> int:
        """Number of experiments that have not ended, including those added since the start."""
        return self._now["created"] + self._now["running"]


def _is_watched() -> bool:
    return (sys.stderr is not None and sys.stderr.isatty()) or _in_notebook()


def _in_notebook() -> bool:
    """Return whether this is the kernel of a notebook, without importing IPython."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None


def _bar(**options: Any) -> tqdm[Any]:
    if not _in_notebook():
        from tqdm import tqdm

        return tqdm(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets it warns, and writes a bar of text
        from tqdm.auto import tqdm as of_notebook

    return of_notebook(**options)


@contextmanager
def _kept_clear_of_messages(bar: tqdm[Any]) -> Iterator[None]:
    """Clear the bar before a message is logged to the terminal; the next update draws it below the message."""

    def clear(record: logging.LogRecord) -> bool:
        bar.clear()
        return True

    with filtered(dict.fromkeys(printing_handlers(), clear)):
        yield
