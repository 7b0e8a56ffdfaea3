"""Heartbeats: renewing the leases of this process's attempts, and reaping rows whose workers are silent."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.database.records import Attempt, Silent, Unheld
from pyexperimenter.database.selection import Selection
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.durations import duration_text
from pyexperimenter.exceptions import DatabaseError, PyExperimenterError
from pyexperimenter.machine.slurm import Accounting
from pyexperimenter.machine.system import at_fork, system_random

_MIN_RETRY, _MAX_RETRY = 0.5, 10.0  # seconds from a failed heartbeat to the next try
_LEAST_SILENCE = 5.0  # seconds after which a server that does not answer counts as away
_LONGEST_PAUSE = 1.0  # seconds for which a fork waits
_PATIENCE = 1.25  # heartbeats that a silent worker is given before its rows are taken


@dataclass
class Lease:
    """A running attempt, and whether it has lost its row."""

    attempt: Attempt
    lost: bool = False


class Heartbeat:
    """Renews the leases of all attempts of this process on one table, with one statement, by the database's clock.

    It also reaps: it releases rows of other workers whose leases have run out. A lease also runs out while the
    database, or the worker's machine, cannot be reached; so each silent worker first gets the time of one heartbeat
    to report again.

    Parameters
    ----------
    config : ExperimentConfig
        Names the table, the time between heartbeats, and how often a row may be lost.
    logger : logging.Logger
        Logs rows that are taken, and failed heartbeats.
    """

    def __init__(self, config: ExperimentConfig, logger: logging.Logger) -> None:
        self._store = ExperimentStore(config)
        self._store.database.wait_out(_MIN_RETRY, silence=max(config.execution.heartbeat, _LEAST_SILENCE))
        self._store.database.spare_settings()
        self._execution = config.execution
        self._patience = _PATIENCE * config.execution.heartbeat
        self._logger = logger
        self._accounting = Accounting()
        self._leases: dict[Attempt, Lease] = {}
        self._silent: dict[Silent | Unheld, float] = {}  # when each was first seen
        self._lock = threading.Lock()
        self._reaping = threading.Lock()
        # Unlike heartbeats, conditions of users depend on the settings of the connection.
        self._observer = ExperimentStore(config)
        self._observer.database.wait_out(_MIN_RETRY, silence=_LEAST_SILENCE)
        self._observer.database.share_connection()
        self._looking = threading.Lock()
        self._next_looks: dict[str, float] = {}  # when to look again for workers that wait, by what they may claim
        self._renewed = time.monotonic()  # when the leases were last known to be valid
        self._complaints: set[bool] = set()  # whether it was an outage, for each kind of failure that was reported
        self._stopping = threading.Event()
        self.at_work = threading.Lock()  # held while it uses the database
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def keep(self, attempt: Attempt) -> Lease:
        """Renew the lease of an attempt from now on."""
        lease = Lease(attempt)
        with self._lock:
            self._leases[attempt] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        """Stop renewing a lease."""
        with self._lock:
            self._leases.pop(lease.attempt, None)

    def reap(self, idle: bool = False) -> float | None:
        """Release rows of silent workers; return in how many seconds there may be more, None if no worker is silent.

        Parameters
        ----------
        idle : bool
            Whether nothing is open. Then it also looks for rows that run without an open attempt, which costs more.

        Raises
        ------
        DatabaseError
            If the database cannot be reached.
        """
        with self._reaping:
            found: list[Silent | Unheld] = [s for s in self._store.silent() if s.attempt not in self._leases]
            if idle or any(isinstance(seen, Unheld) for seen in self._silent):
                found += self._store.unheld()
            now = time.monotonic()
            self._silent = {seen: self._silent.get(seen, now) for seen in found}
            due = [seen for seen, since in self._silent.items() if self._is_due(seen, now - since)]
            self._release(due)
            if due:
                return 0.0  # their rows are open now
            return min((since + self._patience - now for since in self._silent.values()), default=None)

    def _is_due(self, seen: Silent | Unheld, seconds: float) -> bool:
        # An attempt whose row is no longer running has nothing to lose.
        return seconds >= self._patience or (isinstance(seen, Silent) and seen.attempt.row_status != "running")

    def _release(self, due: Sequence[Silent | Unheld]) -> None:
        causes = self._accounting.endings(silent.job_id for silent in due if isinstance(silent, Silent))
        for seen in due:
            if isinstance(seen, Unheld):
                if self._store.open_unheld(seen):
                    self._logger.warning(
                        "experiment %d was running without a worker; it is open again", seen.experiment_id
                    )
                continue
            cause = causes.get(seen.job_id or "")
            if self._store.reap(seen, self._execution.max_lost, cause):
                message = "experiment %d was taken from its worker, last heard from at %s UTC%s"
                self._logger.warning(message, seen.attempt.experiment_id, seen.heartbeat, f"; {cause}" if cause else "")

    def look(self, selection: Selection, waits: bool) -> float | None:
        """Return in how many seconds something may be open: 0 if it may be now, None if the worker should end.

        Parameters
        ----------
        selection : Selection
            What the worker may claim.
        waits : bool
            Whether it stays while other workers execute. Those that do share one look per heartbeat.
        """
        key = repr(selection.condition)
        try:
            with self._looking:
                now = time.monotonic()
                due = self._next_looks.get(key, now) if waits else now
                if now < due:
                    return due - now
                seconds = self._look(selection, waits)
                self._next_looks[key] = now + (seconds or 0)
                return seconds
        except DatabaseError:
            self._stopping.wait(_MIN_RETRY)
            return 0.0  # the next claim waits for the database, or raises

    def _look(self, selection: Selection, waits: bool) -> float | None:
        unfinished = self._observer.unfinished(selection)
        if unfinished.open:
            return 0.0
        following = self.reap(idle=True) if unfinished.lost else None
        if unfinished.lost and following is None:
            return _MIN_RETRY  # another has just opened it, or a heartbeat has come
        if unfinished.running and waits:
            return min(self._execution.heartbeat, math.inf if following is None else following)
        return following

    def stop(self) -> None:
        """End the thread. The connections are closed soon, as they are idle."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        wait, rounds = 0.0, 0
        while not self._stopping.wait(wait):
            try:
                with self.at_work:
                    self._renew()
                    # Every second time saves the database work. If a worker is silent, its rows are reaped when due.
                    following = self.reap() if rounds % 2 == 0 or self._silent else None
                rounds += 1
                wait = min(self._execution.heartbeat, max(following or math.inf, _MIN_RETRY))
                if self._complaints:
                    self._logger.warning("heartbeats succeed again")
                    self._complaints.clear()
            except Exception as error:
                self._complain(error)
                wait = min(self._execution.heartbeat, max(2 * wait * system_random.random(), _MIN_RETRY), _MAX_RETRY)

    def _complain(self, error: Exception) -> None:
        """Report a failure once: an outage when it may cost leases, anything else at once, as it may never pass."""
        outage = isinstance(error, DatabaseError) and error.recovery in ("wait", "retry")
        safe = outage and time.monotonic() - self._renewed < self._execution.lease / 2
        if safe or outage in self._complaints:
            self._logger.debug("heartbeat failed: %s", error)
            return
        self._complaints.add(outage)
        message = "heartbeats fail, and without them other workers take over the experiments of this process in %s: %s"
        left = self._execution.lease - (time.monotonic() - self._renewed)
        unexpected = not isinstance(error, PyExperimenterError)
        self._logger.error(message, duration_text(max(left, 0)), error, exc_info=unexpected)

    def _renew(self) -> None:
        with self._lock:
            leases = dict(self._leases)
        now = time.monotonic()
        for attempt in self._store.beat(list(leases)) if leases else ():
            if attempt in self._leases:  # otherwise it has ended in the meantime
                leases[attempt].lost = True
        self._renewed = now


