"""The time limit of a worker: it starts no experiment that would probably not finish in time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.durations import duration_text
from pyexperimenter.machine import slurm

_MIN_FINISHED = 5  # experiments before their median duration is used
_MAX_AGE = 30.0  # seconds until that median is computed again


@dataclass(frozen=True)
class Allowance:
    """Until when workers may work. Created where `execute` is called, as its workers may start later.

    Attributes
    ----------
    seconds : float
        Counted from the start of each worker.
    until : float
        The same as a Unix time, by the clock of the machine where `execute` was called.
    """

    seconds: float
    until: float


def allowance(stop_after: float | None, environment: Mapping[str, str]) -> Allowance | None:
    """Return the shorter of the caller's limit and the time left to the SLURM job; None without either.

    Examples
    --------
    >>> allowance(None, {}) is None
    True
    >>> allowance(60, {"SLURM_JOB_END_TIME": "0"}).until
    0.0
    """
    now = time.time()
    ends = [] if stop_after is None else [now + stop_after]
    end_of_job = slurm.end_of_job(environment, now)
    if end_of_job is not None:
        ends.append(end_of_job)
    return Allowance(min(ends) - now, min(ends)) if ends else None


class Budget:
    """The time of one worker.

    Parameters
    ----------
    allowance : Allowance or None
        Until when it may work; None for no limit.
    min_time : float or None
        Minimum number of seconds that an experiment needs.
    reader : ExperimentReader
        Reads how long finished experiments took.
    """

    def __init__(self, allowance: Allowance | None, min_time: float | None, reader: ExperimentReader) -> None:
        # Clocks of machines differ, and workers may start late, so the sooner of both applies.
        left = math.inf if allowance is None else min(allowance.seconds, allowance.until - time.time())
        self._end = time.monotonic() + left
        self._min_time = min_time or 0.0
        self._reader = reader
        self._usual = 0.0
        self._computed = -math.inf

    def seconds_left(self) -> float:
        """Return how long the worker may still work: infinity without an allowance, and never below 0."""
        return max(0.0, self._end - time.monotonic())

    def refusal(self) -> str | None:
        """Return why the worker should start no more experiments; None if it may."""
        if self._end == math.inf:
            return None
        left = self.seconds_left()
        needed = max(self._min_time, self._usual_duration())
        if left > needed:
            return None
        if left <= 0:
            return "its time is up"
        why = "min_time is" if needed == self._min_time else "experiments usually take"
        return f"{duration_text(left)} left, but {why} {duration_text(needed)}"

    def _usual_duration(self) -> float:
        if time.monotonic() - self._computed > _MAX_AGE:
            self._computed = time.monotonic()
            from statistics import median

            durations = self._reader.last_durations()
            self._usual = median(durations) if len(durations) >= _MIN_FINISHED else 0.0
        return self._usual
