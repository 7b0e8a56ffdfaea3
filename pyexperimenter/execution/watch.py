"""What follows a worker's executions and renews their leases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pyexperimenter.database.records import Attempt
from pyexperimenter.database.selection import Selection
from pyexperimenter.execution.stopping import Stop

if TYPE_CHECKING:
    from pyexperimenter.execution.heartbeat import Heartbeat, Lease


class Watch(Protocol):
    """Is notified of what a worker does, and renews its leases."""

    stop: Stop
    """Whether the worker should stop."""
    in_own_process: bool
    """Whether the worker is alone in its process, so that a fresh one can replace it."""

    def claimed(self, attempt: Attempt) -> None:
        """Called when an execution begins."""

    def holds(self) -> bool:
        """Return False once the execution is known to have lost its experiment."""

    def returned(self) -> str | None:
        """Called when the function has returned; return the end of its output if known."""

    def ended(self, failed: bool, resultless: bool) -> None:
        """Called when the outcome has been recorded."""

    def look(self, selection: Selection, waits: bool) -> float | None:
        """Called when nothing is open; return in how many seconds something may be, or None if the worker should end.

        Parameters
        ----------
        selection : Selection
            What the worker may claim.
        waits : bool
            Whether it stays while other workers execute.
        """


class OwnWatch:
    """Watches a worker from within its own process. It cannot stop a function by force.

    Parameters
    ----------
    heartbeat : Heartbeat
        Renews the worker's leases.
    stop : Stop
        Whether the worker should stop.
    """

    in_own_process = False

    def __init__(self, heartbeat: Heartbeat, stop: Stop) -> None:
        self.stop = stop
        self._heartbeat = heartbeat
        self._lease: Lease | None = None

    def claimed(self, attempt: Attempt) -> None:
        """Start renewing the lease of an execution."""
        self._lease = self._heartbeat.keep(attempt)

    def holds(self) -> bool:
        """Return whether the last heartbeat found the experiment held."""
        return self._lease is not None and not self._lease.lost

    def returned(self) -> str | None:
        """Return None: the output went to this process's own stdout and stderr."""
        return None

    def ended(self, failed: bool, resultless: bool) -> None:
        """Stop renewing the lease."""
        if self._lease is not None:
            self._heartbeat.drop(self._lease)
            self._lease = None

    def look(self, selection: Selection, waits: bool) -> float | None:
        """Return in how many seconds something may be open."""
        return self._heartbeat.look(selection, waits)
