"""Turns of workers with short experiments, if there are more of them than the cores of this machine can serve.

Many processes that query a database all the time, on few cores, get less done the more they are: each finds the caches
of its core full of other processes' data (`docs/scale.md` has measurements). So such a worker executes for a tenth of a
second, with warm caches, and then others do. Those that have a turn hold locks on files, which end with their process.
One that keeps its lock for too long, as it is suspended or its function takes longer than the last, does not stop the
others: they wait no longer than they would if all took turns.

Workers that wait for a distant database, a disk, or anything else than a core are not affected; nor are few workers, or
workers with longer experiments.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

from pyexperimenter.machine.locks import FileLock, lock_file, own_directory
from pyexperimenter.machine.system import system_random

PLACES = os.cpu_count() or 1  # turns at a time
_MANY = 2 * PLACES  # workers; so many do without turns
TURN = 0.1  # seconds
_FIRST_TURN = 0.01  # seconds; all workers may start at once
_LONGEST_WAIT = 4.0  # seconds
_SHORT = 0.01  # seconds that a function takes
_BUSY = 0.2  # of a worker's time, in which it used a core or waited for one
_VALID = 2  # seconds for which the number of workers is not counted again
_NAME = "pyexperimenter-worker-"


def workers() -> int:
    """Return how many workers on this machine execute short experiments, or wait for a turn; 0 if that is not known.

    Each has a socket whose name no file has, as Linux allows, so that it disappears with its process.
    """
    return _counted(int(time.monotonic() // _VALID))


def _announced() -> socket.socket | None:
    """Return a socket by which a worker is counted until it is closed; None on systems without such sockets."""
    with suppress(OSError, AttributeError):  # Windows lacks the family
        named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        named.bind(f"\0{_NAME}{os.getpid()}-{system_random.getrandbits(32)}")  # PID namespaces share numbers
        return named
    return None


@lru_cache(maxsize=1)
def _counted(now: int) -> int:
    try:
        with open("/proc/net/unix", encoding="ascii", errors="replace") as sockets:
            return sockets.read().count(f"@{_NAME}")
    except OSError:
        return 0


def core_seconds() -> float:
    """Return for how long this thread has used a core or waited for one; 0 on systems that do not report it."""
    try:
        with open("/proc/thread-self/schedstat", "rb", 0) as times:
            used, waited, _ = times.read().split()
    except OSError:
        return 0.0
    return (int(used) + int(waited)) / 1e9


class Turns:
    """The turns of one worker."""

    def __init__(self) -> None:
        self._place: FileLock | None = None
        self._socket: socket.socket | None = None  # if the last function was short; the worker is counted by it
        self._length = _FIRST_TURN
        self._start()

    def ran(self, seconds: float) -> None:
        """Note how long the worker's function took."""
        if seconds >= _SHORT:
            self.end()
        elif self._socket is None:
            self._socket = _announced()

    def end(self) -> None:
        """Let others have this turn, and do not count this worker until its next short experiment."""
        self._leave_place()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def are_over(self) -> bool:
        """Return whether others should have a turn first, so that the worker claims nothing until it has waited."""
        elapsed = time.monotonic() - self._started
        if self._socket is None or elapsed < self._length:
            return False
        if workers() > _MANY and core_seconds() - self._cores > _BUSY * elapsed:
            return True
        self._leave_place()
        self._start()
        return False

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Wait for a turn if the last one is over, but no longer than if all workers took turns, or until a stop."""
        if not self.are_over():
            return
        self._leave_place()
        usual = min((workers() / PLACES - 1) * TURN, _LONGEST_WAIT / 2)
        deadline = time.monotonic() + 2 * usual
        while self._place is None and not should_stop() and (left := deadline - time.monotonic()) > 0:
            # Random, so that waiting workers do not look all at once; and seldom, as each look disturbs the others.
            time.sleep(min(left, usual / 5 * system_random.random()))
            self._place = _take_place()
        self._length = TURN
        self._start()

    def _leave_place(self) -> None:
        if self._place is not None:
            self._place.release()
            self._place = None

    def _start(self) -> None:
        self._started, self._cores = time.monotonic(), core_seconds()


def _take_place() -> FileLock | None:
    directory = own_directory()
    if directory is not None:
        for number in system_random.sample(range(PLACES), PLACES):
            with suppress(OSError):
                if place := lock_file(directory / f"turn-{number}"):
                    return place
    return None
