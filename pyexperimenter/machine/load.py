"""The load of this machine, and a short wait while it is too high.

Many processes that query a database all the time, on few cores, get less done the more they are: each finds the caches
of its core full of other processes' data (`docs/scale.md` has measurements). So if there are many workers, one waits a
moment while far more threads are runnable than there are cores. That costs nothing, as the others keep the cores busy.
Workers that wait for a distant database, or for anything else, are not affected: a thread that waits is not runnable.
Nor are few workers on a machine that other programs keep busy, where waiting would only slow them down.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache

_CROWD = 4  # runnable threads per core, or workers
_PATIENCE = 0.4  # seconds; the load may be high all day
_LONGEST_NAP = 0.3  # seconds
_VALID = 2  # seconds for which the number of workers is not counted again
_NAME = "pyexperimenter-worker-"

_waited = 0.0  # when this process has last waited


def runnable_threads() -> int:
    """Return how many threads of the whole machine run or wait for a core; 0 on systems that do not report it."""
    try:
        with open("/proc/loadavg", "rb", 0) as load:
            running, _, _ = load.read().split()[3].partition(b"/")
    except OSError:
        return 0
    return int(running)


def workers() -> int:
    """Return how many processes on this machine have called this since they started; 0 if that is not known.

    Each has a socket whose name no file has, as Linux allows, so that it disappears with its process.
    """
    _announce(os.getpid())
    return _counted(int(time.monotonic() // _VALID))


@cache
def _announce(pid: int) -> None:
    with suppress(OSError, AttributeError):  # Windows lacks the family
        named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        named.bind(f"\0{_NAME}{pid}-{random.getrandbits(32)}")  # the number may be that of another PID namespace
        named.detach()  # open until the process ends


@lru_cache(maxsize=1)
def _counted(now: int) -> int:
    try:
        with open("/proc/net/unix", encoding="ascii", errors="replace") as sockets:
            return sockets.read().count(f"@{_NAME}")
    except OSError:
        return 0


@cache
def _cores() -> int:
    return os.cpu_count() or 1  # which reads a file each time


def let_others_go_first(
    runnable: Callable[[], int] = runnable_threads, workers_here: Callable[[], int] = workers
) -> None:
    """Wait until the load is not too high, but only for a moment, and only if there are many workers.

    All together wait no longer than if only a crowd of them worked at a time: if the load is that of other programs,
    waiting does not help.

    Parameters
    ----------
    runnable : Callable
        Returns the number of runnable threads.
    workers_here : Callable
        Returns the number of workers on this machine.
    """
    global _waited  # noqa: PLW0603 - of this process
    crowd, now = _CROWD * _cores(), time.monotonic()
    deadline = now + min(_PATIENCE, (workers_here() / crowd - 1) * (now - _waited))
    while now < deadline and runnable() > crowd:
        # Random, so that waiting workers do not return all at once.
        time.sleep(min(_LONGEST_NAP * random.random(), deadline - now))
        now = time.monotonic()
    _waited = now
