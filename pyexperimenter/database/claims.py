"""Claims: taking experiments, the leases that hold them, and releasing them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from pyexperimenter.config.model import ExperimentConfig
from pyexperimenter.database.connection import Cursor, Result, Statement, retried
from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.database.records import (
    NOT_MEASURED,
    Attempt,
    Experiment,
    Silent,
    Unfinished,
    Unheld,
    Usage,
    WorkerInfo,
    new_token,
)
from pyexperimenter.database.selection import Condition, OrderBy, Selection, Where
from pyexperimenter.database.statements import PROBES
from pyexperimenter.exceptions import (
    ClaimLostError,
    ExperimentExistsError,
    InvalidExperimentError,
    NoPausedExperimentsException,
    PyExperimenterError,
    TransientDatabaseError,
    UndecodableValueError,
)
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.machine.system import system_random

_LONGEST_WAIT = 1.0  # seconds, for rows that others have locked
_MOST_COMPARED = 500  # keyfields in one condition; SQLite takes fewer than 1000
_SLOW = 0.01  # seconds of a search that is better done for many claims at once
_SHARE = 0.05  # of the time may be spent on such searches
_AMONG = 256  # IDs in one statement


class RaceLost(PyExperimenterError):
    """Another worker took the row between two statements."""


class Claim(NamedTuple):
    """What a worker may claim, and for whom."""

    worker: WorkerInfo
    selection: Selection = Selection()


class _Found:
    """The open rows that a worker has found and not tried yet, in the order of its selection.

    To sort or scan a million rows takes long, so one search serves many claims. A row that is opened later waits for
    the next search: at most 20 times as long as the last one took.

    Attributes
    ----------
    selection : Selection
        What the worker may claim.
    ids : deque of int
        Their IDs.
    is_needed : bool
        Whether claims use them: if they have an order, or a condition that few of many rows meet.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.ids: deque[int] = deque()
        self.is_needed = bool(selection.order)
        self._until = 0.0

    def forget_old(self) -> bool:
        """Forget them if they were found long ago; return whether none is left."""
        if time.monotonic() > self._until:
            self.ids.clear()
        return not self.ids

    def replace(self, ids: Iterable[int], seconds: float) -> None:
        """Keep what a search has found that took this long."""
        self.ids = deque(ids)
        self._until = time.monotonic() + seconds / _SHARE
        self.is_needed = bool(self.selection.order)
        self.took(seconds)

    def took(self, seconds: float) -> None:
        """Learn how long a search took."""
        self.is_needed |= seconds > _SLOW and self.selection.condition != Condition()


