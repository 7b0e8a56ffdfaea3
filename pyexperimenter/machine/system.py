"""What differs between Linux, macOS and Windows. It asks what the system has, not for its name.

More of it is next to what it is about: the locks of files in `locks`, and processes in `processes`.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from collections.abc import Callable

POSIX = hasattr(os, "killpg")
"""Whether the system has process groups, opens directories, and lets open files be replaced: Windows does not."""

system_random = random.SystemRandom()
"""Random numbers for delays and choices of the library. What users seed has no effect on them, nor they on that."""

at_fork: Callable[..., None] = getattr(os, "register_at_fork", lambda **_: None)
"""Registers functions to be called when this process forks, on systems that can fork."""


def existing_signals(*names: str) -> list[signal.Signals]:
    """Return those of the named signals that the system has.

    >>> [found.name for found in existing_signals("SIGTERM", "SIGNOTHING")]
    ['SIGTERM']
    """
    return [getattr(signal, name) for name in dict.fromkeys(names) if hasattr(signal, name)]


def signal_thread(thread: int, number: int) -> None:
    """Send a signal to a thread; to this process on systems that cannot choose the thread."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(thread, number)
    else:
        signal.raise_signal(number)


def poll_socket(descriptor: int, reading: bool, writing: bool, seconds: float) -> tuple[bool, bool]:
    """Wait at most so many seconds for a socket; return whether it is ready to be read, and written, or has failed."""
    if not hasattr(select, "poll"):
        one = [descriptor]
        readable, writable, failed = select.select(one if reading else [], one if writing else [], one, seconds)
        return bool(readable or failed), bool(writable or failed)
    poll = select.poll()
    poll.register(descriptor, (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0))
    events = sum(event for _, event in poll.poll(seconds * 1000))
    return bool(events & ~select.POLLOUT), bool(events & ~select.POLLIN)


def file_of(descriptor: int) -> tuple[int, int] | None:
    """Return what identifies an open file; None if the descriptor is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def user_id() -> int | None:
    """Return the ID of the user; None on systems whose users have none."""
    return os.getuid() if hasattr(os, "getuid") else None


def user_name(uid: int) -> str:
    """Return the name of a user; "user <uid>" if it is not known."""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return f"user {uid}"


def peak_memory() -> int | None:
    """Return the peak resident memory of this process in bytes; None on systems that do not report it."""
    try:
        import resource
    except ImportError:
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    return bytes_of(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def bytes_of(maxrss: int) -> int:
    """Return a peak memory as of `resource.getrusage` in bytes."""
    return maxrss if sys.platform == "darwin" else maxrss * 1024
