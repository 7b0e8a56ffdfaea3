"""Submitting further jobs while experiments are left, as HyperQueue's automatic allocation does for its tasks."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger

from pyexperimenter.database.records import Unfinished
from pyexperimenter.durations import duration_text
from pyexperimenter.exceptions import SubmissionError


def jobs_to_submit(left: Unfinished, pending: int, running: int, workers: int) -> int:
    """Return how many jobs to submit now.

    Each pending job will take one open experiment at least, so that more jobs than these would find nothing.

    Parameters
    ----------
    left : Unfinished
        The experiments.
    pending, running : int
        Jobs in the queue.
    workers : int
        How many jobs may be in the queue.

    Examples
    --------
    >>> jobs_to_submit(Unfinished(open=100, running=3, lost=0), pending=2, running=3, workers=10)
    5
    >>> jobs_to_submit(Unfinished(open=2, running=3, lost=1), pending=2, running=3, workers=10)
    1
    >>> jobs_to_submit(Unfinished(open=0, running=3, lost=0), pending=0, running=3, workers=10)
    0
    """
    return max(0, min(workers - pending - running, left.open + left.lost - pending))


def keep_submitting(
    submit: Callable[[int], object],
    unfinished: Callable[[], Unfinished],
    latest_attempt: Callable[[], int],
    queue: Callable[[], list[str]],
    workers: int,
    max_jobs: float,
    every: float,
    logger: Logger,
) -> int:
    """Submit jobs until no experiment is left, or a limit is reached; return how many.

    It keeps no record of its jobs: what is queued is asked of SLURM. So it may be ended and started again.

    Parameters
    ----------
    submit : callable
        Submits so many jobs.
    unfinished, latest_attempt : callable
        Return what is left of the experiments, and the ID of the attempt that was started last.
    queue : callable
        Returns the states of the jobs in SLURM's queue.
    workers, max_jobs, every
        As for ``PyExperimenter.keep_submitting``.
    logger : Logger
        Gets a warning when SLURM does not answer.

    Raises
    ------
    SubmissionError
        If jobs end without starting an experiment, or SLURM refuses the first ones.
    """
    submitted, before = 0, -1
    while any(left := unfinished()):
        try:
            states = queue()
            pending = states.count("PENDING")
            wanted = jobs_to_submit(left, pending, len(states) - pending, workers)
            latest = latest_attempt()
            in_vain = latest == before  # nothing was started since jobs were submitted: perhaps it is too early
            if wanted and not in_vain:
                wanted = int(min(wanted, max_jobs - submitted))
                submit(wanted)
                submitted, before = submitted + wanted, latest
        except SubmissionError as error:
            if not submitted:
                raise
            logger.warning("%s; trying again in %s", error, duration_text(every))
        else:
            if wanted and in_vain and not states:
                raise SubmissionError(
                    "jobs have ended without starting an experiment, so no more are submitted; see their logs"
                )
        if submitted >= max_jobs:
            break
        time.sleep(every)
    return submitted
