"""How long a worker may go on claiming: no experiment is begun that the time left will hardly hold."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.durations import duration_text
from pyexperimenter.machine import slurm

_ENOUGH = 5  # finished experiments whose median says how long one takes
_FRESH = 30.0  # seconds for which that median is not asked again


@dataclass(frozen=True)
class Allowance:
    """Until when workers may work; made where `execute` is called, as its workers may begin later.

    Attributes
    ----------
    seconds : float
        From the beginning of each worker.
    until : float
        The same as seconds since 1970, by the clock of the machine that called.
    """

    seconds: float
    until: float


def allowance(stop_after: float | None, environment: Mapping[str, str]) -> Allowance | None:
    """Return the shorter of what the caller gives and what SLURM says; None if neither says.

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
    """A worker's time.

    Parameters
    ----------
    allowance : Allowance or None
        Until when it may work; None for ever.
    min_time : float or None
        Seconds that an experiment needs at least.
    reader : ExperimentReader
        Where finished experiments tell how long one takes.
    """

    def __init__(self, allowance: Allowance | None, min_time: float | None, reader: ExperimentReader) -> None:
        # Clocks of machines differ, and workers may begin late: what is sooner holds.
        left = math.inf if allowance is None else min(allowance.seconds, allowance.until - time.time())
        self._end = time.monotonic() + left
        self._min_time = min_time or 0.0
        self._reader = reader
        self._usual = 0.0
        self._asked = -math.inf

    def seconds_left(self) -> float:
        """Tell how long it may still work; infinite without an allowance, and never below 0."""
        return max(0.0, self._end - time.monotonic())

    def refusal(self) -> str | None:
        """Tell why no other experiment is to be begun; None if one may be."""
        if self._end == math.inf:
            return None
        left = self.seconds_left()
        needed = max(self._min_time, self._usual_seconds())
        if left > needed:
            return None
        if left <= 0:
            return "its time is over"
        why = "min_time" if needed == self._min_time else "experiments usually take"
        return f"{duration_text(left)} are left, and {why} {duration_text(needed)}"

    def _usual_seconds(self) -> float:
        if time.monotonic() - self._asked > _FRESH:
            self._asked = time.monotonic()
            from statistics import median

            durations = self._reader.last_durations()
            self._usual = median(durations) if len(durations) >= _ENOUGH else 0.0
        return self._usual
