"""The messages between a worker's process and its supervisor.

The supervisor first sends the `WorkerTask`. The process also sends log records, and in the end its `WorkerReport`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from pyexperimenter.database.records import Attempt

TRACEBACK_SIGNAL = signal.SIGXCPU
"""Makes the process print its traceback, even if user code holds Python's global lock."""


# From the worker's process


@dataclass(frozen=True)
class Claimed:
    """An execution begins."""

    attempt: Attempt


@dataclass(frozen=True)
class Returned:
    """The function has returned. The supervisor answers with the end of its output."""


@dataclass(frozen=True)
class Ended:
    """The outcome of the execution has been recorded."""

    failed: bool


@dataclass(frozen=True)
class NothingOpen:
    """No experiment is open. The supervisor answers in how many seconds one may be, or None."""


# From the supervisor


@dataclass(frozen=True)
class Answer:
    """The answer to `Returned` or `NothingOpen`."""

    value: Any


@dataclass(frozen=True)
class StopRequest:
    """Asks the worker to stop."""
