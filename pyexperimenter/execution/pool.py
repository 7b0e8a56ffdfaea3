"""Several workers at a time: how many there are, how much each may do, and where joblib runs them."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from pyexperimenter.database.claims import ClaimStore
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.execution.stopping import InterruptingStop, Stop, stop_on
from pyexperimenter.execution.supervision.supervisor import supervise
from pyexperimenter.execution.task import WorkerReport, WorkerTask
from pyexperimenter.execution.worker import run_worker


def run_pool(
    task: WorkerTask, limits: Sequence[int | None], gpus: Sequence[str | None], store: ClaimStore, supervised: bool
) -> list[WorkerReport]:
    """Run workers until all have finished.

    Parameters
    ----------
    task : WorkerTask
        What they have in common. Their identities begin with its identity.
    limits, gpus : sequence
        `WorkerTask.limit` and `WorkerTask.gpus` of each worker.
    store : ClaimStore
        Releases what they hold if joblib kills them.
    supervised : bool
        Whether each runs in its own process, with a supervisor.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        The usual effect of the signal that stopped them.
    """
    tasks = [
        replace(task, identity=f"{task.identity}.{number}", limit=limit, workers=len(limits), gpus=own)
        for number, (limit, own) in enumerate(zip(limits, gpus, strict=True))
    ]
    run = supervise if supervised else run_worker
    elsewhere = _backend_is_set()
    if len(tasks) == 1 and not elsewhere:
        return [run(tasks[0])]
    # Supervisors in this process see the stop request themselves. Workers elsewhere are killed without grace.
    stop = Stop() if supervised and not elsewhere else InterruptingStop(0)
    try:
        with stop_on(task.config.execution.signals, stop):
            try:
                return _run_by_joblib(run, tasks, "threads" if supervised else None)
            except BaseException:
                stop.request(urgent=True)
                store.release_worker(task.identity, stop.cause)
                raise
    except KeyboardInterrupt:
        if not stop.is_notice:
            raise
        return []  # the workers were killed before they could report


def _run_by_joblib(
    run: Callable[[WorkerTask], WorkerReport], tasks: Sequence[WorkerTask], prefer: str | None
) -> list[WorkerReport]:
    """Run one worker for each task; a backend that the caller has set overrides `prefer`."""
    from joblib import Parallel, delayed

    # A supervisor only waits, so a thread is enough for it.
    reports: list[WorkerReport] = Parallel(n_jobs=len(tasks), batch_size=1, prefer=prefer)(
        delayed(run)(task) for task in tasks
    )
    return reports


def number_of_workers(n_jobs: int) -> int:
    """Return the number of workers that `n_jobs` means: -1 is one on each core."""
    try:
        number = operator.index(n_jobs)
    except TypeError:
        number = 0
    if not number:
        raise InvalidValueError(f"n_jobs: {n_jobs!r} is not a number of workers; give 1 or more, -1 for one per core")
    if number > 0:
        return number
    from joblib import effective_n_jobs

    return int(effective_n_jobs(number))


def split_limit(total: int, workers: int) -> list[int | None]:
    """Split a number of experiments among workers; a negative number means no limit.

    >>> split_limit(5, workers=3)
    [2, 2, 1]
    >>> split_limit(-1, workers=2)
    [None, None]
    """
    if total < 0:
        return [None] * workers
    shares: list[int | None] = [total // workers + (index < total % workers) for index in range(workers)]
    return [share for share in shares if share] or [0]


def _backend_is_set() -> bool:
    """Return whether the caller has set a joblib backend."""
    if "joblib" not in sys.modules:
        return False
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    return type(backend).__name__ not in ("LokyBackend", "ThreadingBackend", "SequentialBackend")
