"""What a worker's process and its supervisor say to each other."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from pyexperimenter.database.records import Attempt

TRACEBACK_SIGNAL = signal.SIGXCPU
"""What makes the process print where it is, even if user code holds Python's lock."""


# What is told to the supervisor


@dataclass(frozen=True)
class Claimed:
    """An execution begins."""

    attempt: Attempt


@dataclass(frozen=True)
class Returned:
    """The function is through; the supervisor answers with the last of its output."""


@dataclass(frozen=True)
class Ended:
    """The execution's end is written."""

    failed: bool


@dataclass(frozen=True)
class NothingOpen:
    """The supervisor answers how many seconds from now there may be something, or None."""


# What is told by the supervisor


@dataclass(frozen=True)
class Answer:
    """The answer to `Returned` or `NothingOpen`."""

    value: Any


@dataclass(frozen=True)
class StopRequest:
    """Come to an end."""