_shared: dict[Hashable, tuple[Heartbeat, int]] = {}  # with the number of users
_lock = threading.Lock()


@contextmanager
def shared_heartbeat(config: ExperimentConfig, logger: logging.Logger) -> Iterator[Heartbeat]:
    """Yield this process's heartbeat for a table. It stops when the last block that uses it ends."""
    key = (os.getpid(), config.database, config.table.name, config.execution)  # a fork does not have the thread
    with _lock:
        heartbeat, users = _shared.get(key) or (Heartbeat(config, logger), 0)
        _shared[key] = (heartbeat, users + 1)
    try:
        yield heartbeat
    finally:
        with _lock:
            heartbeat, users = _shared.pop(key)
            if users > 1:
                _shared[key] = (heartbeat, users - 1)
        if users == 1:
            heartbeat.stop()


# A fork has the locks that SQLite held, but not the thread that would open them.
_paused: list[Heartbeat] = []


def _pause() -> None:
    for heartbeat, _ in list(_shared.values()):
        if heartbeat.at_work.acquire(timeout=_LONGEST_PAUSE):
            _paused.append(heartbeat)


def _go_on() -> None:
    while _paused:
        _paused.pop().at_work.release()


at_fork(before=_pause, after_in_parent=_go_on, after_in_child=_go_on)
