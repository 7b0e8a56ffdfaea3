"""A store that loses nothing while the database is away: it writes to a journal, and to the database later."""

from __future__ import annotations

import glob
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.database.claims import Claim
from pyexperimenter.database.connection import Database
from pyexperimenter.database.records import Attempt, Note, Written
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    ClaimLostError,
    DatabaseError,
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
        self.database.keep_connections()
        self._path = Path(directory) / f"{config.table.name}.{worker}{SUFFIX}"
        self._worker = worker
        self._journal: JournalFile | None = None
        self._reason = ""
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Several threads of a function may write at the same time, and the supervisor's messages are read by another.
        self._lock = threading.RLock()  # of the journal, for moments only
        self._replaying = threading.Lock()  # held while the journal is written to the database
        self._writing: dict[str, tuple[Attempt, Note]] = {}  # by token

    def _begin_after_fork(self) -> None:
        """Use a journal of its own in a process that the function has forked: its parent may delete the other."""
        if self._pid != os.getpid():
            self._begin()
            self._path = self._path.with_name(f"{self._path.name.removesuffix(SUFFIX)}.{self._pid}{SUFFIX}")
            self.close()

    def put(self, attempt: Attempt, note: Note, *, claim: Claim | None = None) -> Written:
        """Write a note to the database, or to the journal while the database is away."""
        self._begin_after_fork()
        # A function that writes often should not spend most of its time waiting.
        if self._patience.may_try() and self.caught_up():
            with self._lock:
                self._writing[note.token] = attempt, note
            try:
                return super().put(attempt, note, claim=claim)
            except DatabaseError as error:
                if error.recovery == "none":
                    raise
                self._reason = str(error)
            finally:
                with self._lock:
                    del self._writing[note.token]
        self._journal_note(attempt, note)
        self._patience.shorten()
        return Written()

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
            for attempt, note in self._writing.values():
                # If it reaches the database after all, writing it twice has no effect.
                self._sent.add(note.token)
                self._journal_note(attempt, note)

    def adopt(self) -> None:
        """Continue the journal of a process of this worker that died, if it left one."""
        with self._lock:
            if self._journal is None and self._path.exists():
                self._journal = open_journal(self._path, wait=True)

    def close(self) -> None:
        """Close the journal, if there is one, so that another process can write it to the database."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def has_noted_end(self, attempt: Attempt) -> bool:
        """Return whether the journal has the end of an attempt."""
        with self._lock:
            entries = {} if self._journal is None else self._journal.read().entries
        return any(entry.attempt == attempt and entry.note.ending is not None for entry in entries.values())

    def caught_up(self) -> bool:
        """Write the journal to the database, if there is one; False if the database is still away."""
        with self._replaying:
            while (journal := self._journal) is not None:
                start = time.monotonic()
                try:
                    replay = _Replay(journal, self, _LOGGER)
                    with self._lock:
                        if journal.size != replay.size:
                            continue  # another thread has added something, which comes next
                        replay.finish()
                        self._journal = None
                except (DatabaseError, OSError) as error:
                    if isinstance(error, DatabaseError) and error.recovery == "none":
                        raise
                    self._reason = str(error)
                    self._patience.pause(time.monotonic() - start)
                    return False
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
        try:
            if path.is_symlink() or not path.is_file():
                raise OSError("it is not a file")
            journal = open_journal(path, wait=False)  # its worker may be alive, or another process may be writing it
            if journal is None:
                continue
            with closing(journal):
                replay = _Replay(journal, store, logger)
                replay.finish()
            written += replay.written
        except OSError as error:
            logger.warning(
                "%s: what is in it was not written to the database: %s; if it is a journal, let its owner call sync(), "
                "otherwise give it another name",
                path,
                error,
            )
    return written


class _Replay:
    """Writes a journal to the database.

    Parameters
    ----------
    journal : JournalFile
        The journal.
    store : ExperimentStore
        The experiments.
    logger : logging.Logger
        Logger for what is written.

    Attributes
    ----------
    written : int
        How many executions were updated.
    size : int
        How many bytes of the journal were read.

    Raises
    ------
    DatabaseError
        If the database is away.
    """

    def __init__(self, journal: JournalFile, store: ExperimentStore, logger: logging.Logger) -> None:
        self._journal = journal
        self._store = store
        self._logger = logger
        content = journal.read()
        self.written = 0
        self.size = content.size
        self._lines = len(content.entries) + len(content.unreadable)
        self._left: list[bytes] = []
        self._rejected = content.unreadable
        for key in dict.fromkeys((entry.worker, entry.attempt) for entry in content.entries.values()):
            self._write(*key, {line: e.note for line, e in content.entries.items() if (e.worker, e.attempt) == key})

    def finish(self) -> None:
        """Delete the journal. What belongs to another database stays in it; what cannot be written is set aside."""
        if self._rejected:
            path = self._journal.set_aside(self._rejected)
            self._logger.warning(
                "%s: %d of %d entries cannot be written to the database, and are kept in %s: %s; each is a line of "
                "JSON: write by hand what you need, and delete that file",
                self._journal.path,
                len(self._rejected),
                self._lines,
                path,
                "; ".join(dict.fromkeys(self._rejected.values()))[:1000],
            )
        self._journal.close(self._left)

    def _write(self, worker: str, attempt: Attempt, notes: Mapping[bytes, Note]) -> None:
        path, experiment = self._journal.path, attempt.experiment_id
        if self._store.worker_of(attempt) != worker:
            self._logger.error(
                "%s: results of experiment %d cannot be written: %s has no such execution; was the experiment deleted?",
                path,
                experiment,
                self._store.database,
            )
            self._left += notes
            return
        problems = self._problems(attempt, list(notes.values()))
        for line, note in notes.items():
            problem = problems.get(note.token)
            if problem is not None and not isinstance(problem, ClaimLostError):
                self._rejected[line] = f"experiment {experiment}: {_text(problem)}"
        for lost in problems.values():
            if isinstance(lost, ClaimLostError):
                self._logger.warning("%s: %s; the results are in late_results of the attempt", path, lost)
                break
        if len(problems) < len(notes):
            self.written += 1
            self._logger.info("wrote the results of experiment %d from %s", experiment, path)

    def _problems(self, attempt: Attempt, notes: list[Note]) -> dict[str, Exception]:
        """Write notes at once, or one after the other if the database refuses that; return problems by token."""
        problems, refused = self._replay(attempt, notes)
        if refused:
            problems = {}
            for note in notes:
                found, refused = self._replay(attempt, [note])
                problems |= found
                if refused and note.ending is not None:
                    # Its row should not stay as it is until the lease ends: the results that fit, and an error.
                    error = note.ending.error or _text(found[note.token])
                    ending = replace(note.ending, outcome="error", error=error, retries=0)
                    self._replay(attempt, [Note(note.time, results=note.results)])
                    self._replay(attempt, [Note(note.time, ending=ending)])
        return problems

    def _replay(self, attempt: Attempt, notes: list[Note]) -> tuple[dict[str, Exception], bool]:
        """Write notes in one transaction; return problems by token, and whether the database refuses them all."""
        try:
            return self._store.replay(attempt, *notes), False
        except Exception as error:
            if isinstance(error, DatabaseError) and error.recovery != "none":
                raise
            return dict.fromkeys((note.token for note in notes), error), not isinstance(error, ClaimLostError)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
