"""Threads and processes that a run left behind."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyexperimenter.database.ssh.tunnel import ASKPASS

_LIBRARIES = tuple({f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")})
# In command lines of processes that Python's pools start. A fork has the command line of this process.
_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.spawn", b"multiprocessing.forkserver", b"loky")
_SET_CHILD_SUBREAPER = 36  # of prctl


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends, so that they are found (Linux only)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class LeftRunning:
    """Finds the threads and processes that the user's code has started since this object was made, and not ended.

    Pools and helpers that a library keeps for the next run do not count: a thread or process of multiprocessing counts
    if the function that it runs is not that of an installed package. Nor does our SSH tunnel, which other processes
    use as well, with the commands that it has started.
    """

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._processes = set(_children())

    def threads(self) -> list[str]:
        """Return a description of each thread."""
        return [
            f"thread {thread.name}"
            for thread in threading.enumerate()
            if thread not in self._threads and thread.is_alive() and not _is_of_library(thread)
        ]

    def processes(self) -> dict[int, str]:
        """Return the ID and a description of each process."""
        return {pid: f"process {pid} ({name})" for pid, name in _described(set(_children()) - self._processes)}

    def end_processes(self) -> list[str]:
        """Kill the processes, and those that they have started; return a description of each."""
        ended: dict[int, str] = {}
        while found := self.processes():  # again, as this process becomes the parent of their children
            ended |= found
            for pid in found:
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # the code that started it may still wait for it
        return list(ended.values())


def _children() -> list[int]:
    """Return the children of this process, where the system can list them."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):
        return []  # the usual case, known by one call
    lists = Path("/proc/self/task").glob("*/children")
    return [int(pid) for children in lists for pid in _read(children).split()]


def _described(pids: set[int]) -> Iterator[tuple[int, str]]:
    pools = {process.pid for process in multiprocessing.active_children() if _is_of_library(process)}
    for pid in sorted(pids - pools):
        command = _command_of(pid)
        if command is not None and not any(name in command for name in _HELPERS) and not _is_of_tunnel(pid):
            yield pid, command.replace(b"\0", b" ").decode(errors="replace").strip()[:80]


def _command_of(pid: int) -> bytes | None:
    """Return the command line of a process; None if it has ended."""
    for _ in range(100):
        state = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()[:1]
        if state in ([], [b"Z"], [b"X"]):
            return None
        if command := _read(Path(f"/proc/{pid}/cmdline")):
            return command
        time.sleep(0.001)  # it is empty for a moment while a program starts
    return b""


def _is_of_tunnel(pid: int) -> bool:
    return os.fsencode(ASKPASS) in _read(Path(f"/proc/{pid}/environ"))


def _is_of_library(started: Any) -> bool:
    """Return whether a thread or process runs a function of an installed package."""
    function = getattr(started, "_target", None) or getattr(started, "function", None) or type(started).run
    while isinstance(function, functools.partial):
        function = function.func
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return str(getattr(module, "__file__", None)).startswith(_LIBRARIES)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
