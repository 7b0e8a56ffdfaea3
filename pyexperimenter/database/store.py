"""What is done to experiments in the database: fill, claim, write, finish, reset, read."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from pyexperimenter.config.model import ExperimentConfig
from pyexperimenter.database.connection import Cursor, retried
from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.database.records import NOT_MEASURED, Attempt, Experiment, FillCount, Usage, WorkerInfo
from pyexperimenter.database.schema import CODECARBON_COLUMNS, SCHEMA_VERSION
from pyexperimenter.database.selection import Condition, OrderBy, Selection, Selector, Where
from pyexperimenter.database.statements import PROBES
from pyexperimenter.database.tables import Tables
from pyexperimenter.database.values import Encoder, decode, encode_all
from pyexperimenter.exceptions import (
    ClaimLostError,
    EmptyFillDatabaseCallError,
    ExperimentExistsError,
    InvalidExperimentError,
    InvalidLogFieldError,
    InvalidLogtableError,
    InvalidResultFieldError,
    InvalidRowError,
    InvalidValueError,
    NoPausedExperimentsException,
    PyExperimenterError,
    TransientDatabaseError,
    UndecodableValueError,
)
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.fieldtypes import FieldType, to_json

_CHUNK = 10_000  # rows of one transaction of a fill


class _RaceLost(PyExperimenterError):
    """Somebody else took the row between two statements."""


class _NothingAdded(PyExperimenterError):
    """All rows of a chunk exist."""


class ExperimentStore(ExperimentReader):
    """The experiments of one configuration in their database.

    Parameters
    ----------
    config : ExperimentConfig
        What they are and where.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config)
        self.tables = Tables(self.database, self.schema)
        self._config_text = config.text
        self._selector = Selector(self.schema)
        self._keyfield_encoders = self._encoders(self.schema.keyfields)
        self._result_encoders = self._encoders(self.schema.resultfields)
        self._log_encoders = {name: self._encoders(fields) for name, fields in self.schema.logfields.items()}
        self._codecarbon_encoders = self._encoders(CODECARBON_COLUMNS)

    # Filling

    def encode_row(self, row: Mapping[str, Any], place: str) -> tuple[Any, ...]:
        """Turn a row's keyfields into column values; those left out are NULL.

        Raises
        ------
        InvalidRowError
            If a keyfield is not known or a value does not fit, naming `place` and field.
        """
        for name in row:
            if name not in self._keyfield_encoders:
                raise InvalidRowError(
                    f"{place}: {name!r} is no keyfield; keyfields are {', '.join(self.schema.keyfields)}"
                )
        if not row:
            raise InvalidRowError(f"{place}: it has no keyfields")
        try:
            return tuple(encode(row.get(name)) for name, encode in self._keyfield_encoders.items())
        except InvalidValueError as error:
            raise InvalidRowError(f"{place}: {error}") from error

    @property
    def keyfield_encoders(self) -> Mapping[str, Callable[[Any], Any]]:
        """What turns each keyfield's value into its column value."""
        return self._keyfield_encoders

    def fill(self, rows: Iterable[tuple[Any, ...]], progress: Callable[[int], object] = lambda _: None) -> FillCount:
        """Insert rows of encoded keyfields, in chunks; those that exist are skipped.

        Parameters
        ----------
        rows : iterable of tuples
            Column values in the order of the keyfields; taken as they come, never all at once.
        progress : callable
            Told the number of rows done after each chunk.

        Raises
        ------
        EmptyFillDatabaseCallError
            If there are no rows.
        """
        added = seen = 0
        iterator = iter(rows)
        while chunk := list(islice(iterator, _CHUNK)):
            added += self._fill_chunk(chunk)
            seen += len(chunk)
            progress(len(chunk))
        if not seen:
            raise EmptyFillDatabaseCallError("there are no rows to fill in; give at least one")
        return FillCount(added, seen - added)

    @retried
    def _fill_chunk(self, chunk: Sequence[tuple[Any, ...]]) -> int:
        added = 0
        with suppress(_NothingAdded), self.database.transaction(create=True) as cursor:
            created = (self._now(cursor), ExperimentStatus.CREATED.value)
            added = cursor.run_many(self._sql.fill, [row + created for row in chunk])
            if not added:
                raise _NothingAdded  # rolled back, so that SQLite spends no IDs on rows that exist
        return added

    @retried
    def keep_config(self, library: str) -> None:
        """Record the configuration's text, if it is not the one recorded last."""
        with self.database.transaction() as cursor:
            if cursor.one(self._sql.last_config) != (self._config_text,):
                cursor.run(self._sql.keep_config, [SCHEMA_VERSION, library, self._config_text])

    # Claiming

    def selection(self, where: Where = None, order_by: OrderBy = None, random_order: bool = False) -> Selection:
        """Translate what a worker may claim.

        Raises
        ------
        InvalidColumnError
            If a column is named that the table does not have.
        """
        return self._selector.selection(where, order_by, random_order)

    @retried
    def claim(self, worker: WorkerInfo, selection: Selection = Selection()) -> Experiment | None:  # noqa: B008 - frozen
        """Take an open experiment for this worker; None when there is none left."""
        while True:
            try:
                with self.database.transaction() as cursor:
                    row = self._first_open(cursor, selection)
                    if row is not None:
                        experiment = self._take(cursor, row, ExperimentStatus.CREATED, worker)
                        if experiment is not None:
                            return experiment
                        continue
            except _RaceLost:
                continue
            except TransientDatabaseError:
                # If it is the answer to the commit that was lost, a row was taken: a worker that claims holds no other.
                self.release_worker(worker.identity)
                raise
            # Rows locked by others were passed over: only a count without locks may end a worker.
            if not self.count(Condition("status = 'created'") & selection.condition):
                return None
            time.sleep(0.01 * random.random())

    def _first_open(self, cursor: Cursor, selection: Selection) -> tuple[Any, ...] | None:
        """Return ID and keyfields of an open row, locked where the database locks rows."""
        if not (selection.order or selection.random):
            return cursor.one(self._sql.first_open.format(selection.condition.sql), selection.condition.parameters)
        for candidate in self._candidates(cursor, selection):
            row = cursor.one(self._sql.lock_row, [candidate, ExperimentStatus.CREATED.value])
            if row is not None:
                return row
        return None

    def _candidates(self, cursor: Cursor, selection: Selection) -> list[int]:
        """Return IDs of open rows in the order wanted, read without locks."""
        sql, parameters = selection.condition.sql, selection.condition.parameters

        def ids(statement: str, *more: int) -> list[int]:
            return [found for (found,) in cursor.all(statement, [*parameters, *more])]

        if selection.order:
            return ids(self._sql.candidates.format(sql, f"{selection.order}, "))
        low, high = cursor.one(self._sql.open_range.format(sql, sql), parameters * 2) or (None, None)
        if low is None:
            return []
        # As long as many rows are open, some of a few random IDs are; when few are, it is cheap to read them.
        drawn = [random.randint(low, high) for _ in range(PROBES)]
        found = ids(self._sql.candidates_among.format(sql), *drawn)
        random.shuffle(found)
        return (
            found or ids(self._sql.candidates_from.format(sql), drawn[0]) or ids(self._sql.candidates.format(sql, ""))
        )

    def _take(
        self, cursor: Cursor, row: tuple[Any, ...], status: ExperimentStatus, worker: WorkerInfo
    ) -> Experiment | None:
        """Make a row this worker's; None if its keyfields cannot be read, which is noted in the row."""
        experiment_id = row[0]
        try:
            keyfields = self._decode_keyfields(row)
        except UndecodableValueError as error:
            cursor.run(self._sql.mark_unreadable, [str(error), experiment_id])
            return None
        resumed = status is ExperimentStatus.PAUSED
        statement = self._sql.resume if resumed else self._sql.claim
        # Repeating the status makes a second claim impossible, with or without row locks.
        if cursor.run(statement, [worker.name, worker.machine, experiment_id, status.value]) != 1:
            raise _RaceLost(f"experiment {experiment_id} was taken by somebody else")
        return Experiment(experiment_id, keyfields, self._open_attempt(cursor, experiment_id, worker, resumed))

    def _open_attempt(
        self, cursor: Cursor, experiment_id: int, worker: WorkerInfo, continues: bool, row_status: str = "running"
    ) -> Attempt:
        number, run, still_open = cursor.one(self._sql.last_attempt, [experiment_id]) or (0, 1, 0)
        if still_open and row_status == "running":
            cursor.run(self._sql.close_attempts, ["superseded", experiment_id])
        cursor.run(
            self._sql.open_attempt,
            [
                experiment_id,
                number + 1,
                run if continues else number + 1,
                worker.identity,
                worker.machine,
                worker.pid,
                worker.job_id,
                worker.git_commit,
                worker.git_dirty if worker.git_dirty is None else int(worker.git_dirty),
                worker.python,
                worker.library,
            ],
        )
        return Attempt(cursor.last_id, experiment_id, row_status)

    def _decode_keyfields(self, row: tuple[Any, ...]) -> dict[str, Any]:
        named = zip(self.schema.keyfields.items(), row[1:], strict=True)
        return {name: decode(name, kind, value) for (name, kind), value in named}

    @retried
    def resume(self, experiment_id: int, worker: WorkerInfo) -> Experiment:
        """Take a paused experiment.

        Raises
        ------
        NoPausedExperimentsException
            If it is not paused.
        """
        with self.database.transaction() as cursor:
            row = cursor.one(self._sql.await_row, [experiment_id, ExperimentStatus.PAUSED.value])
            experiment = row and self._take(cursor, row, ExperimentStatus.PAUSED, worker)
            if not experiment:
                status = cursor.one(self._sql.status_of, [experiment_id])
                raise NoPausedExperimentsException(
                    f"there is no paused experiment with ID {experiment_id}: "
                    + (f"its status is {status[0]}" if status else "the table has no such ID")
                )
            return experiment

    @retried
    def add_and_claim(self, row: tuple[Any, ...], worker: WorkerInfo) -> Experiment:
        """Insert a row of encoded keyfields if it is missing, and take it, in one transaction.

        Raises
        ------
        ExperimentExistsError
            If it was there and is not open.
        """
        with self.database.transaction(create=True) as cursor:
            cursor.run(self._sql.fill, [*row, self._now(cursor), ExperimentStatus.CREATED.value])
            experiment_id = self._find(cursor, row)
            open_row = cursor.one(self._sql.await_row, [experiment_id, ExperimentStatus.CREATED.value])
            experiment = open_row and self._take(cursor, open_row, ExperimentStatus.CREATED, worker)
            if not experiment:
                (status,) = cursor.one(self._sql.status_of, [experiment_id]) or (None,)
                raise ExperimentExistsError(
                    f"the experiment exists with ID {experiment_id} and is {status}; "
                    f"reset it to run it again: reset_experiments(ids=[{experiment_id}])"
                )
            return experiment

    def _find(self, cursor: Cursor, row: tuple[Any, ...]) -> int:
        """Return the ID of the row with these encoded keyfields."""
        wanted = self._decode_keyfields((None, *row))
        condition = Condition()
        for (name, kind), value in zip(self.schema.keyfields.items(), row, strict=True):
            if value is None:
                condition &= Condition(f"{self.schema.q(name)} IS NULL")
            elif kind.name != "JSON":  # a native JSON column does not equal its text
                condition &= Condition(f"{self.schema.q(name)} = ?", (value,))
        # Collations may find too many; what is equal is decided here.
        for found in cursor.all(self._sql.find.format(condition.sql), condition.parameters):
            if self._decode_keyfields(found) == wanted:
                return int(found[0])
        raise InvalidExperimentError(f"there is no experiment with {wanted}")

    @retried
    def attach(self, experiment_id: int, worker: WorkerInfo) -> tuple[Attempt, bool]:
        """Return the open attempt of an experiment, or one opened for writing to a row that nobody executes.

        Returns
        -------
        attempt : Attempt
            What to write with.
        opened : bool
            Whether it was opened here and has to be closed by `detach`.

        Raises
        ------
        InvalidExperimentError
            If there is no such experiment.
        """
        with self.database.transaction() as cursor:
            status = cursor.one(self._sql.status_of, [experiment_id])
            if status is None:
                raise InvalidExperimentError(f"the table {self.schema.table} has no experiment with ID {experiment_id}")
            (current,) = cursor.one(self._sql.current_attempt, [experiment_id]) or (None,)
            if current is not None:
                return Attempt(current, experiment_id, status[0]), False
            return self._open_attempt(cursor, experiment_id, worker, continues=True, row_status=status[0]), True

    @retried
    def detach(self, attempt: Attempt) -> None:
        """Close an attempt opened by `attach`; the row stays as it is."""
        with self.database.transaction() as cursor:
            self._fence(cursor, attempt)
            cursor.run(self._sql.finish_attempt, ["attached", None, None, None, None, attempt.id])

    # Writing

    def write_results(self, attempt: Attempt, results: Mapping[str, Any]) -> None:
        """Write results into the attempt's row. Those that are fine are written even if others are not.

        Raises
        ------
        InvalidResultFieldError
            If a name is no resultfield.
        InvalidValueError
            If a value does not fit its field.
        ClaimLostError
            If the attempt does not hold its row any more; the values are kept with the attempt.
        """
        encoded = encode_all(results, self._result_encoders, self._no_resultfield)
        problem = encoded.problem
        if encoded.values:
            try:
                problem = self._write_row(attempt, encoded.values) or problem
            except ClaimLostError:
                self._keep_late(attempt, results)
                raise
        if problem is not None:
            raise problem

    @retried
    def _write_row(self, attempt: Attempt, values: Mapping[str, Any]) -> InvalidValueError | None:
        problem = None
        with self.database.transaction() as cursor:
            self._fence(cursor, attempt)
            try:
                self._update_row(cursor, attempt, values)
            except InvalidValueError:
                # The table's own column may be narrower than the configuration declares: keep what does fit.
                for name, value in values.items():
                    try:
                        self._update_row(cursor, attempt, {name: value})
                    except InvalidValueError as error:
                        problem = problem or InvalidValueError(f"{name}: {error}")
        return problem

    def _update_row(self, cursor: Cursor, attempt: Attempt, values: Mapping[str, Any]) -> None:
        assignments, parameters = self._assignments(cursor, values)
        cursor.run(self._sql.update_row.format(assignments), [*parameters, attempt.experiment_id])

    def _assignments(self, cursor: Cursor, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        columns, parameters = list(values), list(values.values())
        if self.schema.result_timestamps and values:
            columns += [f"{name}_timestamp" for name in values]
            parameters += [self._now(cursor)] * len(values)
        return ", ".join(f"{self.schema.q(name)} = ?" for name in columns), parameters

    @retried
    def write_logs(self, attempt: Attempt, logs: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> None:
        """Append rows to logtables, one statement a logtable, all in one transaction.

        Parameters
        ----------
        attempt : Attempt
            Whose logs they are.
        logs : Mapping of str to mapping or sequence of mappings
            Logtable -> column -> value; a sequence makes a row of each item. Not changed.

        Raises
        ------
        InvalidLogtableError, InvalidLogFieldError, InvalidValueError
            If a logtable or column is not known, or a value does not fit. Nothing is written then.
        ClaimLostError
            If the attempt does not hold its row any more.
        """
        encoded = {name: self._encode_logs(name, rows) for name, rows in logs.items()}
        with self.database.transaction() as cursor:
            self._fence(cursor, attempt)
            now = self._now(cursor)
            for name, (columns, rows) in encoded.items():
                self._insert_side(
                    cursor,
                    self.schema.logtables[name],
                    ["timestamp", "experiment_id", "attempt_id", *columns],
                    [(now, attempt.experiment_id, attempt.id, *row) for row in rows],
                )

    def _encode_logs(
        self, name: str, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        encoders = self._log_encoders.get(name)
        if encoders is None:
            known = ", ".join(self._log_encoders) or "none"
            raise InvalidLogtableError(f"{name!r} is no logtable; logtables are {known}")

        def unknown(column: str) -> PyExperimenterError:
            return InvalidLogFieldError(f"logtable {name} has no column {column!r}; it has {', '.join(encoders)}")

        encoded = [encode_all(row, encoders, unknown) for row in ([rows] if isinstance(rows, Mapping) else rows)]
        for row in encoded:
            if row.problem is not None:
                raise row.problem
        columns = list(dict.fromkeys(column for row in encoded for column in row.values))
        return columns, [tuple(row.values.get(column) for column in columns) for row in encoded]

    @retried
    def write_emissions(self, experiment_id: int, emissions: Mapping[str, Any]) -> None:
        """Append a row of CodeCarbon's measurements; those it has no column for are left out."""
        known = {name: value for name, value in emissions.items() if name in self._codecarbon_encoders}
        encoded = encode_all(known, self._codecarbon_encoders, InvalidLogFieldError)
        with self.database.transaction() as cursor:
            row = (experiment_id, *encoded.values.values())
            self._insert_side(cursor, self.schema.codecarbon, ["experiment_id", *encoded.values], [row])

    def _insert_side(self, cursor: Cursor, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        names = ", ".join(self.schema.q(name) for name in columns)
        marks = ", ".join("?" * len(columns))
        cursor.run_many(self._sql.insert_side.format(self.schema.q(table), names, marks), rows)

    # Finishing

    def finish(
        self,
        attempt: Attempt,
        outcome: ExperimentStatus,
        error: str | None = None,
        usage: Usage = NOT_MEASURED,
        results: Mapping[str, Any] | None = None,
    ) -> None:
        """End an attempt and give its row the outcome, and the last results, in one transaction.

        To say the same twice is fine, as after a commit whose answer was lost.

        Raises
        ------
        InvalidResultFieldError, InvalidValueError
            If a result is wrong; then nothing is ended, but the other results are written.
        ClaimLostError
            If the attempt does not hold its row any more; the results are kept with the attempt.
        """
        encoded = encode_all(results or {}, self._result_encoders, self._no_resultfield)
        if encoded.problem is not None:
            self.write_results(attempt, results or {})
        try:
            self._finish(attempt, outcome, error, usage, encoded.values)
        except ClaimLostError:
            self._keep_late(attempt, results or {})
            raise
        except InvalidValueError:
            self.write_results(attempt, results or {})  # writes what does fit, and raises, naming what does not
            raise  # it was the error's text

    @retried
    def _finish(
        self, attempt: Attempt, outcome: ExperimentStatus, error: str | None, usage: Usage, results: Mapping[str, Any]
    ) -> None:
        measured = [usage.wall_seconds, usage.cpu_seconds, usage.max_rss_bytes]
        with self.database.transaction() as cursor:
            # Both statements are fences of their own: each changes what it asks for.
            held = cursor.run(self._sql.finish_attempt, [outcome.value, error, *measured, attempt.id])
            if not held and cursor.one(self._sql.outcome, [attempt.id]) == (outcome.value,):
                return  # only its holder gives an attempt such an outcome: it was this one, a moment ago
            assignments, parameters = self._assignments(cursor, results)
            statement = self._sql.finish_row.format(f"{assignments}, " if assignments else "")
            held &= cursor.run(statement, [*parameters, outcome.value, error, attempt.experiment_id])
            if not held:
                raise self._lost(attempt)

    @retried
    def release(self, attempt: Attempt, usage: Usage = NOT_MEASURED) -> None:
        """Give the attempt's row back: it is open again, as if never claimed; the attempt stays on record.

        Raises
        ------
        ClaimLostError
            If the attempt does not hold its row any more.
        """
        with self.database.transaction() as cursor:
            self._fence(cursor, attempt)
            cursor.run(self._sql.reset_rows.format("ID = ?"), [attempt.experiment_id])
            measured = [usage.wall_seconds, usage.cpu_seconds, usage.max_rss_bytes]
            cursor.run(self._sql.finish_attempt, ["released", None, *measured, attempt.id])

    @retried
    def release_worker(self, identity: str) -> list[int]:
        """Release all that workers of this identity (or whose identity begins with it) still hold; return the IDs."""
        with self.database.query() as cursor:
            held = [Attempt(*row) for row in cursor.all(self._sql.held_by, [f"{identity}%"])]
        released = []
        for attempt in held:
            with suppress(ClaimLostError):
                self.release(attempt)
                released.append(attempt.experiment_id)
        return released

    def _fence(self, cursor: Cursor, attempt: Attempt) -> None:
        """Let only the attempt that holds its row go on to write."""
        if cursor.one(self._sql.fence, [attempt.id, attempt.row_status]) is None:
            raise self._lost(attempt)

    def _lost(self, attempt: Attempt) -> ClaimLostError:
        return ClaimLostError(
            f"attempt {attempt.id} does not hold experiment {attempt.experiment_id} any more: "
            "it was reset, taken over or deleted meanwhile; nothing was written to the row"
        )

    @retried
    def _keep_late(self, attempt: Attempt, results: Mapping[str, Any]) -> None:
        with self.database.transaction() as cursor:
            (kept,) = cursor.one(self._sql.late_results, [attempt.id]) or (None,)
            try:
                merged = to_json({**json.loads(kept or "{}"), **results})
            except InvalidValueError:
                merged = to_json({name: repr(value) for name, value in results.items()})
            cursor.run(self._sql.keep_late_results, [merged, attempt.id])

    # Resetting

    @retried
    def reset(self, states: Sequence[str], where: Where, ids: Sequence[int] | None, dry_run: bool) -> int:
        """Open experiments again, with the same IDs, in one transaction.

        Returns
        -------
        int
            How many were (or, with `dry_run`, would be) opened.
        """
        condition = self._selector.rows(states, where, ids) & Condition("status <> 'created'")
        if dry_run:
            return self.count(condition)
        with self.database.transaction() as cursor:
            cursor.run(self._sql.reset_attempts.format(condition.sql), condition.parameters)
            return cursor.run(self._sql.reset_rows.format(condition.sql), condition.parameters)

    # Helpers

    def _encoders(self, fields: Mapping[str, FieldType]) -> dict[str, Encoder]:
        keeps_infinity = self.database.dialect.keeps_infinity
        return {name: Encoder(name, kind, keeps_infinity) for name, kind in fields.items()}

    def _no_resultfield(self, name: str) -> PyExperimenterError:
        known = ", ".join(self.schema.resultfields) or "none"
        return InvalidResultFieldError(f"{name!r} is no resultfield; resultfields are {known}")

    def _now(self, cursor: Cursor) -> str:
        (now,) = cursor.one(self._sql.now) or (None,)
        return str(now)
