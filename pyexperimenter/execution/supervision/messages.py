"""The messages between a worker's process and its supervisor.

The supervisor first sends the `WorkerTask`. The process also sends log records, and in the end its `WorkerReport`.
"""

from __future__ import annotations

import pickle
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyexperimenter.database.records import Attempt

TRACEBACK_SIGNAL = getattr(signal, "SIGXCPU", None)
"""Makes the process print its traceback, even if user code holds Python's global lock; None if the system lacks it.

Without it, the process is asked by a `TracebackRequest`, and the lock delays its answer.
"""


_FRAME = struct.Struct("!8sQ")  # a mark, and the length of the message that follows
_MARK = b"\x93pyexper"


def framed(message: object) -> bytes:
    """Return a message in the form in which the worker's process sends it."""
    data = pickle.dumps(message)
    return _FRAME.pack(_MARK, len(data)) + data


class MessageReader:
    """Puts the messages of a worker's process together, however they arrive.

    User code that closes a file twice may write to the same descriptor. Without the mark, such bytes could pass for the
    length of a message that never ends.
    """

    def __init__(self) -> None:
        self._data = bytearray()

    def read(self, data: bytes) -> Iterator[Any]:
        """Take some bytes, and yield the messages that are complete.

        Raises
        ------
        ValueError
            If the bytes are not those of a message.
        """
        self._data += data
        while self._data:
            if not _MARK.startswith(self._data[: len(_MARK)]):
                raise ValueError("other code has written to the connection")
            if len(self._data) < _FRAME.size:
                return
            end = _FRAME.size + _FRAME.unpack_from(self._data)[1]
            if len(self._data) < end:
                return
            message = self._data[_FRAME.size : end]
            del self._data[:end]
            try:
                read = pickle.loads(message)
            except Exception as error:
                raise ValueError(f"a message cannot be read: {error}") from error
            yield read


# From the worker's process


@dataclass(frozen=True)
class Claimed:
    """An execution begins."""

    attempt: Attempt


@dataclass(frozen=True)
class Returned:
    """The function has returned. The supervisor answers with the end of its output, if it is asked for that."""

    asks: bool


@dataclass(frozen=True)
class Ended:
    """The outcome of the execution has been recorded: whether it is an error, or done without results."""

    failed: bool
    resultless: bool


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


@dataclass(frozen=True)
class TracebackRequest:
    """Asks the process to print its traceback."""
