"""Who is told what a worker does, and keeps its claims alive."""

from __future__ import annotations

from typing import Protocol

from pyexperimenter.database.records import Attempt
from pyexperimenter.execution.heartbeat import Heart, Pulse
from pyexperimenter.execution.stopping import Stop


class Watch(Protocol):
    """Who is told what a worker does, and keeps its claims alive meanwhile."""

    stop: Stop
    """Whether the worker is to end."""

    def claimed(self, attempt: Attempt) -> None:
        """Hear that an execution begins."""

    def holds(self) -> bool:
        """Tell whether the execution is known to hold its experiment still."""

    def returned(self) -> str | None:
        """Hear that the function is through; return the last of what it printed, if that is known."""

    def ended(self, failed: bool) -> None:
        """Hear that the execution's end is written."""

    def wait_for_lost(self, seconds: float | None) -> bool:
        """When nothing is open, wait for what may be taken from silent workers; False if it is time to go home.

        While nobody is silent it waits the seconds given, or goes home without them.
        """


class OwnWatch:
    """Watches over a worker from within its own process: it beats, but cannot stop a function by force.

    Parameters
    ----------
    heart : Heart
        What beats for the worker.
    stop : Stop
        Whether the worker is to end.
    """

    def __init__(self, heart: Heart, stop: Stop) -> None:
        self.stop = stop
        self._heart = heart
        self._pulse: Pulse | None = None

    def claimed(self, attempt: Attempt) -> None:
        """Begin to beat for an execution."""
        self._pulse = self._heart.watch(attempt)

    def holds(self) -> bool:
        """Tell whether the last heartbeat found the experiment held."""
        return self._pulse is not None and not self._pulse.lost.is_set()

    def returned(self) -> str | None:
        """What was printed went to this process's own output."""
        return None

    def ended(self, failed: bool) -> None:
        """Beat for the execution no more."""
        if self._pulse is not None:
            self._heart.forget(self._pulse)
            self._pulse = None

    def wait_for_lost(self, seconds: float | None) -> bool:
        """Wait until silent workers have had their time, or the seconds given."""
        seconds = sooner(self._heart.look_if_possible(), seconds)
        return seconds is not None and not self.stop.wait(seconds)


def sooner(first: float | None, second: float | None) -> float | None:
    """Return the lesser of two times, each of which there need not be."""
    return min((seconds for seconds in (first, second) if seconds is not None), default=None)
