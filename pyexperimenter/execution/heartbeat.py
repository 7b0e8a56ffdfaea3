"""Telling the database that workers are alive, and taking the rows of those who are not."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.database.records import Attempt, Silent
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import DatabaseError, PyExperimenterError
from pyexperimenter.machine.slurm import Accounting

_SOONEST, _LATEST = 0.5, 10.0  # seconds until another try after a beat that failed
_MARGIN = 1.25  # heartbeats that a silent worker is given


@dataclass
class Pulse:
    """A running attempt, and whether it still holds its row."""

    attempt: Attempt
    lost: threading.Event = field(default_factory=threading.Event)


class Heart:
    """Beats for all attempts of this process on one table: one statement for all of them, by the database's clock.

    It also reaps: it gives rows of other workers back whose lease has run out. That a lease has run out may also
    mean that the database, or this machine with all its workers, was away; so each silent worker is given a heartbeat's
    time to be heard of again.

    Parameters
    ----------
    config : ExperimentConfig
        Whose rows; how often to beat and what a lease is.
    logger : logging.Logger
        Where losses are told.
    """

    def __init__(self, config: ExperimentConfig, logger: logging.Logger) -> None:
        self._store = ExperimentStore(config)
        self._store.database.wait_out(_SOONEST, silence=max(config.execution.heartbeat, 5.0))
        self._store.database.spare_settings()
        self._execution = config.execution
        self._logger = logger
        self._accounting = Accounting()
        self._pulses: dict[int, Pulse] = {}
        self._silent: dict[Silent, float] = {}  # when each was first seen so
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        self._thread.start()

    def watch(self, attempt: Attempt) -> Pulse:
        """Beat for an attempt from now on."""
        pulse = Pulse(attempt)
        with self._lock:
            self._pulses[attempt.id] = pulse
        return pulse

    def forget(self, pulse: Pulse) -> None:
        """Beat for an attempt no more."""
        with self._lock:
            self._pulses.pop(pulse.attempt.id, None)

    def look(self) -> float | None:
        """Reap, and tell how many seconds from now there may be more to reap; None if nobody is silent.

        Raises
        ------
        DatabaseError
            If the database is away.
        """
        with self._looking:
            found = [silent for silent in self._store.silent() if silent.attempt not in self._pulses]
            now = time.monotonic()
            self._silent = {silent: self._silent.get(silent, now) for silent in found}
            patience = _MARGIN * self._execution.heartbeat
            ripe = [silent for silent, since in self._silent.items() if now - since >= patience]
            causes = self._accounting.endings(silent.job_id for silent in ripe)
            for silent in ripe:
                self._reap(silent, causes.get(silent.job_id or ""))
            if ripe:
                return 0.0  # their rows are open now
            return min((since + patience - now for since in self._silent.values()), default=None)

    def look_if_possible(self) -> float | None:
        """Look; while the database is away, tell to come again soon: the next claim waits for it."""
        try:
            return self.look()
        except DatabaseError:
            return 1.0

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()
        self._store.database.close()

    def _reap(self, silent: Silent, cause: str | None) -> None:
        if self._store.reap(silent, self._execution.max_lost, cause):
            told = (silent.experiment_id, silent.heartbeat, f"; {cause}" if cause else "")
            self._logger.warning("experiment %d was taken from its worker, last heard of at %s UTC%s", *told)

    def _live(self) -> None:
        wait, rounds = 0.0, 0
        while not self._stopping.wait(wait):
            try:
                self._beat()
                # Looking less often than beating spares the database; but who is silent is not left waiting.
                following = self.look() if rounds % 2 == 0 or self._silent else None
                rounds += 1
                wait = min(self._execution.heartbeat, max(following or math.inf, _SOONEST))
            except PyExperimenterError as error:
                self._logger.debug("no heartbeat: %s", error)
                wait = min(self._execution.heartbeat, max(2 * wait * random.random(), _SOONEST), _LATEST)
            except Exception:
                self._logger.exception("no heartbeat")
                wait = self._execution.heartbeat

    def _beat(self) -> None:
        with self._lock:
            pulses = dict(self._pulses)
        if not pulses:
            return
        for attempt in self._store.beat(list(pulses)):
            if attempt in self._pulses:  # it has not ended by itself meanwhile
                pulses[attempt].lost.set()


_hearts: dict[Hashable, tuple[Heart, int]] = {}  # with the number of users
_lock = threading.Lock()


@contextmanager
def heart_of(config: ExperimentConfig, logger: logging.Logger) -> Iterator[Heart]:
    """Give this process's heart for a table; it lives as long as one block needs it."""
    key = (config.database, config.table.name, config.execution)
    with _lock:
        heart, users = _hearts.get(key) or (Heart(config, logger), 0)
        _hearts[key] = (heart, users + 1)
    try:
        yield heart
    finally:
        with _lock:
            heart, users = _hearts.pop(key)
            if users > 1:
                _hearts[key] = (heart, users - 1)
        if users == 1:
            heart.stop()