class ClaimStore(ExperimentReader):
    """What workers do to hold experiments.

    Parameters
    ----------
    config : ExperimentConfig
        The configuration of the study.

    Attributes
    ----------
    in_doubt : bool
        Whether the answer to a claim that succeeded may have been lost, so that the worker holds what it does not know.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config)
        self._lease = config.execution.lease
        self._requires = config.table.requires
        self.in_doubt = False
        self._found = _Found(Selection())

    # Claiming

    def selection(
        self,
        where: Where = None,
        order_by: OrderBy = None,
        random_order: bool = False,
        resources: Mapping[str, float] | None = None,
        only_grid: bool = False,
    ) -> Selection:
        """Return what a worker may claim; with `resources`, only experiments that need no more than these.

        Raises
        ------
        InvalidColumnError
            If the table does not have one of the columns.
        ParameterCombinationError
            With `only_grid`, if the configuration has no grid.
        """
        selection = self._selector.selection(where, order_by, random_order)
        condition = selection.condition
        if resources is not None:
            condition &= self._selector.fitting(self._requires, resources)
        if only_grid:
            condition &= self.in_grid()
        return replace(selection, condition=condition)

    @retried
    def claim(self, worker: WorkerInfo, selection: Selection = Selection()) -> Experiment | None:  # noqa: B008 - frozen
        """Claim an open experiment for this worker; None if there is none left."""
        if self.in_doubt:
            self.release_worker(worker.identity, "the answer to its claim was lost")  # it holds nothing else
            self.in_doubt = False
        wait = 0.01
        while True:
            is_new = self._find_many(selection)
            try:
                with self.database.transaction() as cursor:
                    row = self._first_open(cursor, selection)
                    if row is not None:
                        experiment = self._take(cursor, row, ExperimentStatus.CREATED, worker, commit=True)
                        if experiment is not None:
                            return experiment
                        continue
            except RaceLost:
                continue
            except TransientDatabaseError:
                self.in_doubt = True  # if only the answer to the commit was lost, a row was taken
                raise
            if self._found.is_needed and not is_new:
                continue  # others have taken all that was found before
            # The claim skips rows that others have locked. Only a count without locks may end a worker.
            if not self.count(self._selector.rows(ExperimentStatus.CREATED) & selection.condition):
                return None
            time.sleep(wait * system_random.uniform(0.5, 1))
            wait = min(2 * wait, _LONGEST_WAIT)

    def _find_many(self, selection: Selection) -> bool:
        """Find many open rows for the next claims if that is needed, and return whether it was.

        Comes before the transaction, so that others do not wait for it.
        """
        if selection != self._found.selection:
            self._found = _Found(selection)
        if not self._found.forget_old() or not self._found.is_needed:
            return False
        order = selection.order and f"{selection.order}, "
        text = self._sql.claim.many_open.format(condition=selection.condition.sql, order=order)
        with self.database.query() as cursor:
            [result] = cursor.run_together((text, selection.condition.parameters))
        self._found.replace((found for (found,) in result.rows), result.seconds)
        return True

    def _search(self, selection: Selection) -> Statement | None:
        """Return the query that finds and locks an open row; None if it takes more than one, or none was found."""
        if self._found.ids:
            return self._locking(self._found.ids.popleft(), selection.condition)
        if selection.random or self._found.is_needed:
            return None
        condition = selection.condition
        return self._sql.claim.first_open.format(condition=condition.sql), condition.parameters

    def _locking(self, candidate: int, condition: Condition) -> Statement:
        text = self._sql.claim.lock_open.format(condition=condition.sql)
        return text, {**condition.parameters, "experiment_id": candidate}

    def _first_open(
        self, cursor: Cursor, selection: Selection, searched: Result | None = None
    ) -> tuple[Any, ...] | None:
        """Return ID and keyfields of an open row, locked if the database has row locks.

        Parameters
        ----------
        cursor : Cursor
            The transaction.
        selection : Selection
            What may be claimed.
        searched : Result, optional
            What `_search` has found.
        """
        if selection.random and not selection.order:
            for candidate in self._drawn(cursor, selection):
                [locked] = cursor.run_together(self._locking(candidate, selection.condition))
                if locked.first is not None:
                    return locked.first
        while True:
            if searched is not None:
                self._found.took(searched.seconds)
                if searched.first is not None or not self._found.ids:
                    return searched.first
                self._skip_taken(cursor, selection)
            search = self._search(selection)
            if search is None:
                return None
            [searched] = cursor.run_together(search)

    def _skip_taken(self, cursor: Cursor, selection: Selection) -> None:
        """Forget the rows at the beginning of those found that are no longer open."""
        ids = self._found.ids
        while ids:
            next_ones = [ids.popleft() for _ in range(min(_AMONG, len(ids)))]
            still_open = set(self._ids(cursor, self._sql.claim.open_among, selection, probes=next_ones))
            if still_open:
                ids.extendleft(found for found in reversed(next_ones) if found in still_open)
                return

    def _ids(self, cursor: Cursor, statement: str, selection: Selection, **parameters: Any) -> list[int]:
        text = statement.format(condition=selection.condition.sql)
        return [found for (found,) in cursor.all(text, **selection.condition.parameters, **parameters)]

    def _drawn(self, cursor: Cursor, selection: Selection) -> list[int]:
        """Return IDs of open rows in random order, read without locks."""
        sql, condition = self._sql.claim, selection.condition
        [(low, high)] = cursor.all(sql.open_range.format(condition=condition.sql), **condition.parameters)
        if low is None:
            return []
        # While many rows are open, some of a few random IDs are open. When few are open, reading them is cheap.
        drawn = [system_random.randint(low, high) for _ in range(PROBES)]
        found = self._ids(cursor, sql.open_among, selection, probes=drawn)
        system_random.shuffle(found)
        from_first = found or self._ids(cursor, sql.open_from, selection, first=drawn[0])
        return from_first or self._ids(cursor, sql.open_from, selection, first=low)

    def _take(
        self, cursor: Cursor, row: tuple[Any, ...], status: ExperimentStatus, worker: WorkerInfo, commit: bool = False
    ) -> Experiment | None:
        """Give a row to this worker. If an open row's keyfields cannot be read, mark it so and return None.

        With `commit`, the transaction may end with this: it does where the row is locked, so that it cannot be lost.
        """
        experiment_id, resumed = row[0], status is ExperimentStatus.PAUSED
        try:
            keyfields = self._decode_keyfields(row)
        except UndecodableValueError as error:
            if resumed:
                raise
            cursor.run(self._sql.claim.mark_unreadable, error=str(error), experiment_id=experiment_id)
            return None
        take = self._sql.claim.resume if resumed else self._sql.claim.take
        new = {**vars(worker), "experiment_id": experiment_id, "status": status.value}
        insert, token = self._new_attempt(experiment_id, worker, resumed, self._lease)
        cause = f"its status was set by SQL, or it was attached; claimed by {worker.identity} on {worker.machine}"
        closing = self._closing([experiment_id], "superseded", cause)
        is_locked = bool(self.schema.dialect.row_lock)
        taken, _, inserted = cursor.run_together((take, new), closing, insert, commit=commit and is_locked)
        if taken.changed != 1:
            raise RaceLost(f"experiment {experiment_id} was taken by another worker")
        return Experiment(experiment_id, keyfields, Attempt(self._inserted(inserted), experiment_id, token=token))

    def _new_attempt(
        self, experiment_id: int, worker: WorkerInfo, continues: bool, lease: float | None
    ) -> tuple[Statement, str]:
        """Return the statement that opens an attempt, and the attempt's token."""
        sql, token = self._sql.claim, new_token()
        insert = sql.open_attempt.format(run=sql.same_run if continues else sql.next_number)
        values = {**vars(worker), "experiment_id": experiment_id, "lease": lease, "token": token}
        return (f"{insert}{self.database.dialect.returning_id}", values), token

    def _inserted(self, result: Result) -> int:
        return int(self.database.dialect.inserted_id(result))

    @retried
    def resume(self, experiment_id: int, worker: WorkerInfo) -> Experiment:
        """Claim a paused experiment.

        Raises
        ------
        NoPausedExperimentsException
            If it is not paused.
        UndecodableValueError
            If its keyfields cannot be read. It stays paused.
        """
        with self.database.transaction() as cursor:
            row = cursor.one(self._sql.claim.await_row, experiment_id=experiment_id, status="paused")
            experiment = row and self._take(cursor, row, ExperimentStatus.PAUSED, worker, commit=True)
            experiment = experiment or self._taken_already(cursor, worker, experiment_id)
            if not experiment:
                status = cursor.one(self._sql.read.status_of, experiment_id=experiment_id)
                raise NoPausedExperimentsException(
                    f"there is no paused experiment with ID {experiment_id}: "
                    + (f"its status is {status[0]}" if status else "the table has no such ID")
                )
            return experiment

    @retried
    def add_and_claim(self, row: tuple[Any, ...], worker: WorkerInfo) -> Experiment:
        """Insert a row of encoded keyfields if it is missing, and claim it, in one transaction.

        Raises
        ------
        ExperimentExistsError
            If it existed and is not open.
        """
        with self.database.transaction() as cursor:
            cursor.run_many(self._sql.write.fill.format(created=self._now(cursor)), [row])
            experiment_id = self._find(cursor, row)
            open_row = cursor.one(self._sql.claim.await_row, experiment_id=experiment_id, status="created")
            experiment = open_row and self._take(cursor, open_row, ExperimentStatus.CREATED, worker, commit=True)
            experiment = experiment or self._taken_already(cursor, worker, experiment_id)
            if not experiment:
                (status,) = cursor.one(self._sql.read.status_of, experiment_id=experiment_id) or (None,)
                raise ExperimentExistsError(
                    f"the experiment exists with ID {experiment_id} and is {status}; "
                    f"reset it to run it again: reset_experiments(ids=[{experiment_id}])"
                )
            return experiment

    def _taken_already(self, cursor: Cursor, worker: WorkerInfo, experiment_id: int | None = None) -> Experiment | None:
        """Return what this worker has just claimed, perhaps a certain experiment, if the answer was lost."""
        for held in self._held_by(cursor, worker.identity):
            if experiment_id in (None, held.experiment_id) and (row := self._row(cursor, held.experiment_id)):
                return Experiment(held.experiment_id, self._decode_keyfields(row), held)
        return None

    def _held_by(self, cursor: Cursor, identity: str) -> list[Attempt]:
        held = cursor.all(self._sql.claim.held_by, identity=identity, below=f"{identity}.%")
        return [Attempt(attempt, experiment_id, token=token) for attempt, experiment_id, token in held]

    def _row(self, cursor: Cursor, experiment_id: int) -> tuple[Any, ...] | None:
        return cursor.one(self._sql.read.find.format(condition="ID = :id"), id=experiment_id)

    def _find(self, cursor: Cursor, row: tuple[Any, ...]) -> int:
        """Return the ID of the row with these encoded keyfields."""
        wanted = self._decode_keyfields((None, *row))
        condition = Condition()
        fields = zip(self.schema.keyfields.items(), row, strict=True)
        for number, ((name, kind), value) in enumerate(islice(fields, _MOST_COMPARED)):
            if value is None:
                condition &= Condition(f"{self.schema.q(name)} IS NULL")
            elif kind.name != "JSON":  # a native JSON column does not equal its text
                condition &= Condition(f"{self.schema.q(name)} = :key_{number}", {f"key_{number}": value})
        # More may be found, also because of a collation, so they are compared here.
        for found in cursor.all(self._sql.read.find.format(condition=condition.sql), **condition.parameters):
            if self._decode_keyfields(found) == wanted:
                return int(found[0])
        raise InvalidExperimentError(f"there is no experiment with {wanted}")

    @retried
    def keyfields_of(self, experiment_id: int) -> dict[str, Any]:
        """Return an experiment's keyfields.

        Raises
        ------
        InvalidExperimentError
            If the experiment does not exist.
        """
        with self.database.query() as cursor:
            row = self._row(cursor, experiment_id)
        if row is None:
            raise self._unknown(experiment_id)
        return self._decode_keyfields(row)

    @retried
    def attach(self, experiment_id: int, worker: WorkerInfo) -> tuple[Attempt, bool]:
        """Return the open attempt of an experiment, or open one to write to a row that is not being executed.

        Returns
        -------
        attempt : Attempt
            The attempt to write with.
        opened : bool
            Whether it was opened here, so that `detach` has to close it.

        Raises
        ------
        InvalidExperimentError
            If the experiment does not exist.
        """
        with self.database.transaction() as cursor:
            status = cursor.one(self._sql.claim.lock_status, experiment_id=experiment_id)
            if status is None:
                raise self._unknown(experiment_id)
            current = cursor.one(self._sql.claim.current_attempt, experiment_id=experiment_id)
            if current is not None:
                attempt = Attempt(current[0], experiment_id, status[0], current[1])
                return attempt, self._worker_of(cursor, attempt) == worker.identity  # ours if only the answer was lost
            # No heartbeat renews it, so it has no lease.
            insert, token = self._new_attempt(experiment_id, worker, True, lease=None)
            (inserted,) = cursor.run_together(insert)
            return Attempt(self._inserted(inserted), experiment_id, status[0], token), True

    @retried
    def detach(self, attempt: Attempt) -> None:
        """Close an attempt opened by `attach`, if it is still open; the row stays as it is."""
        with self.database.transaction() as cursor:
            cursor.run_together(self._finishing(attempt, "attached"))

    @retried
    def release(
        self,
        attempt: Attempt,
        usage: Usage = NOT_MEASURED,
        output: str | None = None,
        cause: str | None = None,
    ) -> None:
        """Open the attempt's row again, as if it had never been claimed. The attempt is kept, with the cause.

        Raises
        ------
        ClaimLostError
            If the attempt no longer holds its row.
        """
        with self.database.transaction() as cursor:
            ended = cursor.run_together(
                self._giving_back(attempt), self._finishing(attempt, "released", cause, usage, output)
            )
            self._was_repeated(cursor, attempt, ended, "released")

    def release_worker(self, identity: str, cause: str | None = None) -> list[int]:
        """Release what the worker, or all workers of the session, of this identity hold; return the IDs."""
        released = []
        for attempt in self.held_by(identity):
            with suppress(ClaimLostError):
                self.release(attempt, cause=cause)
                released.append(attempt.experiment_id)
        return released

    @retried
    def held_by(self, identity: str) -> list[Attempt]:
        """Return the attempts that the worker, or all workers of the session, of this identity hold."""
        with self.database.query() as cursor:
            return self._held_by(cursor, identity)

    @retried
    def worker_of(self, attempt: Attempt) -> str | None:
        """Return the identity of an attempt's worker; None if there is no such attempt."""
        with self.database.query() as cursor:
            return self._worker_of(cursor, attempt)

    def _worker_of(self, cursor: Cursor, attempt: Attempt) -> str | None:
        row = cursor.one(self._sql.claim.worker_of, **attempt.named)
        return None if row is None else str(row[0])

    # Leases

    @retried
    def beat(self, attempts: Sequence[Attempt]) -> set[Attempt]:
        """Renew the leases of attempts; return those that have lost their rows, and have not ended."""
        ids, tokens = [attempt.id for attempt in attempts], [attempt.token for attempt in attempts]
        with self.database.transaction() as cursor:
            if cursor.run(self._sql.lease.beat, attempts=ids, tokens=tokens, lease=self._lease) == len(attempts):
                return set()
            holding = set(cursor.all(self._sql.lease.holding, attempts=ids))
        return {attempt for attempt in attempts if (attempt.id, attempt.token) not in holding}

    @retried
    def silent(self) -> list[Silent]:
        """Return the open attempts whose lease has run out."""
        with self.database.query() as cursor:
            return [Silent(Attempt(*row[:4]), *row[4:]) for row in cursor.all(self._sql.lease.expired)]

    @retried
    def unheld(self) -> list[Unheld]:
        """Return the experiments that are running although all their attempts have ended."""
        with self.database.query() as cursor:
            return self._unheld(cursor)

    def _unheld(self, cursor: Cursor, condition: str = "1 = 1", **parameters: Any) -> list[Unheld]:
        return [Unheld(*row) for row in cursor.all(self._sql.lease.unheld.format(condition=condition), **parameters)]

    @retried
    def open_unheld(self, unheld: Unheld) -> bool:
        """Open an experiment again that is still running without an open attempt; return whether it was."""
        experiment_id = unheld.experiment_id
        with self.database.transaction() as cursor:
            cursor.one(self._sql.claim.lock_status, experiment_id=experiment_id)
            if self._unheld(cursor, "t.ID = :experiment_id", experiment_id=experiment_id) != [unheld]:
                return False
            cursor.run(self._sql.write.reset_rows, experiments=[experiment_id])
        return True

    @retried
    def unfinished(self, selection: Selection) -> Unfinished:
        """Count what a worker may claim now or later."""
        with self.database.query() as cursor:
            statement = self._sql.lease.unfinished.format(condition=selection.condition.sql)
            [counts] = cursor.all(statement, **selection.condition.parameters)
            return Unfinished(*map(int, counts))

    @retried
    def reap(self, silent: Silent, max_lost: int, cause: str | None = None) -> bool:
        """End an attempt that is still silent, and open its row again; after too many losses, it is an error.

        If the row is no longer running, because its status was set by SQL, only the attempt ends.

        Parameters
        ----------
        silent : Silent
            The attempt, with its last heartbeat.
        max_lost : int
            How many losses make it an error.
        cause : str, optional
            What is known about the reason.

        Returns
        -------
        bool
            Whether the row was taken.
        """
        attempt, heartbeat, _ = silent
        known = f"; {cause}" if cause else ""
        with self.database.transaction() as cursor:
            (status,) = cursor.one(self._sql.lease.lock_silent, **attempt.named, heartbeat=heartbeat) or (None,)
            if status is None:
                return False
            if status != "running":
                ended = f"the status of its experiment was set to {status} by SQL"
                cursor.run_together(self._finishing(attempt, "superseded", ended, concludes=status != "created"))
                return False
            losses = self._setbacks(cursor, attempt.experiment_id, "lost") + 1
            last_heartbeat = f"the last heartbeat of its worker was at {heartbeat} UTC{known}"
            error = f"lost {losses} times: its workers died or could not reach the database; see its attempts{known}"
            too_many = losses >= max_lost
            cursor.run_together(
                self._finishing_row(attempt, "error", error) if too_many else self._giving_back(attempt),
                self._finishing(attempt, "lost", last_heartbeat, concludes=too_many),
            )
        return True

    # Helpers

    def _giving_back(self, attempt: Attempt) -> Statement:
        return self._sql.write.give_back_row, attempt.named

    def _finishing_row(
        self,
        attempt: Attempt,
        status: str,
        error: str | None,
        assignments: str = "",
        values: Mapping[str, Any] | None = None,
    ) -> Statement:
        statement = self._sql.write.finish_row.format(assignments=assignments and f"{assignments}, ")
        return statement, {**attempt.named, "status": status, "error": error, **(values or {})}

    def _finishing(
        self,
        attempt: Attempt,
        outcome: str,
        error: str | None = None,
        usage: Usage = NOT_MEASURED,
        output: str | None = None,
        concludes: bool = False,
    ) -> Statement:
        """End an attempt. If it concludes, the counts of retries and losses start again."""
        own = {"outcome": outcome, "concludes": concludes, "error": error, "output": output}
        return self._sql.write.finish_attempt, {**attempt.named, **own, **vars(usage)}

    def _close_attempts(
        self, cursor: Cursor, experiments: Sequence[int], outcome: str, cause: str | None, concludes: bool = False
    ) -> None:
        """End the open attempts of locked rows."""
        cursor.run_together(self._closing(experiments, outcome, cause, concludes))

    def _closing(
        self, experiments: Sequence[int], outcome: str, cause: str | None, concludes: bool = False
    ) -> Statement:
        parameters = {"experiments": list(experiments), "outcome": outcome, "cause": cause, "concludes": concludes}
        return self._sql.claim.close_attempts, parameters

    def _was_repeated(self, cursor: Cursor, attempt: Attempt, ended: Sequence[Result], *outcomes: str) -> bool:
        """Return False if row and attempt were ended, and True if they were before, and only the answer was lost.

        Raises
        ------
        ClaimLostError
            If only one could be ended, or the attempt had another outcome: it has lost its row.
        """
        changed = [result.changed for result in ended]
        if all(changed):
            return False
        if any(changed) or cursor.one(self._sql.write.outcome, **attempt.named) not in [(one,) for one in outcomes]:
            raise self._lost(attempt)
        return True

    def _setbacks(self, cursor: Cursor, experiment_id: int, outcome: str) -> int:
        """Count the attempts with this outcome since the experiment last finished or was reset."""
        [(count,)] = cursor.all(self._sql.lease.setbacks, experiment_id=experiment_id, outcome=outcome)
        return int(count)

    def _fence(self, cursor: Cursor, attempt: Attempt, *more: Statement) -> tuple[str, list[Result]]:
        """Raise unless the attempt holds its row.

        Returns
        -------
        replayed : str
            The tokens of its results that came from journals.
        results : list of Result
            Those of `more` statements.
        """
        fence, *results = cursor.run_together(
            (self._sql.write.fence, {**attempt.named, "status": attempt.row_status}), *more
        )
        if fence.first is None:
            raise self._lost(attempt)
        return fence.first[0] or "", results

    def _unknown(self, experiment_id: int) -> InvalidExperimentError:
        return InvalidExperimentError(f"the table {self.schema.table} has no experiment with ID {experiment_id}")

    def _lost(self, attempt: Attempt) -> ClaimLostError:
        return ClaimLostError(
            f"attempt {attempt.id} no longer holds experiment {attempt.experiment_id}: "
            "it was reset, taken over or deleted; nothing was written to the row"
        )

    def _now(self, cursor: Cursor) -> str:
        [(now,)] = cursor.all(self._sql.read.now)
        return str(now)
