"""How crowded the cores of this machine are, and stepping back from them for a moment.

Many processes that ask a database all the time, on few cores, get less done the more they are: each comes to a core
whose caches are full of the others' data (`docs/scale.md` has measurements). So a worker lets others go first while far
more threads could run than there are cores. That costs nothing: the cores have enough to do meanwhile. Nor does it
concern workers that wait for a database far away, or for anything else: who waits does not count.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

_CROWD = 4  # threads that could run, for each core
_PATIENCE = 0.4  # seconds; a machine may be crowded all day, and connections idle for half a second are closed
_LONGEST_NAP = 0.3  # seconds


def runnable_threads() -> int:
    """Return how many threads of the whole machine run or wait for a core; 0 where nobody tells."""
    try:
        with open("/proc/loadavg") as load:
            running, _, _ = load.read().split()[3].partition("/")
    except OSError:
        return 0
    return int(running)


def let_others_go_first(runnable: Callable[[], int] = runnable_threads) -> None:
    """Return when the machine is not crowded, or its patience is at its end.

    Parameters
    ----------
    runnable : Callable
        Tells how many threads could run.
    """
    crowd = _CROWD * (os.cpu_count() or 1)
    deadline = time.monotonic() + _PATIENCE
    while runnable() > crowd and time.monotonic() < deadline:
        time.sleep(_LONGEST_NAP * random.random())  # not all come back at once
