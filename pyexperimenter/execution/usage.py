"""Measuring the time and memory that an execution uses."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from pyexperimenter.database.records import Usage
from pyexperimenter.machine.system import peak_memory


class Meter:
    """Measures what this process and its children use from the creation of this object on."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = _cpu_seconds()
        _reset_peak_memory()

    def usage(self) -> Usage:
        """Return what has been used so far."""
        return Usage(time.monotonic() - self._wall, _cpu_seconds() - self._cpu, peak_memory())


def _cpu_seconds() -> float:
    return sum(os.times()[:4])  # of this process and its children, in user code and in the system


def _reset_peak_memory() -> None:
    """Reset the kernel's high-water mark, so that it is that of this execution (Linux only)."""
    with suppress(OSError):  # elsewhere the peak is that of the whole process
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)
