"""Progress bars on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.exceptions import DatabaseError
from pyexperimenter.experiment_status import ExperimentStatus

_LONG_FILL = 20_000  # rows; shorter ones are over before a bar is read
_INTERVAL = 0.5  # seconds between two looks at the table


@contextmanager
def fill_bar(total: int | None) -> Iterator[Callable[[int], object]]:
    """Give a function to be told the rows done, which moves a bar if there are many.

    Parameters
    ----------
    total : int or None
        Rows in all, if known.
    """
    if not sys.stderr.isatty() or (total is not None and total < _LONG_FILL):
        yield lambda rows: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="fill", unit=" rows") as bar:
        yield bar.update


@contextmanager
def execution_bar(store: ExperimentReader) -> Iterator[None]:
    """Show how many of the experiments now open are finished, by whomever, while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    from tqdm import tqdm

    stop = threading.Event()
    before = store.counts()

    def watch() -> None:
        with tqdm(total=before[ExperimentStatus.CREATED.value], desc="experiments") as bar:
            stopped = False
            while not stopped:
                stopped = stop.wait(_INTERVAL)
                try:
                    now = store.counts()
                except DatabaseError:
                    continue  # the workers tell what is wrong with the database
                done, failed = (now[status] - before[status] for status in ("done", "error"))
                bar.set_postfix(done=done, error=failed, refresh=False)
                bar.n = done + failed + now["paused"] - before["paused"]
                bar.refresh()

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
