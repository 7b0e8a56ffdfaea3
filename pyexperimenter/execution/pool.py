"""Several workers at a time: how many, how much for each, and where joblib places them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pyexperimenter.database.claims import ClaimStore
from pyexperimenter.execution.stopping import InterruptingStop, Stop, stop_on
from pyexperimenter.execution.supervision.supervisor import supervise
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.worker import run_worker


def run_crew(tasks: Sequence[WorkerTask], session: str, store: ClaimStore, supervised: bool) -> list[WorkerReport]:
    """Run workers until all are through.

    Parameters
    ----------
    tasks : sequence of WorkerTask
        One a worker.
    session : str
        What their identities begin with.
    store : ClaimStore
        Gives back what they hold, if joblib ends them without giving them time.
    supervised : bool
        Whether each runs in a process of its own, with a supervisor.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        What the signal that stopped them has for an effect.
    """
    elsewhere = _joblib_is_told_where()
    # Supervisors in this process see for themselves that they are to stop; others are not given the time.
    stop = Stop() if supervised and not elsewhere else InterruptingStop(0)
    if len(tasks) == 1 and not elsewhere:
        return [supervise(tasks[0]) if supervised else run_worker(tasks[0])]
    try:
        with stop_on(tasks[0].config.execution.signals, stop):
            try:
                return _placed(supervise if supervised else run_worker, tasks, "threads" if supervised else None)
            except BaseException:
                stop.request(urgent=True)
                store.release_worker(session)
                raise
    except KeyboardInterrupt:
        if not stop.is_notice:
            raise
        return []  # nobody is left to report


def _placed(
    run: Callable[[WorkerTask], WorkerReport], tasks: Sequence[WorkerTask], prefer: str | None
) -> list[WorkerReport]:
    """Let joblib place the workers; `prefer` gives way to a backend that the caller set."""
    from joblib import Parallel, delayed

    # A supervisor does nothing but wait, so a thread does for it.
    reports: list[WorkerReport] = Parallel(n_jobs=len(tasks), batch_size=1, prefer=prefer)(
        delayed(run)(task) for task in tasks
    )
    return reports


def number_of_workers(wanted: int) -> int:
    """Return how many workers a number stands for: -1 for one on each core."""
    if wanted > 0:
        return wanted
    from joblib import effective_n_jobs

    return int(effective_n_jobs(wanted))


def limits(workers: int, total: int) -> list[int | None]:
    """Share a total among workers; without one, each goes on as long as anything is open.

    >>> limits(3, 5)
    [2, 2, 1]
    >>> limits(2, -1)
    [None, None]
    """
    if total < 0:
        return [None] * workers
    shares: list[int | None] = [total // workers + (index < total % workers) for index in range(workers)]
    return [share for share in shares if share] or [0]


def _joblib_is_told_where() -> bool:
    """Tell whether the caller set a backend of joblib's."""
    if "joblib" not in sys.modules:
        return False
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    return type(backend).__name__ not in ("LokyBackend", "ThreadingBackend", "SequentialBackend")
