"""A store that loses nothing while the database is away: it writes to a journal, and to the database later."""

from __future__ import annotations

import glob
import logging
import math
import threading
import time
from pathlib import Path

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.database.connection import Database
from pyexperimenter.database.records import Attempt, Note
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    ClaimLostError,
    DatabaseError,
    InvalidExperimentError,
    InvalidValueError,
    JournalError,
    ResultsInJournalError,
)
from pyexperimenter.execution.journal_file import SUFFIX, Entry, JournalFile, open_journal

_LOGGER = logging.getLogger(__name__)
_SHORT_WAIT = 5.0  # seconds


class _Patience:
    """How long a worker waits for a database that is away.

    At first as long as the configuration allows. Once that was not enough, a few seconds at a time, until the database
    is back; once the worker has to end, a few seconds for good.
    """

    def __init__(self, database: Database, max_outage: float) -> None:
        database.wait_out(max_outage)
        self._database = database
        self._max_outage = max_outage
        self._ending = False
        self._next_try = -math.inf

    def may_try(self) -> bool:
        """Return whether it is time for another try."""
        return time.monotonic() > self._next_try

    def pause(self, seconds: float) -> None:
        """Allow no try for this long."""
        self._next_try = time.monotonic() + seconds

    def shorten(self) -> None:
        """Wait only a few seconds, because waiting longer did not help."""
        self._database.patience = min(self._database.patience, _SHORT_WAIT)

    def restore(self) -> None:
        """Wait as long as at first, because the database is back."""
        self._next_try = -math.inf
        if not self._ending:
            self._database.patience = self._max_outage

    def end(self) -> None:
        """Wait only a few seconds from now on."""
        self._ending = True
        self.shorten()


class JournalingStore(ExperimentStore):
    """A store whose writes go to a journal while the database is away.

    The journal is written to the database before anything else is, so the order stays the same. The journal is locked
    while the worker lives; afterwards `replay_journals` writes it.

    Parameters
    ----------
    config : ExperimentConfig
        The configuration of the study.
    directory : str or Path
        Directory of the journal, which is created when it is needed.
    worker : str
        Identity of the worker.
    """

    def __init__(self, config: ExperimentConfig, directory: str | Path, worker: str) -> None:
        super().__init__(config)
        self._patience = _Patience(self.database, config.execution.max_outage)
        self._path = Path(directory) / f"{config.table.name}.{worker}{SUFFIX}"
        self._worker = worker
        self._journal: JournalFile | None = None
        self._reason = ""
        self._writing: tuple[Attempt, Note] | None = None
        self._lock = threading.RLock()

    def put(self, attempt: Attempt, note: Note) -> InvalidValueError | None:
        """Write a note to the database, or to the journal while the database is away."""
        # A function that writes often should not spend most of its time waiting.
        if self._patience.may_try() and self.caught_up():
            with self._lock:
                self._writing = attempt, note
            try:
                return super().put(attempt, note)
            except DatabaseError as error:
                if error.recovery == "none":
                    raise
                self._reason = str(error)
            finally:
                with self._lock:
                    self._writing = None
        self._journal_note(attempt, note)
        self._patience.shorten()
        return None

    def raise_if_journaled(self) -> None:
        """Try to write the journal to the database, and raise if that fails.

        Raises
        ------
        ResultsInJournalError
            The message names file and remedy.
        """
        if not self.caught_up():
            raise ResultsInJournalError(
                f"{self._reason}; what could not be written to the database is kept in {self._path}: "
                "the next execute() in this directory writes it, or sync()"
            )

    def give_up_soon(self) -> None:
        """Wait only a few seconds for the database from now on."""
        self._patience.end()

    def hurry(self) -> None:
        """Wait only a few seconds, and journal what is being written now, in case there is no time to finish that.

        It may be called by another thread than the one that writes.
        """
        self.give_up_soon()
        with self._lock:
            if self._writing is not None:
                # If it reaches the database after all, writing it twice has no effect.
                self._journal_note(*self._writing)

    def adopt(self) -> None:
        """Continue the journal of a process of this worker that died, if it left one."""
        if self._journal is None and self._path.exists():
            self._journal = open_journal(self._path, wait=True)
            self._reason = "the worker's process died while the database was away"

    def close(self) -> None:
        """Close the journal, if there is one, so that another process can write it to the database."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def has_noted_end(self, attempt: Attempt) -> bool:
        """Return whether the journal has the end of an attempt."""
        entries = [] if self._journal is None else self._journal.entries(_LOGGER)
        return any(entry.attempt == attempt and entry.note.ending is not None for entry in entries)

    def caught_up(self) -> bool:
        """Write the journal to the database, if there is one; False if the database is still away."""
        if self._journal is None:
            return True
        start = time.monotonic()
        try:
            _replay(self._journal, self, _LOGGER)
        except DatabaseError as error:
            if error.recovery == "none":
                raise
            self._patience.pause(time.monotonic() - start)
            return False
        self._journal = None
        self._patience.restore()
        return True

    def _journal_note(self, attempt: Attempt, note: Note) -> None:
        try:
            with self._lock:
                if self._journal is None:
                    self._journal = open_journal(self._path, wait=True)
                assert self._journal is not None  # it waited
                self._journal.add(Entry(self._worker, attempt, note))
        except OSError as error:
            raise JournalError(
                f"{self._reason}; and the journal {self._path} cannot be written: {error}; results of experiment "
                f"{attempt.experiment_id} are lost. Fix one of the two, or set 'journal' to another directory"
            ) from error


def journals_of(store: ExperimentStore, directory: str | Path) -> list[Path]:
    """Return the journals of a table's workers, of living ones too."""
    return sorted(Path(directory).glob(f"{glob.escape(store.schema.table)}.*{SUFFIX}"))


def replay_journals(store: ExperimentStore, directory: str | Path, logger: logging.Logger) -> int:
    """Write the journals of workers that have ended to the database, and delete them.

    Parameters
    ----------
    store : ExperimentStore
        The experiments.
    directory : str or Path
        Directory of the journals.
    logger : logging.Logger
        Logger for what is written.

    Returns
    -------
    int
        How many executions were updated.

    Raises
    ------
    DatabaseError
        If the database is still away. A second try neither loses nor duplicates anything.
    """
    written = 0
    for path in journals_of(store, directory):
        journal = open_journal(path, wait=False)  # its worker may be alive, or another process may be writing it
        if journal is not None:
            try:
                written += _replay(journal, store, logger)
            except BaseException:
                journal.close()
                raise
    return written


def _replay(journal: JournalFile, store: ExperimentStore, logger: logging.Logger) -> int:
    """Write a journal to the database, delete it, and return how many executions were in it.

    Entries that cannot be written stay in it.
    """
    entries, left, written = journal.entries(logger), [], 0
    for worker, attempt in dict.fromkeys((entry.worker, entry.attempt) for entry in entries):
        group = [entry for entry in entries if (entry.worker, entry.attempt) == (worker, attempt)]
        experiment = attempt.experiment_id
        try:
            if store.worker_of(attempt) != worker:
                raise InvalidExperimentError(f"{store.database} has no such execution; was the experiment deleted?")
            store.replay(attempt, *(entry.note for entry in group))
        except ClaimLostError as lost:
            logger.warning("%s: %s; the results are in late_results of the attempt", journal.path, lost)
        except (InvalidExperimentError, InvalidValueError) as error:
            logger.error("%s: results of experiment %d cannot be written: %s", journal.path, experiment, error)
            left += group
        else:
            written += 1
            logger.info("wrote the results of experiment %d from %s", experiment, journal.path)
    journal.close(left)
    return written
