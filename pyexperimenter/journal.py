"""Where results wait while the database is away: a file of JSON lines a worker, written to the database later."""

from __future__ import annotations

import base64
import glob
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, TypeVar

from pyexperimenter.config import ExperimentConfig
from pyexperimenter.database.records import Attempt, Ending, LogRows, Note, Usage
from pyexperimenter.database.store import ExperimentStore
from pyexperimenter.exceptions import (
    ClaimLostError,
    DatabaseConnectionError,
    DatabaseError,
    DatabaseQueryError,
    InvalidExperimentError,
    InvalidValueError,
    MissingTableError,
    ResultsInJournalError,
    SshTunnelError,
    UndecodableValueError,
)

_SUFFIX = ".journal.jsonl"
_BYTES = "\0base64"  # key of an object that stands for bytes; no column has such a name
_PATIENCE_IN_VAIN = 5.0  # seconds to wait for a database that did not come back in the time allowed

_T = TypeVar("_T")


class JournalingStore(ExperimentStore):
    """A store that loses nothing of what its worker has to write: what the database does not take goes to a journal.

    What is journaled is written to the database before anything else is, so that the order stays. While the worker
    lives, its journal is locked; afterwards `replay_journals` takes care of it.

    Parameters
    ----------
    config : ExperimentConfig
        What the experiments are and where.
    directory : str or Path
        Where the journal is made when it is needed.
    worker : str
        Identity of the worker.
    """

    def __init__(self, config: ExperimentConfig, directory: str | Path, worker: str) -> None:
        super().__init__(config)
        self.database.wait_out(config.execution.max_outage)
        self._path = Path(directory) / f"{config.table.name}.{worker}{_SUFFIX}"
        self._worker = worker
        self._file: IO[str] | None = None
        self._reason = ""
        self._writing: tuple[Attempt, Note] | None = None
        self._lock = threading.RLock()

    def put_results(self, attempt: Attempt, values: Mapping[str, Any]) -> InvalidValueError | None:
        """Write encoded results, or note them down."""
        note = _note(results=values)
        return self._or_journal(attempt, note, lambda: super(JournalingStore, self).put_results(attempt, values))

    def put_logs(self, attempt: Attempt, logs: LogRows, token: str) -> None:
        """Append encoded rows to logtables, or note them down."""
        note = _note(token, logs=logs)
        self._or_journal(attempt, note, lambda: super(JournalingStore, self).put_logs(attempt, logs, token))

    def put_ending(self, attempt: Attempt, ending: Ending, values: Mapping[str, Any]) -> None:
        """End an attempt, or note its end down."""
        note = _note(results=values, ending=ending)
        self._or_journal(attempt, note, lambda: super(JournalingStore, self).put_ending(attempt, ending, values))

    def raise_if_journaled(self) -> None:
        """Raise if something waits in the journal, after another try to write it.

        Raises
        ------
        ResultsInJournalError
            The message names file and remedy.
        """
        if not self.caught_up():
            raise ResultsInJournalError(
                f"{self._reason}; what could not be written to the database waits in {self._path}: "
                "the next execute() in this directory writes it, or sync()"
            )

    def give_up_soon(self) -> None:
        """Wait no more for a database that is away than a few seconds."""
        self.database.patience = min(self.database.patience, _PATIENCE_IN_VAIN)

    def hurry(self) -> None:
        """Wait no more; what is being written at this moment is noted down, in case that there is no time to end it.

        Another thread than the one that writes may say so.
        """
        self.give_up_soon()
        with self._lock:
            if self._writing is not None:
                # If the database does take it after all, it is the same twice, which does no harm.
                self._note_down(*self._writing)

    def _or_journal(self, attempt: Attempt, note: Note, write: Callable[[], _T]) -> _T | None:
        if self.caught_up():
            with self._lock:
                self._writing = attempt, note
            try:
                return write()
            except DatabaseError as error:
                if not _is_away(error):
                    raise
                self._reason = str(error)
            finally:
                with self._lock:
                    self._writing = None
        self._note_down(attempt, note)
        self.give_up_soon()  # whoever has waited in vain need not wait so long for the next write
        return None

    def adopt(self) -> None:
        """Go on with the journal that the worker's process left when it died, if it did."""
        if self._file is None and self._path.exists():
            self._open()
            self._reason = "the worker's process died while the database was away"

    def has_noted_end(self, attempt: Attempt) -> bool:
        """Tell whether the journal says how an attempt ended."""
        if self._file is None:
            return False
        notes = _read(self._path, logging.getLogger(__name__)).get((self._worker, attempt), [])
        return any(note.ending is not None for note in notes)

    def caught_up(self) -> bool:
        """Write what is in the journal, if anything is; False if the database is still away."""
        if self._file is None:
            return True
        try:
            _replay(self._path, self, logging.getLogger(__name__))
        except DatabaseError as error:
            if not _is_away(error):
                raise
            return False
        self._file.close()
        self._file = None
        return True

    def _note_down(self, attempt: Attempt, note: Note) -> None:
        entry = {"worker": self._worker, "attempt": asdict(attempt), "note": asdict(note)}
        line = json.dumps(entry, default=_plain) + "\n"
        with self._lock:
            file = self._file or self._open()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _open(self) -> IO[str]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8")
        _lock(self._file)
        _sync_directory(self._path.parent)
        return self._file


