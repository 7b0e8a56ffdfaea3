"""Threads and processes that a run left behind."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from typing import Any

from pyexperimenter.database.ssh.tunnel import ASKPASS
from pyexperimenter.machine.processes import children, command_of, end_child, environment_of

_LIBRARIES = tuple({f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")})
# In command lines of processes that Python's pools start. A fork has the command line of this process.
_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.spawn", b"multiprocessing.forkserver", b"loky")


class LeftRunning:
    """Finds the threads and processes that the user's code has started since this object was made, and not ended.

    Pools and helpers that a library keeps for the next run do not count: a thread or process of multiprocessing counts
    if the function that it runs is not that of an installed package. Nor does our SSH tunnel, which other processes
    use as well, with the commands that it has started.
    """

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._processes = set(children())

    def threads(self) -> list[str]:
        """Return a description of each thread."""
        return [
            f"thread {thread.name}"
            for thread in threading.enumerate()
            if thread not in self._threads and thread.is_alive() and not _is_of_library(thread)
        ]

    def processes(self) -> dict[int, str]:
        """Return the ID and a description of each process."""
        return {pid: f"process {pid} ({name})" for pid, name in _described(set(children()) - self._processes)}

    def end_processes(self) -> list[str]:
        """Kill the processes, and those that they have started; return a description of each."""
        ended: dict[int, str] = {}
        while found := self.processes():  # again, as this process becomes the parent of their children
            ended |= found
            for pid in found:
                end_child(pid)
        return list(ended.values())


def _described(pids: set[int]) -> Iterator[tuple[int, str]]:
    if not pids:
        return
    pools = {process.pid for process in multiprocessing.active_children() if _is_of_library(process)}
    for pid in sorted(pids - pools):
        command = command_of(pid)
        if command is not None and not any(name in command for name in _HELPERS) and not _is_of_tunnel(pid):
            yield pid, command.replace(b"\0", b" ").decode(errors="replace").strip()[:80]


def _is_of_tunnel(pid: int) -> bool:
    return os.fsencode(ASKPASS) in environment_of(pid)


def _is_of_library(started: Any) -> bool:
    """Return whether a thread or process runs a function of an installed package."""
    function = getattr(started, "_target", None) or getattr(started, "function", None) or type(started).run
    while isinstance(function, functools.partial):
        function = function.func
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return str(getattr(module, "__file__", None)).startswith(_LIBRARIES)
