"""The load of this machine, and a short wait while it is too high.

Many processes that query a database all the time, on few cores, get less done the more they are: each finds the caches
of its core full of other processes' data (`docs/scale.md` has measurements). So a worker waits a moment while far more
threads are runnable than there are cores. That costs nothing, as the cores are busy anyway. Workers that wait for a
distant database, or for anything else, are not affected: a thread that waits is not runnable.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

_CROWD = 4  # runnable threads per core
_PATIENCE = 0.4  # seconds; the load may be high all day, and connections idle for half a second are closed
_LONGEST_NAP = 0.3  # seconds


def runnable_threads() -> int:
    """Return how many threads of the whole machine run or wait for a core; 0 on systems that do not report it."""
    try:
        with open("/proc/loadavg", encoding="ascii") as load:
            running, _, _ = load.read().split()[3].partition("/")
    except OSError:
        return 0
    return int(running)


def let_others_go_first(runnable: Callable[[], int] = runnable_threads) -> None:
    """Wait until the load is not too high, but only for a moment.

    Parameters
    ----------
    runnable : Callable
        Returns the number of runnable threads.
    """
    crowd = _CROWD * (os.cpu_count() or 1)
    deadline = time.monotonic() + _PATIENCE
    while runnable() > crowd and time.monotonic() < deadline:
        time.sleep(_LONGEST_NAP * random.random())  # random, so that waiting workers do not return all at once