def replay_journals(store: ExperimentStore, directory: str | Path, logger: logging.Logger) -> int:
    """Write to the database what waits in the journals of workers that are no more, and delete them.

    Parameters
    ----------
    store : ExperimentStore
        The experiments.
    directory : str or Path
        Where the journals are.
    logger : logging.Logger
        Where it is told.

    Returns
    -------
    int
        How many executions were brought up to date.

    Raises
    ------
    DatabaseError
        If the database is (still) away. Nothing is lost or doubled by another try.
    """
    written = 0
    for path in sorted(Path(directory).glob(f"{glob.escape(store.schema.table)}.*{_SUFFIX}")):
        with suppress(FileNotFoundError, BlockingIOError), path.open("r+", encoding="utf-8") as file:
            _lock(file)  # its worker may still be alive, or another process be at it
            written += _replay(path, store, logger)
    return written


def _lock(file: IO[str]) -> None:
    """Lock a file until it is closed; raise BlockingIOError if another process has."""
    import fcntl  # not on Windows

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _replay(path: Path, store: ExperimentStore, logger: logging.Logger) -> int:
    """Write what is in one journal and delete it, except if there is something in it that the database cannot take."""
    written, complete = 0, True
    for (worker, attempt), notes in _read(path, logger).items():
        experiment = attempt.experiment_id
        try:
            if store.worker_of(attempt) != worker:
                raise InvalidExperimentError(f"{store.database} has no such execution; was the experiment deleted?")
            store.replay(attempt, notes)
        except ClaimLostError as lost:
            logger.warning("%s: %s; the results are in late_results of the attempt", path, lost)
        except (InvalidExperimentError, InvalidValueError) as error:
            logger.error("%s: results of experiment %d cannot be written: %s", path, experiment, error)
            complete = False
        else:
            written += 1
            logger.info("results of experiment %d were written from %s", experiment, path)
    if complete:
        path.unlink()
    return written


def _read(path: Path, logger: logging.Logger) -> dict[tuple[str, Attempt], list[Note]]:
    """Return the notes in their order, by worker and attempt."""
    found: dict[tuple[str, Attempt], list[Note]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line, object_hook=_restored)
        except ValueError:
            logger.warning("%s: the last line is not complete: its writer was stopped in the middle of it", path)
            break
        found.setdefault((entry["worker"], Attempt(**entry["attempt"])), []).append(_note_of(entry["note"]))
    return found


def _note(
    token: str | None = None,
    results: Mapping[str, Any] | None = None,
    logs: LogRows | None = None,
    ending: Ending | None = None,
) -> Note:
    now = datetime.now(timezone.utc).isoformat(" ", "seconds").partition("+")[0]
    return Note(now, token or uuid.uuid4().hex, results or {}, logs or {}, ending)


def _note_of(entry: Mapping[str, Any]) -> Note:
    ending = entry["ending"]
    if ending is not None:
        ending = Ending(**{**ending, "usage": Usage(**ending["usage"])})
    return Note(**{**entry, "ending": ending})


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    raise TypeError(f"{value!r} has no place in a journal")


def _restored(value: dict[str, Any]) -> Any:
    return base64.b64decode(value[_BYTES]) if value.keys() == {_BYTES} else value


def _is_away(error: DatabaseError) -> bool:
    """Tell whether a write failed for a reason that passes some day, with no fault of what was to be written."""
    lasting = (MissingTableError, UndecodableValueError)
    return isinstance(error, (DatabaseConnectionError, DatabaseQueryError, SshTunnelError)) and not isinstance(
        error, lasting
    )


def _sync_directory(directory: Path) -> None:
    """Make sure that a new file's name is on the disk, too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
