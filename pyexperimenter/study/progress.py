"""Progress bars on a terminal and in a notebook, nothing elsewhere."""

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

if TYPE_CHECKING:
    from tqdm import tqdm

_LONG_FILL = 20_000  # rows; shorter ones are over before a bar is read
_INTERVAL = 0.5  # seconds between two looks at the table, at least
_SHARE = 20  # times as long as the last look took is waited before the next one
_LAST_LOOK = 2.0  # seconds that the end of an execution waits for the bar's


@contextmanager
def fill_bar(total: int | None) -> Iterator[Callable[[int], object]]:
    """Give a function to be told the rows done, which moves a bar if there are many.

    Parameters
    ----------
    total : int or None
        Rows in all, if known.
    """
    if not _is_watched() or (total is not None and total < _LONG_FILL):
        yield lambda rows: None
        return
    with _bar(total=total, desc="fill", unit=" rows") as bar:
        yield bar.update


@contextmanager
def execution_bar(store: ExperimentReader) -> Iterator[None]:
    """Show how many of the experiments that are not finished yet come to an end, by whomever, while the block runs.

    A bar that cannot read the database stands still, or is not there; the workers tell what is wrong.
    """
    look = _Look(store) if _is_watched() else None
    if look is None or not look.again() or not look.left:
        yield
        return
    stop = threading.Event()
    with _bar(total=look.left, desc="experiments", unit=" experiments") as bar, _kept_clear_of_messages(bar):

        def watch() -> None:
            stopped = False
            while not stopped:
                stopped = stop.wait(max(_INTERVAL, _SHARE * look.seconds))
                if look.again():
                    bar.set_postfix(done=look.since("done"), error=look.since("error"), refresh=False)
                    bar.n, bar.total = look.finished, look.finished + look.left
                    bar.refresh()  # not when it was closed meanwhile

        # A daemon, and not waited for without end: a server may never answer.
        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join(_LAST_LOOK)


class _Look:
    """A look at the table's counts, to be compared with the first one."""

    def __init__(self, store: ExperimentReader) -> None:
        self._store = store
        self._before: dict[str, int] | None = None
        self._now: dict[str, int] = {}
        self.seconds = 0.0  # how long the last one took

    def again(self) -> bool:
        """Look; tell whether the database let us."""
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
        """Return how many more have this status than at first."""
        return self._now[status] - (self._before or self._now)[status]

    @property
    def finished(self) -> int:
        """How many came to an end; a reset of more than that does not turn the bar round."""
        return max(0, sum(self.since(status) for status in ("done", "error", "paused")))

    @property
    def left(self) -> int:
        """How many have not come to an end, those added meanwhile included."""
        return self._now["created"] + self._now["running"]


def _is_watched() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    """Tell whether this is a notebook's kernel, without importing IPython for it."""
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
    """Wipe the bar out before a message is logged where it is; the next look draws it again below."""

    def wipe(record: logging.LogRecord) -> bool:
        bar.clear()
        return True

    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    shown = [handler for handler in handlers if getattr(handler, "stream", None) in (sys.stderr, sys.stdout)]
    for handler in shown:
        handler.addFilter(wipe)
    try:
        yield
    finally:
        for handler in shown:
            handler.removeFilter(wipe)
